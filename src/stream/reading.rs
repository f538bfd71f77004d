//! What the model's code reads from disk on the model thread, told while one waits for it.

use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::{Event, Wake};
use crate::checkpoint::{Progress, watch};

/// What takes no longer is not told.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is told how far it is.
const PERIOD: Duration = Duration::from_millis(100);

/// Tells how far it is, and when it ends that nothing is read any more.
pub(super) struct Reading {
    events: Sender<(u64, Event)>,
    wake: Option<Wake>,
    obeyed: u64,
    began: Instant,
    told: Option<Instant>,
}

impl Reading {
    pub fn new(events: Sender<(u64, Event)>, wake: Option<Wake>, obeyed: u64) -> Self {
        Self { events, wake, obeyed, began: Instant::now(), told: None }
    }

    /// Does `work` on this thread, and tells what it reads.
    pub fn of<T>(mut self, work: impl FnOnce() -> T) -> T {
        watch(move |progress| self.tell(progress), work)
    }

    fn tell(&mut self, progress: Progress) {
        if self.began.elapsed() > PATIENCE && self.told.is_none_or(|told| told.elapsed() > PERIOD) {
            self.told = Some(Instant::now());
            self.send(Some(progress));
        }
    }

    fn send(&self, progress: Option<Progress>) {
        self.events.try_send((self.obeyed, Event::Reading(progress))).ok();
        if let Some(wake) = &self.wake {
            wake();
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if self.told.is_some() {
            self.send(None);
        }
    }
}
