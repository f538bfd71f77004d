//! One world: the networks' memory of what has been dreamed, and how it grows.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use super::Networks;
use crate::kernel::{KeyValues, cells_to_frames, frames_to_cells};
use crate::model::action::{Camera, control_features, turns};
use crate::model::cache::{Memory, saved, saved_camera};
use crate::model::config::Config;
use crate::model::dit::Chunk;
use crate::model::patch::Grid;
use crate::model::sampler::{remembered, sample};
use crate::model::{CONTEXT_NOISE_STEP, NoiseSource, RolloutState, Settings, StageTimes};
use crate::{Controls, Error, Frame, FrameSize, Result};

/// One world's memory, prompted with text embeddings.
pub struct World {
    networks: Arc<Networks>,
    pub(super) size: FrameSize,
    pub(super) settings: Settings,
    /// The prompt's embedding `[text]`.
    text: Tensor,
    encoder_grid: Grid,
    decoder_grid: Grid,
    dit_grid: Grid,
    past: Past,
    pending: Option<Pending>,
    times: StageTimes,
}

/// What is remembered of the chunks so far.
struct Past {
    /// At the end of the last chunk.
    camera: Camera,
    /// Latents as remembered, the newest first; zeros where there are none.
    before: [Tensor; 2],
    dit: Memory,
    decoder: Memory,
    /// Whether nothing has been remembered.
    empty: bool,
}

/// A chunk that is made but not remembered.
struct Pending {
    latent: Tensor,
    prompt: Tensor,
    camera: Camera,
    decoder: Vec<KeyValues>,
}

impl World {
    /// A world with no past.
    ///
    /// # Errors
    /// [`Error::Input`] when frames of this `size` cannot be made.
    pub fn new(networks: Arc<Networks>, size: FrameSize, text: Tensor, settings: Settings) -> Result<Self> {
        let c = &networks.config;
        let grid = |trunk: usize| Grid::new(size, c.patch, trunk, &networks.device);
        let (encoder_grid, decoder_grid) = (grid(c.encoder.head_dim())?, grid(c.decoder.head_dim())?);
        let dit_grid = grid(c.dit.head_dim())?;
        if text.dims() != [c.text] {
            return Err(Error::input(format!("a text embedding has {} numbers, not {:?}", c.text, text.dims())));
        }
        let past = Past::new(&networks, dit_grid.tokens())?;
        let times = StageTimes::default();
        Ok(Self { networks, size, settings, text, encoder_grid, decoder_grid, dit_grid, past, pending: None, times })
    }

    /// The embedding `[text]` of the prompt for the chunks to come.
    pub fn set_text(&mut self, text: Tensor) {
        self.text = text;
    }

    /// Where the time of the last chunk went.
    pub fn times(&self) -> StageTimes {
        self.times
    }

    /// The latents `[tokens, latent]` of true frames, without remembering them.
    ///
    /// # Errors
    /// As of [`Rollout::observe`].
    pub fn encode(&self, frames: &[Frame], controls: &[Controls]) -> Result<Vec<Tensor>> {
        let per_chunk = self.networks.config.frames_per_chunk;
        if frames.is_empty() || frames.len() != controls.len() || !frames.len().is_multiple_of(per_chunk) {
            return Err(Error::input(format!(
                "{} frames with {} controls are no whole number of chunks of {per_chunk}",
                frames.len(),
                controls.len()
            )));
        }
        if let Some(frame) = frames.iter().find(|f| f.size != self.size || f.rgb.len() != self.size.pixels() * 3) {
            return Err(Error::input(format!("a frame is {}, not {}", frame.size, self.size)));
        }
        let chunks = frames.chunks_exact(per_chunk).zip(controls.chunks_exact(per_chunk));
        let latents = chunks.map(|(frames, controls)| {
            let pixels: Vec<&[u8]> = frames.iter().map(|frame| &frame.rgb[..]).collect();
            let FrameSize { width, height } = self.size;
            let cells = frames_to_cells(&pixels, height, width, Config::CELL, &self.networks.device)?;
            self.encode_cells(&cells, controls)
        });
        latents.collect()
    }

    /// The latent of one chunk's [cells](frames_to_cells).
    ///
    /// # Errors
    /// [`Error::Tensor`] when they are not of this size.
    pub fn encode_cells(&self, cells: &Tensor, controls: &[Controls]) -> Result<Tensor> {
        let controls = control_features(controls, &self.networks.device)?;
        self.networks.vcn.encode(cells, &controls, &self.encoder_grid)
    }

    /// Remembers a true latent under `controls`.
    ///
    /// # Errors
    /// [`Error::Tensor`] when it is not of this size.
    pub fn observe_latent(&mut self, latent: Tensor, controls: &[Controls], noise: &Tensor) -> Result<()> {
        let networks = Arc::clone(&self.networks);
        let camera = self.past.camera.after(controls);
        let controls = control_features(controls, &networks.device)?;
        let recall = networks.vcn.decoder().recall(&self.past.decoder, &camera, &self.decoder_grid)?;
        let decoder = networks.vcn.remember(&latent, &controls, &self.decoder_grid, &recall)?;
        let prompt = networks.dit.prompt(&self.text, &controls)?;
        self.remember(Pending { latent, prompt, camera, decoder }, noise)
    }

    /// Denoises `noise` `[tokens, latent]` to the latent of the next chunk and decodes it to cells; both wait for
    /// [`World::commit_with`].
    ///
    /// # Errors
    /// [`Error::Tensor`] when the noise is not of this size.
    pub fn step_from(&mut self, controls: &[Controls], noise: &Tensor) -> Result<(Tensor, Tensor)> {
        let start = Instant::now();
        let networks = Arc::clone(&self.networks);
        let camera = self.past.camera.after(controls);
        let (turns, controls) = (turns(controls), control_features(controls, &networks.device)?);
        let prompt = networks.dit.prompt(&self.text, &controls)?;
        let steps = if self.past.empty { self.settings.first_steps } else { self.settings.steps };
        let latent =
            sample(&networks.dit, &self.past.chunk(&networks, &camera, &prompt, &self.dit_grid)?, noise, steps)?;
        self.times.denoise = start.elapsed();

        let start = Instant::now();
        let recall = networks.vcn.decoder().recall(&self.past.decoder, &camera, &self.decoder_grid)?;
        let (cells, decoder) = networks.vcn.decode(&latent, &controls, &turns, &self.decoder_grid, &recall)?;
        self.times.decode = start.elapsed();
        self.pending = Some(Pending { latent: latent.clone(), prompt, camera, decoder });
        Ok((latent, cells))
    }

    /// Remembers the chunk of the last [`World::step_from`] with the context noise `noise` `[tokens, latent]`.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the noise is not of this size.
    pub fn commit_with(&mut self, noise: &Tensor) -> Result<()> {
        match self.pending.take() {
            Some(pending) => self.remember(pending, noise),
            None => Ok(()),
        }
    }

    fn remember(&mut self, chunk: Pending, noise: &Tensor) -> Result<()> {
        let start = Instant::now();
        let networks = Arc::clone(&self.networks);
        let level = self.settings.context_noise;
        let latent = remembered(&chunk.latent, noise, level)?;
        let known = self.past.chunk(&networks, &chunk.camera, &chunk.prompt, &self.dit_grid)?;
        let layers = networks.dit.remember(&latent, 1.0 - level, &known)?;
        self.past.dit.push(chunk.camera, layers);
        self.past.decoder.push(chunk.camera, chunk.decoder);
        self.past.before.swap(0, 1);
        self.past.before[0] = latent;
        self.past.camera = chunk.camera;
        self.past.empty = false;
        self.times.commit = start.elapsed();
        Ok(())
    }

    fn frames(&self, cells: &Tensor) -> Result<Vec<Frame>> {
        let frames = cells_to_frames(cells, self.networks.config.frames_per_chunk, Config::CELL)?;
        Ok(frames.into_iter().map(|rgb| Frame { size: self.size, rgb }).collect())
    }

    fn draw(&self, step: u32, noise: &dyn NoiseSource) -> Result<Tensor> {
        let shape = (self.dit_grid.tokens(), self.networks.config.latent);
        let mut values = vec![0.0; shape.0 * shape.1];
        noise.fill(step, &mut values);
        Ok(Tensor::from_vec(values, shape, &self.networks.device)?)
    }

    pub(super) fn observe(&mut self, frames: &[Frame], controls: &[Controls], noise: &dyn NoiseSource) -> Result<()> {
        let per_chunk = self.networks.config.frames_per_chunk;
        let latents;
        let mut still = [controls, &vec![Controls::default(); per_chunk - 1]].concat();
        if let ([frame], [_]) = (frames, controls) {
            latents = self.encode(&vec![frame.clone(); per_chunk], &still)?;
        } else {
            latents = self.encode(frames, controls)?;
            still.truncate(controls.len());
        }
        self.pending = None;
        for (i, (latent, controls)) in latents.into_iter().zip(still.chunks_exact(per_chunk)).enumerate() {
            // Every chunk has its own noise, though they are observed under one source.
            let noise = self.draw(CONTEXT_NOISE_STEP - i as u32, noise)?;
            self.observe_latent(latent, controls, &noise)?;
        }
        Ok(())
    }

    pub(super) fn reconstruct(&mut self, frames: &[Frame], controls: &[Controls]) -> Result<Vec<Frame>> {
        let networks = Arc::clone(&self.networks);
        let (mut memory, mut camera) = (Memory::new(&networks.config.decoder.offsets), Camera::default());
        let mut out = Vec::with_capacity(frames.len());
        let per_chunk = networks.config.frames_per_chunk;
        for (latent, controls) in self.encode(frames, controls)?.iter().zip(controls.chunks_exact(per_chunk)) {
            camera = camera.after(controls);
            let (turns, controls) = (turns(controls), control_features(controls, &networks.device)?);
            let recall = networks.vcn.decoder().recall(&memory, &camera, &self.decoder_grid)?;
            let (cells, layers) = networks.vcn.decode(latent, &controls, &turns, &self.decoder_grid, &recall)?;
            out.extend(self.frames(&cells)?);
            memory.push(camera, layers);
        }
        Ok(out)
    }

    pub(super) fn step(&mut self, controls: &[Controls], noise: &dyn NoiseSource) -> Result<Vec<Frame>> {
        let per_chunk = self.networks.config.frames_per_chunk;
        if controls.len() != per_chunk {
            return Err(Error::input(format!("a chunk takes {per_chunk} controls, not {}", controls.len())));
        }
        let noise = self.draw(0, noise)?;
        let (_, cells) = self.step_from(controls, &noise)?;
        self.frames(&cells)
    }

    pub(super) fn commit(&mut self, noise: &dyn NoiseSource) -> Result<()> {
        let noise = self.draw(CONTEXT_NOISE_STEP, noise)?;
        self.commit_with(&noise)
    }

    pub(super) fn state(&self) -> Result<RolloutState> {
        let mut state = RolloutState::new();
        state.insert("text".into(), self.text.clone());
        if !self.past.empty {
            state.insert("camera".into(), Tensor::new(&self.past.camera.to_array(), &Device::Cpu)?);
            for (i, latent) in self.past.before.iter().enumerate() {
                state.insert(format!("before.{i}"), latent.clone());
            }
        }
        self.past.dit.save("dit", &mut state)?;
        self.past.decoder.save("decoder", &mut state)?;
        Ok(state)
    }

    pub(super) fn set_state(&mut self, state: &RolloutState) -> Result<()> {
        let (c, device) = (&self.networks.config, &self.networks.device);
        let text = saved(state, "text", &[c.text])?.to_device(device)?;
        let mut past = Past::new(&self.networks, self.dit_grid.tokens())?;
        if state.contains_key("camera") {
            past.empty = false;
            past.camera = saved_camera(state, "camera")?;
            for (i, latent) in past.before.iter_mut().enumerate() {
                *latent =
                    saved(state, &format!("before.{i}"), &[self.dit_grid.tokens(), c.latent])?.to_device(device)?;
            }
            past.dit = Memory::restore("dit", state, &c.dit, &self.dit_grid)?;
            past.decoder = Memory::restore("decoder", state, &c.decoder, &self.decoder_grid)?;
        }
        (self.text, self.past, self.pending) = (text, past, None);
        Ok(())
    }
}

impl Past {
    fn new(networks: &Networks, tokens: usize) -> Result<Self> {
        let c = &networks.config;
        let nothing = Tensor::zeros((tokens, c.latent), DType::F32, &networks.device)?;
        Ok(Self {
            camera: Camera::default(),
            before: [nothing.clone(), nothing],
            dit: Memory::new(&c.dit.offsets),
            decoder: Memory::new(&c.decoder.offsets),
            empty: true,
        })
    }

    /// What the DiT is told of the next chunk, at whose end the camera stands at `camera`.
    fn chunk<'a>(
        &'a self,
        networks: &Networks,
        camera: &Camera,
        prompt: &'a Tensor,
        grid: &'a Grid,
    ) -> Result<Chunk<'a>> {
        let recall = networks.dit.blocks().recall(&self.dit, camera, grid)?;
        Ok(Chunk { grid, prompt, before: [&self.before[0], &self.before[1]], recall })
    }
}
