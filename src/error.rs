//! The library's error type.

use std::path::PathBuf;

/// A result with the library's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, each with one line that says what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A model folder or a weights file is missing, damaged, or not what its config says.
    #[error("model {path}: {reason}")]
    Model {
        /// The model folder or file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An input (prompt, image, controls, setting) cannot be used.
    #[error("{0}")]
    Input(String),
    /// A tensor operation failed.
    #[error("the model failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// What a model [watches](crate::model::Rollout::watch) was raised.
    #[error("the chunk was left: the world stands where it stood before it")]
    Interrupted,
    /// The graphics device failed, and setting it up anew did not help.
    #[error("the graphics device failed: {0}")]
    Graphics(String),
    /// The model thread is gone.
    #[error("the model thread stopped: {0}")]
    Thread(String),
}

impl Error {
    /// An [`Error::Io`] at `path`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// An [`Error::Model`] at `path`. A reason that quotes a hostile file stays one line.
    pub fn model(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Model { path: path.into(), reason: reason.into().replace(char::is_control, " ") }
    }

    /// An [`Error::Input`].
    pub fn input(reason: impl Into<String>) -> Self {
        Self::Input(reason.into())
    }
}
