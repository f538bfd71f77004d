//! Keys and mouse to controls.

use std::hash::{BuildHasher, Hasher, RandomState};

use bevy::input::mouse::AccumulatedMouseMotion;
use bevy::input_focus::InputFocus;
use bevy::prelude::*;
use bevy::window::{CursorGrabMode, CursorOptions, PrimaryWindow, WindowFocused};

use super::bar::PromptBar;
use super::hud::Figures;
use super::layout::Help;
use super::presets;
use crate::Controls;
use crate::controls::EXTRA_DIM;
use crate::plugin::{Dream, DreamControls};

/// Degrees that the camera turns for a pixel of mouse movement.
const DEGREES_PER_PIXEL: f32 = 0.12;

/// Held for the controls that a recorded game has beyond walking.
const EXTRA_KEYS: [KeyCode; EXTRA_DIM] = [KeyCode::KeyZ, KeyCode::KeyX, KeyCode::KeyC, KeyCode::KeyV];

/// Degrees a tick that an arrow key turns the camera.
const ARROW_DEGREES: f32 = 5.0;

const NUMBER_KEYS: [KeyCode; 9] = [
    KeyCode::Digit1,
    KeyCode::Digit2,
    KeyCode::Digit3,
    KeyCode::Digit4,
    KeyCode::Digit5,
    KeyCode::Digit6,
    KeyCode::Digit7,
    KeyCode::Digit8,
    KeyCode::Digit9,
];

/// The preset of a number key that was just pressed.
pub(super) fn preset(keys: &ButtonInput<KeyCode>) -> Option<String> {
    let number = NUMBER_KEYS.iter().position(|key| keys.just_pressed(*key))?;
    presets().into_iter().nth(number)
}

/// A seed that nobody chose.
pub(super) fn new_seed() -> u64 {
    // The standard library keys its hash maps from the system's randomness.
    RandomState::new().build_hasher().finish()
}

pub(super) fn commands(
    keys: Res<ButtonInput<KeyCode>>,
    focus: Res<InputFocus>,
    bar: Single<Entity, With<PromptBar>>,
    mut dream: Single<&mut Dream>,
    mut help: Single<&mut Visibility, (With<Help>, Without<Figures>)>,
    mut figures: Single<&mut Visibility, With<Figures>>,
) {
    if keys.just_pressed(KeyCode::F1) {
        help.toggle_inherited_hidden();
    }
    if keys.just_pressed(KeyCode::F3) {
        figures.toggle_inherited_hidden();
    }
    if keys.just_pressed(KeyCode::KeyR) && focus.get() != Some(*bar) {
        dream.seed = new_seed();
    }
}

/// Whether keys are keys, and not letters of a prompt.
pub(super) fn not_writing(focus: Res<InputFocus>, bar: Single<Entity, With<PromptBar>>) -> bool {
    focus.get() != Some(*bar)
}

pub(super) fn walk(
    keys: Res<ButtonInput<KeyCode>>,
    buttons: Res<ButtonInput<MouseButton>>,
    motion: Res<AccumulatedMouseMotion>,
    cursor: Single<&CursorOptions, With<PrimaryWindow>>,
    focus: Res<InputFocus>,
    bar: Single<Entity, With<PromptBar>>,
    mut controls: Single<&mut DreamControls>,
) {
    let writing = focus.get() == Some(*bar);
    let caught = cursor.grab_mode != CursorGrabMode::None && !writing;
    let key = |key| !writing && keys.pressed(key);
    let axis = |plus, minus| f32::from(i8::from(key(plus)) - i8::from(key(minus)));
    let held = Controls {
        forward: axis(KeyCode::KeyW, KeyCode::KeyS),
        strafe: axis(KeyCode::KeyD, KeyCode::KeyA),
        sprint: key(KeyCode::ShiftLeft) || key(KeyCode::ShiftRight),
        jump: key(KeyCode::Space),
        look: [
            ARROW_DEGREES * axis(KeyCode::ArrowRight, KeyCode::ArrowLeft),
            ARROW_DEGREES * axis(KeyCode::ArrowUp, KeyCode::ArrowDown),
        ],
        break_block: caught && buttons.pressed(MouseButton::Left),
        place_block: caught && buttons.pressed(MouseButton::Right),
        extra: EXTRA_KEYS.map(|extra| f32::from(u8::from(key(extra)))),
    };
    let turn = if caught { motion.delta * Vec2::new(DEGREES_PER_PIXEL, -DEGREES_PER_PIXEL) } else { Vec2::ZERO };
    let turn = controls.turn + turn;
    controls.set_if_neq(DreamControls { held, turn });
}

/// Esc, or another window in front, frees the mouse.
pub(super) fn let_go(
    keys: Res<ButtonInput<KeyCode>>,
    mut focused: MessageReader<WindowFocused>,
    mut cursor: Single<&mut CursorOptions, With<PrimaryWindow>>,
) {
    let lost = focused.read().any(|window| !window.focused);
    if (lost || keys.just_pressed(KeyCode::Escape)) && cursor.grab_mode != CursorGrabMode::None {
        cursor.grab_mode = CursorGrabMode::None;
        cursor.visible = true;
    }
}
