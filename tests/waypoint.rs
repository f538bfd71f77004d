//! Waypoint 1.5 against its reference implementation on small random weights, and its layout at the published size.
//!
//! `tests/fixtures/waypoint` is written by `train/fixtures/waypoint.py`. Published weights have never been run here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::sync::Arc;

use bevy_dream::checkpoint::{self, DeviceChoice};
use bevy_dream::family::verify::{Stage, verify};
use bevy_dream::family::waypoint::published_layout;
use bevy_dream::model::{Interrupt, WorldModel};
use bevy_dream::simulate::{Session, SessionOptions, Snapshot};
use bevy_dream::{Controls, Error, Frame, FrameSize};
use candle_core::{DType, Device, Tensor, safetensors};
use tempfile::TempDir;

#[path = "support/fixture.rs"]
mod support;
use support::{fixture, listed, published, reason};

fn changed(file: &str, change: impl FnOnce(&mut HashMap<String, Tensor>)) -> TempDir {
    support::changed("waypoint", file, change)
}

type Tensors = HashMap<String, Tensor>;

/// A copy of the fixture with a part of its config replaced.
fn configured(part: &str, other: &str) -> TempDir {
    let folder = changed("case.safetensors", |_| {});
    let path = folder.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(part), "{part}");
    fs::write(path, text.replacen(part, other, 1)).unwrap();
    folder
}

fn fails(folder: &TempDir) -> bool {
    verify(folder.path()).unwrap().iter().any(|stage| !stage.passed())
}

fn swapped(a: &str, b: &str) -> impl FnOnce(&mut Tensors) {
    let (a, b) = (a.to_owned(), b.to_owned());
    move |tensors| {
        let (x, y) = (tensors[&a].clone(), tensors[&b].clone());
        tensors.insert(a, y);
        tensors.insert(b, x);
    }
}

/// The published names and shapes turned into those that the reference has today.
fn todays(tensors: &mut Tensors) {
    for (name, value) in std::mem::take(tensors) {
        if name.contains("fc1_c") {
            continue;
        }
        let (mut today, mut value) = (name.clone(), value);
        for slot in 0..6 {
            let head = if slot < 3 { "attn" } else { "mlp" };
            today = today
                .replace(&format!("{head}_cond_head.cond_proj.{}.", slot % 3), &format!("cond_head.cond_proj.{slot}."));
        }
        today = today.replace("mlp_cond_head", "cond_head").replace("dit_mlp", "mlp");
        today = today.replace("ctrl_mlpfusion.fc2", "ctrl_mlpfusion.mlp.fc2").replace("fc1_x", "mlp.fc1");
        match name.as_str() {
            "unpatchify.weight" => {
                value = value.permute((1, 2, 3, 0)).unwrap().contiguous().unwrap().flatten_to(2).unwrap();
            }
            "unpatchify.bias" => {
                let one_by_one = value.unsqueeze(1).unwrap().broadcast_as((value.dims()[0], 4)).unwrap();
                value = one_by_one.contiguous().unwrap().flatten_all().unwrap();
            }
            _ => {}
        }
        tensors.insert(today, value);
    }
}

#[test]
fn matches_the_reference_in_both_spellings() {
    let today = changed("weights.safetensors", |tensors| {
        let published = tensors.clone();
        todays(tensors);
        for layer in [0, 3] {
            let name = |part| format!("transformer.blocks.{layer}.ctrl_mlpfusion.{part}.weight");
            let halves = [&published[&name("fc1_x")], &published[&name("fc1_c")]];
            tensors.insert(name("mlp.fc1"), Tensor::cat(&halves, 1).unwrap());
        }
        let names: BTreeSet<_> = tensors.keys().cloned().collect();
        let text = fs::read_to_string(fixture("waypoint/names.json")).unwrap();
        assert_eq!(names, serde_json::from_str::<BTreeSet<String>>(&text).unwrap());
    });
    // What all layers share may stand in the first alone.
    let once = changed("weights.safetensors", |tensors| {
        tensors.retain(|name, _| !name.contains("cond_proj") || name.contains("blocks.0."));
    });
    for folder in [&fixture("waypoint"), today.path(), once.path()] {
        let stages = verify(folder).unwrap();
        assert_eq!(stages.len(), 2);
        assert!(stages.iter().all(Stage::passed), "{stages:?}");
    }
}

#[test]
fn wrong_weights_memories_and_controls_fail() {
    let block = |name: &str| format!("transformer.blocks.1.{name}");
    assert!(fails(&changed("weights.safetensors", |tensors| {
        for layer in 0..4 {
            let name = |slot| format!("transformer.blocks.{layer}.attn_cond_head.cond_proj.{slot}.weight");
            swapped(&name(0), &name(1))(tensors);
        }
    })));
    assert!(fails(&changed(
        "weights.safetensors",
        swapped(&block("attn.k_proj.weight"), &block("attn.v_proj.weight"))
    )));
    assert!(fails(&configured("\"local_window\": 3", "\"local_window\": 4")));
    assert!(fails(&configured("\"global_window\": 8", "\"global_window\": 12")));
    assert!(fails(&configured("\"global_attn_offset\": -1", "\"global_attn_offset\": 0")));
    assert!(fails(&configured("0.75", "0.7")));
    assert!(fails(&changed("case.safetensors", |tensors| {
        let controls = tensors["controls"].clone();
        let order = [1, 0].iter().chain(&[2, 3, 4, 5, 6, 7, 8, 9, 10]).map(|&i| controls.narrow(1, i, 1).unwrap());
        tensors.insert("controls".into(), Tensor::cat(&order.collect::<Vec<_>>(), 1).unwrap());
    })));
}

#[test]
fn bad_files_are_one_clear_line() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let v_lamb = "transformer.blocks.2.attn.v_lamb";
    for (file, name, tensor, expected) in [
        ("weights.safetensors", v_lamb, None, "'transformer.blocks.2.attn.v_lamb' is missing"),
        ("weights.safetensors", v_lamb, Some((zeros(&[]) / 0.0).unwrap()), "holds numbers that are not finite"),
        ("weights.safetensors", "unpatchify.bias", Some(zeros(&[5])), "the config (channels) makes it [4]"),
        ("weights.safetensors", "mystery", Some(zeros(&[1])), "'mystery' has no place"),
        ("weights.safetensors", "denoise_step_emb.mlp.fc1.weight", None, "no DiT here"),
        (
            "weights.safetensors",
            "transformer.blocks.2.mlp_cond_head.cond_proj.1.weight",
            Some(zeros(&[64, 64])),
            "is not that of the first layer",
        ),
        ("case.safetensors", "controls", Some(zeros(&[18, 12])), "'controls' has the shape [18, 12]"),
        ("case.safetensors", "noise", Some(zeros(&[0, 4, 4, 6])), "none to compare"),
    ] {
        let folder = changed(file, |tensors| match tensor {
            Some(tensor) => drop(tensors.insert(name.into(), tensor)),
            None => drop(tensors.remove(name)),
        });
        assert!(reason(&folder).contains(expected), "{name}: {}", reason(&folder));
    }
    for (part, other, expected) in [
        ("\"n_layers\": 4", "\"n_layers\": 1000000000", "n_layers is 1000000000"),
        ("\"n_layers\": 4", "\"n_layers\": 5", "is missing"),
        ("\"prompt_conditioning\": null", "\"prompt_conditioning\": \"on\"", "models that read text"),
        ("\"gated_attn\": false", "\"gated_attn\": true", "of another generation"),
    ] {
        let folder = configured(part, other);
        assert!(reason(&folder).contains(expected), "{other}: {}", reason(&folder));
    }
    let no_codec = checkpoint::load(fixture("waypoint"), DeviceChoice::Cpu).err().unwrap().to_string();
    assert!(no_codec.contains("no codec here"), "{no_codec}");
}

#[test]
fn few_bits_a_weight_are_near() {
    // The file's own 16 bits are the weights themselves.
    assert!(!fails(&configured("\"family\"", "\"precision\": \"f16\", \"family\"")));
    for (precision, most) in [("bf16", 3e-2), ("int8", 5e-2), ("q8", 3e-2), ("q4", 1e-1)] {
        let folder = configured("\"family\"", &format!("\"precision\": \"{precision}\", \"family\""));
        let first = &verify(folder.path()).unwrap()[0];
        assert!(first.error > 1e-4 && first.error < most, "{first:?}");
    }
}

#[test]
fn asks_for_exactly_the_published_layout() {
    let layout = published(listed("waypoint/waypoint-1.5.json"));
    assert_eq!(layout.len() + 1, 369, "with the null embedding, which is of no use without training");
    let stored: usize = layout.values().map(|shape| shape.iter().product::<usize>()).sum();
    assert_eq!(stored / 1_000_000, 1860);
    let config = fs::read_to_string(fixture("waypoint/config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    for (key, value) in [
        ("d_model", 2048),
        ("n_layers", 24),
        ("n_heads", 32),
        ("n_kv_heads", 16),
        ("mlp_ratio", 4),
        ("channels", 32),
        ("height", 8),
        ("width", 16),
        ("local_window", 16),
        ("global_window", 128),
        ("global_pinned_dilation", 8),
        ("n_buttons", 256),
    ] {
        config[key] = value.into();
    }
    assert_eq!(published_layout(&config.to_string()).unwrap(), layout);
}

/// The fixture with a codec for its latents beside it.
fn playable() -> TempDir {
    let folder = changed("case.safetensors", |_| {});
    // As it is published: the transformer once more, and the codec in a folder of its own.
    for part in ["vae", "transformer"] {
        fs::create_dir(folder.path().join(part)).unwrap();
    }
    let again = folder.path().join("transformer/diffusion_pytorch_model.safetensors");
    fs::copy(fixture("waypoint/weights.safetensors"), again).unwrap();
    let codec = safetensors::load(fixture("taehv/weights.safetensors"), &Device::Cpu).unwrap();
    let cut = |(name, tensor): (String, Tensor)| {
        let tensor = match name.as_str() {
            // One channel less than the codec was made for.
            "encoder.17.weight" | "encoder.17.bias" => tensor.narrow(0, 0, 4).unwrap(),
            "decoder.1.weight" => tensor.narrow(1, 0, 4).unwrap(),
            _ => tensor,
        };
        (name, tensor.contiguous().unwrap())
    };
    let codec: Tensors = codec.into_iter().map(cut).collect();
    safetensors::save(&codec, folder.path().join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    folder
}

/// A config as one of the published kind.
fn yaml(config: &str) -> String {
    let config: BTreeMap<String, serde_json::Value> = serde_json::from_str(config).unwrap();
    config.iter().filter(|(key, _)| *key != "family").map(|(key, value)| format!("{key}: {value}\n")).collect()
}

fn session(model: &Arc<dyn WorldModel>, start: Option<Frame>) -> Session {
    Session::new(Arc::clone(model), SessionOptions { seed: 5, start, ..Default::default() }).unwrap()
}

/// Walks with the mouse, whose left button is one of the few that this model knows.
fn walk(session: &mut Session, latents: usize, button: bool) -> Vec<Frame> {
    let controls = Controls { break_block: button, look: [3.0, -1.0], ..Controls::default() };
    (0..latents).flat_map(|_| session.step(&[controls; 4]).unwrap().frames).collect()
}

#[test]
fn a_world_can_be_walked_saved_and_restored() {
    let folder = playable();
    // Known by its tensors where the config is the published one, which states no family.
    let config = fs::read_to_string(folder.path().join("config.json")).unwrap();
    fs::write(folder.path().join("config.yaml"), yaml(&config)).unwrap();
    fs::remove_file(folder.path().join("config.json")).unwrap();
    assert_eq!(checkpoint::family(folder.path()).unwrap(), "waypoint");
    let model = checkpoint::load(folder.path(), DeviceChoice::Cpu).unwrap();
    let (info, size) = (model.info(), FrameSize::new(96, 64));
    assert_eq!((info.family.as_str(), info.frames_per_chunk, info.default_size), ("waypoint", 4, size));
    let grey = |level| Some(Frame { size, rgb: vec![level; size.pixels() * 3] });
    let mut world = session(&model, grey(90));
    let first = walk(&mut world, 1, true);
    assert!(first.len() == 4 && first.iter().all(|frame| frame.size == size));
    assert_eq!(first, walk(&mut session(&model, grey(90)), 1, true));
    for other in [walk(&mut session(&model, grey(10)), 1, true), walk(&mut session(&model, grey(90)), 1, false)] {
        assert_ne!(other, first);
    }
    walk(&mut world, 5, true);
    let moment = world.snapshot().unwrap();
    let save = folder.path().join("a.dream");
    moment.save(&save, info).unwrap();
    let ahead = walk(&mut world, 2, false);
    world.restore(&moment).unwrap();
    assert_eq!(walk(&mut world, 2, false), ahead);
    let mut other = session(&model, None);
    other.restore(&Snapshot::load(&save, info).unwrap()).unwrap();
    assert_eq!(walk(&mut other, 2, false), ahead);
    let fewer = bevy_dream::model::Settings { steps: 2, ..info.settings };
    other.restore(&moment).unwrap();
    other.set_settings(fewer).unwrap();
    assert_ne!(walk(&mut other, 2, false), ahead);
}

#[test]
fn an_interrupted_latent_leaves_the_world_as_it_was() {
    let folder = playable();
    let model = checkpoint::load(folder.path(), DeviceChoice::Cpu).unwrap();
    let [mut world, mut other] = [(); 2].map(|()| session(&model, None));
    let interrupt = Interrupt::default();
    world.watch(interrupt.clone());
    for _ in 0..5 {
        interrupt.raise();
        assert!(matches!(world.step(&[Controls::default(); 4]), Err(Error::Interrupted)));
        interrupt.lower();
        assert_eq!(walk(&mut world, 1, true), walk(&mut other, 1, true));
    }
}
