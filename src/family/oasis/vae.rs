//! The autoencoder: a vision transformer from squares of pixels to tokens and one back, picture by picture.

use candle_core::Tensor;

use super::config::{VaeConfig, mlp};
use crate::Result;
use crate::checkpoint::Vars;
use crate::family::layer::{EPS, Turns, norm, numbers};
use crate::kernel::{Activation, KeyValues, Linear, attention};

/// Latents are this much smaller for the DiT than for the autoencoder.
pub const LATENT_SCALE: f64 = 0.078_431_372_55;

/// The network.
pub struct Vae {
    embed: Linear,
    encoder: Tower,
    to_latent: Linear,
    from_latent: Linear,
    decoder: Tower,
    predict: Linear,
    config: VaeConfig,
}

/// Transformer blocks and a norm.
struct Tower {
    blocks: Vec<Block>,
    norm: Norm,
    heads: usize,
    turns: Turns,
}

struct Block {
    norm1: Norm,
    qkv: Linear,
    proj: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
}

struct Norm {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Vae {
    /// Loads the network.
    ///
    /// # Errors
    /// As of [`Vars::tensor`].
    pub fn load(vars: &Vars, config: &VaeConfig) -> Result<Self> {
        let c = config;
        let (side, latent) = (c.patch_size, c.latent_dim);
        let proj = vars.pp("patch_embed.proj");
        let weight = proj.tensor("weight", &[c.enc_dim, 3, side, side])?.flatten_from(1)?;
        // Only the mean is used.
        let quant = vars.pp("quant_conv");
        let mean = quant.tensor("weight", &[c.moments(), c.enc_dim])?.narrow(0, 0, latent)?;
        let mean_bias = quant.tensor("bias", &[c.moments()])?.narrow(0, 0, latent)?;
        Ok(Self {
            embed: Linear::new(&weight, Some(&proj.tensor("bias", &[c.enc_dim])?))?,
            encoder: Tower::load(vars, "encoder", "enc_norm", c, [c.enc_dim, c.enc_depth, c.enc_heads])?,
            to_latent: Linear::new(&mean, Some(&mean_bias))?,
            from_latent: vars.linear("post_quant_conv", latent, c.dec_dim)?,
            decoder: Tower::load(vars, "decoder", "dec_norm", c, [c.dec_dim, c.dec_depth, c.dec_heads])?,
            predict: vars.linear("predictor", c.dec_dim, c.pixels())?,
            config: c.clone(),
        })
    }

    /// The latent `[height, width, channels]` of a picture's squares `[height, width, 3 * side * side]` with values of -1 to 1,
    /// as the DiT takes it.
    pub fn encode(&self, squares: &Tensor) -> Result<Tensor> {
        let x = self.embed.forward(&squares.flatten(0, 1)?, Activation::None)?;
        let mean = self.to_latent.forward(&self.encoder.forward(x)?, Activation::None)?;
        Ok((self.grid(&mean)? * LATENT_SCALE)?)
    }

    /// The inverse of [`Vae::encode`].
    pub fn decode(&self, latent: &Tensor) -> Result<Tensor> {
        let x = self.from_latent.forward(&(latent.flatten(0, 1)? / LATENT_SCALE)?, Activation::None)?;
        self.grid(&self.predict.forward(&self.decoder.forward(x)?, Activation::None)?)
    }

    fn grid(&self, tokens: &Tensor) -> Result<Tensor> {
        let VaeConfig { input_height, input_width, patch_size, .. } = self.config;
        Ok(tokens.reshape((input_height / patch_size, input_width / patch_size, tokens.dim(1)?))?)
    }
}

impl Tower {
    fn load(vars: &Vars, name: &str, last: &str, c: &VaeConfig, sizes: [usize; 3]) -> Result<Self> {
        let [width, depth, heads] = sizes;
        let hidden = mlp(width, c.mlp_ratio);
        let norm = |vars: Vars| -> Result<Norm> {
            let vector = |name| Ok::<_, crate::Error>(numbers(&vars.tensor(name, &[width])?)?);
            Ok(Norm { scale: vector("weight")?, shift: vector("bias")? })
        };
        let block = |i: usize| {
            let vars = vars.pp(name).pp(i);
            Ok(Block {
                norm1: norm(vars.pp("norm1"))?,
                qkv: vars.linear("attn.qkv", width, 3 * width)?,
                proj: vars.linear("attn.proj", width, width)?,
                norm2: norm(vars.pp("norm2"))?,
                fc1: vars.linear("mlp.fc1", width, hidden)?,
                fc2: vars.linear("mlp.fc2", hidden, width)?,
            })
        };
        let (down, across) = (c.input_height / c.patch_size, c.input_width / c.patch_size);
        // Half of a head turns with the place.
        let frequencies = width / heads / 4 / 2;
        let turns = Turns::in_space(down, across, width / heads, frequencies, (down * across) as f32 / 2.0);
        Ok(Self { blocks: (0..depth).map(block).collect::<Result<_>>()?, norm: norm(vars.pp(last))?, heads, turns })
    }

    fn forward(&self, mut x: Tensor) -> Result<Tensor> {
        for block in &self.blocks {
            let qkv = block.qkv.forward(&block.norm1.forward(&x)?, Activation::None)?;
            let [q, k, v] = self.turns.split(&qkv)?;
            let attended = attention(&q, &KeyValues::new(&k, &v, self.heads, None)?, &[])?;
            x = (x + block.proj.forward(&attended, Activation::None)?)?;
            let h = block.fc1.forward(&block.norm2.forward(&x)?, Activation::GeluErf)?;
            x = (x + block.fc2.forward(&h, Activation::None)?)?;
        }
        self.norm.forward(&x)
    }
}

impl Norm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(norm(x, &self.scale, &self.shift, EPS)?)
    }
}
