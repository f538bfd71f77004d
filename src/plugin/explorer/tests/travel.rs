//! Pausing, going back, saves and recordings.

use super::*;

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
        until(&mut app, |app| matches!(only::<DreamStatus>(app).phase, DreamPhase::Failed(_)) == fault.is_some());
        let film = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        assert!(film.into_iter().any(|path| path.extension().is_some_and(|extension| extension == adjust::FORMAT)));
    }
}
