//! Pictures of the window on schedule.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bevy::prelude::*;
use bevy::render::view::screenshot::{Screenshot, ScreenshotCaptured, save_to_disk};

use super::{Ended, Explored};
use crate::plugin::{DreamError, DreamStatus};
use crate::{Error, Result};

/// How far the schedule is.
#[derive(Resource, Default)]
pub(super) struct Taken {
    first_frame: Option<Instant>,
    asked: usize,
    captured: usize,
}

pub(super) fn take(
    mut commands: Commands,
    explored: Res<Explored>,
    status: Single<&DreamStatus>,
    mut taken: ResMut<Taken>,
    mut exit: MessageWriter<AppExit>,
) {
    let schedule = &explored.0.screenshots;
    if schedule.is_empty() || status.size == UVec2::ZERO {
        return;
    }
    let now = Instant::now();
    let elapsed = now - *taken.first_frame.get_or_insert(now);
    if let Some((path, after)) = schedule.get(taken.asked)
        && elapsed >= *after
    {
        taken.asked += 1;
        commands
            .spawn(Screenshot::primary_window())
            .observe(save_to_disk(path.clone()))
            .observe(|_: On<ScreenshotCaptured>, mut taken: ResMut<Taken>| taken.captured += 1);
    }
    if taken.captured == schedule.len() {
        exit.write(AppExit::Success);
    }
}

/// Nobody watches a scheduled run: an error ends it.
pub(super) fn on_error(
    error: On<DreamError>,
    explored: Res<Explored>,
    ended: Res<Ended>,
    mut exit: MessageWriter<AppExit>,
) {
    if !explored.0.screenshots.is_empty() && error.fatal {
        ended.tell(Error::Thread(error.reason.clone()));
        exit.write(AppExit::error());
    }
}

/// Whether all pictures are there.
pub(super) fn check(schedule: &[(PathBuf, Duration)]) -> Result<()> {
    match schedule.iter().find(|(path, _)| !path.is_file()) {
        Some((path, _)) => Err(Error::input(format!("{}: the screenshot could not be written", path.display()))),
        None => Ok(()),
    }
}
