//! A stack of transformer blocks over the tokens of one chunk, causal over time through the temporal ones.

use std::borrow::Cow;

use candle_core::Tensor;
use smallvec::SmallVec;

use super::action::Camera;
use super::cache::Memory;
use super::config::TrunkConfig;
use super::flow::Flow;
use super::patch::Grid;
use crate::Result;
use crate::checkpoint::Vars;
use crate::kernel::{Activation, Array, Block, KeyValues, Linear, MODULATIONS, Past};

/// The blocks of a trunk.
pub struct Trunk {
    config: TrunkConfig,
    blocks: Vec<Block>,
    /// The biases towards remembered chunks, of the temporal blocks.
    flows: Vec<Flow>,
    /// Every block's modulation from a conditioning vector, in one layer.
    ada: Linear,
}

/// Every block's modulation by one conditioning vector, `[blocks * MODULATIONS * width]`.
pub struct Modulation(Array);

impl Modulation {
    /// One row of [`Trunk::modulation`].
    pub fn new(row: Array) -> Self {
        Self(row)
    }

    fn block(&self, block: usize, width: usize) -> Result<Array> {
        let length = MODULATIONS * width;
        Ok(self.0.part(block * length, &[length])?)
    }
}

/// The keys and values of the temporal blocks, as many as are usual without a list on the heap.
pub type Kept = SmallVec<[KeyValues; 4]>;

/// What the temporal blocks see of the past while one chunk is made.
#[derive(Default)]
pub struct Recall<'a> {
    /// Of every temporal block, one block after the other.
    seen: SmallVec<[Past<'a>; 24]>,
    /// Chunks that each sees.
    chunks: usize,
}

impl<'a> Recall<'a> {
    fn of(&self, temporal: usize) -> &[Past<'a>] {
        &self.seen[temporal * self.chunks..][..self.chunks]
    }
}

impl Trunk {
    /// Loads the blocks from `vars`, whose names begin with the block's number.
    pub fn load(vars: &Vars, config: &TrunkConfig, cond: usize) -> Result<Self> {
        let width = config.width;
        let (mut blocks, mut flows, mut weights, mut biases) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for layer in 0..config.layers {
            let vars = vars.pp(layer);
            weights.push(vars.tensor("ada.weight", &[MODULATIONS * width, cond])?);
            biases.push(vars.tensor("ada.bias", &[MODULATIONS * width])?);
            if config.temporal.contains(&layer) {
                flows.push(Flow::load(&vars.pp("flow"), config.heads, config.offsets.len())?);
            }
            blocks.push(Block {
                qkv: vars.linear_no_bias("qkv", width, 3 * width)?,
                q_norm: vars.tensor("q_norm", &[config.head_dim()])?,
                k_norm: vars.tensor("k_norm", &[config.head_dim()])?,
                proj: vars.linear_no_bias("proj", width, width)?,
                fc1: vars.linear("fc1", width, 4 * width)?,
                fc2: vars.linear("fc2", 4 * width, width)?,
            });
        }
        let ada = Linear::new(&Tensor::cat(&weights, 0)?, Some(&Tensor::cat(&biases, 0)?))?;
        Ok(Self { config: config.clone(), blocks, flows, ada })
    }

    /// The trunk's sizes.
    pub fn config(&self) -> &TrunkConfig {
        &self.config
    }

    /// The [`Modulation`]s by conditioning vectors `[vectors, cond]`, each a row.
    pub fn modulation(&self, cond: &Array) -> Result<Array> {
        Ok(self.ada.forward(cond, Activation::None)?)
    }

    /// The modulation by one conditioning vector `[1, cond]`.
    pub fn modulated(&self, cond: &Array) -> Result<Modulation> {
        Ok(Modulation::new(self.modulation(cond)?.reshape(&[self.ada.outputs()])?))
    }

    /// What the blocks see of `memory` from where the camera is now.
    pub fn recall<'a>(&self, memory: &'a Memory, now: &Camera, grid: &Grid) -> Result<Recall<'a>> {
        let mut recall = Recall::default();
        for (layer, flow) in self.flows.iter().enumerate() {
            for (slot, &offset) in self.config.offsets.iter().enumerate() {
                let Some((then, layers)) = memory.back(offset) else { continue };
                let features = flow.query_features(slot, &now.motion_since(then), grid)?;
                recall.seen.push(Past { keys: &layers[layer], features: Cow::Owned(features) });
            }
        }
        recall.chunks = recall.seen.len().checked_div(self.flows.len()).unwrap_or(0);
        Ok(recall)
    }

    /// The tokens `[tokens, width]` after all blocks.
    pub fn forward(&self, x: Array, modulation: &Modulation, grid: &Grid, recall: &Recall) -> Result<Array> {
        let step = |x: Array, (layer, block): (usize, &Block)| {
            let past = self.temporal(layer).map_or(&[][..], |index| recall.of(index));
            Ok(block.forward(&x, &modulation.block(layer, self.config.width)?, &grid.rope, past)?)
        };
        self.blocks.iter().enumerate().try_fold(x, step)
    }

    /// The same, with the keys and values of the temporal blocks.
    pub fn forward_keeping(
        &self,
        x: Array,
        modulation: &Modulation,
        grid: &Grid,
        recall: &Recall,
    ) -> Result<(Array, Kept)> {
        let mut kept = Kept::new();
        Ok((self.keep(self.blocks.len(), x, modulation, grid, recall, &mut kept)?, kept))
    }

    /// Only the keys and values of the temporal blocks.
    pub fn remember(&self, x: Array, modulation: &Modulation, grid: &Grid, recall: &Recall) -> Result<Kept> {
        let mut kept = Kept::new();
        if let Some(&last) = self.config.temporal.last() {
            let x = self.keep(last, x, modulation, grid, recall, &mut kept)?;
            let modulation = modulation.block(last, self.config.width)?;
            kept.push(self.blocks[last].keys(&x, &modulation, &grid.rope, &grid.key_features)?);
        }
        Ok(kept)
    }

    /// The tokens after the first `count` blocks, whose keys and values go to `kept` if they are temporal.
    fn keep(
        &self,
        count: usize,
        mut x: Array,
        modulation: &Modulation,
        grid: &Grid,
        recall: &Recall,
        kept: &mut Kept,
    ) -> Result<Array> {
        for (layer, block) in self.blocks[..count].iter().enumerate() {
            let modulation = modulation.block(layer, self.config.width)?;
            match self.temporal(layer) {
                Some(index) => {
                    let past = recall.of(index);
                    let keys;
                    (x, keys) = block.forward_keeping(&x, &modulation, &grid.rope, past, &grid.key_features)?;
                    kept.push(keys);
                }
                None => x = block.forward(&x, &modulation, &grid.rope, &[])?,
            }
        }
        Ok(x)
    }

    /// The number of a layer among the temporal ones.
    fn temporal(&self, layer: usize) -> Option<usize> {
        self.config.temporal.iter().position(|&temporal| temporal == layer)
    }
}
