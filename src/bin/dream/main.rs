//! `dream`: the command line tool.

mod data;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "dream", about = "Walk through worlds that a diffusion transformer dreams", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write training episodes of the teacher world
    Data(data::Args),
}

#[allow(clippy::print_stderr, reason = "the error line of a command line tool")]
fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Data(args) => data::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
