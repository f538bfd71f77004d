//! What the player does as the vector that Oasis was trained with.

use crate::Controls;
use crate::model::Heeded;

/// Length of the vector.
pub const ACTION_DIM: usize = 25;

/// Degrees of one tick at which a camera axis is 1.
const CAMERA: f32 = 20.0;

/// What the controls are to the model, by its names.
const NAMES: [(&str, &str); 8] = [
    ("forward", "forward, back"),
    ("strafe", "left, right"),
    ("sprint", "sprint"),
    ("jump", "jump"),
    ("yaw", "cameraY"),
    ("pitch", "cameraX"),
    ("break", "attack"),
    ("place", "use"),
];

/// What the controls are to the model.
pub fn heeded() -> Heeded {
    Heeded::new(NAMES)
}

/// The vector of `controls`; what a player of [`Controls`] cannot do stays 0.
pub fn action(controls: &Controls) -> [f32; ACTION_DIM] {
    let bit = |on: bool| f32::from(u8::from(on));
    let camera = |degrees: f32| (degrees / CAMERA).clamp(-1.0, 1.0);
    let hold = |x: f32| bit(x > 0.5);
    let [yaw, pitch] = controls.look;
    [
        0.0,                       // inventory
        0.0,                       // ESC
        0.0,                       // hotbar.1
        0.0,                       // hotbar.2
        0.0,                       // hotbar.3
        0.0,                       // hotbar.4
        0.0,                       // hotbar.5
        0.0,                       // hotbar.6
        0.0,                       // hotbar.7
        0.0,                       // hotbar.8
        0.0,                       // hotbar.9
        hold(controls.forward),    // forward
        hold(-controls.forward),   // back
        hold(-controls.strafe),    // left
        hold(controls.strafe),     // right
        camera(-pitch),            // cameraX: pitch, down is positive
        camera(yaw),               // cameraY: yaw, right is positive
        bit(controls.jump),        // jump
        0.0,                       // sneak
        bit(controls.sprint),      // sprint
        0.0,                       // swapHands
        bit(controls.break_block), // attack
        bit(controls.place_block), // use
        0.0,                       // pickItem
        0.0,                       // drop
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controls::CONTROL_NAMES;

    #[test]
    fn every_control_has_its_place() {
        let on = |controls: Controls| {
            let vector = action(&controls);
            (0..ACTION_DIM).filter(|&i| vector[i] != 0.0).map(|i| (i, vector[i])).collect::<Vec<_>>()
        };
        let none = Controls::default();
        assert_eq!(on(none), []);
        for (i, name) in CONTROL_NAMES.iter().enumerate() {
            let mut only = [0.0; CONTROL_NAMES.len()];
            only[i] = 1.0;
            assert_eq!(on(Controls::from_vector(only)).len(), usize::from(heeded().0.contains_key(*name)), "{name}");
        }
        assert_eq!(on(Controls { forward: 1.0, ..none }), [(11, 1.0)]);
        assert_eq!(on(Controls { forward: -1.0, ..none }), [(12, 1.0)]);
        assert_eq!(on(Controls { strafe: -1.0, ..none }), [(13, 1.0)]);
        assert_eq!(on(Controls { strafe: 1.0, ..none }), [(14, 1.0)]);
        assert_eq!(on(Controls { look: [10.0, -5.0], ..none }), [(15, 0.25), (16, 0.5)]);
        assert_eq!(on(Controls { look: [-90.0, 0.0], ..none }), [(16, -1.0)]);
        assert_eq!(on(Controls { jump: true, sprint: true, ..none }), [(17, 1.0), (19, 1.0)]);
        assert_eq!(on(Controls { break_block: true, place_block: true, ..none }), [(21, 1.0), (22, 1.0)]);
    }
}
