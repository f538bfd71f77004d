//! The prompt bar and the presets.

use super::*;

#[test]
fn every_number_key_has_a_usable_preset() {
    let presets = presets();
    assert_eq!(presets.len(), 9);
    presets.iter().for_each(|preset| check_prompt(preset).unwrap());
    let mut app = app();
    press(&mut app, &[KeyCode::Digit3]);
    assert_eq!(only::<Dream>(&mut app).prompt, presets[2]);
}

#[test]
fn the_bar_applies_a_prompt_and_does_not_walk() {
    let mut app = app();
    let bar = app.world_mut().query_filtered::<Entity, With<PromptBar>>().single(app.world()).unwrap();
    press(&mut app, &[KeyCode::Enter]);
    assert_eq!(app.world().resource::<InputFocus>().get(), Some(bar));
    let before = only::<Dream>(&mut app);
    press(&mut app, &[KeyCode::KeyW, KeyCode::KeyR, KeyCode::Digit3]);
    assert_eq!(only::<DreamControls>(&mut app).held, Default::default());
    assert_eq!(only::<Dream>(&mut app), before, "letters are letters");
    type_prompt(&mut app, "a desert");
    press(&mut app, &[KeyCode::Enter]);
    assert_eq!(only::<Dream>(&mut app), Dream { prompt: "a desert".into(), ..before.clone() });
    assert_eq!(app.world().resource::<InputFocus>().get(), None);
    press(&mut app, &[KeyCode::Enter]);
    type_prompt(&mut app, "a forest");
    press(&mut app, &[KeyCode::ShiftLeft, KeyCode::Enter]);
    let after = only::<Dream>(&mut app);
    assert!(after.prompt == "a forest" && after.seed != before.seed, "a new world");
}

#[test]
fn a_number_in_the_bar_is_the_seed_of_a_new_world() {
    let mut app = app();
    press(&mut app, &[KeyCode::Enter]);
    type_prompt(&mut app, "a forest");
    press(&mut app, &[KeyCode::Enter]);
    let before = only::<Dream>(&mut app);
    press(&mut app, &[KeyCode::Enter]);
    type_prompt(&mut app, "500123");
    press(&mut app, &[KeyCode::ShiftLeft, KeyCode::Enter]);
    assert_eq!(only::<Dream>(&mut app), Dream { seed: 500_123, ..before });
    until(&mut app, |app| only::<DreamStatus>(app).world == 2);
}

#[test]
fn a_bad_prompt_is_told_and_can_be_mended_or_left() {
    let mut app = app();
    let before = only::<Dream>(&mut app);
    press(&mut app, &[KeyCode::Enter]);
    type_prompt(&mut app, "   ");
    press(&mut app, &[KeyCode::Enter]);
    assert!(message(&mut app).contains("empty"));
    assert!(app.world().resource::<InputFocus>().get().is_some());
    press(&mut app, &[KeyCode::Escape]);
    assert_eq!(app.world().resource::<InputFocus>().get(), None);
    assert_eq!(only::<Dream>(&mut app), before);
}

#[test]
fn earlier_prompts_come_back_to_the_bar() {
    let mut app = app();
    let first = only::<Dream>(&mut app).prompt;
    for prompt in ["a desert", "a forest"] {
        press(&mut app, &[KeyCode::Enter]);
        type_prompt(&mut app, prompt);
        press(&mut app, &[KeyCode::Enter]);
    }
    press(&mut app, &[KeyCode::Enter]);
    press(&mut app, &[KeyCode::ArrowUp]);
    press(&mut app, &[KeyCode::ArrowUp]);
    let bar = app.world_mut().query::<&EditableText>().single(app.world()).unwrap();
    let written = bar.pending_edits.iter().rev().find_map(|edit| match edit {
        TextEdit::Insert(text) => Some(text.to_string()),
        _ => None,
    });
    assert_eq!(written, Some(first));
}
