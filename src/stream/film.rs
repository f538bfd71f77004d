//! Recording a world while it runs: a video, and beside it what makes the same frames again.
//!
//! `walk.gif` is accompanied by `walk.dream`, the [saved](crate::simulate::Snapshot::save) moment at which it begins, and
//! `walk.replay.jsonl`, the [`Replay`] from there on. The video is written by a thread of its own, once the moment is saved. No
//! frame is left out: a world that is faster than the disk waits for it. What could be written stays, with its replay, when the
//! disk is full.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::Event;
use super::saves::Saves;
use super::worker::Teller;
use crate::model::WorldModel;
use crate::simulate::{ControlScript, Replay, ReplayHeader, Timeline, frame_hash};
use crate::video::VideoWriter;
use crate::{Controls, Error, Frame, Result};

/// Frames that wait to be written at most: the model thread waits before one more.
const WAITING: usize = 32;

/// What the writing thread is told.
enum Note {
    Frame(Frame),
    End(ControlScript),
}

/// A recording under way.
pub(super) struct Film {
    notes: Sender<Note>,
    script: ControlScript,
    /// Whether no more can be written.
    stuck: Arc<AtomicBool>,
    writer: JoinHandle<()>,
}

impl Film {
    /// Records `world` from now on. How the recording ends is told by another thread, which holds `unwritten` as long.
    ///
    /// # Errors
    /// Those of [`VideoWriter::create`] and of a snapshot. That this cannot be saved is told as the recording's end.
    pub fn begin(
        world: &mut Timeline,
        model: Arc<dyn WorldModel>,
        path: &Path,
        unwritten: Option<Arc<()>>,
        teller: Teller,
        saves: &mut Saves,
    ) -> Result<Self> {
        let size = world.session().size();
        let video = VideoWriter::create(path, size, model.info().fps)?;
        let (snapshot, save) = (world.snapshot()?, beside(path, "dream"));
        let (notes, inbox) = bounded(WAITING);
        let (done, saved) = bounded(1);
        let session = world.session();
        let header = ReplayHeader {
            model: model.info().sha256.clone(),
            seed: session.seed(),
            prompt: session.prompt().into(),
            start: None,
            save: save.file_name().map(PathBuf::from),
            settings: session.settings(),
            size,
        };
        let (path, first_tick) = (path.to_owned(), session.tick());
        let stuck = Arc::new(AtomicBool::new(false));
        let cut = Arc::clone(&stuck);
        let writer = thread::Builder::new()
            .name("dream-film".into())
            .spawn(move || {
                let begun = saved.recv().unwrap_or_else(|e| Err(Error::Thread(e.to_string())));
                teller.tell(match begun.map(|()| write(video, &inbox, &path, header, first_tick, &cut)) {
                    Ok(Ok(())) => Event::Recorded(path),
                    Ok(Err(error)) => Event::Rejected(format!("{error}; what was recorded before stays")),
                    Err(error) => Event::Rejected(error.to_string()),
                });
                drop(unwritten);
            })
            .map_err(|e| Error::Thread(e.to_string()))?;
        saves.add(move || snapshot.save(&save, model.info()), move |saved| drop(done.send(saved)));
        Ok(Self { notes, script: ControlScript::default(), stuck, writer })
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

    /// Notes a frame, as soon as there is room; whether it is still written.
    pub fn frame(&mut self, frame: &Frame) -> bool {
        self.notes.send(Note::Frame(frame.clone())).is_ok() && !self.stuck.load(Ordering::Relaxed)
    }

    /// Ends the recording; the thread that still writes it.
    pub fn end(self) -> JoinHandle<()> {
        // A thread that is gone has told why.
        self.notes.send(Note::End(self.script)).ok();
        self.writer
    }
}

/// Writes what comes until it ends; on an error `stuck` is raised, and what comes then is left out.
fn write(
    mut video: VideoWriter,
    inbox: &Receiver<Note>,
    path: &Path,
    header: ReplayHeader,
    first_tick: u64,
    stuck: &AtomicBool,
) -> Result<()> {
    let mut replay = Replay { header, script: ControlScript::default(), frames: Vec::new() };
    let mut written = Ok(());
    for note in inbox {
        match note {
            Note::Frame(frame) if written.is_ok() => {
                written = video.push(&frame);
                match written {
                    Ok(()) => replay.frames.push((first_tick + replay.frames.len() as u64, frame_hash(&frame))),
                    Err(_) => stuck.store(true, Ordering::Relaxed),
                }
            }
            Note::Frame(_) => {}
            Note::End(script) => replay.script = script,
        }
    }
    let finished = video.finish();
    if replay.frames.is_empty() {
        return written.and(finished);
    }
    let saved = replay.save(beside(path, "replay.jsonl"));
    written.and(finished).and(saved)
}

/// `walk.gif` and `walk/` are accompanied by `walk.{ending}`.
fn beside(path: &Path, ending: &str) -> PathBuf {
    // Joining the components drops a slash at the end.
    path.components().collect::<PathBuf>().with_extension(ending)
}
