//! What the tool prints: results on stdout, progress and logs on stderr.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use bevy_dream::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};

/// Prints a line of results. A reader that has gone away is an error, not a panic.
pub fn say(line: impl Display) -> Result<()> {
    writeln!(io::stdout(), "{line}").map_err(Error::io("stdout"))
}

/// Tells the user something beside the results.
#[allow(clippy::print_stderr, reason = "stdout is for results")]
pub fn note(line: impl Display) {
    eprintln!("note: {line}");
}

/// Whether an error only says that nobody reads the results any more, as in `dream inspect | head -1`.
pub fn reader_left(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

/// A progress bar over `length` things called `unit`.
pub fn progress(length: u64, unit: &str) -> ProgressBar {
    let template = format!("{{bar:30}} {{pos}}/{{len}} {unit}  {{per_sec}}  {{eta}} left  {{msg}}");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(length).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
