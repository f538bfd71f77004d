//! Attention over a few hundred keys that lie in separate segments: a frame's own and those of a cache.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::{D, Result, Tensor, bail};
use smallvec::SmallVec;

use super::array::{Array, Values};
use super::gemm::{NR, Parts, Tile, multiply, split, tiles, with_scratch};
use super::key_values::{FLOW_DIM, Heads, KeyValues};
use super::math::{exp, max, simd, sum};
use super::op::SharedOut;
use super::threads::for_each;

/// Queries of one task: their scores against all keys stay in the second-level cache.
const QUERIES: usize = 32;

/// A segment that is attended to with a bias: the logit of a query and a key is
/// `q·k / sqrt(head_dim) + query_features·key_features`.
pub struct Past<'a> {
    /// Its keys and values.
    pub keys: &'a KeyValues,
    /// Features `[heads, queries, FLOW_DIM]` of the queries.
    pub features: Cow<'a, Array>,
}

impl Past<'_> {
    /// Whether it fits queries `[queries, width]` of so many heads.
    pub(super) fn check(&self, dims: &[usize], heads: usize) -> Result<()> {
        let (keys, features) = (self.keys.layout, self.features.dims());
        let &[queries, width] = dims else { bail!("queries {dims:?} are no rows") };
        if keys.heads != heads || keys.width() != width || !keys.biased || features != [heads, queries, FLOW_DIM] {
            bail!("a past segment does not fit {queries} queries of {heads} heads: {features:?}");
        }
        Ok(())
    }

    /// The segment for [`attend`].
    pub(super) fn segment(&self) -> Result<Segment<'_>> {
        match self.keys.heads() {
            Some(heads) if self.features.device().is_cpu() => Ok(Segment { heads, features: &self.features }),
            _ => bail!("segments lie on different devices"),
        }
    }
}

/// A [`Past`] on the CPU.
pub(super) struct Segment<'a> {
    heads: &'a Heads,
    /// `[heads, queries, FLOW_DIM]`.
    features: &'a [f32],
}

/// Those of a chunk, as many as are usual without a list on the heap.
pub(super) type Segments<'a> = SmallVec<[Segment<'a>; 8]>;

/// Softmax attention `[queries, width]` of q `[queries, width]` to the segment `own`, whose features do not count, and to
/// `past` ones.
pub fn attention<T: Values>(q: &T, own: &KeyValues, past: &[Past]) -> Result<T> {
    let dims = q.dims();
    if dims.len() != 2 || own.layout.width() != dims[1] {
        bail!("queries {dims:?} do not fit keys of {}", own.layout.width());
    }
    past.iter().try_for_each(|past| past.check(dims, own.layout.heads))?;
    let (Some(heads), Some(numbers)) = (own.heads(), q.here()?) else {
        return T::of_tensor(stock(&q.to_tensor()?, own, past)?);
    };
    let segments = past.iter().map(Past::segment).collect::<Result<Segments>>()?;
    T::make(dims, |out| attend(&numbers, dims[1], heads, &segments, out))
}

/// [`attention`] on the CPU. `q` holds a query every `stride` values.
pub(super) fn attend(q: &[f32], stride: usize, own: &Heads, past: &[Segment], out: &mut [f32]) {
    let heads = own.layout.heads;
    let blocks = Parts::new(out.len() / own.layout.width(), QUERIES);
    let out = SharedOut::new(out);
    for_each(heads * blocks.len(), |task| {
        let (first, count) = blocks.at(task / heads);
        attend_block(q, stride, task % heads, first..first + count, own, past, out);
    });
}

/// [`attend`] for some of the queries, on this thread; `out` is that of all.
pub(super) fn attend_rows(q: &[f32], stride: usize, rows: Range<usize>, own: &Heads, past: &[Segment], out: SharedOut) {
    for (first, count) in split(rows.len(), QUERIES) {
        for head in 0..own.layout.heads {
            let first = rows.start + first;
            attend_block(q, stride, head, first..first + count, own, past, out);
        }
    }
}

/// One head's attention of some queries.
fn attend_block(
    q: &[f32],
    stride: usize,
    head: usize,
    block: Range<usize>,
    own: &Heads,
    past: &[Segment],
    out: SharedOut,
) {
    let (count, head_dim, width) = (block.len(), own.layout.head_dim, own.layout.width());
    let queries = out.len() / width;
    let depth = head_dim + FLOW_DIM;
    let segments = || std::iter::once((own, None)).chain(past.iter().map(|past| (past.heads, Some(past.features))));
    let total: usize = segments().map(|(heads, _)| heads.layout.tokens).sum();
    with_scratch(count * (depth + total), |scratch| {
        let (rows, scores) = scratch.split_at_mut(count * depth);
        let scale = 1.0 / (head_dim as f32).sqrt();
        for (row, query) in rows.chunks_exact_mut(depth).zip(block.clone()) {
            let query = &q[query * stride + head * head_dim..][..head_dim];
            row.iter_mut().zip(query).for_each(|(o, q)| *o = q * scale);
            row[head_dim..].fill(0.0);
        }
        let mut tile = Tile::default();
        let mut offset = 0;
        for (heads, features) in segments() {
            let [keys, _] = heads.head(head);
            if let Some(features) = features {
                for (row, query) in rows.chunks_exact_mut(depth).zip(block.clone()) {
                    row[head_dim..].copy_from_slice(&features[(head * queries + query) * FLOW_DIM..][..FLOW_DIM]);
                }
            }
            for panel in 0..keys.panels() {
                let columns = NR.min(keys.n - panel * NR);
                for (start, height) in tiles(count) {
                    multiply(height, &rows[start * depth..], depth, keys.panel(panel), &mut tile, false);
                    for (i, sums) in tile.iter().enumerate().take(height) {
                        let at = (start + i) * total + offset + panel * NR;
                        match scores[at..at + columns].first_chunk_mut() {
                            Some(whole) => *whole = sums.0,
                            None => scores[at..at + columns].copy_from_slice(&sums.0[..columns]),
                        }
                    }
                }
            }
            offset += keys.n;
        }
        let mut inverse_sums = [0.0; QUERIES];
        exponentiate(scores, total, &mut inverse_sums);
        for panel in 0..head_dim.div_ceil(NR) {
            let columns = NR.min(head_dim - panel * NR);
            for (start, height) in tiles(count) {
                let mut offset = 0;
                for (heads, _) in segments() {
                    let [_, values] = heads.head(head);
                    let weights = &scores[start * total + offset..];
                    multiply(height, weights, total, values.panel(panel), &mut tile, offset > 0);
                    offset += values.k;
                }
                for (i, sums) in tile.iter().enumerate().take(height) {
                    let at = (block.start + start + i) * width + head * head_dim + panel * NR;
                    // SAFETY: these queries of this head belong to this task.
                    let out = unsafe { out.slice(at..at + columns) };
                    out.iter_mut().zip(&sums.0).for_each(|(o, s)| *o = s * inverse_sums[start + i]);
                }
            }
        }
    });
}

simd! {
    /// The numerators of a softmax over rows of `total` scores, and the inverses of their sums.
    fn exponentiate(scores: &mut [f32], total: usize, inverse_sums: &mut [f32]) {
        for (row, inverse) in scores.chunks_exact_mut(total).zip(inverse_sums) {
            let top = max(row);
            row.iter_mut().for_each(|s| *s = exp(*s - top));
            *inverse = 1.0 / sum(row);
        }
    }
}

/// The same of q `[queries, width]` with stock candle.
pub(super) fn stock(q: &Tensor, own: &KeyValues, past: &[Past]) -> Result<Tensor> {
    let ((queries, width), heads) = (q.dims2()?, own.layout.heads);
    let head_dim = width / heads;
    let by_head = |x: &Tensor| x.reshape((x.dim(0)?, heads, head_dim))?.transpose(0, 1)?.contiguous();
    let q = (by_head(q)? / (head_dim as f64).sqrt())?;
    let segments = std::iter::once((own, None)).chain(past.iter().map(|past| (past.keys, Some(&past.features))));
    let (mut scores, mut values) = (Vec::new(), Vec::new());
    for (segment, features) in segments {
        let [keys, value] = segment.given()?;
        let mut logits = q.matmul(&by_head(&keys)?.transpose(1, 2)?.contiguous()?)?;
        if let (Some(a), Some(b)) = (features, segment.features()?) {
            logits = (logits + a.tensor()?.broadcast_matmul(&b.t()?.contiguous()?)?)?;
        }
        scores.push(logits);
        values.push(by_head(&value)?);
    }
    let weights = candle_nn::ops::softmax(&Tensor::cat(&scores, D::Minus1)?, D::Minus1)?;
    weights.matmul(&Tensor::cat(&values, 1)?)?.transpose(0, 1)?.reshape((queries, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Isa;
    use candle_core::Device;
    use proptest::prelude::*;

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    fn array(shape: &[usize]) -> Cow<'static, Array> {
        Cow::Owned(Array::from_tensor(&random(shape)).unwrap())
    }

    fn segment(tokens: usize, heads: usize, head_dim: usize, biased: bool) -> KeyValues {
        let (keys, values) = (random(&[tokens, heads * head_dim]), random(&[tokens, heads * head_dim]));
        let features = biased.then(|| random(&[tokens, FLOW_DIM]));
        KeyValues::new(&keys, &values, heads, features.as_ref()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn matches_stock_candle(queries in 1..60_usize, heads in 1..4_usize, head_dim in 1..40_usize,
                                tokens in 1..50_usize, biased: bool, old in prop::collection::vec(1..50_usize, 0..4)) {
            let q = random(&[queries, heads * head_dim]);
            let own = segment(tokens, heads, head_dim, biased);
            let old: Vec<_> = old.iter().map(|&n| segment(n, heads, head_dim, true)).collect();
            let past: Vec<_> =
                old.iter().map(|keys| Past { keys, features: array(&[heads, queries, FLOW_DIM]) }).collect();
            let reference = stock(&q, &own, &past).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for isa in Isa::of_cpu() {
                let ours = isa.run(|| attention(&q, &own, &past)).unwrap();
                let ours = ours.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                prop_assert!(ours.iter().zip(&reference).all(|(a, b)| (a - b).abs() < 1e-4), "{isa}");
            }
        }
    }
}
