//! The prompt bar.

use bevy::input_focus::{FocusCause, InputFocus};
use bevy::prelude::*;
use bevy::text::{EditableText, TextCursorStyle, TextEdit};
use bevy::window::{CursorGrabMode, CursorOptions, PrimaryWindow};

use super::keys::{new_seed, preset};
use super::layout::{MessageLine, sheet};
use crate::plugin::Dream;
use crate::simulate::{MAX_PROMPT_CHARS, check_prompt};

/// The text input.
#[derive(Component)]
pub(super) struct PromptBar;

pub(super) fn bundle() -> impl Bundle {
    let node = Node {
        width: percent(94),
        padding: UiRect::axes(vmin(1.5), vmin(1)),
        border: px(1).all(),
        border_radius: BorderRadius::all(vmin(1)),
        overflow: Overflow::clip(),
        ..default()
    };
    (
        PromptBar,
        node,
        BorderColor::all(Color::srgba(1.0, 1.0, 1.0, 0.5)),
        sheet(),
        EditableText { max_characters: Some(MAX_PROMPT_CHARS), ..default() },
        TextLayout::no_wrap(),
        TextFont { font_size: FontSize::VMin(2.6), ..default() },
        TextCursorStyle { color: Color::WHITE, selection_color: Color::srgb(0.1, 0.3, 0.6), ..default() },
    )
}

/// The bar is there while the mouse is free or someone writes.
pub(super) fn visibility(
    bar: Single<(Entity, &mut Visibility), With<PromptBar>>,
    cursor: Single<&CursorOptions, With<PrimaryWindow>>,
    focus: Res<InputFocus>,
) {
    let (entity, mut visibility) = bar.into_inner();
    let wanted = cursor.grab_mode == CursorGrabMode::None || focus.get() == Some(entity);
    visibility.set_if_neq(if wanted { Visibility::Inherited } else { Visibility::Hidden });
}

/// The prompts that were applied, the newest last, and the one that is in the bar.
#[derive(Default)]
pub(super) struct History {
    prompts: Vec<String>,
    at: usize,
}

impl History {
    fn push(&mut self, prompt: &str) {
        self.prompts.retain(|earlier| earlier != prompt);
        self.prompts.push(prompt.into());
        self.at = self.prompts.len() - 1;
    }

    /// The prompt before the one in the bar, or the one after it.
    fn step(&mut self, earlier: bool) -> Option<&str> {
        let at = if earlier { self.at.checked_sub(1)? } else { self.at + 1 };
        let prompt = self.prompts.get(at)?;
        self.at = at;
        Some(prompt)
    }
}

fn write(text: &mut EditableText, prompt: &str) {
    text.clear();
    text.queue_edit(TextEdit::Insert(prompt.into()));
    text.queue_edit(TextEdit::SelectAll);
}

/// Enter opens the bar and applies what is written, Shift+Enter starts a new world with it, or from a seed if it is a number;
/// Esc leaves the bar; up and down bring earlier prompts.
pub(super) fn keys(
    bar: Single<(Entity, &mut EditableText), With<PromptBar>>,
    mut dream: Single<&mut Dream>,
    mut message: Single<&mut Text, With<MessageLine>>,
    mut focus: ResMut<InputFocus>,
    mut keys: ResMut<ButtonInput<KeyCode>>,
    mut history: Local<History>,
) {
    let (entity, mut text) = bar.into_inner();
    let writing = focus.get() == Some(entity);
    let enter = keys.just_pressed(KeyCode::Enter) || keys.just_pressed(KeyCode::NumpadEnter);
    if enter && !writing {
        history.push(&dream.prompt);
        write(&mut text, &dream.prompt);
        focus.set(entity, FocusCause::Navigated);
    } else if enter && !text.is_composing() {
        let written = text.value().to_string();
        let new_world = keys.any_pressed([KeyCode::ShiftLeft, KeyCode::ShiftRight]);
        let seed = written.trim().parse().ok().filter(|_| new_world);
        match check_prompt(&written) {
            Ok(()) => {
                if new_world {
                    dream.seed = seed.unwrap_or_else(new_seed);
                    dream.start = None;
                }
                if seed.is_none() {
                    history.push(&written);
                    dream.prompt = written;
                }
                focus.clear();
            }
            Err(error) => message.0 = error.to_string(),
        }
    } else if writing && keys.any_just_pressed([KeyCode::ArrowUp, KeyCode::ArrowDown]) {
        if let Some(prompt) = history.step(keys.just_pressed(KeyCode::ArrowUp)) {
            write(&mut text, prompt);
        }
    } else if writing && keys.just_pressed(KeyCode::Escape) {
        // This Esc is spent: it does not free the mouse as well.
        keys.clear_just_pressed(KeyCode::Escape);
        focus.clear();
    }
    if focus.get() != Some(entity)
        && let Some(preset) = preset(&keys)
    {
        dream.prompt = preset;
    }
}
