//! Measures a model against the teacher, on worlds it was never trained on.
//!
//! Every figure stands beside what the teacher's own frames or doing nothing would score. Controls and scenes are read
//! off dreamed frames by estimators that are fitted on teacher frames of training seeds at each evaluation, in
//! seconds; nothing is downloaded. The same model, seeds and prompts give the same report on any number of threads.

mod classifier;
mod control;
mod dream;
mod flow;
mod future;
mod gallery;
mod image;
mod memory;
mod prompt;
mod report;
mod scene;
mod sheet;
mod teacher;
mod vcn;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rayon::prelude::*;

pub use gallery::gallery;
pub use image::{MAX_PSNR, psnr, sharpness, ssim};
pub use prompt::{EvalPrompt, parse_prompts};
pub use report::{ControlAccuracy, Drift, EditAccuracy, Report, SceneAccuracy, TurnAmplitude, VcnPsnr};

use crate::dataset::HELD_OUT_SEED;
use crate::model::{Settings, WorldModel};
use crate::{Error, FrameSize, Result};

/// What is measured.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// Worlds, from [`HELD_OUT_SEED`] up.
    pub seeds: Range<u64>,
    /// Prompts with the scenes they mean.
    pub prompts: Vec<EvalPrompt>,
    /// Settings of the model.
    pub settings: Settings,
    /// Frame size.
    pub size: FrameSize,
    /// Whether the walks that go on for a minute go on for ten.
    pub long: bool,
    /// A folder for contact sheets.
    pub sheets: Option<PathBuf>,
}

/// What all measurements share.
struct Bench<'a> {
    model: Arc<dyn WorldModel>,
    seeds: Vec<u64>,
    settings: Settings,
    size: FrameSize,
    progress: &'a (dyn Fn(&str, f64) + Sync),
}

impl Bench<'_> {
    /// Measures every item, several at a time, while the progress goes through `share`; the results are in order.
    fn each<I: Sync, T: Send>(
        &self,
        what: &str,
        share: Range<f64>,
        items: &[I],
        measure: impl Fn(usize, &I) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        (self.progress)(what, share.start);
        let done = AtomicUsize::new(0);
        let one = |(i, item)| {
            let result = measure(i, item);
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            (self.progress)(what, share.start + (share.end - share.start) * done as f64 / items.len() as f64);
            result
        };
        items.par_iter().enumerate().map(one).collect()
    }
}

/// Measures `model`. `progress` is told what is under way and the share of the work that is done.
///
/// # Errors
/// [`Error::Input`] when there are no seeds or prompts, seeds below [`HELD_OUT_SEED`], or frames that the teacher's
/// protocol does not fit (another frame rate, an odd number of frames a chunk); those of the model; [`Error::Io`] when
/// the sheets cannot be written.
pub fn evaluate(
    model: Arc<dyn WorldModel>,
    options: &EvalOptions,
    progress: &(dyn Fn(&str, f64) + Sync),
) -> Result<Report> {
    let began = Instant::now();
    check(&*model, options)?;
    let EvalOptions { settings, size, .. } = *options;
    let bench = Bench { model, seeds: options.seeds.clone().collect(), settings, size, progress };
    let info = bench.model.info();
    let mut report = Report {
        model: info.name.clone(),
        sha256: info.sha256.clone(),
        seeds: [options.seeds.start, options.seeds.end],
        steps: settings.steps,
        size: [size.width, size.height],
        ..Report::default()
    };
    progress("fitting the scene probe", 0.0);
    let probe = scene::Probe::fit(size);
    progress("fitting the control estimator", 0.03);
    let estimator = control::Estimator::fit(size);
    vcn::measure(&bench, &mut report)?;
    control::measure(&bench, &estimator, &mut report)?;
    memory::measure(&bench, &mut report)?;
    let fresh = prompt::measure(&bench, &probe, &options.prompts, &mut report)?;
    let walks = future::measure(&bench, &probe, options.long, &mut report)?;
    if let Some(folder) = &options.sheets {
        sheet::write(folder, &walks, &fresh)?;
    }
    report.minutes = (began.elapsed().as_secs_f64() / 0.6).round() / 100.0;
    Ok(report)
}

fn check(model: &dyn WorldModel, options: &EvalOptions) -> Result<()> {
    if options.seeds.is_empty() || options.prompts.is_empty() {
        return Err(Error::input("an evaluation needs seeds and prompts"));
    }
    if options.seeds.start < HELD_OUT_SEED {
        return Err(Error::input(format!(
            "seeds below {HELD_OUT_SEED} may have been trained on: evaluate on seeds from there up"
        )));
    }
    check_clock(model, options.size)
}

/// Refuses a model or a frame size that the teacher's protocol does not fit.
fn check_clock(model: &dyn WorldModel, size: FrameSize) -> Result<()> {
    let info = model.info();
    if info.fps != crate::controls::TICKS_PER_SECOND || !matches!(info.frames_per_chunk, 1 | 2 | 5 | 10) {
        return Err(Error::input(format!(
            "a model of {} frames a second in chunks of {} does not fit the teacher's clock",
            info.fps, info.frames_per_chunk
        )));
    }
    if size.width < 32 || size.height < 32 {
        return Err(Error::input(format!("frames of {size} are too small to measure")));
    }
    Ok(())
}
