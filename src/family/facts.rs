//! What it takes to run a model, from its headers alone.

use std::path::Path;

use super::taehv::Taehv;
use super::{dream, oasis, taehv, umt5, wan, waypoint};
use crate::Result;
use crate::checkpoint::{Index, Precision, family, folder_of};
use crate::model::Heeded;

/// What it takes to run a model.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Number of weights.
    pub parameters: usize,
    /// What a world takes; nothing of a family that makes no frames by itself.
    pub world: Option<WorldFacts>,
    /// What a user should know of the rights.
    pub notice: Option<&'static str>,
}

/// What a world takes.
#[derive(Clone, Debug)]
pub struct WorldFacts {
    /// Bytes of weights and of a full memory while it runs.
    pub bytes: u64,
    /// Billions of operations a frame.
    pub gflop_per_frame: f64,
    /// Frames a second that the world is meant to run at.
    pub fps: f32,
    /// Whether it reads prompts.
    pub reads_text: bool,
    /// What it is told of the player.
    pub controls: Heeded,
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

/// Checks every name and shape in the files of the model at `path` against its config and says what it takes to run it.
/// Nothing of a family that is not known.
///
/// # Errors
/// [`Error::Model`](crate::Error::Model) or [`Error::Io`](crate::Error::Io) when it cannot be run, with the reason.
pub fn facts(path: &Path) -> Result<Option<Facts>> {
    let family = family(path)?;
    let (parameters, world) = match family.as_str() {
        "dream" => {
            let files = dream::Files::open(folder_of(path))?;
            let config = &files.config;
            let parameters = [Some(&files.vcn), Some(&files.dit), files.edits.as_ref()];
            let parameters = parameters.into_iter().flatten().map(Index::parameters).sum::<usize>() + files.text;
            let flop =
                config.flop_per_chunk(config.default_size(), config.steps, config.guidance) / config.frames_per_chunk;
            let bytes = files.bytes();
            let world = WorldFacts {
                bytes,
                gflop_per_frame: flop as f64 * 1e-9,
                fps: config.fps,
                reads_text: true,
                controls: dream::heeded(config),
            };
            (parameters, Some(world))
        }
        "oasis" => {
            let files = oasis::Files::open(path)?;
            files.check()?;
            let parameters = files.dit.parameters() + files.vae.parameters();
            let world = WorldFacts {
                bytes: files.config.precision.bytes(parameters) + files.config.dit.memory_bytes(),
                gflop_per_frame: files.config.flop_per_frame(files.config.ddim_steps.0) * 1e-9,
                fps: oasis::FPS,
                reads_text: false,
                controls: oasis::heeded(),
            };
            (parameters, Some(world))
        }
        "taehv" => (Taehv::check(path)?, None),
        "umt5" => (umt5::check(path)?, None),
        "wan-causal" => {
            let files = wan::Files::open(path)?;
            files.check()?;
            let (config, [height, width]) = (files.config, wan::LATENT);
            if let Some(text) = &files.text {
                config.text_encoder.check_index(text)?;
            }
            let codec = files.codec.map_or(Ok(0), |codec| Taehv::check_index(codec, config.in_dim))?;
            let parameters = files.dit.parameters() + codec;
            let tokens = height * width / (config.side() * config.side());
            let steps = config.sampler.denoising_step_list.len();
            let flop = config.flop_per_block(steps, height, width)
                / (config.sampler.num_frame_per_block * wan::FRAMES_PER_LATENT) as f64;
            let world = WorldFacts {
                bytes: config.precision.bytes(files.dit.parameters())
                    + Precision::F32.bytes(codec)
                    + config.memory_bytes(tokens),
                gflop_per_frame: flop * 1e-9,
                fps: wan::FPS,
                reads_text: true,
                controls: Heeded::default(),
            };
            (parameters, Some(world))
        }
        "waypoint" => {
            let files = waypoint::Files::open(path)?;
            files.check()?;
            let held = files.held();
            let config = files.config;
            let codec = files.codec.map_or(Ok(0), |codec| Taehv::check_index(codec, config.channels))?;
            let parameters = files.dit.parameters() + codec;
            let steps = config.scheduler_sigmas.len() - 1;
            let flop = config.flop_per_latent(steps) / config.temporal_compression as f64;
            let world = WorldFacts {
                bytes: config.precision.bytes(held) + Precision::F32.bytes(codec) + config.memory_bytes(),
                gflop_per_frame: flop * 1e-9,
                fps: config.inference_fps,
                reads_text: false,
                controls: waypoint::heeded(config.n_buttons),
            };
            (parameters, Some(world))
        }
        _ => return Ok(None),
    };
    Ok(Some(Facts { parameters, world, notice: notice(&family) }))
}
