//! How the controls enter a model: as numbers, and as the dead-reckoned motion of the camera.

use candle_core::Device;
use smallvec::SmallVec;

use crate::controls::{CONTROL_DIM, EXTRA_DIM};
use crate::kernel::Array;
use crate::{Controls, Result};

/// Blocks walked in a tick.
const WALK: f64 = 0.215;
/// How much faster a sprint is.
const SPRINT: f64 = 1.5;
/// Blocks that a jump rises in its first tick, and how fast that ends.
const RISE: f64 = 0.425;
const FALL: f64 = 0.035;
/// A turn counts up to this many degrees: beyond it nothing seen before is in view.
const MOST_TURN: f64 = 60.0;

/// Length of a [`Camera::motion_since`].
pub const MOTION_DIM: usize = 6;

/// Length of a [`Camera::to_array`].
pub const CAMERA_DIM: usize = 6;

/// The controls of one chunk as `[1, ticks * (8 + extra)]` numbers, looks in units of 10 degrees, followed by the
/// first `extra` of the extra controls.
pub fn control_features(controls: &[Controls], extra: usize, device: &Device) -> Result<Array> {
    let tick = |tick: &Controls| {
        let mut known = tick.to_vector();
        known[4] *= 0.1;
        known[5] *= 0.1;
        known.into_iter().chain(tick.extra.into_iter().take(extra))
    };
    let each = CONTROL_DIM + extra.min(EXTRA_DIM);
    Ok(Array::new(&[1, controls.len() * each], device, |out| {
        out.iter_mut().zip(controls.iter().flat_map(tick)).for_each(|(out, value)| *out = value);
    })?)
}

/// The camera's rotation from each frame of a chunk but the last to the last: yaw right and pitch up in radians.
pub fn turns(controls: &[Controls]) -> SmallVec<[[f32; 2]; 4]> {
    let after = |frame: usize, axis: usize| controls[frame..].iter().map(|c| c.look[axis].to_radians()).sum();
    (1..controls.len()).map(|frame| [after(frame, 0), after(frame, 1)]).collect()
}

/// Where the controls alone would have taken the camera: on even ground without obstacles.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Camera {
    yaw: f64,
    pitch: f64,
    x: f64,
    z: f64,
    jumps: f64,
    /// Ticks since the last of them.
    aloft: f64,
}

impl Camera {
    /// The camera after more ticks.
    #[must_use]
    pub fn after(mut self, controls: &[Controls]) -> Self {
        for tick in controls {
            self.yaw += f64::from(tick.look[0]).to_radians();
            self.pitch += f64::from(tick.look[1]).to_radians();
            let speed = if tick.sprint { WALK * SPRINT } else { WALK };
            let (forward, right) = (f64::from(tick.forward) * speed, f64::from(tick.strafe) * speed);
            let (sin, cos) = self.yaw.sin_cos();
            self.x += forward * sin + right * cos;
            self.z += forward * cos - right * sin;
            self.jumps += f64::from(u8::from(tick.jump));
            self.aloft = if tick.jump { 1.0 } else { self.aloft + 1.0 };
        }
        self
    }

    /// What a flow bias is linear in: turn, tilt, forward, right, jumps since `then`, and 1, seen from this camera.
    pub fn motion_since(&self, then: &Self) -> [f32; MOTION_DIM] {
        let limit = MOST_TURN.to_radians();
        let tan = |angle: f64| angle.clamp(-limit, limit).tan();
        let (x, z) = (self.x - then.x, self.z - then.z);
        let (sin, cos) = self.yaw.sin_cos();
        let (forward, right) = (x * sin + z * cos, x * cos - z * sin);
        [tan(self.yaw - then.yaw), tan(self.pitch - then.pitch), forward, right, self.jumps - then.jumps, 1.0]
            .map(|v| v as f32)
    }

    /// Radians, up positive, since the world began.
    pub fn pitch(&self) -> f32 {
        self.pitch as f32
    }

    /// How high the last jump has taken it, in blocks, if it lands where it left.
    pub fn height(&self) -> f64 {
        if self.jumps > 0.0 { (self.aloft * (RISE - FALL * self.aloft)).max(0.0) } else { 0.0 }
    }

    /// The camera as numbers, for a saved state: yaw and pitch in radians, x and z in blocks, jumps, and ticks since the last of
    /// them.
    pub fn to_array(&self) -> [f64; CAMERA_DIM] {
        [self.yaw, self.pitch, self.x, self.z, self.jumps, self.aloft]
    }

    /// The inverse of [`Camera::to_array`].
    pub fn from_array([yaw, pitch, x, z, jumps, aloft]: [f64; CAMERA_DIM]) -> Self {
        Self { yaw, pitch, x, z, jumps, aloft }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_its_known_controls_and_what_the_game_has_beyond() {
        let tick = Controls { forward: 1.0, look: [10.0, -5.0], extra: [0.5, 0.25, 0.0, 0.0], ..Controls::default() };
        let features = control_features(&[tick, Controls::default()], 2, &Device::Cpu).unwrap();
        let first = [1.0, 0.0, 0.0, 0.0, 1.0, -0.5, 0.0, 0.0, 0.5, 0.25];
        assert_eq!(features.dims(), [1, 20]);
        assert_eq!(features[..], [&first[..], &[0.0; 10]].concat());
    }

    fn close(a: [f32; MOTION_DIM], b: [f32; MOTION_DIM]) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
    }

    #[test]
    fn motion_is_seen_from_the_camera() {
        let start = Camera::default().after(&[Controls { look: [90.0, 0.0], ..Controls::default() }]);
        let walk = start.after(&[Controls { forward: 1.0, jump: true, ..Controls::default() }; 2]);
        assert!(close(walk.motion_since(&start), [0.0, 0.0, 0.43, 0.0, 2.0, 1.0]));
        let step = start.after(&[Controls { strafe: -1.0, sprint: true, ..Controls::default() }]);
        assert!(close(step.motion_since(&start), [0.0, 0.0, 0.0, -0.3225, 0.0, 1.0]));
        let heights = [0, 1, 6, 12, 13].map(|rest| {
            let jump = Controls { jump: true, ..Controls::default() };
            start.after(&[jump]).after(&vec![Controls::default(); rest]).height()
        });
        assert!(heights.iter().zip([0.39, 0.71, 1.26, 0.0, 0.0]).all(|(a, b)| (a - b).abs() < 1e-9), "{heights:?}");
        assert_eq!(start.height(), 0.0);
        let turn = start.after(&[Controls { look: [45.0, -80.0], ..Controls::default() }]);
        assert!(close(turn.motion_since(&start), [1.0, -3f32.sqrt(), 0.0, 0.0, 0.0, 1.0]));
    }
}
