//! From files to a [`WorldModel`].

mod device;
mod index;
mod layout;
mod lora;
mod progress;
mod pth;
mod text;
mod weights;
mod zip;

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::family::dream::Dream;
use crate::family::oasis::{self, Oasis};
use crate::family::taehv;
use crate::family::umt5;
use crate::family::wan::{self, Wan};
use crate::family::waypoint::{self, Waypoint};
use crate::kernel::Isa;
use crate::model::WorldModel;
use crate::{Error, Result};

pub use device::DeviceChoice;
pub(crate) use index::folder_of;
pub use index::{Entry, Index, checkpoints, find, is_checkpoint};
pub use layout::{Layout, Size};
pub use lora::{Adapter, Lora, changes};
pub use progress::{Progress, watch};
pub use text::{parse_json, read_text};
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
    if !(path.is_dir() || path.is_file() && is_checkpoint(path)) {
        return Err(Error::model(path, "there is no such folder or checkpoint"));
    }
    let config = folder_of(path).join("config.json");
    if config.exists() {
        let config = read_config(&config, parse_json)?;
        if let Some(family) = config.get("family").and_then(Value::as_str) {
            return Ok(family.into());
        }
    }
    // What has a world tells the family, not the codec or the text encoder beside it.
    let known = [
        ("oasis", oasis::DIT_KEY),
        ("waypoint", waypoint::DIT_KEY),
        ("wan-causal", wan::DIT_KEY),
        ("taehv", taehv::KEY),
        ("umt5", umt5::KEY),
    ];
    let spelled = |file| umt5::as_published(wan::as_published(Index::open(file).ok()?).ok()?).ok();
    let files: Vec<_> = checkpoints(path).into_iter().filter_map(spelled).collect();
    match known.iter().find(|(_, key)| files.iter().any(|index| index.tensors().contains_key(*key))) {
        Some((family, _)) => Ok((*family).into()),
        None if config.exists() => Err(Error::model(&config, "states no family, and no tensors tell it")),
        None => Err(Error::io(&config)(std::io::ErrorKind::NotFound.into())),
    }
}

/// A model's config; what `parse` has against it is told with the file.
pub(crate) fn read_config<C>(path: &Path, parse: impl FnOnce(&str) -> Result<C, String>) -> Result<C> {
    parse(&read_text(path)?).map_err(|reason| Error::model(path, reason))
}

pub(crate) fn unknown_family(folder: &Path, family: &str) -> Error {
    Error::model(folder.join("config.json"), format!("of the unknown family '{family}'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
