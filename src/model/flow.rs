//! The flow bias: where in an earlier chunk a token's content was, as the controls tell it.

use candle_core::Tensor;

use super::action::MOTION_DIM;
use super::patch::Grid;
use crate::Result;
use crate::checkpoint::Vars;
use crate::kernel::{Array, FLOW_DIM};

/// Terms of a quadratic polynomial of the image position: 1, x, y, x², xy, y².
pub const BASIS: usize = 6;

/// An attention bias `−α |pos_k − target_q|² + slot` towards a remembered chunk. The target is where a query's content
/// was: a displacement linear in the camera's motion, which for a rotation and for a ground plane is a quadratic
/// polynomial of the image position. Heads differ in depth.
pub struct Flow {
    heads: usize,
    slots: usize,
    /// `[heads, MOTION_DIM, BASIS, 2]`.
    weight: Vec<f32>,
    alpha: Vec<f32>,
    /// `[heads, slots]`.
    slot: Vec<f32>,
}

impl Flow {
    /// Loads the bias of one block towards `slots` remembered chunks.
    pub fn load(vars: &Vars, heads: usize, slots: usize) -> Result<Self> {
        let values = |tensor: Tensor| Ok::<_, crate::Error>(tensor.flatten_all()?.to_vec1::<f32>()?);
        Ok(Self {
            heads,
            slots,
            weight: values(vars.tensor("weight", &[heads, MOTION_DIM, BASIS, 2])?)?,
            alpha: values(vars.tensor("log_alpha", &[heads])?)?.into_iter().map(f32::exp).collect(),
            slot: values(vars.tensor("slot", &[heads, slots])?)?,
        })
    }

    /// The features `[heads, tokens, FLOW_DIM]` of the queries, whose products with [`Grid::key_features`] are the
    /// bias towards the chunk in `slot`, given the camera's motion since.
    pub fn query_features(&self, slot: usize, motion: &[f32; MOTION_DIM], grid: &Grid) -> Result<Array> {
        let dims = [self.heads, grid.tokens(), FLOW_DIM];
        let each = grid.tokens() * FLOW_DIM;
        let fill = |head: usize, out: &mut [f32]| {
            let mut shift = [[0.0; 2]; BASIS];
            let weight = &self.weight[head * MOTION_DIM * BASIS * 2..];
            for (m, weight) in motion.iter().zip(weight.chunks_exact(BASIS * 2)) {
                for (term, weight) in shift.iter_mut().zip(weight.chunks_exact(2)) {
                    term[0] += m * weight[0];
                    term[1] += m * weight[1];
                }
            }
            let (alpha, offset) = (self.alpha[head], self.slot[head * self.slots + slot]);
            for (out, &[x, y]) in out.as_chunks_mut().0.iter_mut().zip(&grid.positions) {
                let basis = [1.0, x, y, x * x, x * y, y * y];
                let along = |axis: usize| basis.iter().zip(&shift).map(|(b, s)| b * s[axis]).sum::<f32>();
                let (tx, ty) = (grid.focal * (x + along(0)), grid.focal * (y + along(1)));
                *out = [2.0 * alpha * tx, 2.0 * alpha * ty, -alpha, offset - alpha * (tx * tx + ty * ty)];
            }
        };
        Ok(Array::new(&dims, grid.key_features.device(), |out| {
            out.chunks_exact_mut(each).enumerate().for_each(|(head, out)| fill(head, out));
        })?)
    }
}
