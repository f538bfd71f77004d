//! A trunk's memory: keys and values of the last chunks, a ring that never grows beyond the farthest offset.

use std::collections::VecDeque;

use candle_core::{Device, Tensor};

use super::action::Camera;
use super::config::TrunkConfig;
use super::patch::Grid;
use super::trunk::Kept;
use crate::Result;
use crate::kernel::KeyValues;
use crate::model::RolloutState;

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
    reach: usize,
}

impl Memory {
    /// An empty memory for blocks that look back by `offsets`.
    pub fn new(offsets: &[usize]) -> Self {
        Self { chunks: VecDeque::new(), reach: offsets.iter().copied().max().unwrap_or(0) }
    }

    /// The farthest that anyone looks back, in chunks.
    pub fn reach(&self) -> usize {
        self.reach
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

    /// Adds the memory to `state`, under names that start with `prefix`.
    pub fn save(&self, prefix: &str, state: &mut RolloutState) -> Result<()> {
        for (i, chunk) in self.chunks.iter().enumerate() {
            let camera = Tensor::new(&chunk.camera.to_array(), &Device::Cpu)?;
            state.insert(format!("{prefix}.{i}.camera"), camera);
            for (layer, stored) in chunk.layers.iter().enumerate() {
                state.insert_segment(format!("{prefix}.{i}.{layer}"), stored);
            }
        }
        Ok(())
    }

    /// A memory of what [`Memory::save`] saved, for a trunk of `config`.
    ///
    /// # Errors
    /// [`crate::Error::Input`] when the state is of another trunk or grid.
    pub fn restore(prefix: &str, state: &RolloutState, config: &TrunkConfig, grid: &Grid) -> Result<Self> {
        let mut memory = Self::new(&config.offsets);
        while memory.chunks.len() < memory.reach {
            let i = memory.chunks.len();
            if !state.contains(&format!("{prefix}.{i}.camera")) {
                break;
            }
            let camera = state.camera(&format!("{prefix}.{i}.camera"))?;
            let (device, features) = (grid.key_features.device(), grid.key_features.tensor()?);
            let load = |layer: usize| {
                let shape = [grid.tokens(), config.width];
                state.segment(&format!("{prefix}.{i}.{layer}"), &shape, |keys, values| {
                    let (keys, values) = (keys.to_device(device)?, values.to_device(device)?);
                    Ok(KeyValues::new(&keys, &values, config.heads, Some(&features))?)
                })
            };
            let layers = (0..config.temporal.len()).map(load).collect::<Result<_>>()?;
            memory.chunks.push_back(Chunk { camera, layers });
        }
        Ok(memory)
    }
}
