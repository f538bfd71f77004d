//! Time: pausing, going back, branches, saves.

use std::time::Duration;

use bevy::prelude::*;

use super::Explored;
use super::layout::sheet;
use super::truth::{Shown, Truth};
use crate::controls::TICKS_PER_SECOND;
use crate::plugin::{Dream, DreamLoad, DreamRewind, DreamSave, DreamStatus, DreamStep, DreamSwitch};

/// Time between two steps back while Backspace is held; each step is twice as long.
const REWIND_EVERY: Duration = Duration::from_millis(100);

/// The quick save.
const QUICK_SAVE: &str = "quicksave.dream";

/// The list of branches.
#[derive(Component)]
pub(super) struct BranchList;

/// Backspace goes back in time while it is held, at twice the speed.
pub(super) fn rewind(
    keys: Res<ButtonInput<KeyCode>>,
    time: Res<Time>,
    dream: Single<(Entity, &mut Dream)>,
    // How long ago the last step was, and whether the world stood still before.
    mut going: Local<Option<(Duration, bool)>>,
    mut commands: Commands,
) {
    let (entity, mut dream) = dream.into_inner();
    if going.is_none() && keys.just_pressed(KeyCode::Backspace) {
        *going = Some((REWIND_EVERY, dream.paused));
        dream.paused = true;
    } else if let Some((_, paused)) = *going
        && !keys.pressed(KeyCode::Backspace)
    {
        *going = None;
        dream.paused = paused;
    }
    if let Some((waited, _)) = &mut *going {
        *waited += time.delta();
        if *waited >= REWIND_EVERY {
            *waited = Duration::ZERO;
            commands.trigger(DreamRewind { entity, time: 2 * REWIND_EVERY });
        }
    }
}

/// P pauses, the full stop makes one chunk; B goes to the newest branch and Shift+B to the oldest; F5 saves, F9 loads.
pub(super) fn keys(
    keys: Res<ButtonInput<KeyCode>>,
    dream: Single<(Entity, &mut Dream, &DreamStatus)>,
    explored: Res<Explored>,
    mut truth: ResMut<Truth>,
    mut shown: ResMut<Shown>,
    mut commands: Commands,
) {
    let (entity, mut dream, status) = dream.into_inner();
    if keys.just_pressed(KeyCode::KeyP) {
        dream.paused = !dream.paused;
    }
    if keys.just_pressed(KeyCode::Period) {
        dream.paused = true;
        commands.trigger(DreamStep { entity });
    }
    if keys.just_pressed(KeyCode::KeyB)
        && let Some(newest) = status.branches.len().checked_sub(1)
    {
        let oldest = keys.any_pressed([KeyCode::ShiftLeft, KeyCode::ShiftRight]);
        commands.trigger(DreamSwitch { entity, branch: if oldest { 0 } else { newest } });
    }
    if keys.just_pressed(KeyCode::F5) {
        commands.trigger(DreamSave { entity, path: explored.0.folder.join(QUICK_SAVE) });
    }
    if keys.just_pressed(KeyCode::F9) {
        truth.lose(&mut shown);
        commands.trigger(DreamLoad { entity, path: explored.0.folder.join(QUICK_SAVE) });
    }
}

/// Lists the branches; a click goes to one.
pub(super) fn list(
    status: Single<(Entity, &DreamStatus), Changed<DreamStatus>>,
    list: Single<Entity, With<BranchList>>,
    mut listed: Local<Vec<std::ops::Range<u64>>>,
    mut commands: Commands,
) {
    let (entity, status) = *status;
    if *listed == status.branches {
        return;
    }
    listed.clone_from(&status.branches);
    let mut list = commands.entity(*list);
    list.despawn_children();
    let seconds = |tick: u64| tick as f32 / TICKS_PER_SECOND;
    for (branch, ticks) in listed.iter().enumerate() {
        let key = if branch + 1 == listed.len() { "   B" } else { "" };
        let words = format!("branch {:.1} to {:.1} s{key}", seconds(ticks.start), seconds(ticks.end));
        list.with_children(|list| {
            list.spawn((
                Text::new(words),
                TextFont { font_size: FontSize::VMin(2.2), ..default() },
                Node { padding: vmin(0.6).all(), ..default() },
                sheet(),
            ))
            .observe(move |_: On<Pointer<Press>>, mut commands: Commands| {
                commands.trigger(DreamSwitch { entity, branch });
            });
        });
    }
}
