//! A walk without a window, to a video and a picture.

use std::path::Path;

use super::{ExploreOptions, say};
use crate::kernel::{ThreadPool, default_threads};
use crate::plugin::ModelLoader;
use crate::simulate::{ControlScript, Session, SessionOptions};
use crate::video::{VideoWriter, contact_sheet, save_png};
use crate::{Error, Frame, Result};

/// What is written, in the present folder.
const VIDEO: &str = "dream-tour.gif";
const SHEET: &str = "dream-tour.png";

/// Frames in a row of the contact sheet, and its rows.
const SHEET_FRAMES: [usize; 2] = [6, 4];

/// Renders the tour and prints where it is.
///
/// # Errors
/// The model's errors, and [`Error::Io`] when the files cannot be written.
pub(super) fn render(options: &ExploreOptions, loader: &ModelLoader) -> Result<()> {
    let script = match &options.script {
        Some(script) => script.clone(),
        None => ControlScript::parse(include_str!("../../../assets/tour.jsonl"))?,
    };
    let model = loader.load(&options.model_dir)?;
    let (ticks, fps) = (model.info().frames_per_chunk, model.info().fps);
    let pool = ThreadPool::new(options.threads.unwrap_or_else(default_threads))?;
    let frames = pool.install(|| -> Result<Vec<Frame>> {
        let mut session = Session::new(
            model,
            SessionOptions {
                seed: options.seed,
                prompt: options.first_prompt(),
                start: None,
                size: options.size,
                settings: options.settings,
            },
        )?;
        let mut video = VideoWriter::create(VIDEO, session.size(), fps)?;
        let mut frames = Vec::new();
        while session.tick() <= script.last_tick() {
            let (controls, prompt) = script.chunk(session.tick(), ticks);
            prompt.map_or(Ok(()), |prompt| session.set_prompt(prompt))?;
            let chunk = session.step(&controls)?;
            chunk.frames.iter().try_for_each(|frame| video.push(frame))?;
            frames.extend(chunk.frames);
        }
        video.finish()?;
        Ok(frames)
    })?;
    let [columns, rows] = SHEET_FRAMES;
    let picked: Vec<_> =
        (0..columns * rows).map(|i| frames[i * (frames.len() - 1) / (columns * rows - 1)].clone()).collect();
    let sheet: Vec<_> = picked.chunks(columns).map(<[_]>::to_vec).collect();
    save_png(&contact_sheet(&sheet, 1), SHEET)?;
    for file in [VIDEO, SHEET] {
        let path = Path::new(file).canonicalize().map_err(Error::io(file))?;
        say(&path.display().to_string());
    }
    Ok(())
}
