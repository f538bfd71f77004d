//! What a game may trigger.

use bevy::prelude::*;

use super::event::Tell;
use super::run::{Running, session_options};
use super::{Dream, DreamError, DreamLoad, DreamRecord, DreamRestart, DreamRewind, DreamSave, DreamStep, DreamSwitch};
use crate::stream::Stream;
use crate::{Error, Result};

/// Begins the world anew.
pub(super) fn restart(on: On<DreamRestart>, mut dreams: Query<(&mut Dream, &Running)>, commands: Commands) {
    match dreams.get_mut(on.entity) {
        // Another thread is started for a dream that changed.
        Ok((mut dream, running)) if running.stream.is_finished() => dream.set_changed(),
        Ok((dream, running)) => obey(on.entity, Some(running), commands, |s| s.new_world(session_options(&dream))),
        Err(_) => obey(on.entity, None, commands, Stream::step),
    }
}

pub(super) fn step(on: On<DreamStep>, dreams: Query<&Running>, commands: Commands) {
    obey(on.entity, dreams.get(on.entity).ok(), commands, Stream::step);
}

pub(super) fn switch(on: On<DreamSwitch>, dreams: Query<&Running>, commands: Commands) {
    obey(on.entity, dreams.get(on.entity).ok(), commands, |stream| stream.switch(on.branch));
}

pub(super) fn rewind(on: On<DreamRewind>, dreams: Query<&Running>, commands: Commands) {
    obey(on.entity, dreams.get(on.entity).ok(), commands, |stream| stream.rewind(on.time));
}

pub(super) fn record(on: On<DreamRecord>, dreams: Query<&Running>, commands: Commands) {
    obey(on.entity, dreams.get(on.entity).ok(), commands, |stream| stream.record(on.path.clone()));
}

pub(super) fn save(on: On<DreamSave>, dreams: Query<&Running>, commands: Commands) {
    obey(on.entity, dreams.get(on.entity).ok(), commands, |stream| stream.save(&on.path));
}

pub(super) fn load(on: On<DreamLoad>, dreams: Query<&Running>, commands: Commands) {
    obey(on.entity, dreams.get(on.entity).ok(), commands, |stream| stream.load(&on.path));
}

fn obey(
    entity: Entity,
    running: Option<&Running>,
    mut commands: Commands,
    command: impl FnOnce(&Stream) -> Result<()>,
) {
    let outcome = match running {
        Some(running) => command(&running.stream),
        None => Err(Error::input("there is no dreamed world yet")),
    };
    if let Err(error) = outcome {
        commands.tell(DreamError { entity, reason: error.to_string(), fatal: false });
    }
}
