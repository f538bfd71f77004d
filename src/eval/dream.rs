//! The model's side of a measurement: one dreamed world, chunk by chunk.

use std::sync::Arc;

use super::Bench;
use crate::controls::Body;
use crate::model::{Rollout, RolloutState};
use crate::simulate::Noise;
use crate::{Controls, Frame, Result};

/// A world of the model under measurement, with its own counter of chunks.
pub(super) struct Dream {
    rollout: Box<dyn Rollout>,
    seed: u64,
    chunk: u64,
    per_chunk: usize,
    body: Body,
}

/// What [`Dream::back_to`] goes back to.
pub(super) struct Moment {
    state: RolloutState,
    chunk: u64,
    body: Body,
}

impl Dream {
    /// A world without a past.
    pub fn new(bench: &Bench<'_>, seed: u64, prompt: &str) -> Result<Self> {
        let mut rollout = Arc::clone(&bench.model).open(bench.size)?;
        rollout.set_prompt(prompt)?;
        rollout.set_settings(bench.settings);
        Ok(Self { rollout, seed, chunk: 0, per_chunk: bench.model.info().frames_per_chunk, body: Body::default() })
    }

    pub fn set_prompt(&mut self, prompt: &str) -> Result<()> {
        self.rollout.set_prompt(prompt)
    }

    /// Makes true frames its past, a whole number of chunks.
    pub fn observe(&mut self, frames: &[Frame], controls: &[Controls]) -> Result<()> {
        for (frames, controls) in frames.chunks(self.per_chunk).zip(controls.chunks(self.per_chunk)) {
            let noise = self.noise();
            self.rollout.observe(frames, controls, &noise)?;
            controls.iter().for_each(|&c| _ = self.body.tick(c));
            self.chunk += 1;
        }
        Ok(())
    }

    /// Dreams on under `controls`, a whole number of chunks.
    pub fn walk(&mut self, controls: &[Controls]) -> Result<Vec<Frame>> {
        let mut frames = Vec::with_capacity(controls.len());
        for controls in controls.chunks(self.per_chunk) {
            let noise = self.noise();
            let controls: Vec<_> = controls.iter().map(|&c| self.body.tick(c)).collect();
            frames.extend(self.rollout.step(&controls, &noise)?);
            self.rollout.commit(&noise)?;
            self.chunk += 1;
        }
        Ok(frames)
    }

    /// The frames of the VCN alone.
    pub fn reconstruct(&mut self, frames: &[Frame], controls: &[Controls]) -> Result<Vec<Frame>> {
        self.rollout.reconstruct(frames, controls)
    }

    /// This moment.
    pub fn moment(&self) -> Result<Moment> {
        Ok(Moment { state: self.rollout.state()?, chunk: self.chunk, body: self.body })
    }

    /// Goes back to a moment of this world.
    pub fn back_to(&mut self, moment: &Moment) -> Result<()> {
        (self.chunk, self.body) = (moment.chunk, moment.body);
        self.rollout.set_state(&moment.state)
    }

    fn noise(&self) -> Noise {
        Noise { seed: self.seed, chunk: self.chunk }
    }
}
