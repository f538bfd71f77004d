//! TAEHV, the tiny video autoencoders of Ollin Boer Bohan: frames to the latents of a large video model and back, with
//! 2-D convolutions and a memory of one frame per block.
//!
//! After <https://github.com/madebyollin/taehv> (MIT). Only the patch and the latent channels come from `config.json`;
//! layer widths, temporal scales and the variant of the decoder are read from the shapes of the tensors.

mod block;
pub mod picture;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use crate::checkpoint::{Index, Weights, checkpoints, find, folder_of, read_config};
use crate::model::RolloutState;
use crate::{Error, Result};

use block::{Builder, Network, Past, shuffle, unshuffle};

/// What a user should know of the rights.
pub const NOTICE: &str =
    "taehv is a codec of Ollin Boer Bohan; its code and weights are published together under the MIT licence";

/// A tensor that only this network has.
pub const KEY: &str = "encoder.0.weight";

/// Stages of both halves; each halves or doubles the picture, and may do so to time.
const STAGES: usize = 3;
/// Layers of the longest decoder.
const MAX_LAYERS: i64 = 64;
/// Operations of the published decoders for one cell of a latent.
pub const DECODE_FLOP: f64 = 9e7;
/// A larger patch is a mistake.
const MAX_PATCH: usize = 16;

/// The keys of `config.json`, named as the arguments of the reference.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Config {
    /// Side of the squares of pixels that become channels.
    pub patch_size: usize,
    /// Numbers per cell of a latent.
    pub latent_channels: usize,
    /// Which stages of the decoder double the frame rate; `false` where the weights could is a cheaper preview. All that
    /// the weights can when absent.
    pub decoder_time_upscale: Option<[bool; STAGES]>,
    /// Which stages of the decoder double width and height; `false` is a cheaper preview.
    #[serde(default = "all")]
    pub decoder_space_upscale: [bool; STAGES],
}

fn all() -> [bool; STAGES] {
    [true; STAGES]
}

impl Config {
    fn parse(text: &str) -> Result<Self, String> {
        let config: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        match config.patch_size {
            1..=MAX_PATCH => Ok(config),
            other => Err(format!("patch_size is {other}, not 1 to {MAX_PATCH}")),
        }
    }

    /// The config of a checkpoint of latents with so many channels, or with as many as its decoder takes.
    fn of(index: &Index, latent_channels: Option<usize>) -> Result<Self> {
        let inputs = |name: &str| index.tensors().get(name).and_then(|entry| entry.shape.get(1).copied());
        let pixels = inputs(KEY);
        let patch_size = (1..=MAX_PATCH).find(|side| Some(3 * side * side) == pixels);
        let patch_size =
            patch_size.ok_or_else(|| Error::model(index.path(), format!("'{KEY}' takes no square patches")))?;
        let latent_channels =
            latent_channels.or_else(|| inputs("decoder.0.weight").or_else(|| inputs("decoder.1.weight")));
        let latent_channels =
            latent_channels.ok_or_else(|| Error::model(index.path(), "'decoder.1.weight' is missing"))?;
        Ok(Self { patch_size, latent_channels, decoder_time_upscale: None, decoder_space_upscale: all() })
    }
}

/// The codec.
pub struct Taehv {
    config: Config,
    encoder: Network,
    decoder: Network,
    parameters: usize,
}

/// What the encoder remembers of the frames that it has seen. A new clip begins with the default.
#[derive(Clone, Default)]
pub struct EncoderMemory {
    past: Past,
    frames: usize,
    last: Option<Tensor>,
}

/// What the decoder remembers of the latents that it has seen. A new clip begins with the default.
#[derive(Clone, Default)]
pub struct DecoderMemory {
    past: Past,
    frames: usize,
}

impl DecoderMemory {
    /// Latents that `codec` has seen.
    pub fn latents(&self, codec: &Taehv) -> usize {
        self.frames / codec.frames_per_latent()
    }

    /// Adds all of it to `state`, under names that start with `prefix`.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is not enough memory.
    pub fn save(&self, prefix: &str, state: &mut RolloutState) -> Result<()> {
        let sizes = [self.frames as i64, self.past.len() as i64];
        state.insert(format!("{prefix}.sizes"), Tensor::new(&sizes, &Device::Cpu)?);
        for (layer, frames) in self.past.iter().enumerate() {
            for (i, frame) in frames.iter().enumerate() {
                state.insert(format!("{prefix}.{layer}.{i}"), frame.clone());
            }
        }
        Ok(())
    }

    /// The memory that [`DecoderMemory::save`] saved.
    ///
    /// # Errors
    /// [`Error::Input`] when the state holds none.
    pub fn restore(prefix: &str, state: &RolloutState) -> Result<Self> {
        let sizes = state.tensor(&format!("{prefix}.sizes"), &[2])?.to_dtype(DType::I64)?.to_vec1::<i64>()?;
        let layer = |layer: i64| {
            let frames = (0..).map_while(|i| state.get(&format!("{prefix}.{layer}.{i}")).cloned());
            frames.collect::<Vec<_>>()
        };
        let layers = sizes[1].clamp(0, MAX_LAYERS);
        Ok(Self { past: (0..layers).map(layer).collect(), frames: usize::try_from(sizes[0]).unwrap_or(0) })
    }
}

impl Taehv {
    /// Loads a checkpoint and the `config.json` beside it, without which its tensors tell what they can.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read, [`Error::Model`] when it is not what it should be.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let (config, index) = Self::files(path)?;
        Self::build(config, Weights::new(index, device))
    }

    /// The number of weights of a checkpoint whose every name and shape is checked, from its headers alone.
    ///
    /// # Errors
    /// As of [`Taehv::load`].
    pub fn check(path: &Path) -> Result<usize> {
        let (config, index) = Self::files(path)?;
        Ok(Self::build(config, Weights::new(index, &Device::Cpu).unread())?.parameters)
    }

    fn files(path: &Path) -> Result<(Config, Index)> {
        let folder = folder_of(path);
        let config = folder.join("config.json");
        let config = config.exists().then(|| read_config(&config, Config::parse)).transpose()?;
        let [index] = find(path, checkpoints(path), [KEY], 1, Ok)?;
        let missing = || Error::model(folder.join("weights.safetensors"), format!("missing: no file here has '{KEY}'"));
        let index = index.ok_or_else(missing)?;
        Ok((config.map_or_else(|| Config::of(&index, None), Ok)?, index))
    }

    /// Loads the codec of latents with so many `channels` from a checkpoint alone.
    ///
    /// # Errors
    /// [`Error::Model`] when it is not what it should be.
    pub fn open(index: Index, channels: usize, device: &Device) -> Result<Self> {
        Self::build(Config::of(&index, Some(channels))?, Weights::new(index, device))
    }

    /// The number of weights of the codec of latents with so many `channels`, whose every name and shape is checked.
    ///
    /// # Errors
    /// As of [`Taehv::open`].
    pub fn check_index(index: Index, channels: usize) -> Result<usize> {
        Ok(Self::build(Config::of(&index, Some(channels))?, Weights::new(index, &Device::Cpu).unread())?.parameters)
    }

    fn build(config: Config, weights: Weights) -> Result<Self> {
        let vars = weights.vars();
        let pixels = 3 * config.patch_size * config.patch_size;
        let encoder = encoder(Builder::new(&vars.pp("encoder"), pixels, "patch_size"), &config)?;
        let decoder_net = Builder::new(&vars.pp("decoder"), config.latent_channels, "latent_channels");
        let decoder = if vars.shape("decoder.0.weight").is_ok() {
            super_decoder(decoder_net, &config, pixels)?
        } else {
            decoder(decoder_net, &config, pixels)?
        };
        weights.finish()?;
        Ok(Self { config, encoder, decoder, parameters: weights.parameters() })
    }

    /// The config that it was loaded with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Frames of one latent.
    pub fn frames_per_latent(&self) -> usize {
        self.decoder.time_scale()
    }

    /// The shape `[frames, 3, height, width]` of what [`Taehv::decode`] makes of `latents` of `height` x `width` cells.
    pub fn decoded_shape(&self, latents: usize, height: usize, width: usize) -> [usize; 4] {
        let (time, space) = (self.decoder.time_scale(), self.decoder.space_scale() * self.config.patch_size);
        [(latents * time).saturating_sub(self.warm_up()), 3, height * space, width * space]
    }

    /// The shape `[latents, channels, height, width]` of what [`Taehv::encode`] makes of `frames` of `height` x `width`
    /// pixels.
    pub fn encoded_shape(&self, frames: usize, height: usize, width: usize) -> [usize; 4] {
        let space = self.encoder.space_scale() * self.config.patch_size;
        [frames.div_ceil(self.encoder.time_scale()), self.config.latent_channels, height / space, width / space]
    }

    /// The latents of a clip `[frames, 3, height, width]` with values of 0 to 1, layer by layer. Its last frame is
    /// repeated until it fills a latent.
    ///
    /// # Errors
    /// [`Error::Input`] when the shape does not fit the codec.
    pub fn encode(&self, clip: &Tensor) -> Result<Tensor> {
        let mut frames = self.pixels(clip)?;
        if let Some(last) = frames.last().cloned() {
            frames.resize(frames.len().next_multiple_of(self.encoder.time_scale()), last);
        }
        let latents = self.encoder.forward(frames, &mut Past::default())?;
        latents_of(latents)
    }

    /// Sees one more frame `[3, height, width]` of a clip; every few frames, a latent `[channels, height, width]`.
    ///
    /// # Errors
    /// As of [`Taehv::encode`].
    pub fn encode_next(&self, frame: &Tensor, memory: &mut EncoderMemory) -> Result<Option<Tensor>> {
        let frames = self.pixels(&frame.unsqueeze(0)?)?;
        memory.last = frames.last().cloned();
        memory.frames += 1;
        last_latent(self.encoder.forward(frames, &mut memory.past)?)
    }

    /// The latent of the frames at the end of a clip that do not fill one.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is not enough memory.
    pub fn encode_end(&self, memory: EncoderMemory) -> Result<Option<Tensor>> {
        let EncoderMemory { mut past, frames, last } = memory;
        let missing = frames.next_multiple_of(self.encoder.time_scale()) - frames;
        last_latent(self.encoder.forward(last.into_iter().cycle().take(missing).collect(), &mut past)?)
    }

    /// The frames `[frames, 3, height, width]`, values of 0 to 1, of latents `[latents, channels, height, width]`, layer by
    /// layer. The first frames, made while the memory fills, are left out: 3 of the published codecs with 4 frames a
    /// latent.
    ///
    /// # Errors
    /// [`Error::Input`] when the shape does not fit the codec.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let frames = self.decoder.forward(self.cells(latents)?, &mut Past::default())?;
        let frames = frames[self.warm_up()..].iter().map(|x| self.picture(x)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::stack(&frames, 0)?)
    }

    /// The frames, each `[3, height, width]`, of one more latent `[channels, height, width]` of a clip.
    ///
    /// # Errors
    /// As of [`Taehv::decode`].
    pub fn decode_next(&self, latent: &Tensor, memory: &mut DecoderMemory) -> Result<Vec<Tensor>> {
        let frames = self.decoder.forward(self.cells(&latent.unsqueeze(0)?)?, &mut memory.past)?;
        let warm_up = self.warm_up().saturating_sub(memory.frames);
        memory.frames += frames.len();
        frames.iter().skip(warm_up).map(|x| self.picture(x)).collect()
    }

    /// Frames of a clip that come too early to be shown.
    fn warm_up(&self) -> usize {
        self.decoder.time_scale() - 1
    }

    /// Frames as channels-last squares of pixels.
    fn pixels(&self, clip: &Tensor) -> Result<Vec<Tensor>> {
        let cell = self.encoder.space_scale() * self.config.patch_size;
        let whole = |n: usize| n > 0 && n.is_multiple_of(cell);
        if !matches!(*clip.dims(), [n, 3, height, width] if n > 0 && whole(height) && whole(width)) {
            let shape = clip.dims();
            return Err(Error::input(format!(
                "frames of shape {shape:?}: this codec takes [frames, 3, height, width] in multiples of {cell} pixels"
            )));
        }
        Ok(channels_last(clip)?.iter().map(|x| unshuffle(x, self.config.patch_size)).collect::<Result<_, _>>()?)
    }

    /// Latents with their channels last.
    fn cells(&self, latents: &Tensor) -> Result<Vec<Tensor>> {
        let channels = self.config.latent_channels;
        if !matches!(*latents.dims(), [n, c, height, width] if n * height * width > 0 && c == channels) {
            let shape = latents.dims();
            return Err(Error::input(format!(
                "latents of shape {shape:?}: this codec takes [latents, {channels}, height, width]"
            )));
        }
        channels_last(latents)
    }

    /// The picture `[3, height, width]` of channels-last squares of pixels.
    fn picture(&self, x: &Tensor) -> Result<Tensor> {
        Ok(channels_first(&shuffle(x, self.config.patch_size)?)?.clamp(0f32, 1f32)?)
    }
}

fn encoder(mut net: Builder, config: &Config) -> Result<Network> {
    net.conv()?;
    net.relu();
    for _ in 0..STAGES {
        net.pool()?;
        net.halve()?;
        for _ in 0..3 {
            net.memory()?;
        }
    }
    net.last(config.latent_channels, "latent_channels")?;
    Ok(net.finish())
}

fn decoder(mut net: Builder, config: &Config, pixels: usize) -> Result<Network> {
    net.clamp();
    net.conv()?;
    net.relu();
    for stage in 0..STAGES {
        for _ in 0..3 {
            net.memory()?;
        }
        net.upsample(config.decoder_space_upscale[stage]);
        net.grow(config.decoder_time_upscale.map(|doubles| doubles[stage]))?;
        net.conv_no_bias()?;
    }
    net.relu();
    net.last(pixels, "patch_size")?;
    Ok(net.finish())
}

/// The decoder of the weights called `super`: sharper, at twice the size.
fn super_decoder(mut net: Builder, config: &Config, pixels: usize) -> Result<Network> {
    net.pointwise()?;
    for stage in 0..STAGES {
        for _ in 0..3 {
            net.super_memory()?;
        }
        net.conv_relu_shuffle(config.decoder_space_upscale[stage])?;
        net.grow(config.decoder_time_upscale.map(|doubles| doubles[stage]))?;
    }
    net.last(pixels, "patch_size")?;
    Ok(net.finish())
}

fn channels_last(clip: &Tensor) -> Result<Vec<Tensor>> {
    (0..clip.dim(0)?).map(|i| Ok(clip.get(i)?.permute((1, 2, 0))?.contiguous()?)).collect()
}

fn channels_first(x: &Tensor) -> Result<Tensor> {
    Ok(x.permute((2, 0, 1))?.contiguous()?)
}

fn latents_of(cells: Vec<Tensor>) -> Result<Tensor> {
    let latents = cells.iter().map(channels_first).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::stack(&latents, 0)?)
}

/// Frames enter one by one, so that at most one latent is done.
fn last_latent(cells: Vec<Tensor>) -> Result<Option<Tensor>> {
    cells.last().map(channels_first).transpose()
}
