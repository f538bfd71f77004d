//! What the player does in one tick: one struct for the teacher, the dream, the recorder and the replay.

use serde::{Deserialize, Serialize};

/// Length of [`Controls::to_vector`].
pub const CONTROL_DIM: usize = 8;

/// The names of [`Controls::to_vector`]'s numbers. A recording's column of one of these names is that control.
pub const CONTROL_NAMES: [&str; CONTROL_DIM] =
    ["forward", "strafe", "sprint", "jump", "yaw", "pitch", "break", "place"];

/// Length of [`Controls::extra`].
pub const EXTRA_DIM: usize = 4;

/// Ticks, and so native frames, per second.
pub const TICKS_PER_SECOND: f32 = 20.0;

/// The camera's pitch stays within ± this many degrees.
pub const MAX_PITCH: f32 = 60.0;

/// The fastest turn in degrees a tick that teacher and models know; faster mouse movement is clamped.
pub const MAX_LOOK: f32 = 12.0;

/// Ticks between two edits while a button is held.
pub const EDIT_PAUSE: u32 = 5;

/// Ticks of a jump on level ground; a held key jumps again after them.
const JUMP_TICKS: u32 = 12;

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
    /// What a game has beyond these, within ±1, in the order of the `actions` of the model's config. Other models do not mind.
    #[serde(default, skip_serializing_if = "is_still")]
    pub extra: [f32; EXTRA_DIM],
}

fn is_still(extra: &[f32; EXTRA_DIM]) -> bool {
    *extra == [0.0; EXTRA_DIM]
}

impl Controls {
    /// `[forward, strafe, sprint, jump, yaw°, pitch°, break, place]`, the row of a dataset's `.actions.npy`; without the extra
    /// controls.
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
            extra: [0.0; EXTRA_DIM],
        }
    }

    /// The nearest valid controls: not-a-number becomes 0, walking and extra controls are within ±1, looking within ±[`MAX_LOOK`],
    /// and the pitch, which stands at `pitch` degrees before this tick, within ±[`MAX_PITCH`].
    #[must_use]
    pub fn sanitized(mut self, pitch: f32) -> Self {
        let clamp = |x: f32, limit: f32| if x.is_nan() { 0.0 } else { x.clamp(-limit, limit) };
        self.forward = clamp(self.forward, 1.0);
        self.strafe = clamp(self.strafe, 1.0);
        self.extra = self.extra.map(|x| clamp(x, 1.0));
        self.look = self.look.map(|x| clamp(x, MAX_LOOK));
        self.look[1] = (pitch + self.look[1]).clamp(-MAX_PITCH, MAX_PITCH) - pitch;
        self
    }
}

/// What decides which controls take effect, beside themselves: how the head stands, how long ago one jumped or edited.
///
/// The teacher's recordings hold the controls that took effect, and models learn from those: a held jump is one tick, then
/// none while in the air.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Body {
    /// The camera's pitch in degrees.
    pub pitch: f32,
    jump_pause: u32,
    edit_pause: u32,
}

impl Body {
    /// As [`Body::tick`] for a player who does what is held in every tick.
    pub fn hold(&mut self, controls: Controls) -> Controls {
        let controls = controls.sanitized(self.pitch);
        self.pitch += controls.look[1];
        controls
    }

    /// The controls that take effect in the next tick, [sanitized](Controls::sanitized).
    pub fn tick(&mut self, controls: Controls) -> Controls {
        let mut controls = self.hold(controls);
        self.jump_pause = self.jump_pause.saturating_sub(1);
        self.edit_pause = self.edit_pause.saturating_sub(1);
        controls.jump &= self.jump_pause == 0;
        controls.break_block &= self.edit_pause == 0;
        controls.place_block &= self.edit_pause == 0 && !controls.break_block;
        if controls.jump {
            self.jump_pause = JUMP_TICKS;
        }
        if controls.break_block || controls.place_block {
            self.edit_pause = EDIT_PAUSE;
        }
        controls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_buttons_take_effect_now_and_then() {
        let mut body = Body::default();
        let held =
            Controls { jump: true, break_block: true, place_block: true, look: [0.0, 10.0], ..Controls::default() };
        let taken: Vec<_> = (0..30).map(|_| body.tick(held)).collect();
        let when = |bit: fn(&Controls) -> bool| (0..30).filter(|&i| bit(&taken[i])).collect::<Vec<_>>();
        assert_eq!(when(|c| c.jump), [0, 12, 24]);
        assert_eq!(when(|c| c.break_block), [0, 5, 10, 15, 20, 25]);
        assert_eq!(when(|c| c.place_block), [0usize; 0]);
        assert_eq!(body.pitch, MAX_PITCH);
        let all = |c: &Controls| c.jump && c.break_block && c.place_block;
        assert!((0..3).map(|_| body.hold(held)).all(|taken| all(&taken) && taken.look == [0.0; 2]));
    }
}
