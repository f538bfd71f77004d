//! From files to a [`WorldModel`].

mod index;
mod progress;
mod pth;
mod text;
mod weights;
mod zip;

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use candle_core::Device;
use serde_json::Value;

use crate::family::dream::Dream;
use crate::family::oasis::{self, Oasis};
use crate::family::taehv;
use crate::family::umt5;
use crate::family::wan::{self, Wan};
use crate::family::waypoint::{self, Waypoint};
use crate::model::WorldModel;
use crate::{Error, Result};

pub(crate) use index::folder_of;
pub use index::{Entry, Index, checkpoints, find, is_checkpoint};
pub use progress::{Progress, watch};
pub use text::{parse_json, read_text};
pub use weights::{Precision, Vars, Weights, sha256};

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if there is one that this build can use, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first NVIDIA GPU.
    Cuda,
    /// The Apple GPU.
    Metal,
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::Input`] when it is not there, or this build cannot use it.
    pub fn open(self) -> Result<Device> {
        let absent = |name: &str, feature: &str, e: candle_core::Error| {
            let reason = e.to_string();
            let reason = reason.lines().next().unwrap_or_default();
            Error::input(format!("no {name} device: {reason} (is the feature `{feature}` on?); choose cpu or auto"))
        };
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda => Device::new_cuda(0).map_err(|e| absent("CUDA", "cuda", e)),
            Self::Metal => Device::new_metal(0).map_err(|e| absent("Metal", "metal", e)),
            Self::Auto => {
                let gpu = Device::new_cuda(0).or_else(|_| Device::new_metal(0));
                Ok(gpu.unwrap_or(Device::Cpu))
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
        })
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::Auto, Self::Cpu, Self::Cuda, Self::Metal]
            .into_iter()
            .find(|choice| choice.to_string() == text)
            .ok_or_else(|| Error::input(format!("'{text}' is no device: choose cpu, cuda, metal or auto")))
    }
}

/// Loads the model at `path`, whatever its family: a folder, or a checkpoint of a published family.
///
/// # Errors
/// [`Error::Model`] when there is no model that can be run, with the reason; [`Error::Io`] when a file cannot
/// be read; [`Error::Input`] when the device is not there.
pub fn load(path: impl AsRef<Path>, device: DeviceChoice) -> Result<Arc<dyn WorldModel>> {
    let path = path.as_ref();
    match family(path)?.as_str() {
        "dream" => Ok(Arc::new(Dream::load(path, &device.open()?)?)),
        "oasis" => Ok(Arc::new(Oasis::load(path, &device.open()?)?)),
        "wan-causal" => Ok(Arc::new(Wan::load(path, &device.open()?)?)),
        "waypoint" => Ok(Arc::new(Waypoint::load(path, &device.open()?)?)),
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
    let files: Vec<_> = checkpoints(path).into_iter().filter_map(|file| spelled(file)).collect();
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

    #[test]
    fn device_names_are_read_as_written() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda, DeviceChoice::Metal] {
            assert_eq!(choice.to_string().parse::<DeviceChoice>().unwrap(), choice);
        }
        assert!(matches!("tpu".parse::<DeviceChoice>(), Err(Error::Input(_))));
    }
}
