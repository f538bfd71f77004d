//! One world: the frames that it remembers, and how it grows block by block.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use super::Networks;
use super::dit::{Heard, Modulation, Place, Ring};
use super::sampler::Level;
use crate::family::layer::numbers;
use crate::model::patch::{cells_to_tokens, tokens_to_cells};
use crate::model::{Interrupt, RolloutState, StageTimes};
use crate::{Error, Result};

/// Of a saved world: the place in time of the next frame.
const TIME: &str = "time";
/// Of a saved world: the text that its memory was made under.
const TEXT: &str = "text";

/// One world's memory.
pub struct World {
    networks: Arc<Networks>,
    /// Tokens down and across.
    size: [usize; 2],
    levels: Vec<Level>,
    /// Of every step, and last of a block that is remembered.
    modulations: Vec<Modulation>,
    context_noise: f32,
    text: Tensor,
    heard: Heard,
    /// Whether the memory was made under another text.
    stale: bool,
    time: u64,
    rings: Vec<Ring>,
    /// The frames that are remembered, each `[tokens, patch]`, to be seen again under another text.
    latents: VecDeque<Tensor>,
    pending: Option<Tensor>,
    /// What may interrupt [`World::step`].
    pub interrupt: Interrupt,
    pub(super) times: StageTimes,
}

impl World {
    /// A world with no past, whose latents are of `height` and `width`, and with a text of no words.
    ///
    /// # Errors
    /// [`Error::Input`] when the latents are no whole number of patches.
    pub fn new(networks: Arc<Networks>, height: usize, width: usize) -> Result<Self> {
        let c = &networks.config;
        let side = c.side();
        if height * width == 0 || !height.is_multiple_of(side) || !width.is_multiple_of(side) {
            return Err(Error::input(format!(
                "latents of {height} x {width} are no whole number of patches of {side}"
            )));
        }
        let text = Tensor::zeros((0, c.text_dim), DType::F32, &Device::Cpu)?;
        let mut world = Self {
            size: [height / side, width / side],
            levels: Vec::new(),
            modulations: Vec::new(),
            context_noise: c.sampler.context_noise,
            heard: networks.dit.hear(&text)?,
            text,
            stale: false,
            time: 0,
            rings: (0..c.num_layers).map(|_| Ring::new()).collect(),
            latents: VecDeque::new(),
            pending: None,
            interrupt: Interrupt::default(),
            times: StageTimes::default(),
            networks: Arc::clone(&networks),
        };
        world.set_sampling(c.sampler.denoising_step_list.len(), c.sampler.context_noise)?;
        Ok(world)
    }

    /// Denoises in so many `steps` and remembers blocks at the time `context_noise`, from now on.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is not enough memory.
    pub fn set_sampling(&mut self, steps: usize, context_noise: f32) -> Result<()> {
        if self.levels.len() != steps || self.context_noise != context_noise {
            self.levels = self.networks.config.sampler.levels(steps);
            let times: Vec<_> = self.levels.iter().map(|level| level.time).chain([context_noise]).collect();
            self.modulations = self.networks.dit.modulations(&times)?;
            self.context_noise = context_noise;
        }
        Ok(())
    }

    /// Continues under the text `[rows, text_dim]`, of which only rows with words are given. If it is another, the past is
    /// seen again under it before the next block.
    ///
    /// # Errors
    /// [`Error::Input`] when it is longer than the model reads or of another width.
    pub fn set_text(&mut self, text: &Tensor) -> Result<()> {
        let c = &self.networks.config;
        if !matches!(*text.dims(), [rows, width] if rows <= c.text_len && width == c.text_dim) {
            let (found, rows, width) = (text.dims(), c.text_len, c.text_dim);
            return Err(Error::input(format!("a text of {found:?}: at most [{rows}, {width}] are read")));
        }
        if text.dims() == self.text.dims() && numbers(text)? == numbers(&self.text)? {
            return Ok(());
        }
        self.heard = self.networks.dit.hear(text)?;
        self.text = text.clone();
        self.stale = self.time > 0;
        Ok(())
    }

    /// Remembers true latents `[frames, channels, height, width]`.
    ///
    /// # Errors
    /// [`Error::Tensor`] when they are of another shape.
    pub fn observe(&mut self, latents: &Tensor) -> Result<()> {
        self.pending = None;
        self.refresh()?;
        self.remember(&self.patches(latents)?)
    }

    /// Denoises `noise` `[frames, channels, height, width]` to the latents of the next block; `renoise` gives the noise,
    /// of the same shape, that is added again before each step but the first, counted from 1. They are not part of the past
    /// before [`World::commit`].
    ///
    /// # Errors
    /// [`Error::Tensor`] when they are of another shape, and those of `renoise`.
    pub fn step(&mut self, noise: &Tensor, renoise: impl Fn(usize) -> Result<Tensor>) -> Result<Tensor> {
        let start = Instant::now();
        self.refresh()?;
        let mut x = self.patches(noise)?;
        let at = self.next(noise.dim(0)?);
        self.make_room(at.frames);
        for (i, level) in self.levels.iter().enumerate() {
            self.interrupt.check()?;
            if i > 0 {
                let (keep, fresh) = (f64::from(1.0 - level.sigma), f64::from(level.sigma));
                x = ((x * keep)? + (self.patches(&renoise(i)?)? * fresh)?)?;
            }
            let velocity = self.networks.dit.forward(&x, &self.modulations[i], &self.heard, at, &self.rings)?;
            x = (x - (velocity * f64::from(level.sigma))?)?;
        }
        let latents = self.latents_of(&x)?;
        self.pending = Some(x);
        self.times.denoise = start.elapsed();
        Ok(latents)
    }

    /// Makes the block of the last [`World::step`] part of the past.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is not enough memory.
    pub fn commit(&mut self) -> Result<()> {
        let start = Instant::now();
        if let Some(block) = self.pending.take() {
            self.remember(&block)?;
            self.times.commit = start.elapsed();
        }
        Ok(())
    }

    fn tokens(&self) -> usize {
        self.size[0] * self.size[1]
    }

    fn next(&self, frames: usize) -> Place {
        Place { start: self.time, frames, height: self.size[0], width: self.size[1] }
    }

    /// Forgets what does not fit beside `frames` more, the oldest after the sink first. They do not see it either.
    fn make_room(&mut self, frames: usize) {
        let (window, sink) = (self.networks.config.window(self.tokens()), self.networks.config.sink_size);
        for ring in &mut self.rings {
            while ring.len() > sink && ring.len() + frames > window {
                ring.remove(sink);
            }
        }
    }

    /// Remembers frames `[tokens, patch]`.
    fn remember(&mut self, x: &Tensor) -> Result<()> {
        let tokens = self.tokens();
        let at = self.next(x.dim(0)? / tokens);
        self.make_room(at.frames);
        self.see(x, at)?;
        for i in 0..at.frames {
            self.latents.push_back(x.narrow(0, i * tokens, tokens)?);
        }
        while self.latents.len() > self.networks.config.window(tokens) {
            self.latents.pop_front();
        }
        self.time += at.frames as u64;
        Ok(())
    }

    fn see(&mut self, x: &Tensor, at: Place) -> Result<()> {
        let Some(clean) = self.modulations.last() else { return Ok(()) };
        let seen = self.networks.dit.see(x, clean, &self.heard, at, &self.rings)?;
        self.rings.iter_mut().zip(seen).for_each(|(ring, frames)| ring.extend(frames));
        Ok(())
    }

    /// Sees what is remembered again, all frames at once, if the text has changed since.
    fn refresh(&mut self) -> Result<()> {
        if std::mem::take(&mut self.stale) {
            let c = &self.networks.config;
            let first = self.time - self.latents.len() as u64;
            // The sink stays as it is once the window has left it behind.
            let kept = if c.sampler.global_sink && first > 0 { c.sink_size } else { 0 };
            self.rings.iter_mut().for_each(|ring| ring.truncate(kept));
            let frames: Vec<_> = self.latents.iter().skip(kept).collect();
            let at = Place { start: first + kept as u64, ..self.next(frames.len()) };
            self.see(&Tensor::cat(&frames, 0)?, at)?;
        }
        Ok(())
    }

    fn patches(&self, latents: &Tensor) -> Result<Tensor> {
        let (c, [height, width]) = (&self.networks.config, self.size);
        let (frames, side) = (latents.dims().first().copied().unwrap_or(0), c.side());
        if frames == 0 || latents.dims()[1..] != [c.in_dim, height * side, width * side] {
            let reason = format!("latents of shape {:?}", latents.dims());
            return Err(Error::Tensor(candle_core::Error::Msg(reason)));
        }
        let frame = |i| cells_to_tokens(&latents.get(i)?.permute((1, 2, 0))?.contiguous()?, side);
        Ok(Tensor::cat(&(0..frames).map(frame).collect::<Result<Vec<_>>>()?, 0)?)
    }

    fn latents_of(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, [height, width]) = (self.tokens(), self.size);
        let frame = |i| {
            let frame = x.narrow(0, i * tokens, tokens)?.contiguous()?;
            Ok(tokens_to_cells(&frame, height, width, self.networks.config.side())?.permute((2, 0, 1))?.contiguous()?)
        };
        Ok(Tensor::stack(&(0..x.dim(0)? / tokens).map(frame).collect::<Result<Vec<_>>>()?, 0)?)
    }

    pub(super) fn save(&self, state: &mut RolloutState) -> Result<()> {
        state.insert(TIME, Tensor::new(&[self.time as i64, i64::from(self.stale)], &Device::Cpu)?);
        // An empty tensor cannot be saved: the row of zeros is what a text of no words says.
        let row = Tensor::zeros((1, self.text.dim(1)?), DType::F32, &Device::Cpu)?;
        state.insert(TEXT, Tensor::cat(&[&self.text, &row], 0)?);
        for (i, latent) in self.latents.iter().enumerate() {
            state.insert(format!("{i}.latent"), latent.contiguous()?);
        }
        for (layer, ring) in self.rings.iter().enumerate() {
            for (i, frame) in ring.iter().enumerate() {
                state.insert_segment(format!("{layer}.{i}"), frame);
            }
        }
        Ok(())
    }

    pub(super) fn restore(&mut self, state: &RolloutState) -> Result<()> {
        let (c, tokens) = (&self.networks.config, self.tokens());
        let window = c.window(tokens);
        let times = state.tensor(TIME, &[2])?.to_dtype(DType::I64)?.to_vec1::<i64>()?;
        let time = u64::try_from(times[0]).map_err(|e| Error::input(e.to_string()))?;
        let rows = state.get(TEXT).and_then(|text| text.dims().first().copied()).unwrap_or(0);
        let text = state.tensor(TEXT, &[rows, c.text_dim])?.narrow(0, 0, rows.saturating_sub(1))?;
        let latents = (0..window).map_while(|i| Some(format!("{i}.latent")).filter(|name| state.contains(name)));
        let latents = latents.map(|name| state.tensor(&name, &[tokens, c.patch_len()])).collect::<Result<_>>()?;
        let ring = |layer: usize| {
            let there = |i: &usize| state.contains_segment(&format!("{layer}.{i}"));
            let frame = |i: usize| {
                let pack = |keys: &Tensor, values: &Tensor| self.networks.dit.remembered(keys, values);
                state.segment(&format!("{layer}.{i}"), &[tokens, c.dim], pack)
            };
            (0..window).take_while(there).map(frame).collect()
        };
        let rings = (0..c.num_layers).map(ring).collect::<Result<Vec<Ring>>>()?;
        self.set_text(&text)?;
        (self.time, self.rings, self.latents, self.pending) = (time, rings, latents, None);
        self.stale = times[1] != 0;
        Ok(())
    }
}
