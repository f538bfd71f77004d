//! A rollout after `seed_latents`, seen without controls, under `controls` from `noise` to `latents`.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::{PASS, ROLLOUT, Stage};
use crate::checkpoint::Weights;
use crate::family::waypoint::{Files, Networks, World};
use crate::{Error, Result};

/// Runs the rollout.
pub fn stages(folder: &Path, device: &Device) -> Result<Vec<Stage>> {
    let (networks, _) = Networks::load(Files::open(folder)?, device)?;
    let (latent, actions) = (networks.config.latent(), networks.config.controls());
    let path = folder.join("case.safetensors");
    let case = Weights::open(&path, device)?;
    let vars = case.vars();
    let count = |name| -> Result<usize> { Ok(vars.shape(name)?.first().copied().unwrap_or(0)) };
    let (seeds, frames) = (count("seed_latents")?, count("noise")?);
    if frames == 0 {
        return Err(Error::model(path, "'noise' is of no frame: none to compare"));
    }
    let take = |name, count: usize, shape: &[usize]| vars.tensor(name, &[&[count], shape].concat());
    let (seed_latents, noise) = (take("seed_latents", seeds, &latent)?, take("noise", frames, &latent)?);
    let expected = take("latents", frames, &latent)?;
    let controls: Vec<Vec<f32>> = take("controls", frames, &[actions])?.to_vec2()?;
    case.finish()?;

    let mut world = World::new(Arc::new(networks))?;
    for i in 0..seeds {
        world.observe(&seed_latents.get(i)?, &vec![0.0; actions])?;
    }
    let (mut first, mut all) = (Stage::new("first latent", PASS), Stage::new("rollout", ROLLOUT));
    for (i, controls) in controls.iter().enumerate() {
        let noise = noise.get(i)?;
        let ours: Tensor = all.time(|| world.step(&noise, controls))?;
        if i == 0 {
            first.seconds = all.seconds;
            first.compare(&ours, &expected.get(i)?)?;
        }
        all.time(|| world.commit())?;
        all.compare(&ours, &expected.get(i)?)?;
    }
    Ok(vec![first, all])
}
