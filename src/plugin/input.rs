//! What a player's keyboard, mouse and gamepad hold, as controls.

use bevy::input::mouse::AccumulatedMouseMotion;
use bevy::prelude::*;

use super::DreamControls;
use super::diagnostic::Taken;
use crate::Controls;
use crate::controls::EXTRA_DIM;

/// Degrees that the camera turns for a pixel of mouse movement.
const DEGREES_PER_PIXEL: f32 = 0.12;

/// Degrees a tick that an arrow key turns the camera.
const ARROW_DEGREES: f32 = 5.0;

/// Degrees a tick that a stick at its end turns the camera.
const STICK_DEGREES: f32 = 9.0;

/// A stick so near its middle counts as let go: worn ones do not come back to it.
const DEAD_ZONE: f32 = 0.15;

/// Held for the controls that a recorded game has beyond walking.
const EXTRA_KEYS: [KeyCode; EXTRA_DIM] = [KeyCode::KeyZ, KeyCode::KeyX, KeyCode::KeyC, KeyCode::KeyV];

/// On a [`Dream`](super::Dream): its [`DreamControls`] are what the player holds, in
/// [`DreamSystems::Input`](super::DreamSystems::Input). Needs Bevy's `InputPlugin`, which `DefaultPlugins` have.
///
/// | control | keyboard and mouse | gamepad |
/// |---|---|---|
/// | walk | W A S D | left stick |
/// | look | mouse, arrow keys | right stick |
/// | jump | Space | south button |
/// | sprint | Shift | left shoulder |
/// | break, place a block | left, right mouse button | right, left trigger |
/// | the extra controls of a recorded game | Z X C V | directional pad: up, right, down, left |
///
/// Bevy finds gamepads with the feature `gamepad`. Every one that is there counts.
#[derive(Component, Clone, Copy, Debug, PartialEq, Eq, Reflect)]
#[reflect(Component, Default, Debug, PartialEq)]
pub struct DreamInput {
    /// Whether the keyboard counts; not while it writes a text, for instance.
    pub keys: bool,
    /// Whether the mouse counts; not while its cursor is free, for instance.
    pub mouse: bool,
}

impl Default for DreamInput {
    /// All count.
    fn default() -> Self {
        Self { keys: true, mouse: true }
    }
}

pub(super) fn hold(
    keys: Res<ButtonInput<KeyCode>>,
    buttons: Res<ButtonInput<MouseButton>>,
    motion: Res<AccumulatedMouseMotion>,
    gamepads: Query<&Gamepad>,
    mut dreams: Query<(&mut DreamControls, &DreamInput)>,
    taken: Res<Taken>,
) {
    let _lap = taken.lap();
    for (mut controls, input) in &mut dreams {
        let mut held = if input.keys { from_keys(&keys) } else { Controls::default() };
        let mut turn = controls.turn;
        if input.mouse {
            held.break_block = buttons.pressed(MouseButton::Left);
            held.place_block = buttons.pressed(MouseButton::Right);
            turn += motion.delta * Vec2::new(DEGREES_PER_PIXEL, -DEGREES_PER_PIXEL);
        }
        for gamepad in &gamepads {
            add_gamepad(&mut held, gamepad);
        }
        controls.set_if_neq(DreamControls { held, turn });
    }
}

fn from_keys(keys: &ButtonInput<KeyCode>) -> Controls {
    let key = |key| keys.pressed(key);
    let axis = |plus, minus| f32::from(i8::from(key(plus)) - i8::from(key(minus)));
    Controls {
        forward: axis(KeyCode::KeyW, KeyCode::KeyS),
        strafe: axis(KeyCode::KeyD, KeyCode::KeyA),
        sprint: key(KeyCode::ShiftLeft) || key(KeyCode::ShiftRight),
        jump: key(KeyCode::Space),
        look: [
            ARROW_DEGREES * axis(KeyCode::ArrowRight, KeyCode::ArrowLeft),
            ARROW_DEGREES * axis(KeyCode::ArrowUp, KeyCode::ArrowDown),
        ],
        extra: EXTRA_KEYS.map(|extra| f32::from(u8::from(key(extra)))),
        ..Controls::default()
    }
}

fn add_gamepad(held: &mut Controls, gamepad: &Gamepad) {
    let pressed = |button| gamepad.pressed(button);
    let walk = live(gamepad.left_stick());
    // Squared, so that one can aim near the middle and turn fast at the end.
    let look = live(gamepad.right_stick());
    let look = STICK_DEGREES * look.length() * look;
    held.forward = (held.forward + walk.y).clamp(-1.0, 1.0);
    held.strafe = (held.strafe + walk.x).clamp(-1.0, 1.0);
    held.look = [held.look[0] + look.x, held.look[1] + look.y];
    held.sprint |= pressed(GamepadButton::LeftTrigger);
    held.jump |= pressed(GamepadButton::South);
    held.break_block |= pressed(GamepadButton::RightTrigger2);
    held.place_block |= pressed(GamepadButton::LeftTrigger2);
    let pad = [GamepadButton::DPadUp, GamepadButton::DPadRight, GamepadButton::DPadDown, GamepadButton::DPadLeft];
    for (extra, button) in held.extra.iter_mut().zip(pad) {
        *extra = extra.max(f32::from(u8::from(pressed(button))));
    }
}

/// A stick's place with the dead zone taken out: from 0 at its rim to a length of 1 at the end.
fn live(stick: Vec2) -> Vec2 {
    let length = stick.length().min(1.0);
    stick.normalize_or_zero() * ((length - DEAD_ZONE) / (1.0 - DEAD_ZONE)).max(0.0)
}

#[cfg(test)]
mod tests {
    use bevy::input::InputPlugin;
    use bevy::input::gamepad::{
        GamepadConnection, GamepadConnectionEvent, RawGamepadAxisChangedEvent, RawGamepadButtonChangedEvent,
        RawGamepadEvent,
    };

    use super::*;
    use crate::plugin::Dream;
    use crate::plugin::testing::test_app;
    use crate::simulate::fake::FakeModel;

    /// An app with a dream and a gamepad, and what the player holds.
    struct Game(App, Entity, Entity);

    impl Game {
        fn new() -> Self {
            let mut app = test_app(FakeModel::fast());
            app.add_plugins(InputPlugin);
            let dream = app.world_mut().spawn((Dream::new("model", "a meadow"), DreamInput::default())).id();
            let gamepad = app.world_mut().spawn_empty().id();
            let connection =
                GamepadConnection::Connected { name: "a gamepad".into(), vendor_id: None, product_id: None };
            app.world_mut().write_message(GamepadConnectionEvent::new(gamepad, connection));
            app.update();
            Self(app, dream, gamepad)
        }

        fn stick(&mut self, axis: GamepadAxis, value: f32) {
            let event = RawGamepadEvent::Axis(RawGamepadAxisChangedEvent::new(self.2, axis, value));
            self.0.world_mut().write_message(event);
        }

        fn button(&mut self, button: GamepadButton, value: f32) {
            let event = RawGamepadEvent::Button(RawGamepadButtonChangedEvent::new(self.2, button, value));
            self.0.world_mut().write_message(event);
        }

        fn held(&mut self) -> Controls {
            self.0.update();
            self.0.world().get::<DreamControls>(self.1).unwrap().held
        }
    }

    #[test]
    fn sticks_walk_and_look_outside_of_their_dead_zone() {
        let mut game = Game::new();
        game.stick(GamepadAxis::LeftStickX, 0.1);
        game.stick(GamepadAxis::RightStickY, -0.1);
        assert_eq!(game.held(), Controls::default(), "a worn stick");
        game.stick(GamepadAxis::LeftStickX, 0.0);
        game.stick(GamepadAxis::LeftStickY, 1.0);
        game.stick(GamepadAxis::RightStickY, -1.0);
        let held = game.held();
        assert_eq!((held.forward, held.strafe, held.look), (1.0, 0.0, [0.0, -STICK_DEGREES]));
        game.stick(GamepadAxis::LeftStickY, -0.5);
        game.stick(GamepadAxis::RightStickY, 0.5);
        let held = game.held();
        assert!(held.forward < -0.3 && held.forward > -0.5, "half way, slowly: {held:?}");
        assert!(held.look[1] > 0.0 && held.look[1] < 0.4 * STICK_DEGREES, "half way, finely: {held:?}");
    }

    #[test]
    fn buttons_jump_sprint_break_and_place() {
        let mut game = Game::new();
        let effects: [(GamepadButton, fn(&Controls) -> bool); 5] = [
            (GamepadButton::South, |held| held.jump),
            (GamepadButton::LeftTrigger, |held| held.sprint),
            (GamepadButton::RightTrigger2, |held| held.break_block),
            (GamepadButton::LeftTrigger2, |held| held.place_block),
            (GamepadButton::DPadLeft, |held| held.extra == [0.0, 0.0, 0.0, 1.0]),
        ];
        for (button, effect) in effects {
            game.button(button, 1.0);
            assert!(effect(&game.held()), "{button:?}");
            game.button(button, 0.0);
            assert_eq!(game.held(), Controls::default(), "{button:?} let go");
        }
    }

    #[test]
    fn a_gamepad_adds_to_the_keyboard_and_a_lost_one_lets_go() {
        let mut game = Game::new();
        game.0.world_mut().resource_mut::<ButtonInput<KeyCode>>().press(KeyCode::KeyW);
        game.stick(GamepadAxis::LeftStickY, 1.0);
        game.stick(GamepadAxis::LeftStickX, -1.0);
        let held = game.held();
        assert!(held.forward == 1.0 && held.strafe < -0.5, "{held:?}");
        let lost = GamepadConnectionEvent::new(game.2, GamepadConnection::Disconnected);
        game.0.world_mut().write_message(lost);
        game.0.update();
        let held = game.held();
        assert_eq!((held.forward, held.strafe), (1.0, 0.0));
    }

    #[test]
    fn a_dream_without_input_is_the_games_own() {
        let mut game = Game::new();
        let held = Controls { strafe: 1.0, ..Controls::default() };
        let own = game.0.world_mut().spawn((Dream::new("model", "a meadow"), DreamControls { held, ..default() })).id();
        game.button(GamepadButton::South, 1.0);
        assert!(game.held().jump);
        assert_eq!(game.0.world().get::<DreamControls>(own).unwrap().held, held);
    }
}
