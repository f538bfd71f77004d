//! A world that is walked for a long time.

#![cfg(target_os = "linux")]

use std::path::Path;
use std::sync::Arc;

use bevy_dream::Controls;
use bevy_dream::family::dream::{Networks, World};
use bevy_dream::kernel::Array;
use bevy_dream::model::{NoiseSource, Settings};
use bevy_dream::simulate::Noise;
use candle_core::Device;

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    4096 * pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap()
}

#[test]
fn ten_thousand_chunks_take_no_more_memory_than_one_thousand() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    let networks = Arc::new(Networks::load(&folder, &Device::Cpu).unwrap());
    let text = Array::new(&[networks.config.text], &Device::Cpu, |out| out.fill(1.0)).unwrap();
    let (size, steps, latent) = (networks.config.default_size(), networks.config.steps, networks.config.latent);
    let tokens = size.pixels() / networks.config.patch.pow(2);
    let settings = Settings { steps, first_steps: 2, guidance: 2.0, context_noise: 0.1 };
    let mut world = World::new(networks, size, text, settings).unwrap();
    let mut early = 0;
    for chunk in 0..10_000u64 {
        let turn = if chunk.is_multiple_of(3) { 4.0 } else { -2.0 };
        let controls = [Controls { forward: 1.0, look: [turn, 0.0], ..Controls::default() }; 2];
        let fill = |out: &mut [f32]| Noise { seed: 3, chunk }.fill(0, out);
        let noise = Array::new(&[tokens, latent], &Device::Cpu, fill).unwrap();
        world.step_from(&controls, &noise).unwrap();
        world.commit_with(&noise).unwrap();
        if chunk == 1_000 {
            early = resident();
        }
    }
    let grown = resident().saturating_sub(early);
    assert!(grown < 4 << 20, "memory grew by {grown} bytes");
}
