//! What Bevy's `DiagnosticsStore` gets to know, over all worlds of an app.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bevy::diagnostic::{Diagnostic, DiagnosticPath, Diagnostics, RegisterDiagnostic};
use bevy::prelude::*;

use crate::stream::ChunkInfo;

/// Generated frames shown per second.
pub const NATIVE_FPS: DiagnosticPath = DiagnosticPath::const_new("dream/native_fps");
/// Frames per second that the model could make if it never waited.
pub const MODEL_FPS: DiagnosticPath = DiagnosticPath::const_new("dream/model_fps");
/// Milliseconds per chunk of turning the last frame to where the camera goes, and encoding it.
pub const FORESEE_MS: DiagnosticPath = DiagnosticPath::const_new("dream/foresee_ms");
/// Milliseconds of denoising per chunk.
pub const DENOISE_MS: DiagnosticPath = DiagnosticPath::const_new("dream/denoise_ms");
/// Milliseconds of decoding per chunk.
pub const DECODE_MS: DiagnosticPath = DiagnosticPath::const_new("dream/decode_ms");
/// Milliseconds per chunk of writing it to the cache.
pub const COMMIT_MS: DiagnosticPath = DiagnosticPath::const_new("dream/commit_ms");
/// Milliseconds from the taking of the controls to the showing of the first frame made under them.
pub const CONTROL_TO_FRAME_MS: DiagnosticPath = DiagnosticPath::const_new("dream/control_to_frame_ms");
/// Milliseconds from each frame shown to the next of a world that runs.
pub const SPACING_MS: DiagnosticPath = DiagnosticPath::const_new("dream/spacing_ms");
/// Percent of the frames lately shown, a minute of one world, that came more than half a frame's time too early or too late.
pub const SPACING_OFF: DiagnosticPath = DiagnosticPath::const_new("dream/spacing_off");
/// Frames that are made and wait to be shown.
pub const QUEUED_FRAMES: DiagnosticPath = DiagnosticPath::const_new("dream/queued_frames");
/// Milliseconds of an update that the plugin's systems take.
pub const UPDATE_MS: DiagnosticPath = DiagnosticPath::const_new("dream/update_ms");
/// Milliseconds of bringing frames, and what other images changed in the same update, to the graphics card: on the thread of
/// Bevy's renderer, or in the update where it has none. Measured with the feature `record`, which brings the renderer.
pub const UPLOAD_MS: DiagnosticPath = DiagnosticPath::const_new("dream/upload_ms");

/// Measurements of most diagnostics that are kept.
const LATELY: usize = 60;

/// Measurements of [`SPACING_OFF`] that are kept: one frame in a hundred shows only in many.
const A_MINUTE: usize = 1200;

pub(super) fn register(app: &mut App) {
    for (path, suffix, kept) in [
        (NATIVE_FPS, "", LATELY),
        (MODEL_FPS, "", LATELY),
        (FORESEE_MS, "ms", LATELY),
        (DENOISE_MS, "ms", LATELY),
        (DECODE_MS, "ms", LATELY),
        (COMMIT_MS, "ms", LATELY),
        (CONTROL_TO_FRAME_MS, "ms", LATELY),
        (SPACING_MS, "ms", LATELY),
        (SPACING_OFF, "%", A_MINUTE),
        (QUEUED_FRAMES, "", LATELY),
        (UPDATE_MS, "ms", LATELY),
        (UPLOAD_MS, "ms", LATELY),
    ] {
        app.register_diagnostic(Diagnostic::new(path).with_suffix(suffix).with_max_history_length(kept));
    }
}

/// Nanoseconds that the plugin's systems took in the present update.
#[derive(Resource, Default)]
pub(super) struct Taken(AtomicU64);

impl Taken {
    /// Counts the time until the end of the lap.
    pub fn lap(&self) -> Lap<'_> {
        Lap { taken: self, since: Instant::now() }
    }
}

/// Time that is being counted.
pub(super) struct Lap<'a> {
    taken: &'a Taken,
    since: Instant,
}

impl Drop for Lap<'_> {
    fn drop(&mut self) {
        self.taken.0.fetch_add(self.since.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }
}

/// At the end of an update.
pub(super) fn measure_update(taken: Res<Taken>, mut diagnostics: Diagnostics) {
    let nanos = taken.0.swap(0, Ordering::Relaxed);
    diagnostics.add_measurement(&UPDATE_MS, || nanos as f64 * 1e-6);
}

/// Measures how long after the one before a frame is shown that should follow it after `frame_time`.
pub(super) fn measure_spacing(diagnostics: &mut Diagnostics, spacing: Duration, frame_time: Duration) {
    diagnostics.add_measurement(&SPACING_MS, || spacing.as_secs_f64() * 1e3);
    diagnostics.add_measurement(&SPACING_OFF, || if is_off(spacing, frame_time) { 100.0 } else { 0.0 });
}

/// Whether it is by more than half.
fn is_off(spacing: Duration, frame_time: Duration) -> bool {
    spacing.abs_diff(frame_time) > frame_time / 2
}

/// Measures a chunk whose first frame is shown at `now`.
pub(super) fn measure_chunk(diagnostics: &mut Diagnostics, chunk: &ChunkInfo, now: Instant) {
    let times = chunk.times;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    diagnostics.add_measurement(&FORESEE_MS, || ms(times.foresee));
    diagnostics.add_measurement(&DENOISE_MS, || ms(times.denoise));
    diagnostics.add_measurement(&DECODE_MS, || ms(times.decode));
    diagnostics.add_measurement(&COMMIT_MS, || ms(times.commit));
    diagnostics.add_measurement(&CONTROL_TO_FRAME_MS, || ms(now.saturating_duration_since(chunk.sampled)));
    let busy = (chunk.ready - chunk.sampled + times.commit).as_secs_f64();
    diagnostics.add_measurement(&MODEL_FPS, || chunk.controls.len() as f64 / busy);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_off_by_more_than_half_its_time() {
        let off = [24, 25, 50, 75, 76].map(|ms| is_off(Duration::from_millis(ms), Duration::from_millis(50)));
        assert_eq!(off, [true, false, false, false, true]);
    }
}
