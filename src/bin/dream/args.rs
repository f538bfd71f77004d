//! Arguments that several commands share.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use bevy_dream::checkpoint::{self, DeviceChoice};
use bevy_dream::kernel::ThreadPool;
use bevy_dream::model::{Settings, WorldModel};
use bevy_dream::simulate::check_settings;
use bevy_dream::{Error, FrameSize, Result};

use crate::output::{load_bar, note};

/// More threads than this slow a small model down on most machines.
const MOST_THREADS: usize = 4;

/// Which model runs, and where.
#[derive(Clone, clap::Args)]
pub struct ModelArgs {
    /// The model's folder, or a checkpoint of a published model
    #[arg(long, default_value = "models/overworld", value_name = "PATH")]
    pub model: PathBuf,
    /// Worker threads of the model [default: the cores, at most 4]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Where the model runs: cpu, cuda, metal or auto
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: DeviceChoice,
}

impl ModelArgs {
    /// The number of worker threads.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(cores)
    }

    /// The worker threads and the model.
    pub fn load(&self) -> Result<(ThreadPool, Arc<dyn WorldModel>)> {
        let pool = ThreadPool::new(self.threads())?;
        let model = pool.install(|| self.open())?;
        Ok((pool, model))
    }

    /// The model, loaded on this thread; its user sees how far that is and what to know of the rights.
    pub fn open(&self) -> Result<Arc<dyn WorldModel>> {
        let model = checkpoint::watch(load_bar(), || checkpoint::load(&self.model, self.device))?;
        if let Some(notice) = &model.info().notice {
            note(notice);
        }
        Ok(model)
    }
}

/// The number of worker threads where none is asked for.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS)
}

/// Threads that each work on worlds of their own.
///
/// # Errors
/// [`Error::Input`] when the system gives no threads.
pub fn world_threads(threads: usize) -> Result<rayon::ThreadPool> {
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
