//! The player's controls between the window and the model thread.

use std::sync::Mutex;

use crate::Controls;

/// The farthest turn that waits for a chunk, in degrees: farther than any chunk can turn.
const MAX_TURN: f32 = 720.0;

/// What the player holds, and what he did since the model last looked.
#[derive(Debug, Default)]
pub struct Input(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    held: Controls,
    tapped: Controls,
    turned: [f32; 2],
}

impl Input {
    /// The controls held from now on, [made valid](Controls::sanitized); their look is degrees a tick. A tap between two
    /// chunks is not lost.
    pub fn hold(&self, controls: Controls) {
        let controls = controls.sanitized(0.0);
        let mut state = self.lock();
        state.tapped.jump |= controls.jump;
        state.tapped.break_block |= controls.break_block;
        state.tapped.place_block |= controls.place_block;
        state.held = controls;
    }

    /// Turns the camera by degrees of yaw (right positive) and pitch (up positive), spread over the next chunk. What is no
    /// number turns nothing; a chunk turns as fast as [`MAX_LOOK`](crate::controls::MAX_LOOK) allows.
    pub fn turn(&self, yaw: f32, pitch: f32) {
        let mut state = self.lock();
        for (turned, by) in state.turned.iter_mut().zip([yaw, pitch]) {
            // Bounded, so that infinity and its opposite do not add up to no number.
            *turned = if by.is_nan() { *turned } else { (*turned + by).clamp(-MAX_TURN, MAX_TURN) };
        }
    }

    /// The controls for the next `ticks` ticks.
    pub(super) fn sample(&self, ticks: usize) -> Vec<Controls> {
        let mut state = self.lock();
        let turned = std::mem::take(&mut state.turned);
        let tapped = std::mem::take(&mut state.tapped);
        let mut controls = state.held;
        for (look, turned) in controls.look.iter_mut().zip(turned) {
            *look += turned / ticks as f32;
        }
        let mut controls = vec![controls.sanitized(0.0); ticks];
        controls[0].jump |= tapped.jump;
        controls[0].break_block |= tapped.break_block;
        controls[0].place_block |= tapped.place_block;
        controls
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is valid after every statement, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controls::MAX_LOOK;

    #[test]
    fn turns_add_up_and_are_spread_over_the_chunk() {
        let input = Input::default();
        input.turn(3.0, 1.0);
        input.turn(5.0, -2.0);
        let looks: Vec<_> = input.sample(2).iter().map(|c| c.look).collect();
        assert_eq!(looks, [[4.0, -0.5]; 2]);
        assert_eq!(input.sample(2)[0].look, [0.0; 2], "a turn is spent");
    }

    #[test]
    fn what_is_no_control_does_no_harm() {
        let input = Input::default();
        input.hold(Controls { forward: f32::NAN, strafe: -1e30, look: [f32::INFINITY, 0.0], ..Default::default() });
        for (yaw, pitch) in [(f32::NAN, 3.0), (f32::INFINITY, f32::NAN), (f32::NEG_INFINITY, 1.0), (f32::MAX, 0.0)] {
            input.turn(yaw, pitch);
        }
        let [first, second] = input.sample(2).try_into().unwrap();
        assert_eq!((first.forward, first.strafe, first.look), (0.0, -1.0, [MAX_LOOK, 2.0]));
        assert_eq!(first, second);
    }

    #[test]
    fn holding_lasts_and_a_tap_is_not_lost() {
        let input = Input::default();
        input.hold(Controls { forward: 1.0, jump: true, ..Default::default() });
        input.hold(Controls { forward: 1.0, ..Default::default() });
        let first = input.sample(2);
        assert_eq!((first[0].jump, first[1].jump), (true, false));
        assert_eq!(input.sample(2), [Controls { forward: 1.0, ..Default::default() }; 2]);
    }
}
