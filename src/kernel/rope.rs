//! RMS norm per head, then rotary position embedding (Su et al. 2021).

use candle_core::{D, Result, Tensor};

use super::array::Array;
use super::math::simd;
use super::norm::inverse_rms;

/// Cosines and sines `[tokens, head_dim / 2]` of a rotary embedding in its half-split form: pair i of a head is
/// `(i, i + head_dim / 2)`.
pub struct Rope {
    /// Cosine of every pair's angle.
    pub cos: Array,
    /// Sine of every pair's angle.
    pub sin: Array,
}

simd! {
    /// Norms one token's query or key of one head, scales it by `weight` and rotates it.
    pub(super) fn norm_rotate(x: &mut [f32], weight: &[f32], cos: &[f32], sin: &[f32]) {
        let factor = inverse_rms(x);
        let half = weight.len() / 2;
        let (wa, wb, cos, sin) = (&weight[..half], &weight[half..][..half], &cos[..half], &sin[..half]);
        let (left, right) = x.split_at_mut(half);
        let (left, right) = (&mut left[..half], &mut right[..half]);
        for i in 0..half {
            let (a, b) = (left[i] * factor * wa[i], right[i] * factor * wb[i]);
            left[i] = a * cos[i] - b * sin[i];
            right[i] = a * sin[i] + b * cos[i];
        }
    }
}

/// The same of x `[tokens, heads * head_dim]`.
pub(super) fn stock(x: &Tensor, weight: &Tensor, rope: &Rope) -> Result<Tensor> {
    let ((tokens, width), head_dim) = (x.dims2()?, weight.elem_count());
    let (cos, sin) = (rope.cos.tensor()?.unsqueeze(1)?, rope.sin.tensor()?.unsqueeze(1)?);
    let x = x.reshape((tokens, width / head_dim, head_dim))?;
    let rms = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(super::NORM_EPS))?.sqrt()?;
    let x = x.broadcast_div(&rms)?.broadcast_mul(weight)?;
    let (a, b) = (x.narrow(2, 0, head_dim / 2)?, x.narrow(2, head_dim / 2, head_dim / 2)?);
    let left = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let right = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
    Tensor::cat(&[left, right], 2)?.reshape((tokens, width))
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
        fn matches_stock_candle(tokens in 1..12_usize, heads in 1..4_usize, half in 1..40_usize) {
            let random = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
            let (x, weight, angle) = (random(&[tokens, heads * 2 * half]), random(&[2 * half]), random(&[tokens, half]));
            let array = |x: Tensor| Array::from_tensor(&x).unwrap();
            let rope = Rope { cos: array(angle.cos().unwrap()), sin: array(angle.sin().unwrap()) };
            let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let reference = values(&stock(&x, &weight, &rope).unwrap());
            let (weight, cos, sin) = (values(&weight), &rope.cos, &rope.sin);
            for isa in Isa::of_cpu() {
                let mut ours = values(&x);
                for (i, head) in ours.chunks_exact_mut(2 * half).enumerate() {
                    let at = i / heads * half;
                    isa.run(|| norm_rotate(head, &weight, &cos[at..], &sin[at..]));
                }
                prop_assert!(ours.iter().zip(&reference).all(|(a, b)| (a - b).abs() < 1e-4), "{isa}");
            }
        }
    }
}
