//! A folder of numbered PNG files.

use std::fs;
use std::path::Path;

use super::{Encoder, save_png};
use crate::partial::Partial;
use crate::{Error, Frame, Result};

pub(super) struct Folder {
    partial: Partial,
    frames: usize,
}

impl Folder {
    pub(super) fn create(path: &Path) -> Result<Self> {
        if path.is_dir() && fs::read_dir(path).map_err(Error::io(path))?.next().is_some() {
            return Err(Error::input(format!("{}: the folder is not empty", path.display())));
        }
        let partial = Partial::new(path)?;
        fs::create_dir(partial.path()).map_err(Error::io(path))?;
        Ok(Self { partial, frames: 0 })
    }
}

impl Encoder for Folder {
    fn push(&mut self, frame: &Frame) -> Result<()> {
        let path = self.partial.path().join(format!("frame-{:06}.png", self.frames));
        let saved = save_png(frame, &path);
        match saved {
            Ok(()) => self.frames += 1,
            // Half a picture is none.
            Err(_) => _ = fs::remove_file(path),
        }
        saved
    }

    fn finish(self: Box<Self>) -> Result<()> {
        if self.frames == 0 {
            return Err(Error::input(format!("{}: a video needs a frame", self.partial.target().display())));
        }
        self.partial.finish()
    }
}
