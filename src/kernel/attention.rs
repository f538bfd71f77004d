//! Attention over a few hundred keys that lie in separate segments: a frame's own and those of a cache.

use candle_core::{D, Result, Tensor, bail};

use super::gemm::{NR, Packed, Tile, multiply, split, tiles, with_scratch};
use super::math::{exp, max, simd, sum};
use super::op::{SharedOut, View, apply};
use super::threads::{for_each, map};

/// Length of the feature vectors whose products are a flow bias.
pub const FLOW_DIM: usize = 4;

/// Queries of one task: their scores against all keys stay in the second-level cache.
const QUERIES: usize = 24;

/// The keys and values of one segment, on the CPU packed for the product.
pub struct KeyValues {
    keys: Tensor,
    values: Tensor,
    store: Store,
    heads: usize,
    head_dim: usize,
    /// Whether keys carry features for a bias.
    biased: bool,
}

enum Store {
    /// Keys (as columns, with their features below) and values (as rows) of every head.
    Packed(Vec<[Packed; 2]>),
    /// Keys and values `[heads, tokens, head_dim]` and features `[tokens, FLOW_DIM]`, for other devices than the CPU.
    Stock { keys: Tensor, values: Tensor, features: Option<Tensor> },
}

impl KeyValues {
    /// Packs keys and values `[tokens, heads * head_dim]`. `features` `[tokens, FLOW_DIM]` of the keys are needed if the
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
        let store = if keys.device().is_cpu() {
            let (keys, values) = (View::new(keys)?, View::new(values)?);
            let features = features.map(View::new).transpose()?;
            let feature_dim = if features.is_some() { FLOW_DIM } else { 0 };
            let (keys, values, features) = (&*keys, &*values, features.as_deref().unwrap_or_default());
            let pack = |head: usize| {
                let keys = Packed::from_columns(head_dim + feature_dim, tokens, |token| {
                    let key = &keys[token * width + head * head_dim..][..head_dim];
                    key.iter().chain(&features[token * feature_dim..][..feature_dim]).copied()
                });
                let values = Packed::from_rows(tokens, head_dim, |token| &values[token * width + head * head_dim..]);
                [keys, values]
            };
            Store::Packed(map(heads, pack))
        } else {
            let by_head = |x: &Tensor| x.reshape((tokens, heads, head_dim))?.transpose(0, 1)?.contiguous();
            Store::Stock { keys: by_head(keys)?, values: by_head(values)?, features: features.cloned() }
        };
        Ok(Self { keys: keys.clone(), values: values.clone(), store, heads, head_dim, biased: features.is_some() })
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

/// Softmax attention `[queries, width]` of q `[queries, width]` to the segment `own` and to `past` segments, each with
/// the bias features `[heads, queries, FLOW_DIM]` of the queries: the logit of a query and a key is
/// `q·k / sqrt(head_dim) + query_features·key_features`, the second part for `past` only.
pub fn attention(q: &Tensor, own: &KeyValues, past: &[(&KeyValues, &Tensor)]) -> Result<Tensor> {
    let (queries, width) = q.dims2()?;
    let (heads, head_dim) = (own.heads, own.head_dim);
    if width != heads * head_dim {
        bail!("queries {:?} do not fit {heads} heads of {head_dim}", q.shape());
    }
    for (segment, features) in past {
        if (segment.heads, segment.head_dim, segment.biased) != (heads, head_dim, true)
            || features.dims() != [heads, queries, FLOW_DIM]
        {
            bail!("a past segment does not fit {heads} heads of {head_dim}: features {:?}", features.shape());
        }
    }
    let mut segments = Vec::with_capacity(past.len() + 1);
    let views = past.iter().map(|(_, features)| View::new(features)).collect::<Result<Vec<_>>>();
    let Store::Packed(own_packed) = &own.store else { return stock(q, own, past) };
    let views = views?;
    segments.push(Segment { packed: own_packed, features: None });
    for ((segment, _), features) in past.iter().zip(&views) {
        let Store::Packed(packed) = &segment.store else { bail!("segments lie on different devices") };
        segments.push(Segment { packed, features: Some(features) });
    }
    apply("attention", q, q.shape(), |q, out| {
        let blocks: Vec<_> = split(queries, QUERIES).collect();
        let out = SharedOut::new(out);
        for_each(heads * blocks.len(), |task| {
            let (head, (first, count)) = (task % heads, blocks[task / heads]);
            attend(q, width, head, head_dim, first, count, &segments, out);
        });
    })
}

struct Segment<'a> {
    packed: &'a [[Packed; 2]],
    /// `[heads, queries, FLOW_DIM]`.
    features: Option<&'a [f32]>,
}

/// One head's attention of `count` queries from `first`.
#[expect(clippy::too_many_arguments, reason = "the coordinates of one task")]
fn attend(
    q: &[f32],
    width: usize,
    head: usize,
    head_dim: usize,
    first: usize,
    count: usize,
    segments: &[Segment],
    out: SharedOut,
) {
    let queries = q.len() / width;
    let extended = head_dim + FLOW_DIM;
    let total: usize = segments.iter().map(|s| s.packed[head][0].n).sum();
    with_scratch(count * (extended + total), |scratch| {
        let (block, scores) = scratch.split_at_mut(count * extended);
        let scale = 1.0 / (head_dim as f32).sqrt();
        for (i, row) in block.chunks_exact_mut(extended).enumerate() {
            let query = &q[(first + i) * width + head * head_dim..][..head_dim];
            row.iter_mut().zip(query).for_each(|(o, q)| *o = q * scale);
        }
        let mut offset = 0;
        let mut tile = Tile::default();
        for segment in segments {
            let keys = &segment.packed[head][0];
            if let Some(features) = segment.features {
                for (i, row) in block.chunks_exact_mut(extended).enumerate() {
                    let at = (head * queries + first + i) * FLOW_DIM;
                    row[head_dim..].copy_from_slice(&features[at..at + FLOW_DIM]);
                }
            }
            // A key that carries features meets a query without any as if the features were not there.
            let depth = if segment.features.is_some() { extended } else { head_dim };
            for panel in 0..keys.panels() {
                let columns = NR.min(keys.n - panel * NR);
                for (start, rows) in tiles(count) {
                    let keys = &keys.panel(panel)[..depth];
                    multiply(rows, &block[start * extended..], extended, keys, &mut tile, false);
                    for (i, sums) in tile.iter().enumerate().take(rows) {
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
            for (start, rows) in tiles(count) {
                let mut offset = 0;
                for segment in segments {
                    let values = &segment.packed[head][1];
                    multiply(
                        rows,
                        &scores[start * total + offset..],
                        total,
                        values.panel(panel),
                        &mut tile,
                        offset > 0,
                    );
                    offset += values.k;
                }
                for (i, sums) in tile.iter().enumerate().take(rows) {
                    let at = (first + start + i) * width + head * head_dim + panel * NR;
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

fn stock(q: &Tensor, own: &KeyValues, past: &[(&KeyValues, &Tensor)]) -> Result<Tensor> {
    let (queries, width) = q.dims2()?;
    let (heads, head_dim) = (own.heads, own.head_dim);
    let q = (q.reshape((queries, heads, head_dim))?.transpose(0, 1)?.contiguous()? / (head_dim as f64).sqrt())?;
    let segments = std::iter::once((own, None)).chain(past.iter().map(|(s, f)| (*s, Some(*f))));
    let (mut scores, mut all_values) = (Vec::new(), Vec::new());
    for (segment, query_features) in segments {
        let Store::Stock { keys, values, features } = &segment.store else {
            bail!("segments lie on different devices")
        };
        let mut logits = q.matmul(&keys.transpose(1, 2)?.contiguous()?)?;
        if let (Some(a), Some(b)) = (query_features, features) {
            logits = (logits + a.broadcast_matmul(&b.t()?.contiguous()?)?)?;
        }
        scores.push(logits);
        all_values.push(values.clone());
    }
    let weights = candle_nn::ops::softmax(&Tensor::cat(&scores, D::Minus1)?, D::Minus1)?;
    weights.matmul(&Tensor::cat(&all_values, 1)?)?.transpose(0, 1)?.reshape((queries, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::ThreadPool;
    use candle_core::Device;
    use proptest::prelude::*;

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    /// Keys, values and features of a segment, packed and not.
    fn segment(tokens: usize, heads: usize, head_dim: usize) -> [KeyValues; 2] {
        let (keys, values) = (random(&[tokens, heads * head_dim]), random(&[tokens, heads * head_dim]));
        let features = random(&[tokens, FLOW_DIM]);
        let packed = KeyValues::new(&keys, &values, heads, Some(&features)).unwrap();
        let by_head =
            |x: &Tensor| x.reshape((tokens, heads, head_dim)).unwrap().transpose(0, 1).unwrap().contiguous().unwrap();
        let store = Store::Stock { keys: by_head(&keys), values: by_head(&values), features: Some(features) };
        [packed, KeyValues { keys, values, store, heads, head_dim, biased: true }]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn matches_stock_candle(queries in 1..60_usize, heads in 1..4_usize, head_dim in 1..40_usize,
                                tokens in prop::collection::vec(1..50_usize, 1..5)) {
            let q = random(&[queries, heads * head_dim]);
            let segments: Vec<_> = tokens.iter().map(|&n| segment(n, heads, head_dim)).collect();
            let features: Vec<_> = tokens.iter().map(|_| random(&[heads, queries, FLOW_DIM])).collect();
            let past = |which: usize| -> Vec<_> {
                segments.iter().zip(&features).skip(1).map(|(s, f)| (&s[which], f)).collect()
            };
            let ours = attention(&q, &segments[0][0], &past(0)).unwrap();
            let reference = stock(&q, &segments[0][1], &past(1)).unwrap();
            let error = (ours - reference).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            prop_assert!(error < 1e-4, "{error}");
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let (q, [own, _], [old, _]) = (random(&[64, 96]), segment(64, 3, 32), segment(64, 3, 32));
        let features = random(&[3, 64, FLOW_DIM]);
        let run = |threads| {
            let pool = ThreadPool::new(threads).unwrap();
            let y = pool.install(|| attention(&q, &own, &[(&old, &features)])).unwrap();
            y.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let once = run(1);
        assert!([2, 3, 5].into_iter().all(|threads| run(threads) == once));
    }

    #[test]
    fn a_misfit_is_an_error() {
        let ([own, _], [other, _]) = (segment(4, 2, 8), segment(4, 2, 6));
        let features = random(&[2, 3, FLOW_DIM]);
        assert!(attention(&random(&[3, 12]), &own, &[]).is_err());
        assert!(attention(&random(&[3, 16]), &own, &[(&other, &features)]).is_err());
        assert!(attention(&random(&[4, 16]), &own, &[(&own, &features)]).is_err());
    }
}
