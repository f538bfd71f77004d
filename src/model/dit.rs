//! The diffusion transformer (DiT): a chunk's clean latent from a noisy one, the past, the controls and the text.

use std::f32::consts::PI;

use candle_core::{D, Tensor};

use super::action::Camera;
use super::config::Config;
use super::patch::Grid;
use super::trunk::{Recall, Trunk};
use crate::Result;
use crate::checkpoint::Vars;
use crate::controls::CONTROL_DIM;
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
            patch_in: vars.linear("patch_in", 3 * c.latent, width)?,
            tau_in: vars.linear("tau_in", 2 * FREQUENCIES, width)?,
            control_in: vars.linear("control_in", CONTROL_DIM * c.frames_per_chunk + 1, width)?,
            text_in: vars.linear("text_in", c.text, width)?,
            cond: vars.linear("cond", width, c.cond)?,
            blocks: Trunk::load(&vars.pp("blocks").sized_by("dit in config.json"), &c.dit, c.cond)?,
            ada_out: vars.linear("ada_out", c.cond, 2 * width)?,
            patch_out: vars.linear("patch_out", width, c.latent)?,
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

    /// The clean latent that `x` at signal level `tau` comes from, both `[tokens, latent]`.
    pub fn denoise(&self, x: &Tensor, tau: f32, chunk: &Chunk) -> Result<Tensor> {
        let cond = self.condition(tau, chunk)?;
        let (x, _) =
            self.blocks.forward(&self.embed(x, chunk)?, &self.blocks.modulation(&cond)?, chunk.grid, &chunk.recall)?;
        let ada = self.ada_out.forward(&cond, Activation::None)?.flatten_all()?;
        let width = ada.dim(0)? / 2;
        let x = norm_modulate(&x, &ada.narrow(0, 0, width)?, &ada.narrow(0, width, width)?)?;
        Ok(self.patch_out.forward(&x, Activation::None)?)
    }

    /// What the blocks remember of `x`, the chunk's latent at signal level `tau`.
    pub fn remember(&self, x: &Tensor, tau: f32, chunk: &Chunk) -> Result<Vec<KeyValues>> {
        let modulation = self.blocks.modulation(&self.condition(tau, chunk)?)?;
        self.blocks.remember(&self.embed(x, chunk)?, &modulation, chunk.grid, &chunk.recall)
    }

    fn embed(&self, x: &Tensor, chunk: &Chunk) -> Result<Tensor> {
        let [newest, older] = chunk.before;
        Ok(self.patch_in.forward(&Tensor::cat(&[x, newest, older], 1)?, Activation::None)?)
    }

    fn condition(&self, tau: f32, chunk: &Chunk) -> Result<Tensor> {
        let angles = (0..FREQUENCIES).map(|i| tau * PI * 2f32.powf(i as f32 / 3.0));
        let waves: Vec<f32> = angles.clone().map(f32::cos).chain(angles.map(f32::sin)).collect();
        let waves = Tensor::from_vec(waves, (1, 2 * FREQUENCIES), chunk.prompt.device())?;
        let features = (self.tau_in.forward(&waves, Activation::None)? + chunk.prompt)?;
        Ok(self.cond.forward(&activate(&features, Activation::Silu)?, Activation::Silu)?)
    }
}

/// All that is known of a chunk before it is made.
pub struct Chunk<'a> {
    /// Its tokens.
    pub grid: &'a Grid,
    /// What [`DiT::prompt`] makes of text and controls.
    pub prompt: &'a Tensor,
    /// The two chunks before as remembered, the newest first; zeros where there are none.
    pub before: [&'a Tensor; 2],
    /// What the blocks see of the past.
    pub recall: Recall<'a>,
}
