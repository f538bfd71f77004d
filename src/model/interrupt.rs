//! How a model is asked to leave the chunk that it is making.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Error, Result};

/// Asks the worlds that watch it to leave the chunk they are making; clones are the same one. A large model takes a minute
/// a chunk, of which the player may want nothing any more.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// Interrupts until [`Interrupt::lower`] was called as often.
    pub fn raise(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes one [`Interrupt::raise`] back.
    pub fn lower(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }

    /// What a model asks before every pass through its network.
    ///
    /// # Errors
    /// [`Error::Interrupted`] while it is raised.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Acquire) == 0 { Ok(()) } else { Err(Error::Interrupted) }
    }
}
