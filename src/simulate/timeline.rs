//! The way back: a session that can be rewound and branched.
//!
//! Every chunk's controls, prompt, settings and last frame are kept for a while, and snapshots from which the world can
//! go on: one before each of the newest chunks, farther back one before every 64th. Snapshots share what they remember
//! in common, so neighbours are cheap (a megabyte a chunk of the default model) and keyframes are not (eight). From a
//! keyframe on, chunks are made again from what was recorded, to the same bits, since a session's future is a function
//! of its snapshot and its inputs.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::session::{Chunk, Session, Snapshot};
use crate::model::{Interrupt, Settings};
use crate::{Controls, Error, Frame, Result};

/// Old snapshots are kept before every so manieth chunk.
const KEYFRAME: u64 = 64;

/// How much of the past is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "bevy", derive(bevy::prelude::Reflect))]
pub struct TimelineOptions {
    /// Chunks that one can go back.
    pub chunks: usize,
    /// The newest chunks that one can go back without making any again.
    pub instant: usize,
    /// Futures that were left and can be gone back to; the oldest is forgotten for a new one.
    pub branches: usize,
}

impl Default for TimelineOptions {
    /// A minute, three seconds of it at once, in chunks of a tenth of a second; four branches.
    fn default() -> Self {
        Self { chunks: 600, instant: 30, branches: 4 }
    }
}

/// One chunk of the past.
#[derive(Clone)]
struct Moment {
    index: u64,
    /// The world before it, where one is kept.
    before: Option<Arc<Snapshot>>,
    controls: Arc<[Controls]>,
    prompt: Arc<str>,
    settings: Settings,
    /// Its last frame.
    frame: Arc<Frame>,
}

/// The chunks that lead to a world, from the oldest known on, and the world at their end.
struct Branch {
    moments: VecDeque<Moment>,
    end: Arc<Snapshot>,
}

/// A session with a past to go back to.
pub struct Timeline {
    session: Session,
    options: TimelineOptions,
    moments: VecDeque<Moment>,
    branches: VecDeque<Branch>,
}

impl Timeline {
    /// Keeps the past of `session` from now on.
    pub fn new(session: Session, options: TimelineOptions) -> Self {
        Self { session, options, moments: VecDeque::new(), branches: VecDeque::new() }
    }

    /// The session, to ask what it is.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// As [`Session::watch`].
    pub fn watch(&mut self, interrupt: Interrupt) {
        self.session.watch(interrupt);
    }

    /// As [`Session::step`].
    ///
    /// # Errors
    /// Those of [`Session::step`].
    pub fn step(&mut self, controls: &[Controls]) -> Result<Chunk> {
        let before = Some(Arc::new(self.session.snapshot()?));
        let chunk = self.session.step(controls)?;
        let last = self.moments.back().map(|last| Arc::clone(&last.prompt));
        let prompt = last.filter(|last| **last == *self.session.prompt());
        self.moments.push_back(Moment {
            index: chunk.index,
            before,
            controls: controls.into(),
            prompt: prompt.unwrap_or_else(|| self.session.prompt().into()),
            settings: self.session.settings(),
            frame: chunk.frames.last().cloned().unwrap_or_else(|| Frame::black(self.session.size())).into(),
        });
        self.forget();
        Ok(chunk)
    }

    /// As [`Session::commit`].
    ///
    /// # Errors
    /// Those of [`Session::commit`].
    pub fn commit(&mut self) -> Result<()> {
        self.session.commit()
    }

    /// As [`Session::set_prompt`].
    ///
    /// # Errors
    /// Those of [`Session::set_prompt`].
    pub fn set_prompt(&mut self, prompt: &str) -> Result<()> {
        self.session.set_prompt(prompt)
    }

    /// As [`Session::set_settings`].
    ///
    /// # Errors
    /// Those of [`Session::set_settings`].
    pub fn set_settings(&mut self, settings: Settings) -> Result<()> {
        self.session.set_settings(settings)
    }

    /// As [`Session::snapshot`].
    ///
    /// # Errors
    /// Those of [`Session::snapshot`].
    pub fn snapshot(&mut self) -> Result<Snapshot> {
        self.session.snapshot()
    }

    /// Goes to a world of elsewhere, whose past is not known. The line that is left becomes the newest branch.
    ///
    /// # Errors
    /// Those of [`Session::restore`]; this world stays.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        let end = Arc::new(self.session.snapshot()?);
        self.session.restore(snapshot)?;
        let moments = std::mem::take(&mut self.moments);
        self.keep(Branch { moments, end });
        Ok(())
    }

    /// The chunks that are known; one can go back before each of them. They end with the present.
    pub fn chunks(&self) -> Range<u64> {
        let present = self.present();
        self.moments.front().map_or(present, |first| first.index)..present
    }

    /// The last frame of one of [`Timeline::chunks`], to show it while one looks for a moment.
    pub fn frame(&self, chunk: u64) -> Option<&Frame> {
        self.at(chunk).map(|i| &*self.moments[i].frame)
    }

    /// The prompt under which one of [`Timeline::chunks`] was made; of later ones the present prompt.
    pub fn prompt(&self, chunk: u64) -> &str {
        self.at(chunk).map_or(self.session.prompt(), |i| &self.moments[i].prompt)
    }

    /// The settings under which one of [`Timeline::chunks`] was made; of later ones the present settings.
    pub fn settings(&self, chunk: u64) -> Settings {
        self.at(chunk).map_or(self.session.settings(), |i| self.moments[i].settings)
    }

    /// Goes back to the moment before `chunk`. The line that is left becomes the newest branch.
    ///
    /// # Errors
    /// [`Error::Input`] when it is not one of [`Timeline::chunks`]; those of the model. The world stays where it is.
    pub fn rewind(&mut self, chunk: u64) -> Result<()> {
        if chunk == self.present() {
            return Ok(());
        }
        let i = self.at(chunk).ok_or_else(|| {
            let Range { start, end } = self.chunks();
            Error::input(format!("chunk {chunk} is not remembered: one can go back to chunks {start} to {end}"))
        })?;
        let end = Arc::new(self.session.snapshot()?);
        if let Err(error) = self.make_again(i) {
            self.session.restore(&end)?;
            return Err(error);
        }
        let moments = self.moments.clone();
        self.moments.truncate(i);
        self.keep(Branch { moments, end });
        Ok(())
    }

    /// The lines that were left, the newest last; one that is the beginning of another is not among them: the chunks of each that the present line does not share.
    pub fn branches(&self) -> impl Iterator<Item = Range<u64>> {
        self.branches.iter().map(|branch| {
            let end = branch.moments.back().map_or(0, |last| last.index + 1);
            branch.moments.iter().find(|m| !holds(&self.moments, m)).map_or(end, |m| m.index)..end
        })
    }

    /// Goes to the end of a branch; the line that is left becomes the newest branch.
    ///
    /// # Errors
    /// [`Error::Input`] when there is no such branch; those of the model. The world stays where it is.
    pub fn switch(&mut self, branch: usize) -> Result<()> {
        let count = self.branches.len();
        let target = self.branches.get(branch);
        let target = target.ok_or_else(|| Error::input(format!("there is no branch {branch}, there are {count}")))?;
        let end = Arc::new(self.session.snapshot()?);
        self.session.restore(&target.end)?;
        if let Some(target) = self.branches.remove(branch) {
            let moments = std::mem::replace(&mut self.moments, target.moments);
            self.keep(Branch { moments, end });
        }
        Ok(())
    }

    /// The index of the chunk that comes next.
    fn present(&self) -> u64 {
        self.session.tick() / self.session.model().info().frames_per_chunk as u64
    }

    fn at(&self, chunk: u64) -> Option<usize> {
        position(&self.moments, chunk)
    }

    /// Brings the session to the moment before the chunk at `i`, its prompt and settings set.
    fn make_again(&mut self, i: usize) -> Result<()> {
        let known = (0..=i).rev().find_map(|k| Some((k, self.moments[k].before.clone()?)));
        let (from, before) = known.ok_or_else(|| Error::input("no snapshot is kept from before this moment"))?;
        self.session.restore(&before)?;
        for k in from..=i {
            let Moment { controls, prompt, settings, .. } = &self.moments[k];
            if self.session.prompt() != &**prompt {
                self.session.set_prompt(prompt)?;
            }
            if self.session.settings() != *settings {
                self.session.set_settings(*settings)?;
            }
            if k < i {
                self.session.step(controls)?;
            }
        }
        self.session.commit()
    }

    /// Keeps a line that was left, unless it is the beginning of another. Its end is near, so keyframes are enough.
    fn keep(&mut self, mut branch: Branch) {
        let Some(last) = branch.moments.back() else { return };
        if self.options.branches == 0 || self.branches.iter().any(|other| holds(&other.moments, last)) {
            return;
        }
        thin(&mut branch.moments, 0);
        self.branches.push_back(branch);
        while self.branches.len() > self.options.branches {
            self.branches.pop_front();
        }
    }

    /// Drops what lies too far back and thins out what lies back.
    fn forget(&mut self) {
        let spare = self.moments.len().saturating_sub(self.options.chunks);
        // The oldest moment needs a snapshot to go on from.
        if let Some(oldest) = (0..=spare).rev().find(|&i| self.moments[i].before.is_some()) {
            self.moments.drain(..oldest);
        }
        thin(&mut self.moments, self.options.instant);
    }
}

fn position(moments: &VecDeque<Moment>, chunk: u64) -> Option<usize> {
    moments.binary_search_by_key(&chunk, |m| m.index).ok()
}

/// Whether a line goes through a moment.
fn holds(moments: &VecDeque<Moment>, moment: &Moment) -> bool {
    position(moments, moment.index).is_some_and(|i| Arc::ptr_eq(&moments[i].frame, &moment.frame))
}

/// Drops the snapshots that are no keyframes, but not those of the first and the last `instant` moments.
fn thin(moments: &mut VecDeque<Moment>, instant: usize) {
    let old = moments.len().saturating_sub(instant);
    for moment in moments.range_mut(..old).skip(1).filter(|m| !m.index.is_multiple_of(KEYFRAME)) {
        moment.before = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fake::FakeModel;
    use super::super::session::SessionOptions;
    use super::*;

    const OPTIONS: TimelineOptions = TimelineOptions { chunks: 150, instant: 4, branches: 3 };

    fn timeline() -> Timeline {
        let options = SessionOptions { seed: 5, prompt: "a meadow".into(), ..Default::default() };
        Timeline::new(Session::new(FakeModel::default().shared(), options).unwrap(), OPTIONS)
    }

    /// Controls that no two ways share: lines that were walked apart must differ in their inputs.
    fn controls(way: u64) -> [Controls; 2] {
        [Controls { forward: 1.0, look: [way as f32 / 64.0 - 3.0, way as f32 % 3.0 - 1.0], ..Default::default() }; 2]
    }

    /// Walks on; the frames of every chunk.
    fn walk(timeline: &mut Timeline, ways: Range<u64>) -> Vec<Vec<Frame>> {
        ways.map(|way| timeline.step(&controls(way)).unwrap().frames).collect()
    }

    #[derive(Clone, Debug)]
    enum Act {
        Walk(u64),
        Prompt(u8),
        Steps(usize),
        Rewind(u64),
        Switch(usize),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            4 => (1..40u64).prop_map(Act::Walk),
            1 => any::<u8>().prop_map(Act::Prompt),
            1 => (1..5usize).prop_map(Act::Steps),
            2 => (0..100u64).prop_map(Act::Rewind),
            1 => (0..3usize).prop_map(Act::Switch),
        ];
        proptest::collection::vec(act, 1..20)
    }

    /// What every chunk of a line was made from.
    type Inputs = Vec<([Controls; 2], String, Settings)>;

    /// The frames of the last chunk of a world that lived through `inputs` without ever going back.
    fn lived(inputs: &Inputs) -> Vec<Frame> {
        let mut fresh = timeline().session;
        let mut last = Vec::new();
        for (controls, prompt, settings) in inputs {
            fresh.set_prompt(prompt).unwrap();
            fresh.set_settings(*settings).unwrap();
            last = fresh.step(controls).unwrap().frames;
        }
        last
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn every_line_goes_on_as_if_it_had_never_been_left(acts in acts()) {
            let mut timeline = timeline();
            let mut line = Inputs::new();
            let mut left: VecDeque<Inputs> = VecDeque::new();
            let mut way = 0;
            let leave = |left: &mut VecDeque<Inputs>, line: Inputs| {
                if line.is_empty() || left.iter().any(|other| other.starts_with(&line)) {
                    return;
                }
                left.push_back(line);
                if left.len() > OPTIONS.branches {
                    left.pop_front();
                }
            };
            for act in acts {
                match act {
                    Act::Walk(chunks) => for _ in 0..chunks {
                        way += 1;
                        let session = timeline.session();
                        line.push((controls(way), session.prompt().into(), session.settings()));
                        timeline.step(&controls(way)).unwrap();
                    },
                    Act::Prompt(words) => timeline.set_prompt(&format!("world {words}")).unwrap(),
                    Act::Steps(steps) => {
                        let settings = timeline.session().settings();
                        timeline.set_settings(Settings { steps, ..settings }).unwrap();
                    }
                    Act::Rewind(back) => {
                        let Range { start, end } = timeline.chunks();
                        let chunk = end.saturating_sub(back);
                        if chunk < start {
                            prop_assert!(timeline.rewind(chunk).is_err());
                        } else {
                            timeline.rewind(chunk).unwrap();
                            if chunk < end {
                                let shared = line[..chunk as usize].to_vec();
                                leave(&mut left, std::mem::replace(&mut line, shared));
                            }
                        }
                    }
                    Act::Switch(branch) => match left.remove(branch) {
                        None => prop_assert!(timeline.switch(branch).is_err()),
                        Some(other) => {
                            timeline.switch(branch).unwrap();
                            leave(&mut left, std::mem::replace(&mut line, other));
                        }
                    },
                }
                prop_assert_eq!(timeline.branches().count(), left.len());
            }
            way += 1;
            line.push((controls(way), timeline.session().prompt().into(), timeline.session().settings()));
            let frames = timeline.step(&controls(way)).unwrap().frames;
            prop_assert!(frames == lived(&line));
        }
    }

    #[test]
    fn known_frames_are_those_that_were_made() {
        let mut timeline = timeline();
        let made = walk(&mut timeline, 0..20);
        timeline.rewind(7).unwrap();
        assert_eq!(timeline.chunks(), 0..7);
        assert!((0..7).all(|i| *timeline.frame(i).unwrap() == made[i as usize][1]));
        assert!(timeline.frame(7).is_none());
        assert_eq!(timeline.branches().next(), Some(7..20));
        assert!(walk(&mut timeline, 7..20) == made[7..]);
    }

    #[test]
    fn the_past_is_bounded_and_says_so() {
        let mut timeline = timeline();
        walk(&mut timeline, 0..300);
        let Range { start, end } = timeline.chunks();
        assert!(end == 300 && (150..150 + KEYFRAME).contains(&(end - start)), "{start}..{end}");
        let snapshots = timeline.moments.iter().filter(|m| m.before.is_some()).count();
        assert!(snapshots <= OPTIONS.instant + 5, "{snapshots} snapshots");
        let error = timeline.rewind(start - 1).unwrap_err().to_string();
        assert!(error.contains(&format!("{start} to 300")), "{error}");
        timeline.rewind(start).unwrap();
    }

    #[test]
    fn a_world_of_elsewhere_leaves_a_branch() {
        let mut timeline = timeline();
        walk(&mut timeline, 0..3);
        let saved = timeline.snapshot().unwrap();
        let next = walk(&mut timeline, 3..5);
        timeline.restore(&saved).unwrap();
        assert_eq!(timeline.chunks(), 3..3);
        assert!(walk(&mut timeline, 3..5) == next);
        timeline.switch(0).unwrap();
        assert_eq!(timeline.chunks(), 0..5);
    }
}
