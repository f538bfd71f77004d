//! What it takes to run a model, from its headers alone.

use std::fs;
use std::path::Path;

use super::{oasis, taehv, umt5, wan, waypoint};
use crate::checkpoint::{Index, family};
use crate::model::config::Config;
use crate::{Error, Result};

/// What it takes to run a model.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Number of weights.
    pub parameters: usize,
    /// Bytes of weights and of a full memory while it runs.
    pub bytes: u64,
    /// Billions of operations a frame.
    pub gflop_per_frame: f64,
    /// Frames a second that the world is meant to run at.
    pub fps: f32,
    /// What a user should know of the rights.
    pub notice: Option<&'static str>,
}

/// What a user should know of the rights to the models of a family; nothing of our own.
pub fn notice(family: &str) -> Option<&'static str> {
    Some(match family {
        "oasis" => oasis::NOTICE,
        "taehv" => taehv::NOTICE,
        "umt5" => umt5::NOTICE,
        "wan-causal" => wan::NOTICE,
        "waypoint" => waypoint::NOTICE,
        _ => return None,
    })
}

/// Checks every name and shape of the model at `path` against its config and says what it takes to run it. Nothing of a
/// family that makes no frames by itself.
///
/// # Errors
/// [`Error::Model`] or [`Error::Io`] when it cannot be run, with the reason.
pub fn facts(path: &Path) -> Result<Option<Facts>> {
    Ok(match family(path)?.as_str() {
        "dream" => {
            let file = path.join("config.json");
            let text = fs::read_to_string(&file).map_err(Error::io(&file))?;
            let config = Config::parse(&text).map_err(|reason| Error::model(&file, reason))?;
            let parameters = ["vcn.safetensors", "dit.safetensors"].map(|name| Index::open(path.join(name)));
            let parameters = parameters.into_iter().map(|index| Ok(index?.parameters())).sum::<Result<usize>>()?;
            let flop = config.flop_per_chunk(config.default_size(), config.steps) / config.frames_per_chunk;
            Some(Facts {
                parameters,
                bytes: 4 * parameters as u64,
                gflop_per_frame: flop as f64 * 1e-9,
                fps: config.fps,
                notice: None,
            })
        }
        "oasis" => {
            let files = oasis::Files::open(path)?;
            files.check()?;
            let parameters = files.dit.parameters() + files.vae.parameters();
            Some(Facts {
                parameters,
                bytes: files.config.precision.bytes(parameters) + (4.0 * files.config.dit.memory()) as u64,
                gflop_per_frame: files.config.flop_per_frame(files.config.ddim_steps.0) * 1e-9,
                fps: oasis::FPS,
                notice: Some(oasis::NOTICE),
            })
        }
        "wan-causal" => {
            let files = wan::Files::open(path)?;
            files.check()?;
            let (config, [height, width]) = (&files.config, wan::LATENT);
            let codec = files.codec.as_ref().map_or(0, Index::parameters);
            let parameters = files.dit.parameters() + codec;
            let tokens = height * width / (config.side() * config.side());
            let steps = config.sampler.denoising_step_list.len();
            let flop = config.flop_per_block(steps, height, width)
                / (config.sampler.num_frame_per_block * wan::FRAMES_PER_LATENT) as f64;
            Some(Facts {
                parameters,
                bytes: config.precision.bytes(parameters) + (4.0 * config.memory_len(tokens)) as u64,
                gflop_per_frame: flop * 1e-9,
                fps: wan::FPS,
                notice: Some(wan::NOTICE),
            })
        }
        "waypoint" => {
            let files = waypoint::Files::open(path)?;
            files.check()?;
            let config = &files.config;
            let codec = files.codec.as_ref().map_or(0, Index::parameters);
            let parameters = files.dit.parameters() + codec;
            let steps = config.scheduler_sigmas.len() - 1;
            let flop = config.flop_per_latent(steps) / config.temporal_compression as f64;
            Some(Facts {
                parameters,
                bytes: config.precision.bytes(parameters) + (4.0 * config.memory_len()) as u64,
                gflop_per_frame: flop * 1e-9,
                fps: config.inference_fps,
                notice: Some(waypoint::NOTICE),
            })
        }
        _ => None,
    })
}
