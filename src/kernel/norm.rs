//! RMS norms (Zhang & Sennrich 2019) without learned weights.

use candle_core::{D, Result, Tensor, bail};

use super::NORM_EPS;
use super::array::{Array, Values, apply};
use super::math::{simd, sum_squares};
use super::threads::for_each_chunk;

simd! {
    /// [`norm_all`] of some rows.
    fn norm_rows(x: &[f32], out: &mut [f32], width: usize, shift: &[f32], scale: &[f32]) {
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let factor = inverse_rms(x);
            if scale.is_empty() {
                out.iter_mut().zip(x).for_each(|(o, x)| *o = x * factor);
            } else {
                for (((o, x), scale), shift) in out.iter_mut().zip(x).zip(scale).zip(shift) {
                    *o = x * factor * (1.0 + scale) + shift;
                }
            }
        }
    }
}

/// Rows of one task.
const ROWS: usize = 32;

/// `rms_norm(x) * (1 + scale) + shift` of every row of `width` values; no modulation when the two are empty.
pub(super) fn norm_all(x: &[f32], out: &mut [f32], width: usize, shift: &[f32], scale: &[f32]) {
    let part = ROWS * width;
    for_each_chunk(out, part, |i, out| norm_rows(&x[i * part..][..out.len()], out, width, shift, scale));
}

/// One over the root of the mean square.
#[inline(always)]
pub(super) fn inverse_rms(x: &[f32]) -> f32 {
    1.0 / (sum_squares(x) / x.len() as f32 + NORM_EPS).sqrt()
}

/// `x / rms(x)` of every row of x `[rows, width]`.
pub fn rms_norm<T: Values>(x: &T) -> Result<T> {
    let &[_, width] = x.dims() else { bail!("{:?} are no rows", x.dims()) };
    apply(x, x.dims(), |x, out| norm_all(x, out, width, &[], &[]), stock)
}

/// `rms_norm(x) * (1 + scale) + shift`, with x `[rows, width]` and shift, then scale `[2 * width]`.
pub fn norm_modulate(x: &Array, modulation: &Array) -> Result<Array> {
    let (_, width) = x.dims2()?;
    if modulation.dims() != [2 * width] {
        bail!("shift and scale {:?} do not fit rows of {width}", modulation.dims());
    }
    let run = |x: &[f32], out: &mut [f32]| {
        let (shift, scale) = modulation.split_at(width);
        norm_all(x, out, width, shift, scale);
    };
    apply(x, x.dims(), run, |x| {
        let modulation = modulation.tensor()?;
        stock_modulate(x, &modulation.narrow(0, 0, width)?, &modulation.narrow(0, width, width)?)
    })
}

pub(super) fn stock_modulate(x: &Tensor, shift: &Tensor, scale: &Tensor) -> Result<Tensor> {
    stock(x)?.broadcast_mul(&(scale + 1.0)?)?.broadcast_add(shift)
}

fn stock(x: &Tensor) -> Result<Tensor> {
    x.broadcast_div(&(x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(NORM_EPS))?.sqrt()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Isa;
    use candle_core::Device;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn norms_match_stock_candle(rows in 1..20_usize, width in 1..300_usize) {
            let random = |shape: &[usize]| Tensor::randn(0f32, 3.0, shape, &Device::Cpu).unwrap();
            let (x, shift, scale) = (random(&[rows, width]), random(&[width]), random(&[width]));
            let plain = stock(&x).unwrap();
            let reference = stock_modulate(&x, &shift, &scale).unwrap();
            let modulation = Array::from_tensor(&Tensor::cat(&[&shift, &scale], 0).unwrap()).unwrap();
            let array = Array::from_tensor(&x).unwrap();
            for isa in Isa::of_cpu() {
                let modulated = isa.run(|| norm_modulate(&array, &modulation)).unwrap().tensor();
                for (ours, reference) in [(isa.run(|| rms_norm(&x)), &plain), (modulated, &reference)] {
                    let error = (ours.unwrap() - reference).unwrap().abs().unwrap().max_all().unwrap();
                    prop_assert!(error.to_scalar::<f32>().unwrap() < 1e-4, "{isa}");
                }
            }
        }
    }

    #[test]
    fn a_misfit_is_an_error() {
        let zeros = |shape: &[usize]| Array::zeros(shape, &Device::Cpu).unwrap();
        assert!(norm_modulate(&zeros(&[2, 4]), &zeros(&[7])).is_err());
    }
}
