//! A small neural classifier over picture features, fitted in seconds whenever it is needed.

use crate::model::NoiseSource;
use crate::simulate::Noise;

/// Units of the hidden layer.
const HIDDEN: usize = 48;

/// Passes over the samples.
const EPOCHS: usize = 24;

/// Samples of a gradient step.
const BATCH: usize = 32;

/// Step size at the start, on features of unit variance; it falls to zero, so that the fit comes to rest.
const RATE: f32 = 2e-3;

/// Strength of the pull towards zero weights, as a share of them per unit of step size (`AdamW`).
const DECAY: f32 = 0.05;

/// Standard deviation of the noise on the features, so that no odd detail of the samples is learned by heart.
const NOISE: f32 = 0.3;

/// A perceptron with one hidden layer on standardised features, fitted with `AdamW` (Loshchilov & Hutter 2019). One
/// thread fits it sample by sample, so the same samples give the same bits.
#[derive(Clone, Debug)]
pub(super) struct Classifier {
    mean: Vec<f32>,
    scale: Vec<f32>,
    /// `(features + 1) × HIDDEN`, the last row is the bias.
    first: Vec<f32>,
    /// `(HIDDEN + 1) × classes`, the last row is the bias.
    second: Vec<f32>,
    classes: usize,
}

impl Classifier {
    /// Fits features, all of one length, to their labels below `classes`.
    pub fn fit(samples: &[Vec<f32>], labels: &[usize], classes: usize) -> Self {
        let features = samples.first().map_or(0, Vec::len);
        let count = samples.len().max(1) as f32;
        let moment = |f: &dyn Fn(usize, f32) -> f32| -> Vec<f32> {
            (0..features).map(|i| samples.iter().map(|s| f(i, s[i])).sum::<f32>() / count).collect()
        };
        let mean = moment(&|_, x| x);
        let scale = moment(&|i, x| (x - mean[i]).powi(2)).iter().map(|v| 1.0 / v.sqrt().max(1e-4)).collect();
        let first = normal(0, (features + 1) * HIDDEN, ((features + 1) as f32).sqrt().recip());
        let second = vec![0.0; (HIDDEN + 1) * classes];
        let mut fitted = Self { mean, scale, first, second, classes };
        let samples: Vec<_> = samples.iter().map(|s| fitted.standardised(s)).collect();
        fitted.train(&samples, labels);
        fitted
    }

    /// The most likely class.
    pub fn predict(&self, sample: &[f32]) -> usize {
        let (_, odds) = self.forward(&self.standardised(sample));
        (0..self.classes).max_by(|&a, &b| odds[a].total_cmp(&odds[b])).unwrap_or(0)
    }

    /// The features in units of their standard deviation over the samples fitted, with the constant 1.
    pub fn standardised(&self, sample: &[f32]) -> Vec<f32> {
        let features = sample.iter().zip(&self.mean).zip(&self.scale);
        // Dreams may leave what the teacher ever showed; a bound keeps one odd feature from deciding alone.
        features.map(|((x, mean), scale)| ((x - mean) * scale).clamp(-5.0, 5.0)).chain([1.0]).collect()
    }

    fn train(&mut self, samples: &[Vec<f32>], labels: &[usize]) {
        let mut moments = [Moments::new(self.first.len()), Moments::new(self.second.len())];
        let (mut of_first, mut of_second) = (vec![0.0; self.first.len()], vec![0.0; self.second.len()]);
        let steps = EPOCHS * samples.len().div_ceil(BATCH);
        let (mut step, mut order) = (0, (0..samples.len()).collect::<Vec<_>>());
        for epoch in 0..EPOCHS {
            let keys = normal(1 + epoch as u64, samples.len(), 1.0);
            order.sort_by(|&a, &b| keys[a].total_cmp(&keys[b]));
            for batch in order.chunks(BATCH) {
                let width = samples[0].len();
                let noise = normal((1 + step as u64) << 32, batch.len() * width, NOISE);
                for (&i, noise) in batch.iter().zip(noise.chunks(width)) {
                    let mut sample: Vec<_> = samples[i].iter().zip(noise).map(|(x, n)| x + n).collect();
                    sample[width - 1] = 1.0;
                    self.add_gradient(&sample, labels[i], &mut of_first, &mut of_second);
                }
                let rate = RATE * (1.0 - step as f32 / steps as f32);
                step += 1;
                let [first, second] = &mut moments;
                first.step(&mut self.first, &mut of_first, batch.len(), rate);
                second.step(&mut self.second, &mut of_second, batch.len(), rate);
            }
        }
    }

    /// The hidden units, with the constant 1, and the odds of the classes.
    fn forward(&self, sample: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let mut hidden = times(sample, &self.first, HIDDEN);
        hidden.iter_mut().for_each(|h| *h = h.max(0.0));
        hidden.push(1.0);
        let scores = times(&hidden, &self.second, self.classes);
        let top = scores.iter().copied().fold(f32::MIN, f32::max);
        let odds: Vec<_> = scores.iter().map(|s| (s - top).exp()).collect();
        let total: f32 = odds.iter().sum();
        (hidden, odds.iter().map(|o| o / total).collect())
    }

    /// Adds the gradient of a sample's cross entropy.
    fn add_gradient(&self, sample: &[f32], label: usize, of_first: &mut [f32], of_second: &mut [f32]) {
        let (hidden, mut error) = self.forward(sample);
        error[label] -= 1.0;
        add_outer(&hidden, &error, of_second);
        let back = self.second.chunks_exact(self.classes).zip(&hidden).take(HIDDEN).map(|(row, &h)| {
            let sum: f32 = row.iter().zip(&error).map(|(w, e)| w * e).sum();
            if h > 0.0 { sum } else { 0.0 }
        });
        add_outer(sample, &back.collect::<Vec<_>>(), of_first);
    }
}

/// Running moments of Adam.
struct Moments {
    mean: Vec<f32>,
    square: Vec<f32>,
    steps: i32,
}

impl Moments {
    fn new(count: usize) -> Self {
        Self { mean: vec![0.0; count], square: vec![0.0; count], steps: 0 }
    }

    /// Updates the weights by the gradient summed over `count` samples, and clears it.
    fn step(&mut self, weights: &mut [f32], gradient: &mut [f32], count: usize, rate: f32) {
        self.steps += 1;
        let unbias = [0.9f32, 0.99].map(|b| 1.0 / (1.0 - b.powi(self.steps)));
        let moments = self.mean.iter_mut().zip(&mut self.square);
        for ((weight, sum), (mean, square)) in weights.iter_mut().zip(gradient).zip(moments) {
            let g = *sum / count as f32;
            *mean = 0.9 * *mean + 0.1 * g;
            *square = 0.99 * *square + 0.01 * g * g;
            *weight -= rate * (*mean * unbias[0] / ((*square * unbias[1]).sqrt() + 1e-8) + DECAY * *weight);
            *sum = 0.0;
        }
    }
}

/// A row vector times a matrix of `columns` columns.
fn times(row: &[f32], matrix: &[f32], columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; columns];
    for (x, weights) in row.iter().zip(matrix.chunks_exact(columns)) {
        out.iter_mut().zip(weights).for_each(|(o, w)| *o += x * w);
    }
    out
}

/// Adds the outer product of two vectors to a matrix.
fn add_outer(column: &[f32], row: &[f32], matrix: &mut [f32]) {
    for (x, sums) in column.iter().zip(matrix.chunks_exact_mut(row.len())) {
        sums.iter_mut().zip(row).for_each(|(s, y)| *s += x * y);
    }
}

/// Normal numbers of a standard deviation, the same for the same `draw`.
fn normal(draw: u64, count: usize, deviation: f32) -> Vec<f32> {
    let mut values = vec![0.0; count];
    Noise { seed: 0, chunk: draw }.fill(0, &mut values);
    values.iter_mut().for_each(|v| *v *= deviation);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Classes around the corners of a square, opposite corners of one class, in features of very different units.
    fn corners(count: usize) -> (Vec<Vec<f32>>, Vec<usize>) {
        let noise = |i: usize, k: usize| ((i * 7919 + k * 104_729) % 1000) as f32 / 1000.0 - 0.5;
        (0..count)
            .map(|i| {
                let (x, y) = (i % 2, i / 2 % 2);
                (vec![1000.0 * (2.0 * x as f32 + noise(i, 1)), 0.01 * (2.0 * y as f32 + noise(i, 2)), 7.0], x ^ y)
            })
            .unzip()
    }

    #[test]
    fn it_learns_what_no_line_divides() {
        let (samples, labels) = corners(1200);
        let fitted = Classifier::fit(&samples[..600], &labels[..600], 2);
        let right = (600..1200).filter(|&i| fitted.predict(&samples[i]) == labels[i]).count();
        assert!(right >= 590, "{right} of 600");
    }

    #[test]
    fn the_same_samples_give_the_same_fit() {
        let (samples, labels) = corners(100);
        let fit = || Classifier::fit(&samples, &labels, 2);
        assert_eq!(fit().first, fit().first);
    }
}
