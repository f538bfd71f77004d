//! Recorded episodes of the teacher world, in tar shards of the `WebDataset` layout.
//!
//! A shard `shard-000000.tar` holds three files an episode: `{episode}.frames.npy` (`u8`, ticks × height × width × 3),
//! `{episode}.actions.npy` (`f32`, ticks × [`CONTROL_DIM`](crate::controls::CONTROL_DIM); row `t` leads to frame `t`,
//! row 0 is still) and `{episode}.json` ([`EpisodeMeta`]).

mod episode;
mod npy;
mod shard;

#[cfg(test)]
mod tests;

pub use episode::{CaptionSet, Episode, EpisodeConfig, EpisodeMeta, GENERATOR, SceneChange, record};
pub use shard::{EPISODES_PER_SHARD, MAX_ACTION, ShardReader, ShardWriter, check_action, write_dataset};

/// Worlds with seeds from here on are never trained on: evaluation draws from them.
pub const HELD_OUT_SEED: u64 = 500_000;
