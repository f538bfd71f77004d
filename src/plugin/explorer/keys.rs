//! What keys and mouse do beside walking.

use std::hash::{BuildHasher, Hasher, RandomState};

use bevy::input_focus::InputFocus;
use bevy::prelude::*;
use bevy::window::{CursorGrabMode, CursorOptions, PrimaryWindow, WindowFocused};

use super::bar::PromptBar;
use super::hud::Figures;
use super::layout::Help;
use super::presets;
use crate::plugin::{Dream, DreamInput};

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

/// Keys are letters while one writes, and the mouse is a pointer while it is free.
pub(super) fn listen(
    cursor: Single<&CursorOptions, With<PrimaryWindow>>,
    focus: Res<InputFocus>,
    bar: Single<Entity, With<PromptBar>>,
    mut input: Single<&mut DreamInput>,
) {
    let keys = focus.get() != Some(*bar);
    let mouse = keys && cursor.grab_mode != CursorGrabMode::None;
    input.set_if_neq(DreamInput { keys, mouse });
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
