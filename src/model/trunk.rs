//! A stack of transformer blocks over the tokens of one chunk, causal over time through the temporal ones.

use candle_core::Tensor;

use super::action::Camera;
use super::cache::Memory;
use super::config::TrunkConfig;
use super::flow::Flow;
use super::patch::Grid;
use crate::Result;
use crate::checkpoint::Vars;
use crate::kernel::{Activation, KeyValues, Linear, attention, norm_modulate, qk_norm_rope};

/// Vectors that modulate one block: shift, scale and gate of its attention, then of its MLP.
const MODULATIONS: usize = 6;

/// A DiT block (Peebles & Xie 2023, adaLN-Zero) with QK-norm.
struct Block {
    qkv: Linear,
    q_norm: Tensor,
    k_norm: Tensor,
    proj: Linear,
    fc1: Linear,
    fc2: Linear,
    /// The bias towards remembered chunks, of a temporal block.
    flow: Option<Flow>,
}

/// The blocks of a trunk.
pub struct Trunk {
    config: TrunkConfig,
    blocks: Vec<Block>,
    /// Every block's modulation from a conditioning vector, in one layer.
    ada: Linear,
}

/// Every block's modulation by one conditioning vector.
pub struct Modulation {
    /// `[blocks * MODULATIONS * width]`.
    values: Tensor,
    width: usize,
}

impl Modulation {
    fn get(&self, block: usize, which: usize) -> Result<Tensor> {
        Ok(self.values.narrow(0, (block * MODULATIONS + which) * self.width, self.width)?)
    }
}

/// What the temporal blocks see of the past while one chunk is made.
#[derive(Default)]
pub struct Recall<'a> {
    /// Of every temporal block: keys and values with the features of their bias.
    layers: Vec<Vec<(&'a KeyValues, Tensor)>>,
}

impl Trunk {
    /// Loads the blocks from `vars`, whose names begin with the block's number.
    pub fn load(vars: &Vars, config: &TrunkConfig, cond: usize) -> Result<Self> {
        let width = config.width;
        let (mut blocks, mut weights, mut biases) = (Vec::new(), Vec::new(), Vec::new());
        for layer in 0..config.layers {
            let vars = vars.pp(layer);
            weights.push(vars.tensor("ada.weight", &[MODULATIONS * width, cond])?);
            biases.push(vars.tensor("ada.bias", &[MODULATIONS * width])?);
            let temporal = config.temporal.contains(&layer);
            let flow = temporal.then(|| Flow::load(&vars.pp("flow"), config.heads, config.offsets.len()));
            blocks.push(Block {
                qkv: vars.linear_no_bias("qkv", width, 3 * width)?,
                q_norm: vars.tensor("q_norm", &[config.head_dim()])?,
                k_norm: vars.tensor("k_norm", &[config.head_dim()])?,
                proj: vars.linear_no_bias("proj", width, width)?,
                fc1: vars.linear("fc1", width, 4 * width)?,
                fc2: vars.linear("fc2", 4 * width, width)?,
                flow: flow.transpose()?,
            });
        }
        let ada = Linear::new(&Tensor::cat(&weights, 0)?, Some(&Tensor::cat(&biases, 0)?))?;
        Ok(Self { config: config.clone(), blocks, ada })
    }

    /// The trunk's sizes.
    pub fn config(&self) -> &TrunkConfig {
        &self.config
    }

    /// The modulation by a conditioning vector `[1, cond]`.
    pub fn modulation(&self, cond: &Tensor) -> Result<Modulation> {
        Ok(Modulation { values: self.ada.forward(cond, Activation::None)?.flatten_all()?, width: self.config.width })
    }

    /// What the blocks see of `memory` from where the camera is now.
    pub fn recall<'a>(&self, memory: &'a Memory, now: &Camera, grid: &Grid) -> Result<Recall<'a>> {
        let flows = self.blocks.iter().filter_map(|block| block.flow.as_ref());
        let layers = flows.enumerate().map(|(layer, flow)| {
            let slots = self.config.offsets.iter().enumerate();
            let seen = slots.filter_map(|(slot, &offset)| memory.back(offset).map(|chunk| (slot, chunk)));
            let seen = seen.map(|(slot, (then, layers))| {
                Ok((&layers[layer], flow.query_features(slot, &now.motion_since(then), grid)?))
            });
            seen.collect::<Result<Vec<_>>>()
        });
        Ok(Recall { layers: layers.collect::<Result<_>>()? })
    }

    /// The tokens `[tokens, width]` after all blocks, and the keys and values of the temporal ones.
    pub fn forward(
        &self,
        x: &Tensor,
        modulation: &Modulation,
        grid: &Grid,
        recall: &Recall,
    ) -> Result<(Tensor, Vec<KeyValues>)> {
        let (mut x, mut remembered) = (x.clone(), Vec::new());
        for layer in 0..self.blocks.len() {
            x = self.block(layer, &x, modulation, grid, recall, &mut remembered)?;
        }
        Ok((x, remembered))
    }

    /// Only the keys and values of the temporal blocks.
    pub fn remember(
        &self,
        x: &Tensor,
        modulation: &Modulation,
        grid: &Grid,
        recall: &Recall,
    ) -> Result<Vec<KeyValues>> {
        let (mut x, mut remembered) = (x.clone(), Vec::new());
        if let Some(&last) = self.config.temporal.last() {
            for layer in 0..last {
                x = self.block(layer, &x, modulation, grid, recall, &mut remembered)?;
            }
            remembered.push(self.keys(last, &x, modulation, grid)?.1);
        }
        Ok(remembered)
    }

    fn block(
        &self,
        layer: usize,
        x: &Tensor,
        modulation: &Modulation,
        grid: &Grid,
        recall: &Recall,
        remembered: &mut Vec<KeyValues>,
    ) -> Result<Tensor> {
        let block = &self.blocks[layer];
        let (q, own) = self.keys(layer, x, modulation, grid)?;
        let past: Vec<_> = match block.flow {
            Some(_) => recall.layers[remembered.len()].iter().map(|(stored, features)| (*stored, features)).collect(),
            None => Vec::new(),
        };
        let seen = attention(&q, &own, &past)?;
        if block.flow.is_some() {
            remembered.push(own);
        }
        let x = block.proj.forward_residual(&seen, x, &modulation.get(layer, 2)?)?;
        let h = norm_modulate(&x, &modulation.get(layer, 3)?, &modulation.get(layer, 4)?)?;
        let h = block.fc1.forward(&h, Activation::Gelu)?;
        Ok(block.fc2.forward_residual(&h, &x, &modulation.get(layer, 5)?)?)
    }

    /// The queries, keys and values of one block.
    fn keys(&self, layer: usize, x: &Tensor, modulation: &Modulation, grid: &Grid) -> Result<(Tensor, KeyValues)> {
        let block = &self.blocks[layer];
        let h = norm_modulate(x, &modulation.get(layer, 0)?, &modulation.get(layer, 1)?)?;
        let qkv = block.qkv.forward(&h, Activation::None)?;
        let (q, k, v) = qk_norm_rope(&qkv, &block.q_norm, &block.k_norm, &grid.rope)?;
        let features = block.flow.is_some().then_some(&grid.key_features);
        Ok((q, KeyValues::new(&k, &v, self.config.heads, features)?))
    }
}
