//! Where a model runs.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;

use crate::{Error, Result};

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// What [`DeviceChoice::auto`] finds.
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
    /// The best device for a model of `family`, and why it is that one: a GPU if there is one that this build and the family
    /// can use, else the CPU.
    pub fn auto(family: &str) -> (Self, String) {
        if family != "dream" {
            return (Self::Cpu, format!("{family} runs on the CPU only"));
        }
        let mut reasons = Vec::new();
        for (gpu, built) in [(Self::Cuda, cfg!(feature = "cuda")), (Self::Metal, cfg!(feature = "metal"))] {
            match gpu.find() {
                _ if !built => {}
                Ok(_) => return (gpu, "it is there".into()),
                Err(reason) => reasons.push(format!("no {gpu}, {reason}")),
            }
        }
        let why = if reasons.is_empty() { "this build has no GPU back end".into() } else { reasons.join("; ") };
        (Self::Cpu, why)
    }

    /// Opens the device for a model of `family`. What [`DeviceChoice::Auto`] is, and why, is told in the log.
    ///
    /// # Errors
    /// [`Error::Input`] when it is not there, or this build cannot use it.
    pub fn open(self, family: &str) -> Result<Device> {
        let choice = match self {
            Self::Auto => {
                let (choice, why) = Self::auto(family);
                tracing::info!("the model runs on {choice}: {why}");
                choice
            }
            given => given,
        };
        choice.find().map_err(|reason| {
            Error::input(format!("no {choice} device: {reason} (is the feature `{choice}` on?); choose cpu or auto"))
        })
    }

    /// The device, or why it is not there.
    fn find(self) -> Result<Device, String> {
        let device = match self {
            Self::Auto | Self::Cpu => Ok(Device::Cpu),
            Self::Cuda => Device::new_cuda(0),
            Self::Metal => Device::new_metal(0),
        };
        device.map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_read_as_written() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda, DeviceChoice::Metal] {
            assert_eq!(choice.to_string().parse::<DeviceChoice>().unwrap(), choice);
        }
        assert!(matches!("tpu".parse::<DeviceChoice>(), Err(Error::Input(_))));
    }

    #[test]
    fn what_is_left_open_falls_back_to_the_cpu_and_says_why() {
        for family in ["oasis", "waypoint", "wan-causal"] {
            let (choice, why) = DeviceChoice::auto(family);
            assert!(choice == DeviceChoice::Cpu && why.contains(family), "{why}");
            assert!(DeviceChoice::Auto.open(family).unwrap().is_cpu());
        }
        if !cfg!(any(feature = "cuda", feature = "metal")) {
            assert_eq!(DeviceChoice::auto("dream"), (DeviceChoice::Cpu, "this build has no GPU back end".into()));
        }
    }
}
