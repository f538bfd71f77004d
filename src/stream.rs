//! The model thread: commands in, timed frames out.
//!
//! A [`Stream`] runs one world on a thread of its own and never makes its caller wait. Chunks are begun as late
//! as the playout allows, so that the controls they are made under are fresh; they are shown at the model's
//! frame rate, and when the model is late the last frame stays. Whatever fails in the model, an error or a
//! panic, arrives as an [`Event`], and the thread is ready for the next world.
//!
//! ```no_run
//! # use std::time::Instant;
//! # use bevy_dream::{checkpoint, simulate::SessionOptions, stream::{Stream, StreamOptions}};
//! # fn main() -> bevy_dream::Result<()> {
//! let load = || checkpoint::load("models/overworld", checkpoint::DeviceChoice::Auto);
//! let world = SessionOptions { prompt: "a meadow at noon".into(), ..Default::default() };
//! let mut stream = Stream::start(load, StreamOptions { world, ..Default::default() })?;
//! loop {
//!     stream.input().turn(2.0, 0.0);
//!     if let Some(frame) = stream.due_frame(Instant::now()) {
//!         println!("frame {} of {}", frame.tick, frame.size);
//!     }
//! }
//! # }
//! ```

mod film;
mod input;
mod obey;
mod pace;
mod playout;
mod reading;
mod saves;
mod worker;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};

pub use input::Input;
pub use playout::{ChunkInfo, TimedFrame};

use crate::checkpoint::Progress;
use crate::model::{Interrupt, ModelInfo, Settings, WorldModel};
use crate::simulate::{ControlScript, SessionOptions, TimelineOptions};
use crate::{Error, FrameSize, Result};
use playout::Playout;
use worker::{Command, Teller, Worker};

/// Commands and events that may wait; a caller that sends faster is told so.
const MAILBOX: usize = 256;

/// What is called after each event and each chunk that comes later than [`Stream::next_due`] said, on the model thread or one
/// that writes a file, to wake a sleeping window.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// How a [`Stream`] runs.
#[derive(Default)]
pub struct StreamOptions {
    /// The first world.
    pub world: SessionOptions,
    /// Worker threads of the model; [as many as usual](crate::kernel::default_threads) when `None`.
    pub threads: Option<usize>,
    /// How much of each world's past is kept.
    pub past: TimelineOptions,
    /// Controls and prompts of the first world that play instead of the player's until their last tick.
    pub script: Option<ControlScript>,
    /// Called when there is something new.
    pub wake: Option<Wake>,
}

/// What the model thread tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// How far the model, or what reads a prompt for it, is read from disk, once that has taken a second; nothing when it is read.
    Reading(Option<Progress>),
    /// The model is loaded; the first world begins.
    Loaded(ModelInfo),
    /// A world began; frames of the one before are not shown any more.
    Started {
        /// Counts the worlds of this stream, from 1.
        world: u64,
        /// Its seed.
        seed: u64,
        /// Its first prompt.
        prompt: String,
        /// The size of its frames.
        size: FrameSize,
    },
    /// A prompt was applied to the running world.
    PromptApplied {
        /// The prompt.
        prompt: String,
        /// The first tick it decides.
        tick: u64,
    },
    /// The world went to another moment, by rewinding or from a save; frames of before are not shown any more.
    Moved {
        /// As of [`Event::Started`]: counted on, so that frames of before and after can be told apart.
        world: u64,
        /// The tick that comes next.
        tick: u64,
        /// The prompt at that moment.
        prompt: String,
        /// The settings at that moment.
        settings: Settings,
    },
    /// The world is being recorded, or is not any more.
    Recording(bool),
    /// A recording is complete in this file.
    Recorded(PathBuf),
    /// The world was saved to this file, which is there now.
    Saved(PathBuf),
    /// The lines that were left and can be gone to with [`Stream::switch`], the newest last: the ticks of each that the
    /// present line does not share.
    Branches(Vec<Range<u64>>),
    /// The world stands still, or goes on.
    Paused(bool),
    /// An input could not be used; the world goes on.
    Rejected(String),
    /// The model failed: there is no world until a new one is started.
    Failed(String),
    /// The thread has ended, since the model could not be loaded or a fault left it nothing to go on with.
    Ended(String),
}

/// One dreamed world at a time, running on its own thread. Dropping it ends the thread after the present pass through the network;
/// for what it then waits see [`StreamThread`].
pub struct Stream {
    commands: Sender<Command>,
    /// Counts the commands.
    sent: AtomicU64,
    events: Receiver<(u64, Event)>,
    playout: Playout,
    input: Arc<Input>,
    /// Raised when the chunk that is being made is of no interest any more.
    interrupt: Interrupt,
    /// Dropped last: a closed mailbox ends it.
    thread: StreamThread,
}

/// The thread of a [`Stream`]. When the stream and all clones of this are dropped and a recording or a save is not complete, the
/// last of them waits for it, for the end of the process would cut it off: for at most 32 frames, and for every save that was
/// asked for. What must not wait when a stream goes keeps a clone until the thread has ended.
#[derive(Clone)]
pub struct StreamThread(Arc<Joined>);

struct Joined {
    /// None once it is waited for.
    handle: Option<JoinHandle<()>>,
    /// Held by every recording and save that is not written yet.
    unwritten: Arc<()>,
}

impl StreamThread {
    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.0.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if Arc::strong_count(&self.unwritten) > 1
            && let Some(handle) = self.handle.take()
        {
            handle.join().ok();
        }
    }
}

impl Stream {
    /// Starts the thread, which loads the model and begins the first world.
    ///
    /// # Errors
    /// [`Error::Thread`] when the system refuses the thread. What fails later arrives as an [`Event`].
    pub fn start<L>(load: L, options: StreamOptions) -> Result<Self>
    where
        L: FnOnce() -> Result<Arc<dyn WorldModel>> + Send + 'static,
    {
        let (commands, command_inbox) = crossbeam_channel::bounded(MAILBOX);
        let (event_outbox, events) = crossbeam_channel::bounded(MAILBOX);
        // One chunk waits while one is shown and one is made.
        let (chunk_outbox, chunks) = crossbeam_channel::bounded(1);
        let input = Arc::new(Input::default());
        let world = Arc::new(AtomicU64::new(0));
        let (interrupt, unwritten) = (Interrupt::default(), Arc::new(()));
        let worker = Worker {
            commands: command_inbox,
            teller: Teller { obeyed: 0, events: event_outbox, wake: options.wake },
            chunks: chunk_outbox,
            waiting: chunks.clone(),
            input: Arc::clone(&input),
            world: Arc::clone(&world),
            interrupt: interrupt.clone(),
            script: options.script,
            past: options.past,
            unwritten: Arc::downgrade(&unwritten),
        };
        let handle = thread::Builder::new()
            .name("dream-model".into())
            .spawn(move || worker.run(load, options.world, options.threads))
            .map_err(|e| Error::Thread(e.to_string()))?;
        Ok(Self {
            commands,
            sent: AtomicU64::new(0),
            events,
            playout: Playout::new(chunks, world),
            input,
            interrupt,
            thread: StreamThread(Arc::new(Joined { handle: Some(handle), unwritten })),
        })
    }

    /// The player's controls.
    pub fn input(&self) -> &Input {
        &self.input
    }

    /// Gives the running world another prompt from its next chunk on.
    ///
    /// # Errors
    /// [`Error::Thread`] when the thread has ended or does not keep up.
    pub fn set_prompt(&self, prompt: impl Into<String>) -> Result<()> {
        self.send(Command::Prompt(prompt.into()))
    }

    /// Leaves the world for a new one. If that cannot be started the old one goes on.
    ///
    /// # Errors
    /// As [`Stream::set_prompt`].
    pub fn new_world(&self, world: SessionOptions) -> Result<()> {
        self.send(Command::NewWorld(Box::new(world)))
    }

    /// Changes the settings from the next chunk on.
    ///
    /// # Errors
    /// As [`Stream::set_prompt`].
    pub fn set_settings(&self, settings: Settings) -> Result<()> {
        self.send(Command::Settings(settings))
    }

    /// Holds the world after the chunks already made, or lets it go on.
    ///
    /// # Errors
    /// As [`Stream::set_prompt`].
    pub fn pause(&self, paused: bool) -> Result<()> {
        self.send(Command::Pause(paused))
    }

    /// Makes one chunk of a world that is held. A running world does not change.
    ///
    /// # Errors
    /// As [`Stream::set_prompt`].
    pub fn step(&self) -> Result<()> {
        self.send(Command::Step)
    }

    /// Takes the world back by about `time`, as far as its past is known; what is left becomes a
    /// [branch](crate::simulate::Timeline::branches).
    ///
    /// # Errors
    /// As [`Stream::set_prompt`].
    pub fn rewind(&self, time: Duration) -> Result<()> {
        self.send(Command::Rewind(time))
    }

    /// Goes to the end of a branch, by its place in [`Event::Branches`]; the line that is left becomes the newest branch.
    ///
    /// # Errors
    /// As [`Stream::set_prompt`]. That there is no such branch arrives as [`Event::Rejected`].
    pub fn switch(&self, branch: usize) -> Result<()> {
        self.send(Command::Switch(branch))
    }

    /// Records the world from its next chunk on, to a video as of [`VideoWriter`](crate::video::VideoWriter), with a save of
    /// this moment and a [replay](crate::simulate::Replay) beside it; `None` ends the recording. It also ends when the
    /// world goes to another moment, is left for another, or gets other settings, and when the disk is full: what was recorded stays
    /// then, and the reason arrives as [`Event::Rejected`]. A world that is faster than its recording waits: no frame is left out.
    ///
    /// # Errors
    /// As [`Stream::set_prompt`]. That a file cannot be written arrives as [`Event::Rejected`].
    pub fn record(&self, path: Option<PathBuf>) -> Result<()> {
        self.send(Command::Record(path))
    }

    /// Saves the world to a file, and goes on while it is written. Of two saves to the same file the later stays, and a
    /// [`Stream::load`] waits for what is being saved.
    ///
    /// # Errors
    /// As [`Stream::set_prompt`]. That the file cannot be written arrives as [`Event::Rejected`].
    pub fn save(&self, path: impl Into<PathBuf>) -> Result<()> {
        self.send(Command::Save(path.into(), Arc::clone(&self.thread.0.unwritten)))
    }

    /// Goes on from a saved world. If it cannot be used this one goes on.
    ///
    /// # Errors
    /// As [`Stream::set_prompt`].
    pub fn load(&self, path: impl Into<PathBuf>) -> Result<()> {
        self.send(Command::Load(path.into()))
    }

    /// The newest frame that is due at `now` and was not given before. Older due frames are skipped, so that a
    /// caller that was away catches up at once; `None` while the last frame stays.
    pub fn due_frame(&mut self, now: Instant) -> Option<TimedFrame> {
        self.playout.due(now)
    }

    /// When the next frame is due, or expected if it is not made yet; `None` before the first.
    pub fn next_due(&mut self) -> Option<Instant> {
        self.playout.next_due()
    }

    /// The number of frames that are made and wait to be shown.
    pub fn queued(&self) -> usize {
        self.playout.queued()
    }

    /// What happened since the last call.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        self.told().map(|(_, event)| event)
    }

    /// [`Stream::events`], each with the number of commands that were obeyed when it was told: it knows nothing of those
    /// that were sent later.
    pub(crate) fn told(&self) -> impl Iterator<Item = (u64, Event)> {
        self.events.try_iter()
    }

    /// The number of commands that were sent.
    #[cfg(any(test, feature = "bevy"))]
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Its thread, to be kept by what must not wait when the stream goes.
    pub fn thread(&self) -> StreamThread {
        self.thread.clone()
    }

    fn send(&self, command: Command) -> Result<()> {
        let leaves = command.leaves();
        if leaves {
            self.interrupt.raise();
        }
        self.commands.try_send(command).map_err(|e| {
            if leaves {
                self.interrupt.lower();
            }
            match e {
                TrySendError::Full(_) => Error::Thread("too many commands are waiting".into()),
                TrySendError::Disconnected(_) => Error::Thread("it has ended".into()),
            }
        })?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.interrupt.raise();
    }
}

#[cfg(test)]
mod tests;
