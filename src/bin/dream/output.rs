//! What the tool prints: results on stdout, progress and logs on stderr.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use bevy_dream::checkpoint::{Progress, watch};
use bevy_dream::{Error, Result};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

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

/// Does what reads a model, or what reads a prompt for it, and shows how far that is, once it has taken a second.
pub fn loading<T>(load: impl FnOnce() -> T) -> T {
    const PATIENCE: Duration = Duration::from_secs(1);
    let (start, mut bar) = (Instant::now(), None);
    let show = move |Progress { done, total }| {
        if start.elapsed() > PATIENCE {
            let bar: &mut ProgressBar = bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template("loading {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}");
                let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
                ProgressBar::new(total).with_style(style).with_finish(ProgressFinish::AndClear)
            });
            bar.set_length(total);
            bar.set_position(done);
        }
    };
    watch(show, load)
}
