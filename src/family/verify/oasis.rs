//! A rollout after `seed_latents` under `actions`, from `noise` to `latents`, and pictures through the autoencoder:
//! `vae_rgb_in` to `vae_latents` to `vae_rgb_out`.
//!
//! Pixels may be told as 0 to 1 or as -1 to 1, clamped or not, and latents as the autoencoder or as the DiT has them, by
//! channels or by tokens: what fits best counts.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::{PASS, ROLLOUT, Stage};
use crate::checkpoint::Weights;
use crate::family::oasis::config::Context;
use crate::family::oasis::{Files, LATENT_SCALE, Networks, World};
use crate::{Error, Result};

/// The networks, and what the reference made of them.
pub struct Fixture {
    networks: Arc<Networks>,
    seeds: Tensor,
    actions: Vec<Vec<f32>>,
    noise: Tensor,
    latents: Tensor,
    pictures: [Tensor; 3],
}

impl Fixture {
    /// Loads a folder.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read, [`Error::Model`] when it is not what it should be.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let networks = Arc::new(Networks::load(Files::open(folder)?, device)?);
        let path = folder.join("case.safetensors");
        let file = Weights::open(&path, device)?;
        let vars = file.vars();
        let count = |name| -> Result<usize> { Ok(vars.shape(name)?.first().copied().unwrap_or(0)) };
        // A single picture may stand without an axis of its own.
        let single = vars.shape("vae_rgb_in")?.len() == 3;
        let pictures = if single { 1 } else { count("vae_rgb_in")? };
        let (seeds, frames) = (count("seed_latents")?, count("latents")?);
        if !(1..frames).contains(&seeds) || pictures == 0 {
            let reason = format!("{frames} frames after {seeds} seeds and {pictures} pictures: none to compare");
            return Err(Error::model(path, reason));
        }
        let (dit, vae) = (&networks.config.dit, &networks.config.vae);
        let latent = [dit.in_channels, dit.input_h, dit.input_w];
        let picture = [3, vae.input_height, vae.input_width];
        let take = |name, count: usize, shape: &[usize]| vars.tensor(name, &[&[count], shape].concat());
        let coded = |name, shape: &[usize]| {
            let alone = single && vars.shape(name)?.len() == shape.len();
            if alone { Ok(vars.tensor(name, shape)?.unsqueeze(0)?) } else { take(name, pictures, shape) }
        };
        let tokens = [dit.input_h * dit.input_w, dit.in_channels];
        let vae_latents = if vars.shape("vae_latents")?.ends_with(&tokens) {
            let shape = (pictures, dit.in_channels, dit.input_h, dit.input_w);
            coded("vae_latents", &tokens)?.transpose(1, 2)?.contiguous()?.reshape(shape)?
        } else {
            coded("vae_latents", &latent)?
        };
        let fixture = Self {
            seeds: take("seed_latents", seeds, &latent)?,
            actions: take("actions", frames, &[dit.external_cond_dim])?.to_vec2()?,
            noise: take("noise", frames - seeds, &latent)?,
            latents: take("latents", frames, &latent)?,
            pictures: [coded("vae_rgb_in", &picture)?, vae_latents, coded("vae_rgb_out", &picture)?],
            networks: Arc::clone(&networks),
        };
        file.finish()?;
        Ok(fixture)
    }

    /// Frames that the window holds.
    pub fn max_frames(&self) -> usize {
        self.networks.config.dit.max_frames
    }

    /// The latents of the whole rollout, the seeds included, with the past treated as `context` tells.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is not enough memory.
    pub fn rollout(&self, context: Context) -> Result<Vec<Tensor>> {
        let mut world = World::new(Arc::clone(&self.networks), context);
        let seeds = self.seeds.dim(0)?;
        let frame = |(i, action): (usize, &Vec<f32>)| {
            if i < seeds {
                let latent = self.seeds.get(i)?;
                world.observe(&latent, action)?;
                return Ok(latent);
            }
            let latent = world.step(&self.noise.get(i - seeds)?, action)?;
            world.commit()?;
            Ok(latent)
        };
        self.actions.iter().enumerate().map(frame).collect()
    }

    pub(super) fn stages(&self) -> Result<Vec<Stage>> {
        let mut rollout = Stage::new("denoising", ROLLOUT);
        let context = self.networks.config.context;
        for (i, latent) in rollout.time(|| self.rollout(context))?.iter().enumerate() {
            rollout.compare(latent, &self.latents.get(i)?)?;
        }
        let [pixels, latents, decoded] = &self.pictures;
        let [mut encoding, mut decoding] = ["encoding", "decoding"].map(|name| Stage::new(name, PASS));
        let (mut encoded, mut pictures) = (Vec::new(), Vec::new());
        for pixels in [((pixels * 2.0)? - 1.0)?, pixels.clone()] {
            let ours = encoding.time(|| self.networks.encode(&pixels))?;
            encoded.extend([(&ours / LATENT_SCALE)?, ours]);
        }
        for latents in [latents.clone(), (latents * LATENT_SCALE)?] {
            let ours = decoding.time(|| self.networks.decode(&latents))?;
            let halved = ((&ours + 1.0)? / 2.0)?;
            pictures.extend([halved.clamp(0f32, 1f32)?, halved, ours]);
        }
        best(&mut encoding, &encoded, latents)?;
        best(&mut decoding, &pictures, decoded)?;
        Ok(vec![rollout, encoding, decoding])
    }
}

/// Counts whichever of `ours` is nearest to what is expected, and the time of one of them.
fn best(stage: &mut Stage, ours: &[Tensor], expected: &Tensor) -> Result<()> {
    let tried = ours.iter().map(|ours| {
        let mut stage = Stage::new(stage.name, stage.tolerance);
        stage.compare(ours, expected)?;
        Ok(stage.error)
    });
    stage.error = tried.collect::<Result<Vec<_>>>()?.into_iter().fold(f32::INFINITY, f32::min);
    stage.seconds /= 2.0;
    Ok(())
}
