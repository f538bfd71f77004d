//! What the player does in one tick: one struct for the teacher, the dream, the recorder and the replay.

use serde::{Deserialize, Serialize};

/// Length of [`Controls::to_vector`].
pub const CONTROL_DIM: usize = 8;

/// Ticks, and so native frames, per second.
pub const TICKS_PER_SECOND: f32 = 20.0;

/// The camera's pitch stays within ± this many degrees.
pub const MAX_PITCH: f32 = 60.0;

/// The fastest turn in degrees a tick that teacher and models know; faster mouse movement is clamped.
pub const MAX_LOOK: f32 = 12.0;

/// The controls held during one tick. `Controls::default()` is standing still.
///
/// In a recording the controls at index `t` are those that lead *to* frame `t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "bevy", derive(bevy::prelude::Reflect))]
pub struct Controls {
    /// Walk forward (1) or back (−1).
    pub forward: f32,
    /// Step right (1) or left (−1).
    pub strafe: f32,
    /// Walk faster.
    pub sprint: bool,
    /// Jump when on the ground.
    pub jump: bool,
    /// Camera turn during this tick in degrees: yaw (right positive) and pitch (up positive).
    pub look: [f32; 2],
    /// Break the block in the crosshair.
    pub break_block: bool,
    /// Place a block against the face in the crosshair.
    pub place_block: bool,
}

impl Controls {
    /// `[forward, strafe, sprint, jump, yaw°, pitch°, break, place]`, the row of a dataset's `.actions.npy`.
    pub fn to_vector(&self) -> [f32; CONTROL_DIM] {
        let bit = |b: bool| f32::from(u8::from(b));
        [
            self.forward,
            self.strafe,
            bit(self.sprint),
            bit(self.jump),
            self.look[0],
            self.look[1],
            bit(self.break_block),
            bit(self.place_block),
        ]
    }

    /// The inverse of [`Controls::to_vector`]; bits are on above one half.
    pub fn from_vector(v: [f32; CONTROL_DIM]) -> Self {
        Self {
            forward: v[0],
            strafe: v[1],
            sprint: v[2] > 0.5,
            jump: v[3] > 0.5,
            look: [v[4], v[5]],
            break_block: v[6] > 0.5,
            place_block: v[7] > 0.5,
        }
    }

    /// The nearest valid controls: not-a-number becomes 0, walking is within ±1, looking within ±[`MAX_LOOK`],
    /// and the pitch, which stands at `pitch` degrees before this tick, within ±[`MAX_PITCH`].
    #[must_use]
    pub fn sanitized(mut self, pitch: f32) -> Self {
        let clamp = |x: f32, limit: f32| if x.is_nan() { 0.0 } else { x.clamp(-limit, limit) };
        self.forward = clamp(self.forward, 1.0);
        self.strafe = clamp(self.strafe, 1.0);
        self.look = self.look.map(|x| clamp(x, MAX_LOOK));
        self.look[1] = (pitch + self.look[1]).clamp(-MAX_PITCH, MAX_PITCH) - pitch;
        self
    }
}
