use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bevy::diagnostic::DiagnosticsStore;

use super::*;
use crate::simulate::fake::{FakeModel, Fault};
use crate::{Controls, Error};

/// Generous: these tests are about what happens, not how fast.
const PATIENCE: Duration = Duration::from_secs(20);

/// All events of the app, as text.
#[derive(Resource, Default)]
struct Heard(Vec<String>);

/// An app without window or renderer whose models are `model`, and which counts how often one is loaded.
fn app(model: FakeModel) -> (App, Arc<AtomicUsize>) {
    let loads = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&loads);
    let loader = ModelLoader::new(move |folder| {
        count.fetch_add(1, Ordering::Relaxed);
        match folder.to_str() {
            Some("missing") => Err(Error::model(folder, "no such folder")),
            _ => Ok(model.clone().shared()),
        }
    });
    let mut app = App::new();
    app.add_plugins((MinimalPlugins, AssetPlugin::default(), ImagePlugin::default(), DreamPlugin { loader }))
        .init_resource::<Heard>()
        .add_observer(|on: On<DreamStarted>, mut heard: ResMut<Heard>| {
            heard.0.push(format!("started {} {:?}", on.world, on.prompt));
        })
        .add_observer(|on: On<DreamPromptApplied>, mut heard: ResMut<Heard>| {
            heard.0.push(format!("prompt {:?}", on.prompt));
        })
        .add_observer(|on: On<DreamMoved>, mut heard: ResMut<Heard>| {
            heard.0.push(format!("moved to {} {:?}", on.tick, on.prompt));
        })
        .add_observer(|on: On<DreamSaved>, mut heard: ResMut<Heard>| {
            heard.0.push(format!("saved {}", on.path.display()));
        })
        .add_observer(|on: On<DreamError>, mut heard: ResMut<Heard>| {
            heard.0.push(format!("error fatal={} {}", on.fatal, on.reason));
        });
    (app, loads)
}

fn fast() -> FakeModel {
    let mut model = FakeModel::default();
    model.info.fps = 500.0;
    model
}

fn until<T>(app: &mut App, mut found: impl FnMut(&mut App) -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        app.update();
        if let Some(value) = found(app) {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "nothing happened but {:?}", app.world().resource::<Heard>().0);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn until_heard(app: &mut App, text: &str) {
    until(app, |app| app.world().resource::<Heard>().0.iter().any(|line| line.contains(text)).then_some(()));
}

fn until_tick(app: &mut App, dream: Entity, tick: u64) {
    until(app, |app| (app.world().get::<DreamStatus>(dream)?.tick >= tick).then_some(()));
}

fn spawn(app: &mut App) -> Entity {
    app.world_mut().spawn(Dream::new("model", "a meadow")).id()
}

#[test]
fn frames_come_to_an_image() {
    let (mut app, _) = app(fast());
    let dream = spawn(&mut app);
    until_tick(&mut app, dream, 4);
    let status = app.world().get::<DreamStatus>(dream).unwrap();
    assert_eq!((&status.phase, status.size), (&DreamPhase::Running, UVec2::splat(32)));
    let screen = app.world().get::<DreamScreen>(dream).unwrap().0.clone();
    let image = app.world().resource::<Assets<Image>>().get(&screen).unwrap();
    assert_eq!(image.size(), UVec2::splat(32));
    assert_eq!(image.data.as_ref().unwrap().len(), 32 * 32 * 4);
    let measured = app.world().resource::<DiagnosticsStore>();
    for path in [NATIVE_FPS, MODEL_FPS, CONTROL_TO_FRAME_MS] {
        assert!(measured.get(&path).unwrap().value().unwrap() > 0.0, "{path:?}");
    }
}

#[test]
fn an_image_is_touched_only_by_new_pixels() {
    let mut slow = fast();
    slow.info.fps = 0.01;
    let (mut app, _) = app(slow);
    let dream = spawn(&mut app);
    until(&mut app, |app| (app.world().get::<DreamStatus>(dream)?.size != UVec2::ZERO).then_some(()));
    let mut events = app.world().resource::<Messages<AssetEvent<Image>>>().get_cursor_current();
    for _ in 0..5 {
        app.update();
    }
    assert_eq!(events.read(app.world().resource::<Messages<AssetEvent<Image>>>()).count(), 0);
}

#[test]
fn controls_reach_the_world_and_come_back_with_the_chunk() {
    let (mut app, _) = app(fast());
    let dream = spawn(&mut app);
    let held = Controls { forward: 1.0, ..Default::default() };
    *app.world_mut().get_mut::<DreamControls>(dream).unwrap() = DreamControls { held, turn: Vec2::new(4.0, 0.0) };
    let mut chunks = app.world().resource::<Messages<DreamChunkShown>>().get_cursor();
    let mut turned = 0.0;
    until(&mut app, |app| {
        for chunk in chunks.read(app.world().resource::<Messages<DreamChunkShown>>()) {
            assert_eq!(chunk.dream, dream);
            turned += chunk.controls.iter().map(|c| c.look[0]).sum::<f32>();
        }
        (turned > 0.0).then_some(())
    });
    assert_eq!(turned, 4.0);
    assert_eq!(app.world().get::<DreamControls>(dream).unwrap().turn, Vec2::ZERO);
}

#[test]
fn changes_of_the_component_change_the_world() {
    let (mut app, _) = app(fast());
    let dream = spawn(&mut app);
    until_heard(&mut app, r#"started 1 "a meadow""#);
    app.world_mut().get_mut::<Dream>(dream).unwrap().prompt = "a desert".into();
    until_heard(&mut app, r#"prompt "a desert""#);
    app.world_mut().get_mut::<Dream>(dream).unwrap().seed = 9;
    until_heard(&mut app, r#"started 2 "a desert""#);
    app.world_mut().get_mut::<Dream>(dream).unwrap().paused = true;
    let running = |app: &App| app.world().get::<DreamStatus>(dream).unwrap().tick;
    until(&mut app, |app| {
        let before = running(app);
        std::thread::sleep(Duration::from_millis(50));
        app.update();
        (running(app) == before).then_some(())
    });
}

#[test]
fn a_refused_prompt_is_told_and_put_back() {
    let (mut app, _) = app(fast());
    let dream = spawn(&mut app);
    until_heard(&mut app, "started 1");
    app.world_mut().get_mut::<Dream>(dream).unwrap().prompt = " ".into();
    until_heard(&mut app, "error fatal=false the prompt is empty");
    assert_eq!(app.world().get::<Dream>(dream).unwrap().prompt, "a meadow");
    app.world_mut().get_mut::<Dream>(dream).unwrap().seed = 2;
    until_heard(&mut app, r#"started 2 "a meadow""#);
}

#[test]
fn after_a_fault_any_change_starts_a_new_world() {
    let (mut app, _) = app(FakeModel { fault: Some((2, Fault::Panic)), ..fast() });
    let dream = spawn(&mut app);
    until_heard(&mut app, "error fatal=true");
    assert!(matches!(app.world().get::<DreamStatus>(dream).unwrap().phase, DreamPhase::Failed(_)));
    app.world_mut().get_mut::<Dream>(dream).unwrap().prompt = "a desert".into();
    until_heard(&mut app, r#"started 2 "a desert""#);
}

#[test]
fn a_missing_model_is_told_and_another_can_be_chosen() {
    let (mut app, _) = app(fast());
    let dream = app.world_mut().spawn(Dream::new("missing", "a meadow")).id();
    until_heard(&mut app, "no such folder");
    app.world_mut().get_mut::<Dream>(dream).unwrap().model = "model".into();
    until_heard(&mut app, "started 1");
}

#[test]
fn worlds_share_a_model_and_despawning_ends_one() {
    let (mut app, loads) = app(fast());
    let [first, second] = [spawn(&mut app), spawn(&mut app)];
    until_tick(&mut app, first, 2);
    until_tick(&mut app, second, 2);
    assert_eq!(loads.load(Ordering::Relaxed), 1);
    app.world_mut().despawn(first);
    let tick = app.world().get::<DreamStatus>(second).unwrap().tick;
    until_tick(&mut app, second, tick + 4);
}

#[test]
fn a_world_is_rewound_saved_and_loaded() {
    let (mut app, _) = app(fast());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.dream");
    let entity = spawn(&mut app);
    until_tick(&mut app, entity, 20);
    app.world_mut().trigger(DreamRewind { entity, time: Duration::from_secs(9) });
    until_heard(&mut app, "moved to 0");
    until_tick(&mut app, entity, 2);
    app.world_mut().trigger(DreamSave { entity, path: path.clone() });
    until_heard(&mut app, "saved");
    app.world_mut().get_mut::<Dream>(entity).unwrap().prompt = "a desert".into();
    until_heard(&mut app, r#"prompt "a desert""#);
    app.world_mut().trigger(DreamLoad { entity, path });
    until(&mut app, |app| (app.world().resource::<Heard>().0.last()?.starts_with("moved")).then_some(()));
    assert_eq!(app.world().get::<Dream>(entity).unwrap().prompt, "a meadow");
    app.world_mut().trigger(DreamLoad { entity, path: folder.path().join("none") });
    until_heard(&mut app, "error fatal=false");
}
