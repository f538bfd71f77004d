//! Whether the dream moves as it is told.

use rayon::prelude::*;

use super::Bench;
use super::classifier::Classifier;
use super::dream::Dream;
use super::flow::motion_features;
use super::image::squared_error;
use super::report::{ControlAccuracy, Report, TurnAmplitude};
use super::teacher::{CONTEXT, Walk, open_place};
use crate::voxel::{World, describe};
use crate::{Controls, Frame, FrameSize, Result};

/// Ticks that a control is held: half a second.
const HELD: usize = 10;

/// Ticks between the frames that are looked at.
const STRIDE: usize = 2;

/// The picture of a clip by which a turn is measured: a quarter of a second on, most of what was in view still is.
const TURNED: usize = 3;

/// Angles that a turned picture is compared with, from none to twice what was asked.
const ANGLES: usize = 80;

/// Training seeds on which the estimator is fitted, two places each.
const TRAINING: std::ops::Range<u64> = 400_000..400_080;

/// Turn, look up and down, walk, strafe, jump.
const AXES: usize = 5;

/// What is held in one trial: the axis and its direction (0 back, 1 not at all, 2 ahead), and the controls.
/// The first trial, in which nothing is held, counts for every axis.
fn trials() -> Vec<(Option<usize>, usize, Controls)> {
    let still = Controls::default();
    let mut trials = vec![(None, 1, still)];
    for (class, sign) in [(0, -1.0), (2, 1.0)] {
        trials.push((Some(0), class, Controls { look: [4.0 * sign, 0.0], ..still }));
        trials.push((Some(1), class, Controls { look: [0.0, 2.5 * sign], ..still }));
        trials.push((Some(2), class, Controls { forward: sign, ..still }));
        trials.push((Some(3), class, Controls { strafe: sign, ..still }));
    }
    trials.push((Some(4), 2, Controls { jump: true, ..still }));
    trials
}

/// Reads controls off half a second of frames, axis by axis.
pub(super) struct Estimator(Vec<Classifier>);

impl Estimator {
    /// Fits teacher frames of training seeds.
    pub fn fit(size: FrameSize) -> Self {
        let places: Vec<_> = TRAINING.flat_map(|seed| [(seed, 0), (seed, 1)]).collect();
        let samples: Vec<_> = places
            .into_par_iter()
            .filter_map(|(seed, which)| open_place(seed, which))
            .flat_map_iter(|(mut world, controls)| {
                for control in controls {
                    world.tick(control);
                }
                trials().into_iter().map(move |(axis, class, held)| (axis, class, true_clip(&world, held, size)))
            })
            .map(|(axis, class, clip)| (axis, class, motion_features(&clip)))
            .collect();
        let fit = |axis: usize| {
            let own = samples.iter().filter(|s| s.0.is_none_or(|a| a == axis));
            let (features, classes): (Vec<_>, Vec<_>) = own.map(|s| (s.2.clone(), s.1)).unzip();
            Classifier::fit(&features, &classes, 3)
        };
        Self((0..AXES).into_par_iter().map(fit).collect())
    }

    fn judge(&self, axis: usize, clip: &[Frame]) -> usize {
        self.0[axis].predict(&motion_features(clip))
    }
}

/// The present frame and those of half a second under `held`.
fn true_clip(world: &World, held: Controls, size: FrameSize) -> Vec<Frame> {
    let mut world = world.clone();
    let mut clip = vec![world.render(size)];
    for tick in 1..=HELD {
        world.tick(held);
        if tick % STRIDE == 0 {
            clip.push(world.render(size));
        }
    }
    clip
}

/// What share of a turn of `look` degrees a tick a picture shows after `ticks` ticks: the true picture of the same
/// place that is most like it, of those turned by 0 to 2 times as much. Only the half that one turns away from is
/// looked at, which was in view before: what comes into view a dream invents.
fn turned(world: &World, look: f32, ticks: usize, picture: &Frame) -> f64 {
    let behind = |frame: &Frame| {
        let FrameSize { width, height } = frame.size;
        let half = FrameSize::new(width / 2, height);
        let lines = frame.rgb.chunks_exact(width * 3);
        let rgb =
            lines.flat_map(|line| if look > 0.0 { &line[..half.width * 3] } else { &line[(width - half.width) * 3..] });
        Frame { size: half, rgb: rgb.copied().collect() }
    };
    let shown = [behind(picture)];
    let error = |share: f64| {
        let mut world = world.clone();
        for _ in 0..ticks {
            world.tick(Controls { look: [look * share as f32, 0.0], ..Controls::default() });
        }
        squared_error(&[behind(&world.render(picture.size))], &shown).0
    };
    let shares = (0..=ANGLES).map(|step| step as f64 * 2.0 / ANGLES as f64);
    let best = shares.map(|share| (error(share), share)).min_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or(f64::NAN, |(_, share)| share)
}

/// Right answers and questions per axis.
#[derive(Default)]
struct Score([[usize; 2]; AXES]);

impl Score {
    fn count(&mut self, estimator: &Estimator, axis: Option<usize>, class: usize, clip: &[Frame]) {
        for own in (0..AXES).filter(|&a| axis.is_none_or(|axis| axis == a)) {
            self.0[own][0] += usize::from(estimator.judge(own, clip) == class);
            self.0[own][1] += 1;
        }
    }

    fn add(&mut self, other: &Self) {
        for (sum, count) in self.0.as_flattened_mut().iter_mut().zip(other.0.as_flattened()) {
            *sum += count;
        }
    }

    fn accuracy(&self) -> ControlAccuracy {
        let [turn, look, walk, strafe, jump] = self.0.map(|[right, all]| right as f64 / all.max(1) as f64);
        ControlAccuracy { all: (turn + look + walk + strafe + jump) / AXES as f64, turn, look, walk, strafe, jump }
    }
}

/// Measures the control accuracies and how far turns go.
pub(super) fn measure(bench: &Bench<'_>, estimator: &Estimator, report: &mut Report) -> Result<()> {
    let scores = bench.each("controls", 0.12..0.25, &bench.seeds, |_, &seed| {
        let (mut dreamed, mut taught, mut turns) = (Score::default(), Score::default(), Vec::new());
        let Some((mut world, controls)) = open_place(seed, 0) else { return Ok((dreamed, taught, turns)) };
        let context = Walk::record(&mut world, &controls, bench.size);
        let mut dream = Dream::new(bench, seed, &describe(world.scene()))?;
        dream.observe(&context.frames, &context.controls)?;
        let moment = dream.moment()?;
        for (axis, class, held) in trials() {
            dream.back_to(&moment)?;
            let frames = dream.walk(&[held; HELD])?;
            let seen = frames.into_iter().skip(STRIDE - 1).step_by(STRIDE);
            let clip: Vec<_> = [context.frames[CONTEXT - 1].clone()].into_iter().chain(seen).collect();
            dreamed.count(estimator, axis, class, &clip);
            taught.count(estimator, axis, class, &true_clip(&world, held, bench.size));
            if held.look[0] != 0.0 {
                turns.push(turned(&world, held.look[0], TURNED * STRIDE, &clip[TURNED]));
            }
        }
        Ok((dreamed, taught, turns))
    })?;
    let (mut dreamed, mut taught, mut turns) = (Score::default(), Score::default(), Vec::new());
    for (of_dream, of_teacher, of_turns) in &scores {
        dreamed.add(of_dream);
        taught.add(of_teacher);
        turns.extend_from_slice(of_turns);
    }
    report.turn_amplitude = TurnAmplitude::of(&turns);
    report.turn_amplitude_baseline = TurnAmplitude::of(&[0.0]);
    report.control_accuracy = dreamed.accuracy();
    report.control_accuracy_teacher = taught.accuracy();
    // A dream that never moves is right where nothing is held.
    let third = 1.0 / 3.0;
    report.control_accuracy_baseline = ControlAccuracy {
        all: (4.0 * third + 0.5) / 5.0,
        turn: third,
        look: third,
        walk: third,
        strafe: third,
        jump: 0.5,
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::HELD_OUT_SEED;

    #[test]
    fn a_turn_is_measured_whichever_way_and_however_far_it_goes() {
        let size = FrameSize::new(64, 64);
        let (mut world, controls) = open_place(HELD_OUT_SEED, 0).expect("a place to look around");
        controls.iter().for_each(|&c| _ = world.tick(c));
        for (asked, made) in [(4.0, 4.0), (-4.0, -4.0), (4.0, 3.0), (-4.0, -5.0), (4.0, 0.0)] {
            let clip = true_clip(&world, Controls { look: [made, 0.0], ..Controls::default() }, size);
            let share = turned(&world, asked, TURNED * STRIDE, &clip[TURNED]);
            assert!((share - f64::from(made / asked)).abs() < 0.03, "{share} of {asked} for {made}");
        }
    }
}
