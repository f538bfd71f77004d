//! Attention over a few hundred keys that lie in separate segments: a frame's own and those of a cache.

use std::ops::Range;

use candle_core::{D, Result, Tensor, bail};

use super::gemm::{NR, Packed, Tile, multiply, tiles, with_scratch};
use super::math::{exp, max, simd, sum};
use super::op::{SharedOut, View, apply};
use super::threads::{for_each, for_each_mut};

/// Length of the feature vectors whose products are a flow bias.
pub const FLOW_DIM: usize = 4;

/// Queries of one task: their scores against all keys stay in the second-level cache.
const QUERIES: usize = 24;

/// The keys and values of one segment, on the CPU packed for the product.
pub struct KeyValues {
    keys: Tensor,
    values: Tensor,
    /// Features `[tokens, FLOW_DIM]` of the keys, for a bias.
    features: Option<Tensor>,
    /// Of every head, on the CPU.
    packed: Vec<[Packed; 2]>,
    heads: usize,
}

impl KeyValues {
    /// Keys and values `[tokens, heads * head_dim]`. `features` `[tokens, FLOW_DIM]` of the keys are needed if the
    /// segment is to be attended to with a bias.
    pub fn new(keys: &Tensor, values: &Tensor, heads: usize, features: Option<&Tensor>) -> Result<Self> {
        let (tokens, width) = keys.dims2()?;
        if values.dims() != [tokens, width]
            || heads == 0
            || width % heads != 0
            || features.is_some_and(|f| f.dims() != [tokens, FLOW_DIM])
        {
            bail!("values {:?} and features do not fit keys {:?} of {heads} heads", values.shape(), keys.shape());
        }
        let head_dim = width / heads;
        let mut packed = Vec::new();
        if keys.device().is_cpu() {
            let (keys, values) = (View::new(keys)?, View::new(values)?);
            let features = features.map(View::new).transpose()?;
            let (keys, values, features) = (&*keys, &*values, features.as_deref().unwrap_or_default());
            packed.resize_with(heads, Default::default);
            for_each_mut(&mut packed, |head, packed| {
                let key = |token: usize| &keys[token * width + head * head_dim..][..head_dim];
                let value = |token: usize| &values[token * width + head * head_dim..][..head_dim];
                pack_head(packed, tokens, head_dim, key, value, features);
            });
        }
        Ok(Self { keys: keys.clone(), values: values.clone(), features: features.cloned(), packed, heads })
    }

    /// The keys as given.
    pub fn keys(&self) -> &Tensor {
        &self.keys
    }

    /// The values as given.
    pub fn values(&self) -> &Tensor {
        &self.values
    }
}

/// Packs one head's keys (as columns, with their features `[tokens, FLOW_DIM]` below unless these are empty) and values (as
/// rows).
pub(super) fn pack_head<'a>(
    [keys, values]: &mut [Packed; 2],
    tokens: usize,
    head_dim: usize,
    key: impl Fn(usize) -> &'a [f32],
    value: impl Fn(usize) -> &'a [f32],
    features: &[f32],
) {
    let extra = if features.is_empty() { 0 } else { FLOW_DIM };
    keys.set_columns(head_dim + extra, tokens, |token| {
        key(token).iter().chain(&features[token * extra..][..extra]).copied()
    });
    values.set_rows(tokens, head_dim, value);
}

/// A segment that is attended to with a bias: the logit of a query and a key is
/// `q·k / sqrt(head_dim) + query_features·key_features`.
pub struct Past<'a> {
    /// Its keys and values.
    pub keys: &'a KeyValues,
    /// Features `[heads, queries, FLOW_DIM]` of the queries.
    pub features: Tensor,
}

impl Past<'_> {
    /// Whether it fits queries `[queries, width]` of so many heads.
    pub(super) fn check(&self, q: &Tensor, heads: usize) -> Result<()> {
        let (queries, width) = q.dims2()?;
        if self.keys.heads != heads
            || self.keys.keys.dim(1)? != width
            || self.keys.features.is_none()
            || self.features.dims() != [heads, queries, FLOW_DIM]
        {
            bail!("a past segment does not fit {queries} queries of {heads} heads: {:?}", self.features.shape());
        }
        Ok(())
    }

    /// The segment for [`attend`].
    pub(super) fn segment(&self) -> Result<Segment<'_>> {
        if self.keys.packed.is_empty() {
            bail!("segments lie on different devices");
        }
        Ok(Segment { packed: &self.keys.packed, features: View::new(&self.features)? })
    }
}

/// A [`Past`] on the CPU.
pub(super) struct Segment<'a> {
    packed: &'a [[Packed; 2]],
    /// `[heads, queries, FLOW_DIM]`.
    features: View<'a>,
}

/// Softmax attention `[queries, width]` of q `[queries, width]` to the segment `own`, whose features do not count, and to
/// `past` ones.
pub fn attention(q: &Tensor, own: &KeyValues, past: &[Past]) -> Result<Tensor> {
    let (_, width) = q.dims2()?;
    if own.keys.dim(1)? != width {
        bail!("queries {:?} do not fit keys {:?}", q.shape(), own.keys.shape());
    }
    past.iter().try_for_each(|past| past.check(q, own.heads))?;
    if own.packed.is_empty() {
        return stock(q, own, past);
    }
    let segments = past.iter().map(Past::segment).collect::<Result<Vec<_>>>()?;
    apply("attention", q, q.shape(), |q, out| attend(q, width, width / own.heads, &own.packed, &segments, out))
}

/// [`attention`] on the CPU. `q` holds a query every `stride` values.
pub(super) fn attend(
    q: &[f32],
    stride: usize,
    head_dim: usize,
    own: &[[Packed; 2]],
    past: &[Segment],
    out: &mut [f32],
) {
    let (heads, width) = (own.len(), own.len() * head_dim);
    let queries = out.len() / width;
    let blocks = queries.div_ceil(QUERIES);
    let out = SharedOut::new(out);
    for_each(heads * blocks, |task| {
        let (head, block) = (task % heads, task / heads);
        let (first, last) = (block * queries / blocks, (block + 1) * queries / blocks);
        attend_block(q, stride, head, head_dim, first..last, own, past, out);
    });
}

/// One head's attention of some queries.
#[expect(clippy::too_many_arguments, reason = "the coordinates of one task")]
fn attend_block(
    q: &[f32],
    stride: usize,
    head: usize,
    head_dim: usize,
    block: Range<usize>,
    own: &[[Packed; 2]],
    past: &[Segment],
    out: SharedOut,
) {
    let (count, width) = (block.len(), own.len() * head_dim);
    let queries = out.len() / width;
    let depth = head_dim + FLOW_DIM;
    let segments =
        || std::iter::once((&own[head], None)).chain(past.iter().map(|s| (&s.packed[head], Some(&*s.features))));
    let total: usize = segments().map(|(packed, _)| packed[0].n).sum();
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
        for ([keys, _], features) in segments() {
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
                for ([_, values], _) in segments() {
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
    let ((queries, width), heads) = (q.dims2()?, own.heads);
    let head_dim = width / heads;
    let by_head = |x: &Tensor| x.reshape((x.dim(0)?, heads, head_dim))?.transpose(0, 1)?.contiguous();
    let q = (by_head(q)? / (head_dim as f64).sqrt())?;
    let segments = std::iter::once((own, None)).chain(past.iter().map(|past| (past.keys, Some(&past.features))));
    let (mut scores, mut values) = (Vec::new(), Vec::new());
    for (segment, features) in segments {
        let mut logits = q.matmul(&by_head(&segment.keys)?.transpose(1, 2)?.contiguous()?)?;
        if let (Some(a), Some(b)) = (features, &segment.features) {
            logits = (logits + a.broadcast_matmul(&b.t()?.contiguous()?)?)?;
        }
        scores.push(logits);
        values.push(by_head(&segment.values)?);
    }
    let weights = candle_nn::ops::softmax(&Tensor::cat(&scores, D::Minus1)?, D::Minus1)?;
    weights.matmul(&Tensor::cat(&values, 1)?)?.transpose(0, 1)?.reshape((queries, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use proptest::prelude::*;

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
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
                old.iter().map(|keys| Past { keys, features: random(&[heads, queries, FLOW_DIM]) }).collect();
            let reference = stock(&q, &own, &past).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let ours = attention(&q, &own, &past).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            prop_assert!(ours.iter().zip(&reference).all(|(a, b)| (a - b).abs() < 1e-4));
        }
    }

    #[test]
    fn keys_and_values_must_fit() {
        let tensor = |shape: &[usize]| random(shape);
        assert!(KeyValues::new(&tensor(&[4, 6]), &tensor(&[4, 6]), 4, None).is_err());
        assert!(KeyValues::new(&tensor(&[4, 6]), &tensor(&[3, 6]), 2, None).is_err());
        assert!(KeyValues::new(&tensor(&[4, 6]), &tensor(&[4, 6]), 2, Some(&tensor(&[3, FLOW_DIM]))).is_err());
    }
}
