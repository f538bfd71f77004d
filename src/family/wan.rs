//! Causal Wan 2.1 1.3B in the layouts of Self-Forcing and `LongLive`: a world told by prompts, with TAEHV as its codec.
//!
//! After <https://github.com/guandeh17/Self-Forcing> and <https://github.com/NVlabs/LongLive> (both Apache-2.0). A block of
//! three latents is denoised in a few steps, with noise added again in between, and seen once more, clean, to be remembered.
//! Where the reference stops because its memory or its table of positions is full, this world forgets the oldest frames
//! and goes on. When the prompt changes, all that is remembered is seen again under the new one, as `LongLive` does it.

pub mod config;
mod dit;
mod layout;
mod sampler;
mod text;
mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};

use super::taehv::picture::{frame, picture};
use super::taehv::{DECODE_FLOP, DecoderMemory, KEY as CODEC_KEY, Taehv};
use super::umt5;
use crate::checkpoint::{Index, Layout, Lora, Weights, checkpoints, find, folder_of, read_config, sha256};
use crate::model::{
    Heeded, Interrupt, ModelInfo, NoiseSource, Rollout, RolloutState, Settings, StageTimes, WorldModel,
};
use crate::{Controls, Error, Frame, FrameSize, Result};

use config::Config;
use dit::DiT;
pub use layout::{DIT_KEY, as_published};
use layout::{LORA_KEY, SIZES, layout};
use text::Prompts;
pub use world::World;

/// What a user should know of the rights.
pub const NOTICE: &str = "wan-causal is Wan 2.1 of Alibaba, distilled; the code of all references is under the Apache licence 2.0, that of the weights is told where you got them";

/// Frames a second of the videos that it learned from.
pub const FPS: f32 = 16.0;
/// Height and width of the latents that it learned from.
pub const LATENT: [usize; 2] = [60, 104];
/// Frames of a latent, as the published codecs have it.
pub const FRAMES_PER_LATENT: usize = 4;
/// Times that it learned from.
const TIMES: f32 = 1000.0;

/// The transformer.
pub struct Networks {
    /// Its sizes.
    pub config: Config,
    dit: DiT,
}

/// The headers of a checkpoint, whose files are known by what is in them.
pub struct Files {
    /// The sizes: those of `config.json`, or the published ones where there is none, of `LongLive` beside a LoRA.
    pub config: Config,
    config_path: Option<PathBuf>,
    /// The transformer.
    pub dit: Index,
    /// What it is changed by, if it is there.
    pub lora: Option<Index>,
    /// The codec, if it is there.
    pub codec: Option<Index>,
    /// The text encoder, if it is there.
    pub text: Option<Index>,
}

impl Files {
    /// Reads the headers in a folder, of the original layout or of diffusers', or of a file and its neighbours.
    ///
    /// # Errors
    /// [`Error::Model`] when the config cannot be used or the transformer is missing, and as of [`Index::open`].
    pub fn open(path: &Path) -> Result<Self> {
        let folder = folder_of(path);
        let spelling = |index| umt5::as_published(as_published(index)?);
        let keys = [DIT_KEY, LORA_KEY, CODEC_KEY, umt5::KEY];
        let [dit, lora, codec, text] = find(path, checkpoints(path), keys, 1, spelling)?;
        let dit = dit.ok_or_else(|| Error::model(path, format!("no DiT here: no file has '{DIT_KEY}'")))?;
        let config_path = ["config.json", "transformer/config.json"].map(|name| folder.join(name));
        let config_path = config_path.into_iter().find(|path| path.exists());
        let mut config = match &config_path {
            Some(path) => read_config(path, Config::parse)?,
            None if lora.is_some() => Config::longlive(),
            None => Config::default(),
        };
        let text_config = folder.join("text_encoder/config.json");
        if text_config.exists() {
            config.text_encoder = read_config(&text_config, umt5::Config::parse)?;
        }
        Ok(Self { config, config_path, dit, lora, codec, text })
    }

    /// Compares every name and shape with those that the config makes.
    ///
    /// # Errors
    /// [`Error::Model`] naming the first that is missing, of another shape or left over.
    pub fn check(&self) -> Result<()> {
        self.dit.check_layers("num_layers", self.config.num_layers)?;
        self.dit.check(&self.config, SIZES, layout, &[])?;
        self.lora.as_ref().map_or(Ok(()), |lora| self.config.adapter.check_index(lora, &layout(&self.config)))
    }
}

/// The names and shapes of all tensors of the transformer with this config.
///
/// # Errors
/// [`Error::Input`] when the config cannot be used.
pub fn published_layout(config: &str) -> Result<Layout> {
    Ok(layout(&Config::parse(config).map_err(Error::input)?))
}

impl Networks {
    /// Loads the transformer; the rest of the files is left alone.
    ///
    /// # Errors
    /// [`Error::Model`] when a tensor is missing, left over, of another shape than the config makes it, or not finite.
    pub fn load(files: Files, device: &Device) -> Result<Self> {
        files.check()?;
        let Files { config, dit, lora, .. } = files;
        if !device.is_cpu() {
            return Err(Error::input("wan-causal runs on the CPU only: choose the device cpu"));
        }
        let mut weights = Weights::new(dit, device).in_precision(config.precision);
        if let Some(lora) = lora {
            weights = weights.with_lora(Lora::new(lora, &config.adapter, device)?);
        }
        let dit = DiT::load(&weights.vars(), &config)?;
        weights.finish()?;
        Ok(Self { config, dit })
    }
}

/// The whole model.
pub struct Wan {
    info: ModelInfo,
    networks: Arc<Networks>,
    codec: Taehv,
    /// Pixels of a cell of a latent, on a side.
    scale: usize,
    prompts: Prompts,
}

impl Wan {
    /// Loads a checkpoint: a folder with the transformer, its LoRA if it has one, TAEHV and, to read prompts that have not
    /// been read before, umT5 with its tokenizer, as they are published.
    ///
    /// # Errors
    /// As of [`Files::open`] and [`Networks::load`]; [`Error::Model`] when there is no codec, or it is one for other
    /// latents.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let mut files = Files::open(path)?;
        let codec = files.codec.take();
        let codec = codec.ok_or_else(|| Error::model(path, format!("no codec here: no file has '{CODEC_KEY}'")))?;
        let config_path = files.config_path.iter().map(PathBuf::as_path);
        let weights = files.dit.files().chain(files.lora.iter().flat_map(Index::files)).chain(codec.files());
        let sha256 = sha256(&config_path.chain(weights).collect::<Vec<_>>())?;
        let folder = folder_of(path);
        let prompts = Prompts::new(folder, files.text.as_ref().map(Index::path), &files.config);
        let parameters = files.dit.parameters();
        let networks = Networks::load(files, device)?;
        let config = &networks.config;
        let codec = Taehv::open(codec, config.in_dim, device)?;
        let [_, _, scale, _] = codec.decoded_shape(1, 1, 1);
        let multiple = scale * config.side();
        let [height, width] = LATENT.map(|cells| cells / config.side() * multiple);
        let steps = config.sampler.denoising_step_list.len();
        let context_noise = config.sampler.context_noise / TIMES;
        let info = ModelInfo {
            family: "wan-causal".into(),
            name: "wan-causal".into(),
            sha256,
            fps: FPS,
            frames_per_chunk: config.sampler.num_frame_per_block * codec.frames_per_latent(),
            default_size: FrameSize::new(width, height),
            size_multiple: multiple,
            parameters: parameters + codec.parameters(),
            notice: Some(NOTICE.into()),
            reads_text: true,
            holds_buttons: true,
            controls: Heeded::default(),
            settings: Settings { steps, first_steps: steps, guidance: 1.0, context_noise },
        };
        Ok(Self { info, networks: Arc::new(networks), codec, scale, prompts })
    }
}

impl Config {
    /// Operations of one block of latents of `height` x `width` of a world with a full memory, decoded.
    pub fn flop_per_block(&self, steps: usize, height: usize, width: usize) -> f64 {
        let cells = height * width;
        let pass = self.flop(cells / (self.side() * self.side()));
        (steps + 1) as f64 * pass + DECODE_FLOP * (cells * self.sampler.num_frame_per_block) as f64
    }
}

impl WorldModel for Wan {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn gflop_per_chunk(&self, size: FrameSize, settings: Settings) -> f64 {
        let (height, width) = (size.height / self.scale, size.width / self.scale);
        self.networks.config.flop_per_block(settings.steps, height, width) * 1e-9
    }

    fn open(self: Arc<Self>, size: FrameSize) -> Result<Box<dyn Rollout>> {
        let multiple = self.info.size_multiple;
        if size.pixels() == 0 || !size.width.is_multiple_of(multiple) || !size.height.is_multiple_of(multiple) {
            let reason = format!("frames of {size}: width and height must be multiples of {multiple} pixels");
            return Err(Error::input(reason));
        }
        let world = World::new(Arc::clone(&self.networks), size.height / self.scale, size.width / self.scale)?;
        let settings = self.info.settings;
        Ok(Box::new(WanRollout {
            model: self,
            size,
            world,
            settings,
            prompted: false,
            decoder: DecoderMemory::default(),
            decoded: None,
        }))
    }
}

/// A [`World`] of frames and prompts.
struct WanRollout {
    model: Arc<Wan>,
    size: FrameSize,
    world: World,
    settings: Settings,
    /// Whether the world has been told a prompt.
    prompted: bool,
    decoder: DecoderMemory,
    /// What the decoder will remember once the frames that it made are part of the past.
    decoded: Option<DecoderMemory>,
}

impl WanRollout {
    /// The latents `[latents, channels, height, width]` of frames, a single one standing still.
    fn encode(&self, frames: &[Frame], controls: &[Controls]) -> Result<Tensor> {
        let chunk = self.model.info.frames_per_chunk;
        let whole = frames.len() == 1 || frames.len().is_multiple_of(chunk);
        if frames.is_empty() || frames.len() != controls.len() || !whole {
            let (frames, controls) = (frames.len(), controls.len());
            let reason = format!("{frames} frames with {controls} controls are no whole number of chunks of {chunk}");
            return Err(Error::input(reason));
        }
        let pictures = frames.iter().map(|frame| picture(frame, self.size)).collect::<Result<Vec<_>>>()?;
        let count = frames.len().next_multiple_of(chunk);
        let pictures: Vec<_> = pictures.iter().cycle().take(count).collect();
        self.model.codec.encode(&Tensor::stack(&pictures, 0)?)
    }

    /// The frames of latents. The first latent of a world is of one frame, which stands still as long as any other.
    fn decode(&self, latents: &Tensor, memory: &mut DecoderMemory) -> Result<Vec<Frame>> {
        let mut out = Vec::new();
        for i in 0..latents.dim(0)? {
            let pictures = self.model.codec.decode_next(&latents.get(i)?, memory)?;
            let missing = self.model.codec.frames_per_latent() - pictures.len();
            for picture in pictures.iter().take(1).cycle().take(missing).chain(&pictures) {
                out.push(frame(picture)?);
            }
        }
        Ok(out)
    }

    /// Standard normal numbers in the shape of a block.
    fn noise(&self, noise: &dyn NoiseSource, step: u32) -> Result<Tensor> {
        let (c, scale) = (&self.model.networks.config, self.model.scale);
        let shape = [c.sampler.num_frame_per_block, c.in_dim, self.size.height / scale, self.size.width / scale];
        let mut values = vec![0.0; shape.iter().product()];
        noise.fill(step, &mut values);
        Ok(Tensor::from_vec(values, &shape[..], &Device::Cpu)?)
    }

    /// Makes what was asked for since the last chunk come true.
    fn follow(&mut self) -> Result<()> {
        if !self.prompted {
            self.set_prompt("")?;
        }
        self.world.set_sampling(self.settings.steps, self.settings.context_noise * TIMES)
    }
}

impl Rollout for WanRollout {
    fn size(&self) -> FrameSize {
        self.size
    }

    fn set_prompt(&mut self, prompt: &str) -> Result<()> {
        self.world.set_text(&self.model.prompts.embed(prompt)?)?;
        self.prompted = true;
        Ok(())
    }

    fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    fn watch(&mut self, interrupt: Interrupt) {
        self.world.interrupt = interrupt;
    }

    fn observe(&mut self, frames: &[Frame], controls: &[Controls], _noise: &dyn NoiseSource) -> Result<()> {
        self.follow()?;
        let latents = self.encode(frames, controls)?;
        let mut memory = self.decoder.clone();
        self.decode(&latents, &mut memory)?;
        let block = self.model.networks.config.sampler.num_frame_per_block;
        for first in (0..latents.dim(0)?).step_by(block) {
            self.world.observe(&latents.narrow(0, first, block)?)?;
        }
        (self.decoder, self.decoded) = (memory, None);
        Ok(())
    }

    fn step(&mut self, controls: &[Controls], noise: &dyn NoiseSource) -> Result<Vec<Frame>> {
        let chunk = self.model.info.frames_per_chunk;
        if controls.len() != chunk {
            return Err(Error::input(format!("a chunk takes {chunk} controls, not {}", controls.len())));
        }
        self.follow()?;
        let draws = (0..self.settings.steps as u32).map(|step| self.noise(noise, step)).collect::<Result<Vec<_>>>()?;
        let latents = self.world.step(&draws[0], |step| Ok(draws[step].clone()))?;
        let start = Instant::now();
        let mut memory = self.decoder.clone();
        let frames = self.decode(&latents, &mut memory)?;
        self.decoded = Some(memory);
        self.world.times.decode = start.elapsed();
        Ok(frames)
    }

    fn commit(&mut self, _noise: &dyn NoiseSource) -> Result<()> {
        self.world.commit()?;
        if let Some(memory) = self.decoded.take() {
            self.decoder = memory;
        }
        Ok(())
    }

    fn reconstruct(&mut self, frames: &[Frame], controls: &[Controls]) -> Result<Vec<Frame>> {
        let mut out = self.decode(&self.encode(frames, controls)?, &mut DecoderMemory::default())?;
        out.truncate(frames.len());
        Ok(out)
    }

    fn state(&self) -> Result<RolloutState> {
        let mut state = RolloutState::new();
        self.world.save(&mut state)?;
        self.decoder.save("decoder", &mut state)?;
        Ok(state)
    }

    fn set_state(&mut self, state: &RolloutState) -> Result<()> {
        let decoder = DecoderMemory::restore("decoder", state)?;
        self.world.restore(state)?;
        (self.decoder, self.decoded, self.prompted) = (decoder, None, true);
        Ok(())
    }

    fn times(&self) -> StageTimes {
        self.world.times
    }
}
