//! Strict reading of weights: every tensor has the shape that the config gives it and is used exactly once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::index::{Entry, Index};
use super::{Lora, progress};
use crate::kernel::{Conv3x3, Linear};
use crate::{Error, Result};

/// How fully connected layers are held and computed, `"precision"` in a `config.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits a number, as trained.
    #[default]
    F32,
    /// 16 bits a number, as most files have them, widened when they are used: half the memory of f32.
    F16,
    /// The same with the range of f32 and fewer digits.
    BF16,
    /// 8 bits a number and a scale for every output, inputs rounded to 8 bits a token: several times as fast on a CPU.
    Int8,
    /// 8 bits a number and a scale for every 32, as in GGUF files: less memory, no faster on a CPU.
    Q8,
    /// 4 bits a number and scales for every 32 and 256, as in GGUF files.
    Q4,
}

impl Precision {
    /// About as many bytes as so many weights take.
    pub fn bytes(self, weights: usize) -> u64 {
        let bits = match self {
            Self::F32 => 64,
            Self::F16 | Self::BF16 => 32,
            Self::Int8 => 16,
            Self::Q8 => 17,
            Self::Q4 => 9,
        };
        weights as u64 * bits / 16
    }

    /// The blocks that rows of so many numbers can be held in.
    fn blocks(self, inputs: usize) -> Option<GgmlDType> {
        match self {
            Self::Q4 if inputs.is_multiple_of(256) => Some(GgmlDType::Q4K),
            Self::Q4 | Self::Q8 if inputs.is_multiple_of(32) => Some(GgmlDType::Q8_0),
            _ => None,
        }
    }
}

/// An open checkpoint, and what has been taken from it. Tensors are read when they are asked for, so that no more than one
/// is held twice.
pub struct Weights {
    index: Index,
    device: Device,
    precision: Precision,
    read: bool,
    lora: Option<Box<Lora>>,
    unused: RefCell<BTreeSet<String>>,
}

impl Weights {
    /// Opens `path`; tensors will be f32 on `device`, whatever they are in the file.
    ///
    /// # Errors
    /// As of [`Index::open`].
    pub fn open(path: impl Into<PathBuf>, device: &Device) -> Result<Self> {
        Ok(Self::new(Index::open(path)?, device))
    }

    /// The weights of a checkpoint whose headers have been read; tensors will be f32 on `device`.
    pub fn new(index: Index, device: &Device) -> Self {
        let unused = RefCell::new(index.tensors().keys().cloned().collect());
        progress::expect(index.tensors().values().map(|entry| entry.bytes).sum());
        Self { index, device: device.clone(), precision: Precision::default(), read: true, lora: None, unused }
    }

    /// The same weights, zeros in place of every number: what a loader asks for can be checked without reading the file.
    #[must_use]
    pub fn unread(self) -> Self {
        Self { read: false, ..self }
    }

    /// The same weights, whose fully connected layers will be held in `precision` as far as their sizes allow.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The same weights, changed by `lora` as they are taken, before they are held in any precision.
    #[must_use]
    pub fn with_lora(self, lora: Lora) -> Self {
        Self { lora: Some(Box::new(lora)), ..self }
    }

    /// All tensors, by name.
    pub fn vars(&self) -> Vars<'_> {
        Vars { weights: self, prefix: String::new(), section: "config.json", precision: self.precision }
    }

    /// As of [`Index::fingerprint`].
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        self.index.fingerprint()
    }

    /// Number of weights in the file.
    pub fn parameters(&self) -> usize {
        self.index.parameters()
    }

    pub(super) fn holds(&self, name: &str) -> bool {
        self.index.tensors().contains_key(name)
    }

    /// Leaves out the tensors whose names end in `suffix`, which a model makes itself.
    pub fn ignore(&self, suffix: &str) {
        let ignored = self.index.tensors().iter().filter(|(name, _)| name.ends_with(suffix));
        progress::read(ignored.map(|(_, entry)| entry.bytes).sum());
        self.unused.borrow_mut().retain(|name| !name.ends_with(suffix));
    }

    /// Checks that nothing is left over.
    ///
    /// # Errors
    /// [`Error::Model`] naming a tensor that nothing has used.
    pub fn finish(&self) -> Result<()> {
        let unused = self.unused.borrow();
        match unused.first() {
            None => self.lora.as_ref().map_or(Ok(()), |lora| lora.finish()),
            Some(name) if unused.len() == 1 => Err(self.error(format!("'{name}' has no place in this model"))),
            Some(name) => {
                Err(self.error(format!("'{name}' and {} more have no place in this model", unused.len() - 1)))
            }
        }
    }

    /// A tensor of f32 from its bytes in the file.
    fn finite(&self, name: &str, bytes: &[u8], dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let tensor = Tensor::from_raw_buffer(bytes, dtype, shape, &self.device)?.to_dtype(DType::F32)?;
        // A sum is finite only if every number is.
        if !tensor.sum_all()?.to_scalar::<f32>()?.is_finite() {
            return Err(self.error(format!("'{name}' holds numbers that are not finite")));
        }
        Ok(tensor)
    }

    fn error(&self, reason: impl Into<String>) -> Error {
        Error::model(self.index.path(), reason)
    }
}

/// The tensors below a prefix, named as in PyTorch's `state_dict`.
pub struct Vars<'a> {
    weights: &'a Weights,
    prefix: String,
    /// Where the config says their shapes.
    section: &'static str,
    precision: Precision,
}

impl<'a> Vars<'a> {
    /// The tensors below `name`.
    #[must_use]
    pub fn pp(&self, name: impl Display) -> Vars<'a> {
        Vars { prefix: format!("{}{name}.", self.prefix), ..*self }
    }

    /// The same tensors, whose shapes are said in `section` of the config.
    #[must_use]
    pub fn sized_by(&self, section: &'static str) -> Self {
        Vars { section, prefix: self.prefix.clone(), ..*self }
    }

    /// The same tensors, whose fully connected layers will be held in `precision` as far as their sizes allow.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        Vars { precision, ..self }
    }

    /// The shape of a tensor, for sizes that no config states.
    ///
    /// # Errors
    /// [`Error::Model`] when it is missing.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        let (weights, name) = (self.weights, format!("{}{name}", self.prefix));
        let entry = weights.index.tensors().get(&name);
        Ok(entry.ok_or_else(|| weights.error(format!("'{name}' is missing")))?.shape.clone())
    }

    /// Where tensors are put.
    pub fn device(&self) -> &Device {
        &self.weights.device
    }

    /// An error that names a tensor.
    pub fn error(&self, name: &str, reason: &str) -> Error {
        self.weights.error(format!("'{}{name}' {reason}", self.prefix))
    }

    /// Takes a tensor.
    ///
    /// # Errors
    /// [`Error::Model`] when it is missing, was taken before, has another shape or holds numbers that are not finite.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let (name, entry, dtype) = self.take(name, shape)?;
        if !self.weights.read {
            return Ok(Tensor::zeros(shape, DType::F32, &self.weights.device)?);
        }
        let tensor = self.weights.finite(&name, &self.weights.index.read(entry)?, dtype, shape)?;
        match &self.weights.lora {
            Some(lora) => lora.merged(&name, tensor),
            None => Ok(tensor),
        }
    }

    /// Takes only some rows of a tensor of two axes, which are read one by one.
    ///
    /// # Errors
    /// As of [`Vars::tensor`]; [`Error::Model`] when there is no such row.
    pub fn rows(&self, name: &str, shape: &[usize; 2], rows: &[u32]) -> Result<Tensor> {
        let (name, entry, dtype) = self.take(name, shape)?;
        let length = dtype.size_in_bytes() * shape[1];
        let mut bytes = Vec::with_capacity(length * rows.len());
        for &row in rows {
            if row as usize >= shape[0] {
                return Err(self.weights.error(format!("'{name}' has no row {row}")));
            }
            bytes.extend(self.weights.index.read_part(entry, u64::from(row) * length as u64, length)?);
        }
        // The other rows need not be waited for.
        progress::read(entry.bytes.saturating_sub(bytes.len() as u64));
        self.weights.finite(&name, &bytes, dtype, &[rows.len(), shape[1]])
    }

    /// The full name of a tensor, where it lies and what it holds; it cannot be taken again.
    fn take(&self, name: &str, shape: &[usize]) -> Result<(String, &'a Entry, DType)> {
        let (weights, name) = (self.weights, format!("{}{name}", self.prefix));
        let Some(entry) = weights.index.tensors().get(&name) else {
            return Err(weights.error(format!("'{name}' is missing")));
        };
        if entry.shape != shape {
            let (found, section) = (&entry.shape, self.section);
            return Err(weights.error(format!("'{name}' has the shape {found:?}, but {section} makes it {shape:?}")));
        }
        if !weights.unused.borrow_mut().remove(&name) {
            return Err(weights.error(format!("'{name}' is used twice")));
        }
        let dtype = entry.float().ok_or_else(|| weights.error(entry.no_float(&name)))?;
        Ok((name, entry, dtype))
    }

    /// Takes the weight and the bias of a fully connected layer.
    ///
    /// # Errors
    /// As of [`Vars::tensor`].
    pub fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        let vars = self.pp(name);
        let weight = vars.tensor("weight", &[outputs, inputs])?;
        vars.layer(&weight, Some(&vars.tensor("bias", &[outputs])?))
    }

    /// Takes the weight of a fully connected layer without bias.
    ///
    /// # Errors
    /// As of [`Vars::tensor`].
    pub fn linear_no_bias(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        self.layer(&self.pp(name).tensor("weight", &[outputs, inputs])?, None)
    }

    /// A fully connected layer of a weight `[out, in]` and a bias `[out]`.
    ///
    /// # Errors
    /// [`Error::Tensor`] when they do not fit each other.
    pub fn layer(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Linear> {
        match self.precision {
            Precision::F16 => return Ok(Linear::half(weight, bias, DType::F16)?),
            Precision::BF16 => return Ok(Linear::half(weight, bias, DType::BF16)?),
            _ => {}
        }
        if let Some(blocks) = self.precision.blocks(weight.dim(1)?) {
            return Ok(Linear::quantised(weight, bias, blocks)?);
        }
        let layer = Linear::new(weight, bias)?;
        Ok(if self.precision == Precision::Int8 { layer.into_int8() } else { layer })
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

/// SHA-256 over the contents of `files` in this order, in hexadecimal.
///
/// # Errors
/// [`Error::Io`] when one cannot be read.
pub fn sha256<P: AsRef<Path>>(files: &[P]) -> Result<String> {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for path in files {
        let path = path.as_ref();
        let mut file = File::open(path).map_err(Error::io(path))?;
        progress::expect(file.metadata().map_or(0, |data| data.len()));
        let mut part = vec![0; 1 << 24];
        loop {
            match file.read(&mut part).map_err(Error::io(path))? {
                0 => break,
                count => {
                    hash.update(&part[..count]);
                    progress::read(count as u64);
                }
            }
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::fs;

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
