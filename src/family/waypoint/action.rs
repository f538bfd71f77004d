//! What the player does as the vector that Waypoint was trained with: mouse x and y, a number for every virtual key of
//! Windows, the wheel.

use crate::Controls;
use crate::model::Heeded;

/// A virtual key, its name, the control that holds it, and when.
type Key = (usize, &'static str, &'static str, fn(&Controls) -> bool);

const KEYS: [Key; 8] = [
    (0x57, "W", "forward", |c| c.forward > 0.5),
    (0x53, "S", "forward", |c| c.forward < -0.5),
    (0x41, "A", "strafe", |c| c.strafe < -0.5),
    (0x44, "D", "strafe", |c| c.strafe > 0.5),
    (0x10, "Shift", "sprint", |c| c.sprint),
    (0x20, "Space", "jump", |c| c.jump),
    (0x01, "left button", "break", |c| c.break_block),
    (0x02, "right button", "place", |c| c.place_block),
];

/// The vector of one latent's `controls` for so many `buttons`: the mean of how the mouse moves, and what is held at any
/// time. How much mouse a degree is, is not told by the publisher: here it is 1.
pub fn action(controls: &[Controls], buttons: usize) -> Vec<f32> {
    let mean = |axis: usize| controls.iter().map(|c| c.look[axis]).sum::<f32>() / controls.len().max(1) as f32;
    let mut vector = vec![0.0; buttons + 3];
    (vector[0], vector[1]) = (mean(0), -mean(1));
    for (key, .., held) in KEYS {
        if key < buttons && controls.iter().any(held) {
            vector[2 + key] = 1.0;
        }
    }
    vector
}

/// What the controls are to a model of so many `buttons`.
pub fn heeded(buttons: usize) -> Heeded {
    let keys = KEYS.iter().filter(|(key, ..)| *key < buttons).map(|&(_, name, control, _)| (control, name));
    Heeded::new([("yaw", "mouse x"), ("pitch", "mouse y")].into_iter().chain(keys))
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
        assert_eq!(on, [(0, 4.0), (1, -1.0), (2 + 0x20, 1.0), (2 + 0x41, 1.0), (2 + 0x57, 1.0)]);
        assert_eq!((vector.len(), action(&[walk], 8).len()), (259, 11));
        assert_eq!(heeded(256).0["forward"], "W, S");
        assert_eq!(heeded(8).0.keys().collect::<Vec<_>>(), ["break", "pitch", "place", "yaw"]);
    }
}
