//! The diffusion transformer (DiT): a chunk's clean latent from a noisy one, the past, the controls and the text.

use std::f32::consts::PI;

use candle_core::{D, Tensor};

use super::action::Camera;
use super::config::Config;
use super::patch::Grid;
use super::trunk::{Modulation, Recall, Trunk};
use crate::Result;
use crate::checkpoint::Vars;
use crate::kernel::{Activation, KeyValues, Linear, activate, norm_modulate};

/// Frequencies at which a signal level is told.
const FREQUENCIES: usize = 16;

/// The network. Its signal level tau is 0 for pure noise and 1 for a clean latent: x = tau latent + (1 - tau) noise.
pub struct DiT {
    patch_in: Linear,
    tau_in: Linear,
    control_in: Linear,
    text_in: Linear,
    cond: Linear,
    blocks: Trunk,
    ada_out: Linear,
    patch_out: Linear,
}

impl DiT {
    /// Loads the network.
    pub fn load(vars: &Vars, c: &Config) -> Result<Self> {
        let width = c.dit.width;
        Ok(Self {
            patch_in: vars.linear("patch_in", 4 * c.latent, width)?,
            tau_in: vars.linear("tau_in", 2 * FREQUENCIES, width)?,
            control_in: vars.linear("control_in", c.controls * c.frames_per_chunk + 1, width)?,
            text_in: vars.linear("text_in", c.text, width)?,
            cond: vars.linear("cond", width, c.cond)?,
            blocks: Trunk::load(
                &vars.pp("blocks").sized_by("dit in config.json").in_precision(c.precision),
                &c.dit,
                c.cond,
            )?,
            ada_out: vars.linear("ada_out", c.cond, 2 * width)?,
            patch_out: vars.linear("patch_out", width, 2 * c.latent)?,
        })
    }

    /// The blocks.
    pub fn blocks(&self) -> &Trunk {
        &self.blocks
    }

    /// What text `[text]`, the features of the controls and the camera tell about a chunk. Its pitch since the world began
    /// says where the horizon is, which a blurred past no longer does.
    pub fn prompt(&self, text: &Tensor, controls: &Tensor, camera: &Camera) -> Result<Tensor> {
        let pitch = Tensor::new(&[[camera.pitch()]], controls.device())?;
        let controls = Tensor::cat(&[controls, &pitch], 1)?;
        let text = (text.unsqueeze(0)? * (text.dim(D::Minus1)? as f64).sqrt())?;
        Ok((self.text_in.forward(&text, Activation::None)? + self.control_in.forward(&controls, Activation::None)?)?)
    }

    /// The conditions at signal levels `taus` of a chunk with this [`DiT::prompt`], in one pass over their weights.
    pub fn conditions(&self, taus: &[f32], prompt: &Tensor) -> Result<Conditions> {
        let angles = |tau: f32| (0..FREQUENCIES).map(move |i| tau * PI * 2f32.powf(i as f32 / 3.0));
        let waves = |&tau: &f32| angles(tau).map(f32::cos).chain(angles(tau).map(f32::sin));
        let waves: Vec<f32> = taus.iter().flat_map(waves).collect();
        let waves = Tensor::from_vec(waves, (taus.len(), 2 * FREQUENCIES), prompt.device())?;
        let features = self.tau_in.forward(&waves, Activation::None)?.broadcast_add(prompt)?;
        let cond = self.cond.forward(&activate(&features, Activation::Silu)?, Activation::Silu)?;
        Ok(Conditions { blocks: self.blocks.modulation(&cond)?, out: self.ada_out.forward(&cond, Activation::None)? })
    }

    /// The clean latent that `x` comes from, both `[tokens, latent]`, at the condition's signal level.
    pub fn denoise(&self, x: &Tensor, condition: &Condition, chunk: &Chunk) -> Result<Tensor> {
        let x = self.blocks.forward(self.embed(x, chunk)?, &condition.blocks, chunk.grid, &chunk.recall)?;
        let width = condition.out.dim(0)? / 2;
        let x = norm_modulate(&x, &condition.out.narrow(0, 0, width)?, &condition.out.narrow(0, width, width)?)?;
        let answer = self.patch_out.forward(&x, Activation::None)?;
        let latent = answer.dim(1)? / 2;
        if chunk.begins {
            return Ok(answer.narrow(1, 0, latent)?.contiguous()?);
        }
        Ok((answer.narrow(1, latent, latent)? + chunk.foreseen)?)
    }

    /// What the blocks remember of `x`, the chunk's latent at the condition's signal level.
    pub fn remember(&self, x: &Tensor, condition: &Condition, chunk: &Chunk) -> Result<Vec<KeyValues>> {
        self.blocks.remember(self.embed(x, chunk)?, &condition.blocks, chunk.grid, &chunk.recall)
    }

    fn embed(&self, x: &Tensor, chunk: &Chunk) -> Result<Tensor> {
        let [newest, older] = chunk.before;
        Ok(self.patch_in.forward(&Tensor::cat(&[x, newest, older, chunk.foreseen], 1)?, Activation::None)?)
    }
}

/// What the network is told of a chunk as a whole, at several signal levels.
pub struct Conditions {
    blocks: Modulation,
    /// Shift and scale of the output at every level.
    out: Tensor,
}

impl Conditions {
    /// That at one level.
    pub fn at(&self, level: usize) -> Result<Condition> {
        Ok(Condition { blocks: self.blocks.of(level), out: self.out.get(level)? })
    }
}

/// The same at one of the levels.
pub struct Condition {
    blocks: Modulation,
    /// Shift and scale of the output.
    out: Tensor,
}

/// What else is known of a chunk before it is made.
pub struct Chunk<'a> {
    /// Its tokens.
    pub grid: &'a Grid,
    /// The two chunks before as remembered, the newest first; zeros where there are none.
    pub before: [&'a Tensor; 2],
    /// The chunk if nothing but the camera moves, as the [views](super::views::Views) of the past tell it, encoded; zeros
    /// where there are none. What of it is true need not be dreamed: the answer corrects it.
    pub foreseen: &'a Tensor,
    /// Whether it has no past, and is invented as a whole.
    pub begins: bool,
    /// What the blocks see of the past.
    pub recall: Recall<'a>,
}
