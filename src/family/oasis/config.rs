//! The sizes of the networks, with the names and defaults of the reference's constructors.

use serde::Deserialize;

use crate::checkpoint::Precision;

/// A larger network is a mistake.
const MOST: usize = 1 << 14;
/// A larger picture is a mistake.
const MOST_CELLS: usize = 1 << 16;

/// `config.json`. The published checkpoint has none: it is the default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The diffusion transformer.
    pub dit: DitConfig,
    /// The autoencoder.
    pub vae: VaeConfig,
    /// What is done with the past.
    pub context: Context,
    /// Denoising steps a frame.
    pub ddim_steps: Steps,
    /// How fully connected layers are held.
    pub precision: Precision,
}

/// Denoising steps a frame.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(transparent)]
pub struct Steps(pub usize);

impl Default for Steps {
    fn default() -> Self {
        Self(10)
    }
}

/// How the DiT's view of the past is kept from one frame to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Context {
    /// Past frames are seen once for every frame that is made, or once for all while the window grows: what the reference
    /// computes, without its repetitions.
    #[default]
    Exact,
    /// Past frames are seen once and for all. When the window slides, what was seen still knows of frames that have left
    /// it: faster, but not what the reference computes.
    Streaming,
    /// Past frames are seen again in every denoising step, as the reference does it: slow, to compare with.
    Recompute,
}

/// The arguments of the reference's `DiT`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the names of the reference")]
pub struct DitConfig {
    pub input_h: usize,
    pub input_w: usize,
    pub patch_size: usize,
    pub in_channels: usize,
    pub hidden_size: usize,
    pub depth: usize,
    pub num_heads: usize,
    pub mlp_ratio: f64,
    pub external_cond_dim: usize,
    pub max_frames: usize,
}

impl Default for DitConfig {
    /// `DiT-S/2`.
    fn default() -> Self {
        Self {
            input_h: 18,
            input_w: 32,
            patch_size: 2,
            in_channels: 16,
            hidden_size: 1024,
            depth: 16,
            num_heads: 16,
            mlp_ratio: 4.0,
            external_cond_dim: 25,
            max_frames: 32,
        }
    }
}

/// The arguments of the reference's `AutoencoderKL`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the names of the reference")]
pub struct VaeConfig {
    pub latent_dim: usize,
    pub input_height: usize,
    pub input_width: usize,
    pub patch_size: usize,
    pub enc_dim: usize,
    pub enc_depth: usize,
    pub enc_heads: usize,
    pub dec_dim: usize,
    pub dec_depth: usize,
    pub dec_heads: usize,
    pub mlp_ratio: f64,
    pub use_variational: bool,
}

impl Default for VaeConfig {
    /// `vit-l-20-shallow-encoder`.
    fn default() -> Self {
        Self {
            latent_dim: 16,
            input_height: 360,
            input_width: 640,
            patch_size: 20,
            enc_dim: 1024,
            enc_depth: 6,
            enc_heads: 16,
            dec_dim: 1024,
            dec_depth: 12,
            dec_heads: 16,
            mlp_ratio: 4.0,
            use_variational: true,
        }
    }
}

impl Config {
    /// Reads and checks the text of a `config.json`; an error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let (dit, vae) = (&self.dit, &self.vae);
        for (name, value) in [
            ("dit.input_h", dit.input_h),
            ("dit.input_w", dit.input_w),
            ("dit.patch_size", dit.patch_size),
            ("dit.in_channels", dit.in_channels),
            ("dit.hidden_size", dit.hidden_size),
            ("dit.depth", dit.depth),
            ("dit.num_heads", dit.num_heads),
            ("dit.external_cond_dim", dit.external_cond_dim),
            ("dit.max_frames", dit.max_frames),
            ("vae.latent_dim", vae.latent_dim),
            ("vae.input_height", vae.input_height),
            ("vae.input_width", vae.input_width),
            ("vae.patch_size", vae.patch_size),
            ("vae.enc_dim", vae.enc_dim),
            ("vae.enc_depth", vae.enc_depth),
            ("vae.enc_heads", vae.enc_heads),
            ("vae.dec_dim", vae.dec_dim),
            ("vae.dec_depth", vae.dec_depth),
            ("vae.dec_heads", vae.dec_heads),
        ] {
            if !(1..=MOST).contains(&value) {
                return Err(format!("{name} is {value}, not 1 to {MOST}"));
            }
        }
        // Tables of places grow with them, whatever the weights are.
        if dit.input_h * dit.input_w > MOST_CELLS {
            return Err(format!("dit.input_h x dit.input_w is more than {MOST_CELLS}"));
        }
        for (name, ratio) in [("dit.mlp_ratio", dit.mlp_ratio), ("vae.mlp_ratio", vae.mlp_ratio)] {
            if !(0.1..=64.0).contains(&ratio) {
                return Err(format!("{name} is {ratio}, not 0.1 to 64"));
            }
        }
        for (name, width, heads) in [
            ("dit.hidden_size", dit.hidden_size, dit.num_heads),
            ("vae.enc_dim", vae.enc_dim, vae.enc_heads),
            ("vae.dec_dim", vae.dec_dim, vae.dec_heads),
        ] {
            if !width.is_multiple_of(4 * heads) {
                return Err(format!("{name} {width} does not split into {heads} heads of 4n numbers"));
            }
        }
        for (name, size, patch) in [
            ("dit.input_h", dit.input_h, dit.patch_size),
            ("dit.input_w", dit.input_w, dit.patch_size),
            ("vae.input_height", vae.input_height, vae.patch_size),
            ("vae.input_width", vae.input_width, vae.patch_size),
        ] {
            if !size.is_multiple_of(patch) {
                return Err(format!("{name} {size} is not a multiple of patch_size {patch}"));
            }
        }
        let (down, across) = (vae.input_height / vae.patch_size, vae.input_width / vae.patch_size);
        if (dit.in_channels, dit.input_h, dit.input_w) != (vae.latent_dim, down, across) {
            return Err(format!(
                "dit takes latents of {} x {} x {}, but vae makes {} x {down} x {across}",
                dit.in_channels, dit.input_h, dit.input_w, vae.latent_dim
            ));
        }
        if !(1..=64).contains(&self.ddim_steps.0) {
            return Err(format!("ddim_steps is {}, not 1 to 64", self.ddim_steps.0));
        }
        Ok(())
    }
}

impl DitConfig {
    /// Length of the embedding of a noise level.
    pub const LEVEL_DIM: usize = 256;

    /// Tokens of a frame.
    pub fn tokens(&self) -> usize {
        self.input_h / self.patch_size * (self.input_w / self.patch_size)
    }

    /// Numbers of a patch.
    pub fn patch(&self) -> usize {
        self.in_channels * self.patch_size * self.patch_size
    }

    /// Width of an MLP.
    pub fn mlp(&self) -> usize {
        mlp(self.hidden_size, self.mlp_ratio)
    }

    /// Bytes of a full window of frames.
    pub fn memory_bytes(&self) -> u64 {
        let numbers = (self.max_frames - 1) * 2 * self.depth * self.tokens() * self.hidden_size;
        numbers as u64 * size_of::<f32>() as u64
    }

    /// Operations (a multiplication and an addition are two) of one pass over a frame with `past` frames before it.
    pub fn flop(&self, past: usize) -> f64 {
        let (tokens, width) = (self.tokens() as f64, self.hidden_size as f64);
        let layers = 4.0 * width * width + 2.0 * width * self.mlp() as f64;
        let attention = 2.0 * width * tokens + 2.0 * width * (past + 1) as f64;
        let head_and_tail = 4.0 * tokens * width * self.patch() as f64;
        self.depth as f64 * 2.0 * tokens * (2.0 * layers + attention) + head_and_tail
    }
}

impl VaeConfig {
    /// Tokens of a picture.
    pub fn tokens(&self) -> usize {
        self.input_height / self.patch_size * (self.input_width / self.patch_size)
    }

    /// Numbers of a token between the encoder and the latent.
    pub fn moments(&self) -> usize {
        self.latent_dim * if self.use_variational { 2 } else { 1 }
    }

    /// Numbers of a square of pixels.
    pub fn pixels(&self) -> usize {
        3 * self.patch_size * self.patch_size
    }

    /// Operations of decoding a frame.
    pub fn decode_flop(&self) -> f64 {
        let (tokens, width) = (self.tokens() as f64, self.dec_dim as f64);
        let layers = 4.0 * width * width + 2.0 * width * mlp(self.dec_dim, self.mlp_ratio) as f64;
        2.0 * tokens * (self.dec_depth as f64 * (layers + 2.0 * width * tokens) + width * self.pixels() as f64)
    }
}

/// Width of an MLP in a network of `width`.
pub fn mlp(width: usize, ratio: f64) -> usize {
    (width as f64 * ratio) as usize
}
