//! TAEHV against its reference implementation on small random weights, and its layout at the published sizes.
//!
//! `tests/fixtures/taehv*` are written by `train/fixtures/taehv.py`. Published weights have never been run here.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use bevy_dream::family::taehv::{DecoderMemory, Taehv};
use bevy_dream::family::verify::{Stage, verify};
use candle_core::{DType, Device, Tensor, safetensors};
use tempfile::TempDir;

#[path = "support/fixture.rs"]
mod support;
use support::{fixture, listed, published, reason};

fn changed(file: &str, change: impl FnOnce(&mut HashMap<String, Tensor>)) -> TempDir {
    support::changed("taehv", file, change)
}

#[test]
fn matches_the_reference() {
    for name in ["taehv", "taehv_preview", "taehv_super"] {
        let stages = verify(&fixture(name)).unwrap();
        assert_eq!(stages.len(), 4);
        assert!(stages.iter().all(Stage::passed), "{name}: {stages:?}");
    }
}

#[test]
fn a_stream_gives_the_bits_of_the_whole_clip() {
    let model = Taehv::load(&fixture("taehv"), &Device::Cpu).unwrap();
    let case = safetensors::load(fixture("taehv").join("case.safetensors"), &Device::Cpu).unwrap();
    let latents = &case["latents"];
    let stream = |forget: bool| {
        let mut memory = DecoderMemory::default();
        let decode = |i| {
            let past = if forget && i == 2 { &mut DecoderMemory::default() } else { &mut memory };
            model.decode_next(&latents.get(i).unwrap(), past).unwrap()
        };
        let frames: Vec<_> = (0..4).map(decode).collect();
        assert_eq!(frames[0].len(), 1);
        Tensor::stack(&frames.concat(), 0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let whole = model.decode(latents).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(stream(false), whole);
    assert_ne!(stream(true), whole);
}

#[test]
fn swapped_weights_and_shifted_memories_fail() {
    let swapped = changed("weights.safetensors", |tensors| {
        let [a, b] = ["decoder.9.conv.2.weight", "decoder.10.conv.2.weight"].map(|name| tensors[name].clone());
        tensors.insert("decoder.9.conv.2.weight".into(), b);
        tensors.insert("decoder.10.conv.2.weight".into(), a);
    });
    let failed = |folder: &TempDir| verify(folder.path()).unwrap().iter().map(|s| !s.passed()).collect::<Vec<_>>();
    assert_eq!(failed(&swapped), [true, true, false, false]);
    // Without the weights of the frame before, as if no memory were passed on.
    let forgetful = changed("weights.safetensors", |tensors| {
        for name in ["encoder.4.conv.0.weight", "decoder.15.conv.0.weight"] {
            let weight = &tensors[name];
            let now = weight.narrow(1, 0, weight.dim(1).unwrap() / 2).unwrap();
            let before = now.zeros_like().unwrap();
            tensors.insert(name.into(), Tensor::cat(&[now, before], 1).unwrap());
        }
    });
    assert_eq!(failed(&forgetful), [true; 4]);
    let late = changed("case.safetensors", |tensors| {
        let frames = &tensors["frames"];
        let (first, last) = (frames.narrow(0, 0, 12).unwrap(), frames.narrow(0, 12, 1).unwrap());
        tensors.insert("frames".into(), Tensor::cat(&[last, first], 0).unwrap());
    });
    assert_eq!(failed(&late), [true, true, false, false]);
}

#[test]
#[cfg(feature = "cli")]
fn the_tool_reports_every_stage_and_fails_beyond_the_gate() {
    let dream = |folder: &Path| {
        let mut tool = std::process::Command::new(env!("CARGO_BIN_EXE_dream"));
        let output = tool.arg("verify").arg(folder).arg("--json").output().unwrap();
        let stages: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(stages[3]["name"], "encoding in a stream");
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (passed, told) = dream(&fixture("taehv"));
    assert!(passed && told.starts_with("note: ") && told.contains("MIT"), "{told}");
    let brighter = changed("case.safetensors", |tensors| {
        let frames = (&tensors["frames"] + 2e-4).unwrap();
        tensors.insert("frames".into(), frames);
    });
    let (passed, reason) = dream(brighter.path());
    let reason = reason.strip_prefix(&told).unwrap();
    assert!(!passed && reason.contains("decoding is off by") && reason.lines().count() == 1, "{reason}");
}

#[test]
fn bad_files_are_one_clear_line() {
    let weights = |change: fn(&mut HashMap<String, Tensor>)| reason(&changed("weights.safetensors", change));
    let case = |change: fn(&mut HashMap<String, Tensor>)| reason(&changed("case.safetensors", change));
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();

    let missing = weights(|tensors| drop(tensors.remove("decoder.13.conv.weight")));
    assert!(
        missing.contains("weights.safetensors") && missing.contains("'decoder.13.conv.weight' is missing"),
        "{missing}"
    );
    let shape = weights(|tensors| {
        let narrow = tensors["decoder.14.weight"].narrow(1, 0, 3).unwrap();
        tensors.insert("decoder.14.weight".into(), narrow);
    });
    assert!(shape.contains("'decoder.14.weight' has the shape [4, 3, 3, 3], but"), "{shape}");
    let nan = weights(|tensors| {
        let nan = (tensors["encoder.0.bias"].zeros_like().unwrap() / 0.0).unwrap();
        tensors.insert("encoder.0.bias".into(), nan);
    });
    assert!(nan.contains("'encoder.0.bias' holds numbers that are not finite"), "{nan}");
    let extra = weights(|tensors| drop(tensors.insert("decoder.0.bias".into(), tensors["encoder.0.bias"].clone())));
    assert!(extra.contains("'decoder.0.bias' has no place"), "{extra}");
    for (name, rank) in
        [("encoder.3.weight", &[0, 4, 3, 3][..]), ("decoder.7.conv.weight", &[]), ("decoder.1.weight", &[4])]
    {
        let folder = changed("weights.safetensors", |tensors| drop(tensors.insert(name.into(), zeros(rank))));
        assert!(reason(&folder).contains(&format!("'{name}' has the shape {rank:?}")), "{}", reason(&folder));
    }

    let missing = case(|tensors| drop(tensors.remove("rgb_in")));
    assert!(missing.contains("case.safetensors") && missing.contains("'rgb_in' is missing"), "{missing}");
    let short = case(|tensors| {
        let frames = tensors["frames"].narrow(0, 0, 12).unwrap();
        tensors.insert("frames".into(), frames);
    });
    assert!(short.contains("'frames' has the shape [12, 3, 16, 32], but"), "{short}");
    for (name, shape) in [("latents", &[4, 5, 2][..]), ("latents", &[0, 5, 1, 2]), ("latents", &[4, 6, 1, 2])] {
        let folder = changed("case.safetensors", |tensors| drop(tensors.insert(name.into(), zeros(shape))));
        assert!(reason(&folder).contains(name), "{}", reason(&folder));
    }

    let folder = changed("case.safetensors", |_| {});
    for name in ["weights.safetensors", "case.safetensors"] {
        let path = folder.path().join(name);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(reason(&folder).contains(&format!("{name}: not a whole safetensors file")), "{}", reason(&folder));
        // A header of 2^63 bytes.
        fs::write(&path, [0, 0, 0, 0, 0, 0, 0, 0x80, b'{']).unwrap();
        assert!(reason(&folder).contains(&format!("{name}: not a whole safetensors file")), "{}", reason(&folder));
        fs::remove_file(&path).unwrap();
        assert!(reason(&folder).contains(name));
        fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn bad_configs_are_one_clear_line() {
    let folder = changed("case.safetensors", |_| {});
    for (config, expected) in [
        (r#"{"family": "taehv", "patch_size": 2}"#, "latent_channels"),
        (r#"{"family": "taehv", "patch_size": 1000000000, "latent_channels": 5}"#, "patch_size is 1000000000"),
        (r#"{"family": "taehv", "patch_size": 2, "latent_channels": 9223372036854775807}"#, "'encoder.17.weight'"),
        (r#"{"family": "taehv", "patch_size": 1, "latent_channels": 5}"#, "'encoder.0.weight'"),
        (r#"{"family": "oats"}"#, "unknown family 'oats'"),
        ("{", "config.json"),
    ] {
        fs::write(folder.path().join("config.json"), config).unwrap();
        assert!(reason(&folder).contains(expected), "{config}: {}", reason(&folder));
    }
}

#[test]
fn loads_exactly_the_published_layouts() {
    for (list, patch, channels) in
        [("taehv/taehv1_5.json", 2, 32), ("taehv/taew2_1.json", 1, 16), ("taehv_super/taehv1_5_super.json", 2, 32)]
    {
        let layout = published(listed(list));
        let parameters: usize = layout.values().map(|shape| shape.iter().product::<usize>()).sum();
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F16, &Device::Cpu).unwrap();
        let tensors: HashMap<_, _> = layout.iter().map(|(name, shape)| (name.as_str(), zeros(shape))).collect();
        let folder = tempfile::tempdir().unwrap();
        safetensors::save(&tensors, folder.path().join("weights.safetensors")).unwrap();
        let config = format!(r#"{{"family": "taehv", "patch_size": {patch}, "latent_channels": {channels}}}"#);
        fs::write(folder.path().join("config.json"), config).unwrap();
        // The loader is strict: it asks for every tensor of the file once and for no other.
        let model = Taehv::load(folder.path(), &Device::Cpu).unwrap();
        assert_eq!(model.parameters(), parameters);
        assert_eq!(model.decoded_shape(4, 1, 2), [13, 3, 8 * patch, 16 * patch]);
        assert_eq!(model.encoded_shape(10, 16, 32), [3, channels, 2 / patch, 4 / patch]);
    }
}
