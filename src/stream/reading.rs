//! What the model's code reads from disk on the model thread, told while one waits for it.

use std::time::{Duration, Instant};

use super::Event;
use super::worker::Teller;
use crate::checkpoint::{Progress, watch};

/// What takes no longer is not told.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is told how far it is.
const PERIOD: Duration = Duration::from_millis(100);

/// Tells how far it is, and when it ends that nothing is read any more.
pub(super) struct Reading {
    teller: Teller,
    began: Instant,
    told: Option<Instant>,
}

impl Reading {
    pub fn new(teller: Teller) -> Self {
        Self { teller, began: Instant::now(), told: None }
    }

    /// Does `work` on this thread, and tells what it reads.
    pub fn of<T>(mut self, work: impl FnOnce() -> T) -> T {
        watch(move |progress| self.tell(progress), work)
    }

    fn tell(&mut self, progress: Progress) {
        if self.began.elapsed() > PATIENCE && self.told.is_none_or(|told| told.elapsed() > PERIOD) {
            self.told = Some(Instant::now());
            self.teller.tell(Event::Reading(Some(progress)));
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if self.told.is_some() {
            self.teller.tell(Event::Reading(None));
        }
    }
}
