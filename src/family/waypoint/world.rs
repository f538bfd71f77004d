//! One world: the frames that every layer remembers, and how they grow.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use super::Networks;
use super::dit::{Heard, Modulation, Ring};
use crate::model::patch::{cells_to_tokens, tokens_to_cells};
use crate::model::{Interrupt, RolloutState, StageTimes};
use crate::{Error, Result};

/// Of a saved world: the place in time of the next frame.
const TIME: &str = "time";

/// One world's memory, driven by controls.
pub struct World {
    networks: Arc<Networks>,
    /// Denoising steps of a latent.
    pub steps: usize,
    sigmas: Vec<f32>,
    /// Of every noise level, the last of which is none.
    levels: Vec<Modulation>,
    time: u64,
    rings: Vec<Ring>,
    pending: Option<(Tensor, Heard)>,
    /// What may interrupt [`World::step`].
    pub interrupt: Interrupt,
    pub(super) times: StageTimes,
}

impl World {
    /// A world with no past.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is not enough memory.
    pub fn new(networks: Arc<Networks>) -> Result<Self> {
        let config = &networks.config;
        let sigmas = config.scheduler_sigmas.clone();
        let levels = networks.dit.modulations(&sigmas)?;
        let rings = (0..config.n_layers).map(|_| Ring::default()).collect();
        let steps = sigmas.len() - 1;
        Ok(Self {
            networks,
            steps,
            sigmas,
            levels,
            time: 0,
            rings,
            pending: None,
            interrupt: Interrupt::default(),
            times: StageTimes::default(),
        })
    }

    /// Finds the noise levels of as many steps as are asked for: the published ones, or evenly between them.
    fn follow_steps(&mut self) -> Result<()> {
        let steps = self.steps;
        if steps + 1 == self.sigmas.len() {
            return Ok(());
        }
        let published = &self.networks.config.scheduler_sigmas;
        let at = |i: usize| {
            let place = (i * (published.len() - 1)) as f32 / steps as f32;
            let (whole, part) = (place as usize, place.fract());
            let next = published.get(whole + 1).unwrap_or(&0.0);
            published[whole] + part * (next - published[whole])
        };
        let sigmas: Vec<_> = (0..=steps).map(at).collect();
        self.levels = self.networks.dit.modulations(&sigmas)?;
        self.sigmas = sigmas;
        Ok(())
    }

    /// Remembers a true latent `[channels, height, width]` under `controls`.
    ///
    /// # Errors
    /// [`Error::Tensor`] when they are of another shape.
    pub fn observe(&mut self, latent: &Tensor, controls: &[f32]) -> Result<()> {
        let heard = self.hear(controls)?;
        self.pending = None;
        self.remember(&self.patches(latent)?, &heard)
    }

    /// Denoises `noise` `[channels, height, width]` to the latent of the next frames under `controls`. It is not part of the
    /// past before [`World::commit`].
    ///
    /// # Errors
    /// [`Error::Tensor`] when they are of another shape.
    pub fn step(&mut self, noise: &Tensor, controls: &[f32]) -> Result<Tensor> {
        let start = Instant::now();
        self.follow_steps()?;
        let heard = self.hear(controls)?;
        let mut x = self.patches(noise)?;
        self.make_room();
        for (sigmas, by) in self.sigmas.windows(2).zip(&self.levels) {
            self.interrupt.check()?;
            let velocity = self.networks.dit.forward(&x, by, &heard, self.time, &self.rings)?;
            x = (x + (velocity * f64::from(sigmas[1] - sigmas[0]))?)?;
        }
        let latent = self.latent(&x)?;
        self.pending = Some((x, heard));
        self.times.denoise = start.elapsed();
        Ok(latent)
    }

    /// Makes the latent of the last [`World::step`] part of the past.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is not enough memory.
    pub fn commit(&mut self) -> Result<()> {
        let start = Instant::now();
        if let Some((latent, heard)) = self.pending.take() {
            self.remember(&latent, &heard)?;
            self.times.commit = start.elapsed();
        }
        Ok(())
    }

    /// Forgets what the next frame will take the place of: it does not see it either.
    fn make_room(&mut self) {
        for (i, ring) in self.rings.iter_mut().enumerate() {
            let (frames, every) = self.networks.config.memory(i);
            if self.time.is_multiple_of(every as u64) && ring.0.len() == frames {
                ring.0.pop_front();
            }
        }
    }

    fn remember(&mut self, latent: &Tensor, heard: &Heard) -> Result<()> {
        self.make_room();
        let Some(clean) = self.levels.last() else { return Ok(()) };
        let seen = self.networks.dit.see(latent, clean, heard, self.time, &self.rings)?;
        for (i, (ring, frame)) in self.rings.iter_mut().zip(seen).enumerate() {
            if self.time.is_multiple_of(self.networks.config.memory(i).1 as u64) {
                ring.0.push_back(frame);
            }
        }
        self.time += 1;
        Ok(())
    }

    fn hear(&self, controls: &[f32]) -> Result<Heard> {
        self.networks.dit.hear(&Tensor::from_slice(controls, (1, controls.len()), &Device::Cpu)?)
    }

    fn patches(&self, latent: &Tensor) -> Result<Tensor> {
        let c = &self.networks.config;
        if latent.dims() != c.latent() {
            let reason = format!("a latent of shape {:?}", latent.dims());
            return Err(Error::Tensor(candle_core::Error::Msg(reason)));
        }
        cells_to_tokens(&latent.permute((1, 2, 0))?.contiguous()?, c.side())
    }

    fn latent(&self, patches: &Tensor) -> Result<Tensor> {
        let c = &self.networks.config;
        Ok(tokens_to_cells(patches, c.height, c.width, c.side())?.permute((2, 0, 1))?.contiguous()?)
    }

    pub(super) fn save(&self, state: &mut RolloutState) -> Result<()> {
        state.insert(TIME, Tensor::new(self.time as i64, &Device::Cpu)?);
        for (layer, ring) in self.rings.iter().enumerate() {
            for (i, frame) in ring.0.iter().enumerate() {
                state.insert_segment(format!("{layer}.{i}"), frame);
            }
        }
        Ok(())
    }

    pub(super) fn restore(&mut self, state: &RolloutState) -> Result<()> {
        let c = &self.networks.config;
        let time = state.tensor(TIME, &[])?.to_dtype(DType::I64)?.to_scalar::<i64>()?;
        let time = u64::try_from(time).map_err(|e| Error::input(e.to_string()))?;
        let shape = [c.tokens(), c.kv_heads() * c.head_dim()];
        let ring = |layer: usize| {
            let there = |i: &usize| *i < c.memory(layer).0 && state.contains_segment(&format!("{layer}.{i}"));
            let frame = |i: usize| {
                state
                    .segment(&format!("{layer}.{i}"), &shape, |keys, values| self.networks.dit.remembered(keys, values))
            };
            Ok(Ring((0..).take_while(there).map(frame).collect::<Result<_>>()?))
        };
        let rings = (0..c.n_layers).map(ring).collect::<Result<Vec<_>>>()?;
        (self.time, self.rings, self.pending) = (time, rings, None);
        Ok(())
    }
}
