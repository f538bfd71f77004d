//! The simulator: one dreamed world that grows chunk by chunk from a seed, a prompt and controls.
//!
//! A [`Session`] holds everything a model does not: the counter-based random numbers, the prompt, the settings
//! and the player's body. Nothing here knows threads, clocks or Bevy: the same calls give the same frames.

pub mod fake;
pub mod noise;
pub mod replay;
mod save;
pub mod session;
pub mod timeline;

pub use noise::Noise;
pub use replay::{ControlScript, FrameHasher, Replay, ReplayHeader, frame_hash};
pub use session::{Chunk, MAX_PROMPT_CHARS, Session, SessionOptions, Snapshot, check_prompt, check_settings};
pub use timeline::{Timeline, TimelineOptions};
