//! Whether the dream moves as it is told.

use rayon::prelude::*;

use super::Bench;
use super::classifier::Classifier;
use super::dream::Dream;
use super::flow::motion_features;
use super::report::{ControlAccuracy, Report};
use super::teacher::{CONTEXT, Walk, open_place};
use crate::voxel::{World, describe};
use crate::{Controls, Frame, FrameSize, Result};

/// Ticks that a control is held: half a second.
const HELD: usize = 10;

/// Ticks between the frames that are looked at.
const STRIDE: usize = 2;

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

/// Measures the control accuracies.
pub(super) fn measure(bench: &Bench<'_>, estimator: &Estimator, report: &mut Report) -> Result<()> {
    let scores = bench.each("controls", 0.12..0.25, &bench.seeds, |_, &seed| {
        let (mut dreamed, mut taught) = (Score::default(), Score::default());
        let Some((mut world, controls)) = open_place(seed, 0) else { return Ok((dreamed, taught)) };
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
        }
        Ok((dreamed, taught))
    })?;
    let (mut dreamed, mut taught) = (Score::default(), Score::default());
    for (of_dream, of_teacher) in &scores {
        dreamed.add(of_dream);
        taught.add(of_teacher);
    }
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
