//! What the kernels do not have: layer norms, rotary embeddings of interleaved pairs, attention over time.

use std::f32::consts::PI;

use candle_core::{CpuStorage, Result as TensorResult, Storage, Tensor, bail};

use crate::kernel::for_each_chunk;

/// Added to the variance in layer norms, as most models have it.
pub const EPS: f32 = 1e-6;

/// The numbers of a tensor.
pub fn numbers(x: &Tensor) -> TensorResult<Vec<f32>> {
    x.flatten_all()?.to_vec1::<f32>()
}

/// `layer_norm(x) * scale + shift` of every row of x `[rows, width]`, with `eps` added to the variance.
pub fn norm(x: &Tensor, scale: &[f32], shift: &[f32], eps: f32) -> TensorResult<Tensor> {
    let (_, width) = x.dims2()?;
    if scale.len() != width || shift.len() != width {
        bail!("scale and shift do not fit rows of {width}");
    }
    let mut out = numbers(x)?;
    for_each_chunk(&mut out, width, |_, row| {
        let mean = sum(row, |v| v) / width as f32;
        row.iter_mut().for_each(|v| *v -= mean);
        let factor = 1.0 / (sum(row, |v| v * v) / width as f32 + eps).sqrt();
        for ((v, scale), shift) in row.iter_mut().zip(scale).zip(shift) {
            *v = *v * factor * scale + shift;
        }
    });
    Tensor::from_vec(out, x.shape(), x.device())
}

/// `x / rms(x)` of every row of x `[rows, width]`. The kernels' own adds more to the mean square than PyTorch does by
/// default, which shows where values are small.
pub fn rms_norm(x: &Tensor) -> TensorResult<Tensor> {
    let mut out = numbers(x)?;
    for_each_chunk(&mut out, x.dim(1)?, |_, row| to_unit_rms(row));
    Tensor::from_vec(out, x.shape(), x.device())
}

/// `x / rms(x) * scale` of every row of x `[rows, width]`, with `eps` added to the mean square.
pub fn rms_scale(x: &Tensor, scale: &[f32], eps: f32) -> TensorResult<Tensor> {
    let mut out = numbers(x)?;
    if scale.len() != x.dim(1)? {
        bail!("a scale does not fit rows of {:?}", x.shape());
    }
    for_each_chunk(&mut out, scale.len(), |_, row| {
        let factor = 1.0 / (sum(row, |v| v * v) / row.len() as f32 + eps).sqrt();
        row.iter_mut().zip(scale).for_each(|(v, scale)| *v *= factor * scale);
    });
    Tensor::from_vec(out, x.shape(), x.device())
}

/// `rms_norm(x) * (1 + scale) + shift`, with x `[rows, width]`, shift and scale `[width]`.
pub fn rms_modulate(x: &Tensor, shift: &Tensor, scale: &Tensor) -> TensorResult<Tensor> {
    let (mut out, scale, shift) = (numbers(x)?, numbers(scale)?, numbers(shift)?);
    if scale.len() != x.dim(1)? || shift.len() != scale.len() {
        bail!("scale and shift do not fit rows of {:?}", x.shape());
    }
    for_each_chunk(&mut out, scale.len(), |_, row| {
        to_unit_rms(row);
        for ((v, scale), shift) in row.iter_mut().zip(&scale).zip(&shift) {
            *v = *v * (1.0 + scale) + shift;
        }
    });
    Tensor::from_vec(out, x.shape(), x.device())
}

fn to_unit_rms(row: &mut [f32]) {
    let factor = 1.0 / (sum(row, |v| v * v) / row.len() as f32 + f32::EPSILON).sqrt();
    row.iter_mut().for_each(|v| *v *= factor);
}

/// The numbers from `from` to `to` in even steps, to the bit as PyTorch's `linspace` has them.
pub fn linspace(from: f32, to: f32, count: usize, i: usize) -> f32 {
    let step = (to - from) / (count.max(2) - 1) as f32;
    if count == 1 || i < count / 2 { step.mul_add(i as f32, from) } else { (-step).mul_add((count - 1 - i) as f32, to) }
}

/// A sum in interleaved parts, which is faster and rounds less.
fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut parts = [0.0; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        parts.iter_mut().zip(chunk).for_each(|(part, v)| *part += f(*v));
    }
    parts.iter_mut().zip(rest).for_each(|(part, v)| *part += f(*v));
    parts.iter().sum()
}

/// Cosines and sines by which the pairs `(2i, 2i + 1)` of a head turn.
#[derive(Clone)]
pub struct Turns {
    /// `[tokens, head_dim / 2]`, or one row for all tokens.
    pairs: Vec<[f32; 2]>,
    head_dim: usize,
}

impl Turns {
    /// By a token's place in a grid: the first pairs turn with its line, the next with its column, the rest not at all.
    /// `frequencies` of each are spread evenly from 1 to `fastest` half turns. Angles of hundreds of radians are rounded to
    /// f32 as the reference does it.
    pub fn in_space(height: usize, width: usize, head_dim: usize, frequencies: usize, fastest: f32) -> Self {
        let mut pairs = Vec::with_capacity(height * width * head_dim / 2);
        for y in 0..height {
            for x in 0..width {
                let token = pairs.len();
                for (count, place) in [(height, y), (width, x)] {
                    let position = linspace(-1.0, 1.0, count, place);
                    let angle = |i| position * (linspace(1.0, fastest, frequencies, i) * PI);
                    pairs.extend((0..frequencies).map(|i| turn(f64::from(angle(i)))));
                }
                pairs.resize(token + head_dim / 2, turn(0.0));
            }
        }
        Self { pairs, head_dim }
    }

    /// By `angles` `[tokens, head_dim / 2]`.
    pub fn new(angles: impl IntoIterator<Item = f64>, head_dim: usize) -> Self {
        Self { pairs: angles.into_iter().map(turn).collect(), head_dim }
    }

    /// By a frame's place in time, the same for all its tokens.
    pub fn in_time(position: u64, head_dim: usize) -> Self {
        let frequency = |i: usize| 1e4f64.powf(-(2.0 * i as f64) / head_dim as f64) as f32;
        let angle = |i: usize| position as f64 * f64::from(frequency(i));
        Self { pairs: (0..head_dim / 2).map(|i| turn(angle(i))).collect(), head_dim }
    }

    /// Queries, keys and values, each `[tokens, width]`, from qkv `[tokens, 3 * width]`; the first two are turned.
    pub fn split(&self, qkv: &Tensor) -> TensorResult<[Tensor; 3]> {
        let (tokens, width) = (qkv.dim(0)?, qkv.dim(1)? / 3);
        let (qkv, device) = (numbers(qkv)?, qkv.device());
        let part = |which: usize| {
            let mut out = vec![0.0; tokens * width];
            for_each_chunk(&mut out, width, |token, out| {
                out.copy_from_slice(&qkv[(3 * token + which) * width..][..width]);
                if which < 2 {
                    self.turn(token, out);
                }
            });
            Tensor::from_vec(out, (tokens, width), device)
        };
        Ok([part(0)?, part(1)?, part(2)?])
    }

    /// Heads `[tokens, width]`, each divided by the root of its mean square, then turned.
    pub fn norm(&self, x: &Tensor) -> TensorResult<Tensor> {
        let (_, width) = x.dims2()?;
        let mut out = numbers(x)?;
        for_each_chunk(&mut out, width, |token, heads| {
            for head in heads.chunks_exact_mut(self.head_dim) {
                to_unit_rms(head);
            }
            self.turn(token, heads);
        });
        Tensor::from_vec(out, x.shape(), x.device())
    }

    /// Heads `[tokens, width]`, turned.
    pub fn apply(&self, x: &Tensor) -> TensorResult<Tensor> {
        let mut out = numbers(x)?;
        for_each_chunk(&mut out, x.dim(1)?, |token, heads| self.turn(token, heads));
        Tensor::from_vec(out, x.shape(), x.device())
    }

    fn turn(&self, token: usize, heads: &mut [f32]) {
        let half = self.head_dim / 2;
        let pairs = if self.pairs.len() == half { &self.pairs } else { &self.pairs[token * half..][..half] };
        for head in heads.chunks_exact_mut(self.head_dim) {
            for ([a, b], [cos, sin]) in head.as_chunks_mut().0.iter_mut().zip(pairs) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
    }
}

fn turn(angle: f64) -> [f32; 2] {
    [angle.cos() as f32, angle.sin() as f32]
}

/// The attention `[tokens, width]` of every token of q `[tokens, width]` to the keys and values `[tokens, width]` of the
/// same token in the frames `seen`.
pub fn attend_in_time(q: &Tensor, seen: &[&[Tensor; 2]], heads: usize) -> TensorResult<Tensor> {
    let (_, width) = q.dims2()?;
    let head_dim = width / heads;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let stored: Vec<_> = seen.iter().map(|kv| kv.each_ref().map(Tensor::storage_and_layout)).collect();
    let views =
        stored.iter().map(|[keys, values]| Ok([view(keys)?, view(values)?])).collect::<TensorResult<Vec<_>>>()?;
    if views.is_empty() || views.iter().flatten().any(|view| view.len() != q.elem_count()) {
        bail!("keys and values do not fit queries {:?}", q.shape());
    }
    let mut out = numbers(q)?;
    // A token's row of one frame after the other, not all frames head by head: so many places at once are not fetched ahead.
    for_each_chunk(&mut out, width, |token, row| {
        let (at, frames) = (token * width, views.len());
        let mut weights = vec![0.0; heads * frames];
        for (frame, [keys, _]) in views.iter().enumerate() {
            let keys = keys[at..at + width].chunks_exact(head_dim);
            for (head, (q, k)) in row.chunks_exact(head_dim).zip(keys).enumerate() {
                weights[head * frames + frame] = scale * dot(q, k);
            }
        }
        for weights in weights.chunks_exact_mut(frames) {
            let top = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            weights.iter_mut().for_each(|w| *w = (*w - top).exp());
            let total: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= total);
        }
        row.fill(0.0);
        for (frame, [_, values]) in views.iter().enumerate() {
            let values = values[at..at + width].chunks_exact(head_dim);
            for (head, (out, values)) in row.chunks_exact_mut(head_dim).zip(values).enumerate() {
                let weight = weights[head * frames + frame];
                out.iter_mut().zip(values).for_each(|(o, v)| *o += weight * v);
            }
        }
    });
    Tensor::from_vec(out, q.shape(), q.device())
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut parts = [0.0; 8];
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        parts.iter_mut().zip(a.iter().zip(b)).for_each(|(part, (a, b))| *part += a * b);
    }
    parts.iter().sum::<f32>() + rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum::<f32>()
}

fn view<'a>(
    (storage, layout): &'a (impl std::ops::Deref<Target = Storage>, &candle_core::Layout),
) -> TensorResult<&'a [f32]> {
    match (&**storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("keys and values lie on the CPU, in order"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, Device};

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    fn worst(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn norms_match_stock_candle() {
        let x = ((random(&[7, 37]) * 3.0).unwrap() + 5.0).unwrap();
        let (scale, shift) = (random(&[37]), random(&[37]));
        let ours = norm(&x, &numbers(&scale).unwrap(), &numbers(&shift).unwrap(), EPS).unwrap();
        let stock = candle_nn::ops::layer_norm_slow(&x, &scale, &shift, EPS).unwrap();
        assert!(worst(&ours, &stock) < 1e-5);
        assert!(norm(&x, &[1.0], &[0.0], EPS).is_err());
    }

    #[test]
    fn numbers_are_spread_as_pytorch_does() {
        let spread = |from, to, count: usize| (0..count).map(|i| linspace(from, to, count, i)).collect::<Vec<_>>();
        assert_eq!(spread(-1.0, 1.0, 1), [-1.0]);
        assert_eq!(spread(-1.0, 1.0, 3), [-1.0, 0.0, 1.0]);
        assert_eq!((spread(-1.0, 1.0, 16)[3], spread(1.0, 128.0, 16)[10]), (-0.599_999_96, 85.666_67));
    }

    #[test]
    fn attention_over_time_matches_stock_candle() {
        let (tokens, heads, head_dim, frames) = (5, 2, 12, 4);
        let q = random(&[tokens, heads * head_dim]);
        let seen: Vec<_> = (0..frames).map(|_| [random(&[tokens, 24]), random(&[tokens, 24])]).collect();
        let ours = attend_in_time(&q, &seen.iter().collect::<Vec<_>>(), heads).unwrap();
        let split = |x: &Tensor| x.reshape((tokens, heads, head_dim)).unwrap();
        let stack = |i: usize| Tensor::stack(&seen.iter().map(|kv| split(&kv[i])).collect::<Vec<_>>(), 2).unwrap();
        let logits =
            (split(&q).unsqueeze(2).unwrap().broadcast_mul(&stack(0)).unwrap().sum_keepdim(D::Minus1).unwrap()
                / (head_dim as f64).sqrt())
            .unwrap();
        let weights = candle_nn::ops::softmax(&logits, 2).unwrap();
        let stock = weights.broadcast_mul(&stack(1)).unwrap().sum(2).unwrap().flatten_from(1).unwrap();
        assert!(worst(&ours, &stock) < 1e-5);
        assert!(attend_in_time(&random(&[4, 24]), &[&seen[0]], heads).is_err());
    }
}
