use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bevy::diagnostic::DiagnosticsStore;
use bevy::ecs::reflect::{ReflectEvent, ReflectMessage};

use super::testing::{test_app_with, update_until};
use super::*;
use crate::controls::MAX_LOOK;
use crate::model::{ModelInfo, Rollout, Settings, WorldModel};
use crate::simulate::TimelineOptions;
use crate::simulate::fake::{FakeModel, Fault};
use crate::{Controls, Error, Frame, FrameSize, Result};

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
    let mut app = test_app_with(loader);
    app.init_resource::<Heard>()
        .add_observer(|on: On<DreamStarted>, mut heard: ResMut<Heard>| {
            heard.0.push(format!("started {} {:?}", on.world, on.prompt));
        })
        .add_observer(|on: On<DreamRecovered>, mut heard: ResMut<Heard>| {
            heard.0.push(format!("recovered from {}", on.reason));
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

fn until_heard(app: &mut App, text: &str) {
    update_until(app, |world| world.resource::<Heard>().0.iter().any(|line| line.contains(text)).then_some(()));
}

fn until_tick(app: &mut App, dream: Entity, tick: u64) {
    update_until(app, |world| (world.get::<DreamStatus>(dream)?.tick >= tick).then_some(()));
}

fn status(app: &App, dream: Entity) -> &DreamStatus {
    app.world().get(dream).unwrap()
}

/// Changes the dream as a game would.
fn change(app: &mut App, dream: Entity, change: impl FnOnce(&mut Dream)) {
    change(&mut app.world_mut().get_mut(dream).unwrap());
}

fn spawn(app: &mut App) -> Entity {
    app.world_mut().spawn(Dream::new("model", "a meadow")).id()
}

#[test]
fn frames_come_to_an_image() {
    let (mut app, _) = app(FakeModel::fast());
    let dream = spawn(&mut app);
    until_tick(&mut app, dream, 4);
    let status = status(&app, dream);
    assert_eq!((&status.phase, status.size), (&DreamPhase::Running, UVec2::splat(32)));
    let screen = app.world().get::<DreamScreen>(dream).unwrap().0.clone();
    let image = app.world().resource::<Assets<Image>>().get(&screen).unwrap();
    assert_eq!(image.size(), UVec2::splat(32));
    assert_eq!(image.data.as_ref().unwrap().len(), 32 * 32 * 4);
    let measured = app.world().resource::<DiagnosticsStore>();
    for path in [NATIVE_FPS, MODEL_FPS, CONTROL_TO_FRAME_MS, SPACING_MS, UPDATE_MS] {
        assert!(measured.get(&path).unwrap().value().unwrap() > 0.0, "{path:?}");
    }
}

#[test]
fn an_image_is_touched_only_by_new_pixels() {
    let mut slow = FakeModel::fast();
    slow.info.fps = 0.01;
    let (mut app, _) = app(slow);
    let dream = spawn(&mut app);
    update_until(&mut app, |world| (world.get::<DreamStatus>(dream)?.size != UVec2::ZERO).then_some(()));
    let mut events = app.world().resource::<Messages<AssetEvent<Image>>>().get_cursor_current();
    for _ in 0..5 {
        app.update();
    }
    assert_eq!(events.read(app.world().resource::<Messages<AssetEvent<Image>>>()).count(), 0);
}

#[test]
fn controls_reach_the_world_and_come_back_with_the_chunk() {
    let (mut app, _) = app(FakeModel::fast());
    let dream = spawn(&mut app);
    let held = Controls { forward: 1.0, ..Default::default() };
    *app.world_mut().get_mut::<DreamControls>(dream).unwrap() = DreamControls { held, turn: Vec2::new(4.0, 0.0) };
    let mut chunks = app.world().resource::<Messages<DreamChunkShown>>().get_cursor();
    let mut turned = 0.0;
    update_until(&mut app, |world| {
        for chunk in chunks.read(world.resource::<Messages<DreamChunkShown>>()) {
            assert_eq!(chunk.entity, dream);
            turned += chunk.controls.iter().map(|c| c.look[0]).sum::<f32>();
        }
        (turned > 0.0).then_some(())
    });
    assert_eq!(turned, 4.0);
    assert_eq!(app.world().get::<DreamControls>(dream).unwrap().turn, Vec2::ZERO);
}

#[test]
fn controls_that_are_none_do_no_harm() {
    let (mut app, _) = app(FakeModel::fast());
    let dream = spawn(&mut app);
    let held = Controls { forward: f32::NAN, strafe: 1e30, ..Default::default() };
    *app.world_mut().get_mut::<DreamControls>(dream).unwrap() =
        DreamControls { held, turn: Vec2::new(f32::INFINITY, f32::NAN) };
    let mut chunks = app.world().resource::<Messages<DreamChunkShown>>().get_cursor();
    let chunk = update_until(&mut app, |world| {
        chunks
            .read(world.resource::<Messages<DreamChunkShown>>())
            .find(|chunk| chunk.controls[0].look[0] > 0.0)
            .cloned()
    });
    let expected = Controls { strafe: 1.0, look: [MAX_LOOK, 0.0], ..Default::default() };
    assert_eq!(chunk.controls, [expected; 2]);
}

#[test]
fn changes_of_the_component_change_the_world() {
    let (mut app, _) = app(FakeModel::fast());
    let dream = spawn(&mut app);
    until_heard(&mut app, r#"started 1 "a meadow""#);
    change(&mut app, dream, |dream| dream.prompt = "a desert".into());
    until_heard(&mut app, r#"prompt "a desert""#);
    change(&mut app, dream, |dream| dream.seed = 9);
    until_heard(&mut app, r#"started 2 "a desert""#);
    let start = Frame { size: FrameSize::new(3, 5), rgb: vec![200; 45] };
    change(&mut app, dream, |dream| dream.start = Some(start.into()));
    until_heard(&mut app, r#"started 3 "a desert""#);
}

#[test]
fn a_paused_world_stands_still_and_goes_on_chunk_by_chunk() {
    let (mut app, _) = app(FakeModel::fast());
    let entity = spawn(&mut app);
    until_tick(&mut app, entity, 2);
    change(&mut app, entity, |dream| dream.paused = true);
    let stopped = |app: &mut App| {
        update_until(app, |world| (world.get::<DreamStatus>(entity)?.phase == DreamPhase::Paused).then_some(()));
        update_until(app, |world| {
            let shown = world.get::<DreamStatus>(entity)?.tick;
            std::thread::sleep(Duration::from_millis(50));
            world.run_schedule(PreUpdate);
            (world.get::<DreamStatus>(entity)?.tick == shown).then_some(shown)
        })
    };
    let before = stopped(&mut app);
    app.world_mut().trigger(DreamStep { entity });
    until_tick(&mut app, entity, before + 1);
    assert_eq!(stopped(&mut app), before + 2);
    change(&mut app, entity, |dream| dream.paused = false);
    until_tick(&mut app, entity, before + 10);
    assert_eq!(status(&app, entity).phase, DreamPhase::Running);
}

#[test]
fn the_game_says_how_much_of_the_past_is_kept() {
    let (mut app, _) = app(FakeModel::fast());
    let entity = spawn(&mut app);
    let past = TimelineOptions { chunks: 4, branches: 0, ..Default::default() };
    change(&mut app, entity, |dream| dream.past = past);
    until_tick(&mut app, entity, 200);
    app.world_mut().trigger(DreamRewind { entity, time: Duration::from_secs(9) });
    until_heard(&mut app, "moved to");
    let moved = app.world().resource::<Heard>().0.iter().find(|line| line.starts_with("moved")).cloned().unwrap();
    assert!(!moved.starts_with("moved to 0 "), "the beginning is forgotten: {moved}");
}

#[test]
fn a_slow_model_holds_no_update_up() {
    let (mut app, _) = app(FakeModel { delay: Duration::from_millis(200), ..FakeModel::fast() });
    let dream = spawn(&mut app);
    until_tick(&mut app, dream, 2);
    let mut updates = 0;
    for _ in 0..3 {
        let chunk = status(&app, dream).tick + 2;
        update_until(&mut app, |world| {
            updates += 1;
            (world.get::<DreamStatus>(dream)?.tick >= chunk).then_some(())
        });
    }
    assert!(updates > 30, "{updates} updates in the time of three chunks");
    assert_eq!(status(&app, dream).phase, DreamPhase::Running);
}

#[test]
fn what_is_refused_is_told_and_put_back() {
    let (mut app, _) = app(FakeModel::fast());
    let dream = spawn(&mut app);
    until_heard(&mut app, "started 1");
    change(&mut app, dream, |dream| dream.prompt = " ".into());
    until_heard(&mut app, "error fatal=false the prompt is empty");
    change(&mut app, dream, |dream| dream.prompt = "x".repeat(10_000));
    until_heard(&mut app, "10000");
    let settings = Some(Settings { steps: 0, ..FakeModel::default().info.settings });
    change(&mut app, dream, |dream| dream.settings = settings);
    until_heard(&mut app, "error fatal=false steps is 0");
    let broken = Frame { size: FrameSize::new(9, 9), rgb: vec![] };
    change(&mut app, dream, |dream| dream.start = Some(broken.into()));
    until_heard(&mut app, "error fatal=false a start image of 9x9");
    change(&mut app, dream, |dream| dream.size = Some(UVec2::new(17, 16)));
    until_heard(&mut app, "error fatal=false frames of 17x16");
    assert_eq!(*app.world().get::<Dream>(dream).unwrap(), Dream::new("model", "a meadow"));
    change(&mut app, dream, |dream| dream.seed = 2);
    until_heard(&mut app, r#"started 2 "a meadow""#);
}

#[test]
fn after_a_fault_a_change_or_a_restart_begins_a_world_again() {
    for fault in [Fault::Error, Fault::Panic] {
        let (mut app, _) = app(FakeModel { fault: Some((2, fault)), ..FakeModel::fast() });
        let entity = spawn(&mut app);
        until_heard(&mut app, "error fatal=true");
        assert!(matches!(&status(&app, entity).phase, DreamPhase::Failed(reason) if reason.contains("injected")));
        change(&mut app, entity, |dream| dream.prompt = "a desert".into());
        until_heard(&mut app, r#"started 2 "a desert""#);
        until_heard(&mut app, "recovered from");
        update_until(&mut app, |world| {
            matches!(world.get::<DreamStatus>(entity)?.phase, DreamPhase::Failed(_)).then_some(())
        });
        app.world_mut().trigger(DreamRestart { entity });
        until_heard(&mut app, r#"started 3 "a desert""#);
    }
}

/// A model whose facts make the thread fail outside of the guarded work, while `faults` are left.
struct Rotten(FakeModel, AtomicUsize);

impl WorldModel for Rotten {
    fn info(&self) -> &ModelInfo {
        let fault = self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        assert!(fault.is_err(), "an injected panic");
        &self.0.info
    }

    fn gflop_per_chunk(&self, _size: FrameSize, _settings: Settings) -> f64 {
        0.0
    }

    fn open(self: Arc<Self>, size: FrameSize) -> Result<Box<dyn Rollout>> {
        Arc::new(self.0.clone()).open(size)
    }
}

#[test]
fn a_thread_that_died_is_told_and_another_can_be_had() {
    let rotten: Arc<dyn WorldModel> = Arc::new(Rotten(FakeModel::fast(), 1.into()));
    let mut app = test_app_with(ModelLoader::new(move |_| Ok(rotten.clone())));
    let entity = spawn(&mut app);
    let failed = |world: &mut World| match &world.get::<DreamStatus>(entity)?.phase {
        DreamPhase::Failed(reason) => Some(reason.clone()),
        _ => None,
    };
    let reason = update_until(&mut app, failed);
    assert!(reason.contains("injected"), "{reason}");
    // The thread tells that it ends a little before it has.
    std::thread::sleep(Duration::from_millis(50));
    app.world_mut().trigger(DreamRestart { entity });
    until_tick(&mut app, entity, 2);
}

#[test]
fn what_is_observed_can_be_read_too() {
    let (mut app, _) = app(FakeModel { fault: Some((200, Fault::Error)), ..FakeModel::fast() });
    app.add_observer(|on: On<DreamChunkShown>, mut heard: ResMut<Heard>| heard.0.push(format!("chunk {}", on.index)));
    let entity = spawn(&mut app);
    let mut told = Vec::new();
    let mut until_told = |app: &mut App, text: &str| {
        until_heard(app, text);
        let world = app.world_mut();
        told.extend(world.resource_mut::<Messages<DreamChunkShown>>().drain().map(|m| format!("chunk {}", m.index)));
        told.extend(world.resource_mut::<Messages<DreamPromptApplied>>().drain().map(|m| m.prompt));
        told.extend(world.resource_mut::<Messages<DreamError>>().drain().map(|m| m.reason));
        told.extend(world.resource_mut::<Messages<DreamRecovered>>().drain().map(|_| "recovered".into()));
        assert!(told.iter().any(|line| line.contains(text)), "{text}: {told:?}");
    };
    until_told(&mut app, "chunk 0");
    change(&mut app, entity, |dream| dream.prompt = "a desert".into());
    until_told(&mut app, "a desert");
    until_told(&mut app, "injected");
    change(&mut app, entity, |dream| dream.seed = 2);
    until_told(&mut app, "recovered");
}

#[test]
fn what_a_scene_or_an_inspector_may_show_is_reflected() {
    let (app, _) = app(FakeModel::fast());
    let types = app.world().resource::<AppTypeRegistry>().read();
    let reflected = |name: &str| types.get_with_short_type_path(name).unwrap_or_else(|| panic!("{name}"));
    for component in ["Dream", "DreamControls", "DreamInput", "DreamScreen", "DreamScript", "DreamStatus"] {
        assert!(reflected(component).data::<ReflectComponent>().is_some(), "{component}");
    }
    assert!(reflected("ModelLoader").data::<ReflectResource>().is_some());
    for told in [
        "DreamChunkShown",
        "DreamStarted",
        "DreamRecovered",
        "DreamPromptApplied",
        "DreamMoved",
        "DreamSaved",
        "DreamRecorded",
        "DreamError",
    ] {
        assert!(reflected(told).data::<ReflectMessage>().is_some(), "{told}");
        assert!(reflected(told).data::<ReflectEvent>().is_some(), "{told}");
    }
    for asked in ["Record", "Restart", "Step", "Switch", "Rewind", "Save", "Load"] {
        assert!(reflected(&format!("Dream{asked}")).data::<ReflectEvent>().is_some(), "{asked}");
    }
    reflected("DreamPhase");
}

#[test]
fn a_missing_model_is_told_and_another_can_be_chosen() {
    let (mut app, _) = app(FakeModel::fast());
    let dream = app.world_mut().spawn(Dream::new("missing", "a meadow")).id();
    until_heard(&mut app, "no such folder");
    change(&mut app, dream, |dream| dream.model = "model".into());
    until_heard(&mut app, "started 1");
    until_heard(&mut app, "recovered from");
}

#[test]
fn worlds_share_a_model_and_despawning_ends_one() {
    let (mut app, loads) = app(FakeModel::fast());
    let [first, second] = [spawn(&mut app), spawn(&mut app)];
    until_tick(&mut app, first, 2);
    until_tick(&mut app, second, 2);
    assert_eq!(loads.load(Ordering::Relaxed), 1);
    app.world_mut().despawn(first);
    let tick = status(&app, second).tick;
    until_tick(&mut app, second, tick + 4);
}

#[cfg(target_os = "linux")]
#[test]
fn a_world_that_goes_holds_no_update_up_and_its_recording_is_completed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut app, _) = app(FakeModel::fast());
    let dream = spawn(&mut app);
    app.update();
    app.world_mut().trigger(DreamRecord { entity: dream, path: Some(folder.path().join("walk/")) });
    let part = update_until(&mut app, |_| {
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir())
    });
    // A disk that takes no more of this picture before somebody opens it too.
    let slow = part.join("frame-000150.png");
    assert!(std::process::Command::new("mkfifo").arg(&slow).status().unwrap().success());
    update_until(&mut app, |_| part.join("frame-000149.png").exists().then_some(()));
    // Then it waits to be written, and the world can still go on a little.
    let tick = status(&app, dream).tick;
    until_tick(&mut app, dream, tick + 12);
    app.world_mut().despawn(dream);
    app.update();
    let _opened = std::fs::File::options().read(true).write(true).open(slow).unwrap();
    drop(app);
    assert!(folder.path().join("walk/frame-000149.png").exists(), "the end of the game waits");
}

/// How a game asks in the moment in which the model thread tells something else: before its wish was sent, or after.
const MOMENTS: [fn(&mut App); 2] = [
    // All is told, and heard before the wish is sent.
    |_| std::thread::sleep(Duration::from_millis(50)),
    // The wish is sent, and then heard what was told before.
    |app| app.world_mut().run_schedule(PostUpdate),
];

#[test]
fn what_is_refused_puts_back_no_newer_wish() {
    for moment in MOMENTS {
        let (mut app, _) = app(FakeModel::fast());
        let entity = spawn(&mut app);
        until_tick(&mut app, entity, 2);
        app.world_mut().trigger(DreamLoad { entity, path: "none".into() });
        change(&mut app, entity, |dream| dream.seed = 7);
        moment(&mut app);
        until_heard(&mut app, "error fatal=false");
        until_heard(&mut app, "started 2");
        assert_eq!(app.world().get::<Dream>(entity).unwrap().seed, 7);
    }
}

#[test]
fn a_wish_outlives_a_move_that_was_asked_for_before_it() {
    // Told of the move before the wish is sent, and after.
    for told_first in [true, false] {
        let (mut app, _) = app(FakeModel { delay: Duration::from_millis(50), ..FakeModel::fast() });
        let entity = spawn(&mut app);
        until_tick(&mut app, entity, 4);
        app.world_mut().trigger(DreamRewind { entity, time: Duration::from_secs(9) });
        if told_first {
            std::thread::sleep(Duration::from_millis(300));
        }
        change(&mut app, entity, |dream| dream.prompt = "a desert".into());
        until_heard(&mut app, r#"prompt "a desert""#);
        assert_eq!(status(&app, entity).prompt, "a desert");
        assert_eq!(app.world().get::<Dream>(entity).unwrap().prompt, "a desert");
    }
}

#[test]
fn a_world_is_rewound_saved_and_loaded() {
    let (mut app, _) = app(FakeModel::fast());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.dream");
    let entity = spawn(&mut app);
    until_tick(&mut app, entity, 20);
    app.world_mut().trigger(DreamRewind { entity, time: Duration::from_secs(9) });
    until_heard(&mut app, "moved to 0");
    until_tick(&mut app, entity, 2);
    app.world_mut().trigger(DreamSave { entity, path: path.clone() });
    until_heard(&mut app, "saved");
    change(&mut app, entity, |dream| dream.prompt = "a desert".into());
    until_heard(&mut app, r#"prompt "a desert""#);
    app.world_mut().trigger(DreamLoad { entity, path });
    update_until(&mut app, |world| world.resource::<Heard>().0.last()?.starts_with("moved").then_some(()));
    assert_eq!(app.world().get::<Dream>(entity).unwrap().prompt, "a meadow");
    app.world_mut().trigger(DreamLoad { entity, path: folder.path().join("none") });
    until_heard(&mut app, "error fatal=false");
    let branches = update_until(&mut app, |world| {
        let branches = world.get::<DreamStatus>(entity)?.branches.clone();
        (!branches.is_empty()).then_some(branches)
    });
    let heard = app.world().resource::<Heard>().0.len();
    app.world_mut().trigger(DreamSwitch { entity, branch: 0 });
    let moved = format!("moved to {} ", branches[0].end);
    update_until(&mut app, |world| {
        world.resource::<Heard>().0[heard..].iter().any(|l| l.starts_with(&moved)).then_some(())
    });
}
