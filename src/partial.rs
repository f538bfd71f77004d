//! A file or folder that takes its name only when it is whole.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// A path to write to beside the one meant, removed when dropped unless [`Partial::finish`] put it in place.
pub struct Partial {
    target: PathBuf,
    temporary: Option<PathBuf>,
}

impl Partial {
    /// Reserves `target`; the caller makes the file or folder at [`Partial::path`], whose name nobody else is given.
    pub fn new(target: &Path) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = target
            .file_name()
            .ok_or_else(|| Error::input(format!("{}: not a name that can be written", target.display())))?;
        let mut temporary = name.to_owned();
        temporary.push(format!(".{}-{}.part", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        Ok(Self { target: target.to_owned(), temporary: Some(target.with_file_name(temporary)) })
    }

    /// The place to write to.
    pub fn path(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.target)
    }

    /// The place meant.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Puts what was written in place.
    pub fn finish(mut self) -> Result<()> {
        fs::rename(self.path(), &self.target).map_err(Error::io(&self.target))?;
        self.temporary = None;
        Ok(())
    }
}

/// Writes a file that is there whole or not at all, in place of one that may be there.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = Partial::new(path)?;
    let written = File::create(partial.path()).and_then(|mut file| {
        file.write_all(bytes)?;
        // Or a crash of the system could leave the new name with nothing in it.
        file.sync_all()
    });
    written.map_err(Error::io(path))?;
    partial.finish()
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            // Nobody is left to tell that a temporary could not be removed.
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}
