//! # bevy_dream
//!
//! A diffusion transformer as a **world simulator** inside a game: from a text prompt and the player's
//! controls it generates spacetime patches autoregressively, chunk by chunk, on a background model thread,
//! and streams the decoded frames to a texture.
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
#[cfg(feature = "bevy")]
pub mod plugin;
pub mod simulate;
pub mod stream;
pub mod video;
pub mod voxel;

pub use controls::Controls;
pub use error::{Error, Result};
pub use frame::{Frame, FrameSize};
