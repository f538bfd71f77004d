//! Our own model: two rollouts of `train/export.py --fixture`, one after true frames and one from nothing.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::{ROLLOUT, Stage};
use crate::checkpoint::Weights;
use crate::controls::CONTROL_DIM;
use crate::family::dream::{Networks, World};
use crate::kernel::Array;
use crate::model::Settings;
use crate::model::config::Config;
use crate::{Controls, Error, Result};

/// The networks, and what the reference made of them.
pub struct Fixture {
    networks: Arc<Networks>,
    case: HashMap<&'static str, Tensor>,
    /// Chunks of the rollout, how many of them are seen before dreaming, and chunks of the rollout from nothing.
    chunks: usize,
    seen: usize,
    from_nothing: usize,
}

impl Fixture {
    /// Loads a folder.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read, [`Error::Model`] when it is not what it should be.
    pub fn load(folder: &Path) -> Result<Self> {
        let networks = Arc::new(Networks::load_exact(folder, &Device::Cpu)?);
        let path = folder.join("case.safetensors");
        let file = Weights::open(&path, &Device::Cpu)?;
        let vars = file.vars();
        let count = |name| -> Result<usize> { Ok(vars.shape(name)?.first().copied().unwrap_or(0)) };
        let (chunks, seen, from_nothing) = (count("latents")?, count("encoded")?, count("latents_no_past")?);
        if !(1..chunks).contains(&seen) || !(1..=chunks).contains(&from_nothing) {
            let reason =
                format!("{chunks} chunks, of them {seen} seen, and {from_nothing} from nothing: none to compare");
            return Err(Error::model(path, reason));
        }
        let c = &networks.config;
        let (size, per_chunk) = (c.default_size(), c.frames_per_chunk);
        let (height, width) = (size.height, size.width);
        let latent = [height / c.patch * (width / c.patch), c.latent];
        let pictures = [per_chunk, 3, height, width];
        let mut case = HashMap::new();
        for (name, chunks, shape) in [
            ("frames", seen, &pictures[..]),
            ("encoded", seen, &latent),
            ("controls", chunks, &[per_chunk, c.controls]),
            ("text", chunks, &[c.text]),
            ("noise", chunks, &latent),
            ("context_eps", chunks, &latent),
            ("latents", chunks, &latent),
            ("decoded", chunks, &pictures),
            ("latents_no_past", from_nothing, &latent),
        ] {
            case.insert(name, vars.tensor(name, &[&[chunks], shape].concat())?);
        }
        file.finish()?;
        Ok(Self { networks, case, chunks, seen, from_nothing })
    }

    /// Runs both rollouts.
    pub(super) fn stages(&self) -> Result<Vec<Stage>> {
        let [mut encoding, mut denoising, mut decoding, mut alone] =
            ["encoding", "denoising", "decoding", "denoising from nothing"].map(|name| Stage::new(name, ROLLOUT));
        let mut world = self.world()?;
        for chunk in 0..self.chunks {
            let controls = self.controls(chunk)?;
            world.set_text(self.array("text", chunk)?)?;
            let context_noise = self.array("context_eps", chunk)?;
            if chunk < self.seen {
                let cells = Array::from_tensor(&self.cells("frames", chunk)?)?;
                let latent = encoding.time(|| world.encode_cells(cells, &controls))?;
                encoding.compare(&latent.tensor()?, &self.at("encoded", chunk)?)?;
                world.observe_latent(latent, &controls, &context_noise)?;
            } else {
                let (latent, cells) = world.step_from(&controls, &self.array("noise", chunk)?)?;
                denoising.compare(&latent.tensor()?, &self.at("latents", chunk)?)?;
                decoding.compare(&cells.tensor()?, &self.cells("decoded", chunk)?)?;
                denoising.seconds += world.times().denoise.as_secs_f64();
                decoding.seconds += world.times().decode.as_secs_f64();
                world.commit_with(&context_noise)?;
            }
        }
        let mut world = self.world()?;
        for chunk in 0..self.from_nothing {
            let (latent, _) = alone.time(|| self.dream(&mut world, chunk))?;
            alone.compare(&latent.tensor()?, &self.at("latents_no_past", chunk)?)?;
        }
        Ok(vec![encoding, denoising, decoding, alone])
    }

    /// A world with no past.
    ///
    /// # Errors
    /// As of [`World::new`].
    pub fn world(&self) -> Result<World> {
        let c = &self.networks.config;
        let settings = Settings {
            steps: c.steps,
            first_steps: c.first_steps,
            guidance: c.guidance,
            context_noise: c.context_noise,
        };
        World::new(Arc::clone(&self.networks), c.default_size(), self.array("text", 0)?, settings)
    }

    /// The latent and the cells of the next chunk of `world`, with the inputs of `chunk`.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the fixture has no such chunk.
    pub fn dream(&self, world: &mut World, chunk: usize) -> Result<(Array, Array)> {
        world.set_text(self.array("text", chunk)?)?;
        let (latent, cells) = world.step_from(&self.controls(chunk)?, &self.array("noise", chunk)?)?;
        let dreamt = (latent.clone(), cells.clone());
        world.commit_with(&self.array("context_eps", chunk)?)?;
        Ok(dreamt)
    }

    /// One chunk's part of a tensor of the case.
    fn at(&self, name: &str, chunk: usize) -> Result<Tensor> {
        Ok(self.case[name].get(chunk)?.contiguous()?)
    }

    fn array(&self, name: &str, chunk: usize) -> Result<Array> {
        Ok(Array::from_tensor(&self.at(name, chunk)?)?)
    }

    fn controls(&self, chunk: usize) -> Result<Vec<Controls>> {
        let numbers = self.at("controls", chunk)?.flatten_all()?.to_vec1::<f32>()?;
        let tick = |row: &[f32]| {
            let (known, more) = row.split_first_chunk::<CONTROL_DIM>()?;
            let mut controls = Controls::from_vector(*known);
            controls.extra.iter_mut().zip(more).for_each(|(extra, &value)| *extra = value);
            Some(controls)
        };
        Ok(numbers.chunks_exact(self.networks.config.controls).filter_map(tick).collect())
    }

    /// Frames `[frames, 3, height, width]` as cells `[height / 4, width / 4, frames * 3 * 4 * 4]`.
    fn cells(&self, name: &str, chunk: usize) -> Result<Tensor> {
        let frames = self.at(name, chunk)?;
        let (count, _, height, width) = frames.dims4()?;
        let cell = Config::CELL;
        let split = frames.reshape(&[count, 3, height / cell, cell, width / cell, cell][..])?;
        let cells = split.permute([2, 4, 0, 1, 3, 5])?.contiguous()?;
        Ok(cells.reshape((height / cell, width / cell, count * 3 * cell * cell))?)
    }
}
