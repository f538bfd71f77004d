//! `dream play`: the window.

use std::sync::Arc;

use bevy_dream::Result;
use bevy_dream::plugin::ModelLoader;
use bevy_dream::plugin::explorer::{ExploreOptions, run_with};

use crate::args::{ModelArgs, WorldArgs};

/// Open a window and walk
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    world: WorldArgs,
    /// What the world looks like [default: the first preset]
    #[arg(long)]
    prompt: Option<String>,
    /// Seed of all randomness
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    // A mistake is one line in the terminal rather than a window with a message.
    let (_, model) = args.model.load()?;
    let options = ExploreOptions {
        prompt: args.prompt.clone(),
        seed: args.seed,
        threads: Some(args.model.threads()),
        size: args.world.size,
        settings: Some(args.world.settings(&*model)?),
        ..ExploreOptions::new(&args.model.model)
    };
    run_with(options, ModelLoader::new(move |_| Ok(Arc::clone(&model))))
}
