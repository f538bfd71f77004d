//! What a chunk takes from the heap once a world has been walked for a while: its frames, which the game gets to keep, and on
//! the model thread what the way back takes.

#![allow(unsafe_code, reason = "a counting allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bevy_dream::checkpoint::{self, DeviceChoice};
use bevy_dream::kernel::ThreadPool;
use bevy_dream::model::WorldModel;
use bevy_dream::simulate::{Session, SessionOptions, TimelineOptions};
use bevy_dream::stream::{Event, Stream, StreamOptions};
use bevy_dream::{Controls, Frame};

/// Counts what it gives, on all threads.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
static FREED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        BYTES.fetch_add(layout.size(), Relaxed);
        // SAFETY: promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        BYTES.fetch_add(layout.size(), Relaxed);
        // SAFETY: promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        FREED.fetch_add(layout.size(), Relaxed);
        // SAFETY: promised by the caller.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static GIVEN: Counting = Counting;

/// Held by a test while it counts.
static TURN: Mutex<()> = Mutex::new(());

/// Calls, bytes and bytes given back so far.
fn counts() -> [usize; 3] {
    [&CALLS, &BYTES, &FREED].map(|count| count.load(Relaxed))
}

fn model() -> Arc<dyn WorldModel> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/overworld");
    checkpoint::load(folder, DeviceChoice::Cpu).unwrap()
}

fn meadow() -> SessionOptions {
    SessionOptions { prompt: "a flower meadow at noon".into(), ..SessionOptions::default() }
}

/// To and fro, so that no more key frames are taken than are forgotten.
fn walk(chunk: u64) -> Controls {
    let forward = if chunk % 8 < 4 { 1.0 } else { -1.0 };
    Controls { forward, ..Controls::default() }
}

#[test]
fn a_chunk_takes_its_frames_from_the_heap_and_nothing_else() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let model = model();
    let mut session = Session::new(model.clone(), meadow()).unwrap();
    let mut chunks = |count: u64| {
        let before = counts();
        for chunk in 0..count {
            session.step(&[walk(chunk); 2]).unwrap();
            session.commit().unwrap();
        }
        let after = counts();
        std::array::from_fn(|i| after[i] - before[i])
    };
    ThreadPool::new(2).unwrap().install(|| {
        chunks(24);
        let counted = chunks(8);
        let size = model.info().default_size;
        let (frames, pixels) = (model.info().frames_per_chunk, 3 * size.pixels());
        // A list of frames, and the pixels of each.
        let bytes = frames * (size_of::<Frame>() + pixels);
        assert_eq!(counted, [8 * (1 + frames), 8 * bytes, 8 * bytes]);
    });
}

/// Walks until a chunk is shown that is no earlier than this; which it is.
fn reach(stream: &mut Stream, chunk: u64) -> u64 {
    loop {
        for event in stream.events() {
            assert!(!matches!(event, Event::Failed(_) | Event::Ended(_)), "{event:?}");
        }
        if let Some(frame) = stream.due_frame(Instant::now()) {
            stream.input().hold(walk(frame.chunk.index));
            if frame.chunk.index >= chunk {
                return frame.chunk.index;
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until a stream has given back what it took, lest the next test counts that.
fn end_of(stream: Stream) {
    let thread = stream.thread();
    drop(stream);
    while !thread.is_finished() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// On the model thread a chunk also takes a snapshot from which one can come back, and the frames for the screen.
#[test]
fn a_chunk_on_the_model_thread_takes_what_is_stated() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let model = model();
    let pixels = model.info().default_size.pixels();
    // A short past is soon full, and old snapshots leave their memory to new ones.
    let past = TimelineOptions { chunks: 30, ..TimelineOptions::default() };
    let options = StreamOptions { world: meadow(), threads: Some(2), past, ..StreamOptions::default() };
    let mut stream = Stream::start(move || Ok(model), options).unwrap();
    let (start, before) = (reach(&mut stream, 44), counts());
    let (end, after) = (reach(&mut stream, 60), counts());
    let chunks = (end - start) as usize;
    let [calls, bytes] = [0, 1].map(|i| (after[i] - before[i]) / chunks);
    // Frames as the model makes them and as the screen wants them: 14 bytes a pixel. The rest, and nearly all pieces, are names of
    // what the snapshot holds, which itself lies outside of the heap.
    assert!(calls <= 400, "a chunk takes {calls} pieces");
    assert!(bytes <= 20 * pixels, "a chunk takes {bytes} bytes");
    end_of(stream);
}

#[test]
fn worlds_share_the_weights() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let live = || {
        let [_, given, back] = counts();
        given - back
    };
    let without = live();
    let model = model();
    let weights = live() - without;
    let past = TimelineOptions { memory: 10_000_000, ..TimelineOptions::default() };
    let mut worlds = Vec::new();
    let mut world = || {
        let (before, model) = (live(), Arc::clone(&model));
        let options = StreamOptions { world: meadow(), threads: Some(1), past, ..StreamOptions::default() };
        let mut stream = Stream::start(move || Ok(model), options).unwrap();
        // Until it remembers as much as it can.
        reach(&mut stream, 24);
        stream.pause(true).unwrap();
        while !stream.events().any(|event| event == Event::Paused(true)) {
            thread::sleep(Duration::from_millis(1));
        }
        worlds.push(stream);
        live() - before
    };
    world();
    let further = world();
    worlds.into_iter().for_each(end_of);
    // The pictures that it goes on from and the buffers that its chunks are computed in; what it remembers lies outside of the heap.
    assert!(further <= 10_000_000, "a further world takes {further} bytes");
    assert!(weights > 20_000_000, "a model of its own would hardly be seen beside that: {weights} bytes");
}
