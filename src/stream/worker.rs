//! The loop of the model thread.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, select};

use super::pace::Pace;
use super::playout::TimedChunk;
use super::{ChunkInfo, Event, Input, Wake};
use crate::kernel::{MAX_THREADS, ThreadPool};
use crate::model::{Settings, StageTimes, WorldModel};
use crate::simulate::{ControlScript, Session, SessionOptions, Snapshot, Timeline, TimelineOptions};
use crate::{Controls, Error, Result};

/// What the model thread is told.
pub(super) enum Command {
    Prompt(String),
    NewWorld(Box<SessionOptions>),
    Settings(Settings),
    Pause(bool),
    Rewind(Duration),
    Save(PathBuf),
    Load(PathBuf),
}

/// The thread's ends of the channels.
pub(super) struct Worker {
    pub commands: Receiver<Command>,
    pub events: Sender<Event>,
    pub chunks: Sender<TimedChunk>,
    pub input: Arc<Input>,
    /// The world whose frames may be shown.
    pub world: Arc<AtomicU64>,
    pub script: Option<ControlScript>,
    pub wake: Option<Wake>,
}

/// The caller dropped the stream.
struct Stopped;

impl Worker {
    /// Loads the model and serves worlds until the stream is dropped.
    pub fn run(
        self,
        load: impl FnOnce() -> Result<Arc<dyn WorldModel>> + Send,
        first: SessionOptions,
        threads: Option<usize>,
    ) {
        let cores = || thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS));
        let loaded = ThreadPool::new(threads.unwrap_or_else(cores)).and_then(|pool| Ok((guarded(&pool, load)?, pool)));
        match loaded {
            Ok((model, pool)) => {
                let info = model.info();
                self.tell(Event::Loaded(info.clone()));
                let pace = Pace::new(info.frames_per_chunk, info.fps);
                Dreaming { worker: self, model, pool, pace, world: None, target: None, paused: false }.run(first);
            }
            Err(error) => self.tell(Event::LoadFailed(error.to_string())),
        }
    }

    fn tell(&self, event: Event) {
        // A caller that never reads its events misses some; it must not stop the world.
        self.events.try_send(event).ok();
        self.wake();
    }

    fn wake(&self) {
        if let Some(wake) = &self.wake {
            wake();
        }
    }
}

/// The thread with a loaded model.
struct Dreaming {
    worker: Worker,
    model: Arc<dyn WorldModel>,
    pool: ThreadPool,
    pace: Pace,
    world: Option<Timeline>,
    /// The chunk before which the world will go back once it is needed: until then one may look on for a moment.
    target: Option<u64>,
    paused: bool,
}

impl Dreaming {
    fn run(mut self, first: SessionOptions) {
        self.start_world(first);
        while let Ok(()) = self.wait() {
            match self.make_chunk() {
                Ok(chunk) => match self.deliver(chunk) {
                    Ok(()) => self.commit(),
                    Err(Stopped) => return,
                },
                Err(error) => self.fail(&error),
            }
        }
    }

    /// Obeys commands until it is time for the next chunk.
    fn wait(&mut self) -> Result<(), Stopped> {
        loop {
            let begin_at = match self.world {
                Some(_) if !self.paused => self.pace.begin_at().unwrap_or_else(Instant::now),
                // Nothing to do: look at the clock again some day.
                _ => Instant::now() + Duration::from_secs(3600),
            };
            match self.worker.commands.recv_deadline(begin_at) {
                Ok(command) => self.obey(command),
                Err(RecvTimeoutError::Timeout) if self.world.is_some() && !self.paused => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Stopped),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::NewWorld(options) => self.start_world(*options),
            Command::Pause(paused) => {
                self.paused = paused;
                self.pace.restart();
            }
            Command::Prompt(prompt) => self.set_prompt(&prompt),
            Command::Settings(settings) => {
                self.change(|world| world.set_settings(settings));
            }
            Command::Rewind(time) => self.rewind(time),
            Command::Save(path) => {
                let model = Arc::clone(&self.model);
                if self.change(|world| world.snapshot()?.save(&path, model.info())) {
                    self.worker.tell(Event::Saved(path));
                }
            }
            Command::Load(path) => {
                let model = Arc::clone(&self.model);
                if self.change(|world| world.restore(&Snapshot::load(&path, model.info())?)) {
                    self.moved();
                }
            }
        }
    }

    fn start_world(&mut self, options: SessionOptions) {
        let Self { pool, model, .. } = self;
        match guarded(pool, || Session::new(Arc::clone(model), options)) {
            Ok(session) => {
                if self.world.is_some() {
                    // The script was for the world that is left.
                    self.worker.script = None;
                }
                let world = self.worker.world.fetch_add(1, Ordering::AcqRel) + 1;
                self.pace.restart();
                let (seed, prompt, size) = (session.seed(), session.prompt().into(), session.size());
                self.target = None;
                self.world = Some(Timeline::new(session, TimelineOptions::default()));
                self.worker.tell(Event::Started { world, seed, prompt, size });
            }
            Err(error) if self.world.is_some() => self.worker.tell(Event::Rejected(error.to_string())),
            Err(error) => self.fail(&error),
        }
    }

    fn set_prompt(&mut self, prompt: &str) {
        if self.change(|world| world.set_prompt(prompt))
            && let Some(world) = &self.world
        {
            let (prompt, tick) = (prompt.into(), world.session().tick());
            self.worker.tell(Event::PromptApplied { prompt, tick });
        }
    }

    /// Changes the world; whether it was done. An input that cannot be used leaves the world as it is.
    fn change(&mut self, change: impl FnOnce(&mut Timeline) -> Result<()> + Send) -> bool {
        let settled = self.settle();
        let Some(world) = &mut self.world else {
            self.worker.tell(Event::Rejected("there is no world: start a new one".into()));
            return false;
        };
        match settled.and_then(|()| guarded(&self.pool, || change(world))) {
            Ok(()) => return true,
            Err(error @ (Error::Input(_) | Error::Io { .. })) => self.worker.tell(Event::Rejected(error.to_string())),
            Err(error) => self.fail(&error),
        }
        false
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
        if let Some(chunk) = self.last_chunk() {
            // Nobody waits for it: if there is no room, the next chunk shows where the world is.
            self.worker.chunks.try_send(chunk).ok();
            self.worker.wake();
        }
    }

    /// Brings the world to where it was told to go back.
    fn settle(&mut self) -> Result<()> {
        match (self.target.take(), &mut self.world) {
            (Some(target), Some(world)) => guarded(&self.pool, || world.rewind(target)),
            _ => Ok(()),
        }
    }

    /// Tells that the world is at another moment; frames on their way are of no interest any more.
    fn moved(&mut self) {
        let world = self.worker.world.fetch_add(1, Ordering::AcqRel) + 1;
        self.pace.restart();
        if let Some(timeline) = &self.world {
            let chunk = self.target.unwrap_or(timeline.chunks().end);
            let tick = chunk * self.model.info().frames_per_chunk as u64;
            self.worker.tell(Event::Moved { world, tick, prompt: timeline.prompt(chunk).into() });
        }
    }

    /// The end of the chunk that leads to the moment gone back to, to be shown at once.
    fn last_chunk(&self) -> Option<TimedChunk> {
        let (world, ticks) = (self.world.as_ref()?, self.model.info().frames_per_chunk as u64);
        let index = self.target?.checked_sub(1)?;
        let frame = world.frame(index)?;
        let now = Instant::now();
        let info = ChunkInfo {
            world: self.worker.world.load(Ordering::Acquire),
            index,
            first_tick: (index + 1) * ticks - 1,
            controls: vec![Controls::default()],
            sampled: now,
            ready: now,
            times: StageTimes::default(),
        };
        let frames = vec![frame.to_rgba()];
        Some(TimedChunk { info: Arc::new(info), size: frame.size, frames, due: now, frame_time: Duration::ZERO })
    }

    fn make_chunk(&mut self) -> Result<TimedChunk> {
        self.settle()?;
        let ticks = self.model.info().frames_per_chunk;
        let (controls, prompt) = self.controls(ticks);
        if let Some(prompt) = prompt {
            self.set_prompt(&prompt);
        }
        let sampled = Instant::now();
        let world = self.world.as_mut().ok_or_else(|| Error::Thread("the world is gone".into()))?;
        let (chunk, frames) = guarded(&self.pool, || {
            let mut chunk = world.step(&controls)?;
            let frames = std::mem::take(&mut chunk.frames);
            Ok((chunk, frames.iter().map(crate::Frame::to_rgba).collect()))
        })?;
        let ready = Instant::now();
        let due = self.pace.ready((chunk.index > 0).then_some(ready - sampled), ready);
        let info = ChunkInfo {
            world: self.worker.world.load(Ordering::Acquire),
            index: chunk.index,
            first_tick: chunk.first_tick,
            controls,
            sampled,
            ready,
            times: chunk.times,
        };
        let frame_time = Duration::from_secs_f64(1.0 / f64::from(self.model.info().fps));
        Ok(TimedChunk { info: Arc::new(info), size: world.session().size(), frames, due, frame_time })
    }

    /// The controls of the next chunk, taken as late as can be, and the script's prompt if it changes.
    fn controls(&self, ticks: usize) -> (Vec<Controls>, Option<String>) {
        let tick = self.world.as_ref().map_or(0, |world| world.session().tick());
        match &self.worker.script {
            Some(script) if tick <= script.last_tick() => {
                let (controls, prompt) = script.chunk(tick, ticks);
                (controls, prompt.map(Into::into))
            }
            _ => (self.worker.input.sample(ticks), None),
        }
    }

    /// Hands the chunk over as soon as there is room, obeying commands meanwhile.
    fn deliver(&mut self, chunk: TimedChunk) -> Result<(), Stopped> {
        let due = chunk.due;
        let mut chunk = Some(chunk);
        while chunk.as_ref().is_some_and(|c| c.info.world == self.worker.world.load(Ordering::Acquire)) {
            let Worker { chunks, commands, .. } = &self.worker;
            select! {
                send(chunks, chunk.take().ok_or(Stopped)?) -> sent => {
                    sent.map_err(|_| Stopped)?;
                    if due <= Instant::now() {
                        self.worker.wake();
                    }
                }
                recv(commands) -> command => {
                    let command = command.map_err(|_| Stopped)?;
                    self.obey(command);
                }
            }
        }
        Ok(())
    }

    fn commit(&mut self) {
        if let Some(world) = &mut self.world
            && let Err(error) = guarded(&self.pool, || world.commit())
        {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &Error) {
        self.world = None;
        self.worker.tell(Event::Failed(error.to_string()));
    }
}

/// Runs the model's code on its pool; a panic becomes an error.
fn guarded<T: Send>(pool: &ThreadPool, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(|| pool.install(work))).unwrap_or_else(|payload| Err(panicked(&*payload)))
}

fn panicked(payload: &(dyn Any + Send)) -> Error {
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    Error::Thread(format!("a panic in the model: {}", text.unwrap_or("without words")))
}
