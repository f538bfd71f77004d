//! The video compression network alone: frames in, frames out.

use super::Bench;
use super::dream::Dream;
use super::image::{motion_error, psnr, ssim};
use super::report::{Report, VcnPsnr};
use super::teacher::{Walk, stroll};
use crate::Result;

/// Ticks of a clip: half a second.
const CLIP: usize = 10;

/// Clips of a walk.
const CLIPS: usize = 6;

/// A clip turns when it does so by more than this many degrees a tick on average.
const TURNING: f32 = 1.5;

/// Measures `vcn_psnr_db` (over each clip of half a second, averaged over clips), `vcn_ssim` and
/// `vcn_motion_explained`.
pub(super) fn measure(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let walks = bench.each("the VCN alone", 0.08..0.12, &bench.seeds, |_, &seed| {
        // The first clip warms up the streaming decoder and is not counted.
        let (mut world, controls) = stroll(seed, CLIP * (CLIPS + 1));
        let truth = Walk::record(&mut world, &controls, bench.size);
        let made = Dream::new(bench, seed, "")?.reconstruct(&truth.frames, &truth.controls)?;
        Ok((truth, made))
    })?;
    let (mut all, mut turning) = (Vec::new(), Vec::new());
    let (mut baseline_all, mut baseline_turning) = (Vec::new(), Vec::new());
    let mut likeness = Vec::new();
    let (mut missed, mut energy) = (0.0, 0.0);
    for (truth, made) in &walks {
        let clips = truth.frames.chunks(CLIP).zip(made.chunks(CLIP)).zip(truth.controls.chunks(CLIP)).skip(1);
        for ((truth, made), controls) in clips {
            let quality = psnr(truth, made);
            // Doing nothing: both frames of a pair are its first one.
            let still: Vec<_> = truth.chunks(2).flat_map(|pair| [pair[0].clone(), pair[0].clone()]).collect();
            let copied = psnr(truth, &still);
            all.push(quality);
            baseline_all.push(copied);
            if controls.iter().map(|c| c.look[0].abs()).sum::<f32>() > TURNING * CLIP as f32 {
                turning.push(quality);
                baseline_turning.push(copied);
            }
            likeness.push(ssim(&truth[CLIP - 1], &made[CLIP - 1]));
            let sums = motion_error(truth, made);
            missed += sums.0;
            energy += sums.1;
        }
    }
    report.vcn_psnr_db = VcnPsnr { all: mean(&all), turning: mean(&turning) };
    report.vcn_psnr_db_baseline = VcnPsnr { all: mean(&baseline_all), turning: mean(&baseline_turning) };
    report.vcn_ssim = mean(&likeness);
    report.vcn_motion_explained = 1.0 - missed / energy;
    Ok(())
}

/// The mean; not a number when there is nothing to average, which JSON shows as `null`.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
