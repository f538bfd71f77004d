//! Whole chunks of `models/overworld` with a full memory.

use std::path::Path;

use bevy_dream::Controls;
use bevy_dream::checkpoint::{self, DeviceChoice};
use bevy_dream::kernel::ThreadPool;
use bevy_dream::simulate::{Session, SessionOptions};
use criterion::{Criterion, criterion_group, criterion_main};

const THREADS: usize = 2;

/// Chunks after which the memory is full.
const WARM_UP: usize = 20;

fn chunk(c: &mut Criterion) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/overworld");
    let model = checkpoint::load(folder, DeviceChoice::Cpu).expect("the model");
    let options = SessionOptions { prompt: "a flower meadow at noon".into(), ..SessionOptions::default() };
    let mut session = Session::new(model, options).expect("a world");
    let walk = [Controls { forward: 1.0, look: [1.0, 0.0], ..Controls::default() }; 2];
    let mut step = || {
        let chunk = session.step(&walk).expect("a chunk");
        session.commit().expect("a past");
        chunk
    };
    ThreadPool::new(THREADS).expect("threads").install(|| {
        (0..WARM_UP).for_each(|_| drop(step()));
        c.bench_function("chunk", |b| b.iter(&mut step));
    });
}

criterion_group!(benches, chunk);
criterion_main!(benches);
