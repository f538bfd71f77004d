//! What decides a world's future, in memory and as tensors for a file.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, TensorId};
use half::f16;
use half::slice::HalfFloatSliceExt;
use smallvec::SmallVec;

use super::action::{CAMERA_DIM, Camera};
use crate::kernel::{Array, KeyValues, Pages};
use crate::{Error, Result};

/// Everything of a [`Rollout`](super::Rollout) that decides its future, by name. It shares with the world what neither
/// changes, so that a state costs little more than what the world has forgotten since.
#[derive(Clone, Default)]
pub struct RolloutState {
    tensors: BTreeMap<String, Tensor>,
    pictures: BTreeMap<String, Halves>,
    segments: BTreeMap<String, KeyValues>,
}

/// Numbers in half precision, which states share.
#[derive(Clone)]
pub(crate) struct Halves {
    numbers: Arc<Pages<f16>>,
    dims: SmallVec<[usize; 4]>,
}

impl Halves {
    /// Those of an array on the CPU, rounded.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is not enough memory.
    pub fn new(array: &Array) -> Result<Self> {
        let mut halves = Pages::zeros(array.len())?;
        halves.convert_from_f32_slice(array);
        Ok(Self { numbers: halves.into(), dims: array.dims().into() })
    }

    fn tensor(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.numbers, &self.dims[..], &Device::Cpu)?)
    }
}

/// A part of states that several may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    Tensor(TensorId),
    /// What lies at this address.
    At(usize),
}

impl RolloutState {
    /// A state of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.tensors.insert(name.into(), tensor);
    }

    /// Adds a picture.
    pub(crate) fn insert_picture(&mut self, name: impl Into<String>, picture: &Halves) {
        self.pictures.insert(name.into(), picture.clone());
    }

    /// Adds what a layer remembers of a chunk or a frame.
    pub fn insert_segment(&mut self, name: impl Into<String>, segment: &KeyValues) {
        self.segments.insert(name.into(), segment.clone());
    }

    /// Whether there is a tensor or a picture of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name) || self.pictures.contains_key(name)
    }

    /// Whether there is a segment of this name.
    pub fn contains_segment(&self, name: &str) -> bool {
        self.segments.contains_key(name) || self.contains(&format!("{name}.keys"))
    }

    /// A tensor, or a picture as one.
    ///
    /// # Errors
    /// [`Error::Input`] when it is missing or has another shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        match (self.tensors.get(name), self.pictures.get(name)) {
            (Some(tensor), _) if tensor.dims() == shape => Ok(tensor.contiguous()?),
            (None, Some(picture)) if picture.dims[..] == *shape => picture.tensor(),
            _ => Err(unfit(name)),
        }
    }

    /// A tensor of any shape.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// What a layer remembers, keys and values of this shape. From a file it is packed by `pack`.
    ///
    /// # Errors
    /// [`Error::Input`] when it is missing or has another shape; those of `pack`.
    pub fn segment(
        &self,
        name: &str,
        shape: &[usize; 2],
        pack: impl FnOnce(&Tensor, &Tensor) -> Result<KeyValues>,
    ) -> Result<KeyValues> {
        match self.segments.get(name) {
            Some(segment) if segment.dims() == *shape => Ok(segment.clone()),
            Some(_) => Err(unfit(name)),
            None => {
                let part = |part| self.tensor(&format!("{name}.{part}"), shape);
                pack(&part("keys")?, &part("values")?)
            }
        }
    }

    /// A camera.
    ///
    /// # Errors
    /// As of [`RolloutState::tensor`].
    pub fn camera(&self, name: &str) -> Result<Camera> {
        let values = self.tensor(name, &[CAMERA_DIM])?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        Ok(Camera::from_array(std::array::from_fn(|i| values[i])))
    }

    /// Hands over all its parts with their bytes.
    pub(crate) fn parts(&self, mut take: impl FnMut(Part, usize)) {
        for Halves { numbers, .. } in self.pictures.values() {
            take(Part::At(numbers.as_ptr() as usize), size_of_val(&numbers[..]));
        }
        let mut tensor = |tensor: &Tensor| {
            take(Part::Tensor(tensor.id()), tensor.elem_count() * tensor.dtype().size_in_bytes());
        };
        self.tensors.values().for_each(&mut tensor);
        let elsewhere = self.segments.values().filter(|segment| segment.packed_at().is_none());
        elsewhere.filter_map(|segment| segment.given().ok()).flatten().for_each(|given| tensor(&given));
        self.segments.values().filter_map(KeyValues::packed_at).for_each(|(at, bytes)| take(Part::At(at), bytes));
    }

    /// All of it as tensors, from which [`RolloutState::from_tensors`] makes the same state.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is not enough memory.
    pub fn to_tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = self.tensors.clone();
        for (name, picture) in &self.pictures {
            tensors.insert(name.clone(), picture.tensor()?);
        }
        for (name, segment) in &self.segments {
            let [keys, values] = segment.given()?;
            tensors.insert(format!("{name}.keys"), keys);
            tensors.insert(format!("{name}.values"), values);
        }
        Ok(tensors)
    }

    /// A state of these tensors.
    pub fn from_tensors(tensors: BTreeMap<String, Tensor>) -> Self {
        Self { tensors, ..Self::default() }
    }
}

impl fmt::Debug for RolloutState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.tensors.keys()).entries(self.pictures.keys()).entries(self.segments.keys()).finish()
    }
}

fn unfit(name: &str) -> Error {
    Error::input(format!("the saved world is not of this model and size: it has no fitting '{name}'"))
}
