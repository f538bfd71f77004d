//! Any bytes as each kind of checkpoint, and every tensor of those that open.

#![no_main]

use std::fs;

use bevy_dream::checkpoint::{Index, Weights};
use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

thread_local!(static FOLDER: TempDir = folder());

/// A folder in memory, where there is one, with a shard that a list may name.
fn folder() -> TempDir {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    fs::write(folder.path().join("a.safetensors"), include_bytes!("../seeds/headers/a.safetensors")).unwrap();
    folder
}

fuzz_target!(|bytes: &[u8]| {
    FOLDER.with(|folder| {
        for name in ["x.safetensors", "x.pt", "x.safetensors.index.json"] {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            match Index::open(path) {
                Err(error) => {
                    let line = error.to_string();
                    assert!(line.contains(&*folder.path().to_string_lossy()) && !line.contains('\n'), "{line}");
                }
                Ok(index) => {
                    let tensors = index.tensors().clone();
                    let weights = Weights::new(index, &Device::Cpu);
                    for (name, entry) in tensors.iter().take(20) {
                        drop(weights.vars().tensor(name, &entry.shape));
                    }
                }
            }
        }
    });
});
