//! Walk through a dreamed world: `cargo run --example explore`. F1 shows the keys.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bevy_dream::checkpoint::DeviceChoice;
use bevy_dream::plugin::explorer::{self, ExploreOptions};
use bevy_dream::simulate::ControlScript;
use bevy_dream::{Error, FrameSize, Result};
use clap::Parser;

#[derive(Parser)]
#[command(about = "Walk through a dreamed world")]
struct Args {
    /// Folder of the model
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/models/overworld"))]
    model: PathBuf,
    /// What the world looks like at first
    #[arg(long)]
    prompt: Option<String>,
    /// Seed of the first world
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where the model runs: auto, cpu, cuda or metal
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Worker threads of the model [default: the cores, at most 4]
    #[arg(long)]
    threads: Option<usize>,
    /// Frame size, for instance 176x96 [default: the model's]
    #[arg(long)]
    size: Option<FrameSize>,
    /// Controls file that plays first
    #[arg(long)]
    controls: Option<PathBuf>,
    /// Write a picture of the window --after so many seconds and close it; both may be given several times
    #[arg(long, requires = "after")]
    screenshot: Vec<PathBuf>,
    /// Seconds from the first frame to the screenshot
    #[arg(long, requires = "screenshot")]
    after: Vec<f32>,
}

fn options(args: Args) -> Result<ExploreOptions> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).map_err(Error::io(path))?;
        ControlScript::parse(&text)
    };
    if args.after.len() != args.screenshot.len() || !args.after.iter().all(|s| (0.0..1e6).contains(s)) {
        return Err(Error::input("give as many --after seconds as --screenshot files, from 0 up"));
    }
    Ok(ExploreOptions {
        prompt: args.prompt,
        seed: args.seed,
        device: args.device,
        threads: args.threads,
        size: args.size,
        script: args.controls.map(read).transpose()?,
        screenshots: args.screenshot.into_iter().zip(args.after.into_iter().map(Duration::from_secs_f32)).collect(),
        ..ExploreOptions::new(args.model)
    })
}

/// The arguments; help goes out as clap writes it, a mistake becomes one line.
fn args() -> Result<Args> {
    Args::try_parse().map_err(|usage| {
        if !usage.use_stderr() {
            usage.exit();
        }
        let text = usage.to_string();
        let reason = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error:");
        let words: Vec<_> = reason.split_whitespace().collect();
        Error::input(format!("{} (see --help)", words.join(" ")))
    })
}

#[allow(clippy::print_stderr, reason = "the error line of a program")]
fn main() -> ExitCode {
    match args().and_then(options).and_then(explorer::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
