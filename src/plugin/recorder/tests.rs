use std::fs;
use std::time::{Duration, Instant};

use super::*;
use crate::Controls;
use crate::dataset::{Episode, ShardReader};

const SIZE: UVec2 = UVec2::new(24, 16);

fn app() -> App {
    let mut app = App::new();
    app.add_plugins((MinimalPlugins, AssetPlugin::default(), ImagePlugin::default(), DreamRecorderPlugin));
    app
}

/// Takes a frame, and plays the graphics card.
fn take(app: &mut App, entity: Entity, action: Vec<f32>, value: u8, arrives: bool) {
    app.world_mut().trigger(DreamTake { entity, action });
    app.world_mut().flush();
    let mut shots = app.world_mut().query_filtered::<Entity, (With<Shot>, With<Readback>)>();
    let shot = shots.single(app.world()).unwrap();
    app.update();
    if arrives {
        app.world_mut().trigger(ReadbackComplete { entity: shot, data: vec![value; 256 * 16] });
    }
}

fn episodes(folder: &std::path::Path) -> Vec<Episode> {
    let mut episodes = Vec::new();
    for shard in ShardReader::shards(folder).unwrap() {
        let mut reader = ShardReader::open(&shard).unwrap();
        let keep = |episode| {
            episodes.push(episode);
            Ok(())
        };
        reader.for_each(keep).unwrap();
    }
    episodes
}

#[test]
fn frames_and_actions_come_to_shards_and_earlier_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let walk = Controls { forward: 1.0, ..Default::default() };
    for run in 0..2 {
        let mut app = app();
        let recorder = DreamRecorder { frames: 3, caption: "a game".into(), ..DreamRecorder::new(folder.path(), SIZE) };
        let entity = app.world_mut().spawn(recorder).id();
        // The black picture is from before the camera draws.
        for i in 0..5 {
            take(&mut app, entity, walk.to_vector().to_vec(), i, true);
        }
        drop(app);
        let episodes = episodes(folder.path());
        assert_eq!(episodes.iter().map(|e| e.frames.len()).collect::<Vec<_>>(), [3, 1].repeat(run + 1));
        assert_eq!(episodes[0].frames[2].rgb, vec![3; 24 * 16 * 3]);
        assert!(episodes[0].actions.iter().all(|action| *action == walk));
        assert_eq!(episodes[0].meta.captions[0].texts, ["a game"]);
    }
}

#[test]
fn after_a_lost_picture_another_episode_begins() {
    let folder = tempfile::tempdir().unwrap();
    let mut app = app();
    let entity = app.world_mut().spawn(DreamRecorder::new(folder.path(), SIZE)).id();
    for (i, arrives) in [true, true, false, true].into_iter().enumerate() {
        take(&mut app, entity, vec![0.0; 8], i as u8 + 1, arrives);
    }
    app.world_mut().despawn(entity);
    drop(app);
    assert_eq!(episodes(folder.path()).iter().map(|e| e.frames.len()).collect::<Vec<_>>(), [2, 1]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_recorder_that_goes_holds_no_update_up() {
    let folder = tempfile::tempdir().unwrap();
    // A disk that takes nothing before somebody reads from it.
    let slow = folder.path().join("shard-000000.tar.part");
    assert!(std::process::Command::new("mkfifo").arg(&slow).status().unwrap().success());
    let mut app = app();
    let entity = app.world_mut().spawn(DreamRecorder::new(folder.path(), SIZE)).id();
    take(&mut app, entity, vec![0.0; 8], 1, true);
    app.world_mut().despawn(entity);
    app.update();
    let written = thread::spawn(move || fs::read(slow).unwrap());
    drop(app);
    assert!(!written.join().unwrap().is_empty(), "the end of the game waits");
}

/// What the errors said.
#[derive(Resource, Default)]
struct Told(Vec<String>);

fn telling_app() -> App {
    let mut app = app();
    app.init_resource::<Told>();
    app.add_observer(|error: On<DreamError>, mut told: ResMut<Told>| told.0.push(error.reason.clone()));
    app
}

/// Waits until the recorder gives up; what it told.
fn given_up(mut app: App, entity: Entity) -> String {
    let start = Instant::now();
    while app.world().get::<DreamRecorder>(entity).is_some() {
        assert!(start.elapsed() < Duration::from_secs(20));
        app.update();
    }
    app.world().resource::<Told>().0.join("; ")
}

#[test]
fn a_folder_that_cannot_be_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let mut app = telling_app();
    let entity = app.world_mut().spawn(DreamRecorder::new(file.join("data"), SIZE)).id();
    assert!(given_up(app, entity).contains("file"));
}

#[cfg(target_os = "linux")]
#[test]
fn earlier_episodes_stay_when_the_disk_is_full() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path().join("shard-000001.tar.part")).unwrap();
    let mut app = telling_app();
    let recorder = DreamRecorder { frames: 2, ..DreamRecorder::new(folder.path(), SIZE) };
    let entity = app.world_mut().spawn(recorder).id();
    for _ in 0..4 {
        take(&mut app, entity, vec![0.0; 8], 1, true);
    }
    let told = given_up(app, entity);
    assert!(told.contains("No space left"), "{told}");
    assert_eq!(episodes(folder.path()).len(), 1);
}

#[test]
fn a_bad_action_is_refused_at_once_and_costs_no_other_frame() {
    for (bad, reason) in [
        (vec![1.0], "an action of 1 numbers"),
        (vec![f32::NAN; 8], "an action of NaN"),
        (vec![-1e30; 8], "cannot be trained on"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut app = telling_app();
        let entity = app.world_mut().spawn(DreamRecorder::new(folder.path(), SIZE)).id();
        let good = |app: &mut App, frames: u8| (0..frames).for_each(|_| take(app, entity, vec![0.0; 8], 1, true));
        let told = |app: &App, times: usize| {
            let told = &app.world().resource::<Told>().0;
            assert!(told.len() == times && told.iter().all(|told| told.contains(reason)), "{told:?}");
        };
        good(&mut app, 3);
        for _ in 0..2 {
            app.world_mut().trigger(DreamTake { entity, action: bad.clone() });
            app.world_mut().flush();
            told(&app, 1);
        }
        good(&mut app, 2);
        app.world_mut().trigger(DreamTake { entity, action: bad.clone() });
        app.world_mut().flush();
        told(&app, 2);
        assert!(app.world().get::<DreamRecorder>(entity).is_some(), "it goes on");
        good(&mut app, 1);
        drop(app);
        let frames: Vec<_> = episodes(folder.path()).iter().map(|e| e.frames.len()).collect();
        assert_eq!(frames, [3, 2, 1], "after a frame that is left out another episode begins");
    }
}

#[test]
fn what_is_changed_while_it_records_spoils_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut app = telling_app();
    let entity = app.world_mut().spawn(DreamRecorder::new(folder.path(), SIZE)).id();
    take(&mut app, entity, vec![0.0; 8], 1, true);
    let mut recorder = app.world_mut().get_mut::<DreamRecorder>(entity).unwrap();
    (recorder.size, recorder.actions) = (SIZE * 2, vec![]);
    take(&mut app, entity, vec![0.0; 8], 1, true);
    drop(app);
    assert_eq!(episodes(folder.path())[0].frames.len(), 2);
}
