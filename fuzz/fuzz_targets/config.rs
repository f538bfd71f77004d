//! Any text as the `config.json` beside the weights of each family's fixture.

#![no_main]

use std::fs;
use std::path::Path;

use bevy_dream::checkpoint::{DeviceChoice, load};
use bevy_dream::family::facts::facts;
use bevy_dream::family::taehv::Taehv;
use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

const FAMILIES: [&str; 5] = ["oasis", "waypoint", "wan", "taehv", "parity"];

thread_local!(static FOLDERS: [TempDir; 5] = FAMILIES.map(folder));

/// A folder in memory, where there is one, with the weights of a fixture.
fn folder(name: &str) -> TempDir {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name);
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    for file in fs::read_dir(fixture).unwrap().flatten() {
        if file.path().extension().is_some_and(|e| e == "safetensors") {
            fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
    }
    folder
}

fuzz_target!(|text: &[u8]| {
    FOLDERS.with(|folders| {
        for folder in folders {
            fs::write(folder.path().join("config.json"), text).unwrap();
            let path = folder.path();
            let codec = Taehv::load(path, &Device::Cpu).err();
            let problems = [facts(path).err(), load(path, DeviceChoice::Cpu).err(), codec];
            for problem in problems.into_iter().flatten() {
                let line = problem.to_string();
                assert!(!line.contains('\n'), "{line}");
            }
        }
    });
});
