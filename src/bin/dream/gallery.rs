//! `dream gallery`: pictures of what a model does.

use std::path::PathBuf;
use std::sync::Arc;

use bevy_dream::Result;
use bevy_dream::eval::gallery;

use crate::args::{ModelArgs, WorldArgs, world_threads};
use crate::output::{progress, say};

/// Show what a model does, unselected: walks, a minute, the truth beside it, changed words, a look back
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    world: WorldArgs,
    /// Folder for the pictures
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let (_, model) = args.model.load()?;
    let (settings, size) = (args.world.settings(&*model)?, args.world.size(&*model));
    let bar = progress(1000, "‰");
    world_threads(args.model.threads())?.install(|| {
        gallery(Arc::clone(&model), settings, size, &args.out, &|what, share| {
            bar.set_message(what.to_owned());
            bar.set_position((share * 1000.0) as u64);
        })
    })?;
    bar.finish_and_clear();
    say(args.out.display())
}
