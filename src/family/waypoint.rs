//! Waypoint 1.5 of Overworld: a world of four frames a latent, driven by keys and mouse, with TAEHV as its codec.
//!
//! Most layers see the last 16 latents, every fourth sees 128 back in steps of 8. The reference
//! <https://github.com/Overworldai/world_engine> is GPL-3.0: it is only run, to compare with.

mod action;
pub mod config;
mod dit;
mod layout;
mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};

use super::taehv::picture::{frame, picture};
use super::taehv::{DECODE_FLOP, DecoderMemory, KEY as CODEC_KEY, Taehv};
use crate::checkpoint::{Index, Layout, Weights, checkpoints, find, folder_of, read_config, sha256};
use crate::model::{Interrupt, ModelInfo, NoiseSource, Rollout, RolloutState, Settings, StageTimes, WorldModel};
use crate::{Controls, Error, Frame, FrameSize, Result};

use action::action;
pub use action::heeded;
use config::Config;
use dit::DiT;
use layout::{IGNORED, Names, SIZES, layout};
pub use world::World;

/// What a user should know of the rights.
pub const NOTICE: &str = "waypoint is a model of Overworld, by others' account under the Apache licence 2.0; its publisher may ask for more (attribution, no distillation): the model card where you got the weights is what counts";
/// A tensor that only the DiT has.
pub const DIT_KEY: &str = "denoise_step_emb.mlp.fc1.weight";

/// The transformer.
pub struct Networks {
    /// Its sizes.
    pub config: Config,
    dit: DiT,
}

/// The headers of a checkpoint, whose files are known by what is in them.
pub struct Files {
    /// The sizes.
    pub config: Config,
    config_path: PathBuf,
    names: Names,
    /// The transformer.
    pub dit: Index,
    /// The codec, if it is there.
    pub codec: Option<Index>,
}

impl Files {
    /// Reads the headers in a folder, with the codec in it or in its folder `vae`, or of a file and its neighbours.
    ///
    /// # Errors
    /// [`Error::Model`] when the config cannot be used or the transformer is missing, and as of [`Index::open`].
    pub fn open(path: &Path) -> Result<Self> {
        let folder = folder_of(path);
        let config_path = ["config.json", "config.yaml"].map(|name| folder.join(name));
        let config_path = config_path.iter().find(|path| path.exists()).unwrap_or(&config_path[1]).clone();
        let config = read_config(&config_path, Config::parse)?;
        let [dit, codec] = find(path, checkpoints(path), [DIT_KEY, CODEC_KEY], 1, Ok)?;
        let dit = dit.ok_or_else(|| Error::model(path, format!("no DiT here: no file has '{DIT_KEY}'")))?;
        Ok(Self { config, config_path, names: Names::of(&dit), dit, codec })
    }

    /// Weights of the transformer that are held: what all layers share may be stored in each of them, and is held once.
    pub fn held(&self) -> usize {
        let again = |layer| self.names.cond_proj(layer).len() * self.config.d_model * self.config.d_model;
        self.dit.parameters() - (1..self.config.n_layers).map(again).sum::<usize>()
    }

    /// Compares every name and shape with those that the config makes.
    ///
    /// # Errors
    /// [`Error::Model`] naming the first that is missing, of another shape or left over.
    pub fn check(&self) -> Result<()> {
        self.dit.check_layers("n_layers", self.config.n_layers)?;
        self.dit.check(&self.config, SIZES, |config| layout(config, self.names), &[IGNORED])
    }
}

/// The names and shapes of all tensors of a model with this config, spelled as they are published.
///
/// # Errors
/// [`Error::Input`] when the config cannot be used.
pub fn published_layout(config: &str) -> Result<Layout> {
    Ok(layout(&Config::parse(config).map_err(Error::input)?, Names::PUBLISHED))
}

impl Networks {
    /// Loads the transformer; the rest of the files is handed back.
    ///
    /// # Errors
    /// [`Error::Model`] when a tensor is missing, left over, of another shape than the config makes it, or not finite.
    pub fn load(files: Files, device: &Device) -> Result<(Self, Option<Index>)> {
        files.check()?;
        let Files { config, names, dit, codec, .. } = files;
        if !device.is_cpu() {
            return Err(Error::input("waypoint runs on the CPU only: choose the device cpu"));
        }
        let weights = Weights::new(dit, device).in_precision(config.precision);
        weights.ignore(IGNORED);
        let dit = DiT::load(&weights.vars(), &config, names)?;
        weights.finish()?;
        Ok((Self { config, dit }, codec))
    }
}

/// The whole model.
pub struct Waypoint {
    info: ModelInfo,
    networks: Arc<Networks>,
    codec: Taehv,
}

impl Waypoint {
    /// Loads a checkpoint: a folder with the transformer, its config and TAEHV, as they are published.
    ///
    /// # Errors
    /// As of [`Files::open`] and [`Networks::load`]; [`Error::Model`] when there is no codec, or it is one for other
    /// latents.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let files = Files::open(path)?;
        let codec = files.codec.iter().flat_map(Index::files);
        let read: Vec<_> = [files.config_path.as_path()].into_iter().chain(files.dit.files()).chain(codec).collect();
        let (sha256, dit_parameters) = (sha256(&read)?, files.dit.parameters());
        let (networks, codec) = Networks::load(files, device)?;
        let config = &networks.config;
        let codec = codec.ok_or_else(|| Error::model(path, format!("no codec here: no file has '{CODEC_KEY}'")))?;
        let codec = Taehv::open(codec, config.channels, device)?;
        let [_, height, width] = config.latent();
        let [_, _, down, across] = codec.decoded_shape(1, height, width);
        if codec.frames_per_latent() != config.temporal_compression {
            let (made, wanted) = (codec.frames_per_latent(), config.temporal_compression);
            return Err(Error::model(
                path,
                format!("the codec makes {made} frames of a latent, temporal_compression is {wanted}"),
            ));
        }
        let steps = config.scheduler_sigmas.len() - 1;
        let info = ModelInfo {
            family: "waypoint".into(),
            name: "waypoint".into(),
            sha256,
            fps: config.inference_fps,
            frames_per_chunk: config.temporal_compression,
            default_size: FrameSize::new(across, down),
            size_multiple: 1,
            parameters: dit_parameters + codec.parameters(),
            notice: Some(NOTICE.into()),
            reads_text: false,
            holds_buttons: true,
            controls: heeded(config.n_buttons),
            settings: Settings { steps, first_steps: steps, guidance: 1.0, context_noise: 0.0 },
        };
        Ok(Self { info, networks: Arc::new(networks), codec })
    }
}

impl Config {
    /// Operations of one latent of a world with a full memory, decoded.
    pub fn flop_per_latent(&self, steps: usize) -> f64 {
        let [_, height, width] = self.latent();
        (steps + 1) as f64 * self.flop() + DECODE_FLOP * (height * width) as f64
    }
}

impl WorldModel for Waypoint {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn gflop_per_chunk(&self, _size: FrameSize, settings: Settings) -> f64 {
        self.networks.config.flop_per_latent(settings.steps) * 1e-9
    }

    fn open(self: Arc<Self>, size: FrameSize) -> Result<Box<dyn Rollout>> {
        let only = self.info.default_size;
        if size != only {
            return Err(Error::input(format!("frames of {size}: this model makes frames of {only} and no other size")));
        }
        let world = World::new(Arc::clone(&self.networks))?;
        Ok(Box::new(WaypointRollout { model: self, world, decoder: DecoderMemory::default(), decoded: None }))
    }
}

/// A [`World`] of frames and controls.
struct WaypointRollout {
    model: Arc<Waypoint>,
    world: World,
    decoder: DecoderMemory,
    /// What the decoder will remember once the frames that it made are part of the past.
    decoded: Option<DecoderMemory>,
}

impl WaypointRollout {
    /// The latents `[latents, channels, height, width]` of frames, a single one standing still.
    fn encode(&self, frames: &[Frame], controls: &[Controls]) -> Result<Tensor> {
        let (per_latent, size) = (self.model.info.frames_per_chunk, self.model.info.default_size);
        let whole = frames.len() == 1 || frames.len().is_multiple_of(per_latent);
        if frames.is_empty() || frames.len() != controls.len() || !whole {
            return Err(Error::input(format!(
                "{} frames with {} controls are no whole number of chunks of {per_latent}",
                frames.len(),
                controls.len()
            )));
        }
        let pictures = frames.iter().map(|frame| picture(frame, size)).collect::<Result<Vec<_>>>()?;
        self.model.codec.encode(&Tensor::stack(&pictures, 0)?)
    }

    /// The frames of a latent. The decoder of a new world first sees it as often as it takes to fill its memory.
    fn decode(&self, latent: &Tensor, memory: &mut DecoderMemory) -> Result<Vec<Frame>> {
        let codec = &self.model.codec;
        for _ in memory.latents(codec)..codec.frames_per_latent() - 1 {
            codec.decode_next(latent, memory)?;
        }
        codec.decode_next(latent, memory)?.iter().map(frame).collect()
    }

    fn action(&self, controls: &[Controls]) -> Vec<f32> {
        action(controls, self.model.networks.config.n_buttons)
    }
}

impl Rollout for WaypointRollout {
    fn size(&self) -> FrameSize {
        self.model.info.default_size
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
        let latents = self.encode(frames, controls)?;
        let mut memory = self.decoder.clone();
        for (i, controls) in controls.chunks(self.model.info.frames_per_chunk).enumerate() {
            let latent = latents.get(i)?;
            self.world.observe(&latent, &self.action(controls))?;
            self.decode(&latent, &mut memory)?;
        }
        (self.decoder, self.decoded) = (memory, None);
        Ok(())
    }

    fn step(&mut self, controls: &[Controls], noise: &dyn NoiseSource) -> Result<Vec<Frame>> {
        let per_latent = self.model.info.frames_per_chunk;
        if controls.len() != per_latent {
            return Err(Error::input(format!("a chunk takes {per_latent} controls, not {}", controls.len())));
        }
        let shape = self.model.networks.config.latent();
        let mut values = vec![0.0; shape.iter().product()];
        noise.fill(0, &mut values);
        let noise = Tensor::from_vec(values, &shape[..], &Device::Cpu)?;
        let latent = self.world.step(&noise, &self.action(controls))?;
        let start = Instant::now();
        let mut memory = self.decoder.clone();
        let frames = self.decode(&latent, &mut memory)?;
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
        let (latents, mut memory, mut out) = (self.encode(frames, controls)?, DecoderMemory::default(), Vec::new());
        for i in 0..latents.dim(0)? {
            out.extend(self.decode(&latents.get(i)?, &mut memory)?);
        }
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
        (self.decoder, self.decoded) = (decoder, None);
        Ok(())
    }

    fn times(&self) -> StageTimes {
        self.world.times
    }
}
