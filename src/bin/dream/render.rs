//! `dream render`: a dreamed walk as a video, without a window.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bevy_dream::simulate::replay::StartImage;
use bevy_dream::simulate::{
    ControlScript, FrameHasher, Replay, ReplayHeader, Session, SessionOptions, check_prompt, frame_hash,
};
use bevy_dream::video::{VideoWriter, load_image, save_png};
use bevy_dream::voxel::PolicyKind;
use bevy_dream::{Error, Frame, Result};

use crate::args::{ModelArgs, WorldArgs};
use crate::output::{loading, progress, say};
use crate::playback::{play, script_of};

/// Dream a walk into a video file, and a replay file beside it
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    world: WorldArgs,
    /// What the world looks like, of a model that reads text
    #[arg(long, default_value = "")]
    prompt: String,
    /// A controls file: JSON lines
    #[arg(long, value_name = "FILE", conflicts_with = "policy")]
    controls: Option<PathBuf>,
    /// Who walks: wander, explore, look, build, still or mixed
    #[arg(long, default_value = "wander", value_name = "NAME")]
    policy: PolicyKind,
    /// A picture to start from, of any size
    #[arg(long, value_name = "FILE")]
    start: Option<PathBuf>,
    /// Seed of all randomness
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Frames to make
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    frames: u64,
    /// x.gif, x.mp4 (with the feature mp4) or a folder of pictures (x/)
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let script = match &args.controls {
        Some(path) => read_controls(path)?,
        None => script_of(&args.policy, args.seed, args.frames),
    };
    let start = args.start.as_ref().map(load_image).transpose()?;
    let (pool, model) = args.model.load()?;
    if model.info().reads_text {
        check_prompt(&args.prompt)?;
    }
    let (settings, size) = (args.world.settings(&*model)?, args.world.size(&*model));
    let options = SessionOptions {
        seed: args.seed,
        prompt: args.prompt.clone(),
        start: start.clone(),
        size: Some(size),
        settings: Some(settings),
    };
    let mut video = VideoWriter::create(&args.out, size, model.info().fps)?;
    let start = start.map(|picture| keep_start(&picture, &args.out)).transpose()?;
    let bar = progress(args.frames, "frames");
    let mut frames = Vec::new();
    let played = pool.install(|| {
        let mut session = loading(|| Session::new(Arc::clone(&model), options))?;
        play(&mut session, &script, args.frames, |tick, frame| {
            video.push(frame)?;
            frames.push((tick, frame_hash(frame)));
            bar.inc(1);
            Ok(())
        })
    });
    bar.finish();
    if frames.is_empty() {
        return played;
    }
    // What was made stays, whatever came then.
    let finished = video.finish();
    let kept = frames.len();
    let replay = beside(&args.out, "replay.jsonl");
    let header = ReplayHeader {
        model: model.info().sha256.clone(),
        seed: args.seed,
        prompt: args.prompt.clone(),
        start,
        save: None,
        settings,
        size,
    };
    let saved = Replay { header, script, frames }.save(&replay);
    played.and(finished).and(saved).map_err(|error| Error::input(format!("{error}; {kept} frames are kept")))?;
    say(args.out.display())?;
    say(replay.display())
}

fn read_controls(path: &Path) -> Result<ControlScript> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    ControlScript::parse(&text).map_err(|e| Error::input(format!("{}: {e}", path.display())))
}

/// `walk.gif` and `walk/` are accompanied by `walk.{ending}`.
fn beside(out: &Path, ending: &str) -> PathBuf {
    // Joining the components drops a slash at the end.
    out.components().collect::<PathBuf>().with_extension(ending)
}

/// Keeps the start image beside the replay, which would not run again without it.
fn keep_start(picture: &Frame, out: &Path) -> Result<StartImage> {
    let path = beside(out, "start.png");
    save_png(picture, &path)?;
    let mut hasher = FrameHasher::default();
    hasher.push(picture);
    Ok(StartImage { path: path.file_name().unwrap_or_default().into(), sha256: hasher.digest() })
}
