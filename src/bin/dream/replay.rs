//! `dream replay`: a recorded world once more.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bevy_dream::simulate::replay::StartImage;
use bevy_dream::simulate::{FrameHasher, Replay, Session, SessionOptions, Snapshot, frame_hash};
use bevy_dream::video::load_image;
use bevy_dream::{Error, Frame, Result};

use crate::args::ModelArgs;
use crate::output::{loading, progress, say};
use crate::playback::play;

/// Run a replay file again and print the SHA-256 of its frames
#[derive(clap::Args)]
pub struct Args {
    /// The replay file
    file: PathBuf,
    /// Fail at the first frame that is not the one recorded
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let text = fs::read_to_string(&args.file).map_err(Error::io(&args.file))?;
    let Replay { header, script, frames } =
        Replay::parse(&text).map_err(|e| Error::input(format!("{}: {e}", args.file.display())))?;
    let start = header.start.as_ref().map(|image| read_start(image, &args.file)).transpose()?;
    let (pool, model) = args.model.load()?;
    let info = model.info();
    if info.sha256 != header.model {
        return Err(Error::input(format!(
            "{} was recorded with other weights: they have SHA-256 {}, {} has {}",
            args.file.display(),
            header.model,
            info.name,
            info.sha256
        )));
    }
    let options = SessionOptions {
        seed: header.seed,
        prompt: header.prompt,
        start,
        size: Some(header.size),
        settings: Some(header.settings),
    };
    let bar = progress(frames.len() as u64, "frames");
    let (mut recorded, mut hasher) = (frames.iter(), FrameHasher::default());
    pool.install(|| {
        let mut session = loading(|| Session::new(Arc::clone(&model), options))?;
        if let Some(save) = &header.save {
            session.restore(&Snapshot::load(args.file.with_file_name(save), model.info())?)?;
        }
        play(&mut session, &script, frames.len() as u64, |tick, frame| {
            bar.inc(1);
            hasher.push(frame);
            let made = (tick, frame_hash(frame));
            match recorded.next() {
                Some(known) if args.verify && *known != made => Err(Error::input(format!(
                    "{}: the frames differ from tick {tick} on, the {}. of {}: recorded {} (tick {}), now {}",
                    args.file.display(),
                    frames.len() - recorded.len(),
                    frames.len(),
                    known.1,
                    known.0,
                    made.1
                ))),
                _ => Ok(()),
            }
        })
    })?;
    bar.finish();
    say(hasher.digest())
}

fn read_start(image: &StartImage, replay: &Path) -> Result<Frame> {
    let path = replay.with_file_name(&image.path);
    let picture = load_image(&path)?;
    let mut hasher = FrameHasher::default();
    hasher.push(&picture);
    if hasher.digest() != image.sha256 {
        return Err(Error::input(format!("{}: not the picture that the replay started from", path.display())));
    }
    Ok(picture)
}
