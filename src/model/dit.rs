//! The diffusion transformer (DiT): a chunk's clean latent from a noisy one, the past, the controls and the text.

use std::f32::consts::PI;

use super::action::Camera;
use super::config::Config;
use super::patch::Grid;
use super::trunk::{Kept, Modulation, Recall, Trunk};
use crate::Result;
use crate::checkpoint::Vars;
use crate::kernel::{Activation, Array, Linear, activate, apply, norm_modulate};

/// Frequencies at which a signal level is told.
pub const FREQUENCIES: usize = 16;

/// The network. Its signal level tau is 0 for pure noise and 1 for a clean latent: x = tau latent + (1 - tau) noise.
pub struct DiT {
    patch_in: Linear,
    tau_in: Linear,
    control_in: Linear,
    text_in: Linear,
    cond: Linear,
    blocks: Trunk,
    ada_out: Linear,
    /// What it answers of a chunk that begins, and by how much it corrects what is foreseen of any other.
    patch_out: [Linear; 2],
}

impl DiT {
    /// Loads the network.
    pub fn load(vars: &Vars, c: &Config) -> Result<Self> {
        let width = c.dit.width;
        let out = vars.pp("patch_out");
        let (weight, bias) = (out.tensor("weight", &[2 * c.latent, width])?, out.tensor("bias", &[2 * c.latent])?);
        let half = |i: usize| {
            let bias = bias.narrow(0, i * c.latent, c.latent)?.contiguous()?;
            out.layer(&weight.narrow(0, i * c.latent, c.latent)?, Some(&bias))
        };
        Ok(Self {
            patch_in: vars.linear("patch_in", 4 * c.latent, width)?,
            tau_in: vars.linear("tau_in", 2 * FREQUENCIES, width)?,
            control_in: vars.linear("control_in", c.controls * c.frames_per_chunk + 1, width)?,
            text_in: vars.linear("text_in", c.text, width)?,
            cond: vars.linear("cond", width, c.cond)?,
            blocks: Trunk::load(&vars.pp("blocks").in_precision(c.precision), &c.dit, c.cond)?,
            ada_out: vars.linear("ada_out", c.cond, 2 * width)?,
            patch_out: [half(0)?, half(1)?],
        })
    }

    /// The blocks.
    pub fn blocks(&self) -> &Trunk {
        &self.blocks
    }

    /// What text `[text]`, the features of the controls and the camera tell about a chunk. Its pitch since the world began
    /// says where the horizon is, which a blurred past no longer does.
    pub fn prompt(&self, text: &Array, controls: &Array, camera: &Camera) -> Result<Array> {
        let pitch = Array::new(&[1, 1], controls.device(), |out| out[0] = camera.pitch())?;
        let controls = Array::columns(&[controls, &pitch])?;
        let inputs = text.dims().iter().product::<usize>();
        let scale = (inputs as f32).sqrt();
        let run = |text: &[f32], out: &mut [f32]| out.iter_mut().zip(text).for_each(|(out, v)| *out = v * scale);
        let text = apply(text, &[1, inputs], run, |text| text.unsqueeze(0)? * f64::from(scale))?;
        let told = self.text_in.forward(&text, Activation::None)?;
        Ok(told.plus(&self.control_in.forward(&controls, Activation::None)?)?)
    }

    /// The conditions at signal levels `taus` of a chunk with this [`DiT::prompt`], in one pass over their weights.
    pub fn conditions(&self, taus: &[f32], prompt: &Array) -> Result<Conditions> {
        let waves = Array::new(&[taus.len(), 2 * FREQUENCIES], prompt.device(), |out| {
            for (out, tau) in out.chunks_exact_mut(2 * FREQUENCIES).zip(taus) {
                for i in 0..FREQUENCIES {
                    let angle = tau * PI * 2f32.powf(i as f32 / 3.0);
                    (out[i], out[FREQUENCIES + i]) = (angle.cos(), angle.sin());
                }
            }
        })?;
        let features = self.tau_in.forward(&waves, Activation::None)?.plus(prompt)?;
        let cond = self.cond.forward(&activate(&features, Activation::Silu)?, Activation::Silu)?;
        Ok(Conditions { blocks: self.blocks.modulation(&cond)?, out: self.ada_out.forward(&cond, Activation::None)? })
    }

    /// The clean latent that `x` comes from, both `[tokens, latent]`, at the condition's signal level.
    pub fn denoise(&self, x: &Array, condition: &Condition, chunk: &Chunk) -> Result<Array> {
        let x = self.blocks.forward(self.embed(x, chunk)?, &condition.blocks, chunk.grid, &chunk.recall)?;
        let x = norm_modulate(&x, &condition.out)?;
        let answer = self.patch_out[usize::from(!chunk.begins)].forward(&x, Activation::None)?;
        Ok(if chunk.begins { answer } else { answer.plus(chunk.foreseen)? })
    }

    /// What the blocks remember of `x`, the chunk's latent at the condition's signal level.
    pub fn remember(&self, x: &Array, condition: &Condition, chunk: &Chunk) -> Result<Kept> {
        self.blocks.remember(self.embed(x, chunk)?, &condition.blocks, chunk.grid, &chunk.recall)
    }

    fn embed(&self, x: &Array, chunk: &Chunk) -> Result<Array> {
        let [newest, older] = chunk.before;
        Ok(self.patch_in.forward(&Array::columns(&[x, newest, older, chunk.foreseen])?, Activation::None)?)
    }
}

/// What the network is told of a chunk as a whole, at several signal levels.
pub struct Conditions {
    /// `[levels, numbers]`.
    blocks: Array,
    /// Shift and scale of the output at every level.
    out: Array,
}

impl Conditions {
    /// That at one level.
    pub fn at(&self, level: usize) -> Result<Condition> {
        let row = |all: &Array| -> Result<Array> {
            let (_, width) = all.dims2()?;
            Ok(all.part(level * width, &[width])?)
        };
        Ok(Condition { blocks: Modulation::new(row(&self.blocks)?), out: row(&self.out)? })
    }
}

/// The same at one of the levels.
pub struct Condition {
    blocks: Modulation,
    /// Shift and scale of the output.
    out: Array,
}

/// What else is known of a chunk before it is made.
pub struct Chunk<'a> {
    /// Its tokens.
    pub grid: &'a Grid,
    /// The two chunks before as remembered, the newest first; zeros where there are none.
    pub before: [&'a Array; 2],
    /// The chunk if nothing but the camera moves, as the [views](super::views::Views) of the past tell it, encoded; zeros
    /// where there are none. What of it is true need not be dreamed: the answer corrects it.
    pub foreseen: &'a Array,
    /// Whether it has no past, and is invented as a whole.
    pub begins: bool,
    /// What the blocks see of the past.
    pub recall: Recall<'a>,
}
