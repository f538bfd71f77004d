//! What loading takes from the heap at its most: what stays, and no more than one shard beside it.

#![allow(unsafe_code, reason = "a counting allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bevy_dream::checkpoint::{self, DeviceChoice};
use bevy_dream::family::oasis::config::Config;
use candle_core::{DType, Device, Tensor, safetensors};

/// Counts what is held, on all threads.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(HELD.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: promised by the caller.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static GIVEN: Counting = Counting;

const SHARDS: usize = 4;

/// Writes zeros of f16 in this layout, in shards with their list; the bytes of the largest.
fn write(folder: &Path, layout: &BTreeMap<String, Vec<usize>>) -> usize {
    let shard = |i: usize| format!("model-0000{}-of-0000{SHARDS}.safetensors", i + 1);
    let tensor = |shape: &Vec<usize>| Tensor::zeros(shape.as_slice(), DType::F16, &Device::Cpu).unwrap();
    let sizes = (0..SHARDS).map(|i| {
        let part: HashMap<_, _> =
            layout.iter().skip(i).step_by(SHARDS).map(|(name, s)| (name.as_str(), tensor(s))).collect();
        let path = folder.join(shard(i));
        safetensors::save(&part, &path).unwrap();
        fs::metadata(path).unwrap().len() as usize
    });
    let largest = sizes.max().unwrap();
    let map: BTreeMap<_, _> = layout.keys().enumerate().map(|(n, name)| (name, shard(n % SHARDS))).collect();
    let list = serde_json::json!({ "weight_map": map });
    fs::write(folder.join("model.safetensors.index.json"), list.to_string()).unwrap();
    largest
}

#[test]
fn a_load_takes_what_stays_and_at_most_one_shard() {
    for precision in ["f32", "f16", "q8"] {
        let text = format!(
            r#"{{"family": "oasis", "precision": "{precision}",
                "dit": {{"input_h": 6, "input_w": 10, "in_channels": 4, "hidden_size": 512, "depth": 2, "num_heads": 4}},
                "vae": {{"latent_dim": 4, "input_height": 24, "input_width": 40, "patch_size": 4, "enc_dim": 32,
                         "enc_depth": 1, "enc_heads": 2, "dec_dim": 32, "dec_depth": 1, "dec_heads": 2}}}}"#
        );
        let config = Config::parse(&text).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), text).unwrap();
        let shard = write(folder.path(), &config.dit.layout());
        let vae = config.vae.layout();
        let vae: HashMap<_, _> = vae
            .iter()
            .map(|(name, s)| (name, Tensor::zeros(s.as_slice(), DType::F16, &Device::Cpu).unwrap()))
            .collect();
        safetensors::save(&vae, folder.path().join("vae.safetensors")).unwrap();

        let before = HELD.load(Relaxed);
        MOST.store(before, Relaxed);
        let model = checkpoint::load(folder.path(), DeviceChoice::Cpu).unwrap();
        let (stays, most) = (HELD.load(Relaxed) - before, MOST.load(Relaxed) - before);
        assert!(most <= stays + shard, "{precision}: {most} bytes, {stays} of which stay, shards of {shard}");
        let weights = model.info().parameters;
        assert!(precision != "f32" || stays < 9 * weights / 2, "held once: {stays} bytes for {weights} weights");
    }
}
