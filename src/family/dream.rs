//! Our own model: a folder with `config.json`, `vcn.safetensors`, `dit.safetensors`, a text encoder and, if it knows edits,
//! `edits.safetensors`.

mod layout;
mod past;
mod world;

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;

use crate::checkpoint::{Adapter, Entry, Index, Layout, Lora, Precision, Weights, read_config, sha256};
use crate::controls::CONTROL_NAMES;
use crate::kernel::{Array, KeyValues};
use crate::model::action::control_features;
use crate::model::config::{Config, TrunkConfig};
use crate::model::dit::DiT;
use crate::model::text::{self, TextEncoder};
use crate::model::vcn::Vcn;
use crate::model::{
    Heeded, Interrupt, ModelInfo, NoiseSource, Rollout, RolloutState, Settings, StageTimes, WorldModel,
};
use crate::{Controls, Frame, FrameSize, Result};

pub use world::World;

const VCN: &str = "vcn.safetensors";
const DIT: &str = "dit.safetensors";
const EDITS: &str = "edits.safetensors";

/// The networks without the text encoder.
pub struct Networks {
    /// Their sizes.
    pub config: Config,
    /// Frames to latents and back.
    pub vcn: Vcn,
    /// Noise to latents.
    pub dit: DiT,
    /// The same where a block is broken or placed, if it is another there: with low-rank changes of its weights (LoRA, Hu et al.
    /// 2021).
    editor: Option<DiT>,
    /// Number of weights.
    pub parameters: usize,
    /// Where they run.
    pub device: Device,
}

impl Networks {
    /// Loads `config.json`, `vcn.safetensors`, `dit.safetensors` and, if the config says so, `edits.safetensors`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when a file cannot be read, [`Error::Model`](crate::Error::Model) when it is not what
    /// it should be.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        Self::load_as(read_config(&folder.join("config.json"), Config::parse)?, folder, device)
    }

    /// The same as it was trained, whatever precision it is shipped in: what a reference computes.
    ///
    /// # Errors
    /// As of [`Networks::load`].
    pub fn load_exact(folder: &Path, device: &Device) -> Result<Self> {
        let config = read_config(&folder.join("config.json"), Config::parse)?;
        Self::load_as(Config { precision: Precision::F32, ..config }, folder, device)
    }

    fn load_as(config: Config, folder: &Path, device: &Device) -> Result<Self> {
        let [vcn_weights, dit_weights] = networks(&config, folder)?.map(|index| Weights::new(index, device));
        let vcn = Vcn::load(&vcn_weights.vars(), &config)?;
        vcn_weights.finish()?;
        let dit = DiT::load(&dit_weights.vars(), &config)?;
        dit_weights.finish()?;
        let mut parameters = vcn_weights.parameters() + dit_weights.parameters();
        let mut editor = None;
        if let Some(changes) = edits(&config, folder)? {
            parameters += changes.parameters();
            let [_, dit] = networks(&config, folder)?;
            let weights = Weights::new(dit, device).with_lora(Lora::new(changes, &Adapter::default(), device)?);
            editor = Some(DiT::load(&weights.vars(), &config)?);
            weights.finish()?;
        }
        Ok(Self { config, vcn, dit, editor, parameters, device: device.clone() })
    }

    /// The DiT that denoises a chunk, by whether a block is broken or placed in it.
    pub fn denoiser(&self, edited: bool) -> &DiT {
        self.editor.as_ref().filter(|_| edited).unwrap_or(&self.dit)
    }

    /// The controls of a chunk, as the networks take them.
    pub fn controls(&self, controls: &[Controls]) -> Result<Array> {
        control_features(controls, self.config.actions.len(), &self.device)
    }
}

/// The headers of the VCN and of the DiT, in which every name and shape is as the config makes it.
fn networks(config: &Config, folder: &Path) -> Result<[Index; 2]> {
    Ok([header(config, folder, VCN, layout::vcn)?, header(config, folder, DIT, layout::dit)?])
}

/// That of the changes of the DiT where a block is broken or placed, if the config has any.
fn edits(config: &Config, folder: &Path) -> Result<Option<Index>> {
    (config.edit_rank > 0).then(|| header(config, folder, EDITS, layout::edits)).transpose()
}

fn header(config: &Config, folder: &Path, name: &str, layout: fn(&Config) -> Layout) -> Result<Index> {
    let index = Index::open(folder.join(name))?;
    index.check(config, layout::SIZES, layout, &[])?;
    Ok(index)
}

/// The headers of a model folder.
pub struct Files {
    /// The sizes.
    pub config: Config,
    /// Frames to latents and back.
    pub vcn: Index,
    /// Noise to latents.
    pub dit: Index,
    /// What changes of that where a block is broken or placed.
    pub edits: Option<Index>,
    /// Weights of the text encoder, which is checked.
    pub text: usize,
}

impl Files {
    /// Reads the headers and compares every name and shape with those that the configs make.
    ///
    /// # Errors
    /// As of [`Networks::load`] and [`TextEncoder::load`], but for numbers that are not finite.
    pub fn open(folder: &Path) -> Result<Self> {
        let config = read_config(&folder.join("config.json"), Config::parse)?;
        let [vcn, dit] = networks(&config, folder)?;
        let edits = edits(&config, folder)?;
        Ok(Self { config, vcn, dit, edits, text: text::check(folder)? })
    }

    /// Bytes of the weights as they are held and of a full memory at the size trained at.
    pub fn bytes(&self) -> u64 {
        let c = &self.config;
        let held = |(name, entry): (&String, &Entry)| {
            let precision = if layout::in_precision(name) { c.precision } else { Precision::F32 };
            precision.bytes(entry.shape.iter().product())
        };
        let held = |index: &Index| index.tensors().iter().map(held).sum::<u64>();
        let dits = 1 + u64::from(self.edits.is_some());
        let weights = held(&self.vcn) + dits * held(&self.dit);
        let tokens = c.default_size().pixels() / (c.patch * c.patch);
        let kept = |trunk: &TrunkConfig| {
            let chunks = trunk.temporal.len() * trunk.offsets.iter().max().copied().unwrap_or(0);
            (chunks * KeyValues::bytes(tokens, trunk.heads, trunk.head_dim())) as u64
        };
        weights + Precision::F32.bytes(self.text) + kept(&c.dit) + kept(&c.decoder)
    }
}

/// What the controls are to a model with this config: themselves.
pub fn heeded(config: &Config) -> Heeded {
    let names = CONTROL_NAMES.into_iter().chain(config.actions.iter().map(String::as_str));
    Heeded::new(names.map(|name| (name, name)))
}

/// The whole model.
pub struct Dream {
    info: ModelInfo,
    networks: Arc<Networks>,
    text: TextEncoder,
}

impl Dream {
    /// Loads a model folder.
    ///
    /// # Errors
    /// As of [`Networks::load`] and [`TextEncoder::load`].
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let networks = Networks::load(folder, device)?;
        let text = TextEncoder::load(folder, device)?;
        let config = &networks.config;
        let mut files = vec!["config.json", VCN, DIT, "text.json", "text.safetensors", "tokenizer.json"];
        files.extend(networks.editor.as_ref().map(|_| EDITS));
        let files: Vec<_> = files.into_iter().map(|name| folder.join(name)).collect();
        let info = ModelInfo {
            family: config.family.clone(),
            name: config.name.clone(),
            sha256: sha256(&files)?,
            fps: config.fps,
            frames_per_chunk: config.frames_per_chunk,
            default_size: config.default_size(),
            size_multiple: config.patch,
            parameters: networks.parameters,
            notice: None,
            reads_text: true,
            holds_buttons: false,
            controls: heeded(config),
            settings: Settings {
                steps: config.steps,
                first_steps: config.first_steps,
                guidance: config.guidance,
                context_noise: config.context_noise,
            },
        };
        Ok(Self { info, networks: Arc::new(networks), text })
    }
}

impl WorldModel for Dream {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn gflop_per_chunk(&self, size: FrameSize, settings: Settings) -> f64 {
        self.networks.config.flop_per_chunk(size, settings.steps, settings.guidance) as f64 * 1e-9
    }

    fn open(self: Arc<Self>, size: FrameSize) -> Result<Box<dyn Rollout>> {
        let prompt = Array::from_tensor(&self.text.encode("")?)?;
        let world = World::new(Arc::clone(&self.networks), size, prompt, self.info.settings)?;
        Ok(Box::new(DreamRollout { model: self, world }))
    }
}

/// A [`World`] that reads its prompts.
struct DreamRollout {
    model: Arc<Dream>,
    world: World,
}

impl Rollout for DreamRollout {
    fn size(&self) -> FrameSize {
        self.world.size
    }

    fn set_prompt(&mut self, prompt: &str) -> Result<()> {
        self.world.set_text(Array::from_tensor(&self.model.text.encode(prompt)?)?)
    }

    fn set_settings(&mut self, settings: Settings) {
        self.world.settings = settings;
    }

    fn watch(&mut self, interrupt: Interrupt) {
        self.world.interrupt = interrupt;
    }

    fn observe(&mut self, frames: &[Frame], controls: &[Controls], noise: &dyn NoiseSource) -> Result<()> {
        self.world.observe(frames, controls, noise)
    }

    fn reconstruct(&mut self, frames: &[Frame], controls: &[Controls]) -> Result<Vec<Frame>> {
        self.world.reconstruct(frames, controls)
    }

    fn step(&mut self, controls: &[Controls], noise: &dyn NoiseSource) -> Result<Vec<Frame>> {
        self.world.step(controls, noise)
    }

    fn commit(&mut self, noise: &dyn NoiseSource) -> Result<()> {
        self.world.commit(noise)
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
