//! What the player does as the vector that Waypoint was trained with: mouse x and y, a number for every virtual key of
//! Windows, the wheel.

use crate::Controls;

/// Virtual keys.
const LEFT_BUTTON: usize = 0x01;
const RIGHT_BUTTON: usize = 0x02;
const SHIFT: usize = 0x10;
const SPACE: usize = 0x20;
const A: usize = 0x41;
const D: usize = 0x44;
const S: usize = 0x53;
const W: usize = 0x57;

/// The vector of one latent's `controls` for so many `buttons`: the mean of how the mouse moves, and what is held at any
/// time. How much mouse a degree is, is not told by the publisher: here it is 1.
pub fn action(controls: &[Controls], buttons: usize) -> Vec<f32> {
    let mean = |axis: usize| controls.iter().map(|c| c.look[axis]).sum::<f32>() / controls.len().max(1) as f32;
    let mut vector = vec![0.0; buttons + 3];
    (vector[0], vector[1]) = (mean(0), -mean(1));
    let mut hold = |key: usize, held: fn(&Controls) -> bool| {
        if key < buttons && controls.iter().any(held) {
            vector[2 + key] = 1.0;
        }
    };
    hold(W, |c| c.forward > 0.5);
    hold(S, |c| c.forward < -0.5);
    hold(A, |c| c.strafe < -0.5);
    hold(D, |c| c.strafe > 0.5);
    hold(SHIFT, |c| c.sprint);
    hold(SPACE, |c| c.jump);
    hold(LEFT_BUTTON, |c| c.break_block);
    hold(RIGHT_BUTTON, |c| c.place_block);
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_mouse_have_their_places() {
        let none = Controls::default();
        let walk = Controls { forward: 1.0, strafe: -1.0, jump: true, look: [8.0, 2.0], ..none };
        let vector = action(&[none, walk], 256);
        let on: Vec<_> = (0..vector.len()).filter(|&i| vector[i] != 0.0).map(|i| (i, vector[i])).collect();
        assert_eq!(on, [(0, 4.0), (1, -1.0), (2 + SPACE, 1.0), (2 + A, 1.0), (2 + W, 1.0)]);
        assert_eq!((vector.len(), action(&[walk], 8).len()), (259, 11));
    }
}
