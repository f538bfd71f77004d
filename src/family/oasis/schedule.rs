//! The noise schedule and the sampler: DDIM (Song et al. 2021) on v-prediction, with the sigmoid schedule of
//! Jabri et al. 2022.

/// Noise levels of the schedule.
const LEVELS: usize = 1000;
/// Where the sigmoid begins, and, negated, where it ends.
const SPAN: f64 = 3.0;
/// Noise level that frames of the past are said to have. None is added to them.
pub const CONTEXT_LEVEL: usize = 14;
/// Noise is kept within plus and minus this.
pub const MAX_NOISE: f32 = 20.0;

/// One denoising step: `x' = keep * x + turn * v`.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Noise level that the network is told.
    pub level: usize,
    pub keep: f64,
    pub turn: f64,
}

/// Signal share (the cumulative product of alphas) of every noise level. The reference rounds betas to f32.
fn signal() -> Vec<f64> {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let (first, last) = (f64::from(sigmoid(-SPAN) as f32), f64::from(sigmoid(SPAN) as f32));
    let at = |i: usize| {
        let t = i as f64 / LEVELS as f64;
        (last - sigmoid(t * 2.0 * SPAN - SPAN)) / (last - first)
    };
    let mut product = 1.0;
    let next = |i: usize| {
        let beta = (1.0 - at(i + 1) / at(i)).clamp(0.0, 0.999);
        product *= f64::from(1.0 - beta as f32);
        product
    };
    (0..LEVELS).map(next).collect()
}

/// The steps from noise to a clean frame.
///
/// With v = sqrt(a) noise - sqrt(1 - a) x0 a step is a rotation: by the difference of the angles whose cosines are the
/// signal's amplitudes.
pub fn steps(count: usize) -> Vec<Step> {
    let signal = signal();
    let level = |i: usize| LEVELS * i / count - 1;
    let step = |i: usize| {
        let [now, after] = [signal[level(i)], if i > 1 { signal[level(i - 1)] } else { 1.0 }];
        let [cos, sin] = [now.sqrt(), (1.0 - now).sqrt()];
        let [next_cos, next_sin] = [after.sqrt(), (1.0 - after).sqrt()];
        Step { level: level(i), keep: next_cos * cos + next_sin * sin, turn: next_sin * cos - next_cos * sin }
    };
    (1..=count).rev().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_go_from_noise_to_clean() {
        let levels: Vec<_> = steps(10).iter().map(|s| s.level).collect();
        assert_eq!(levels, [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]);
        let signal = signal();
        assert!(signal.is_sorted_by(|a, b| a > b) && signal[0] > 0.999 && signal[999] < 1e-3);
        // Rotations add up to the whole way.
        for count in [1, 3, 10] {
            let angle: f64 = steps(count).iter().map(|s| s.turn.atan2(s.keep)).sum();
            assert!((angle + signal[999].sqrt().acos()).abs() < 1e-9, "{count} steps");
        }
    }
}
