//! The Bevy plugin: a dreamed world is a component, its frames are an image.
//!
#![cfg_attr(feature = "window", doc = "```no_run")]
#![cfg_attr(not(feature = "window"), doc = "```ignore")]
//! use bevy::prelude::*;
//! use bevy_dream::prelude::*;
//!
//! fn setup(mut commands: Commands, mut images: ResMut<Assets<Image>>) {
//!     let screen = DreamScreen::new(&mut images);
//!     commands.spawn(Sprite::from_image(screen.0.clone()));
//!     commands.spawn((Dream::new("models/overworld", "a meadow at noon"), screen, DreamInput::default()));
//! }
//!
//! App::new()
//!     .add_plugins((DefaultPlugins, DreamPlugin::default()))
//!     .add_systems(Startup, setup)
//!     .run();
//! ```
//!
//! [`Dream`] says what is wanted: change a field and the world follows, despawn it and the world ends.
//! [`DreamStatus`] says what is. [`DreamControls`] walk in it, written by [`DreamInput`] for a player or by the game. The model
//! runs on a thread of its own; no system waits for it.
//!
//! | a game triggers | a game hears |
//! |---|---|
//! | a change of [`Dream`] | [`DreamStarted`], [`DreamPromptApplied`] |
//! | [`DreamRewind`], [`DreamSwitch`], [`DreamLoad`] | [`DreamMoved`] |
//! | [`DreamSave`] | [`DreamSaved`] |
//! | [`DreamRecord`] | [`DreamRecorded`] |
//! | [`DreamStep`], with [`Dream::paused`] | [`DreamChunkShown`], as of every chunk |
//! | [`DreamRestart`] | [`DreamStarted`], after a failure [`DreamRecovered`] |
//! | anything that cannot be done | [`DreamError`] |
//!
//! What a game triggers is an event of the entity. What it hears is told in both of Bevy's ways: observers get it at once, for all
//! worlds or for one entity, and a system that runs when the game wants it reads it as a message.

mod command;
mod component;
mod diagnostic;
mod event;
#[cfg(feature = "window")]
pub mod explorer;
mod input;
mod loader;
#[cfg(feature = "record")]
pub mod recorder;
mod run;
pub mod testing;
#[cfg(test)]
mod tests;
#[cfg(feature = "record")]
mod upload;
mod wish;

use bevy::input::InputSystems;
use bevy::input::mouse::AccumulatedMouseMotion;
use bevy::prelude::*;

pub use component::{Dream, DreamControls, DreamPhase, DreamScreen, DreamScript, DreamStatus};
pub use diagnostic::{
    COMMIT_MS, CONTROL_TO_FRAME_MS, DECODE_MS, DENOISE_MS, FORESEE_MS, MODEL_FPS, NATIVE_FPS, QUEUED_FRAMES,
    SPACING_MS, SPACING_OFF, UPDATE_MS, UPLOAD_MS,
};
pub use event::{
    DreamChunkShown, DreamError, DreamLoad, DreamMoved, DreamPromptApplied, DreamRecord, DreamRecorded, DreamRecovered,
    DreamRestart, DreamRewind, DreamSave, DreamSaved, DreamStarted, DreamStep, DreamSwitch,
};
pub use input::DreamInput;
pub use loader::ModelLoader;

/// Runs every [`Dream`] in the world. Needs Bevy's `AssetPlugin` and `ImagePlugin`.
#[derive(Default)]
pub struct DreamPlugin {
    /// Where models come from.
    pub loader: ModelLoader,
}

/// The plugin's systems.
#[derive(SystemSet, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DreamSystems {
    /// In `PreUpdate`: what a player holds becomes the [`DreamControls`] of a [`DreamInput`], which a game may still change.
    Input,
    /// In `PreUpdate`: events are told and frames that are due become visible.
    Show,
    /// In `PostUpdate`: changed [`Dream`]s and the [`DreamControls`] reach the model thread.
    Control,
}

impl Plugin for DreamPlugin {
    fn build(&self, app: &mut App) {
        diagnostic::register(app);
        event::register(app);
        app.insert_resource(self.loader.clone())
            .init_resource::<diagnostic::Taken>()
            .init_resource::<run::Threads>()
            .add_systems(PreUpdate, (run::hear, run::show).chain().in_set(DreamSystems::Show))
            .add_systems(
                PreUpdate,
                input::hold
                    .in_set(DreamSystems::Input)
                    .after(InputSystems)
                    .run_if(resource_exists::<AccumulatedMouseMotion>),
            )
            .add_systems(PostUpdate, (run::follow, run::control).chain().in_set(DreamSystems::Control))
            .add_systems(Last, diagnostic::measure_update)
            .add_observer(command::restart)
            .add_observer(command::step)
            .add_observer(command::switch)
            .add_observer(command::rewind)
            .add_observer(command::record)
            .add_observer(command::save)
            .add_observer(command::load);
    }

    // The renderer may be added after this plugin, and leaves for its thread after this.
    #[cfg(feature = "record")]
    fn finish(&self, app: &mut App) {
        upload::watch(app);
    }
}
