//! Flow matching in a few steps: at each the clean latent is predicted, then noise of the next level is added again.

use serde::Deserialize;

use crate::family::layer::linspace;

/// Noise levels that the model was trained with.
const LEVELS: usize = 1000;

/// How a block is denoised, with the reference's keys; those of the published models where absent.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Sampler {
    /// Where its steps begin, 1000 being noise and 0 none.
    pub denoising_step_list: Vec<usize>,
    /// Whether the steps count levels, or are times.
    pub warp_denoising_step: bool,
    /// How much of the steps is spent on strong noise; 1 is even.
    pub timestep_shift: f32,
    /// Latent frames that are made together.
    pub num_frame_per_block: usize,
    /// The time at which a finished block is remembered.
    pub context_noise: f32,
    /// Whether the first frames keep what they were under the first prompt when the prompt changes.
    pub global_sink: bool,
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            denoising_step_list: vec![1000, 750, 500, 250],
            warp_denoising_step: true,
            timestep_shift: 5.0,
            num_frame_per_block: 3,
            context_noise: 0.0,
            global_sink: true,
        }
    }
}

/// Where a step of denoising begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// What the network is told.
    pub time: f32,
    /// The part of noise in the latent.
    pub sigma: f32,
}

impl Sampler {
    pub(super) fn check(&self) -> Result<(), String> {
        let steps = &self.denoising_step_list;
        if !(1..=64).contains(&steps.len()) || steps.iter().any(|step| *step > LEVELS) {
            return Err(format!("denoising_step_list is not 1 to 64 numbers of 0 to {LEVELS}"));
        }
        if !(1..=64).contains(&self.num_frame_per_block) {
            return Err(format!("num_frame_per_block is {}, not 1 to 64", self.num_frame_per_block));
        }
        if !(self.timestep_shift.is_finite() && self.timestep_shift > 0.0) {
            return Err(format!("timestep_shift is {}", self.timestep_shift));
        }
        if !(0.0..=LEVELS as f32).contains(&self.context_noise) {
            return Err(format!("context_noise is {}, not 0 to {LEVELS}", self.context_noise));
        }
        Ok(())
    }

    /// The levels of `steps` steps: the published ones, or evenly between them and none.
    pub fn levels(&self, steps: usize) -> Vec<Level> {
        let list = &self.denoising_step_list;
        let step = |i: usize| {
            let place = (i * list.len()) as f32 / steps as f32;
            let (whole, part) = (place as usize, place.fract());
            let [this, next] = [whole, whole + 1].map(|i| list.get(i).copied().unwrap_or(0) as f32);
            (this + part * (next - this)).round() as usize
        };
        let level = |i| {
            let step = step(i);
            let time = match (self.warp_denoising_step, step) {
                (true, 0) => 0.0,
                (true, _) => self.time(LEVELS - step),
                (false, _) => step as f32,
            };
            Level { time, sigma: self.sigma_of(time) }
        };
        (0..steps).map(level).collect()
    }

    /// The part of noise at a level, 0 being the noisiest. Rounded as the reference does it.
    fn sigma(&self, level: usize) -> f32 {
        let even = linspace(1.0, 0.0, LEVELS + 1, level);
        self.timestep_shift * even / (1.0 + (self.timestep_shift - 1.0) * even)
    }

    fn time(&self, level: usize) -> f32 {
        self.sigma(level) * LEVELS as f32
    }

    /// The part of noise at the level whose time is nearest.
    fn sigma_of(&self, time: f32) -> f32 {
        let distance = |level: &usize| (self.time(*level) - time).abs();
        let nearest = (0..LEVELS).min_by(|a, b| distance(a).total_cmp(&distance(b)));
        self.sigma(nearest.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_steps_are_warped() {
        let sampler = Sampler::default();
        let times: Vec<_> = sampler.levels(4).iter().map(|level| level.time).collect();
        assert_eq!(times, [1000.0, 937.5, 833.3333, 625.0]);
        assert!(sampler.levels(4).iter().all(|level| (level.sigma * 1000.0 - level.time).abs() < 1e-3));
        assert_eq!(sampler.levels(8)[2], sampler.levels(4)[1]);
        assert_eq!(sampler.levels(1), sampler.levels(4)[..1]);
        let plain = Sampler { warp_denoising_step: false, ..sampler };
        assert_eq!(plain.levels(4)[2].time, 500.0);
        assert!((plain.levels(4)[2].sigma - 0.5).abs() < 2e-3);
    }
}
