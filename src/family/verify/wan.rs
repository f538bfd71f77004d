//! A rollout under `text_embeds` from `noise` and `renoise` to `latents`, block by block; from the blocks `switch_chunks`
//! on, `other_text_embeds` and `text_embeds` take turns.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::{PASS, ROLLOUT, Stage};
use crate::checkpoint::Weights;
use crate::family::wan::{Files, Networks, World};
use crate::{Error, Result};

/// Runs the rollout.
pub fn stages(folder: &Path, device: &Device) -> Result<Vec<Stage>> {
    let networks = Networks::load(Files::open(folder)?, device)?;
    let c = &networks.config;
    let path = folder.join("case.safetensors");
    let case = Weights::open(&path, device)?;
    let vars = case.vars();
    let shape = vars.shape("noise")?;
    let [chunks, frames, channels, height, width] = shape[..] else {
        return Err(Error::model(
            path,
            format!("'noise' has the shape {shape:?}, not [chunks, frames, channels, h, w]"),
        ));
    };
    if chunks == 0 || frames == 0 || channels != c.in_dim {
        return Err(Error::model(path, format!("'noise' has the shape {shape:?}: none to compare")));
    }
    let noise = vars.tensor("noise", &shape)?;
    let steps = c.sampler.denoising_step_list.len();
    let renoise =
        if steps > 1 { Some(vars.tensor("renoise", &[&[chunks, steps - 1], &shape[1..]].concat())?) } else { None };
    // Chunks may stand one by one or joined.
    let joined = vars.shape("latents")?.len() == 4;
    let expected = if joined { [&[chunks * frames], &shape[2..]].concat() } else { shape.clone() };
    let expected = vars.tensor("latents", &expected)?.reshape(shape)?;
    let text = |name| vars.tensor(name, &[vars.shape(name)?.first().copied().unwrap_or(0), c.text_dim]);
    let mut texts = [text("text_embeds")?, Tensor::zeros((0, c.text_dim), DType::F32, device)?];
    let mut switches = Vec::new();
    if let Ok(shape) = vars.shape("switch_chunks") {
        switches = vars.tensor("switch_chunks", &shape)?.flatten_all()?.to_vec1::<f32>()?;
        texts[1] = text("other_text_embeds")?;
    }
    case.finish()?;

    let mut world = World::new(Arc::new(networks), height, width)?;
    world.set_text(&texts[0])?;
    let (mut first, mut all) = (Stage::new("first chunk", PASS), Stage::new("rollout", ROLLOUT));
    for chunk in 0..chunks {
        if switches.contains(&(chunk as f32)) {
            texts.swap(0, 1);
            world.set_text(&texts[0])?;
        }
        let fresh = |step: usize| match &renoise {
            Some(renoise) => Ok(renoise.get(chunk)?.get(step - 1)?),
            None => Err(Error::input("one step adds no noise")),
        };
        let noise = noise.get(chunk)?;
        let ours = all.time(|| world.step(&noise, fresh))?;
        if chunk == 0 {
            first.seconds = all.seconds;
            first.compare(&ours, &expected.get(0)?)?;
        }
        all.time(|| world.commit())?;
        all.compare(&ours, &expected.get(chunk)?)?;
    }
    Ok(vec![first, all])
}
