//! Checkpoints that are damaged or hostile: refused in one line, without a crash and before anything is allocated.
//!
//! `PROPTEST_CASES=1000000 cargo test --test checkpoint` looks for longer.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bevy_dream::checkpoint::{self, DeviceChoice, Index, Progress, Weights};
use bevy_dream::family::facts::facts;
use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

/// A safetensors file with this header and as many bytes of numbers.
fn safetensors(header: &str, bytes: usize) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), &vec![0; bytes]].concat()
}

fn open(name: &str, bytes: &[u8]) -> Result<Index, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    Index::open(path).map_err(|e| e.to_string())
}

fn refused(name: &str, bytes: &[u8]) -> String {
    let reason = open(name, bytes).unwrap_err();
    assert!(reason.contains(name) && !reason.contains('\n') && reason.len() < 600, "{reason}");
    reason
}

const GOOD: &str = r#"{"__metadata__":{"license":"MIT"},"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}"#;

#[test]
fn hostile_headers_are_refused() {
    let good = open("x.safetensors", &safetensors(GOOD, 16)).unwrap();
    assert_eq!((good.parameters(), good.metadata()["license"].as_str()), (7, "MIT"));
    for (part, other, reason) in [
        ("[12,16]", "[11,15]", "'b' overlaps"),
        ("[12,16]", "[13,17]", "'b' begins after a gap"),
        ("[0,12]", "[12,0]", "'a' of F16 [2, 3] does not take bytes 12 to 0"),
        ("[0,12]", "[0,13]", "'a' of F16 [2, 3] does not take bytes 0 to 13"),
        ("[2,3]", "[4611686018427387904,4]", "does not take bytes"),
        ("[2,3]", "[-2,3]", "a broken header"),
        ("F16", "F17", "a broken header"),
        ("\"b\"", "\"a\"", "'a' appears twice"),
    ] {
        let header = GOOD.replace(part, other);
        let found = refused("x.safetensors", &safetensors(&header, 16));
        assert!(found.contains(reason), "{other}: {found}");
    }
    assert!(refused("x.safetensors", &safetensors(GOOD, 15)).contains("promises"));
    assert!(refused("x.safetensors", &safetensors(GOOD, 17)).contains("promises"));
    for length in [1 << 63, u64::MAX, 1 << 40] {
        let bytes = [&u64::to_le_bytes(length)[..], b"{}"].concat();
        assert!(refused("x.safetensors", &bytes).contains(&format!("its header would be {length} bytes")));
    }
    // Sizes whose sum is no number any more.
    let most = (1u64 << 61) - 1;
    let claim =
        |i: u64| format!(r#""{i}":{{"dtype":"U8","shape":[{most}],"data_offsets":[{},{}]}}"#, i * most, (i + 1) * most);
    let header = format!("{{{}}}", (0..8).map(claim).collect::<Vec<_>>().join(","));
    assert!(refused("x.safetensors", &safetensors(&header, 16)).contains("promises"));
    let deep = "[".repeat(100_000);
    refused("x.safetensors", &safetensors(&format!(r#"{{"a":{deep}"#), 0));
}

#[test]
fn lists_of_shards_name_files_beside_them() {
    for shard in ["../x.safetensors", "/etc/passwd", "", "..", "a\\nb"] {
        let list = format!(r#"{{"weight_map": {{"a": "{shard}"}}}}"#);
        let found = refused("x.safetensors.index.json", list.as_bytes());
        assert!(found.contains("is not in the same folder"), "{found}");
    }
    assert!(refused("x.safetensors.index.json", b"{}").contains("no list of shards"));
    let twice = r#"{"weight_map": {"a": "1.safetensors", "a": "2.safetensors"}}"#;
    assert!(refused("x.safetensors.index.json", twice.as_bytes()).contains("'a' appears twice"));
    // The same tensor in two shards, whichever of them the list names.
    let folder = tempfile::tempdir().unwrap();
    let shard = r#"{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}"#;
    let other = r#"{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}}"#;
    fs::write(folder.path().join("1.safetensors"), safetensors(shard, 2)).unwrap();
    fs::write(folder.path().join("2.safetensors"), safetensors(other, 4)).unwrap();
    let list = folder.path().join("x.safetensors.index.json");
    fs::write(&list, r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#).unwrap();
    let found = Index::open(list).unwrap_err().to_string();
    assert!(found.contains("2.safetensors") && found.contains("'a' appears twice"), "{found}");
}

#[test]
fn every_file_of_a_folder_has_its_place() {
    for name in ["oasis", "waypoint", "wan"] {
        let folder = altered(&fixture(name), "weights.safetensors", "x", &[]);
        fs::copy(fixture(name).join("weights.safetensors"), folder.path().join("weights.safetensors")).unwrap();
        assert!(facts(folder.path()).is_ok());
        let extra = folder.path().join("lora.safetensors");
        fs::write(&extra, safetensors(GOOD, 16)).unwrap();
        let found = facts(folder.path()).unwrap_err().to_string();
        assert!(found.contains("lora.safetensors") && found.contains("of no use"), "{found}");
        assert!(facts(&folder.path().join("weights.safetensors")).is_ok(), "neighbours of a file may be of anything");
        let autoencoder = GOOD.replace("\"a\"", "\"decoder.conv1.weight\"");
        fs::write(&extra, safetensors(&autoencoder, 16)).unwrap();
        assert!(facts(folder.path()).is_ok());
    }
}

#[test]
fn nothing_is_said_twice_in_a_config() {
    for name in ["oasis", "waypoint", "wan"] {
        let folder = altered(&fixture(name), "weights.safetensors", "x", &[]);
        let config = folder.path().join("config.json");
        let text = fs::read_to_string(&config).unwrap().replacen('{', "{\"family\": \"x\", ", 1);
        fs::write(&config, text).unwrap();
        let found = facts(folder.path()).unwrap_err().to_string();
        assert!(found.contains("config.json") && found.contains("'family' appears twice"), "{found}");
    }
}

#[test]
fn what_a_file_says_does_not_break_the_line() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixture("oasis").join("weights.safetensors"), folder.path().join("weights.safetensors")).unwrap();
    fs::write(folder.path().join("config.json"), r#"{"family": "oasis", "dit": {"a\nb": 1}}"#).unwrap();
    let reason = checkpoint::load(folder.path(), DeviceChoice::Cpu).err().unwrap().to_string();
    assert!(reason.contains("unknown field `a b`") && !reason.contains('\n'), "{reason}");
}

fn torch() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/oasis_pt/vae.pt")).unwrap()
}

/// The file with every occurrence of a text replaced by another as long.
fn replaced(text: &[u8], other: &[u8]) -> Vec<u8> {
    assert_eq!(text.len(), other.len());
    let mut bytes = torch();
    let places: Vec<_> = (0..bytes.len() - text.len()).filter(|&i| bytes[i..].starts_with(text)).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|&i| bytes[i..i + other.len()].copy_from_slice(other));
    bytes
}

#[test]
fn pickles_are_read_but_not_run() {
    let index = open("x.pt", &torch()).unwrap();
    assert_eq!(index.tensors()["patch_embed.proj.weight"].shape, [32, 3, 4, 4]);
    for (text, other, reason) in [
        (&b"OrderedDict"[..], &b"OrderedEvil"[..], "asks for 'collections.OrderedEvil'"),
        (b"_rebuild_tensor_v2", b"_rebuild_tensor_v9", "asks for 'torch._utils._rebuild_tensor_v9'"),
        (b"HalfStorage", b"HalfStorag3", "asks for 'torch.HalfStorag3'"),
        (b"model", b"madel", "none of which is known to hold weights"),
        (b"dec_norm.weight", b"enc_norm.weight", "'enc_norm.weight' appears twice"),
        (b"PK\x05\x06", b"PK\x05\x07", "no zip archive"),
    ] {
        let found = refused("x.pt", &replaced(text, other));
        assert!(found.contains(reason), "{found}");
    }
    assert!(refused("x.pt", &torch()[..50_000]).contains("no zip archive"));
    assert!(refused("x.pth", b"").contains("no zip archive"));
}

/// The same file with its weights below another key, and steps of the pickle before it; they take their room from the padding
/// before the pickle.
fn nested(key: &str, steps: &[u8]) -> Vec<u8> {
    let bytes = torch();
    let (name, pickle) = (b"X\x05\0\0\0model", 0x40);
    let at = pickle + bytes[pickle..].windows(name.len()).position(|part| part == name).unwrap();
    let grow = steps.len() + key.len() - 5;
    let extra = (u16::from_le_bytes([bytes[28], bytes[29]]) - grow as u16).to_le_bytes();
    let length = (key.len() as u32).to_le_bytes();
    let (before, after) = (&bytes[30..pickle - grow], &bytes[at + name.len()..]);
    let key = [steps, b"X", &length, key.as_bytes()].concat();
    let mut bytes = [&bytes[..28], &extra, before, &bytes[pickle..at], &key, after].concat();
    let directory = bytes.windows(4).position(|part| part == b"PK\x01\x02").unwrap();
    for place in [directory + 20, directory + 24] {
        let size = u32::from_le_bytes(bytes[place..place + 4].try_into().unwrap()) + grow as u32;
        bytes[place..place + 4].copy_from_slice(&size.to_le_bytes());
    }
    bytes
}

#[test]
fn weights_are_found_where_published_files_keep_them() {
    for key in ["model", "generator", "generator_ema", "state_dict", "generator_lora"] {
        let index = open("x.pt", &nested(key, b"")).unwrap();
        assert_eq!(index.tensors()["patch_embed.proj.weight"].shape, [32, 3, 4, 4], "{key}");
    }
    let found = refused("x.pt", &nested("critic_lora", b""));
    assert!(found.contains("\"critic_lora\"") && found.contains("none of which is known to hold weights"), "{found}");
    // One of them would be left out without a word.
    let both = refused("x.pt", &nested("model", b"X\x0e\0\0\0generator_lora}s"));
    assert!(both.contains("weights and their LoRA"), "{both}");
}

#[test]
fn numbers_of_every_format_are_the_same_numbers() {
    let values = [1.0, -0.5, 3.25, 0.0];
    for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
        let file = tempfile::NamedTempFile::with_suffix(".safetensors").unwrap();
        let tensor = Tensor::new(&values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        candle_core::safetensors::save(&std::collections::HashMap::from([("a", tensor)]), file.path()).unwrap();
        let weights = Weights::open(file.path(), &Device::Cpu).unwrap();
        let read = weights.vars().tensor("a", &[4]).unwrap();
        assert_eq!(read.to_vec1::<f32>().unwrap(), values.map(|x| x as f32), "{dtype:?}");
    }
    let integers = safetensors(r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#, 8);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x.safetensors"), integers).unwrap();
    let weights = Weights::open(folder.path().join("x.safetensors"), &Device::Cpu).unwrap();
    let found = weights.vars().tensor("a", &[1]).unwrap_err().to_string();
    assert!(found.contains("'a' holds I64, not floating-point numbers"), "{found}");
}

/// The folder of a fixture.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

#[test]
fn weights_of_another_family_are_one_clear_line() {
    let families = ["oasis", "waypoint", "wan", "taehv", "umt5"];
    for config in ["oasis", "waypoint", "wan"] {
        for weights in families.iter().filter(|other| **other != config) {
            let folder = tempfile::tempdir().unwrap();
            for (from, file) in [(config, "config.json"), (*weights, "weights.safetensors")] {
                fs::copy(fixture(from).join(file), folder.path().join(file)).unwrap();
            }
            let reason = checkpoint::load(folder.path(), DeviceChoice::Cpu).err().unwrap().to_string();
            assert!(reason.contains("no DiT here") && !reason.contains('\n'), "{config}, {weights}: {reason}");
        }
    }
}

/// Our own family, file by file: cut off, of another file, or not there.
#[test]
fn damaged_weights_of_our_own_are_one_clear_line() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/overworld");
    let weights = ["dit.safetensors", "vcn.safetensors", "edits.safetensors", "text.safetensors"];
    let files = [&weights[..], &["config.json", "text.json", "tokenizer.json"]].concat();
    let folder = tempfile::tempdir().unwrap();
    let place = |file: &str| folder.path().join(file);
    for &file in &files {
        fs::copy(shipped.join(file), place(file)).unwrap();
    }
    let reason = || {
        let reason = checkpoint::load(folder.path(), DeviceChoice::Cpu).err().unwrap().to_string();
        assert!(!reason.contains('\n') && reason.len() < 600, "{reason}");
        reason
    };
    for file in files {
        let whole = fs::read(place(file)).unwrap();
        for length in [0, 7, whole.len() / 2, whole.len() - 2] {
            fs::write(place(file), &whole[..length]).unwrap();
            let reason = reason();
            assert!(reason.contains(file), "{file} cut to {length}: {reason}");
        }
        fs::remove_file(place(file)).unwrap();
        assert!(reason().contains(file));
        fs::write(place(file), whole).unwrap();
    }
    for (file, other) in [("dit", "vcn"), ("vcn", "text"), ("text", "dit"), ("edits", "dit")] {
        let [file, other] = [file, other].map(|name| format!("{name}.safetensors"));
        fs::copy(shipped.join(&other), place(&file)).unwrap();
        assert!(reason().contains(&file), "{file} is {other}");
        fs::copy(shipped.join(&file), place(&file)).unwrap();
    }
    checkpoint::load(folder.path(), DeviceChoice::Cpu).unwrap();
}

/// A copy of a folder's files with another tensor in one of them, of no numbers but zeros.
fn altered(from: &Path, file: &str, name: &str, shape: &[usize]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let path = folder.path().join(file);
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    tensors.insert(name.into(), Tensor::zeros(shape, DType::F16, &Device::Cpu).unwrap());
    candle_core::safetensors::save(&tensors, path).unwrap();
    folder
}

#[test]
fn facts_are_of_files_whose_every_key_has_its_place() {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/overworld");
    let known = |path: &Path| facts(path).unwrap().unwrap();
    assert!(known(&ours).world.is_some() && known(&ours.join("dit.safetensors")).world.is_some());
    for codec in ["taehv", "taehv_preview", "taehv_super", "umt5"] {
        assert!(known(&fixture(codec)).world.is_none() && known(&fixture(codec)).notice.is_some(), "{codec}");
    }
    let [wan, codec, umt5] = ["wan", "taehv", "umt5"].map(fixture);
    for (from, file, name, shape, reason) in [
        (
            &ours,
            "vcn.safetensors",
            "dec_out.bias",
            &[143][..],
            "'dec_out.bias' has the shape [143], but the config (frames_per_chunk) makes it [144]",
        ),
        (&ours, "dit.safetensors", "blocks.9.q_norm", &[64], "'blocks.9.q_norm' has no place"),
        (
            &ours,
            "edits.safetensors",
            "blocks.0.fc1.lora_A.weight",
            &[8, 256],
            "'blocks.0.fc1.lora_A.weight' has the shape [8, 256], but the config (edit_rank) makes it [32, 256]",
        ),
        (
            &ours,
            "text.safetensors",
            "projection.bias",
            &[383],
            "'projection.bias' has the shape [383], but the config (projection) makes it [384]",
        ),
        (&ours, "text.safetensors", "mystery", &[1], "'mystery' has no place"),
        (&codec, "weights.safetensors", "decoder.14.weight", &[4, 3, 3, 3], "'decoder.14.weight' has the shape"),
        (&codec, "weights.safetensors", "decoder.1.weight", &[4, 6, 3, 3], "but latent_channels makes it [4, 5, 3, 3]"),
        (&codec, "weights.safetensors", "decoder.22.weight", &[3, 4, 3, 3], "but patch_size makes it [12, 4, 3, 3]"),
        (&codec, "weights.safetensors", "decoder.99.weight", &[1], "'decoder.99.weight' has no place"),
        (&umt5, "weights.safetensors", "encoder.final_layer_norm.weight", &[7], "has the shape [7]"),
        (&wan, "weights.safetensors", "mystery", &[1], "'mystery' has no place"),
    ] {
        let folder = altered(from, file, name, shape);
        let found = facts(folder.path()).unwrap_err().to_string();
        assert!(found.contains(reason) && found.contains(file), "{name}: {found}");
    }
    // The codec and the text encoder beside a world.
    for (file, from, name) in [("codec.safetensors", &codec, "decoder.99.weight"), ("t5.safetensors", &umt5, "mystery")]
    {
        let folder = altered(&wan, "weights.safetensors", "head.head.bias", &[16]);
        let other = altered(from, "weights.safetensors", name, &[1]);
        fs::copy(other.path().join("weights.safetensors"), folder.path().join(file)).unwrap();
        assert!(facts(folder.path()).is_err(), "{file}");
    }
}

#[test]
fn facts_tell_what_is_held() {
    let bytes = |path: &Path| facts(path).unwrap().unwrap().world.unwrap().bytes as f64;
    // 8 bits for the blocks, f32 for the rest and for what is remembered: 17.8 M weights would take 71 MB in f32 alone.
    let ours = bytes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/overworld"));
    assert!((40e6..62e6).contains(&ours), "{ours}");
    // What Waypoint stores in each layer is held once: a file that stores it once takes no less.
    let once = tempfile::tempdir().unwrap();
    fs::copy(fixture("waypoint").join("config.json"), once.path().join("config.json")).unwrap();
    let weights = fixture("waypoint").join("weights.safetensors");
    let mut tensors = candle_core::safetensors::load(weights, &Device::Cpu).unwrap();
    tensors.retain(|name, _| !name.contains("cond_proj") || name.contains("blocks.0."));
    candle_core::safetensors::save(&tensors, once.path().join("weights.safetensors")).unwrap();
    assert_eq!(bytes(once.path()), bytes(&fixture("waypoint")));
}

#[test]
fn a_codec_or_a_text_encoder_alone_is_known_by_its_tensors() {
    for (name, reason) in [("taehv", "a codec of latents"), ("umt5", "an encoder of text")] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("taew2_1.safetensors");
        fs::copy(fixture(name).join("weights.safetensors"), &file).unwrap();
        for path in [folder.path(), &file] {
            assert_eq!(checkpoint::family(path).unwrap(), name);
            let found = checkpoint::load(path, DeviceChoice::Cpu).err().unwrap().to_string();
            assert!(found.contains(reason), "{found}");
        }
        // Sizes that no config tells: a codec has them in its tensors, a text encoder is taken for the published one.
        assert_eq!(facts(&file).is_ok(), name == "taehv");
    }
}

#[test]
fn a_load_tells_how_far_it_is() {
    let told = Rc::new(RefCell::new(Vec::new()));
    let watcher = Rc::clone(&told);
    let load = || checkpoint::load(fixture("oasis"), DeviceChoice::Cpu).map(drop);
    checkpoint::watch(move |progress| watcher.borrow_mut().push(progress), load).unwrap();
    let told = told.take();
    let Progress { done, total } = *told.last().unwrap();
    assert!(done == total && told.is_sorted_by_key(|progress| progress.done), "{told:?}");
    let files = ["config.json", "weights.safetensors", "vae.safetensors"];
    let size: u64 = files.iter().map(|file| fs::metadata(fixture("oasis").join(file)).unwrap().len()).sum();
    assert!(done > size && done <= 2 * size, "every byte is checked and every number is read: {done} of {size}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_damage_is_a_crash(kind in 0..2_usize, cut in 0.0..1.0_f64, at in prop::collection::vec(0.0..1.0_f64, 0..4),
                            values in prop::collection::vec(any::<u8>(), 4), whole: bool) {
        let (name, mut bytes, headers) = match kind {
            0 => ("x.safetensors", safetensors(GOOD, 16), 0..GOOD.len() + 8),
            _ => {
                let bytes = torch();
                // The pickle is at the beginning, the directory at the end.
                let from = if cut < 0.5 { 0 } else { bytes.len() - 6000 };
                ("x.pt", bytes, from..from + 6000)
            }
        };
        for (at, value) in at.iter().zip(values) {
            let place = headers.start + (at * headers.len() as f64) as usize;
            bytes[place] = value;
        }
        if !whole {
            bytes.truncate((cut * bytes.len() as f64) as usize);
        }
        if let Err(reason) = open(name, &bytes) {
            prop_assert!(reason.contains(name) && !reason.contains('\n'), "{}", reason);
        }
    }
}
