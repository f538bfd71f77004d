use super::*;
use crate::simulate::Noise;
use candle_core::Device;
use std::path::Path;

const SETTINGS: Settings = Settings { steps: 1, first_steps: 2, guidance: 2.0, context_noise: 0.1 };

fn networks() -> Arc<Networks> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    Arc::new(Networks::load(&folder, &Device::Cpu).unwrap())
}

fn text(networks: &Networks, seed: f32) -> Array {
    let fill = |out: &mut [f32]| (0..).zip(out).for_each(|(i, v)| *v = (i as f32 * seed).sin());
    Array::new(&[networks.config.text], &Device::Cpu, fill).unwrap()
}

fn world(size: FrameSize) -> World {
    let networks = networks();
    let text = text(&networks, 1.0);
    World::new(networks, size, text, SETTINGS).unwrap()
}

fn controls(chunk: u64) -> [Controls; 2] {
    let look = [[3.0, 1.0], [-5.0, 0.0], [0.0, -2.0]][chunk as usize % 3];
    [Controls { forward: 1.0, jump: chunk.is_multiple_of(2), look, ..Controls::default() }; 2]
}

fn dream(world: &mut World, chunks: std::ops::Range<u64>) -> Vec<Frame> {
    let mut frames = Vec::new();
    for chunk in chunks {
        let noise = Noise { seed: 1, chunk };
        frames.extend(world.step(&controls(chunk), &noise).unwrap());
        world.commit(&noise).unwrap();
    }
    frames
}

#[test]
fn a_restored_world_goes_on_as_if_nothing_had_happened() {
    let size = FrameSize::new(48, 32);
    let mut first = world(size);
    for age in [0, 1, 15] {
        dream(&mut first, 0..age);
        let state = first.state().unwrap();
        let mut second = world(size);
        second.set_text(text(&networks(), 7.0)).unwrap();
        dream(&mut second, 40..42);
        second.set_state(&state).unwrap();
        assert_eq!(dream(&mut first, 20..23), dream(&mut second, 20..23), "at age {age}");
    }
}

#[test]
fn new_words_begin_a_new_past_from_what_is_in_view() {
    let size = FrameSize::new(48, 32);
    let after = |grey: u8, age: u64, words: f32| {
        let mut world = world(size);
        let noise = Noise { seed: 1, chunk: 0 };
        let frame = Frame { size, rgb: vec![grey; size.pixels() * 3] };
        world.observe(&[frame], &[Controls::default()], &noise).unwrap();
        dream(&mut world, 20..20 + age);
        world.set_text(text(&world.networks, words)).unwrap();
        let frames = dream(&mut world, 1..2);
        (frames, world.state().unwrap().to_tensors().unwrap().keys().filter(|name| name.starts_with("dit")).count())
    };
    assert_eq!(after(90, 2, 7.0).1, after(90, 0, 7.0).1, "what was before is forgotten");
    assert!(after(90, 2, 1.0).1 > after(90, 2, 7.0).1, "the same words are not new");
    assert_ne!(after(20, 0, 7.0).0, after(200, 0, 7.0).0, "it begins from what is seen");
}

#[test]
fn a_state_of_another_size_is_refused_and_changes_nothing() {
    let (mut wide, mut other) = (world(FrameSize::new(48, 32)), world(FrameSize::new(32, 32)));
    dream(&mut wide, 0..2);
    dream(&mut other, 0..2);
    let mut twin = world(FrameSize::new(32, 32));
    dream(&mut twin, 0..2);
    assert!(matches!(other.set_state(&wide.state().unwrap()), Err(Error::Input(_))));
    assert!(matches!(other.set_state(&RolloutState::new()), Err(Error::Input(_))));
    assert_eq!(dream(&mut other, 2..4), dream(&mut twin, 2..4));
}

#[test]
fn a_walk_follows_its_words_where_no_true_frame_is_seen() {
    let size = FrameSize::new(48, 32);
    let follows = |seen: bool, dreamed: u64, forward: f32| {
        let mut before = world(size);
        if seen {
            let frame = Frame { size, rgb: vec![90; size.pixels() * 3] };
            before.observe(&[frame], &[Controls::default()], &Noise { seed: 1, chunk: 0 }).unwrap();
        }
        dream(&mut before, 1..1 + dreamed);
        let [without, with] = [1.0, 2.0].map(|guidance| {
            let mut world = world(size);
            world.set_state(&before.state().unwrap()).unwrap();
            world.settings.guidance = guidance;
            let controls = Controls { forward, look: [2.0, 0.0], ..Controls::default() };
            world.step(&[controls; 2], &Noise { seed: 1, chunk: 20 }).unwrap()
        });
        with != without
    };
    assert!(follows(false, 1, 1.0));
    assert!(!follows(false, 1, 0.0), "who only turns sees what stood at the sides");
    assert!(!follows(true, 8, 1.0), "the farthest offset is 9");
    assert!(follows(true, 9, 1.0));
}

/// The same networks with another line in their config.
fn configured(part: &str, other: &str) -> Arc<Networks> {
    let (from, to) =
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity"), tempfile::tempdir().unwrap());
    for name in ["vcn.safetensors", "dit.safetensors", "edits.safetensors"] {
        std::fs::copy(from.join(name), to.path().join(name)).unwrap();
    }
    let config = std::fs::read_to_string(from.join("config.json")).unwrap();
    assert!(config.contains(part), "{part}");
    std::fs::write(to.path().join("config.json"), config.replacen(part, other, 1)).unwrap();
    Arc::new(Networks::load(to.path(), &Device::Cpu).unwrap())
}

#[test]
fn eight_bits_dream_nearly_the_same_on_any_number_of_threads() {
    let size = FrameSize::new(48, 32);
    let exact = dream(&mut world(size), 0..3);
    let rounded = |threads| {
        let (networks, pool) = (configured("\"f32\"", "\"int8\""), crate::kernel::ThreadPool::new(threads).unwrap());
        let text = text(&networks, 1.0);
        pool.install(|| dream(&mut World::new(networks, size, text, SETTINGS).unwrap(), 0..3))
    };
    let frames = rounded(1);
    let psnr = crate::eval::psnr(&exact, &frames);
    assert!((30.0..90.0).contains(&psnr), "{psnr} dB");
    assert!([2, 3].into_iter().all(|threads| rounded(threads) == frames));
}

#[test]
fn weights_for_edits_dream_the_chunk_of_an_edit_alone() {
    let other = configured("\"edit_rank\": 4", "\"edit_rank\": 0");
    let mut worlds = [networks(), other].map(|networks| {
        let text = text(&networks, 1.0);
        World::new(networks, FrameSize::new(48, 32), text, SETTINGS).unwrap()
    });
    let mut step = |chunk: u64, break_block: bool| {
        let noise = Noise { seed: 1, chunk };
        let controls = controls(chunk).map(|c| Controls { break_block, ..c });
        let frames = worlds.each_mut().map(|world| {
            let frames = world.step(&controls, &noise).unwrap();
            world.commit(&noise).unwrap();
            frames
        });
        frames[0] == frames[1]
    };
    assert!(step(0, true), "before there is a past nothing is to be broken");
    assert!((1..4).all(|chunk| step(chunk, false)));
    assert!(!step(4, true));
}

#[test]
fn memory_does_not_grow_with_age() {
    let mut world = world(FrameSize::new(32, 32));
    // key frames come and go
    let mut most = |chunks: std::ops::Range<u64>| {
        let parts = chunks.map(|i| {
            dream(&mut world, i..i + 1);
            world.state().unwrap().to_tensors().unwrap().len()
        });
        parts.max()
    };
    most(0..24);
    assert_eq!(most(24..48), most(48..72));
}

#[test]
fn frames_of_every_shape_are_made() {
    for (width, height) in [(16, 16), (64, 32), (16, 80)] {
        let size = FrameSize::new(width, height);
        let frames = dream(&mut world(size), 0..2);
        assert!(frames.len() == 4 && frames.iter().all(|f| f.size == size && f.rgb.len() == size.pixels() * 3));
    }
    let networks = networks();
    let text = text(&networks, 1.0);
    let refused = World::new(networks, FrameSize::new(100, 100), text, SETTINGS);
    assert!(matches!(refused, Err(Error::Input(_))));
}

#[test]
fn prompt_controls_noise_and_past_all_matter() {
    let size = FrameSize::new(32, 32);
    let latent = |prompt: f32, forward: f32, seed: u64, observed: Option<u8>| {
        let mut world = world(size);
        world.set_text(text(&world.networks, prompt)).unwrap();
        let noise = Noise { seed, chunk: 0 };
        if let Some(grey) = observed {
            let frame = Frame { size, rgb: vec![grey; size.pixels() * 3] };
            world.observe(&[frame], &[Controls::default()], &noise).unwrap();
        }
        let noise = world.draw(0, &noise).unwrap();
        let (latent, _) = world.step_from(&[Controls { forward, ..Controls::default() }; 2], &noise).unwrap();
        latent.to_vec()
    };
    let base = latent(1.0, 0.0, 1, None);
    assert_eq!(base, latent(1.0, 0.0, 1, None));
    let others = [latent(2.0, 0.0, 1, None), latent(1.0, 1.0, 1, None), latent(1.0, 0.0, 2, None)];
    assert!(others.iter().all(|other| *other != base));
    let [dark, light] = [20, 200].map(|grey| latent(1.0, 0.0, 1, Some(grey)));
    assert!(dark != base && dark != light);
}

#[test]
fn what_does_not_fit_is_refused() {
    let size = FrameSize::new(32, 32);
    let mut world = world(size);
    let noise = Noise { seed: 1, chunk: 0 };
    let still = Controls::default();
    let frames = |count: usize, size| vec![Frame::black(size); count];
    for (frames, controls) in [
        (frames(0, size), vec![]),
        (frames(3, size), vec![still; 3]),
        (frames(2, size), vec![still; 1]),
        (frames(2, FrameSize::new(16, 16)), vec![still; 2]),
        (vec![Frame { size, rgb: vec![0; 5] }; 2], vec![still; 2]),
    ] {
        assert!(matches!(world.observe(&frames, &controls, &noise), Err(Error::Input(_))));
    }
    assert!(matches!(world.step(&[still], &noise), Err(Error::Input(_))));
    world.commit(&noise).unwrap();
    assert!(world.past.is_empty());
}

#[test]
fn reconstruction_leaves_the_world_as_it_is() {
    let size = FrameSize::new(32, 32);
    let (mut world, mut twin) = (world(size), world(size));
    let frames = dream(&mut twin, 0..3);
    dream(&mut world, 0..3);
    let given = [controls(0), controls(1), controls(2)].concat();
    assert_eq!(world.reconstruct(&frames, &given).unwrap().len(), 6);
    assert_eq!(world.reconstruct(&frames[..1], &given[..1]).unwrap().len(), 1);
    assert_eq!(dream(&mut world, 3..5), dream(&mut twin, 3..5));
}
