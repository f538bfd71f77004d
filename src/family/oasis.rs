//! Oasis 500M of Decart and Etched: a world of blocks, frame by frame, driven by keys and mouse.
//!
//! After <https://github.com/etched-ai/open-oasis> (MIT). A past frame's features do not depend on the frame that is being
//! denoised, so they are computed once a frame (once at all while the window still grows) where the reference computes them
//! in every denoising step: the same frames from 7.8 times fewer passes in the long run, 15.5 times fewer over the first
//! 32 frames.

mod action;
pub mod config;
mod dit;
mod layout;
mod schedule;
mod vae;
mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};

use crate::checkpoint::{Index, Weights, checkpoints, find, folder_of, read_config, sha256};
use crate::kernel::{cells_to_frames, frames_to_cells};
use crate::model::{Interrupt, ModelInfo, NoiseSource, Rollout, RolloutState, Settings, StageTimes, WorldModel};
use crate::{Controls, Error, Frame, FrameSize, Result};

pub use action::heeded;
use action::{ACTION_DIM, action};
use config::{Config, Context, DitConfig, VaeConfig};
use dit::DiT;
use layout::{DIT_SIZES, VAE_SIZES};
pub use vae::LATENT_SCALE;
use vae::Vae;
pub use world::World;

/// What a user should know of the rights.
pub const NOTICE: &str = "oasis is a model of Decart and Etched; their code is under the MIT licence, that of the weights is told where you got them";

/// Frames a second of the recordings that it learned from.
pub const FPS: f32 = 20.0;

/// A tensor that only the DiT has.
pub const DIT_KEY: &str = "x_embedder.proj.weight";
/// A tensor that only the autoencoder has.
const VAE_KEY: &str = "post_quant_conv.weight";
/// Tables that the reference saves under some of their names and that follow from the sizes.
const IGNORED: &str = "rotary_emb.freqs";

/// The networks.
pub struct Networks {
    /// Their sizes.
    pub config: Config,
    dit: DiT,
    vae: Vae,
    /// Number of weights.
    pub parameters: usize,
    device: Device,
}

/// The headers of a checkpoint, whose files are known by what is in them.
pub struct Files {
    /// The sizes: those of `config.json`, or those of the published checkpoint where there is none.
    pub config: Config,
    config_path: Option<PathBuf>,
    /// The diffusion transformer.
    pub dit: Index,
    /// The autoencoder.
    pub vae: Index,
}

impl Files {
    /// Reads the headers in a folder, or of a file and its neighbours.
    ///
    /// # Errors
    /// [`Error::Model`] when the config cannot be used or a network is missing or there twice, and as of [`Index::open`].
    pub fn open(path: &Path) -> Result<Self> {
        let folder = folder_of(path);
        let config_path = Some(folder.join("config.json")).filter(|path| path.exists());
        let config = match &config_path {
            Some(path) => read_config(path, Config::parse)?,
            None => Config::default(),
        };
        let [dit, vae] = find(path, checkpoints(path), [DIT_KEY, VAE_KEY], 2, Ok)?;
        let missing = |what: &str, key: &str| Error::model(path, format!("no {what} here: no file has '{key}'"));
        let dit = dit.ok_or_else(|| missing("DiT", DIT_KEY))?;
        let vae = vae.ok_or_else(|| missing("autoencoder", VAE_KEY))?;
        Ok(Self { config, config_path, dit, vae })
    }

    /// Compares every name and shape with those that the config makes.
    ///
    /// # Errors
    /// [`Error::Model`] naming the first that is missing, of another shape or left over.
    pub fn check(&self) -> Result<()> {
        let (dit, vae) = (&self.config.dit, &self.config.vae);
        self.dit.check_layers("dit.depth", dit.depth)?;
        self.vae.check_layers("vae.enc_depth", vae.enc_depth)?;
        self.vae.check_layers("vae.dec_depth", vae.dec_depth)?;
        self.dit.check(dit, DIT_SIZES, DitConfig::layout, &[IGNORED])?;
        self.vae.check(vae, VAE_SIZES, VaeConfig::layout, &[IGNORED])
    }

    fn sha256(&self) -> Result<String> {
        let files = self.config_path.iter().map(PathBuf::as_path).chain(self.dit.files()).chain(self.vae.files());
        sha256(&files.collect::<Vec<_>>())
    }
}

impl Networks {
    /// Loads the networks.
    ///
    /// # Errors
    /// [`Error::Model`] when a tensor is missing, left over, of another shape than the config makes it, or not finite.
    pub fn load(files: Files, device: &Device) -> Result<Self> {
        files.check()?;
        let Files { config, dit, vae, .. } = files;
        if !device.is_cpu() {
            return Err(Error::input("oasis runs on the CPU only: choose the device cpu"));
        }
        let weights = Weights::new(dit, device).in_precision(config.precision);
        weights.ignore(IGNORED);
        let dit = DiT::load(&weights.vars(), &config.dit)?;
        weights.finish()?;
        let parameters = weights.parameters();
        let weights = Weights::new(vae, device).in_precision(config.precision);
        let vae = Vae::load(&weights.vars(), &config.vae)?;
        weights.finish()?;
        let parameters = parameters + weights.parameters();
        Ok(Self { config, dit, vae, parameters, device: device.clone() })
    }

    /// The latents `[frames, channels, height, width]`, as the DiT takes them, of pictures `[frames, 3, height, width]` with
    /// values of -1 to 1.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the pictures are of another size.
    pub fn encode(&self, pictures: &Tensor) -> Result<Tensor> {
        let (frames, side) = (pictures.dim(0)?, self.config.vae.patch_size);
        let encode = |i| {
            let (_, height, width) = pictures.get(i)?.dims3()?;
            let split = pictures.get(i)?.reshape((3, height / side, side, width / side, side))?;
            let squares = split.permute((1, 3, 0, 2, 4))?.contiguous()?.flatten_from(2)?;
            Ok(self.vae.encode(&squares)?.permute((2, 0, 1))?.contiguous()?)
        };
        Ok(Tensor::stack(&(0..frames).map(encode).collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// The inverse of [`Networks::encode`].
    ///
    /// # Errors
    /// [`Error::Tensor`] when the latents are of another size.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let (frames, side) = (latents.dim(0)?, self.config.vae.patch_size);
        let decode = |i| {
            let squares = self.vae.decode(&latents.get(i)?.permute((1, 2, 0))?.contiguous()?)?;
            let (down, across, _) = squares.dims3()?;
            let split = squares.reshape((down, across, 3, side, side))?.permute((2, 0, 3, 1, 4))?.contiguous()?;
            Ok(split.reshape((3, down * side, across * side))?)
        };
        Ok(Tensor::stack(&(0..frames).map(decode).collect::<Result<Vec<_>>>()?, 0)?)
    }
}

/// The whole model.
pub struct Oasis {
    info: ModelInfo,
    networks: Arc<Networks>,
}

impl Oasis {
    /// Loads a checkpoint: a folder with the DiT and the autoencoder, or the file of the DiT beside that of the autoencoder.
    ///
    /// # Errors
    /// As of [`Files::open`] and [`Networks::load`]; [`Error::Model`] when it takes other actions than a player's.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let files = Files::open(path)?;
        let actions = files.config.dit.external_cond_dim;
        if actions != ACTION_DIM {
            let reason =
                format!("dit.external_cond_dim is {actions}, but the actions of a player are {ACTION_DIM} numbers");
            return Err(Error::model(path, reason));
        }
        let sha256 = files.sha256()?;
        let networks = Networks::load(files, device)?;
        let config = &networks.config;
        let steps = config.ddim_steps.0;
        let info = ModelInfo {
            family: "oasis".into(),
            name: "oasis".into(),
            notice: Some(NOTICE.into()),
            sha256,
            fps: FPS,
            frames_per_chunk: 1,
            default_size: FrameSize::new(config.vae.input_width, config.vae.input_height),
            size_multiple: config.vae.patch_size,
            parameters: networks.parameters,
            reads_text: false,
            holds_buttons: true,
            controls: heeded(),
            settings: Settings { steps, first_steps: steps, guidance: 1.0, context_noise: 0.0 },
        };
        Ok(Self { info, networks: Arc::new(networks) })
    }
}

impl WorldModel for Oasis {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn gflop_per_chunk(&self, _size: FrameSize, settings: Settings) -> f64 {
        self.networks.config.flop_per_frame(settings.steps) * 1e-9
    }

    fn open(self: Arc<Self>, size: FrameSize) -> Result<Box<dyn Rollout>> {
        let only = self.info.default_size;
        if size != only {
            return Err(Error::input(format!("frames of {size}: this model makes frames of {only} and no other size")));
        }
        let networks = Arc::clone(&self.networks);
        let world = World::new(Arc::clone(&networks), networks.config.context);
        Ok(Box::new(OasisRollout { networks, size, world }))
    }
}

impl Config {
    /// Operations of one frame of a world with a full memory.
    pub fn flop_per_frame(&self, steps: usize) -> f64 {
        let past = self.dit.max_frames - 1;
        let seen: f64 = (0..past).map(|i| self.dit.flop(i)).sum();
        let denoise = steps as f64 * self.dit.flop(past);
        let look_back = match self.context {
            Context::Exact => seen,
            Context::Streaming => self.dit.flop(past),
            Context::Recompute => steps as f64 * seen,
        };
        denoise + look_back + self.vae.decode_flop()
    }
}

/// A [`World`] of frames and controls.
struct OasisRollout {
    networks: Arc<Networks>,
    size: FrameSize,
    world: World,
}

impl OasisRollout {
    /// The latents `[channels, height, width]` of frames.
    fn encode(&self, frames: &[Frame], controls: &[Controls]) -> Result<Vec<Tensor>> {
        if frames.is_empty() || frames.len() != controls.len() {
            return Err(Error::input(format!("{} frames with {} controls", frames.len(), controls.len())));
        }
        let FrameSize { width, height } = self.size;
        let encode = |frame: &Frame| {
            if frame.size != self.size || frame.rgb.len() != self.size.pixels() * 3 {
                return Err(Error::input(format!("a frame is {}, not {}", frame.size, self.size)));
            }
            let side = self.networks.config.vae.patch_size;
            let squares = frames_to_cells(&[&frame.rgb], height, width, side, &self.networks.device)?.tensor()?;
            Ok(self.networks.vae.encode(&squares)?.permute((2, 0, 1))?.contiguous()?)
        };
        frames.iter().map(encode).collect()
    }

    fn decode(&self, latent: &Tensor) -> Result<Frame> {
        let squares = self.networks.vae.decode(&latent.permute((1, 2, 0))?.contiguous()?)?;
        let rgb = cells_to_frames(&squares, 1, self.networks.config.vae.patch_size)?.swap_remove(0);
        Ok(Frame { size: self.size, rgb })
    }
}

impl Rollout for OasisRollout {
    fn size(&self) -> FrameSize {
        self.size
    }

    fn set_prompt(&mut self, _prompt: &str) -> Result<()> {
        Ok(())
    }

    fn set_settings(&mut self, settings: Settings) {
        self.world.steps = settings.steps;
    }

    fn watch(&mut self, interrupt: Interrupt) {
        self.world.interrupt = interrupt;
    }

    fn observe(&mut self, frames: &[Frame], controls: &[Controls], _noise: &dyn NoiseSource) -> Result<()> {
        for (latent, controls) in self.encode(frames, controls)?.iter().zip(controls) {
            self.world.observe(latent, &action(controls))?;
        }
        Ok(())
    }

    fn step(&mut self, controls: &[Controls], noise: &dyn NoiseSource) -> Result<Vec<Frame>> {
        let [controls] = controls else {
            return Err(Error::input(format!("a chunk takes 1 control, not {}", controls.len())));
        };
        let c = &self.networks.config.dit;
        let shape = (c.in_channels, c.input_h, c.input_w);
        let mut values = vec![0.0; shape.0 * shape.1 * shape.2];
        noise.fill(0, &mut values);
        let noise = Tensor::from_vec(values, shape, &self.networks.device)?;
        let latent = self.world.step(&noise, &action(controls))?;
        let start = Instant::now();
        let frame = self.decode(&latent)?;
        self.world.decoded_since(start);
        Ok(vec![frame])
    }

    fn commit(&mut self, _noise: &dyn NoiseSource) -> Result<()> {
        self.world.commit()
    }

    fn reconstruct(&mut self, frames: &[Frame], controls: &[Controls]) -> Result<Vec<Frame>> {
        self.encode(frames, controls)?.iter().map(|latent| self.decode(latent)).collect()
    }

    fn state(&self) -> Result<RolloutState> {
        self.world.state()
    }

    fn set_state(&mut self, state: &RolloutState) -> Result<()> {
        self.world.set_state(state)
    }

    fn times(&self) -> StageTimes {
        self.world.times()
    }
}
