//! What a stream writes: recordings and saves.

use super::*;
use crate::simulate::{Replay, Snapshot, frame_hash};

#[test]
fn a_recording_can_be_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut stream = start(model(), options("a meadow"));
    until(|| stream.due_frame(Instant::now()).filter(|f| f.tick > 10));
    stream.record(Some(path("walk/"))).unwrap();
    // What a replay file cannot hold, half a step, is not done while recording.
    stream.input().hold(Controls { forward: 0.7, strafe: 0.3, look: [1.5, 0.25], ..Default::default() });
    until(|| stream.due_frame(Instant::now()).filter(|f| f.tick > 40));
    stream.set_prompt("a desert").unwrap();
    until(|| stream.due_frame(Instant::now()).filter(|f| f.tick > 80));
    stream.record(None).unwrap();
    until(|| stream.events().find(|e| *e == Event::Recorded(path("walk/"))));
    drop(stream);

    let replay = read_replay(&path("walk.replay.jsonl"));
    assert!(replay.frames.len() > 20 && std::fs::read_dir(path("walk")).unwrap().count() == replay.frames.len());
    assert_eq!(play_again(&replay, &path("walk.dream")), "a desert");
}

fn read_replay(path: &std::path::Path) -> Replay {
    Replay::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Makes every frame of a recording again; the prompt at its end.
fn play_again(replay: &Replay, save: &std::path::Path) -> String {
    let mut session = Session::new(model().shared(), world("a forest")).unwrap();
    session.restore(&Snapshot::load(save, &model().info).unwrap()).unwrap();
    for recorded in replay.frames.chunks(2) {
        let (controls, prompt) = replay.script.chunk(session.tick(), 2);
        prompt.into_iter().for_each(|p| session.set_prompt(p).unwrap());
        let chunk = session.step(&controls).unwrap();
        let made: Vec<_> = (chunk.first_tick..).zip(chunk.frames.iter().map(frame_hash)).collect();
        assert_eq!(recorded, &made[..recorded.len()]);
    }
    session.prompt().into()
}

#[test]
fn a_recording_that_cannot_be_written_is_told_and_the_world_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut stream = start(model(), options("a meadow"));
    next_frame(&mut stream);
    stream.record(Some(folder.path().join("none/walk.gif"))).unwrap();
    until(|| stream.events().find(|e| matches!(e, Event::Rejected(reason) if reason.contains("walk.gif"))));
    next_frame(&mut stream);
}

#[test]
fn a_recording_is_complete_when_the_stream_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (name, ended) in [("held", false), ("ended", true)] {
        let mut stream = start(model(), options("a meadow"));
        next_frame(&mut stream);
        stream.record(Some(path(&format!("{name}.gif")))).unwrap();
        until(|| stream.events().find(|e| *e == Event::Recording(true)));
        until(|| stream.due_frame(Instant::now()).filter(|f| f.tick > 40));
        if ended {
            stream.record(None).unwrap();
            until(|| stream.events().find(|e| *e == Event::Recording(false)));
        }
        drop(stream);
        assert!(path(&format!("{name}.gif")).exists());
        play_again(&read_replay(&path(&format!("{name}.replay.jsonl"))), &path(&format!("{name}.dream")));
    }
}

#[test]
fn a_stream_whose_thread_is_kept_goes_without_waiting_for_its_recording() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // Each event waits at the gate: so does the end of the recording.
    let gate = Arc::new(Mutex::new(()));
    let waits = Arc::clone(&gate);
    let wake: Wake = Arc::new(move || drop(waits.lock()));
    let mut stream = start(model(), StreamOptions { wake: Some(wake), ..options("a meadow") });
    stream.record(Some(path("walk.gif"))).unwrap();
    until(|| stream.due_frame(Instant::now()).filter(|f| f.tick > 40));
    let thread = stream.thread();
    let closed = gate.lock().unwrap();
    drop(stream);
    assert!(!thread.is_finished());
    drop(closed);
    drop(thread);
    play_again(&read_replay(&path("walk.replay.jsonl")), &path("walk.dream"));
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_recorded_stays_when_the_disk_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut stream = start(model(), options("a meadow"));
    next_frame(&mut stream);
    stream.record(Some(path("walk/"))).unwrap();
    let part = until(|| {
        let mut entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        entries.find(|path| path.is_dir())
    });
    // From some picture on the disk is full.
    std::os::unix::fs::symlink("/dev/full", part.join("frame-000150.png")).unwrap();
    until(|| {
        stream.due_frame(Instant::now());
        stream.events().find(|e| matches!(e, Event::Rejected(reason) if reason.contains("No space left")))
    });
    let picture = |i| path("walk").join(format!("frame-{i:06}.png"));
    assert!((0..150).all(|i| crate::video::load_image(picture(i)).is_ok()) && !picture(150).exists());
    let replay = read_replay(&path("walk.replay.jsonl"));
    assert_eq!(replay.frames.len(), 150);
    play_again(&replay, &path("walk.dream"));
    next_frame(&mut stream);
}

#[test]
fn what_is_recorded_stays_when_the_model_fails() {
    for fault in [Fault::Error, Fault::Panic] {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let delay = Duration::from_millis(5);
        let mut stream = start(FakeModel { fault: Some((150, fault)), delay, ..model() }, options("a meadow"));
        stream.record(Some(path("walk.gif"))).unwrap();
        let told = until(|| {
            stream.due_frame(Instant::now());
            stream.events().find(|e| matches!(e, Event::Recorded(_) | Event::Rejected(_)))
        });
        assert_eq!(told, Event::Recorded(path("walk.gif")));
        let replay = read_replay(&path("walk.replay.jsonl"));
        assert_eq!(replay.frames.last().unwrap().0, 299, "all up to the fault");
        let file = std::io::BufReader::new(std::fs::File::open(path("walk.gif")).unwrap());
        let frames = image::AnimationDecoder::into_frames(image::codecs::gif::GifDecoder::new(file).unwrap());
        assert_eq!(frames.collect_frames().unwrap().len(), replay.frames.len());
        play_again(&replay, &path("walk.dream"));
        stream.new_world(world("a desert")).unwrap();
        until(|| stream.due_frame(Instant::now()).filter(|f| f.chunk.world == 2));
    }
}

#[test]
fn a_saved_world_is_gone_on_with_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("world.dream");
    let mut stream = start(model(), options("a meadow"));
    until(|| stream.due_frame(Instant::now()).filter(|f| f.tick > 10));
    stream.set_prompt("a desert").unwrap();
    stream.save(&path).unwrap();
    until(|| (next_event(&stream) == Event::Saved(path.clone())).then_some(()));
    drop(stream);

    let mut stream = start(model(), options("a forest"));
    next_frame(&mut stream);
    stream.load(folder.path().join("none")).unwrap();
    until(|| matches!(next_event(&stream), Event::Rejected(reason) if reason.contains("none")).then_some(()));
    let saved = std::fs::read(&path).unwrap();
    let mut flipped = saved.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (bytes, part) in [(&saved[..saved.len() / 2], "cut off"), (&flipped, "damaged"), (b"hello", "no saved world")] {
        std::fs::write(&path, bytes).unwrap();
        stream.load(&path).unwrap();
        until(|| matches!(next_event(&stream), Event::Rejected(reason) if reason.contains(part)).then_some(()));
        next_frame(&mut stream);
    }
    std::fs::write(&path, saved).unwrap();
    stream.load(&path).unwrap();
    let tick = until(|| match next_event(&stream) {
        Event::Moved { tick, prompt, .. } => (prompt == "a desert").then_some(tick),
        _ => None,
    });
    assert!(tick > 10 && until(|| stream.due_frame(Instant::now()).filter(|f| f.chunk.world == 2)).tick >= tick);
}

#[test]
fn a_world_goes_on_while_it_is_saved_and_a_load_waits_for_the_save() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("world.dream");
    // The thread that saves has told of a save when it waits at the gate, and does not begin the next before it is open.
    let (open, gate) = crossbeam_channel::bounded::<()>(0);
    let (arrived, arrival) = crossbeam_channel::unbounded();
    let wake: Wake = Arc::new(move || {
        if thread::current().name() == Some("dream-save") {
            arrived.send(()).unwrap();
            gate.recv().ok();
        }
    });
    let mut stream = start(model(), StreamOptions { wake: Some(wake), ..options("a meadow") });
    // The stream's end would wait for it.
    let open = open;
    next_frame(&mut stream);
    stream.save(&path).unwrap();
    arrival.recv_timeout(PATIENCE).unwrap();
    until(|| (next_event(&stream) == Event::Saved(path.clone())).then_some(()));
    let mut first = Session::new(model().shared(), world("a meadow")).unwrap();
    first.restore(&Snapshot::load(&path, &model().info).unwrap()).unwrap();
    let later = until(|| stream.due_frame(Instant::now()).filter(|f| f.tick > first.tick() + 20)).tick;
    stream.save(&path).unwrap();
    stream.load(&path).unwrap();
    until(|| stream.commands.is_empty().then_some(()));
    drop(open);
    let told = until(|| stream.events().find(|e| matches!(e, Event::Saved(_) | Event::Moved { .. })));
    assert_eq!(told, Event::Saved(path));
    until(|| matches!(next_event(&stream), Event::Moved { tick, .. } if tick >= later).then_some(()));
}

#[test]
fn what_is_saved_is_there_when_the_stream_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a.dream", "b.dream"].map(|name| folder.path().join(name));
    let model = FakeModel { ballast: 1 << 20, ..model() };
    let (info, mut stream) = (model.info.clone(), start(model, options("a meadow")));
    next_frame(&mut stream);
    paths.iter().for_each(|path| stream.save(path).unwrap());
    drop(stream);
    assert!(paths.iter().all(|path| Snapshot::load(path, &info).is_ok()));
}

#[test]
fn a_save_that_cannot_be_written_is_told_and_the_world_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut stream = start(model(), options("a meadow"));
    next_frame(&mut stream);
    stream.save(folder.path().join("none/a.dream")).unwrap();
    until(|| matches!(next_event(&stream), Event::Rejected(reason) if reason.contains("a.dream")).then_some(()));
    // What a recording begins with is saved, too.
    std::fs::create_dir(folder.path().join("walk.dream")).unwrap();
    stream.record(Some(folder.path().join("walk.gif"))).unwrap();
    let [mut rejected, mut ended] = [false; 2];
    until(|| {
        stream.due_frame(Instant::now());
        for event in stream.events() {
            rejected |= matches!(&event, Event::Rejected(reason) if reason.contains("walk.dream"));
            ended |= event == Event::Recording(false);
        }
        (rejected && ended).then_some(())
    });
    next_frame(&mut stream);
    drop(stream);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left");
}
