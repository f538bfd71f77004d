//! From files to a [`WorldModel`].

mod device;
mod index;
mod progress;
mod pth;
mod weights;
mod zip;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use crate::family::dream::Dream;
use crate::family::oasis::{self, Oasis};
use crate::family::wan::{self, Wan};
use crate::family::waypoint::{self, Waypoint};
use crate::kernel::Isa;
use crate::model::WorldModel;
use crate::{Error, Result};

pub use device::DeviceChoice;
pub use index::{Entry, Index, checkpoints, find, is_checkpoint};
pub use progress::{Progress, watch};
pub use weights::{Precision, Vars, Weights, sha256};

/// Loads the model at `path`, whatever its family: a folder, or a checkpoint of a published family.
///
/// # Errors
/// [`Error::Model`] when there is no model that can be run, with the reason; [`Error::Io`] when a file cannot
/// be read; [`Error::Input`] when the device or the [preferred](Isa::preferred) instruction set is not there.
pub fn load(path: impl AsRef<Path>, device: DeviceChoice) -> Result<Arc<dyn WorldModel>> {
    let path = path.as_ref();
    Isa::preferred()?;
    let family = family(path)?;
    match family.as_str() {
        "dream" => Ok(Arc::new(Dream::load(path, &device.open(&family)?)?)),
        "oasis" => Ok(Arc::new(Oasis::load(path, &device.open(&family)?)?)),
        "wan-causal" => Ok(Arc::new(Wan::load(path, &device.open(&family)?)?)),
        "waypoint" => Ok(Arc::new(Waypoint::load(path, &device.open(&family)?)?)),
        "taehv" => Err(Error::model(path, "a codec of latents, no world of its own")),
        "umt5" => Err(Error::model(path, "an encoder of text, no world of its own")),
        other => Err(unknown_family(path, other)),
    }
}

/// The family of the model at `path`: what its `config.json` states, or what its tensors tell where there is none.
///
/// # Errors
/// [`Error::Model`] when there is nothing or its config states none, [`Error::Io`] when it has no config and no tensors
/// that are known.
pub fn family(path: &Path) -> Result<String> {
    #[derive(Deserialize)]
    struct Sniff {
        family: Option<String>,
    }
    if !(path.is_dir() || path.is_file() && is_checkpoint(path)) {
        return Err(Error::model(path, "there is no such folder or checkpoint"));
    }
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    let config = folder.join("config.json");
    if config.exists() {
        let sniff: Sniff = read_config(&config, |text| serde_json::from_str(text).map_err(|e| e.to_string()))?;
        if let Some(family) = sniff.family {
            return Ok(family);
        }
    }
    let known = [("oasis", oasis::DIT_KEY), ("waypoint", waypoint::DIT_KEY), ("wan-causal", wan::DIT_KEY)];
    let known_by =
        |index: Index| known.iter().find(|(_, key)| index.tensors().contains_key(*key)).map(|(name, _)| *name);
    let mut files = checkpoints(path).into_iter().filter_map(|file| wan::as_published(Index::open(file).ok()?).ok());
    match files.find_map(known_by) {
        Some(family) => Ok(family.into()),
        None if config.exists() => Err(Error::model(&config, "states no family, and no tensors tell it")),
        None => Err(Error::io(&config)(std::io::ErrorKind::NotFound.into())),
    }
}

/// A model's config; what `parse` has against it is told with the file.
pub(crate) fn read_config<C>(path: &Path, parse: impl FnOnce(&str) -> Result<C, String>) -> Result<C> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    parse(&text).map_err(|reason| Error::model(path, reason))
}

pub(crate) fn unknown_family(folder: &Path, family: &str) -> Error {
    Error::model(folder.join("config.json"), format!("of the unknown family '{family}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_model_is_one_clear_line() {
        let folder = tempfile::tempdir().unwrap();
        let missing = load(folder.path().join("none"), DeviceChoice::Cpu).err().unwrap().to_string();
        assert!(missing.contains("no such folder or checkpoint"), "{missing}");
        assert!(matches!(load(folder.path(), DeviceChoice::Cpu), Err(Error::Io { .. })));
        fs::write(folder.path().join("config.json"), r#"{"family": "mystery"}"#).unwrap();
        let unknown = load(folder.path(), DeviceChoice::Cpu).err().unwrap().to_string();
        assert!(unknown.contains("mystery") && !unknown.contains('\n'), "{unknown}");
    }
}
