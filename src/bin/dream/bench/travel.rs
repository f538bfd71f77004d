//! How fast one can go to another moment.

use std::fs;
use std::time::{Duration, Instant};

use bevy_dream::simulate::{Session, Snapshot};
use bevy_dream::stream::{Event, Stream, TimedFrame};
use bevy_dream::{Error, Result};
use serde_json::{Value, json};

use super::{ms, round};

/// Names of figures and their values.
pub type Figures = Vec<(String, Value)>;

/// Times that a figure is the median of.
const REPEATS: usize = 9;

/// How far back the world is taken, if it is old enough.
const BACK: Duration = Duration::from_secs(10);

/// Longer than this nothing takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes a running world of this age, whose past takes so many bytes, back, until one sees where it is, and until it goes on.
pub fn rewind(stream: &mut Stream, age: Duration, past: usize) -> Result<Figures> {
    let back = BACK.min(age / 2);
    let asked = Instant::now();
    stream.rewind(back)?;
    let mut world = None;
    let mut until = |shows: fn(&TimedFrame) -> bool| {
        while asked.elapsed() < PATIENCE {
            for event in stream.events() {
                match event {
                    Event::Moved { world: moved, .. } => world = Some(moved),
                    Event::Failed(reason) | Event::Ended(reason) => return Err(Error::Thread(reason)),
                    _ => {}
                }
            }
            match stream.due_frame(Instant::now()) {
                Some(frame) if Some(frame.chunk.world) == world && shows(&frame) => return Ok(asked.elapsed()),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        Err(Error::Thread("the world does not go back".into()))
    };
    let seen = until(|_| true)?;
    // A chunk that was made has controls.
    let goes_on = until(|frame| !frame.chunk.controls.is_empty())?;
    Ok(vec![
        ("timeline_s".into(), json!(round(age.as_secs_f64()))),
        ("timeline_mb".into(), json!(mb(past as f64))),
        ("rewind_s".into(), json!(round(back.as_secs_f64()))),
        ("rewind_ms".into(), json!(ms(&[seen], 0.5))),
        ("go_on_ms".into(), json!(ms(&[goes_on], 0.5))),
    ])
}

/// Times and size of a snapshot of `session`.
pub fn snapshots(session: &mut Session) -> Result<Figures> {
    let path = std::env::temp_dir().join(format!("bevy_dream-bench-{}.dream", std::process::id()));
    let info = session.model().info().clone();
    let mut times = [const { Vec::new() }; 4];
    let mut bytes = 0;
    for _ in 0..REPEATS {
        let mut clock = Instant::now();
        let mut lap = |times: &mut Vec<Duration>| times.push(std::mem::replace(&mut clock, Instant::now()).elapsed());
        let snapshot = session.snapshot()?;
        lap(&mut times[0]);
        session.restore(&snapshot)?;
        lap(&mut times[1]);
        snapshot.save(&path, &info)?;
        lap(&mut times[2]);
        bytes = fs::metadata(&path).map_err(Error::io(&path))?.len();
        Snapshot::load(&path, &info)?;
        lap(&mut times[3]);
    }
    fs::remove_file(&path).map_err(Error::io(&path))?;
    let names = ["snapshot_ms", "restore_ms", "save_ms", "load_ms"];
    let times = names.iter().zip(times).map(|(name, times)| (name.to_string(), json!(ms(&times, 0.5))));
    Ok(times.chain([("snapshot_mb".to_owned(), json!(mb(bytes as f64)))]).collect())
}

/// Megabytes, of a million bytes.
fn mb(bytes: f64) -> f64 {
    round(bytes / 1e6)
}
