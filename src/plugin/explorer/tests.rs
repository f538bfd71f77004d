use std::time::{Duration, Instant};

use bevy::camera::NormalizedRenderTarget;
use bevy::clipboard::ClipboardPlugin;
use bevy::image::ImageSampler;
use bevy::input::keyboard::{Key, KeyboardFocusLost, KeyboardInput, NativeKey};
use bevy::input::mouse::{MouseButtonInput, MouseMotion};
use bevy::input::{ButtonState, InputPlugin};
use bevy::input_focus::InputFocus;
use bevy::picking::backend::HitData;
use bevy::picking::pointer::{Location, PointerButton, PointerId};
use bevy::text::{EditableText, TextEdit};
use bevy::window::{CursorGrabMode, CursorOptions, FileDragAndDrop, WindowFocused};

use super::bar::PromptBar;
use super::hud::Figures;
use super::layout::{Help, MessageLine, PhaseLine, View};
use super::travel::BranchList;
use super::truth::TruthView;
use super::*;
use crate::plugin::{DreamChunkShown, DreamControls, DreamPhase, DreamPlugin, DreamScreen, DreamStatus};
use crate::simulate::fake::{FakeModel, Fault};

/// The explorer without a window system: keys are pressed by the tests.
fn app() -> App {
    app_of(FakeModel::default(), ExploreOptions::new("model"))
}

fn app_of(model: FakeModel, options: ExploreOptions) -> App {
    let loader = ModelLoader::new(move |_| {
        let mut model = model.clone();
        model.info.fps = 500.0;
        Ok(model.shared())
    });
    app_with(loader, options)
}

fn app_with(loader: ModelLoader, options: ExploreOptions) -> App {
    let mut app = App::new();
    app.add_plugins((
        MinimalPlugins,
        AssetPlugin::default(),
        ImagePlugin::default(),
        InputPlugin,
        WindowPlugin::default(),
        ClipboardPlugin,
        DreamPlugin { loader },
        ExplorerPlugin,
    ))
    .insert_resource(Explored(options))
    .init_resource::<Ended>()
    .init_resource::<InputFocus>();
    app.update();
    app
}

fn send(app: &mut App, keys: &[KeyCode], state: ButtonState) {
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
}

/// Holds keys for one update. They are let go in the next.
fn press(app: &mut App, keys: &[KeyCode]) {
    send(app, keys, ButtonState::Pressed);
    app.update();
    send(app, keys, ButtonState::Released);
}

/// Clicks on what the user interface shows.
fn click(app: &mut App, entity: Entity) {
    let place = Location { target: NormalizedRenderTarget::None { width: 1, height: 1 }, position: Vec2::ZERO };
    let hit = HitData::new(Entity::PLACEHOLDER, 0.0, None, None);
    let press = Press { button: PointerButton::Primary, hit, count: 1 };
    app.world_mut().trigger(Pointer::new(PointerId::Mouse, place, press, entity));
    app.world_mut().flush();
}

fn drop_file(app: &mut App, path_buf: PathBuf) {
    app.world_mut().write_message(FileDragAndDrop::DroppedFile { window: Entity::PLACEHOLDER, path_buf });
    app.update();
}

/// The one entity with a `T`.
fn entity_with<T: Component>(app: &mut App) -> Entity {
    app.world_mut().query_filtered::<Entity, With<T>>().single(app.world()).unwrap()
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
fn one_sees_how_far_a_load_is() {
    let loader = ModelLoader::new(|_| {
        // What takes less than a second is not told.
        std::thread::sleep(Duration::from_millis(1100));
        crate::checkpoint::sha256(&[concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])?;
        std::thread::sleep(Duration::from_millis(500));
        Ok(FakeModel::fast().shared())
    });
    let mut app = app_with(loader, ExploreOptions::new("model"));
    let told = |app: &mut App| {
        app.world_mut().query_filtered::<&Text, With<PhaseLine>>().single(app.world()).unwrap().0.clone()
    };
    until(&mut app, |app| told(app) == "loading the model: 0 %");
    until(&mut app, |app| told(app).is_empty());
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

#[test]
fn p_holds_the_world_and_a_full_stop_makes_a_chunk() {
    let mut app = app();
    until(&mut app, |app| only::<DreamStatus>(app).tick > 4);
    press(&mut app, &[KeyCode::KeyP]);
    until(&mut app, |app| only::<DreamStatus>(app).phase == DreamPhase::Paused);
    std::thread::sleep(Duration::from_millis(50));
    app.update();
    let before = only::<DreamStatus>(&mut app).tick;
    press(&mut app, &[KeyCode::Period]);
    until(&mut app, |app| only::<DreamStatus>(app).tick == before + 2);
    press(&mut app, &[KeyCode::KeyP]);
    until(&mut app, |app| only::<DreamStatus>(app).tick > before + 4);
}

#[test]
fn backspace_leaves_a_branch_and_b_goes_to_it() {
    let mut app = app();
    until(&mut app, |app| only::<DreamStatus>(app).tick > 200);
    press(&mut app, &[KeyCode::Backspace]);
    until(&mut app, |app| only::<DreamStatus>(app).branches.len() == 1);
    assert!(!only::<Dream>(&mut app).paused, "it goes on when the key is let go");
    app.update();
    let list = app.world_mut().query_filtered::<&Children, With<BranchList>>().single(app.world()).unwrap();
    assert_eq!(list.len(), 1);
    let end = only::<DreamStatus>(&mut app).branches[0].end;
    press(&mut app, &[KeyCode::KeyB]);
    until(&mut app, |app| only::<DreamStatus>(app).tick >= end);
}

#[test]
fn a_click_on_a_listed_branch_goes_to_it() {
    let mut app = app();
    // Two branches, of which B would take the newest.
    for count in [1, 2] {
        let tick = only::<DreamStatus>(&mut app).tick;
        until(&mut app, |app| only::<DreamStatus>(app).tick > tick + 200);
        press(&mut app, &[KeyCode::Backspace]);
        until(&mut app, |app| only::<DreamStatus>(app).branches.len() == count);
    }
    press(&mut app, &[KeyCode::KeyP]);
    until(&mut app, |app| only::<DreamStatus>(app).phase == DreamPhase::Paused);
    app.update();
    let list = app.world_mut().query_filtered::<&Children, With<BranchList>>().single(app.world()).unwrap();
    let oldest = list[0];
    let end = only::<DreamStatus>(&mut app).branches[0].end;
    click(&mut app, oldest);
    until(&mut app, |app| only::<DreamStatus>(app).tick + 1 == end);
}

#[test]
fn tab_walks_the_teacher_beside_the_dream() {
    let mut app = app();
    until(&mut app, |app| only::<DreamStatus>(app).size != UVec2::ZERO);
    let displays = |app: &mut App| {
        let dream = app.world_mut().query_filtered::<&Node, With<View>>().single(app.world()).unwrap().display;
        let truth = app.world_mut().query_filtered::<&Node, With<TruthView>>().single(app.world()).unwrap().display;
        [dream, truth].map(|display| display == Display::Flex)
    };
    app.update();
    assert_eq!(displays(&mut app), [true, false]);
    press(&mut app, &[KeyCode::Tab]);
    assert!(only::<Dream>(&mut app).start.is_some());
    until(&mut app, |app| {
        let view = app.world_mut().query_filtered::<&ImageNode, With<TruthView>>().single(app.world()).unwrap();
        let size = app.world().resource::<Assets<Image>>().get(&view.image).unwrap().size();
        only::<DreamStatus>(app).world == 2 && size == UVec2::splat(32)
    });
    for expected in [[true, true], [false, true], [true, false]] {
        assert_eq!(displays(&mut app), expected);
        press(&mut app, &[KeyCode::Tab]);
        app.update();
    }
}

#[test]
fn settings_change_within_their_bounds() {
    let mut app = app();
    until(&mut app, |app| only::<DreamStatus>(app).settings.is_some());
    let shipped = only::<DreamStatus>(&mut app).settings.unwrap();
    press(&mut app, &[KeyCode::BracketRight, KeyCode::Equal]);
    let settings = only::<Dream>(&mut app).settings.unwrap();
    assert_eq!(settings.steps, shipped.steps + 1);
    assert!((settings.context_noise - shipped.context_noise - 0.05).abs() < 1e-6);
    for _ in 0..4 {
        press(&mut app, &[KeyCode::BracketLeft]);
        app.update();
    }
    assert_eq!(only::<Dream>(&mut app).settings.unwrap().steps, 1);
    assert!(message(&mut app).contains("1 to 64"));
}

#[test]
fn a_dropped_picture_starts_a_world_and_anything_else_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut app = app();
    let drop = |app: &mut App, name: &str| drop_file(app, folder.path().join(name));
    std::fs::write(folder.path().join("note.txt"), "hello").unwrap();
    drop(&mut app, "note.txt");
    assert!(message(&mut app).contains("not a PNG"));
    let picture = crate::Frame { size: FrameSize::new(3, 2), rgb: vec![9; 18] };
    crate::video::save_png(&picture, folder.path().join("start.png")).unwrap();
    drop(&mut app, "start.png");
    assert_eq!(only::<Dream>(&mut app).start.as_deref(), Some(&picture));
    until(&mut app, |app| only::<DreamStatus>(app).world == 2);
}

#[test]
fn a_pasted_picture_starts_a_world_and_none_is_told() {
    let mut app = app();
    let before = only::<Dream>(&mut app);
    // The machine of the test may have a clipboard, and anything in it.
    let there = app.world_mut().resource_mut::<Clipboard>().fetch_image().is_ok();
    press(&mut app, &[KeyCode::ControlLeft, KeyCode::KeyV]);
    if there {
        assert!(only::<Dream>(&mut app).start.is_some());
    } else {
        assert!(message(&mut app).contains("clipboard"), "{}", message(&mut app));
        assert_eq!(only::<Dream>(&mut app), before);
    }
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
    app.update();
    assert!(turned(&mut app) > 0.0);
    press(&mut app, &[KeyCode::Escape]);
    assert_eq!(only::<CursorOptions>(&mut app).grab_mode, CursorGrabMode::None);
}

#[test]
fn a_click_catches_the_mouse_and_another_window_in_front_lets_go_of_all() {
    let mut app = app();
    let window = entity_with::<Window>(&mut app);
    send(&mut app, &[KeyCode::KeyW], ButtonState::Pressed);
    let (button, state) = (MouseButton::Left, ButtonState::Pressed);
    app.world_mut().write_message(MouseButtonInput { button, state, window });
    app.update();
    let view = entity_with::<View>(&mut app);
    click(&mut app, view);
    app.update();
    app.update();
    let cursor = only::<CursorOptions>(&mut app);
    assert_eq!((cursor.grab_mode, cursor.visible), (CursorGrabMode::Locked, false));
    let held = only::<DreamControls>(&mut app).held;
    assert!(held.forward == 1.0 && !held.break_block, "the click is no blow: {held:?}");
    app.world_mut().write_message(MouseButtonInput { button, state, window });
    app.update();
    assert!(only::<DreamControls>(&mut app).held.break_block, "the next one is");
    app.world_mut().write_message(WindowFocused { window, focused: false });
    app.world_mut().write_message(KeyboardFocusLost);
    app.update();
    app.update();
    let cursor = only::<CursorOptions>(&mut app);
    assert_eq!((cursor.grab_mode, cursor.visible), (CursorGrabMode::None, true));
    assert_eq!(only::<DreamControls>(&mut app).held, Default::default());
}

#[test]
fn pictures_fill_a_window_of_any_size_and_keep_their_shape() {
    let mut app = app();
    until(&mut app, |app| only::<DreamStatus>(app).size != UVec2::ZERO);
    let sides = |app: &mut App, width: f32, height: f32| {
        let mut window = app.world_mut().query::<&mut Window>().single_mut(app.world_mut()).unwrap();
        window.resolution.set(width, height);
        app.update();
        let node = app.world_mut().query_filtered::<&Node, With<View>>().single(app.world()).unwrap();
        (node.width, node.height)
    };
    assert_eq!(sides(&mut app, 1280.0, 720.0), (px(720), px(720)));
    assert_eq!(sides(&mut app, 300.0, 720.0), (px(300), px(300)));
    press(&mut app, &[KeyCode::Tab]);
    until(&mut app, |app| only::<DreamStatus>(app).world == 2 && only::<DreamStatus>(app).size != UVec2::ZERO);
    assert_eq!(sides(&mut app, 3840.0, 2160.0), (px(1920), px(1920)), "two beside each other");
}

#[test]
fn backspace_goes_back_as_long_as_it_is_held() {
    let mut app = app();
    until(&mut app, |app| only::<DreamStatus>(app).tick > 500);
    send(&mut app, &[KeyCode::Backspace], ButtonState::Pressed);
    // A step is a hundred ticks.
    until(&mut app, |app| only::<DreamStatus>(app).tick < 200);
    assert!(only::<Dream>(&mut app).paused);
    send(&mut app, &[KeyCode::Backspace], ButtonState::Released);
    until(&mut app, |app| !only::<Dream>(app).paused && only::<DreamStatus>(app).tick > 300);
}

#[test]
fn f1_and_f3_show_keys_and_figures() {
    let mut app = app();
    until(&mut app, |app| only::<DreamStatus>(app).tick > 4);
    let shown = |app: &mut App, entity| *app.world().get::<Visibility>(entity).unwrap() != Visibility::Hidden;
    let words = |app: &App, entity| app.world().get::<Text>(entity).unwrap().0.clone();
    let (help, figures) = (entity_with::<Help>(&mut app), entity_with::<Figures>(&mut app));
    for (key, entity, says) in
        [(KeyCode::F1, help, presets().remove(8)), (KeyCode::F3, figures, "native frames".into())]
    {
        assert!(!shown(&mut app, entity));
        press(&mut app, &[key]);
        app.update();
        assert!(shown(&mut app, entity));
        assert!(words(&app, entity).contains(&says), "{}", words(&app, entity));
        press(&mut app, &[key]);
        assert!(!shown(&mut app, entity));
    }
}

#[test]
fn f5_saves_and_f9_goes_on_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let options = ExploreOptions { folder: folder.path().into(), ..ExploreOptions::new("model") };
    let mut app = app_of(FakeModel::default(), options);
    press(&mut app, &[KeyCode::F9]);
    until(&mut app, |app| message(app).contains("quicksave"));
    until(&mut app, |app| only::<DreamStatus>(app).tick > 20);
    press(&mut app, &[KeyCode::F5]);
    until(&mut app, |app| message(app).starts_with("saved to"));
    let saved = only::<DreamStatus>(&mut app).tick;
    until(&mut app, |app| only::<DreamStatus>(app).tick > saved + 500);
    press(&mut app, &[KeyCode::F9]);
    until(&mut app, |app| only::<DreamStatus>(app).tick < saved + 400);
}

#[test]
fn a_damaged_save_is_told_and_the_world_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut app = app();
    until(&mut app, |app| only::<DreamStatus>(app).tick > 4);
    let damaged = folder.path().join("damaged.dream");
    std::fs::write(&damaged, [7; 100]).unwrap();
    drop_file(&mut app, damaged);
    until(&mut app, |app| message(app).contains("damaged.dream"));
    let tick = only::<DreamStatus>(&mut app).tick;
    until(&mut app, |app| only::<DreamStatus>(app).tick > tick + 4);
    assert_eq!(only::<DreamStatus>(&mut app).world, 1);
}

#[test]
fn f8_records_until_it_is_pressed_again_or_the_model_fails() {
    for fault in [None, Some((300, Fault::Panic))] {
        let folder = tempfile::tempdir().unwrap();
        let options = ExploreOptions { folder: folder.path().into(), ..ExploreOptions::new("model") };
        let mut app = app_of(FakeModel { fault, ..FakeModel::default() }, options);
        until(&mut app, |app| only::<DreamStatus>(app).tick > 4);
        press(&mut app, &[KeyCode::F8]);
        until(&mut app, |app| only::<DreamStatus>(app).recording);
        if fault.is_none() {
            until(&mut app, |app| only::<DreamStatus>(app).tick > 40);
            press(&mut app, &[KeyCode::F8]);
        }
        until(&mut app, |app| message(app).starts_with("recorded in"));
        assert!(!only::<DreamStatus>(&mut app).recording);
        assert_eq!(matches!(only::<DreamStatus>(&mut app).phase, DreamPhase::Failed(_)), fault.is_some());
        let film = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        assert!(film.into_iter().any(|path| path.extension().is_some_and(|extension| extension == adjust::FORMAT)));
    }
}

#[test]
fn f_shows_sharp_pixels_and_smooth_ones() {
    let mut app = app();
    let sampler = |app: &mut App| {
        let view = app.world_mut().query_filtered::<&ImageNode, With<View>>().single(app.world()).unwrap();
        app.world().resource::<Assets<Image>>().get(&view.image).unwrap().sampler.clone()
    };
    for expected in [ImageSampler::nearest(), ImageSampler::linear()] {
        until(&mut app, |app| only::<DreamStatus>(app).tick > 4);
        press(&mut app, &[KeyCode::KeyF]);
        app.update();
        assert_eq!(format!("{:?}", sampler(&mut app)), format!("{expected:?}"));
    }
}

#[test]
fn r_starts_a_new_world_which_comes_to_the_view() {
    let mut app = app();
    until(&mut app, |app| only::<DreamStatus>(app).world == 1);
    press(&mut app, &[KeyCode::KeyR]);
    until(&mut app, |app| only::<DreamStatus>(app).world == 2 && only::<DreamStatus>(app).size != UVec2::ZERO);
    let screen = only::<DreamScreen>(&mut app).0;
    let view = app.world_mut().query_filtered::<&ImageNode, With<View>>().single(app.world()).unwrap();
    assert_eq!(view.image, screen);
}
