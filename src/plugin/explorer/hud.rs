//! The figures on F3.

use bevy::diagnostic::{Diagnostic, DiagnosticPath, DiagnosticsStore};
use bevy::prelude::*;

use crate::plugin::{
    COMMIT_MS, CONTROL_TO_FRAME_MS, DECODE_MS, DENOISE_MS, Dream, DreamStatus, FORESEE_MS, MODEL_FPS, NATIVE_FPS,
    QUEUED_FRAMES, SPACING_MS, SPACING_OFF, UPDATE_MS, UPLOAD_MS,
};

/// The text with the figures.
#[derive(Component)]
pub(super) struct Figures;

pub(super) fn write(
    figures: Single<(&mut Text, &Visibility), With<Figures>>,
    dream: Single<(&Dream, &DreamStatus)>,
    measured: Res<DiagnosticsStore>,
) {
    let (mut text, visibility) = figures.into_inner();
    if *visibility == Visibility::Hidden {
        return;
    }
    let average = |path: &DiagnosticPath| measured.get(path).and_then(Diagnostic::average).unwrap_or(0.0);
    let latest = |path: &DiagnosticPath| measured.get(path).and_then(Diagnostic::value).unwrap_or(0.0);
    let (dream, status) = *dream;
    let (steps, noise) = status.settings.map_or((0, 0.0), |settings| (settings.steps, settings.context_noise));
    text.0 = format!(
        "{:.1} native frames a second (the model alone {:.1})\n\
         a frame every {:.1} ms  {:.1} % off by more than half\n\
         foresee {:.0} ms  denoise {:.0} ms  decode {:.0} ms  commit {:.0} ms\n\
         control to frame {:.0} ms  queue {:.0}  update {:.2} ms  upload {:.2} ms\n\
         {steps} steps  context noise {noise:.2}{}{}\n\
         {} {}x{}  seed {}  tick {}\n\
         {}",
        latest(&NATIVE_FPS),
        average(&MODEL_FPS),
        average(&SPACING_MS),
        average(&SPACING_OFF),
        average(&FORESEE_MS),
        average(&DENOISE_MS),
        average(&DECODE_MS),
        average(&COMMIT_MS),
        average(&CONTROL_TO_FRAME_MS),
        average(&QUEUED_FRAMES),
        average(&UPDATE_MS),
        average(&UPLOAD_MS),
        if dream.paused { "  paused" } else { "" },
        if status.recording { "  recording" } else { "" },
        status.model,
        status.size.x,
        status.size.y,
        dream.seed,
        status.tick,
        status.prompt,
    );
}
