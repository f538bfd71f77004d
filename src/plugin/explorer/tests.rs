use std::time::{Duration, Instant};

use bevy::input::keyboard::{Key, KeyboardInput, NativeKey};
use bevy::input::mouse::MouseMotion;
use bevy::input::{ButtonState, InputPlugin};
use bevy::input_focus::InputFocus;
use bevy::text::EditableText;
use bevy::window::{CursorGrabMode, CursorOptions};

use super::bar::PromptBar;
use super::layout::MessageLine;
use super::*;
use crate::plugin::{DreamChunkShown, DreamControls, DreamPlugin, DreamScreen, DreamStatus};
use crate::simulate::fake::FakeModel;

/// The explorer without a window system: keys are pressed by the tests.
fn app() -> App {
    let loader = ModelLoader::new(|_| {
        let mut model = FakeModel::default();
        model.info.fps = 500.0;
        Ok(model.shared())
    });
    let mut app = App::new();
    app.add_plugins((
        MinimalPlugins,
        AssetPlugin::default(),
        ImagePlugin::default(),
        InputPlugin,
        WindowPlugin::default(),
        DreamPlugin { loader },
        ExplorerPlugin,
    ))
    .insert_resource(Explored(ExploreOptions::new("model")))
    .init_resource::<Ended>()
    .init_resource::<InputFocus>();
    app.update();
    app
}

/// Holds keys for one update. They are let go in the next.
fn press(app: &mut App, keys: &[KeyCode]) {
    let send = |app: &mut App, state| {
        for &key_code in keys {
            app.world_mut().write_message(KeyboardInput {
                key_code,
                logical_key: Key::Unidentified(NativeKey::Unidentified),
                state,
                text: None,
                repeat: false,
                window: Entity::PLACEHOLDER,
            });
        }
    };
    send(app, ButtonState::Pressed);
    app.update();
    send(app, ButtonState::Released);
}

fn until(app: &mut App, mut done: impl FnMut(&mut App) -> bool) {
    let start = Instant::now();
    while !done(app) {
        assert!(start.elapsed() < Duration::from_secs(20), "nothing happened");
        std::thread::sleep(Duration::from_millis(1));
        app.update();
    }
}

fn only<T: Component + Clone>(app: &mut App) -> T {
    app.world_mut().query::<&T>().single(app.world()).unwrap().clone()
}

fn type_prompt(app: &mut App, text: &str) {
    let mut bar = app.world_mut().query::<&mut EditableText>().single_mut(app.world_mut()).unwrap();
    bar.clear();
    bar.editor_mut().set_text(text);
}

fn message(app: &mut App) -> String {
    app.world_mut().query_filtered::<&Text, With<MessageLine>>().single(app.world()).unwrap().0.clone()
}

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
fn keys_are_controls() {
    let mut app = app();
    press(&mut app, &[KeyCode::KeyW, KeyCode::KeyA, KeyCode::ShiftLeft, KeyCode::Space, KeyCode::ArrowRight]);
    let held = only::<DreamControls>(&mut app).held;
    assert_eq!((held.forward, held.strafe, held.sprint, held.jump), (1.0, -1.0, true, true));
    assert!(held.look[0] > 0.0 && held.look[1] == 0.0);
    press(&mut app, &[]);
    assert_eq!(only::<DreamControls>(&mut app).held, Default::default());
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
fn the_mouse_looks_only_while_it_is_caught() {
    let mut app = app();
    let mut chunks = app.world().resource::<Messages<DreamChunkShown>>().get_cursor();
    let mut turned = |app: &mut App| {
        until(app, |app| only::<DreamStatus>(app).size != UVec2::ZERO);
        app.world_mut().write_message(MouseMotion { delta: Vec2::new(10.0, 0.0) });
        let (mut shown, mut yaw) = (0, 0.0);
        until(app, |app| {
            for chunk in chunks.read(app.world().resource::<Messages<DreamChunkShown>>()) {
                shown += 1;
                yaw += chunk.controls.iter().map(|c| c.look[0]).sum::<f32>();
            }
            shown > 4
        });
        yaw
    };
    assert_eq!(turned(&mut app), 0.0);
    let mut cursor = app.world_mut().query::<&mut CursorOptions>().single_mut(app.world_mut()).unwrap();
    cursor.grab_mode = CursorGrabMode::Locked;
    assert!(turned(&mut app) > 0.0);
    press(&mut app, &[KeyCode::Escape]);
    assert_eq!(only::<CursorOptions>(&mut app).grab_mode, CursorGrabMode::None);
}

#[test]
fn r_starts_a_new_world_which_comes_to_the_view() {
    let mut app = app();
    until(&mut app, |app| only::<DreamStatus>(app).world == 1);
    press(&mut app, &[KeyCode::KeyR]);
    until(&mut app, |app| only::<DreamStatus>(app).world == 2 && only::<DreamStatus>(app).size != UVec2::ZERO);
    let screen = only::<DreamScreen>(&mut app).0;
    assert_eq!(only::<ImageNode>(&mut app).image, screen);
}
