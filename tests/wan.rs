//! Causal Wan 2.1 and its text encoder against their reference implementations on small random weights, and their layouts
//! at the published size.
//!
//! `tests/fixtures/{wan,wan_window,wan_longlive,wan_lora,umt5}` are written by `train/fixtures/wan.py`. Published weights have never
//! been run here.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use bevy_dream::checkpoint::{self, DeviceChoice, Index, Progress, Weights};
use bevy_dream::family::umt5;
use bevy_dream::family::verify::{Stage, verify};
use bevy_dream::family::wan::{Files, Networks, World, published_layout};
use bevy_dream::model::WorldModel;
use bevy_dream::simulate::{Session, SessionOptions, Snapshot};
use bevy_dream::{Controls, Error, Frame, FrameSize};
use candle_core::{DType, Device, Tensor, safetensors};
use tempfile::TempDir;

#[path = "support/fixture.rs"]
mod support;
use support::{changed, copy, fixture, listed, published, reason};

type Tensors = HashMap<String, Tensor>;

/// A copy of a fixture with a part of its config replaced.
fn configured(name: &str, part: &str, other: &str) -> TempDir {
    let folder = copy(name);
    let path = folder.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(part), "{part}");
    fs::write(path, text.replacen(part, other, 1)).unwrap();
    folder
}

fn passes(folder: &Path) -> bool {
    verify(folder).unwrap().iter().all(Stage::passed)
}

fn renamed(name: &str, rename: impl Fn(&str) -> String) -> TempDir {
    changed(name, "weights.safetensors", |tensors| {
        *tensors = tensors.drain().map(|(name, tensor)| (rename(&name), tensor)).collect();
    })
}

fn replaced(name: &str, parts: &[(&str, &str)]) -> String {
    parts.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// As diffusers spells the tensors.
fn diffusers(name: &str) -> String {
    match name {
        "head.modulation" => return "scale_shift_table".into(),
        _ if name.starts_with("head.head") => return name.replace("head.head", "proj_out"),
        _ => {}
    }
    let layers: &[_] = &[("self_attn", "attn1"), ("cross_attn", "attn2"), (".q.", ".to_q."), (".k.", ".to_k.")];
    let others: &[_] = &[(".v.", ".to_v."), (".o.", ".to_out.0."), ("ffn.0", "ffn.net.0.proj"), ("ffn.2", "ffn.net.2")];
    let tables: &[_] = &[
        ("norm3", "norm2"),
        ("modulation", "scale_shift_table"),
        ("time_projection.1", "condition_embedder.time_proj"),
        ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
        ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
        ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
        ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ];
    replaced(name, &[layers, others, tables].concat())
}

/// As the authors of Wan spell the text encoder.
fn wan_t5(name: &str) -> String {
    replaced(
        name,
        &[
            ("encoder.final_layer_norm", "norm"),
            ("shared", "token_embedding"),
            ("encoder.block", "blocks"),
            ("layer.0.SelfAttention.relative_attention_bias", "pos_embedding.embedding"),
            ("layer.0.SelfAttention", "attn"),
            ("layer.0.layer_norm", "norm1"),
            ("layer.1.layer_norm", "norm2"),
            ("layer.1.DenseReluDense.wi_0", "ffn.gate.0"),
            ("layer.1.DenseReluDense.wi_1", "ffn.fc1"),
            ("layer.1.DenseReluDense.wo", "ffn.fc2"),
        ],
    )
}

#[test]
fn matches_the_references_in_all_spellings() {
    for name in ["wan", "wan_window", "wan_longlive", "wan_lora", "umt5"] {
        let stages = verify(&fixture(name)).unwrap();
        assert!(stages.iter().all(Stage::passed), "{name}: {stages:?}");
    }
    assert!(passes(renamed("wan", |name| format!("model._fsdp_wrapped_module.{name}")).path()));
    assert!(passes(renamed("wan_longlive", diffusers).path()));
    assert!(passes(renamed("umt5", wan_t5).path()));
    assert!(passes(
        changed("wan", "case.safetensors", |case| {
            let joined = case["latents"].flatten(0, 1).unwrap();
            case.insert("latents".into(), joined);
        })
        .path()
    ));
}

#[test]
fn wrong_weights_memories_and_noise_fail() {
    let swap = |fixture: &str, a: &str, b: &str| {
        changed(fixture, "weights.safetensors", |tensors| {
            let (x, y) = (tensors[a].clone(), tensors[b].clone());
            tensors.extend([(a.to_owned(), y), (b.to_owned(), x)]);
        })
    };
    assert!(!passes(swap("wan", "blocks.1.self_attn.q.weight", "blocks.1.self_attn.k.weight").path()));
    assert!(!passes(swap("wan", "blocks.1.self_attn.q.weight", "blocks.1.cross_attn.q.weight").path()));
    // Two layers would share one bias in any other T5.
    let bias = |i| format!("encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight");
    assert!(!passes(swap("umt5", &bias(0), &bias(1)).path()));
    // Shift and scale exchanged.
    assert!(!passes(
        changed("wan", "weights.safetensors", |tensors| {
            let rows = tensors["blocks.0.modulation"].clone();
            let row = |i| rows.narrow(1, i, 1).unwrap();
            let order = [row(1), row(0), row(2), row(3), row(4), row(5)];
            tensors.insert("blocks.0.modulation".into(), Tensor::cat(&order, 1).unwrap());
        })
        .path()
    ));
    for (name, part, other) in [
        ("wan", "\"timestep_shift\": 5.0", "\"timestep_shift\": 4.9"),
        ("wan", "\"warp_denoising_step\": true", "\"warp_denoising_step\": false"),
        ("wan", "\"local_attn_size\": -1", "\"local_attn_size\": 9"),
        ("wan", "\"text_len\": 9", "\"text_len\": 8"),
        ("wan_window", "\"sink_size\": 1", "\"sink_size\": 0"),
        ("wan_window", "\"local_attn_size\": 7", "\"local_attn_size\": 8"),
        ("wan_window", "\"context_noise\": 100", "\"context_noise\": 0"),
        ("wan_longlive", "\"global_sink\": true", "\"global_sink\": false"),
        ("wan_longlive", "\"sink_size\": 3", "\"sink_size\": 2"),
    ] {
        assert!(!passes(configured(name, part, other).path()), "{name} with {other}");
    }
    assert!(!passes(
        changed("wan", "case.safetensors", |case| _ = case.remove("renoise").map(|renoise| {
            let order: Vec<_> = [1, 0, 2].iter().map(|&i| renoise.narrow(1, i, 1).unwrap()).collect();
            case.insert("renoise".into(), Tensor::cat(&order, 1).unwrap())
        }))
        .path()
    ));
}

/// How far the rollout of the fixture `wan` is from the reference, relative to its largest value, after `disturb` has seen
/// the world of every finished block in place of its commit.
fn error_of(disturb: impl Fn(&mut World, &Tensor)) -> f32 {
    let networks = Networks::load(Files::open(&fixture("wan")).unwrap(), &Device::Cpu).unwrap();
    let case = safetensors::load(fixture("wan/case.safetensors"), &Device::Cpu).unwrap();
    let mut world = World::new(Arc::new(networks), 6, 10).unwrap();
    world.set_text(&case["text_embeds"]).unwrap();
    let largest = |t: Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    let mut worst = 0f32;
    for chunk in 0..4 {
        let renoise = case["renoise"].get(chunk).unwrap();
        let ours = world.step(&case["noise"].get(chunk).unwrap(), |step| Ok(renoise.get(step - 1)?)).unwrap();
        disturb(&mut world, &ours);
        worst = worst.max(largest((ours - case["latents"].get(chunk).unwrap()).unwrap()));
    }
    worst / largest(case["latents"].clone())
}

#[test]
fn a_dropped_or_shifted_commit_fails() {
    assert!(error_of(|world, _| world.commit().unwrap()) < 1e-5);
    assert!(error_of(|_, _| {}) > 1e-3, "nothing is remembered");
    let shifted = error_of(|world, latents| {
        world.commit().unwrap();
        world.observe(&latents.narrow(0, 2, 1).unwrap()).unwrap();
    });
    assert!(shifted > 1e-3, "later frames stand one place on");
}

#[test]
fn a_block_interrupted_between_two_passes_is_made_again() {
    let networks = Networks::load(Files::open(&fixture("wan")).unwrap(), &Device::Cpu).unwrap();
    let case = safetensors::load(fixture("wan/case.safetensors"), &Device::Cpu).unwrap();
    let mut world = World::new(Arc::new(networks), 6, 10).unwrap();
    world.set_text(&case["text_embeds"]).unwrap();
    for chunk in 0..4 {
        let noise = case["noise"].get(chunk).unwrap();
        let renoise = case["renoise"].get(chunk).unwrap();
        let interrupt = world.interrupt.clone();
        let interrupted = world.step(&noise, |step| {
            interrupt.raise();
            Ok(renoise.get(step - 1)?)
        });
        assert!(matches!(interrupted, Err(Error::Interrupted)));
        interrupt.lower();
        let ours = world.step(&noise, |step| Ok(renoise.get(step - 1)?)).unwrap();
        world.commit().unwrap();
        let error = (ours - case["latents"].get(chunk).unwrap()).unwrap().abs().unwrap().max_all().unwrap();
        assert!(error.to_scalar::<f32>().unwrap() < 1e-4);
    }
}

#[test]
fn bad_files_are_one_clear_line() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    for (file, name, tensor, expected) in [
        ("weights.safetensors", "head.modulation", None, "'head.modulation' is missing"),
        ("weights.safetensors", "head.head.bias", Some((zeros(&[16]) / 0.0).unwrap()), "numbers that are not finite"),
        ("weights.safetensors", "head.head.bias", Some(zeros(&[5])), "the config (in_dim, patch_size) makes it [16]"),
        ("weights.safetensors", "head.head.bias", zeros(&[16]).to_dtype(DType::I64).ok(), "'head.head.bias' holds I64"),
        ("weights.safetensors", "mystery", Some(zeros(&[1])), "'mystery' has no place"),
        ("weights.safetensors", "model.head.head.bias", Some(zeros(&[16])), "in another spelling"),
        ("weights.safetensors", "time_projection.1.weight", None, "no DiT here"),
        ("case.safetensors", "noise", Some(zeros(&[0, 3, 4, 6, 10])), "none to compare"),
        ("case.safetensors", "noise", Some(zeros(&[3, 4, 6, 10])), "'noise' has the shape"),
        ("case.safetensors", "noise", Some(zeros(&[4, 3, 4, 5, 10])), "'renoise' has the shape"),
        ("case.safetensors", "text_embeds", Some(zeros(&[10, 12])), "at most [9, 12] are read"),
        ("case.safetensors", "text_embeds", Some(zeros(&[4, 13])), "'text_embeds' has the shape [4, 13]"),
    ] {
        let folder = changed("wan", file, |tensors| match tensor {
            Some(tensor) => drop(tensors.insert(name.into(), tensor)),
            None => drop(tensors.remove(name)),
        });
        assert!(reason(&folder).contains(expected), "{name}: {}", reason(&folder));
    }
    for (fixture, part, other, expected) in [
        ("wan", "\"num_layers\": 2", "\"num_layers\": 1000000000", "num_layers is 1000000000"),
        ("wan", "\"num_layers\": 2", "\"num_layers\": 3", "is missing"),
        ("wan", "\"num_layers\": 2", "\"num_layers\": 65536", "num_layers is 65536, but there are only"),
        ("umt5", "\"num_layers\": 3", "\"num_layers\": 1048576", "num_layers is 1048576, but there are only"),
        ("umt5", "\"num_layers\": 3", "\"num_layers\": 1000000000", "num_layers is 1000000000"),
        ("umt5", "\"vocab_size\": 50", "\"vocab_size\": 51", "the config (vocab_size) makes it [51, 24]"),
    ] {
        let folder = configured(fixture, part, other);
        assert!(reason(&folder).contains(expected), "{other}: {}", reason(&folder));
    }
    let name = "encoder.block.1.layer.1.layer_norm.weight";
    let broken = changed("umt5", "weights.safetensors", |tensors| {
        tensors.insert(name.into(), (zeros(&[24]) / 0.0).unwrap());
    });
    assert!(reason(&broken).contains(&format!("'{name}' holds numbers that are not finite")), "{}", reason(&broken));
    let unknown = changed("umt5", "case.safetensors", |case| {
        let ids = case["ids"].affine(1.0, 50.0).unwrap();
        case.insert("ids".into(), ids);
    });
    assert!(reason(&unknown).contains("one token or more below 50"));
    for (name, expected) in [("wan", "no codec here"), ("umt5", "no world of its own")] {
        let error = checkpoint::load(fixture(name), DeviceChoice::Cpu).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn asks_for_exactly_the_published_layouts() {
    let count = |layout: &BTreeMap<String, Vec<usize>>| layout.values().map(|s| s.iter().product::<usize>()).sum();
    let (dit, text) = (published(listed("wan/wan2.1-1.3b.json")), published(listed("umt5/umt5-xxl.json")));
    let sizes: [usize; 2] = [count(&dit), count(&text)];
    assert_eq!(sizes.map(|size| size / 1_000_000), [1418, 5680]);
    assert_eq!(published_layout("{}").unwrap(), dit);
    let config = umt5::Config::default();
    assert_eq!(config.layout(), text);
    let buckets: Vec<usize> = serde_json::from_str(&fs::read_to_string(fixture("umt5/buckets.json")).unwrap()).unwrap();
    assert_eq!((0..512).map(|steps| config.bucket(-steps)).collect::<Vec<_>>(), buckets);
}

/// A folder with a world, a codec for its latents, and what a text encoder would have made of two prompts.
fn playable() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "weights.safetensors"] {
        fs::copy(fixture("wan_longlive").join(file), folder.path().join(file)).unwrap();
    }
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
    safetensors::save(&codec, folder.path().join("taew2_1.safetensors")).unwrap();
    folder
}

/// Puts a text encoder of three words beside a world.
fn add_text_encoder(folder: &Path) {
    let narrow = |(name, tensor): (String, Tensor)| {
        // The world reads 12 numbers a word.
        let cut = |tensor: &Tensor, axis| tensor.narrow(axis, 0, 12).unwrap();
        let tensor = match name.as_str() {
            name if name.ends_with("norm.weight") => cut(&tensor, 0),
            name if [".o.weight", ".wo.weight"].iter().any(|end| name.ends_with(end)) => cut(&tensor, 0),
            name if name.contains("bias") => tensor,
            _ => cut(&tensor, 1),
        };
        (name, tensor.contiguous().unwrap())
    };
    let weights = safetensors::load(fixture("umt5/weights.safetensors"), &Device::Cpu).unwrap();
    let weights: Tensors = weights.into_iter().map(narrow).collect();
    safetensors::save(&weights, folder.join("umt5.safetensors")).unwrap();
    let config = folder.join("config.json");
    let text = fs::read_to_string(fixture("umt5/config.json")).unwrap().replace("\"d_model\": 24", "\"d_model\": 12");
    let mut whole: serde_json::Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    whole["text_encoder"] = serde_json::from_str(&text).unwrap();
    fs::write(config, whole.to_string()).unwrap();
    let tokenizer = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"a": 1, "red": 2, "blue": 3, "?": 0}, "unk_token": "?"}}"#;
    fs::write(folder.join("tokenizer.json"), tokenizer).unwrap();
}

fn session(model: &Arc<dyn WorldModel>, prompt: &str) -> Session {
    let size = FrameSize::new(96, 64);
    let start = Some(Frame { size, rgb: vec![90; size.pixels() * 3] });
    let options =
        SessionOptions { seed: 5, size: Some(size), prompt: prompt.into(), start, ..SessionOptions::default() };
    Session::new(Arc::clone(model), options).unwrap()
}

fn watch(session: &mut Session, chunks: usize) -> Vec<Frame> {
    (0..chunks).flat_map(|_| session.step(&[Controls::default(); 12]).unwrap().frames).collect()
}

#[test]
fn a_world_can_be_prompted_saved_and_restored() {
    let folder = playable();
    add_text_encoder(folder.path());
    let model = checkpoint::load(folder.path(), DeviceChoice::Cpu).unwrap();
    let info = model.info();
    assert_eq!((info.family.as_str(), info.frames_per_chunk, info.size_multiple), ("wan-causal", 12, 32));
    assert!(Arc::clone(&model).open(FrameSize::new(100, 64)).is_err());
    let mut world = session(&model, "a red");
    let first = watch(&mut world, 2);
    assert_eq!(first.len(), 24);
    assert_eq!(first, watch(&mut session(&model, "a  red "), 2));
    assert_ne!(first, watch(&mut session(&model, "a blue"), 2));

    world.set_prompt("a blue").unwrap();
    let moment = world.snapshot().unwrap();
    let save = folder.path().join("a.dream");
    moment.save(&save, info).unwrap();
    let ahead = watch(&mut world, 2);
    world.restore(&moment).unwrap();
    assert_eq!(watch(&mut world, 2), ahead);
    let mut other = session(&model, "a red");
    other.restore(&Snapshot::load(&save, info).unwrap()).unwrap();
    assert_eq!(watch(&mut other, 2), ahead);

    // Another encoder reads it again, and leaves what the first made of it.
    let encoder = folder.path().join("umt5.safetensors");
    let prompts = || {
        let files = fs::read_dir(folder.path().join("prompts")).unwrap().map(|file| file.unwrap().path());
        files.collect::<BTreeSet<_>>()
    };
    let before = prompts();
    let mut tensors = safetensors::load(&encoder, &Device::Cpu).unwrap();
    let name = "encoder.final_layer_norm.weight";
    tensors.insert(name.into(), (&tensors[name] * 1.5).unwrap());
    safetensors::save(&tensors, &encoder).unwrap();
    let other = checkpoint::load(folder.path(), DeviceChoice::Cpu).unwrap();
    assert_ne!(watch(&mut session(&other, "a red"), 2), first);
    let after = prompts();
    assert!(after.is_superset(&before) && after.len() == before.len() + 1);
    after.difference(&before).for_each(|file| fs::remove_file(file).unwrap());

    // What has been read once needs no encoder.
    fs::remove_file(encoder).unwrap();
    let model = checkpoint::load(folder.path(), DeviceChoice::Cpu).unwrap();
    assert_eq!(watch(&mut session(&model, "a red"), 2), first);
    let size = Some(FrameSize::new(96, 64));
    let unread = SessionOptions { size, prompt: "red".into(), ..SessionOptions::default() };
    let unread = Session::new(model, unread).err().unwrap().to_string();
    assert!(unread.contains("no umT5 here"), "{unread}");
}

/// The LoRA of the fixture `wan_lora`, as it is spelled in its file.
fn lora() -> Tensors {
    let tensors = candle_core::pickle::read_all_with_key(fixture("wan_lora/lora.pt"), Some("generator_lora")).unwrap();
    assert!(tensors.iter().all(|(name, _)| name.starts_with("base_model.model.blocks.")));
    tensors.into_iter().collect()
}

/// The fixture `wan_lora` with other files of weights.
fn with_weights(base: &Tensors, lora: &Tensors) -> TempDir {
    let folder = copy("wan_lora");
    for (file, tensors) in [("base.safetensors", base), ("lora.safetensors", lora)] {
        safetensors::save(tensors, folder.path().join(file)).unwrap();
    }
    folder
}

#[test]
fn a_lora_is_merged_however_it_is_spelled() {
    let base = candle_core::pickle::read_all_with_key(fixture("wan_lora/longlive_base.pt"), Some("generator")).unwrap();
    let base: Tensors = base.into_iter().map(|(name, tensor)| (diffusers(&name), tensor)).collect();
    let spelled = |name: String| name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default.");
    let theirs: Tensors = lora().into_iter().map(|(name, tensor)| (spelled(name), tensor)).collect();
    let folder = with_weights(&base, &theirs);
    assert!(passes(folder.path()));
    let facts = |path: &Path| bevy_dream::family::facts::facts(path).unwrap().unwrap();
    assert_eq!(facts(folder.path()).parameters, facts(&fixture("wan")).parameters, "merged");

    // In the precision in which layers are held.
    let config = fs::read_to_string(folder.path().join("config.json")).unwrap();
    let other = config.replacen('{', r#"{"precision": "f16", "#, 1);
    fs::write(folder.path().join("config.json"), other).unwrap();
    let rollout = &verify(folder.path()).unwrap()[1];
    assert!(!rollout.passed() && rollout.error < 2e-2, "{}", rollout.error);

    // What is changed by less, or not at all, is another model.
    for other in [config.replace("\"alpha\": 6", "\"alpha\": 5"), config.replace(", \"alpha\": 6", "")] {
        assert_ne!(other, config);
        fs::write(folder.path().join("config.json"), other).unwrap();
        assert!(!passes(folder.path()));
    }
    fs::remove_file(folder.path().join("lora.safetensors")).unwrap();
    assert!(!passes(folder.path()));

    // Without a config a LoRA is that of LongLive.
    let folder = tempfile::tempdir().unwrap();
    for file in ["longlive_base.pt", "lora.pt"] {
        fs::copy(fixture("wan_lora").join(file), folder.path().join(file)).unwrap();
    }
    assert_eq!(checkpoint::family(folder.path()).unwrap(), "wan-causal");
    let config = Files::open(folder.path()).unwrap().config;
    assert_eq!((config.window(1560), config.sink_size, config.sampler.global_sink), (12, 3, true));
}

#[test]
fn a_lora_that_does_not_fit_is_one_clear_line() {
    let base = safetensors::load(fixture("wan/weights.safetensors"), &Device::Cpu).unwrap();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let up = "base_model.model.blocks.1.ffn.2.lora_B.weight";
    for (name, tensor, expected) in [
        (up, None, "'blocks.1.ffn.2.lora_B.weight' is missing"),
        (up, Some(zeros(&[40, 5])), "has the shape [40, 5], but the config (adapter.rank) makes it [40, 4]"),
        (
            up,
            Some((zeros(&[40, 4]) / 0.0).unwrap()),
            "'blocks.1.ffn.2.lora_B.weight' holds numbers that are not finite",
        ),
        ("blocks.1.ffn.2.lora_B.weight", Some(zeros(&[40, 4])), "in another spelling"),
        ("blocks.2.ffn.2.lora_A.weight", Some(zeros(&[4, 56])), "'blocks.2.ffn.2.lora_A.weight' has no place"),
        ("blocks.0.norm3.lora_A.weight", Some(zeros(&[4, 40])), "'blocks.0.norm3.lora_A.weight' has no place"),
        ("blocks.0.self_attn.q.alpha", Some(zeros(&[1])), "'blocks.0.self_attn.q.alpha' has no place"),
    ] {
        let mut lora = lora();
        match tensor {
            Some(tensor) => drop(lora.insert(name.into(), tensor)),
            None => drop(lora.remove(name)),
        }
        let reason = reason(&with_weights(&base, &lora));
        assert!(reason.contains(expected) && reason.contains("lora.safetensors"), "{name}: {reason}");
    }
    for (adapter, expected) in [
        (r#""rank": 5"#, "the config (adapter.rank) makes it [5, 40]"),
        (r#""rank": 0"#, "adapter: rank is 0"),
        (r#""alpha": 0"#, "adapter: alpha is 0"),
    ] {
        let folder = with_weights(&base, &lora());
        let path = folder.path().join("config.json");
        let config = fs::read_to_string(&path).unwrap();
        fs::write(path, config.replace("\"type\": \"lora\", \"rank\": 4, \"alpha\": 6", adapter)).unwrap();
        assert!(reason(&folder).contains(expected), "{adapter}: {}", reason(&folder));
    }
    let twice = with_weights(&base, &lora());
    fs::copy(twice.path().join("lora.safetensors"), twice.path().join("other.safetensors")).unwrap();
    assert!(reason(&twice).contains("the same network as"), "{}", reason(&twice));
}

#[test]
fn a_folder_of_diffusers_opens() {
    let folder = tempfile::tempdir().unwrap();
    for part in ["transformer", "text_encoder", "vae"] {
        fs::create_dir(folder.path().join(part)).unwrap();
    }
    let [weights, text, vae] =
        ["transformer/a", "text_encoder/model", "vae/a"].map(|name| folder.path().join(format!("{name}.safetensors")));
    fs::copy(renamed("wan", diffusers).path().join("weights.safetensors"), weights).unwrap();
    fs::copy(fixture("umt5/weights.safetensors"), text).unwrap();
    fs::copy(fixture("umt5/config.json"), folder.path().join("text_encoder/config.json")).unwrap();
    let autoencoder = HashMap::from([("decoder.conv_in.weight", Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap())]);
    safetensors::save(&autoencoder, vae).unwrap();
    let config = r#"{"_class_name": "WanTransformer3DModel", "num_attention_heads": 2, "attention_head_dim": 20, "ffn_dim": 56,
        "freq_dim": 16, "in_channels": 4, "out_channels": 4, "num_layers": 2, "text_dim": 12, "patch_size": [1, 2, 2],
        "qk_norm": "rms_norm_across_heads", "cross_attn_norm": true, "eps": 1e-06, "image_dim": null, "text_len": 9}"#;
    fs::write(folder.path().join("transformer/config.json"), config).unwrap();
    assert_eq!(checkpoint::family(folder.path()).unwrap(), "wan-causal");
    let files = Files::open(folder.path()).unwrap();
    files.check().unwrap();
    assert_eq!((files.config.dim, files.config.text_encoder.d_model), (40, 24));
    assert!(bevy_dream::family::facts::facts(folder.path()).unwrap().unwrap().world.unwrap().reads_text);
    // The config says what the reference's says, but for how many rows of text are seen.
    fs::copy(fixture("wan/case.safetensors"), folder.path().join("case.safetensors")).unwrap();
    assert!(passes(folder.path()));
}

#[test]
fn the_reading_of_a_prompt_tells_how_far_it_is() {
    let told = Rc::new(Cell::new(None));
    let watcher = Rc::clone(&told);
    checkpoint::watch(move |progress| watcher.set(Some(progress)), || verify(&fixture("umt5"))).unwrap();
    let Progress { done, total } = told.get().unwrap();
    assert!(done == total && total > 30_000, "{done} of {total}");
}

#[test]
fn known_by_its_tensors() {
    let folder = copy("wan");
    fs::remove_file(folder.path().join("config.json")).unwrap();
    assert_eq!(checkpoint::family(folder.path()).unwrap(), "wan-causal");
    let index = Index::open(folder.path().join("weights.safetensors")).unwrap();
    let weights = Weights::new(index, &Device::Cpu);
    assert!(weights.vars().rows("time_projection.1.bias", &[240, 1], &[0]).is_err());
}
