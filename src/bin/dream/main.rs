//! `dream`: the command line tool. Results go to stdout, everything else to stderr.

mod args;
mod bench;
mod data;
mod env;
mod eval;
mod gallery;
mod inspect;
mod output;
#[cfg(feature = "window")]
mod play;
mod playback;
mod render;
mod replay;
mod verify;

use std::process::ExitCode;
use std::time::Instant;

use bevy_dream::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "dream", about = "Walk through worlds that a diffusion transformer dreams", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "window")]
    Play(play::Args),
    Render(render::Args),
    Replay(replay::Args),
    Bench(bench::Args),
    Eval(eval::Args),
    Gallery(gallery::Args),
    Inspect(inspect::Args),
    Verify(verify::Args),
    Data(data::Args),
    Env(env::Args),
}

impl Command {
    fn run(&self, began: Instant) -> Result<()> {
        match self {
            #[cfg(feature = "window")]
            Self::Play(args) => play::run(args),
            Self::Render(args) => render::run(args),
            Self::Replay(args) => replay::run(args),
            Self::Bench(args) => bench::run(args, began),
            Self::Eval(args) => eval::run(args),
            Self::Gallery(args) => gallery::run(args),
            Self::Inspect(args) => inspect::run(args),
            Self::Verify(args) => verify::run(args),
            Self::Data(args) => data::run(args),
            Self::Env(args) => env::run(args),
        }
    }
}

fn main() -> ExitCode {
    let began = Instant::now();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return refuse_usage(&usage),
    };
    match cli.command.run(began) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::reader_left(&error) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

/// Help goes out as clap writes it; a mistake becomes one line.
fn refuse_usage(usage: &clap::Error) -> ExitCode {
    if !usage.use_stderr() {
        // Nobody is left to tell when stdout is closed.
        let _ = usage.print();
        return ExitCode::SUCCESS;
    }
    let text = usage.to_string();
    let reason = text.split("\n\n").next().unwrap_or_default();
    fail(&format!("{} (see --help)", reason.trim_start_matches("error:").trim()))
}

#[allow(clippy::print_stderr, reason = "the error line of a command line tool")]
fn fail(reason: &str) -> ExitCode {
    let words: Vec<_> = reason.split_whitespace().collect();
    eprintln!("error: {}", words.join(" "));
    ExitCode::FAILURE
}
