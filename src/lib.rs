//! # bevy_dream
//!
//! A diffusion transformer as a **world simulator** inside a game: from a text prompt and the player's
//! controls it generates spacetime patches autoregressively, chunk by chunk, on a background model thread,
//! and streams the decoded frames to a texture.
//!
//! # A world in a game
//!
//! With the feature `bevy` a world is a component and its frames are an image:
//!
#![cfg_attr(feature = "window", doc = "```no_run")]
#![cfg_attr(not(feature = "window"), doc = "```ignore")]
//! use bevy::prelude::*;
//! use bevy_dream::prelude::*;
//!
//! fn setup(mut commands: Commands, mut images: ResMut<Assets<Image>>) {
//!     let screen = DreamScreen::new(&mut images);
//!     commands.spawn(Camera2d);
//!     commands.spawn(Sprite::from_image(screen.0.clone()));
//!     commands.spawn((Dream::new("models/overworld", "a meadow at noon"), screen, DreamInput::default()));
//! }
//!
//! fn tell(error: On<DreamError>) {
//!     warn!("{}", error.reason);
//! }
//!
//! App::new()
//!     .add_plugins((DefaultPlugins, DreamPlugin::default()))
//!     .add_systems(Startup, setup)
//!     .add_observer(tell)
//!     .run();
//! ```
//!
//! Worlds of one model folder share its weights. Time can be turned back, a world saved and loaded:
//!
#![cfg_attr(feature = "bevy", doc = "```")]
#![cfg_attr(not(feature = "bevy"), doc = "```ignore")]
//! use std::time::Duration;
//! use bevy::prelude::*;
//! use bevy_dream::plugin::testing::{test_app, update_until};
//! use bevy_dream::prelude::*;
//! use bevy_dream::simulate::fake::FakeModel;
//!
//! let mut app = test_app(FakeModel::fast()); // a game has its DefaultPlugins and a DreamPlugin
//! let entity = app.world_mut().spawn(Dream::new("models/overworld", "a meadow")).id();
//! update_until(&mut app, |world| (world.get::<DreamStatus>(entity)?.tick > 20).then_some(()));
//!
//! app.add_observer(|moved: On<DreamMoved>| println!("back at tick {}", moved.tick));
//! app.world_mut().trigger(DreamRewind { entity, time: Duration::from_secs(10) });
//! app.world_mut().get_mut::<Dream>(entity).unwrap().prompt = "a desert at night".into();
//! update_until(&mut app, |world| (world.get::<DreamStatus>(entity)?.prompt.starts_with("a desert")).then_some(()));
//! ```
//!
//! See [`plugin`](https://docs.rs/bevy_dream/latest/bevy_dream/plugin) for all that a game can say and hear.
//!
//! # A world without a game
//!
//! A [`simulate::Session`] is one world, chunk by chunk; a [`simulate::Timeline`] is one with a way back; a
//! [`stream::Stream`] runs one on a thread in real time. The same seed, prompt and controls give the same frames.
//!
//! ```
//! use bevy_dream::Controls;
//! use bevy_dream::simulate::{Session, SessionOptions, fake::FakeModel};
//!
//! # fn main() -> bevy_dream::Result<()> {
//! // or `checkpoint::load("models/overworld", DeviceChoice::Auto)?`
//! let model = FakeModel::default().shared();
//! let options = SessionOptions { seed: 7, prompt: "a meadow at noon".into(), ..Default::default() };
//! let mut session = Session::new(model, options)?;
//! let forward = Controls { forward: 1.0, ..Default::default() };
//! let chunk = session.step(&[forward; 2])?;
//! assert_eq!(chunk.frames.len(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! Dependencies point one way: `plugin → stream → simulate → model → kernel`. `voxel`, `dataset` and `eval`
//! know the [`model::WorldModel`] trait, never the plugin.

pub mod checkpoint;
pub mod controls;
pub mod dataset;
pub mod error;
pub mod eval;
pub mod family;
pub mod frame;
pub mod kernel;
pub mod model;
mod partial;
#[cfg(feature = "bevy")]
pub mod plugin;
#[cfg(feature = "bevy")]
pub mod prelude;
pub mod simulate;
pub mod stream;
pub mod video;
pub mod voxel;

pub use controls::Controls;
pub use error::{Error, Result};
pub use frame::{Frame, FrameSize};
