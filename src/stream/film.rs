//! Recording a world while it runs: a video, and beside it what makes the same frames again.
//!
//! `walk.gif` is accompanied by `walk.dream`, the [saved](crate::simulate::Snapshot::save) moment at which it begins, and
//! `walk.replay.jsonl`, the [`Replay`] from there on. The video is written by a thread of its own, and what could be written of it
//! stays when the disk is full.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::Event;
use crate::model::ModelInfo;
use crate::simulate::{ControlScript, FrameHasher, Replay, ReplayHeader, Timeline};
use crate::video::VideoWriter;
use crate::{Controls, Error, Frame, Result};

/// What the writing thread is told.
enum Note {
    Frame(Frame),
    End(Box<Replay>),
}

/// A recording under way.
pub(super) struct Film {
    notes: Sender<Note>,
    header: ReplayHeader,
    script: ControlScript,
    hasher: FrameHasher,
    writer: JoinHandle<()>,
}

impl Film {
    /// Records `world` from now on. How the recording ends is told by `tell`, on another thread, which holds `token` as long.
    ///
    /// # Errors
    /// Those of [`VideoWriter::create`] and of saving the world.
    pub fn begin(
        world: &mut Timeline,
        model: &ModelInfo,
        path: &Path,
        token: Option<Arc<()>>,
        tell: impl Fn(Event) + Send + 'static,
    ) -> Result<Self> {
        let size = world.session().size();
        let video = VideoWriter::create(path, size, model.fps)?;
        let save = beside(path, "dream");
        world.snapshot()?.save(&save, model)?;
        let (notes, inbox) = unbounded();
        let path = path.to_owned();
        let writer = thread::Builder::new()
            .name("dream-film".into())
            .spawn(move || {
                match write(video, &inbox, &path) {
                    Ok(()) => tell(Event::Recorded(path)),
                    Err(error) => tell(Event::Rejected(error.to_string())),
                }
                drop(token);
            })
            .map_err(|e| Error::Thread(e.to_string()))?;
        let session = world.session();
        let header = ReplayHeader {
            model: model.sha256.clone(),
            seed: session.seed(),
            prompt: session.prompt().into(),
            start: None,
            save: save.file_name().map(PathBuf::from),
            settings: session.settings(),
            size,
            frames: 0,
            frames_sha256: String::new(),
        };
        Ok(Self { notes, header, script: ControlScript::default(), hasher: FrameHasher::default(), writer })
    }

    /// Notes the controls of a tick, and returns them as far as a replay file can hold them.
    pub fn controls(&mut self, tick: u64, controls: Controls) -> Controls {
        self.script.record(tick, controls);
        self.script.at(tick).0
    }

    /// Notes a prompt that is in force from `tick` on.
    pub fn prompt(&mut self, tick: u64, prompt: &str) {
        self.script.record_prompt(tick, prompt);
    }

    /// Notes a frame; whether anybody still writes.
    pub fn frame(&mut self, frame: &Frame) -> bool {
        self.hasher.push(frame);
        self.header.frames += 1;
        self.notes.send(Note::Frame(frame.clone())).is_ok()
    }

    /// Ends the recording; the thread that still writes it.
    pub fn end(self) -> JoinHandle<()> {
        let Self { notes, mut header, script, hasher, writer } = self;
        header.frames_sha256 = hasher.digest();
        // A thread that is gone has told why.
        notes.send(Note::End(Box::new(Replay { header, script }))).ok();
        writer
    }
}

/// Writes what comes until it ends.
fn write(mut video: VideoWriter, inbox: &Receiver<Note>, path: &Path) -> Result<()> {
    for note in inbox {
        match note {
            Note::Frame(frame) => {
                if let Err(error) = video.push(&frame) {
                    // What is written stays, as far as the disk holds it.
                    video.finish().ok();
                    return Err(error);
                }
            }
            Note::End(replay) => {
                video.finish()?;
                let beside = beside(path, "replay.jsonl");
                return fs::write(&beside, replay.to_string()).map_err(Error::io(&beside));
            }
        }
    }
    video.finish()
}

/// `walk.gif` and `walk/` are accompanied by `walk.{ending}`.
fn beside(path: &Path, ending: &str) -> PathBuf {
    // Joining the components drops a slash at the end.
    path.components().collect::<PathBuf>().with_extension(ending)
}
