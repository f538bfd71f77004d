//! The runtime against PyTorch on exported weights, stage by stage over 64 frames.
//!
//! `tests/fixtures/parity` is written by `python train/export.py --fixture tests/fixtures/parity`; `$PARITY_FIXTURE` is the
//! folder of another one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bevy_dream::Controls;
use bevy_dream::family::dream::{Networks, World};
use bevy_dream::kernel::ThreadPool;
use bevy_dream::model::Settings;
use candle_core::{Device, Tensor};

/// Largest error relative to the largest value.
const TOLERANCE: f32 = 1e-4;

struct Fixture {
    networks: Arc<Networks>,
    case: HashMap<String, Tensor>,
}

impl Fixture {
    fn load() -> Self {
        let ours = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
        let folder = std::env::var_os("PARITY_FIXTURE").map_or_else(ours, PathBuf::from);
        let networks = Arc::new(Networks::load(&folder, &Device::Cpu).unwrap());
        let case = candle_core::safetensors::load(folder.join("case.safetensors"), &Device::Cpu).unwrap();
        Self { networks, case }
    }

    /// One chunk's part of a tensor of the case.
    fn at(&self, name: &str, chunk: usize) -> Tensor {
        self.case[name].get(chunk).unwrap().contiguous().unwrap()
    }

    fn controls(&self, chunk: usize) -> Vec<Controls> {
        let rows = self.at("controls", chunk).to_vec2::<f32>().unwrap();
        rows.into_iter().map(|row| Controls::from_vector(row.try_into().unwrap())).collect()
    }

    fn world(&self) -> World {
        let c = &self.networks.config;
        let settings = Settings {
            steps: c.steps,
            first_steps: c.first_steps,
            first_guidance: c.first_guidance,
            context_noise: c.context_noise,
        };
        World::new(Arc::clone(&self.networks), c.default_size(), self.at("text", 0), settings).unwrap()
    }

    /// Frames `[F, 3, H, W]` as cells `[H / 4, W / 4, F * 3 * 4 * 4]`.
    fn cells(&self, name: &str, chunk: usize) -> Tensor {
        let frames = self.at(name, chunk);
        let (count, _, height, width) = frames.dims4().unwrap();
        let split = frames.reshape(&[count, 3, height / 4, 4, width / 4, 4][..]).unwrap();
        let cells = split.permute([2, 4, 0, 1, 3, 5]).unwrap().contiguous().unwrap();
        cells.reshape((height / 4, width / 4, count * 3 * 16)).unwrap()
    }
}

/// The largest difference relative to the largest expected value.
fn error(ours: &Tensor, expected: &Tensor) -> f32 {
    let largest = |t: Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    largest((ours - expected).unwrap()) / largest(expected.clone())
}

fn check(stage: &str, chunk: usize, ours: &Tensor, expected: &Tensor) {
    let error = error(ours, expected);
    assert!(error <= TOLERANCE, "{stage} of chunk {chunk} is off by {error:e} relative");
}

#[test]
fn rollout_matches_pytorch() {
    let fixture = Fixture::load();
    let chunks = fixture.case["latents"].dim(0).unwrap();
    let seen = fixture.case["encoded"].dim(0).unwrap();
    assert!(chunks * fixture.networks.config.frames_per_chunk >= 64);
    let mut world = fixture.world();
    for chunk in 0..chunks {
        let controls = fixture.controls(chunk);
        world.set_text(fixture.at("text", chunk));
        let context_noise = fixture.at("context_eps", chunk);
        if chunk < seen {
            let latent = world.encode_cells(&fixture.cells("frames", chunk), &controls).unwrap();
            check("encoding", chunk, &latent, &fixture.at("encoded", chunk));
            world.observe_latent(latent, &controls, &context_noise).unwrap();
        } else {
            let (latent, cells) = world.step_from(&controls, &fixture.at("noise", chunk)).unwrap();
            check("denoising", chunk, &latent, &fixture.at("latents", chunk));
            check("decoding", chunk, &cells, &fixture.cells("decoded", chunk));
            world.commit_with(&context_noise).unwrap();
        }
    }
}

#[test]
fn first_chunks_without_a_past_match_pytorch() {
    let fixture = Fixture::load();
    let mut world = fixture.world();
    for chunk in 0..fixture.case["latents_no_past"].dim(0).unwrap() {
        world.set_text(fixture.at("text", chunk));
        let (latent, _) = world.step_from(&fixture.controls(chunk), &fixture.at("noise", chunk)).unwrap();
        check("denoising", chunk, &latent, &fixture.at("latents_no_past", chunk));
        world.commit_with(&fixture.at("context_eps", chunk)).unwrap();
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let fixture = Fixture::load();
    let run = |threads| {
        let dream = || {
            let mut world = fixture.world();
            let chunk = |chunk| {
                let (_, cells) = world.step_from(&fixture.controls(chunk), &fixture.at("noise", chunk)).unwrap();
                world.commit_with(&fixture.at("context_eps", chunk)).unwrap();
                cells.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            (0..4).flat_map(chunk).collect::<Vec<_>>()
        };
        ThreadPool::new(threads).unwrap().install(dream)
    };
    let once = run(1);
    assert!([2, 4].into_iter().all(|threads| run(threads) == once));
}
