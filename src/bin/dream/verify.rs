//! `dream verify`: a model against what its reference implementation computed.

use std::path::PathBuf;

use bevy_dream::checkpoint::family;
use bevy_dream::family::facts::notice;
use bevy_dream::family::verify::{Stage, verify};
use bevy_dream::kernel::{ThreadPool, default_threads};
use bevy_dream::{Error, Result};

use crate::output::{loading, note, say};

/// Compare a model with what its reference implementation computed, stage by stage
#[derive(clap::Args)]
pub struct Args {
    /// A folder with a model and case.safetensors
    folder: PathBuf,
    /// Worker threads of the model [default: the cores, at most 4]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command; an error beyond its gate is an error.
pub fn run(args: &Args) -> Result<()> {
    let pool = ThreadPool::new(args.threads.unwrap_or_else(default_threads))?;
    let stages = pool.install(|| loading(|| verify(&args.folder)))?;
    if let Some(notice) = notice(&family(&args.folder)?) {
        note(notice);
    }
    if args.json {
        say(serde_json::to_string(&stages).map_err(|e| Error::input(e.to_string()))?)?;
    } else {
        for Stage { name, error, tolerance, seconds } in &stages {
            say(format!("{name:<24} off by {error:.1e}, at most {tolerance:.0e} allowed, in {seconds:.3} s"))?;
        }
    }
    match stages.iter().find(|stage| !stage.passed()) {
        None => Ok(()),
        Some(Stage { name, error, .. }) => {
            Err(Error::model(&args.folder, format!("{name} is off by {error:.1e} of the largest value")))
        }
    }
}
