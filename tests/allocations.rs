//! What a chunk takes from the heap once a world has been walked for a while.
//!
//! Not nothing: candle makes every tensor anew, with its shape and its counters, some 1400 allocations of 8 MB in all. More
//! than half of the bytes are pictures and what is remembered of the chunk. What this guards is that the buffers of the
//! kernels are kept, and that nothing grows.

#![allow(unsafe_code, reason = "a counting allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bevy_dream::Controls;
use bevy_dream::checkpoint::{self, DeviceChoice};
use bevy_dream::kernel::ThreadPool;
use bevy_dream::simulate::{Session, SessionOptions};

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
fn a_chunk_takes_little_from_the_heap_and_keeps_none_of_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/overworld");
    let model = checkpoint::load(folder, DeviceChoice::Cpu).unwrap();
    let options = SessionOptions { prompt: "a flower meadow at noon".into(), ..SessionOptions::default() };
    let mut session = Session::new(model, options).unwrap();
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
        let [calls, bytes, freed] = chunks(8)[..] else { unreachable!("three counts") };
        assert_eq!(bytes, freed, "a chunk leaves something behind");
        assert!(calls / 8 < 2000, "{} allocations a chunk", calls / 8);
        assert!(bytes / 8 < 12 << 20, "{} bytes a chunk", bytes / 8);
    });
}
