//! Low-rank changes of weights (LoRA) as PEFT saves them, merged when a weight is taken.

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::{Index, Layout, Weights};
use crate::{Error, Result};

/// How a LoRA is to be merged, with PEFT's names.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Adapter {
    /// What the rows of the change are products of; that of the file where absent.
    rank: Option<usize>,
    /// The change is this over the rank times as strong as the file has it; the rank itself where absent.
    alpha: Option<f32>,
}

impl Adapter {
    /// Checks the numbers; an error says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        match self.alpha {
            Some(alpha) if !(alpha.is_finite() && alpha > 0.0) => Err(format!("alpha is {alpha}")),
            _ if self.rank == Some(0) => Err("rank is 0".into()),
            _ => Ok(()),
        }
    }

    /// Compares every name and shape of a LoRA with the weights that `layout` makes.
    ///
    /// # Errors
    /// [`Error::Model`] naming the first that is missing, of another shape or left over.
    pub fn check_index(&self, lora: &Index, layout: &Layout) -> Result<()> {
        let held = |name: &String| names(name).iter().any(|factor| lora.tensors().contains_key(factor));
        let changed =
            layout.iter().filter(|(name, _)| held(name)).map(|(name, shape)| (name.clone(), shape.clone())).collect();
        lora.check(&self.rank_of(lora)?, &[("adapter.rank", |rank| *rank *= 2)], |rank| changes(&changed, *rank), &[])
    }

    fn rank_of(&self, lora: &Index) -> Result<usize> {
        let down = lora.tensors().iter().find(|(name, _)| name.ends_with(DOWN));
        let rank = self.rank.or_else(|| down?.1.shape.first().copied());
        rank.filter(|rank| *rank > 0).ok_or_else(|| Error::model(lora.path(), "no LoRA: it changes nothing"))
    }
}

/// The factors of a change of this rank of every layer's weight in `layout`.
pub fn changes(layout: &Layout, rank: usize) -> Layout {
    let mut changes = Layout::new();
    for (name, shape) in layout.iter().filter(|(name, _)| name.ends_with(WEIGHT)) {
        let [outputs, inputs] = shape[..] else { continue };
        let [down, up] = names(name);
        changes.extend([(down, vec![rank, inputs]), (up, vec![outputs, rank])]);
    }
    changes
}

/// How a layer's weight is named.
const WEIGHT: &str = ".weight";
/// How the first factor of a change is named.
const DOWN: &str = ".lora_A.weight";
/// The second.
const UP: &str = ".lora_B.weight";

/// The factors of the change of a weight.
fn names(weight: &str) -> [String; 2] {
    let layer = weight.trim_end_matches(WEIGHT);
    [DOWN, UP].map(|factor| format!("{layer}{factor}"))
}

/// An open LoRA, and what of it has been merged.
pub struct Lora {
    weights: Weights,
    rank: usize,
    scale: f64,
}

impl Lora {
    /// A LoRA whose headers have been read.
    ///
    /// # Errors
    /// [`Error::Model`] when it changes nothing.
    pub fn new(index: Index, adapter: &Adapter, device: &Device) -> Result<Self> {
        let rank = adapter.rank_of(&index)?;
        let scale = adapter.alpha.map_or(1.0, |alpha| f64::from(alpha) / rank as f64);
        Ok(Self { weights: Weights::new(index, device), rank, scale })
    }

    /// The weight `name` `[out, in]`, changed by the product of its factors `[out, rank]` and `[rank, in]`, if it has any.
    pub(super) fn merged(&self, name: &str, weight: Tensor) -> Result<Tensor> {
        let [down, up] = names(name);
        if !self.weights.holds(&down) {
            return Ok(weight);
        }
        let (outputs, inputs) = weight.dims2()?;
        let vars = self.weights.vars();
        let change = vars.tensor(&up, &[outputs, self.rank])?.matmul(&vars.tensor(&down, &[self.rank, inputs])?)?;
        Ok((weight + (change * self.scale)?)?)
    }

    /// As of [`Weights::finish`].
    pub(super) fn finish(&self) -> Result<()> {
        self.weights.finish()
    }
}
