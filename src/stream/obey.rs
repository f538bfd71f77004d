//! What the model thread does when it is told to.

use std::mem;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::film::Film;
use super::playout::TimedChunk;
use super::worker::{Command, Dreaming, guarded};
use super::{ChunkInfo, Event};
use crate::model::StageTimes;
use crate::simulate::{Session, SessionOptions, Snapshot, Timeline};
use crate::{Error, Result};

impl Dreaming {
    pub(super) fn obey(&mut self, command: Command) {
        self.worker.teller.obeyed += 1;
        if command.leaves() {
            self.worker.interrupt.lower();
        }
        match command {
            Command::NewWorld(options) => self.start_world(*options),
            Command::Pause(paused) => {
                self.paused = paused;
                self.owed = 0;
                self.pace.restart();
                self.worker.tell(Event::Paused(paused));
            }
            Command::Step => self.owed += u32::from(self.paused && self.world.is_some()),
            Command::Prompt(prompt) => self.set_prompt(&prompt),
            Command::Settings(settings) => {
                self.end_film();
                self.change(|world| world.set_settings(settings));
            }
            Command::Record(Some(path)) => self.begin_film(&path),
            Command::Record(None) => self.end_film(),
            Command::Rewind(time) => self.rewind(time),
            Command::Switch(branch) => {
                if self.change(|world| world.switch(branch)).is_some() {
                    self.moved();
                    self.show_last_chunk();
                }
            }
            Command::Save(path, unwritten) => self.save(path, unwritten),
            Command::Load(path) => {
                // It may be the file of one that is not written yet.
                self.saves.wait();
                let model = Arc::clone(&self.model);
                if self.change(|world| world.restore(&Snapshot::load(&path, model.info())?)).is_some() {
                    self.moved();
                    // Its last frame is not in the save.
                    self.owed += u32::from(self.paused);
                }
            }
        }
        self.tell_branches();
    }

    fn save(&mut self, path: PathBuf, unwritten: Arc<()>) {
        let Some(snapshot) = self.change(Timeline::snapshot) else { return };
        let (model, teller, file) = (Arc::clone(&self.model), self.worker.teller.clone(), path.clone());
        let write = move || snapshot.save(&path, model.info());
        self.saves.add(write, move |written| {
            teller.tell(written.map_or_else(|error| Event::Rejected(error.to_string()), |()| Event::Saved(file)));
            drop(unwritten);
        });
    }

    fn begin_film(&mut self, path: &Path) {
        self.end_film();
        let (model, teller) = (Arc::clone(&self.model), self.worker.teller.clone());
        let (unwritten, mut saves) = (self.worker.unwritten.upgrade(), mem::take(&mut self.saves));
        self.film = self.change(|world| Film::begin(world, model, path, unwritten, teller, &mut saves));
        self.saves = saves;
        if self.film.is_some() {
            self.worker.tell(Event::Recording(true));
        }
    }

    /// A recording is of one line of one world under the same settings.
    pub(super) fn end_film(&mut self) {
        if let Some(film) = self.film.take() {
            self.writers.retain(|writer| !writer.is_finished());
            self.writers.push(film.end());
            self.worker.tell(Event::Recording(false));
        }
    }

    /// Tells the branches when they are others than before.
    pub(super) fn tell_branches(&mut self) {
        let ticks = self.model.info().frames_per_chunk as u64;
        let in_ticks = |chunks: Range<u64>| chunks.start * ticks..chunks.end * ticks;
        let branches: Vec<_> = self.world.iter().flat_map(Timeline::branches).map(in_ticks).collect();
        if branches != self.branches {
            self.branches.clone_from(&branches);
            self.worker.tell(Event::Branches(branches));
        }
    }

    pub(super) fn start_world(&mut self, options: SessionOptions) {
        let (Self { pool, model, .. }, reading) = (&*self, self.worker.reading());
        match guarded(pool, || reading.of(|| Session::new(Arc::clone(model), options))) {
            Ok(session) => {
                if self.world.is_some() {
                    // The script was for the world that is left.
                    self.worker.script = None;
                }
                let world = self.worker.world.fetch_add(1, Ordering::AcqRel) + 1;
                self.pace.restart();
                self.end_film();
                let (seed, prompt, size) = (session.seed(), session.prompt().into(), session.size());
                self.target = None;
                // A world that is held shows at least how it begins.
                self.owed = u32::from(self.paused);
                self.world = Some(Timeline::new(session, self.worker.past));
                self.worker.tell(Event::Started { world, seed, prompt, size });
            }
            Err(error) if self.world.is_some() => self.worker.tell(Event::Rejected(error.to_string())),
            Err(error) => self.fail(&error),
        }
    }

    pub(super) fn set_prompt(&mut self, prompt: &str) {
        if self.change(|world| world.set_prompt(prompt)).is_some()
            && let Some(world) = &self.world
        {
            let (prompt, tick) = (prompt.to_owned(), world.session().tick());
            if let Some(film) = &mut self.film {
                film.prompt(tick, &prompt);
            }
            self.worker.tell(Event::PromptApplied { prompt, tick });
        }
    }

    /// Changes the world; nothing if that was not done. An input that cannot be used leaves the world as it is.
    fn change<T: Send>(&mut self, change: impl FnOnce(&mut Timeline) -> Result<T> + Send) -> Option<T> {
        let settled = self.settle();
        let Some(world) = &mut self.world else {
            self.worker.tell(Event::Rejected("there is no world: start a new one".into()));
            return None;
        };
        let reading = self.worker.reading();
        match settled.and_then(|()| guarded(&self.pool, || reading.of(|| change(world)))) {
            Ok(changed) => return Some(changed),
            Err(error @ (Error::Input(_) | Error::Io { .. })) => self.worker.tell(Event::Rejected(error.to_string())),
            Err(error) => self.fail(&error),
        }
        None
    }

    /// Goes back by about `time`, as far as the past is known, and shows what was there.
    fn rewind(&mut self, time: Duration) {
        let Some(world) = &self.world else { return };
        let info = self.model.info();
        let chunks = time.as_secs_f32() * info.fps / info.frames_per_chunk as f32;
        let known = world.chunks();
        let from = self.target.unwrap_or(known.end);
        self.target = Some(from.saturating_sub(chunks.round() as u64).max(known.start));
        self.moved();
        self.show_last_chunk();
    }

    /// Shows the moment gone to.
    fn show_last_chunk(&self) {
        if let Some(chunk) = self.last_chunk() {
            // What still waits is of a moment that was left.
            self.worker.waiting.try_iter().for_each(drop);
            self.worker.chunks.try_send(chunk).ok();
            self.worker.teller.wake();
        }
    }

    /// Brings the world to where it was told to go back.
    pub(super) fn settle(&mut self) -> Result<()> {
        let settled = match (self.target, &mut self.world) {
            (Some(target), Some(world)) => guarded(&self.pool, || world.rewind(target)),
            _ => Ok(()),
        };
        if !matches!(settled, Err(Error::Interrupted)) {
            self.target = None;
        }
        settled
    }

    /// Tells that the world is at another moment; frames on their way are of no interest any more.
    fn moved(&mut self) {
        self.end_film();
        let world = self.worker.world.fetch_add(1, Ordering::AcqRel) + 1;
        self.pace.restart();
        if let Some(timeline) = &self.world {
            let chunk = self.target.unwrap_or(timeline.chunks().end);
            let tick = chunk * self.model.info().frames_per_chunk as u64;
            let (prompt, settings) = (timeline.prompt(chunk).into(), timeline.settings(chunk));
            self.worker.tell(Event::Moved { world, tick, prompt, settings });
        }
    }

    /// The end of the chunk that leads to the moment gone to, to be shown at once.
    fn last_chunk(&self) -> Option<TimedChunk> {
        let (world, ticks) = (self.world.as_ref()?, self.model.info().frames_per_chunk as u64);
        let index = self.target.unwrap_or(world.chunks().end).checked_sub(1)?;
        let frame = world.frame(index)?;
        let now = Instant::now();
        let info = ChunkInfo {
            world: self.worker.world.load(Ordering::Acquire),
            index,
            first_tick: (index + 1) * ticks - 1,
            controls: Vec::new(),
            sampled: now,
            ready: now,
            times: StageTimes::default(),
            past: world.bytes(),
        };
        let frames = vec![frame.to_rgba()];
        Some(TimedChunk { info: Arc::new(info), size: frame.size, frames, due: now, frame_time: Duration::ZERO })
    }
}
