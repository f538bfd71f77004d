//! Parity fixtures and damaged copies of them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use bevy_dream::family::verify::verify;
use candle_core::{Device, Tensor, safetensors};
use tempfile::TempDir;

/// The folder of a fixture.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A copy of a fixture's config and tensors.
pub fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(fixture(name)).unwrap().map(|entry| entry.unwrap().path()) {
        let file_name = file.file_name().unwrap();
        if file_name == "config.json" || file.extension().is_some_and(|end| end == "safetensors") {
            fs::copy(&file, folder.path().join(file_name)).unwrap();
        }
    }
    folder
}

/// A copy of a fixture with other tensors in one of its files.
pub fn changed(name: &str, file: &str, change: impl FnOnce(&mut HashMap<String, Tensor>)) -> TempDir {
    let folder = copy(name);
    let path = folder.path().join(file);
    let mut tensors = safetensors::load(&path, &Device::Cpu).unwrap();
    change(&mut tensors);
    safetensors::save(&tensors, &path).unwrap();
    folder
}

/// Names and shapes at a published size, from a list that has the number format of each, too: loaders ask for numbers of any
/// floating-point format.
pub fn published(list: serde_json::Value) -> BTreeMap<String, Vec<usize>> {
    let list: BTreeMap<String, (String, Vec<usize>)> = serde_json::from_value(list).unwrap();
    let shape = |(name, (format, shape)): (String, (String, _))| {
        assert_eq!(format, "float32", "{name}");
        (name, shape)
    };
    list.into_iter().map(shape).collect()
}

/// The list in a file of a fixture.
pub fn listed(name: &str) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(fixture(name)).unwrap()).unwrap()
}

/// Why a fixture is refused, in one line.
pub fn reason(folder: &TempDir) -> String {
    let reason = verify(folder.path()).unwrap_err().to_string();
    assert!(!reason.contains('\n'), "{reason}");
    reason
}
