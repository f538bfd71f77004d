//! How long a dream stays true: the next chunk, the next seconds, the next minute.

use super::Bench;
use super::dream::Dream;
use super::image::{psnr, sharpness};
use super::report::{Drift, Report};
use super::scene::Probe;
use super::teacher::{CONTEXT, stroll};
use super::vcn::mean;
use crate::controls::TICKS_PER_SECOND;
use crate::voxel::{World, describe};
use crate::{Controls, Frame, FrameSize, Result};

/// Ticks after the context in which single chunks are predicted from a true past.
const NEXT: usize = 40;

/// Seconds after which a free-running dream is compared with the truth.
const ROLLOUT: [usize; 3] = [1, 5, 20];

/// Seconds after which drift is measured, over the second before; the last of long walks alone.
const DRIFT: [usize; 3] = [10, 60, 600];

/// Frames of that second that are looked at, as ticks before its end.
const WINDOW: [usize; 5] = [16, 12, 8, 4, 0];

/// Walks that are dreamed to the end; the others stop after the second of [`ROLLOUT`].
const FAR: usize = 8;

/// Seconds shown on a contact sheet of walks of a minute, and of ten.
const SHEETS: [[f32; 9]; 2] =
    [[0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0], [0.0, 10.0, 60.0, 120.0, 180.0, 240.0, 300.0, 450.0, 600.0]];

/// A walk at the times of a contact sheet.
pub(super) struct Strip {
    pub truth: Vec<Frame>,
    pub dream: Vec<Frame>,
}

/// The frames of chosen ticks, in order.
struct Album(Vec<(usize, Frame)>);

impl Album {
    fn truth(mut world: World, controls: &[Controls], ticks: &[usize], size: FrameSize) -> Self {
        let mut frames = Vec::new();
        for (tick, &control) in controls.iter().enumerate() {
            world.tick(control);
            if ticks.contains(&tick) {
                frames.push((tick, world.render(size)));
            }
        }
        Self(frames)
    }

    /// The frames at these ticks, as far as they exist.
    fn at(&self, ticks: impl IntoIterator<Item = usize>) -> Vec<Frame> {
        let find = |tick| self.0.iter().find(|(t, _)| *t == tick).map(|(_, frame)| frame.clone());
        ticks.into_iter().filter_map(find).collect()
    }
}

/// The tick that ends `seconds` after the context.
fn tick_after(seconds: f32) -> usize {
    CONTEXT - 1 + (seconds * TICKS_PER_SECOND).round() as usize
}

fn window(seconds: usize) -> impl Iterator<Item = usize> {
    WINDOW.into_iter().map(move |back| tick_after(seconds as f32) - back)
}

/// Ticks whose frames are kept, in a walk of `length` ticks.
fn kept(length: usize) -> Vec<usize> {
    let context = 0..CONTEXT + NEXT;
    let rollout = ROLLOUT.into_iter().flat_map(|s| [tick_after(s as f32) - 1, tick_after(s as f32)]);
    let shown = SHEETS.into_iter().flatten().map(tick_after);
    let mut ticks: Vec<_> = context.chain(rollout).chain(DRIFT.into_iter().flat_map(window)).chain(shown).collect();
    ticks.retain(|&t| t < length);
    ticks.sort_unstable();
    ticks.dedup();
    ticks
}

/// Sums over walks at one time of [`DRIFT`].
#[derive(Default)]
struct Drifting {
    sharpness: Vec<f64>,
    colour: Vec<f64>,
    features: Vec<f64>,
    true_colour: Vec<f64>,
    true_features: Vec<f64>,
}

/// Measures `next_psnr_db`, `rollout_psnr_db` and `drift`, over a minute or, if `long`, ten. Returns the walks that go so far.
pub(super) fn measure(bench: &Bench<'_>, probe: &Probe, long: bool, report: &mut Report) -> Result<Vec<Strip>> {
    let [near, far] = [ROLLOUT[1], DRIFT[1 + usize::from(long)]].map(|seconds| tick_after(seconds as f32) + 1);
    let (what, sheet) = if long { ("ten minutes", SHEETS[1]) } else { ("a minute", SHEETS[0]) };
    let walks = bench.each(&format!("walks of up to {what}"), 0.55..1.0, &bench.seeds, |i, &seed| {
        let length = if i < FAR { far } else { near };
        let (world, controls) = stroll(seed, length);
        let prompt = describe(world.scene());
        let truth = Album::truth(world, &controls, &kept(length), bench.size);
        let mut dream = Dream::new(bench, seed, &prompt)?;
        dream.observe(&truth.at(0..CONTEXT), &controls[..CONTEXT])?;
        let moment = dream.moment()?;
        let next = predict(&mut dream, &truth, &controls, bench.model.info().frames_per_chunk)?;
        dream.back_to(&moment)?;
        let dreamed = run_free(&mut dream, &controls, &kept(length))?;
        Ok((next, truth, dreamed))
    })?;
    let mut rollout = [(); ROLLOUT.len()].map(|()| (Vec::new(), Vec::new()));
    let mut drifting = [(); DRIFT.len()].map(|()| Drifting::default());
    let mut strips = Vec::new();
    for (i, (_, truth, dreamed)) in walks.iter().enumerate() {
        let context = truth.at(0..CONTEXT);
        for (seconds, (made, still)) in ROLLOUT.into_iter().zip(&mut rollout) {
            let ticks = [tick_after(seconds as f32) - 1, tick_after(seconds as f32)];
            let (truth, dreamed) = (truth.at(ticks), dreamed.at(ticks));
            if !dreamed.is_empty() {
                made.push(psnr(&truth, &dreamed));
                still.push(psnr(&truth, &vec![context[CONTEXT - 1].clone(); truth.len()]));
            }
        }
        for (seconds, drift) in DRIFT.into_iter().zip(&mut drifting) {
            let (truth, dreamed) = (truth.at(window(seconds)), dreamed.at(window(seconds)));
            if !dreamed.is_empty() {
                drift.add(probe, &truth, &dreamed, &context[CONTEXT - WINDOW.len()..]);
            }
        }
        if i < FAR {
            let later = sheet[1..].iter().map(|&s| tick_after(s));
            let start = [context[CONTEXT - 1].clone()];
            let strip = |album: &Album| start.iter().cloned().chain(album.at(later.clone())).collect();
            strips.push(Strip { truth: strip(truth), dream: strip(dreamed) });
        }
    }
    let (next, copied): (Vec<_>, Vec<_>) = walks.iter().map(|(next, ..)| *next).unzip();
    report.next_psnr_db = mean(&next);
    report.copy_last_psnr_db = mean(&copied);
    for (seconds, (made, still)) in ROLLOUT.into_iter().zip(&rollout) {
        report.rollout_psnr_db.insert(seconds.to_string(), mean(made));
        report.rollout_psnr_db_baseline.insert(seconds.to_string(), mean(still));
    }
    for (seconds, drift) in DRIFT.into_iter().zip(&drifting).filter(|(_, drift)| !drift.sharpness.is_empty()) {
        let (dreamed, taught) = drift.report();
        report.drift.insert(seconds.to_string(), dreamed);
        report.drift_baseline.insert(seconds.to_string(), taught);
    }
    Ok(strips)
}

/// The quality of every second chunk predicted from a true past, and of repeating the last true frame.
fn predict(dream: &mut Dream, truth: &Album, controls: &[Controls], per_chunk: usize) -> Result<(f64, f64)> {
    let (mut shown, mut made, mut still) = (Vec::new(), Vec::new(), Vec::new());
    for (i, first) in (CONTEXT..CONTEXT + NEXT).step_by(per_chunk).enumerate() {
        let ticks = first..first + per_chunk;
        let frames = truth.at(ticks.clone());
        if i % 2 == 0 {
            let moment = dream.moment()?;
            made.extend(dream.walk(&controls[ticks.clone()])?);
            dream.back_to(&moment)?;
            still.extend(truth.at([first - 1; 1]).into_iter().cycle().take(per_chunk));
            shown.extend(frames.iter().cloned());
        }
        dream.observe(&frames, &controls[ticks])?;
    }
    Ok((psnr(&shown, &made), psnr(&shown, &still)))
}

/// Dreams to the end of the walk and keeps the frames of these ticks.
fn run_free(dream: &mut Dream, controls: &[Controls], ticks: &[usize]) -> Result<Album> {
    let mut frames = Vec::new();
    let mut tick = CONTEXT;
    // Half a second at a time, which is a whole number of chunks of any model that is measured.
    for controls in controls[CONTEXT..].chunks(10) {
        for frame in dream.walk(controls)? {
            if ticks.contains(&tick) {
                frames.push((tick, frame));
            }
            tick += 1;
        }
    }
    Ok(Album(frames))
}

impl Drifting {
    fn add(&mut self, probe: &Probe, truth: &[Frame], dreamed: &[Frame], start: &[Frame]) {
        let sharp = |frames: &[Frame]| frames.iter().map(sharpness).sum::<f64>();
        self.sharpness.push(sharp(dreamed) / sharp(truth));
        self.colour.push(colour_distance(dreamed, truth));
        self.features.push(probe.distance(dreamed, truth));
        self.true_colour.push(colour_distance(start, truth));
        self.true_features.push(probe.distance(start, truth));
    }

    /// The dream's drift, and the distance between the start and this time in the true walk.
    fn report(&self) -> (Drift, Drift) {
        let worst = self.sharpness.iter().copied().fold(f64::NAN, f64::min);
        let dreamed = Drift {
            sharpness: mean(&self.sharpness),
            sharpness_worst: worst,
            colour: mean(&self.colour),
            features: mean(&self.features),
        };
        let taught = Drift {
            sharpness: 1.0,
            sharpness_worst: 1.0,
            colour: mean(&self.true_colour),
            features: mean(&self.true_features),
        };
        (dreamed, taught)
    }
}

/// How far the colours of one clip have to be moved to become those of another of equal size, as a share of the full
/// range (earth mover's distance of each channel's values, averaged).
fn colour_distance(a: &[Frame], b: &[Frame]) -> f64 {
    let values = |frames: &[Frame], channel: usize| {
        let mut values: Vec<_> = frames.iter().flat_map(|f| f.rgb.iter().skip(channel).step_by(3).copied()).collect();
        values.sort_unstable();
        values
    };
    let per_channel = |channel| {
        let (a, b) = (values(a, channel), values(b, channel));
        let sum: u64 = a.iter().zip(&b).map(|(x, y)| u64::from(x.abs_diff(*y))).sum();
        sum as f64 / (255.0 * a.len() as f64)
    };
    (0..3).map(per_channel).sum::<f64>() / 3.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_move_by_their_difference_wherever_they_are() {
        let size = FrameSize::new(2, 1);
        let frame = |a: u8, b: u8| [Frame { size, rgb: vec![a, a, a, b, b, b] }];
        assert_eq!(colour_distance(&frame(0, 100), &frame(100, 0)), 0.0);
        assert!((colour_distance(&frame(0, 100), &frame(51, 151)) - 0.2).abs() < 1e-9);
    }

    #[test]
    fn kept_ticks_are_those_that_are_measured() {
        let ticks = kept(tick_after(60.0) + 1);
        assert!(ticks.contains(&tick_after(60.0)) && ticks.contains(&(tick_after(10.0) - 16)));
        assert!(kept(100).iter().all(|&t| t < 100));
        assert_eq!(tick_after(1.0), 39, "the second after the context is ticks 20 to 39");
    }
}
