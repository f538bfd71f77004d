//! Queries, keys and values from a joint projection: RMS norm per head, then rotary position embedding.

use candle_core::{D, Result, Tensor, bail};

use super::gemm::split;
use super::math::simd;
use super::norm::inverse_rms;
use super::op::{SharedOut, View, apply};
use super::threads::for_each;

/// Cosines and sines `[tokens, head_dim / 2]` of a rotary embedding (Su et al. 2021) in its half-split form: pair i of
/// a head is `(i, i + head_dim / 2)`.
pub struct Rope {
    /// Cosine of every pair's angle.
    pub cos: Tensor,
    /// Sine of every pair's angle.
    pub sin: Tensor,
}

/// Tokens of one task.
const TOKENS: usize = 16;

simd! {
    /// The heads of one token, normed and rotated.
    fn rotate(x: &[f32], out: &mut [f32], weight: &[f32], cos: &[f32], sin: &[f32]) {
        let head_dim = weight.len();
        let half = head_dim / 2;
        let (wa, wb, cos, sin) = (&weight[..half], &weight[half..][..half], &cos[..half], &sin[..half]);
        for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
            let factor = inverse_rms(x);
            let (a, b) = (&x[..half], &x[half..][..half]);
            let (left, right) = out.split_at_mut(half);
            let (left, right) = (&mut left[..half], &mut right[..half]);
            for i in 0..half {
                let (a, b) = (a[i] * factor * wa[i], b[i] * factor * wb[i]);
                left[i] = a * cos[i] - b * sin[i];
                right[i] = a * sin[i] + b * cos[i];
            }
        }
    }
}

/// Queries, keys and values, each `[tokens, width]`, from qkv `[tokens, 3 * width]`. Queries and keys are RMS-normed
/// within every head, scaled by `q_weight` and `k_weight` `[head_dim]`, and rotated.
pub fn qk_norm_rope(
    qkv: &Tensor,
    q_weight: &Tensor,
    k_weight: &Tensor,
    rope: &Rope,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (tokens, width) = qkv.dims2()?;
    let (width, head_dim) = (width / 3, q_weight.elem_count());
    let table = [tokens, head_dim / 2];
    if qkv.dims()[1] != 3 * width
        || head_dim == 0
        || head_dim % 2 != 0
        || width % head_dim != 0
        || k_weight.dims() != [head_dim]
        || q_weight.dims() != [head_dim]
        || rope.cos.dims() != table
        || rope.sin.dims() != table
    {
        bail!("heads of {head_dim} with tables {:?} do not fit qkv {:?}", rope.cos.shape(), qkv.shape());
    }
    if !qkv.device().is_cpu() {
        return stock(qkv, q_weight, k_weight, rope);
    }
    let (wq, wk) = (View::new(q_weight)?, View::new(k_weight)?);
    let (cos, sin) = (View::new(&rope.cos)?, View::new(&rope.sin)?);
    let half = head_dim / 2;
    let all = apply("qk_norm_rope", qkv, (3, tokens, width), |qkv, out| {
        let blocks: Vec<_> = split(tokens, TOKENS).collect();
        let out = SharedOut::new(out);
        for_each(blocks.len(), |task| {
            let (first, count) = blocks[task];
            for token in first..first + count {
                let row = &qkv[token * 3 * width..][..3 * width];
                // SAFETY: the three rows of a token belong to one task.
                let [q, k, v] = [0, 1, 2].map(|part| unsafe {
                    let start = (part * tokens + token) * width;
                    out.slice(start..start + width)
                });
                let (cos, sin) = (&cos[token * half..][..half], &sin[token * half..][..half]);
                rotate(&row[..width], q, &wq, cos, sin);
                rotate(&row[width..2 * width], k, &wk, cos, sin);
                v.copy_from_slice(&row[2 * width..]);
            }
        });
    })?;
    Ok((all.get(0)?, all.get(1)?, all.get(2)?))
}

fn stock(qkv: &Tensor, q_weight: &Tensor, k_weight: &Tensor, rope: &Rope) -> Result<(Tensor, Tensor, Tensor)> {
    let (tokens, width) = (qkv.dim(0)?, qkv.dim(1)? / 3);
    let head_dim = q_weight.elem_count();
    let (cos, sin) = (rope.cos.unsqueeze(1)?, rope.sin.unsqueeze(1)?);
    let rotate = |x: Tensor, weight: &Tensor| {
        let x = x.reshape((tokens, width / head_dim, head_dim))?;
        let rms = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(super::NORM_EPS))?.sqrt()?;
        let x = x.broadcast_div(&rms)?.broadcast_mul(weight)?;
        let (a, b) = (x.narrow(2, 0, head_dim / 2)?, x.narrow(2, head_dim / 2, head_dim / 2)?);
        let left = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let right = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
        Tensor::cat(&[left, right], 2)?.reshape((tokens, width))
    };
    let part = |i: usize| qkv.narrow(1, i * width, width)?.contiguous();
    Ok((rotate(part(0)?, q_weight)?, rotate(part(1)?, k_weight)?, part(2)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn matches_stock_candle(tokens in 1..12_usize, heads in 1..4_usize, half in 1..40_usize) {
            let random = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
            let qkv = random(&[tokens, 3 * heads * 2 * half]);
            let (wq, wk) = (random(&[2 * half]), random(&[2 * half]));
            let angle = random(&[tokens, half]);
            let rope = Rope { cos: angle.cos().unwrap(), sin: angle.sin().unwrap() };
            let ours = qk_norm_rope(&qkv, &wq, &wk, &rope).unwrap();
            let reference = stock(&qkv, &wq, &wk, &rope).unwrap();
            for (ours, reference) in [(ours.0, reference.0), (ours.1, reference.1), (ours.2, reference.2)] {
                let error = (ours - reference).unwrap().abs().unwrap().max_all().unwrap();
                prop_assert!(error.to_scalar::<f32>().unwrap() < 1e-4);
            }
        }
    }
}
