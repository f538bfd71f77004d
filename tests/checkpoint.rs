//! Checkpoints that are damaged or hostile: refused in one line, without a crash and before anything is allocated.
//!
//! `PROPTEST_CASES=1000000 cargo test --test checkpoint` looks for longer.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bevy_dream::checkpoint::{self, DeviceChoice, Index, Progress};
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
    let files =
        ["config.json", "dit.safetensors", "vcn.safetensors", "text.json", "text.safetensors", "tokenizer.json"];
    let folder = tempfile::tempdir().unwrap();
    let place = |file: &str| folder.path().join(file);
    for file in files {
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
    for (file, other) in [("dit", "vcn"), ("vcn", "text"), ("text", "dit")] {
        let [file, other] = [file, other].map(|name| format!("{name}.safetensors"));
        fs::copy(shipped.join(&other), place(&file)).unwrap();
        assert!(reason().contains(&file), "{file} is {other}");
        fs::copy(shipped.join(&file), place(&file)).unwrap();
    }
    checkpoint::load(folder.path(), DeviceChoice::Cpu).unwrap();
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
