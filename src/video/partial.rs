//! A file or folder that takes its name only when it is whole.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A path to write to beside the one meant, removed when dropped unless [`Partial::finish`] put it in place.
pub(super) struct Partial {
    target: PathBuf,
    temporary: Option<PathBuf>,
}

impl Partial {
    /// Reserves `target`; the caller makes the file or folder at [`Partial::path`].
    pub(super) fn new(target: &Path) -> Result<Self> {
        let name = target
            .file_name()
            .ok_or_else(|| Error::input(format!("{}: not a name that can be written", target.display())))?;
        let mut temporary = name.to_owned();
        temporary.push(format!(".{}.part", std::process::id()));
        Ok(Self { target: target.to_owned(), temporary: Some(target.with_file_name(temporary)) })
    }

    /// The place to write to.
    pub(super) fn path(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.target)
    }

    /// The place meant.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Puts what was written in place.
    pub(super) fn finish(mut self) -> Result<()> {
        fs::rename(self.path(), &self.target).map_err(Error::io(&self.target))?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            // Nobody is left to tell that a temporary could not be removed.
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}
