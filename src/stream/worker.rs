//! The loop of the model thread.

use std::any::Any;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, select};

use super::film::Film;
use super::pace::Pace;
use super::playout::TimedChunk;
use super::reading::Reading;
use super::saves::Saves;
use super::{ChunkInfo, Event, Input, Wake};
use crate::kernel::{ThreadPool, default_threads};
use crate::model::{Interrupt, Settings, WorldModel};
use crate::simulate::{ControlScript, SessionOptions, Timeline, TimelineOptions};
use crate::{Controls, Error, Frame, Result};

/// What the model thread is told.
pub(super) enum Command {
    Prompt(String),
    NewWorld(Box<SessionOptions>),
    Settings(Settings),
    Pause(bool),
    Step,
    Rewind(Duration),
    Switch(usize),
    /// Records to this file; none ends the recording.
    Record(Option<PathBuf>),
    /// Saves to this file; what is held until it is there.
    Save(PathBuf, Arc<()>),
    Load(PathBuf),
}

impl Command {
    /// Whether the chunk that is being made is of no interest any more.
    pub fn leaves(&self) -> bool {
        matches!(self, Self::NewWorld(_) | Self::Rewind(_) | Self::Switch(_) | Self::Load(_))
    }
}

/// What tells of the world, on any thread.
#[derive(Clone)]
pub(super) struct Teller {
    /// Counts the commands that were obeyed.
    pub obeyed: u64,
    /// What is told, each with the number of commands obeyed before.
    pub events: Sender<(u64, Event)>,
    pub wake: Option<Wake>,
}

impl Teller {
    pub fn tell(&self, event: Event) {
        // A caller that never reads its events misses some; it must not stop the world.
        self.events.try_send((self.obeyed, event)).ok();
        self.wake();
    }

    pub fn wake(&self) {
        if let Some(wake) = &self.wake {
            wake();
        }
    }
}

/// The thread's ends of the channels.
pub(super) struct Worker {
    pub commands: Receiver<Command>,
    pub teller: Teller,
    pub chunks: Sender<TimedChunk>,
    /// The other end of `chunks`, to take back what was not shown yet.
    pub waiting: Receiver<TimedChunk>,
    pub input: Arc<Input>,
    /// The world whose frames may be shown.
    pub world: Arc<AtomicU64>,
    /// Raised by commands that [leave](Command::leaves) a chunk, until they are obeyed.
    pub interrupt: Interrupt,
    pub script: Option<ControlScript>,
    pub past: TimelineOptions,
    /// Held by every recording and save that is not written yet.
    pub unwritten: Weak<()>,
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
        let events = self.teller.events.clone();
        // The model's work is guarded where it is done; this is for what else it has, which a user may have written.
        if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(|| self.serve(load, first, threads))) {
            events.try_send((0, Event::Ended(panicked(&*payload).to_string()))).ok();
        }
    }

    fn serve(
        self,
        load: impl FnOnce() -> Result<Arc<dyn WorldModel>> + Send,
        first: SessionOptions,
        threads: Option<usize>,
    ) {
        let pool = ThreadPool::new(threads.unwrap_or_else(default_threads));
        let reading = self.reading();
        let loaded = pool.and_then(|pool| Ok((guarded(&pool, || reading.of(load))?, pool)));
        match loaded {
            Ok((model, pool)) => {
                let info = model.info();
                self.tell(Event::Loaded(info.clone()));
                let pace = Pace::new(info.frames_per_chunk, info.fps);
                let dreaming = Dreaming {
                    worker: self,
                    model,
                    pool,
                    pace,
                    world: None,
                    target: None,
                    paused: false,
                    owed: 0,
                    branches: Vec::new(),
                    film: None,
                    writers: Vec::new(),
                    saves: Saves::default(),
                };
                dreaming.run(first);
            }
            Err(error) => self.tell(Event::Ended(error.to_string())),
        }
    }

    pub fn tell(&self, event: Event) {
        self.teller.tell(event);
    }

    /// To tell what the work that follows reads from disk.
    pub fn reading(&self) -> Reading {
        Reading::new(self.teller.clone())
    }
}

/// The thread with a loaded model.
pub(super) struct Dreaming {
    pub worker: Worker,
    pub model: Arc<dyn WorldModel>,
    pub pool: ThreadPool,
    pub pace: Pace,
    pub world: Option<Timeline>,
    /// The chunk before which the world will go back once it is needed: until then one may look on for a moment.
    pub target: Option<u64>,
    pub paused: bool,
    /// Chunks to make although the world is held.
    pub owed: u32,
    /// The branches that were told last.
    pub branches: Vec<Range<u64>>,
    /// The recording under way.
    pub film: Option<Film>,
    /// The threads that write recordings which have ended.
    pub writers: Vec<JoinHandle<()>>,
    /// Dropped when the thread ends, which then waits for them.
    pub saves: Saves,
}

impl Dreaming {
    fn run(mut self, first: SessionOptions) {
        self.start_world(first);
        while let Ok(()) = self.wait() {
            // Only what makes chunks is interrupted: a command is obeyed to its end.
            self.watch(self.worker.interrupt.clone());
            let made = self.make_chunk();
            self.watch(Interrupt::default());
            match made {
                Ok(chunk) => match self.deliver(chunk) {
                    Ok(()) => self.commit(),
                    Err(Stopped) => break,
                },
                Err(Error::Interrupted) => self.owed += u32::from(self.paused),
                Err(error) => self.fail(&error),
            }
        }
        self.end_film();
        // One that panicked has nothing more to write.
        self.writers.into_iter().for_each(|writer| drop(writer.join()));
    }

    /// Obeys commands until it is time for the next chunk.
    fn wait(&mut self) -> Result<(), Stopped> {
        loop {
            let goes_on = self.world.is_some() && (!self.paused || self.owed > 0);
            let begin_at = match goes_on {
                true => self.pace.begin_at().unwrap_or_else(Instant::now),
                // Nothing to do: look at the clock again some day.
                false => Instant::now() + Duration::from_secs(3600),
            };
            match self.worker.commands.recv_deadline(begin_at) {
                Ok(command) => self.obey(command),
                Err(RecvTimeoutError::Timeout) if goes_on => {
                    self.owed = self.owed.saturating_sub(1);
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Stopped),
            }
        }
    }

    fn watch(&mut self, interrupt: Interrupt) {
        if let Some(world) = &mut self.world {
            world.watch(interrupt);
        }
    }

    fn make_chunk(&mut self) -> Result<TimedChunk> {
        self.settle()?;
        self.tell_branches();
        let ticks = self.model.info().frames_per_chunk;
        let (mut controls, prompt) = self.controls(ticks);
        if let Some(prompt) = prompt {
            self.set_prompt(&prompt);
        }
        let sampled = Instant::now();
        let Self { world, film, pool, .. } = self;
        let world = world.as_mut().ok_or_else(|| Error::Thread("the world is gone".into()))?;
        let size = world.session().size();
        if let Some(film) = film {
            controls.iter_mut().zip(world.session().tick()..).for_each(|(c, tick)| *c = film.controls(tick, *c));
        }
        let mut cut = false;
        let (chunk, frames, past) = guarded(pool, || {
            let mut chunk = world.step(&controls)?;
            let frames = std::mem::take(&mut chunk.frames);
            cut = film.as_mut().is_some_and(|film| !frames.iter().all(|frame| film.frame(frame)));
            Ok((chunk, frames.iter().map(Frame::to_rgba).collect(), world.bytes()))
        })?;
        if cut {
            // Nobody writes it any more, for a reason that was told.
            self.end_film();
        }
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
            past,
        };
        let frame_time = Duration::from_secs_f64(1.0 / f64::from(self.model.info().fps));
        Ok(TimedChunk { info: Arc::new(info), size, frames, due, frame_time })
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
                        self.worker.teller.wake();
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

    pub fn fail(&mut self, error: &Error) {
        self.end_film();
        self.worker.tell(Event::Failed(error.to_string()));
        self.world = None;
    }
}

/// Runs the model's code on its pool; a panic becomes an error.
pub(super) fn guarded<T: Send>(pool: &ThreadPool, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(|| pool.install(work))).unwrap_or_else(|payload| Err(panicked(&*payload)))
}

fn panicked(payload: &(dyn Any + Send)) -> Error {
    Error::Thread(format!("a panic in the model: {}", words(payload)))
}

/// What a panic says.
pub(super) fn words(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    text.unwrap_or("without words")
}
