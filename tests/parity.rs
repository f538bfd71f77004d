//! The runtime against PyTorch on exported weights, stage by stage over 64 frames.
//!
//! `tests/fixtures/parity` is written by `python train/export.py --fixture tests/fixtures/parity`; `$PARITY_FIXTURE` is the
//! folder of another one.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use bevy_dream::family::verify::{dream::Fixture, verify};
use bevy_dream::kernel::ThreadPool;
use candle_core::{Device, Tensor, safetensors};

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
fn swapped_weights_and_controls_fail() {
    let failed = |file: &str, change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let copy = tempfile::tempdir().unwrap();
        for name in ["config.json", "vcn.safetensors", "dit.safetensors", "edits.safetensors", "case.safetensors"] {
            fs::copy(folder().join(name), copy.path().join(name)).unwrap();
        }
        let path = copy.path().join(file);
        let mut tensors = safetensors::load(&path, &Device::Cpu).unwrap();
        change(&mut tensors);
        safetensors::save(&tensors, &path).unwrap();
        verify(copy.path()).unwrap().iter().map(|stage| !stage.passed()).collect::<Vec<_>>()
    };
    let reordered =
        |tensors: &mut HashMap<String, Tensor>, name: &str, axis: usize, parts: usize, order: [usize; 2]| {
            let mut rows = tensors[name].chunk(parts, axis).unwrap();
            rows.swap(order[0], order[1]);
            tensors.insert(name.into(), Tensor::cat(&rows, axis).unwrap().contiguous().unwrap());
        };
    assert_eq!(failed("case.safetensors", &|_| {}), [false; 4]);
    // Yaw and pitch, for the whole of both rollouts.
    assert_eq!(failed("case.safetensors", &|case| reordered(case, "controls", 2, 8, [4, 5])), [true; 4]);
    // Two of the six conditioning slots of a block.
    let slots = |tensors: &mut HashMap<String, Tensor>| reordered(tensors, "blocks.1.ada.weight", 0, 6, [0, 1]);
    assert_eq!(failed("dit.safetensors", &slots), [false, true, true, true]);
    // The changes of two layers where a block is broken or placed.
    let changes = |tensors: &mut HashMap<String, Tensor>| {
        let [a, b] = [0, 1].map(|i| tensors[&format!("blocks.{i}.fc1.lora_A.weight")].clone());
        tensors.insert("blocks.0.fc1.lora_A.weight".into(), b);
        tensors.insert("blocks.1.fc1.lora_A.weight".into(), a);
    };
    assert_eq!(failed("edits.safetensors", &changes), [false, true, true, false]);
    let blocks = |tensors: &mut HashMap<String, Tensor>| {
        let [a, b] = ["dec_blocks.0.qkv.weight", "dec_blocks.1.qkv.weight"].map(|name| tensors[name].clone());
        tensors.insert("dec_blocks.0.qkv.weight".into(), b);
        tensors.insert("dec_blocks.1.qkv.weight".into(), a);
    };
    assert!(failed("vcn.safetensors", &blocks)[2]);
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
