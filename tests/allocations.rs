//! What a chunk takes from the heap once a world has been walked for a while: its frames, which the game gets to keep.

#![allow(unsafe_code, reason = "a counting allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bevy_dream::checkpoint::{self, DeviceChoice};
use bevy_dream::kernel::ThreadPool;
use bevy_dream::simulate::{Session, SessionOptions};
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

#[test]
fn a_chunk_takes_its_frames_from_the_heap_and_nothing_else() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/overworld");
    let model = checkpoint::load(folder, DeviceChoice::Cpu).unwrap();
    let options = SessionOptions { prompt: "a flower meadow at noon".into(), ..SessionOptions::default() };
    let mut session = Session::new(model.clone(), options).unwrap();
    // To and fro, so that no more key frames are taken than are forgotten.
    let walk = |chunk: usize| {
        let forward = if chunk % 8 < 4 { 1.0 } else { -1.0 };
        [Controls { forward, ..Controls::default() }; 2]
    };
    let mut chunks = |count: usize| {
        let before = [&CALLS, &BYTES, &FREED].map(|count| count.load(Relaxed));
        for chunk in 0..count {
            session.step(&walk(chunk)).unwrap();
            session.commit().unwrap();
        }
        [&CALLS, &BYTES, &FREED]
            .map(|count| count.load(Relaxed))
            .iter()
            .zip(before)
            .map(|(a, b)| a - b)
            .collect::<Vec<_>>()
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
