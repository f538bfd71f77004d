//! Parity: what a model computes here against what its reference implementation computed from the same inputs.
//!
//! A fixture is a folder with a model and `case.safetensors`, the inputs and outputs of the reference.

pub mod dream;
pub mod oasis;
mod taehv;
mod umt5;
mod wan;
mod waypoint;

use std::path::Path;
use std::time::Instant;

use candle_core::{Device, Tensor};
use serde::Serialize;

use crate::checkpoint::{family, unknown_family};
use crate::{Error, Result};

/// Gate of a single pass.
const PASS: f32 = 5e-5;
/// Gate of a whole rollout, where errors build up.
const ROLLOUT: f32 = 1e-4;

/// The outcome of one stage.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    /// What was computed.
    pub name: &'static str,
    /// The largest difference from the reference, relative to its largest value; not finite if any number is not.
    pub error: f32,
    /// The largest error that passes.
    pub tolerance: f32,
    /// How long it took.
    pub seconds: f64,
}

impl Stage {
    fn new(name: &'static str, tolerance: f32) -> Self {
        Self { name, error: 0.0, tolerance, seconds: 0.0 }
    }

    /// Whether it agrees with the reference.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }

    /// Does a part of what this stage computes.
    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.seconds += start.elapsed().as_secs_f64();
        result
    }

    /// Counts one more result of this stage.
    fn compare(&mut self, ours: &Tensor, expected: &Tensor) -> Result<()> {
        if ours.dims() != expected.dims() {
            let (ours, expected) = (ours.shape(), expected.shape());
            return Err(Error::input(format!("{} gives {ours:?} where the reference gave {expected:?}", self.name)));
        }
        let largest = |t: Tensor| -> Result<f32> {
            let values = t.flatten_all()?.to_vec1::<f32>()?;
            // In total order NaN is larger than any number.
            Ok(values.into_iter().map(f32::abs).max_by(f32::total_cmp).unwrap_or(f32::NAN))
        };
        let error = largest((ours - expected)?)? / largest(expected.clone())?;
        self.error = if self.error.total_cmp(&error.abs()).is_lt() { error.abs() } else { self.error };
        Ok(())
    }
}

/// Runs the fixture in `folder`, whatever its family, on the CPU.
///
/// # Errors
/// [`Error::Model`] or [`Error::Io`] when the folder is no fixture: an unknown family, a file that is missing or damaged, a
/// tensor that is missing, of the wrong shape or not finite.
pub fn verify(folder: &Path) -> Result<Vec<Stage>> {
    match family(folder)?.as_str() {
        "dream" => dream::Fixture::load(folder)?.stages(),
        "oasis" => oasis::Fixture::load(folder, &Device::Cpu)?.stages(),
        "taehv" => taehv::stages(folder, &Device::Cpu),
        "umt5" => umt5::stages(folder),
        "wan-causal" => wan::stages(folder, &Device::Cpu),
        "waypoint" => waypoint::stages(folder, &Device::Cpu),
        other => Err(unknown_family(folder, other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts_and_nan_is_the_worst() {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let mut stage = Stage::new("thinking", 0.1);
        let expected = tensor(&[1.0, -4.0]);
        stage.compare(&tensor(&[1.2, -4.0]), &expected).unwrap();
        stage.compare(&expected, &expected).unwrap();
        assert!((stage.error - 0.05).abs() < 1e-6 && stage.passed());
        assert!(stage.compare(&tensor(&[1.0]), &expected).unwrap_err().to_string().contains("thinking"));
        stage.compare(&tensor(&[f32::NAN, -4.0]), &expected).unwrap();
        stage.compare(&expected, &expected).unwrap();
        assert!(stage.error.is_nan() && !stage.passed());
    }
}
