//! What can be changed while one walks: settings, pixels, and whether it is recorded.

use std::path::{Path, PathBuf};

use bevy::image::ImageSampler;
use bevy::prelude::*;

use super::Explored;
use super::layout::MessageLine;
use crate::model::Settings;
use crate::plugin::{Dream, DreamRecord, DreamRewind, DreamScreen, DreamStatus};
use crate::simulate::check_settings;

/// How much context noise a key press adds or takes.
const NOISE_STEP: f32 = 0.05;

/// What a recording is written as: the best that this build writes.
pub(super) const FORMAT: &str = if cfg!(feature = "mp4") { "mp4" } else { "gif" };

/// Brackets change the steps, minus and equals the context noise.
pub(super) fn settings(
    keys: Res<ButtonInput<KeyCode>>,
    dream: Single<(&mut Dream, &DreamStatus)>,
    mut message: Single<&mut Text, With<MessageLine>>,
) {
    let (mut dream, status) = dream.into_inner();
    let Some(now) = status.settings else { return };
    let pressed = |key| keys.just_pressed(key);
    let mut wanted = now;
    wanted.steps =
        wanted.steps + usize::from(pressed(KeyCode::BracketRight)) - usize::from(pressed(KeyCode::BracketLeft));
    wanted.context_noise +=
        NOISE_STEP * f32::from(i8::from(pressed(KeyCode::Equal)) - i8::from(pressed(KeyCode::Minus)));
    if wanted == now {
        return;
    }
    // Twentieths, which adding up tenths of seconds does not keep exactly.
    wanted.context_noise = (wanted.context_noise / NOISE_STEP).round() * NOISE_STEP;
    match check_settings(wanted) {
        Ok(()) => {
            let Settings { steps, context_noise, .. } = wanted;
            message.0 = format!("{steps} steps, context noise {context_noise:.2}");
            dream.settings = Some(wanted);
        }
        Err(error) => message.0 = error.to_string(),
    }
}

/// F shows the pixels sharp or smooth.
pub(super) fn filter(
    keys: Res<ButtonInput<KeyCode>>,
    dream: Single<(Entity, &Dream)>,
    mut images: ResMut<Assets<Image>>,
    mut sharp: Local<bool>,
    mut commands: Commands,
) {
    if !keys.just_pressed(KeyCode::KeyF) {
        return;
    }
    let (entity, dream) = *dream;
    *sharp = !*sharp;
    let screen = DreamScreen::new(&mut images);
    if let Some(mut image) = images.get_mut(&screen.0) {
        image.sampler = if *sharp { ImageSampler::nearest() } else { ImageSampler::linear() };
    }
    commands.entity(entity).insert(screen);
    if dream.paused {
        // No frame is to come that would fill the new image: have the present one again.
        commands.trigger(DreamRewind { entity, time: default() });
    }
}

/// F8 begins and ends a recording.
pub(super) fn record(
    keys: Res<ButtonInput<KeyCode>>,
    dream: Single<(Entity, &DreamStatus)>,
    explored: Res<Explored>,
    mut message: Single<&mut Text, With<MessageLine>>,
    mut commands: Commands,
) {
    if !keys.just_pressed(KeyCode::F8) {
        return;
    }
    let (entity, status) = *dream;
    let path = (!status.recording).then(|| free_name(&explored.0.folder));
    if let Some(path) = &path {
        message.0 = format!("recording to {}: F8 ends it", path.display());
    }
    commands.trigger(DreamRecord { entity, path });
}

/// The first of `dream-1`, `dream-2`, … in the [`FORMAT`] that is not there yet.
fn free_name(folder: &Path) -> PathBuf {
    let names = (1..).map(|number| folder.join(format!("dream-{number}.{FORMAT}")));
    names.into_iter().find(|path| !path.exists()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_replaces_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let first = free_name(folder.path());
        assert_eq!(first, folder.path().join("dream-1").with_extension(FORMAT));
        std::fs::write(&first, "").unwrap();
        assert_eq!(free_name(folder.path()), folder.path().join("dream-2").with_extension(FORMAT));
    }
}
