//! Strict reading of safetensors: every tensor has the shape that the config gives it and is used exactly once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::safetensors::BufferedSafetensors;
use candle_core::{DType, Device, Tensor};

use crate::kernel::{Conv3x3, Linear};
use crate::{Error, Result};

/// An open safetensors file, and what has been taken from it.
pub struct Weights {
    path: PathBuf,
    file: BufferedSafetensors,
    device: Device,
    unused: RefCell<BTreeSet<String>>,
}

impl Weights {
    /// Opens `path`; tensors will be f32 on `device`, whatever they are in the file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Model`] when it is damaged.
    pub fn open(path: impl Into<PathBuf>, device: &Device) -> Result<Self> {
        let path = path.into();
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let file = BufferedSafetensors::new(bytes)
            .map_err(|e| Error::model(&path, format!("not a whole safetensors file: {}", one_line(&e))))?;
        let unused = RefCell::new(file.tensors().into_iter().map(|(name, _)| name).collect());
        Ok(Self { path, file, device: device.clone(), unused })
    }

    /// All tensors, by name.
    pub fn vars(&self) -> Vars<'_> {
        Vars { weights: self, prefix: String::new(), section: "config.json" }
    }

    /// Number of weights in the file.
    pub fn parameters(&self) -> usize {
        self.file.tensors().iter().map(|(_, view)| view.shape().iter().product::<usize>()).sum()
    }

    /// Checks that nothing is left over.
    ///
    /// # Errors
    /// [`Error::Model`] naming a tensor that nothing has used.
    pub fn finish(&self) -> Result<()> {
        let unused = self.unused.borrow();
        match unused.first() {
            None => Ok(()),
            Some(name) if unused.len() == 1 => Err(self.error(format!("'{name}' has no place in this model"))),
            Some(name) => {
                Err(self.error(format!("'{name}' and {} more have no place in this model", unused.len() - 1)))
            }
        }
    }

    fn error(&self, reason: impl Into<String>) -> Error {
        Error::model(&self.path, reason)
    }
}

/// The tensors below a prefix, named as in PyTorch's `state_dict`.
pub struct Vars<'a> {
    weights: &'a Weights,
    prefix: String,
    /// Where the config says their shapes.
    section: &'static str,
}

impl<'a> Vars<'a> {
    /// The tensors below `name`.
    #[must_use]
    pub fn pp(&self, name: impl Display) -> Vars<'a> {
        Vars { prefix: format!("{}{name}.", self.prefix), ..*self }
    }

    /// The same tensors, whose shapes are said in `section` of the config.
    #[must_use]
    pub fn sized_by(self, section: &'static str) -> Self {
        Vars { section, ..self }
    }

    /// The shape of a tensor, for sizes that no config states.
    ///
    /// # Errors
    /// [`Error::Model`] when it is missing.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        let (weights, name) = (self.weights, format!("{}{name}", self.prefix));
        let view = weights.file.get(&name).map_err(|_| weights.error(format!("'{name}' is missing")))?;
        Ok(view.shape().to_vec())
    }

    /// Takes a tensor.
    ///
    /// # Errors
    /// [`Error::Model`] when it is missing, was taken before, has another shape or holds numbers that are not finite.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let (weights, name) = (self.weights, format!("{}{name}", self.prefix));
        let Ok(view) = weights.file.get(&name) else {
            return Err(weights.error(format!("'{name}' is missing")));
        };
        if view.shape() != shape {
            let (found, section) = (view.shape(), self.section);
            return Err(weights.error(format!("'{name}' has the shape {found:?}, but {section} makes it {shape:?}")));
        }
        if !weights.unused.borrow_mut().remove(&name) {
            return Err(weights.error(format!("'{name}' is used twice")));
        }
        let tensor = weights.file.load(&name, &weights.device)?.to_dtype(DType::F32)?;
        // A sum of squares is finite only if every number is.
        if !tensor.sqr()?.sum_all()?.to_scalar::<f32>()?.is_finite() {
            return Err(weights.error(format!("'{name}' holds numbers that are not finite")));
        }
        Ok(tensor)
    }

    /// Takes the weight and the bias of a fully connected layer.
    ///
    /// # Errors
    /// As of [`Vars::tensor`].
    pub fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        let vars = self.pp(name);
        Ok(Linear::new(&vars.tensor("weight", &[outputs, inputs])?, Some(&vars.tensor("bias", &[outputs])?))?)
    }

    /// Takes the weight of a fully connected layer without bias.
    ///
    /// # Errors
    /// As of [`Vars::tensor`].
    pub fn linear_no_bias(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        Ok(Linear::new(&self.pp(name).tensor("weight", &[outputs, inputs])?, None)?)
    }

    /// Takes the weight and the bias of a 3 x 3 convolution.
    ///
    /// # Errors
    /// As of [`Vars::tensor`].
    pub fn conv3x3(&self, name: &str, inputs: usize, outputs: usize) -> Result<Conv3x3> {
        let vars = self.pp(name);
        Ok(Conv3x3::new(&vars.tensor("weight", &[outputs, inputs, 3, 3])?, &vars.tensor("bias", &[outputs])?)?)
    }
}

/// The first line of an error.
fn one_line(e: &impl Display) -> String {
    e.to_string().lines().next().unwrap_or_default().to_owned()
}

/// SHA-256 over the contents of `files` in this order, in hexadecimal.
///
/// # Errors
/// [`Error::Io`] when one cannot be read.
pub fn sha256<P: AsRef<Path>>(files: &[P]) -> Result<String> {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for path in files {
        let path = path.as_ref();
        hash.update(fs::read(path).map_err(Error::io(path))?);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn file(tensors: &[(&str, &[usize])]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F16, &Device::Cpu).unwrap();
        let tensors: HashMap<_, _> = tensors.iter().map(|(name, shape)| (*name, zeros(shape))).collect();
        candle_core::safetensors::save(&tensors, file.path()).unwrap();
        file
    }

    #[test]
    fn every_tensor_is_accounted_for() {
        let file = file(&[("a.weight", &[2, 3]), ("a.bias", &[2]), ("b", &[4])]);
        let weights = Weights::open(file.path(), &Device::Cpu).unwrap();
        let vars = weights.vars();
        let reason = |result: Result<()>| result.unwrap_err().to_string();
        assert!(reason(vars.linear("c", 3, 2).map(drop)).contains("'c.weight' is missing"));
        assert!(reason(vars.linear("a", 4, 2).map(drop)).contains("'a.weight' has the shape [2, 3]"));
        assert!(reason(weights.finish()).contains("'a.bias' and 2 more"));
        vars.linear("a", 3, 2).unwrap();
        assert!(reason(vars.linear("a", 3, 2).map(drop)).contains("used twice"));
        assert!(reason(weights.finish()).contains("'b' has no place"));
        assert_eq!(vars.tensor("b", &[4]).unwrap().dtype(), DType::F32);
        weights.finish().unwrap();
        assert_eq!(weights.parameters(), 12);
    }

    #[test]
    fn a_truncated_file_is_one_clear_line() {
        let file = file(&[("a", &[100])]);
        let bytes = fs::read(file.path()).unwrap();
        for length in [0, 7, 40, bytes.len() - 1] {
            fs::write(file.path(), &bytes[..length]).unwrap();
            let reason = Weights::open(file.path(), &Device::Cpu).err().unwrap().to_string();
            assert!(reason.contains("not a whole safetensors file") && !reason.contains('\n'), "{reason}");
        }
    }
}
