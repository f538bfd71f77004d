//! The runtime against PyTorch on exported weights, stage by stage over 64 frames.
//!
//! `tests/fixtures/parity` is written by `python train/export.py --fixture tests/fixtures/parity`; `$PARITY_FIXTURE` is the
//! folder of another one.

use std::path::{Path, PathBuf};

use bevy_dream::family::verify::{dream::Fixture, verify};
use bevy_dream::kernel::ThreadPool;

fn folder() -> PathBuf {
    let ours = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    std::env::var_os("PARITY_FIXTURE").map_or_else(ours, PathBuf::from)
}

#[test]
fn rollouts_match_pytorch() {
    for stage in verify(&folder()).unwrap() {
        assert!(stage.passed(), "{stage:?}");
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let fixture = Fixture::load(&folder()).unwrap();
    let run = |threads| {
        let dream = || {
            let mut world = fixture.world().unwrap();
            let chunk = |chunk| {
                let (_, cells) = fixture.dream(&mut world, chunk).unwrap();
                cells.to_vec()
            };
            (0..4).flat_map(chunk).collect::<Vec<_>>()
        };
        ThreadPool::new(threads).unwrap().install(dream)
    };
    let once = run(1);
    assert!([2, 4].into_iter().all(|threads| run(threads) == once));
}
