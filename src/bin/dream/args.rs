//! Arguments that several commands share.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bevy_dream::checkpoint::{self, DeviceChoice};
use bevy_dream::kernel::{ThreadPool, check_threads, default_threads};
use bevy_dream::model::{Settings, WorldModel};
use bevy_dream::simulate::check_settings;
use bevy_dream::{Error, FrameSize, Result};

use crate::output::{loading, note};

/// Which model runs, and where.
#[derive(Clone, clap::Args)]
pub struct ModelArgs {
    /// The model's folder, or a checkpoint of a published model
    #[arg(long, default_value = "models/overworld", value_name = "PATH")]
    pub model: PathBuf,
    /// Worker threads of the model [default: the cores, at most 4]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Where the model runs: cpu, cuda, metal, or auto, the best of these that this build, machine and model have
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
}

impl ModelArgs {
    /// The number of worker threads.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(default_threads)
    }

    /// Where the model runs.
    pub fn device(&self) -> Result<DeviceChoice> {
        Ok(self.choose()?.0)
    }

    /// Where the model runs, and why if that was left open.
    fn choose(&self) -> Result<(DeviceChoice, Option<String>)> {
        if self.device != DeviceChoice::Auto {
            return Ok((self.device, None));
        }
        let (device, why) = DeviceChoice::auto(&checkpoint::family(&self.model)?);
        Ok((device, Some(why)))
    }

    /// The worker threads and the model.
    pub fn load(&self) -> Result<(ThreadPool, Arc<dyn WorldModel>)> {
        let pool = ThreadPool::new(self.threads())?;
        let model = pool.install(|| self.open())?;
        Ok((pool, model))
    }

    /// The model, loaded on this thread; its user sees how far that is, what to know of the rights, and which device was chosen
    /// by a build that has a choice.
    pub fn open(&self) -> Result<Arc<dyn WorldModel>> {
        let (device, why) = self.choose()?;
        if let Some(why) = why.filter(|_| cfg!(any(feature = "cuda", feature = "metal"))) {
            note(format!("the model runs on {device}: {why}"));
        }
        let model = loading(|| checkpoint::load(&self.model, device))?;
        if let Some(notice) = &model.info().notice {
            note(notice);
        }
        Ok(model)
    }
}

/// Threads that each work on worlds of their own.
///
/// # Errors
/// [`Error::Input`] for another number than 1 to 64, or when the system gives no threads.
pub fn world_threads(threads: usize) -> Result<rayon::ThreadPool> {
    check_threads(threads)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|e| Error::input(format!("--threads: {e}")))
}

/// How a world of the model is run.
#[derive(Clone, Copy, clap::Args)]
pub struct WorldArgs {
    /// Denoising steps per chunk [default: what the model is shipped with]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Frame size [default: what the model was trained at]
    #[arg(long, value_name = "WxH")]
    pub size: Option<FrameSize>,
}

impl WorldArgs {
    /// The settings for this model.
    pub fn settings(&self, model: &dyn WorldModel) -> Result<Settings> {
        let shipped = model.info().settings;
        let settings = Settings { steps: self.steps.unwrap_or(shipped.steps), ..shipped };
        check_settings(settings)?;
        Ok(settings)
    }

    /// The frame size for this model.
    pub fn size(&self, model: &dyn WorldModel) -> FrameSize {
        self.size.unwrap_or(model.info().default_size)
    }
}

/// Reads a range of seeds.
pub fn seeds(text: &str) -> Result<Range<u64>> {
    let range = text.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
    range.filter(|r: &Range<u64>| r.start < r.end).ok_or_else(|| {
        Error::input(format!("'{text}' is not a range of seeds: write it as A..B with A < B, for instance 0..64"))
    })
}
