//! How alike two pictures are, and how sharp one is.

use crate::{Frame, FrameSize};

/// PSNR of identical pictures, where the formula has no bound.
pub const MAX_PSNR: f64 = 60.0;

/// A picture of brightness from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Luma {
    pub size: FrameSize,
    pub pixels: Vec<f32>,
}

impl Luma {
    /// The brightness (BT.601) of a frame.
    pub fn new(frame: &Frame) -> Self {
        let weigh = |p: &[u8]| (0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2])) / 255.0;
        Self { size: frame.size, pixels: frame.rgb.chunks_exact(3).map(weigh).collect() }
    }

    pub fn at(&self, x: usize, y: usize) -> f32 {
        self.pixels[y * self.size.width + x]
    }

    /// The picture shrunk to `size` by averaging areas.
    pub fn shrunk(&self, size: FrameSize) -> Self {
        let mut pixels = Vec::with_capacity(size.pixels());
        for y in 0..size.height {
            for x in 0..size.width {
                let [columns, rows] =
                    [(x, self.size.width, size.width), (y, self.size.height, size.height)].map(|(i, from, to)| {
                        let first = i * from / to;
                        first..((i + 1) * from / to).max(first + 1)
                    });
                let count = columns.len() * rows.len();
                let sum: f32 =
                    rows.flat_map(|v| columns.clone().map(move |u| (u, v))).map(|(u, v)| self.at(u, v)).sum();
                pixels.push(sum / count as f32);
            }
        }
        Self { size, pixels }
    }
}

/// Sum of squared differences over all channels of all frames, and their number.
pub(super) fn squared_error(a: &[Frame], b: &[Frame]) -> (f64, usize) {
    let bytes = |frames: &[Frame]| frames.iter().map(|f| f.rgb.len()).sum::<usize>();
    debug_assert_eq!(bytes(a), bytes(b));
    let values = a.iter().flat_map(|f| &f.rgb).zip(b.iter().flat_map(|f| &f.rgb));
    let sum: u64 = values.map(|(&x, &y)| u64::from(x.abs_diff(y)).pow(2)).sum();
    (sum as f64, bytes(a))
}

/// Peak signal-to-noise ratio in dB from a sum of squared differences of `count` 8-bit values, at most [`MAX_PSNR`].
pub(super) fn psnr_of((sum, count): (f64, usize)) -> f64 {
    (10.0 * (255.0 * 255.0 * count as f64 / sum.max(f64::MIN_POSITIVE)).log10()).min(MAX_PSNR)
}

/// Peak signal-to-noise ratio of two clips of equal size in dB, over all their pixels, at most [`MAX_PSNR`].
pub fn psnr(a: &[Frame], b: &[Frame]) -> f64 {
    psnr_of(squared_error(a, b))
}

/// Structural similarity of two frames of equal size, at least 11×11 (Wang et al. 2004: brightness, a Gaussian window
/// of 11 pixels with σ 1.5, K₁ 0.01, K₂ 0.03), averaged over the places where the window fits. 1 for identical frames.
pub fn ssim(a: &Frame, b: &Frame) -> f64 {
    let (a, b) = (Luma::new(a), Luma::new(b));
    let product = |x: &Luma, y: &Luma| Luma {
        size: x.size,
        pixels: x.pixels.iter().zip(&y.pixels).map(|(p, q)| p * q).collect(),
    };
    let [mean_a, mean_b, aa, bb, ab] =
        [a.clone(), b.clone(), product(&a, &a), product(&b, &b), product(&a, &b)].map(|image| windowed(&image));
    let (c1, c2) = (0.01f64.powi(2), 0.03f64.powi(2));
    let mut sum = 0.0;
    for i in 0..mean_a.len() {
        let (ma, mb) = (mean_a[i], mean_b[i]);
        let (va, vb, cov) = (aa[i] - ma * ma, bb[i] - mb * mb, ab[i] - ma * mb);
        sum += (2.0 * ma * mb + c1) * (2.0 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2));
    }
    sum / mean_a.len().max(1) as f64
}

/// Gaussian means wherever a window of 11×11 fits.
fn windowed(image: &Luma) -> Vec<f64> {
    const SIZE: usize = 11;
    let weights: [f64; SIZE] = std::array::from_fn(|i| (-(i as f64 - 5.0).powi(2) / (2.0 * 1.5 * 1.5)).exp());
    let total: f64 = weights.iter().sum();
    let weights = weights.map(|w| w / total);
    let FrameSize { width, height } = image.size;
    let (columns, rows) = ((width + 1).saturating_sub(SIZE), (height + 1).saturating_sub(SIZE));
    let mut across = Vec::with_capacity(columns * height);
    for y in 0..height {
        for x in 0..columns {
            across.push((0..SIZE).map(|i| weights[i] * f64::from(image.at(x + i, y))).sum::<f64>());
        }
    }
    let down = |x: usize, y: usize| (0..SIZE).map(|i| weights[i] * across[(y + i) * columns + x]).sum();
    (0..rows).flat_map(|y| (0..columns).map(move |x| (x, y))).map(|(x, y)| down(x, y)).collect()
}

/// Mean brightness step between neighbours, the measure of sharpness.
pub fn sharpness(frame: &Frame) -> f64 {
    let luma = Luma::new(frame);
    let FrameSize { width, height } = luma.size;
    let mut sum = 0.0;
    for y in 0..height - 1 {
        for x in 0..width - 1 {
            let here = luma.at(x, y);
            sum += f64::from((luma.at(x + 1, y) - here).hypot(luma.at(x, y + 1) - here));
        }
    }
    sum / ((width - 1) * (height - 1)).max(1) as f64
}

/// Share of the energy of the differences between successive frames that `made` reproduces of `truth`, by pairs of
/// frames: 1 − Σ‖Δmade − Δtruth‖² / Σ‖Δtruth‖², as its two sums.
pub(super) fn motion_error(truth: &[Frame], made: &[Frame]) -> (f64, f64) {
    let step = |pair: &[Frame], i: usize| f64::from(pair[1].rgb[i]) - f64::from(pair[0].rgb[i]);
    let (mut missed, mut energy) = (0.0, 0.0);
    for (t, m) in truth.chunks_exact(2).zip(made.chunks_exact(2)) {
        for i in 0..t[0].rgb.len() {
            missed += (step(m, i) - step(t, i)).powi(2);
            energy += step(t, i).powi(2);
        }
    }
    (missed, energy)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fixed pattern with structure at several scales.
    fn pattern(width: usize, height: usize, change: u32) -> Frame {
        let size = FrameSize::new(width, height);
        let value = |i: usize| ((i / 3 % width) * 7 + (i / 3 / width) * 13 + i % 3 * 40) as u32;
        let rgb = (0..size.pixels() * 3).map(|i| ((value(i) + change * (value(i) % 5)) % 256) as u8).collect();
        Frame { size, rgb }
    }

    #[test]
    fn psnr_follows_its_formula() {
        let size = FrameSize::new(4, 4);
        let flat = |v| Frame { size, rgb: vec![v; 48] };
        assert!((psnr(&[flat(100)], &[flat(110)]) - 28.1308).abs() < 1e-3);
        assert_eq!(psnr(&[flat(3)], &[flat(3)]), MAX_PSNR);
        // Pooled over the clip: the mean of the squared errors 0 and 100 is 50.
        assert!((psnr(&[flat(1), flat(1)], &[flat(1), flat(11)]) - 31.1411).abs() < 1e-3);
    }

    #[test]
    fn ssim_matches_the_published_formula() {
        let (a, b) = (pattern(32, 24, 0), pattern(32, 24, 6));
        assert!((ssim(&a, &a) - 1.0).abs() < 1e-9);
        assert!((ssim(&a, &b) - SSIM_REFERENCE).abs() < 1e-4, "{}", ssim(&a, &b));
    }

    /// From an independent implementation (`NumPy`, direct two-dimensional windows).
    const SSIM_REFERENCE: f64 = 0.642_747_6;

    #[test]
    fn blur_lowers_sharpness() {
        let sharp = pattern(32, 32, 3);
        let luma = Luma::new(&sharp).shrunk(FrameSize::new(16, 16));
        let soft = Frame {
            size: sharp.size,
            rgb: (0..32 * 32).flat_map(|i| [(luma.at(i % 32 / 2, i / 32 / 2) * 255.0) as u8; 3]).collect(),
        };
        assert!(sharpness(&soft) < 0.8 * sharpness(&sharp));
    }

    #[test]
    fn motion_is_explained_by_the_right_difference_only() {
        let (a, b) = (pattern(16, 16, 0), pattern(16, 16, 3));
        let share = |made: &[Frame]| {
            let (missed, energy) = motion_error(&[a.clone(), b.clone()], made);
            1.0 - missed / energy
        };
        assert_eq!(share(&[a.clone(), b.clone()]), 1.0);
        assert_eq!(share(&[a.clone(), a.clone()]), 0.0);
        assert!(share(&[b.clone(), a.clone()]) < 0.0);
    }
}
