//! What a game and its dreamed worlds tell each other.
//!
//! What a game asks for is an event that it triggers on the entity. What a world tells is an event that its observers get, and a
//! message for systems that read in their own time.

use std::path::PathBuf;
use std::time::Duration;

use bevy::ecs::reflect::{ReflectEvent, ReflectMessage};
use bevy::prelude::*;

use crate::Controls;

/// Lets a game hear what its worlds tell.
pub(super) fn register(app: &mut App) {
    app.add_message::<DreamChunkShown>()
        .add_message::<DreamStarted>()
        .add_message::<DreamRecovered>()
        .add_message::<DreamPromptApplied>()
        .add_message::<DreamMoved>()
        .add_message::<DreamSaved>()
        .add_message::<DreamRecorded>()
        .add_message::<DreamError>();
}

/// Tells an event to its observers and to those who read messages.
pub(super) trait Tell {
    /// Tells `event`.
    fn tell<E>(&mut self, event: E)
    where
        E: Message + Clone + for<'a> Event<Trigger<'a>: Default>;
}

impl Tell for Commands<'_, '_> {
    fn tell<E>(&mut self, event: E)
    where
        E: Message + Clone + for<'a> Event<Trigger<'a>: Default>,
    {
        self.write_message(event.clone());
        self.trigger(event);
    }
}

/// A chunk came to the screen.
#[derive(EntityEvent, Message, Clone, Debug, PartialEq, Reflect)]
#[reflect(Event, Message, Debug, Clone, PartialEq)]
pub struct DreamChunkShown {
    /// The [`Dream`](super::Dream).
    pub entity: Entity,
    /// The world, as in [`DreamStatus`](super::DreamStatus).
    pub world: u64,
    /// Index of the chunk in its world, from 0.
    pub index: u64,
    /// The tick of its first frame.
    pub first_tick: u64,
    /// The controls it was made under, one a frame.
    pub controls: Vec<Controls>,
}

/// A world began.
#[derive(EntityEvent, Message, Clone, Debug, PartialEq, Reflect)]
#[reflect(Event, Message, Debug, Clone, PartialEq)]
pub struct DreamStarted {
    /// The [`Dream`](super::Dream).
    pub entity: Entity,
    /// Counts the worlds since the model was loaded, from 1.
    pub world: u64,
    /// Its seed.
    pub seed: u64,
    /// Its first prompt.
    pub prompt: String,
}

/// After a failure there is a world again. It comes after [`DreamStarted`].
#[derive(EntityEvent, Message, Clone, Debug, PartialEq, Reflect)]
#[reflect(Event, Message, Debug, Clone, PartialEq)]
pub struct DreamRecovered {
    /// The [`Dream`](super::Dream).
    pub entity: Entity,
    /// What had gone wrong.
    pub reason: String,
}

/// A changed prompt is in force.
#[derive(EntityEvent, Message, Clone, Debug, PartialEq, Reflect)]
#[reflect(Event, Message, Debug, Clone, PartialEq)]
pub struct DreamPromptApplied {
    /// The [`Dream`](super::Dream).
    pub entity: Entity,
    /// The prompt.
    pub prompt: String,
    /// The first tick it decides.
    pub tick: u64,
}

/// The world went to another moment: it was rewound, a branch was gone to, or a saved one was loaded.
#[derive(EntityEvent, Message, Clone, Debug, PartialEq, Reflect)]
#[reflect(Event, Message, Debug, Clone, PartialEq)]
pub struct DreamMoved {
    /// The [`Dream`](super::Dream).
    pub entity: Entity,
    /// The tick that comes next.
    pub tick: u64,
    /// The prompt at that moment.
    pub prompt: String,
}

/// The world was saved.
#[derive(EntityEvent, Message, Clone, Debug, PartialEq, Reflect)]
#[reflect(Event, Message, Debug, Clone, PartialEq)]
pub struct DreamSaved {
    /// The [`Dream`](super::Dream).
    pub entity: Entity,
    /// The file.
    pub path: PathBuf,
}

/// A recording is complete.
#[derive(EntityEvent, Message, Clone, Debug, PartialEq, Reflect)]
#[reflect(Event, Message, Debug, Clone, PartialEq)]
pub struct DreamRecorded {
    /// The [`Dream`](super::Dream).
    pub entity: Entity,
    /// The file.
    pub path: PathBuf,
}

/// Trigger it to record a world to a video file, as [`Stream::record`](crate::stream::Stream::record) does.
/// [`DreamRecorded`] follows when the recording has ended, or a [`DreamError`]. It is complete as well when the world or the game
/// ends; when the disk is full, the video up to there stays.
#[derive(EntityEvent, Clone, Debug, PartialEq, Reflect)]
#[reflect(Event, Debug, Clone, PartialEq)]
pub struct DreamRecord {
    /// The [`Dream`](super::Dream).
    pub entity: Entity,
    /// The file; `None` ends the recording.
    pub path: Option<PathBuf>,
}

/// Trigger it to begin the world of a [`Dream`](super::Dream) anew, with the same seed, prompt and start; after a failure as
/// well. [`DreamStarted`] follows, or a [`DreamError`].
#[derive(EntityEvent, Clone, Debug, PartialEq, Reflect)]
#[reflect(Event, Debug, Clone, PartialEq)]
pub struct DreamRestart {
    /// The [`Dream`](super::Dream).
    pub entity: Entity,
}

/// Trigger it to make one chunk of a paused world.
#[derive(EntityEvent, Clone, Debug, PartialEq, Reflect)]
#[reflect(Event, Debug, Clone, PartialEq)]
pub struct DreamStep {
    /// The [`Dream`](super::Dream).
    pub entity: Entity,
}

/// Trigger it to go to a line that was left, which stays as a branch. [`DreamMoved`] follows, or a [`DreamError`].
#[derive(EntityEvent, Clone, Debug, PartialEq, Reflect)]
#[reflect(Event, Debug, Clone, PartialEq)]
pub struct DreamSwitch {
    /// The [`Dream`](super::Dream).
    pub entity: Entity,
    /// Its place in [`DreamStatus::branches`](super::DreamStatus::branches).
    pub branch: usize,
}

/// Trigger it to take a world back in time. [`DreamMoved`] follows.
#[derive(EntityEvent, Clone, Debug, PartialEq, Reflect)]
#[reflect(Event, Debug, Clone, PartialEq)]
pub struct DreamRewind {
    /// The [`Dream`](super::Dream).
    pub entity: Entity,
    /// By how much; the world stops where its known past begins.
    pub time: Duration,
}

/// Trigger it to save a world to a file. [`DreamSaved`] follows, or a [`DreamError`].
#[derive(EntityEvent, Clone, Debug, PartialEq, Reflect)]
#[reflect(Event, Debug, Clone, PartialEq)]
pub struct DreamSave {
    /// The [`Dream`](super::Dream).
    pub entity: Entity,
    /// The file.
    pub path: PathBuf,
}

/// Trigger it to go on from a saved world. [`DreamMoved`] follows, or a [`DreamError`].
#[derive(EntityEvent, Clone, Debug, PartialEq, Reflect)]
#[reflect(Event, Debug, Clone, PartialEq)]
pub struct DreamLoad {
    /// The [`Dream`](super::Dream).
    pub entity: Entity,
    /// The file.
    pub path: PathBuf,
}

/// Something went wrong. After a fatal one [`DreamRestart`], or a change of the [`Dream`](super::Dream), begins a world
/// again, which [`DreamRecovered`] tells.
#[derive(EntityEvent, Message, Clone, Debug, PartialEq, Reflect)]
#[reflect(Event, Message, Debug, Clone, PartialEq)]
pub struct DreamError {
    /// The [`Dream`](super::Dream), or what else failed.
    pub entity: Entity,
    /// What, in one line.
    pub reason: String,
    /// Whether the world has ended; otherwise an input was refused and it goes on.
    pub fatal: bool,
}
