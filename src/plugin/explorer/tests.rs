mod bar;
mod travel;
mod window;

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
fn r_starts_a_new_world_which_comes_to_the_view() {
    let mut app = app();
    until(&mut app, |app| only::<DreamStatus>(app).world == 1);
    press(&mut app, &[KeyCode::KeyR]);
    until(&mut app, |app| only::<DreamStatus>(app).world == 2 && only::<DreamStatus>(app).size != UVec2::ZERO);
    let screen = only::<DreamScreen>(&mut app).0;
    let view = app.world_mut().query_filtered::<&ImageNode, With<View>>().single(app.world()).unwrap();
    assert_eq!(view.image, screen);
}
