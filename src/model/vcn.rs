//! The video compression network (VCN): the frames of a chunk to one latent, compressed in time and space, and back.

use candle_core::Result as TensorResult;

use super::config::{Config, TrunkConfig};
use super::patch::{Grid, cells_to_tokens, tokens_to_cells};
use super::reproject::ground;
use super::trunk::{Kept, Recall, Trunk};
use super::warp::turn_back;
use crate::Result;
use crate::checkpoint::Vars;
use crate::kernel::{Activation, Array, Conv3x3, Linear, activate, rms_norm};

/// Residual blocks of the convolutional parts.
pub const RES_BLOCKS: usize = 2;

/// Both halves. The decoder also attends to its features of the chunk before and knows the controls: it turns the earlier
/// frames of a chunk back by the known rotation, so that motion inside a chunk comes back.
pub struct Vcn {
    cells: usize,
    enc_in: Linear,
    enc_res: Vec<ResBlock>,
    enc_token: Linear,
    enc_control: Linear,
    enc_blocks: Trunk,
    enc_out: Linear,
    dec_in: Linear,
    dec_control: Linear,
    dec_blocks: Trunk,
    dec_token: Linear,
    dec_res: Vec<ResBlock>,
    dec_out: Linear,
    near: Option<Head>,
    eye: f32,
}

/// Tells how near what the last frame shows is, beyond flat ground.
struct Head {
    near_in: Linear,
    near_blocks: Trunk,
    near_out: Linear,
}

/// What the decoder makes of a chunk.
pub struct Drawn {
    /// Its frames as cells `[height, width, numbers]`.
    pub cells: Array,
    /// The nearness of the last frame's cells `[height, width]`, see [`reproject`](super::reproject).
    pub nearness: Array,
    /// What the decoder remembers of it.
    pub remembered: Kept,
}

/// `x + conv2(silu(conv1(silu(x))))`.
struct ResBlock {
    conv1: Conv3x3,
    conv2: Conv3x3,
}

impl ResBlock {
    fn load(vars: &Vars, channels: usize) -> Result<Self> {
        Ok(Self {
            conv1: vars.conv3x3("conv1", channels, channels)?,
            conv2: vars.conv3x3("conv2", channels, channels)?,
        })
    }

    fn forward(&self, x: &Array) -> TensorResult<Array> {
        let h = self.conv1.forward(x, Activation::Silu, Activation::Silu, None)?;
        self.conv2.forward(&h, Activation::None, Activation::None, Some(x))
    }
}

impl Vcn {
    /// Loads the network.
    pub fn load(vars: &Vars, c: &Config) -> Result<Self> {
        let cell = Config::CELL * Config::CELL * 3 * c.frames_per_chunk;
        let token = c.cells() * c.cells() * c.stem;
        let controls = c.controls * c.frames_per_chunk;
        let res_blocks =
            |vars: Vars| -> Result<Vec<_>> { (0..RES_BLOCKS).map(|i| ResBlock::load(&vars.pp(i), c.stem)).collect() };
        let blocks =
            |name: &str, trunk: &TrunkConfig| Trunk::load(&vars.pp(name).in_precision(c.precision), trunk, c.cond);
        let near = c.depth.then(|| -> Result<Head> {
            let (width, numbers) = (c.decoder.width, c.cells() * c.cells());
            Ok(Head {
                near_in: vars.linear("near_in", width + numbers, width)?,
                near_blocks: blocks("near_blocks", &c.near())?,
                near_out: vars.linear("near_out", width, numbers)?,
            })
        });
        Ok(Self {
            near: near.transpose()?,
            eye: c.eye,
            cells: c.cells(),
            enc_in: vars.linear("enc_in", cell, c.stem)?,
            enc_res: res_blocks(vars.pp("enc_res"))?,
            enc_token: vars.linear("enc_token", token, c.encoder.width)?,
            enc_control: vars.linear("enc_control", controls, c.cond)?,
            enc_blocks: blocks("enc_blocks", &c.encoder)?,
            enc_out: vars.linear("enc_out", c.encoder.width, c.latent)?,
            dec_in: vars.linear("dec_in", c.latent, c.decoder.width)?,
            dec_control: vars.linear("dec_control", controls, c.cond)?,
            dec_blocks: blocks("dec_blocks", &c.decoder)?,
            dec_token: vars.linear("dec_token", c.decoder.width, token)?,
            dec_res: res_blocks(vars.pp("dec_res"))?,
            dec_out: vars.linear("dec_out", c.stem, Config::CELL * Config::CELL * 3 * (2 * c.frames_per_chunk - 1))?,
        })
    }

    /// The decoder's blocks.
    pub fn decoder(&self) -> &Trunk {
        &self.dec_blocks
    }

    /// The latent `[tokens, latent]` of cells `[height, width, numbers]` (see
    /// [`frames_to_cells`](crate::kernel::frames_to_cells)) and the features of their controls.
    pub fn encode(&self, cells: Array, controls: &Array, grid: &Grid) -> Result<Array> {
        let (height, width, numbers) = cells.dims3()?;
        let x = self.enc_in.forward(&cells.reshape(&[height * width, numbers])?, Activation::None)?;
        let mut x = x.reshape(&[height, width, self.enc_in.outputs()])?;
        for res in &self.enc_res {
            x = res.forward(&x)?;
        }
        let x = cells_to_tokens(&activate(&x, Activation::Silu)?, self.cells)?;
        let x = self.enc_token.forward(&x, Activation::None)?;
        let cond = self.enc_control.forward(controls, Activation::Silu)?;
        let x = self.enc_blocks.forward(x, &self.enc_blocks.modulated(&cond)?, grid, &Recall::default())?;
        Ok(rms_norm(&self.enc_out.forward(&rms_norm(&x)?, Activation::None)?)?)
    }

    /// Draws a latent and its controls. `turns` are the [rotations](super::action::turns) between the chunk's frames, `pitch` is
    /// the camera's at its end, in radians.
    pub fn decode(
        &self,
        latent: &Array,
        controls: &Array,
        turns: &[[f32; 2]],
        pitch: f32,
        grid: &Grid,
        recall: &Recall,
    ) -> Result<Drawn> {
        let x = self.dec_in.forward(latent, Activation::None)?;
        let cond = self.dec_control.forward(controls, Activation::Silu)?;
        let (x, remembered) = self.dec_blocks.forward_keeping(x, &self.dec_blocks.modulated(&cond)?, grid, recall)?;
        let told = rms_norm(&x)?;
        let x = self.dec_token.forward(&told, Activation::None)?;
        let mut x = tokens_to_cells(&x, grid.height, grid.width, self.cells)?;
        for res in &self.dec_res {
            x = res.forward(&x)?;
        }
        let (height, width, channels) = x.dims3()?;
        let x = activate(&x, Activation::Silu)?.reshape(&[height * width, channels])?;
        let x = self.dec_out.forward(&x, Activation::None)?;
        let drawn = x.reshape(&[height, width, self.dec_out.outputs()])?;
        let flat = Array::new(&[height, width, 1], latent.device(), |out| ground(height, width, pitch, self.eye, out))?;
        let nearness = match &self.near {
            Some(head) => head.forward(&told, &flat, &cond, grid, self.cells)?.plus(&flat)?,
            None => flat,
        };
        let cells = turn_back(&drawn, turns, Config::CELL)?;
        Ok(Drawn { cells, nearness: nearness.reshape(&[height, width])?, remembered })
    }
}

impl Head {
    /// How much nearer than flat ground each cell `[height, width, 1]` is.
    fn forward(&self, told: &Array, flat: &Array, cond: &Array, grid: &Grid, cells: usize) -> Result<Array> {
        let x = Array::columns(&[told, &cells_to_tokens(flat, cells)?])?;
        let x = self.near_in.forward(&x, Activation::None)?;
        let x = self.near_blocks.forward(x, &self.near_blocks.modulated(cond)?, grid, &Recall::default())?;
        let x = self.near_out.forward(&rms_norm(&x)?, Activation::None)?;
        tokens_to_cells(&x, grid.height, grid.width, cells)
    }
}
