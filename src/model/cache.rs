//! A trunk's memory: keys and values of the last chunks, a ring that never grows beyond the farthest offset.

use std::collections::VecDeque;

use candle_core::Tensor;

use super::action::{CAMERA_DIM, Camera};
use super::config::TrunkConfig;
use super::patch::Grid;
use super::trunk::Kept;
use crate::kernel::KeyValues;
use crate::model::RolloutState;
use crate::{Error, Result};

/// One remembered chunk.
struct Chunk {
    camera: Camera,
    /// Of every temporal block.
    layers: Kept,
}

/// The remembered chunks, the newest first.
#[derive(Default)]
pub struct Memory {
    chunks: VecDeque<Chunk>,
    /// The farthest that anyone looks back.
    reach: usize,
}

impl Memory {
    /// An empty memory for blocks that look back by `offsets`.
    pub fn new(offsets: &[usize]) -> Self {
        Self { chunks: VecDeque::new(), reach: offsets.iter().copied().max().unwrap_or(0) }
    }

    /// Remembers the next chunk, at whose end the camera stood at `camera`.
    pub fn push(&mut self, camera: Camera, layers: Kept) {
        self.chunks.push_front(Chunk { camera, layers });
        self.chunks.truncate(self.reach);
    }

    /// The camera and the keys and values `offset` chunks back.
    pub fn back(&self, offset: usize) -> Option<(&Camera, &[KeyValues])> {
        self.chunks.get(offset - 1).map(|chunk| (&chunk.camera, &chunk.layers[..]))
    }

    /// Adds the memory's tensors to `state`, their names starting with `prefix`. They are shared, not copied.
    pub fn save(&self, prefix: &str, state: &mut RolloutState) -> Result<()> {
        for (i, chunk) in self.chunks.iter().enumerate() {
            let camera = Tensor::new(&chunk.camera.to_array(), &candle_core::Device::Cpu)?;
            state.insert(format!("{prefix}.{i}.camera"), camera);
            for (layer, stored) in chunk.layers.iter().enumerate() {
                state.insert(format!("{prefix}.{i}.{layer}.keys"), stored.keys()?.clone());
                state.insert(format!("{prefix}.{i}.{layer}.values"), stored.values()?.clone());
            }
        }
        Ok(())
    }

    /// A memory of what [`Memory::save`] saved, for a trunk of `config`.
    ///
    /// # Errors
    /// [`Error::Input`] when the state is of another trunk or grid.
    pub fn restore(prefix: &str, state: &RolloutState, config: &TrunkConfig, grid: &Grid) -> Result<Self> {
        let mut memory = Self::new(&config.offsets);
        while memory.chunks.len() < memory.reach {
            let i = memory.chunks.len();
            if !state.contains_key(&format!("{prefix}.{i}.camera")) {
                break;
            }
            let camera = saved_camera(state, &format!("{prefix}.{i}.camera"))?;
            let (device, features) = (grid.key_features.device(), grid.key_features.tensor()?);
            let load = |layer: usize| {
                let part = |part| saved(state, &format!("{prefix}.{i}.{layer}.{part}"), &[grid.tokens(), config.width]);
                let (keys, values) = (part("keys")?.to_device(device)?, part("values")?.to_device(device)?);
                Ok(KeyValues::new(&keys, &values, config.heads, Some(&features))?)
            };
            let layers = (0..config.temporal.len()).map(load).collect::<Result<_>>()?;
            memory.chunks.push_back(Chunk { camera, layers });
        }
        Ok(memory)
    }
}

/// A tensor of a saved state.
///
/// # Errors
/// [`Error::Input`] when it is missing or has another shape.
pub fn saved(state: &RolloutState, name: &str, shape: &[usize]) -> Result<Tensor> {
    match state.get(name) {
        Some(tensor) if tensor.dims() == shape => Ok(tensor.contiguous()?),
        _ => Err(Error::input(format!("the saved world is not of this model and size: it has no fitting '{name}'"))),
    }
}

/// A camera of a saved state.
///
/// # Errors
/// As of [`saved`].
pub fn saved_camera(state: &RolloutState, name: &str) -> Result<Camera> {
    let values = saved(state, name, &[CAMERA_DIM])?.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?;
    Ok(Camera::from_array(std::array::from_fn(|i| values[i])))
}
