//! `dream data`: training shards from the teacher world.

use std::ops::Range;
use std::path::PathBuf;
use std::thread;

use bevy_dream::dataset::{EpisodeConfig, HELD_OUT_SEED, write_dataset};
use bevy_dream::kernel::MAX_THREADS;
use bevy_dream::voxel::PolicyKind;
use bevy_dream::{Error, FrameSize, Result};

use crate::args::{seeds, world_threads};
use crate::output::progress;

/// Write training episodes of the teacher world
#[derive(clap::Args)]
pub struct Args {
    /// World seeds, A..B without B; one episode each
    #[arg(long, value_parser = seeds)]
    seeds: Range<u64>,
    /// Folder for the shards
    #[arg(long)]
    out: PathBuf,
    /// Frames per episode
    #[arg(long, default_value_t = 96)]
    ticks: usize,
    /// Frame size
    #[arg(long, default_value = "128x128")]
    size: FrameSize,
    /// Who plays: wander, explore, look, build, still or mixed
    #[arg(long, default_value = "mixed")]
    policy: PolicyKind,
    /// From 0 (open land) to 1 (structures, cliffs and caves)
    #[arg(long, default_value_t = 0.5)]
    richness: f32,
    /// Worker threads [default: the cores, at most 64]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Allow the seeds from 500000 up, which are never trained on
    #[arg(long)]
    held_out: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    if args.seeds.end > HELD_OUT_SEED && !args.held_out {
        return Err(Error::input(format!(
            "seeds from {HELD_OUT_SEED} up are never trained on: pass --held-out to record them for evaluation"
        )));
    }
    if args.ticks == 0 {
        return Err(Error::input("--ticks must be at least 1"));
    }
    if !(0.0..=1.0).contains(&args.richness) {
        return Err(Error::input(format!("--richness is {}, but must be from 0 to 1", args.richness)));
    }
    let config =
        EpisodeConfig { size: args.size, ticks: args.ticks, policy: args.policy.clone(), richness: args.richness };
    let cores = || thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_THREADS));
    let pool = world_threads(args.threads.unwrap_or_else(cores))?;
    let bar = progress(args.seeds.end - args.seeds.start, "episodes");
    pool.install(|| write_dataset(args.seeds.clone(), &config, &args.out, |n| bar.inc(n)))?;
    bar.finish();
    Ok(())
}
