//! `latents` and the `frames` that they decode to, `rgb_in` and the `latents_enc` that it encodes to.

use std::path::Path;

use candle_core::{Device, Tensor};

use super::{PASS, ROLLOUT, Stage};
use crate::checkpoint::{Vars, Weights};
use crate::family::taehv::{DecoderMemory, EncoderMemory, Taehv};
use crate::{Error, Result};

/// Runs the codec both ways, layer by layer over whole clips and frame by frame.
pub fn stages(folder: &Path, device: &Device) -> Result<Vec<Stage>> {
    let model = Taehv::load(folder, device)?;
    let path = folder.join("case.safetensors");
    let case = Weights::open(&path, device)?;
    let vars = case.vars();
    let (latents, [count, _, height, width]) = input(&vars, &path, "latents")?;
    let frames = vars.sized_by("'latents'").tensor("frames", &model.decoded_shape(count, height, width))?;
    let vars = case.vars();
    let (clip, [count, _, height, width]) = input(&vars, &path, "rgb_in")?;
    let encoded = vars.sized_by("'rgb_in'").tensor("latents_enc", &model.encoded_shape(count, height, width))?;
    case.finish()?;

    let decode = |latents: &Tensor| -> Result<Tensor> {
        let mut memory = DecoderMemory::default();
        let latents = (0..latents.dim(0)?).map(|i| model.decode_next(&latents.get(i)?, &mut memory));
        let frames = latents.collect::<Result<Vec<_>>>()?.concat();
        Ok(Tensor::stack(&frames, 0)?)
    };
    let encode = |clip: &Tensor| -> Result<Tensor> {
        let mut memory = EncoderMemory::default();
        let frames = (0..clip.dim(0)?).map(|i| model.encode_next(&clip.get(i)?, &mut memory));
        let mut latents: Vec<_> = frames.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        latents.extend(model.encode_end(memory)?);
        Ok(Tensor::stack(&latents, 0)?)
    };
    let stage = |name, tolerance, run: &dyn Fn() -> Result<Tensor>, expected: &Tensor| -> Result<Stage> {
        let mut stage = Stage::new(name, tolerance);
        let ours = stage.time(run)?;
        stage.compare(&ours, expected)?;
        Ok(stage)
    };
    Ok(vec![
        stage("decoding", PASS, &|| model.decode(&latents), &frames)?,
        stage("decoding in a stream", ROLLOUT, &|| decode(&latents), &frames)?,
        stage("encoding", PASS, &|| model.encode(&clip), &encoded)?,
        stage("encoding in a stream", ROLLOUT, &|| encode(&clip), &encoded)?,
    ])
}

/// A tensor of four axes, whatever their sizes.
fn input(vars: &Vars, path: &Path, name: &str) -> Result<(Tensor, [usize; 4])> {
    let shape = vars.shape(name)?;
    let Ok(sizes) = <[usize; 4]>::try_from(shape.as_slice()) else {
        return Err(Error::model(path, format!("'{name}' has the shape {shape:?}, not 4 axes")));
    };
    Ok((vars.tensor(name, &shape)?, sizes))
}
