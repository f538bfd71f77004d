mod files;

use std::sync::Mutex;

use super::*;
use crate::Controls;
use crate::checkpoint;
use crate::simulate::fake::{FakeModel, Fault};
use crate::simulate::{ControlScript, Session};

/// Generous: these tests are about what happens, not how fast.
const PATIENCE: Duration = Duration::from_secs(20);

/// A model that plays fast, so that the tests do.
fn model() -> FakeModel {
    let mut model = FakeModel::default();
    model.info.fps = 500.0;
    model
}

fn options(prompt: &str) -> StreamOptions {
    StreamOptions { world: world(prompt), threads: Some(1), ..Default::default() }
}

fn world(prompt: &str) -> SessionOptions {
    SessionOptions { seed: 5, prompt: prompt.into(), ..Default::default() }
}

fn start(model: FakeModel, options: StreamOptions) -> Stream {
    Stream::start(move || Ok(model.shared()), options).unwrap()
}

fn until<T>(mut poll: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = poll() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "nothing happened");
        thread::sleep(Duration::from_millis(1));
    }
}

fn next_event(stream: &Stream) -> Event {
    until(|| stream.events().next())
}

fn next_frame(stream: &mut Stream) -> TimedFrame {
    until(|| stream.due_frame(Instant::now()))
}

#[test]
fn it_tells_what_one_waits_for_to_be_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(3 << 24).unwrap();
    let path = file.path().to_owned();
    let load = move || {
        // One does not wait for what takes less.
        checkpoint::sha256(&[&path])?;
        thread::sleep(Duration::from_millis(1100));
        checkpoint::sha256(&[&path])?;
        Ok(model().shared())
    };
    let stream = Stream::start(load, options("a meadow")).unwrap();
    let Event::Reading(Some(progress)) = next_event(&stream) else { panic!("nothing is told") };
    assert!(progress.done >= 3 << 24 && progress.total == 6 << 24, "{progress:?}");
    let last = until(|| stream.events().find(|event| !matches!(event, Event::Reading(Some(_)))));
    assert_eq!(last, Event::Reading(None));
    assert_eq!(next_event(&stream), Event::Loaded(model().info));
}

#[test]
fn it_loads_starts_and_shows_frames_in_order() {
    let mut stream = start(model(), options("a meadow"));
    assert_eq!(next_event(&stream), Event::Loaded(model().info));
    let size = FrameSize::new(32, 32);
    assert_eq!(next_event(&stream), Event::Started { world: 1, seed: 5, prompt: "a meadow".into(), size });
    let mut last = None;
    for _ in 0..6 {
        let frame = next_frame(&mut stream);
        assert_eq!((frame.size, frame.rgba.len()), (size, 32 * 32 * 4));
        assert!(last < Some(frame.tick));
        last = Some(frame.tick);
    }
}

#[test]
fn frames_are_those_of_a_session() {
    let script = ControlScript::parse(
        r#"{"tick":0,"keys":["W"],"look":[2,0]}
           {"tick":5,"keys":[],"prompt":"a desert"}
           {"tick":1000}"#,
    )
    .unwrap();
    let mut session = Session::new(model().shared(), world("a meadow")).unwrap();
    let mut expected = Vec::new();
    for tick in (0..20).step_by(2) {
        let (controls, prompt) = script.chunk(tick, 2);
        prompt.into_iter().for_each(|p| session.set_prompt(p).unwrap());
        expected.extend(session.step(&controls).unwrap().frames);
    }
    let script = Some(script);
    let mut stream = start(model(), StreamOptions { script, ..options("a meadow") });
    loop {
        let frame = next_frame(&mut stream);
        let Some(expected) = expected.get(frame.tick as usize) else { break };
        assert!(frame.rgba == expected.to_rgba(), "tick {} differs", frame.tick);
    }
    assert!(stream.events().any(|e| e == Event::PromptApplied { prompt: "a desert".into(), tick: 4 }));
}

#[test]
fn it_runs_only_a_little_ahead_of_a_player_that_does_not_look() {
    let mut stream = start(model(), options("a meadow"));
    let first = next_frame(&mut stream);
    until(|| (stream.playout.queued() >= 2).then_some(()));
    thread::sleep(Duration::from_millis(100));
    // One chunk is shown, one waits, one is made; all are late by now, so the newest that waits comes next.
    let newest = next_frame(&mut stream).chunk.index;
    assert!(newest <= first.chunk.index + 3, "chunk {newest} was made while {} was shown", first.chunk.index);
}

#[test]
fn controls_reach_the_world() {
    let mut stream = start(model(), options("a meadow"));
    let controls = Controls { forward: 1.0, sprint: true, ..Default::default() };
    stream.input().hold(controls);
    let frame = until(|| stream.due_frame(Instant::now()).filter(|f| f.chunk.controls[0].sprint));
    assert_eq!(frame.chunk.controls, [controls; 2]);
}

#[test]
fn a_new_world_replaces_the_old_at_once() {
    let mut stream = start(model(), options("a meadow"));
    next_frame(&mut stream);
    stream.new_world(SessionOptions { seed: 6, ..world("a desert") }).unwrap();
    let frame = until(|| stream.due_frame(Instant::now()).filter(|f| f.chunk.world == 2));
    assert!(frame.chunk.index < 50, "it counts its chunks from 0");
    assert!(stream.events().any(|e| matches!(e, Event::Started { world: 2, seed: 6, .. })));
}

#[test]
fn a_bad_input_is_rejected_and_the_world_goes_on() {
    let mut stream = start(model(), options("a meadow"));
    next_frame(&mut stream);
    stream.set_prompt(" ").unwrap();
    stream.new_world(SessionOptions { size: Some(FrameSize::new(17, 16)), ..world("a") }).unwrap();
    let rejected = |stream: &Stream| until(|| stream.events().find(|e| matches!(e, Event::Rejected(_))));
    rejected(&stream);
    rejected(&stream);
    let tick = next_frame(&mut stream).tick;
    assert!(until(|| stream.due_frame(Instant::now()).filter(|f| f.tick > tick + 4)).chunk.world == 1);
}

#[test]
fn errors_and_panics_of_the_model_are_told_and_a_new_world_starts() {
    for fault in [Fault::Error, Fault::Panic] {
        let mut stream = start(FakeModel { fault: Some((3, fault)), ..model() }, options("a meadow"));
        let failed = until(|| {
            stream.due_frame(Instant::now());
            stream.events().find(|e| matches!(e, Event::Failed(_)))
        });
        assert!(format!("{failed:?}").contains("injected"), "{failed:?}");
        stream.set_prompt("a desert").unwrap();
        until(|| stream.events().find(|e| matches!(e, Event::Rejected(_))));
        stream.new_world(world("a desert")).unwrap();
        until(|| stream.due_frame(Instant::now()).filter(|f| f.chunk.world == 2));
    }
}

#[test]
fn a_model_that_does_not_load_is_told() {
    for load in [|| Err(Error::model("models/none", "no such folder")), || panic!("no such folder")] {
        let stream = Stream::start(load, options("a meadow")).unwrap();
        let event = next_event(&stream);
        assert!(matches!(&event, Event::Ended(reason) if reason.contains("no such folder")), "{event:?}");
        until(|| stream.is_finished().then_some(()));
        assert!(stream.set_prompt("a desert").is_err());
    }
}

#[test]
fn pausing_holds_the_world() {
    let mut stream = start(model(), options("a meadow"));
    next_frame(&mut stream);
    stream.pause(true).unwrap();
    until(|| (stream.commands.is_empty()).then_some(()));
    thread::sleep(Duration::from_millis(50));
    while stream.due_frame(Instant::now()).is_some() {}
    thread::sleep(Duration::from_millis(50));
    assert!(stream.due_frame(Instant::now()).is_none() && stream.queued() == 0);
    stream.pause(false).unwrap();
    next_frame(&mut stream);
}

#[test]
fn a_held_world_goes_on_chunk_by_chunk() {
    let mut stream = start(model(), options("a meadow"));
    next_frame(&mut stream);
    stream.step().unwrap();
    stream.pause(true).unwrap();
    until(|| stream.events().find(|e| *e == Event::Paused(true)));
    let drain = |stream: &mut Stream| {
        thread::sleep(Duration::from_millis(50));
        std::iter::from_fn(|| stream.due_frame(Instant::now())).last().map(|f| f.tick)
    };
    let before = drain(&mut stream);
    stream.step().unwrap();
    let one = until(|| drain(&mut stream));
    assert!(before.is_none_or(|before| one == before + 2), "{before:?} {one}");
    assert_eq!(drain(&mut stream), None, "one chunk and no more");
    stream.step().unwrap();
    stream.step().unwrap();
    until(|| drain(&mut stream).filter(|tick| *tick == one + 4));
    stream.new_world(world("a desert")).unwrap();
    assert_eq!(until(|| drain(&mut stream)), 1, "a new world shows how it begins");
}

#[test]
fn a_chunk_that_nobody_wants_any_more_is_left() {
    let endless = FakeModel { delay: Duration::MAX, ..model() };
    let stream = start(endless, options("a meadow"));
    let mut worlds = 0;
    let is_making = || until(|| stream.events().find(|e| matches!(e, Event::Started { .. } | Event::Rejected(_))));
    for prompt in ["a desert", "", "a forest"] {
        worlds += u64::from(matches!(is_making(), Event::Started { .. }));
        thread::sleep(Duration::from_millis(20));
        stream.new_world(world(prompt)).unwrap();
    }
    is_making();
    assert_eq!(worlds, 2, "of no prompt there is no world, and the one before goes on");
    let thread = Arc::downgrade(&stream.input);
    drop(stream);
    until(|| (thread.strong_count() == 0).then_some(()));
}

#[test]
fn branches_are_told_and_can_be_gone_to() {
    let mut stream = start(model(), options("a meadow"));
    until(|| stream.due_frame(Instant::now()).filter(|f| f.tick > 40));
    stream.rewind(Duration::from_secs_f32(20.0 / 500.0)).unwrap();
    let left = until(|| match next_event(&stream) {
        Event::Branches(branches) => Some(branches),
        _ => None,
    });
    assert_eq!(left.len(), 1);
    stream.pause(true).unwrap();
    stream.switch(0).unwrap();
    let (world, tick) = until(|| match next_event(&stream) {
        Event::Moved { world, tick, .. } if tick == left[0].end => Some((world, tick)),
        _ => None,
    });
    let shown = until(|| stream.due_frame(Instant::now()).filter(|f| f.chunk.world == world));
    assert_eq!(shown.tick, tick - 1, "a held world shows where it went");
    stream.switch(7).unwrap();
    until(|| matches!(next_event(&stream), Event::Rejected(reason) if reason.contains("no branch 7")).then_some(()));
}

#[test]
fn a_panic_outside_of_the_models_work_is_told() {
    let wake: Wake = Arc::new(|| panic!("an injected panic"));
    let stream = start(model(), StreamOptions { wake: Some(wake), ..options("a meadow") });
    until(|| stream.events().find(|e| matches!(e, Event::Ended(reason) if reason.contains("injected"))));
    until(|| stream.is_finished().then_some(()));
}

#[test]
fn dropping_it_ends_the_thread() {
    // The thread owns the wake function, and drops it when it ends.
    let (held, dropped) = std::sync::mpsc::channel::<()>();
    let wake: Wake = Arc::new(move || {
        let _held = &held;
    });
    let mut stream = start(model(), StreamOptions { wake: Some(wake), ..options("a meadow") });
    next_frame(&mut stream);
    drop(stream);
    assert_eq!(dropped.recv_timeout(PATIENCE), Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn a_rewound_world_shows_where_it_is_and_goes_on_from_there() {
    let mut stream = start(model(), options("a meadow"));
    until(|| stream.due_frame(Instant::now()).filter(|f| f.tick > 40));
    stream.pause(true).unwrap();
    stream.rewind(Duration::from_secs_f32(20.0 / 500.0)).unwrap();
    let (world, tick) = until(|| match next_event(&stream) {
        Event::Moved { world, tick, prompt, .. } => {
            assert_eq!(prompt, "a meadow");
            Some((world, tick))
        }
        _ => None,
    });
    assert!(tick > 20);
    let shown = until(|| stream.due_frame(Instant::now()).filter(|f| f.chunk.world == world));
    assert_eq!(shown.tick, tick - 1);
    stream.pause(false).unwrap();
    assert!(next_frame(&mut stream).tick >= tick);
    stream.rewind(Duration::from_secs(1000)).unwrap();
    until(|| matches!(next_event(&stream), Event::Moved { tick: 0, .. }).then_some(()));
}

#[test]
fn a_prompt_that_follows_a_rewind_is_in_force_afterwards() {
    let mut stream = start(model(), options("a meadow"));
    until(|| stream.due_frame(Instant::now()).filter(|f| f.tick > 20));
    stream.rewind(Duration::from_secs(1000)).unwrap();
    stream.set_prompt("a desert").unwrap();
    let told = until(|| stream.told().find(|(_, event)| matches!(event, Event::Moved { .. })));
    assert!(
        matches!(told, (1, Event::Moved { tick: 0, prompt, .. }) if prompt == "a meadow"),
        "it knows of one command"
    );
    let told = until(|| stream.told().find(|(_, event)| matches!(event, Event::PromptApplied { .. })));
    assert_eq!((told, stream.sent()), ((2, Event::PromptApplied { prompt: "a desert".into(), tick: 0 }), 2));
}
