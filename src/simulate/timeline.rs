//! The way back: a session that can be rewound and branched.
//!
//! Every chunk's controls, prompt, settings and last frame are kept for a while, and snapshots from which the world can
//! go on: one before each of the newest chunks and, the farther back, the fewer, as many as memory is given. From a snapshot
//! on, chunks are made again from what was recorded, to the same bits, since a session's future is a function of its snapshot
//! and its inputs; so going back is at once, and walking on from there after as many chunks as lie between two snapshots.
//!
//! Snapshots share what they remember in common. Of the default model one takes 0.7 MB and each chunk that it remembers, up to
//! 18, another 0.4: a tenth of a second apart they take 1.1 MB a chunk, far apart eight each.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::session::{Chunk, Session, Snapshot};
use crate::kernel::Pages;
use crate::model::{Interrupt, Part, Settings};
use crate::{Controls, Error, Frame, Result};

/// Of a line that was left a snapshot is kept before every so manieth chunk.
const KEYFRAME: u64 = 64;

/// How much of the past is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "bevy", derive(bevy::prelude::Reflect))]
pub struct TimelineOptions {
    /// Chunks that one can go back.
    pub chunks: usize,
    /// Bytes that the past may take, with its branches; see [`Timeline::bytes`]. What does not fit is forgotten: first snapshots,
    /// so that walking on from far back begins later, then branches, then what lies farthest back.
    pub memory: usize,
    /// Futures that were left and can be gone back to; the oldest is forgotten for a new one.
    pub branches: usize,
}

impl Default for TimelineOptions {
    /// A minute in chunks of a tenth of a second and 130 MB, in which the default model has snapshots at most a second apart for
    /// three seconds and three for ten; four branches.
    fn default() -> Self {
        Self { chunks: 600, memory: 130_000_000, branches: 4 }
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
    /// What its last frame shows.
    frame: Arc<Pages<u8>>,
}

/// The chunks that lead to a world, from the oldest known on, and the world at their end.
struct Branch {
    moments: VecDeque<Moment>,
    end: Arc<Snapshot>,
}

/// What moments and snapshots take, each part counted once.
#[derive(Default)]
struct Held {
    /// How many hold a part, and its bytes.
    parts: HashMap<Part, (usize, usize)>,
    bytes: usize,
}

impl Held {
    fn add(&mut self, part: Part, bytes: usize) {
        let (holders, _) = self.parts.entry(part).or_insert((0, bytes));
        if *holders == 0 {
            self.bytes += bytes;
        }
        *holders += 1;
    }

    fn remove(&mut self, part: Part) {
        if let Some((holders, bytes)) = self.parts.get_mut(&part) {
            *holders -= 1;
            if *holders == 0 {
                self.bytes -= *bytes;
                self.parts.remove(&part);
            }
        }
    }

    fn add_snapshot(&mut self, snapshot: &Snapshot) {
        snapshot.state.parts(|part, bytes| self.add(part, bytes));
    }

    fn remove_snapshot(&mut self, snapshot: &Snapshot) {
        snapshot.state.parts(|part, _| self.remove(part));
    }

    fn add_moment(&mut self, moment: &Moment) {
        self.add(frame_part(&moment.frame), moment.frame.len());
        moment.before.iter().for_each(|snapshot| self.add_snapshot(snapshot));
    }

    fn remove_moment(&mut self, moment: &Moment) {
        self.remove(frame_part(&moment.frame));
        moment.before.iter().for_each(|snapshot| self.remove_snapshot(snapshot));
    }
}

fn frame_part(frame: &Arc<Pages<u8>>) -> Part {
    Part::At(Arc::as_ptr(frame) as usize)
}

/// A session with a past to go back to.
pub struct Timeline {
    session: Session,
    options: TimelineOptions,
    moments: VecDeque<Moment>,
    branches: VecDeque<Branch>,
    /// By all of it.
    held: Held,
}

impl Timeline {
    /// Keeps the past of `session` from now on.
    pub fn new(session: Session, options: TimelineOptions) -> Self {
        Self { session, options, moments: VecDeque::new(), branches: VecDeque::new(), held: Held::default() }
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
        let mut frame = Pages::zeros(3 * self.session.size().pixels())?;
        let chunk = self.session.step(controls)?;
        if let Some(last) = chunk.frames.last() {
            frame.iter_mut().zip(&last.rgb).for_each(|(kept, last)| *kept = *last);
        }
        let last = self.moments.back().map(|last| Arc::clone(&last.prompt));
        let prompt = last.filter(|last| **last == *self.session.prompt());
        let moment = Moment {
            index: chunk.index,
            before,
            controls: controls.into(),
            prompt: prompt.unwrap_or_else(|| self.session.prompt().into()),
            settings: self.session.settings(),
            frame: frame.into(),
        };
        self.held.add_moment(&moment);
        self.moments.push_back(moment);
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

    /// Bytes that the past takes, of which the present world shares what it remembers too: frames and snapshots of this line and of
    /// the branches, what they share counted once.
    pub fn bytes(&self) -> usize {
        self.held.bytes
    }

    /// The chunks that are known; one can go back before each of them. They end with the present.
    pub fn chunks(&self) -> Range<u64> {
        let present = self.present();
        self.moments.front().map_or(present, |first| first.index)..present
    }

    /// The last frame of one of [`Timeline::chunks`], to show it while one looks for a moment.
    pub fn frame(&self, chunk: u64) -> Option<Frame> {
        self.at(chunk).map(|i| Frame { size: self.session.size(), rgb: self.moments[i].frame.to_vec() })
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
        let known = |last: &Moment| self.branches.iter().any(|other| holds(&other.moments, last));
        if self.options.branches > 0 && branch.moments.back().is_some_and(|last| !known(last)) {
            thin(&mut branch.moments);
            self.branches.push_back(branch);
            while self.branches.len() > self.options.branches {
                self.branches.pop_front();
            }
        }
        self.count();
        self.fit();
    }

    fn count(&mut self) {
        self.held = Held::default();
        let lines = self.branches.iter().map(|branch| &branch.moments).chain([&self.moments]);
        lines.flatten().for_each(|moment| self.held.add_moment(moment));
        self.branches.iter().for_each(|branch| self.held.add_snapshot(&branch.end));
    }

    /// Drops what lies too far back.
    fn forget(&mut self) {
        // Pictures take half the memory at most, or nothing would be left to go on from.
        let picture = 3 * self.session.size().pixels();
        let most = self.options.chunks.min(self.options.memory / 2 / picture.max(1));
        let spare = self.moments.len().saturating_sub(most);
        // The oldest moment needs a snapshot to go on from.
        if let Some(oldest) = (0..=spare).rev().find(|&i| self.moments.get(i).is_some_and(|m| m.before.is_some())) {
            self.moments.drain(..oldest).for_each(|moment| self.held.remove_moment(&moment));
        }
        self.fit();
    }

    /// Drops what is needed least until the rest fits into the memory.
    fn fit(&mut self) {
        while self.held.bytes > self.options.memory {
            let of_branch =
                |branch: &mut Branch| branch.moments.iter_mut().skip(1).find_map(|moment| moment.before.take());
            if let Some(snapshot) = self.branches.iter_mut().find_map(of_branch) {
                self.held.remove_snapshot(&snapshot);
            } else if let Some(snapshot) = self.least().and_then(|i| self.moments[i].before.take()) {
                self.held.remove_snapshot(&snapshot);
            } else if self.branches.pop_front().is_some() {
                self.count();
            } else {
                self.moments.drain(..).for_each(|moment| self.held.remove_moment(&moment));
                return;
            }
        }
    }

    /// The snapshot without which going on from the past begins hardly later: its neighbours are near each other, for how far back
    /// it lies. Not the oldest, which all others can be made from.
    fn least(&self) -> Option<usize> {
        let present = self.moments.len();
        let kept = || (0..present).filter(|&i| self.moments[i].before.is_some());
        let neighbours = kept().zip(kept().skip(2).chain([present]));
        let costs = kept().skip(1).zip(neighbours).map(|(i, (before, after))| {
            let cost = (after - before) as f32 / (present - i) as f32;
            (cost, i)
        });
        costs.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, i)| i)
    }
}

fn position(moments: &VecDeque<Moment>, chunk: u64) -> Option<usize> {
    moments.binary_search_by_key(&chunk, |m| m.index).ok()
}

/// Whether a line goes through a moment.
fn holds(moments: &VecDeque<Moment>, moment: &Moment) -> bool {
    position(moments, moment.index).is_some_and(|i| Arc::ptr_eq(&moments[i].frame, &moment.frame))
}

/// Drops the snapshots that are no keyframes, but not the first.
fn thin(moments: &mut VecDeque<Moment>) {
    for moment in moments.iter_mut().skip(1).filter(|m| !m.index.is_multiple_of(KEYFRAME)) {
        moment.before = None;
    }
}

#[cfg(test)]
mod tests;
