//! When to make a chunk and when to show it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

/// Steps that are remembered for the estimate of how long the next one takes.
const REMEMBERED: usize = 16;

/// How many of these may be slower than what is planned for: on a busy machine the controls would else be old all the time
/// because of one step in sixteen.
const OUTLIERS: usize = 1;

/// How much of a slow step is kept in reserve, so that a slower one makes no pause on the screen.
const RESERVE: f64 = 0.3;

/// The playout clock of one world: chunks follow each other at the model's frame rate, and each is begun as late
/// as its making allows.
#[derive(Debug)]
pub(super) struct Pace {
    chunk_time: Duration,
    /// When the frames made so far run out.
    horizon: Option<Instant>,
    steps: VecDeque<Duration>,
}

impl Pace {
    /// A clock for chunks of `frames` frames at `fps`.
    pub fn new(frames: usize, fps: f32) -> Self {
        Self {
            chunk_time: Duration::from_secs_f64(frames as f64 / f64::from(fps)),
            horizon: None,
            steps: VecDeque::new(),
        }
    }

    /// When to begin the next chunk; `None` is at once.
    pub fn begin_at(&self) -> Option<Instant> {
        let mut steps: SmallVec<[Duration; REMEMBERED]> = self.steps.iter().copied().collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        let outliers = if steps.len() == REMEMBERED { OUTLIERS } else { 0 };
        // A model whose step takes longer than a chunk lasts is late in any case: a longer lead only makes the controls older.
        let slow = (*steps.get(outliers)?).min(self.chunk_time);
        self.horizon?.checked_sub(slow.mul_f64(1.0 + RESERVE))
    }

    /// Notes a chunk that is ready at `now`. Returns when its first frame is due: after the chunk before it, or now when
    /// that has run out. `step` is how long it took, if the next will take as long: a world's first chunk takes longer.
    pub fn ready(&mut self, step: Option<Duration>, now: Instant) -> Instant {
        if self.steps.len() == REMEMBERED {
            self.steps.pop_front();
        }
        self.steps.extend(step);
        let due = self.horizon.map_or(now, |horizon| horizon.max(now));
        self.horizon = Some(due + self.chunk_time);
        due
    }

    /// The next chunk is due as soon as it is ready.
    pub fn restart(&mut self) {
        self.horizon = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_fast_model_begins_just_in_time() {
        let start = Instant::now();
        let mut pace = Pace::new(2, 20.0);
        assert_eq!(pace.begin_at(), None, "the first chunk is made at once");
        assert_eq!(pace.ready(Some(50 * MS), start), start);
        assert_eq!(pace.begin_at(), Some(start + 35 * MS), "65 ms before the 100 ms run out");
        assert_eq!(pace.ready(Some(50 * MS), start + 85 * MS), start + 100 * MS);
        assert_eq!(pace.ready(Some(50 * MS), start + 185 * MS), start + 200 * MS, "chunks follow without a gap");
    }

    #[test]
    fn a_first_chunk_tells_nothing_about_the_next() {
        let start = Instant::now();
        let mut pace = Pace::new(2, 20.0);
        assert_eq!(pace.ready(None, start), start);
        assert_eq!(pace.begin_at(), None, "how long the second takes is not known yet");
        assert_eq!(pace.ready(Some(50 * MS), start + 50 * MS), start + 100 * MS);
        assert_eq!(pace.begin_at(), Some(start + 135 * MS));
    }

    #[test]
    fn one_slow_step_in_sixteen_is_not_planned_for() {
        let start = Instant::now();
        let lead = |slow: usize| {
            let mut pace = Pace::new(2, 20.0);
            (0..REMEMBERED).for_each(|i| _ = pace.ready(Some(if i < slow { 90 * MS } else { 50 * MS }), start));
            pace.horizon.unwrap() - pace.begin_at().unwrap()
        };
        assert_eq!([lead(0), lead(1), lead(2)], [65 * MS, 65 * MS, 117 * MS]);
    }

    #[test]
    fn the_controls_are_never_older_than_a_chunk_and_the_reserve() {
        let start = Instant::now();
        let mut pace = Pace::new(2, 20.0);
        pace.ready(Some(500 * MS), start);
        assert_eq!(pace.begin_at(), Some(start + 100 * MS - 130 * MS));
    }

    #[test]
    fn a_slow_model_shows_at_once_and_does_not_run_after_lost_time() {
        let start = Instant::now();
        let mut pace = Pace::new(2, 20.0);
        pace.ready(Some(300 * MS), start);
        assert!(pace.begin_at().unwrap() <= start);
        assert_eq!(pace.ready(Some(300 * MS), start + 300 * MS), start + 300 * MS);
        assert_eq!(pace.ready(Some(10 * MS), start + 310 * MS), start + 400 * MS);
    }

    #[test]
    fn a_restart_forgets_what_was_to_be_shown() {
        let start = Instant::now();
        let mut pace = Pace::new(2, 20.0);
        pace.ready(Some(10 * MS), start);
        pace.restart();
        assert_eq!(pace.begin_at(), None);
        assert_eq!(pace.ready(Some(10 * MS), start + 10 * MS), start + 10 * MS);
    }
}
