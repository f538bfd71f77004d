//! Oasis against its reference implementation on small random weights, and its layout at the published size.
//!
//! `tests/fixtures/oasis*` are written by `train/fixtures/oasis.py`. Published weights have never been run here.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use bevy_dream::checkpoint::{self, DeviceChoice};
use bevy_dream::family::oasis::config::{Config, Context};
use bevy_dream::family::verify::oasis::Fixture;
use bevy_dream::family::verify::{Stage, verify};
use bevy_dream::model::{Interrupt, WorldModel};
use bevy_dream::simulate::{Session, SessionOptions};
use bevy_dream::{Controls, Error, Frame, FrameSize};
use candle_core::{DType, Device, Tensor, safetensors};
use tempfile::TempDir;

#[path = "support/fixture.rs"]
mod support;
use support::{fixture, listed, published, reason};

fn changed(file: &str, change: impl FnOnce(&mut HashMap<String, Tensor>)) -> TempDir {
    support::changed("oasis", file, change)
}

/// A copy of the fixture with a part of its config replaced.
fn configured(part: &str, other: &str) -> TempDir {
    let folder = support::copy("oasis");
    let path = folder.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(part), "{part}");
    fs::write(path, text.replacen(part, other, 1)).unwrap();
    folder
}

fn failed(folder: &TempDir) -> Vec<bool> {
    verify(folder.path()).unwrap().iter().map(|stage| !stage.passed()).collect()
}

fn error(ours: &[Tensor], expected: &[Tensor]) -> f32 {
    let largest = |x: &Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    ours.iter().zip(expected).map(|(a, b)| largest(&(a - b).unwrap()) / largest(b)).fold(0.0, f32::max)
}

#[test]
fn matches_the_reference() {
    let stages = verify(&fixture("oasis")).unwrap();
    assert_eq!(stages.len(), 3);
    assert!(stages.iter().all(Stage::passed), "{stages:?}");
}

#[test]
fn pictures_may_be_told_in_other_ways() {
    let raw = changed("case.safetensors", |tensors| {
        let scale = bevy_dream::family::oasis::LATENT_SCALE;
        let one = |name: &str| tensors[name].get(0).unwrap();
        let [pixels, latents, decoded] = ["vae_rgb_in", "vae_latents", "vae_rgb_out"].map(one);
        let signed = |x: Tensor| ((x * 2.0).unwrap() - 1.0).unwrap();
        let tokens = (latents / scale).unwrap().flatten_from(1).unwrap().t().unwrap().contiguous().unwrap();
        tensors.insert("vae_rgb_in".into(), signed(pixels));
        tensors.insert("vae_latents".into(), tokens);
        tensors.insert("vae_rgb_out".into(), signed(decoded));
    });
    assert_eq!(failed(&raw), [false; 3]);
}

#[test]
fn the_exact_context_is_what_is_computed_without_a_cache() {
    let fixture = Fixture::load(&fixture("oasis"), &Device::Cpu).unwrap();
    let [exact, recomputed, streamed] =
        [Context::Exact, Context::Recompute, Context::Streaming].map(|context| fixture.rollout(context).unwrap());
    assert!(exact.len() > fixture.max_frames(), "the window must slide");
    assert_eq!(error(&exact, &recomputed), 0.0);
    // Streaming is the same until the window slides, and then honestly another thing.
    let window = fixture.max_frames();
    assert!(error(&streamed[..window], &exact[..window]) < 1e-5);
    assert!(error(&streamed[window..], &exact[window..]) > 1e-4);
}

#[test]
fn wrong_weights_and_a_wrong_window_fail() {
    let swap = |a: &str, b: &str| {
        let (a, b) = (a.to_owned(), b.to_owned());
        move |tensors: &mut HashMap<String, Tensor>| {
            let (x, y) = (tensors[&a].clone(), tensors[&b].clone());
            tensors.insert(a, y);
            tensors.insert(b, x);
        }
    };
    let halves = swap("blocks.0.s_adaLN_modulation.1.weight", "blocks.0.t_adaLN_modulation.1.weight");
    assert_eq!(failed(&changed("weights.safetensors", halves)), [true, false, false]);
    let slots = |tensors: &mut HashMap<String, Tensor>| {
        let name = "blocks.1.t_adaLN_modulation.1.weight";
        let six = tensors[name].chunk(6, 0).unwrap();
        let order = [0, 1, 5, 3, 4, 2].map(|i| six[i].clone());
        tensors.insert(name.into(), Tensor::cat(&order, 0).unwrap());
    };
    assert_eq!(failed(&changed("weights.safetensors", slots)), [true, false, false]);
    let towers = swap("encoder.0.norm1.weight", "encoder.0.norm2.weight");
    assert_eq!(failed(&changed("vae.safetensors", towers)), [false, true, false]);
    assert_eq!(failed(&configured("\"max_frames\": 4", "\"max_frames\": 5")), [true, false, false]);
    assert_eq!(failed(&configured("\"family\"", "\"ddim_steps\": 9, \"family\"")), [true, false, false]);
    // Every action a frame late.
    let late = changed("case.safetensors", |tensors| {
        let actions = &tensors["actions"];
        let late = Tensor::cat(&[actions.narrow(0, 0, 1).unwrap(), actions.narrow(0, 0, 8).unwrap()], 0).unwrap();
        tensors.insert("actions".into(), late);
    });
    assert_eq!(failed(&late), [true, false, false]);
    // The frames of the past in each other's place in time; they are also the first that are compared.
    let shifted = changed("case.safetensors", |tensors| {
        let seeds = &tensors["seed_latents"];
        let seeds = Tensor::cat(&[seeds.narrow(0, 1, 1).unwrap(), seeds.narrow(0, 0, 1).unwrap()], 0).unwrap();
        let latents = &tensors["latents"];
        let latents = Tensor::cat(&[seeds.clone(), latents.narrow(0, 2, 7).unwrap()], 0).unwrap();
        tensors.insert("seed_latents".into(), seeds);
        tensors.insert("latents".into(), latents);
    });
    assert_eq!(failed(&shifted), [true, false, false]);
}

fn load(path: &Path) -> Arc<dyn WorldModel> {
    checkpoint::load(path, DeviceChoice::Cpu).unwrap()
}

fn session(model: &Arc<dyn WorldModel>, start: Option<Frame>) -> Session {
    Session::new(Arc::clone(model), SessionOptions { seed: 5, start, ..Default::default() }).unwrap()
}

fn walk(session: &mut Session, frames: usize, forward: f32) -> Vec<Frame> {
    let controls = Controls { forward, look: [3.0, -1.0], ..Controls::default() };
    (0..frames).flat_map(|_| session.step(&[controls]).unwrap().frames).collect()
}

#[test]
fn a_world_can_be_walked_saved_and_restored() {
    for context in ["exact", "streaming"] {
        let folder = configured("\"family\"", &format!("\"context\": \"{context}\", \"family\""));
        let model = load(folder.path());
        let start = Frame { size: FrameSize::new(90, 60), rgb: (0..90 * 60 * 3).map(|i| (i % 251) as u8).collect() };
        let mut world = session(&model, Some(start));
        // While the window grows, and after it has slid.
        for frames in [1, 4] {
            walk(&mut world, frames, 1.0);
            let moment = world.snapshot().unwrap();
            let save = folder.path().join("a.dream");
            moment.save(&save, model.info()).unwrap();
            let ahead = walk(&mut world, 3, 0.0);
            world.restore(&moment).unwrap();
            assert_eq!(walk(&mut world, 3, 0.0), ahead);
            let mut other = session(&model, None);
            other.restore(&bevy_dream::simulate::Snapshot::load(&save, model.info()).unwrap()).unwrap();
            assert_eq!(walk(&mut other, 3, 0.0), ahead);
        }
    }
}

#[test]
fn an_interrupted_frame_leaves_the_world_as_it_was() {
    for context in ["exact", "streaming", "recompute"] {
        let folder = configured("\"family\"", &format!("\"context\": \"{context}\", \"family\""));
        let model = load(folder.path());
        let [mut world, mut other] = [(); 2].map(|()| session(&model, None));
        let interrupt = Interrupt::default();
        world.watch(interrupt.clone());
        for _ in 0..5 {
            interrupt.raise();
            assert!(matches!(world.step(&[Controls::default()]), Err(Error::Interrupted)));
            interrupt.lower();
            assert_eq!(walk(&mut world, 1, 1.0), walk(&mut other, 1, 1.0), "{context}");
        }
    }
}

#[test]
fn controls_start_and_seed_all_matter() {
    let model = load(&fixture("oasis"));
    let size = model.info().default_size;
    assert_eq!(size, FrameSize::new(40, 24));
    let grey = |level| Some(Frame { size, rgb: vec![level; size.pixels() * 3] });
    let base = walk(&mut session(&model, grey(40)), 2, 1.0);
    assert!(base.len() == 2 && base.iter().all(|frame| frame.size == size));
    assert_eq!(base, walk(&mut session(&model, grey(40)), 2, 1.0));
    let mut other_seed = session(&model, grey(40));
    other_seed.reset(SessionOptions { seed: 6, start: grey(40), ..Default::default() }).unwrap();
    let others = [
        walk(&mut session(&model, grey(40)), 2, -1.0),
        walk(&mut session(&model, grey(200)), 2, 1.0),
        walk(&mut session(&model, None), 2, 1.0),
        walk(&mut other_seed, 2, 1.0),
    ];
    assert!(others.iter().all(|other| *other != base));
}

#[test]
fn a_model_without_words_says_so() {
    let mut world = session(&load(&fixture("oasis")), None);
    assert!(matches!(world.set_prompt("a desert"), Err(Error::Input(reason)) if reason.contains("reads no text")));
    let model = load(&fixture("oasis"));
    let options = SessionOptions { size: Some(FrameSize::new(64, 64)), ..Default::default() };
    let refused = Session::new(model, options).err().unwrap().to_string();
    assert!(refused.contains("40x24"), "{refused}");
}

#[test]
fn files_of_every_kind_open_and_are_known_without_a_config() {
    let expected = walk(&mut session(&load(&fixture("oasis")), None), 1, 1.0);
    let first_frame = |path: &Path| walk(&mut session(&load(path), None), 1, 1.0);

    let torch = support::copy("oasis");
    fs::remove_file(torch.path().join("vae.safetensors")).unwrap();
    fs::copy(fixture("oasis_pt/vae.pt"), torch.path().join("vae.pt")).unwrap();
    assert_eq!(first_frame(torch.path()), expected);
    assert_eq!(first_frame(&torch.path().join("weights.safetensors")), expected);

    let shards = support::copy("oasis");
    let whole = shards.path().join("weights.safetensors");
    let tensors: BTreeMap<_, _> = safetensors::load(&whole, &Device::Cpu).unwrap().into_iter().collect();
    fs::remove_file(&whole).unwrap();
    let shard = |i: usize| format!("weights-0000{}-of-00002.safetensors", i + 1);
    for i in 0..2 {
        let part: HashMap<_, _> =
            tensors.clone().into_iter().enumerate().filter(|(n, _)| n % 2 == i).map(|(_, t)| t).collect();
        safetensors::save(&part, shards.path().join(shard(i))).unwrap();
    }
    let map: BTreeMap<_, _> = tensors.keys().enumerate().map(|(n, name)| (name.as_str(), shard(n % 2))).collect();
    let list = serde_json::json!({ "metadata": {}, "weight_map": map });
    fs::write(shards.path().join("weights.safetensors.index.json"), list.to_string()).unwrap();
    assert_eq!(first_frame(shards.path()), expected);
    fs::write(shards.path().join("weights.safetensors.index.json"), list.to_string().replace("00002-of", "00001-of"))
        .unwrap();
    assert!(reason(&shards).contains("is not in weights-00001-of-00002.safetensors"), "{}", reason(&shards));
    fs::write(
        shards.path().join("weights.safetensors.index.json"),
        list.to_string().replace("weights-", "../weights-"),
    )
    .unwrap();
    assert!(reason(&shards).contains("not in the same folder"), "{}", reason(&shards));

    // Without a config it is taken for the published size, which these files are not.
    let bare = support::copy("oasis");
    fs::remove_file(bare.path().join("config.json")).unwrap();
    assert_eq!(checkpoint::family(bare.path()).unwrap(), "oasis");
    let refused = checkpoint::load(bare.path(), DeviceChoice::Cpu).err().unwrap().to_string();
    assert!(refused.contains("the config (dit.hidden_size) makes it [6144]"), "{refused}");
}

#[test]
fn bad_files_are_one_clear_line() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    for (file, name, tensor, expected) in [
        ("weights.safetensors", "blocks.1.t_mlp.fc2.bias", None, "'blocks.1.t_mlp.fc2.bias' is missing"),
        (
            "weights.safetensors",
            "blocks.2.t_mlp.fc2.bias",
            Some(zeros(&[32])),
            "'blocks.2.t_mlp.fc2.bias' has no place",
        ),
        (
            "weights.safetensors",
            "final_layer.linear.bias",
            Some(zeros(&[8])),
            "the config (dit.in_channels, dit.patch_size) makes it [16]",
        ),
        ("weights.safetensors", "x_embedder.proj.weight", None, "no DiT here"),
        ("vae.safetensors", "predictor.bias", Some(zeros(&[7])), "the config (vae.patch_size) makes it [48]"),
        (
            "vae.safetensors",
            "dec_norm.bias",
            Some((zeros(&[48]) / 0.0).unwrap()),
            "'dec_norm.bias' holds numbers that are not finite",
        ),
        ("vae.safetensors", "post_quant_conv.weight", None, "no autoencoder here"),
        ("vae.safetensors", "x_embedder.proj.weight", Some(zeros(&[1])), "the same network as"),
        ("case.safetensors", "noise", None, "'noise' is missing"),
        ("case.safetensors", "actions", Some(zeros(&[9, 24])), "'actions' has the shape [9, 24]"),
        ("case.safetensors", "latents", Some(zeros(&[2, 4, 6, 10])), "none to compare"),
    ] {
        let folder = changed(file, |tensors| match tensor {
            Some(tensor) => drop(tensors.insert(name.into(), tensor)),
            None => drop(tensors.remove(name)),
        });
        assert!(reason(&folder).contains(expected), "{name}: {}", reason(&folder));
    }
}

#[test]
fn bad_configs_are_one_clear_line() {
    for (part, other, expected) in [
        ("\"depth\": 2", "\"depth\": 1000000000", "dit.depth is 1000000000"),
        ("\"depth\": 2", "\"depth\": 9000", "dit.depth is 9000, but there are only"),
        ("\"depth\": 2", "\"depth\": -1", "config.json"),
        ("\"num_heads\": 2", "\"num_heads\": 3", "dit.hidden_size 32 does not split into 3 heads"),
        ("\"num_heads\": 2", "\"mystery\": 2", "mystery"),
        ("\"input_h\": 6", "\"input_h\": 8", "dit takes latents of 4 x 8 x 10, but vae makes 4 x 6 x 10"),
        ("\"input_h\": 6", "\"input_h\": 7", "not a multiple of patch_size"),
        ("\"latent_dim\": 4", "\"latent_dim\": 0", "vae.latent_dim is 0"),
        ("\"hidden_size\": 32", "\"hidden_size\": 16000", "the config (dit.hidden_size) makes it [96000]"),
        ("\"family\"", "\"ddim_steps\": 0, \"family\"", "ddim_steps is 0"),
        ("\"family\"", "\"context\": \"guess\", \"family\"", "guess"),
    ] {
        let folder = configured(part, other);
        assert!(reason(&folder).contains(expected), "{other}: {}", reason(&folder));
    }
}

#[test]
fn asks_for_exactly_the_published_layout() {
    let list = listed("oasis/oasis500m.json");
    let layout = BTreeMap::from(["dit", "vae"].map(|network| (network, published(list[network].clone()))));
    let count = |network: &str| layout[network].values().map(|shape| shape.iter().product::<usize>()).sum::<usize>();
    assert_eq!([count("dit"), count("vae")], [607_943_744, 229_246_160]);
    let config = Config::default();
    assert_eq!(config.dit.layout(), layout["dit"]);
    assert_eq!(config.vae.layout(), layout["vae"]);
    // 118 GFLOP a pass, and 7.8 times fewer passes than the reference makes.
    let pass = config.dit.flop(31) * 1e-9;
    assert!((pass - 118.0).abs() < 2.0, "{pass}");
}
