//! A stack of transformer blocks over the tokens of one chunk, causal over time through the temporal ones.

use candle_core::Tensor;

use super::action::Camera;
use super::cache::Memory;
use super::config::TrunkConfig;
use super::flow::Flow;
use super::patch::Grid;
use crate::Result;
use crate::checkpoint::Vars;
use crate::kernel::{Activation, Block, KeyValues, Linear, MODULATIONS, Past};

/// The blocks of a trunk.
pub struct Trunk {
    config: TrunkConfig,
    blocks: Vec<Block>,
    /// The biases towards remembered chunks, of the temporal blocks.
    flows: Vec<Flow>,
    /// Every block's modulation from a conditioning vector, in one layer.
    ada: Linear,
}

/// Every block's modulation by one of several conditioning vectors.
#[derive(Clone)]
pub struct Modulation {
    /// `[vectors, blocks * MODULATIONS * width]`.
    values: Tensor,
    vector: usize,
    width: usize,
}

impl Modulation {
    /// That by another of the vectors.
    #[must_use]
    pub fn of(&self, vector: usize) -> Self {
        Self { vector, ..self.clone() }
    }

    fn block(&self, block: usize) -> Result<Tensor> {
        let length = MODULATIONS * self.width;
        Ok(self.values.get(self.vector)?.narrow(0, block * length, length)?)
    }
}

/// What the temporal blocks see of the past while one chunk is made.
#[derive(Default)]
pub struct Recall<'a> {
    /// Of every temporal block.
    layers: Vec<Vec<Past<'a>>>,
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

    /// The modulation by the first of conditioning vectors `[vectors, cond]`.
    pub fn modulation(&self, cond: &Tensor) -> Result<Modulation> {
        Ok(Modulation { values: self.ada.forward(cond, Activation::None)?, vector: 0, width: self.config.width })
    }

    /// What the blocks see of `memory` from where the camera is now.
    pub fn recall<'a>(&self, memory: &'a Memory, now: &Camera, grid: &Grid) -> Result<Recall<'a>> {
        let layers = self.flows.iter().enumerate().map(|(layer, flow)| {
            let slots = self.config.offsets.iter().enumerate();
            let seen = slots.filter_map(|(slot, &offset)| memory.back(offset).map(|chunk| (slot, chunk)));
            let seen = seen.map(|(slot, (then, layers))| {
                let features = flow.query_features(slot, &now.motion_since(then), grid)?;
                Ok(Past { keys: &layers[layer], features })
            });
            seen.collect::<Result<Vec<_>>>()
        });
        Ok(Recall { layers: layers.collect::<Result<_>>()? })
    }

    /// The tokens `[tokens, width]` after all blocks.
    pub fn forward(&self, x: Tensor, modulation: &Modulation, grid: &Grid, recall: &Recall) -> Result<Tensor> {
        let step = |x: Tensor, (layer, block): (usize, &Block)| {
            let past = self.temporal(layer).map_or(&[][..], |index| &recall.layers[index]);
            Ok(block.forward(&x, &modulation.block(layer)?, &grid.rope, past)?)
        };
        self.blocks.iter().enumerate().try_fold(x, step)
    }

    /// The same, with the keys and values of the temporal blocks.
    pub fn forward_keeping(
        &self,
        x: Tensor,
        modulation: &Modulation,
        grid: &Grid,
        recall: &Recall,
    ) -> Result<(Tensor, Vec<KeyValues>)> {
        let mut kept = Vec::with_capacity(self.flows.len());
        Ok((self.keep(self.blocks.len(), x, modulation, grid, recall, &mut kept)?, kept))
    }

    /// Only the keys and values of the temporal blocks.
    pub fn remember(&self, x: Tensor, modulation: &Modulation, grid: &Grid, recall: &Recall) -> Result<Vec<KeyValues>> {
        let mut kept = Vec::with_capacity(self.flows.len());
        if let Some(&last) = self.config.temporal.last() {
            let x = self.keep(last, x, modulation, grid, recall, &mut kept)?;
            kept.push(self.blocks[last].keys(&x, &modulation.block(last)?, &grid.rope, &grid.key_features)?);
        }
        Ok(kept)
    }

    /// The tokens after the first `count` blocks, whose keys and values go to `kept` if they are temporal.
    fn keep(
        &self,
        count: usize,
        mut x: Tensor,
        modulation: &Modulation,
        grid: &Grid,
        recall: &Recall,
        kept: &mut Vec<KeyValues>,
    ) -> Result<Tensor> {
        for (layer, block) in self.blocks[..count].iter().enumerate() {
            let modulation = modulation.block(layer)?;
            match self.temporal(layer) {
                Some(index) => {
                    let past = &recall.layers[index];
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
