//! Worlds side by side.

#![cfg(all(feature = "bevy", target_os = "linux"))]

use std::path::Path;
use std::sync::Arc;

use bevy_dream::checkpoint::DeviceChoice;
use bevy_dream::plugin::ModelLoader;
use bevy_dream::simulate::{Session, SessionOptions};
use bevy_dream::{Controls, FrameSize};

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    4096 * pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap()
}

#[test]
fn each_further_world_takes_memory_for_its_past_alone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/overworld");
    let loader = ModelLoader::on(DeviceChoice::Cpu);
    let before = resident();
    let model = loader.load(&folder).unwrap();
    let weights = resident() - before;
    // Wide enough that a model of its own would be seen, small enough to be quick.
    let world = |seed| {
        let model = loader.load(&folder).unwrap();
        assert!(Arc::strong_count(&model) > 1, "it is shared");
        let size = Some(FrameSize::new(64, 64));
        let options = SessionOptions { seed, prompt: "a meadow".into(), size, ..Default::default() };
        let mut session = Session::new(model, options).unwrap();
        for _ in 0..2 {
            session.step(&[Controls::default(); 2]).unwrap();
        }
        session
    };
    let first = world(0);
    let one = resident();
    let others: Vec<_> = (1..4).map(world).collect();
    let each = resident().saturating_sub(one) / others.len() as u64;
    assert!(each < weights / 4, "a world takes {each} bytes, the model {weights}");
    drop((model, first, others));
}
