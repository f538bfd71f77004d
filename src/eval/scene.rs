//! Which scene a picture shows: biome, time of day and weather, read off its colours.

use rayon::prelude::*;

use super::classifier::Classifier;
use super::image::{Luma, sharpness};
use crate::voxel::{Biome, Policy, PolicyKind, Scene, TRANSITION_TICKS, Time, Weather, World, WorldConfig};
use crate::{Frame, FrameSize};

/// Cells across and down for colours.
const CELLS: usize = 8;

/// Training seeds on which the probe is fitted; each world is shown under every sky.
const TRAINING: std::ops::Range<u64> = 410_000..410_288;

/// Ticks between the frames of a clip.
pub(super) const STRIDE: usize = 5;

/// Labels of a scene: indices into `Biome::ALL`, `Time::ALL` and `Weather::ALL`.
pub(super) type Labels = [usize; 3];

fn labels_of(scene: Scene) -> Labels {
    [
        Biome::ALL.iter().position(|&b| b == scene.biome).unwrap_or(0),
        Time::ALL.iter().position(|&t| t == scene.time).unwrap_or(0),
        Weather::ALL.iter().position(|&w| w == scene.weather).unwrap_or(0),
    ]
}

/// Reads scenes off pictures.
pub(super) struct Probe([Classifier; 3]);

impl Probe {
    /// Fits teacher frames of training seeds, sharp and blurred ones, so that a soft picture is judged by its scene.
    pub fn fit(size: FrameSize) -> Self {
        let samples: Vec<_> = TRAINING
            .into_par_iter()
            .flat_map_iter(|seed| clips_of(seed, 1, size))
            .flat_map_iter(|(clip, labels)| [vec![blurred(&clip[0])], clip].map(|clip| (features(&clip), labels)))
            .collect();
        let features: Vec<_> = samples.iter().map(|(features, _)| features.clone()).collect();
        let classes = [Biome::ALL.len(), Time::ALL.len(), Weather::ALL.len()];
        let fit = |column: usize| {
            let labels: Vec<_> = samples.iter().map(|(_, labels)| labels[column]).collect();
            Classifier::fit(&features, &labels, classes[column])
        };
        let (biome, (time, weather)) = rayon::join(|| fit(0), || rayon::join(|| fit(1), || fit(2)));
        Self([biome, time, weather])
    }

    /// The most likely labels of a clip that shows one scene.
    pub fn judge(&self, clip: &[Frame]) -> Labels {
        let features = features(clip);
        std::array::from_fn(|column| self.0[column].predict(&features))
    }

    /// How far apart two clips look, in standard deviations of the teacher's pictures (root mean square over the
    /// features).
    pub fn distance(&self, a: &[Frame], b: &[Frame]) -> f64 {
        let [a, b] = [a, b].map(|clip| self.0[0].standardised(&features(clip)));
        let sum: f32 = a.iter().zip(&b).map(|(x, y)| (x - y).powi(2)).sum();
        f64::from(sum / a.len() as f32).sqrt()
    }
}

/// The world of a seed, in a biome that follows from it, under every sky, in clips of `frames` frames.
pub(super) fn clips_of(seed: u64, frames: usize, size: FrameSize) -> Vec<(Vec<Frame>, Labels)> {
    let biome = Biome::ALL[seed as usize % Biome::ALL.len()];
    let scene = Scene { biome, time: Time::Noon, weather: Weather::Clear };
    let mut world = World::new(seed, WorldConfig { scene: Some(scene), ..WorldConfig::default() });
    let mut policy = Policy::new(PolicyKind::Wander, seed);
    let mut clips = Vec::new();
    for &time in Time::ALL {
        for &weather in Weather::ALL {
            world.set_sky(time, weather);
            let mut stroll = |world: &mut World, ticks: usize| {
                for _ in 0..ticks {
                    let controls = policy.next(world);
                    world.tick(controls);
                }
                world.render(size)
            };
            let first = stroll(&mut world, TRANSITION_TICKS as usize + 1);
            let clip = (1..frames).map(|_| stroll(&mut world, STRIDE)).collect::<Vec<_>>();
            clips.push(([vec![first], clip].concat(), labels_of(world.scene())));
        }
    }
    clips
}

/// Colour means and spreads of a grid of cells, brightness steps of its rows, and statistics of the whole picture,
/// averaged over the clip.
fn features(clip: &[Frame]) -> Vec<f32> {
    let mut sum = Vec::new();
    for frame in clip {
        let one = frame_features(frame);
        sum.resize(one.len(), 0.0);
        sum.iter_mut().zip(one).for_each(|(s, x)| *s += x / clip.len() as f32);
    }
    sum
}

fn frame_features(frame: &Frame) -> Vec<f32> {
    let FrameSize { width, height } = frame.size;
    let mut sums = vec![[0.0f32; 7]; CELLS * CELLS];
    for (i, pixel) in frame.rgb.chunks_exact(3).enumerate() {
        let cell = (i / width * CELLS / height) * CELLS + i % width * CELLS / width;
        let [r, g, b] = [0, 1, 2].map(|c| f32::from(pixel[c]) / 255.0);
        let cell = &mut sums[cell];
        for (sum, x) in cell.iter_mut().zip([r, g, b, r * r, g * g, b * b, 1.0]) {
            *sum += x;
        }
    }
    let mut features = Vec::with_capacity(CELLS * CELLS * 6 + 8);
    for sums in &sums {
        let mean = [0, 1, 2].map(|c| sums[c] / sums[6]);
        features.extend(mean);
        features.extend([0, 1, 2].map(|c| (sums[3 + c] / sums[6] - mean[c] * mean[c]).max(0.0).sqrt()));
    }
    let coarse = Luma::new(frame).shrunk(FrameSize::new(CELLS, CELLS));
    features.push(sharpness(frame) as f32);
    features.extend((1..CELLS).map(|row| {
        let step = |x: usize| coarse.at(x, row) - coarse.at(x, row - 1);
        (0..CELLS).map(step).sum::<f32>() / CELLS as f32
    }));
    features
}

/// A picture whose every pixel is the mean of the 5×5 around it.
fn blurred(frame: &Frame) -> Frame {
    let FrameSize { width, height } = frame.size;
    let mean_of = |i: usize| {
        let (x, y, channel) = (i / 3 % width, i / 3 / width, i % 3);
        let (columns, rows) = (x.saturating_sub(2)..(x + 3).min(width), y.saturating_sub(2)..(y + 3).min(height));
        let count = columns.len() * rows.len();
        let around = rows.flat_map(|v| columns.clone().map(move |u| (v * width + u) * 3 + channel));
        (around.map(|j| usize::from(frame.rgb[j])).sum::<usize>() / count) as u8
    };
    Frame { size: frame.size, rgb: (0..frame.rgb.len()).map(mean_of).collect() }
}
