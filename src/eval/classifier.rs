//! A linear classifier over picture features, small enough to be fitted whenever it is needed.

use rayon::prelude::*;

/// Gradient steps of a fit.
const STEPS: usize = 300;

/// Step size of a fit, on features of unit variance.
const RATE: f32 = 0.05;

/// Strength of the pull towards zero weights.
const DECAY: f32 = 1e-3;

/// Samples whose gradient one thread sums up. The sums are added in order, so any number of threads gives the
/// same fit.
const BLOCK: usize = 256;

/// Softmax regression on standardised features (multinomial logistic regression), fitted with Adam
/// (Kingma & Ba 2015) on all samples at once.
#[derive(Clone, Debug)]
pub(super) struct Classifier {
    classes: usize,
    mean: Vec<f32>,
    scale: Vec<f32>,
    /// `classes × (features + 1)`, the last column is the bias.
    weights: Vec<f32>,
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
        let scale: Vec<_> = moment(&|i, x| (x - mean[i]).powi(2)).iter().map(|v| 1.0 / v.sqrt().max(1e-4)).collect();
        let mut fitted = Self { classes, mean, scale, weights: vec![0.0; classes * (features + 1)] };
        let samples: Vec<_> = samples.iter().map(|s| fitted.standardised(s)).collect();
        let (mut first, mut second) = (vec![0.0; fitted.weights.len()], vec![0.0; fitted.weights.len()]);
        for step in 1..=STEPS {
            let gradient = fitted.gradient(&samples, labels);
            // The step size falls to zero, so that the fit comes to rest.
            let rate = RATE * (1.0 - (step - 1) as f32 / STEPS as f32);
            for (i, g) in gradient.into_iter().enumerate() {
                first[i] = 0.9 * first[i] + 0.1 * g;
                second[i] = 0.99 * second[i] + 0.01 * g * g;
                let corrected =
                    (first[i] / (1.0 - 0.9f32.powi(step as i32)), second[i] / (1.0 - 0.99f32.powi(step as i32)));
                fitted.weights[i] -= rate * corrected.0 / (corrected.1.sqrt() + 1e-8);
            }
        }
        fitted
    }

    /// The most likely class.
    pub fn predict(&self, sample: &[f32]) -> usize {
        let scores = self.scores(&self.standardised(sample));
        (0..self.classes).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0)
    }

    /// The features in units of their standard deviation over the samples fitted, with the constant 1.
    pub fn standardised(&self, sample: &[f32]) -> Vec<f32> {
        let features = sample.iter().zip(&self.mean).zip(&self.scale);
        // Dreams may leave what the teacher ever showed; a bound keeps one odd feature from deciding alone.
        features.map(|((x, mean), scale)| ((x - mean) * scale).clamp(-5.0, 5.0)).chain([1.0]).collect()
    }

    fn scores(&self, sample: &[f32]) -> Vec<f32> {
        self.weights.chunks_exact(sample.len()).map(|row| row.iter().zip(sample).map(|(w, x)| w * x).sum()).collect()
    }

    fn gradient(&self, samples: &[Vec<f32>], labels: &[usize]) -> Vec<f32> {
        let blocks: Vec<_> = samples
            .par_chunks(BLOCK)
            .zip(labels.par_chunks(BLOCK))
            .map(|(samples, labels)| {
                let mut sum = vec![0.0; self.weights.len()];
                for (sample, &label) in samples.iter().zip(labels) {
                    let scores = self.scores(sample);
                    let top = scores.iter().copied().fold(f32::MIN, f32::max);
                    let odds: Vec<_> = scores.iter().map(|s| (s - top).exp()).collect();
                    let total: f32 = odds.iter().sum();
                    for (class, row) in sum.chunks_exact_mut(sample.len()).enumerate() {
                        let error = odds[class] / total - f32::from(u8::from(class == label));
                        row.iter_mut().zip(sample).for_each(|(w, x)| *w += error * x);
                    }
                }
                sum
            })
            .collect();
        let mut gradient: Vec<_> = self.weights.iter().map(|w| DECAY * w).collect();
        for block in blocks {
            gradient.iter_mut().zip(block).for_each(|(g, b)| *g += b / samples.len() as f32);
        }
        gradient
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three classes around three centres, in features of very different units.
    fn blobs(count: usize) -> (Vec<Vec<f32>>, Vec<usize>) {
        let noise = |i: usize, k: usize| ((i * 7919 + k * 104_729) % 1000) as f32 / 1000.0 - 0.5;
        (0..count)
            .map(|i| {
                let class = i % 3;
                let centre = [[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]][class];
                (vec![1000.0 * (centre[0] + noise(i, 1)), 0.01 * (centre[1] + noise(i, 2)), 7.0], class)
            })
            .unzip()
    }

    #[test]
    fn it_learns_what_is_linear() {
        let (samples, labels) = blobs(600);
        let fitted = Classifier::fit(&samples[..300], &labels[..300], 3);
        let right = (300..600).filter(|&i| fitted.predict(&samples[i]) == labels[i]).count();
        assert!(right >= 297, "{right} of 300");
    }

    #[test]
    fn any_number_of_threads_gives_the_same_fit() {
        let (samples, labels) = blobs(900);
        let fit = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Classifier::fit(&samples, &labels, 3)).weights
        };
        assert_eq!(fit(1), fit(4));
    }
}
