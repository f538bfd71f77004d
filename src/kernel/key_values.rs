//! What attention looks at: the keys and values of a frame or chunk, packed, in memory that is used again.

use std::cell::RefCell;
use std::mem;
use std::ops::{Deref, Range};
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};
use smallvec::SmallVec;

use super::array::Values;
use super::gemm::{NR, Packed, Row, SharedPacked};
use super::pages::Pages;
use super::threads::for_each;

/// Length of the feature vectors whose products are a flow bias.
pub const FLOW_DIM: usize = 4;

/// The keys and values of one segment. Clones are the same one.
#[derive(Clone)]
pub struct KeyValues {
    held: Held,
    pub(super) layout: Layout,
}

#[derive(Clone)]
enum Held {
    /// On the CPU, packed for the product.
    Packed(Reused),
    /// Elsewhere: keys, values and features `[tokens, FLOW_DIM]` as they were given.
    Given([Tensor; 2], Option<Tensor>),
}

/// What a segment is of.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) struct Layout {
    pub tokens: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// Whether its keys have features, for a bias.
    pub biased: bool,
}

impl Layout {
    pub fn width(self) -> usize {
        self.heads * self.head_dim
    }

    /// Features of a key.
    fn extra(self) -> usize {
        if self.biased { FLOW_DIM } else { 0 }
    }

    /// Rows and columns of a head's keys and of its values: keys are columns with their features below, values are rows.
    fn parts(self) -> [[usize; 2]; 2] {
        [[self.head_dim + self.extra(), self.tokens], [self.tokens, self.head_dim]]
    }

    /// Packed rows that each of them takes.
    fn counts(self) -> [usize; 2] {
        self.parts().map(|[k, n]| Packed::count(k, n))
    }

    fn bytes(self) -> usize {
        self.heads * self.counts().iter().sum::<usize>() * size_of::<Row>()
    }
}

/// Keys and values of every head, packed, one head after the other.
#[derive(Default)]
pub(super) struct Heads {
    rows: Pages<Row>,
    pub layout: Layout,
}

impl Heads {
    /// Makes room for `[tokens, heads, head_dim]` with `features` `[tokens, FLOW_DIM]`, or none, for several threads to pack.
    pub fn fill<'a>(&'a mut self, [tokens, heads, head_dim]: [usize; 3], features: &'a [f32]) -> Result<Filling<'a>> {
        let layout = Layout { tokens, heads, head_dim, biased: !features.is_empty() };
        if self.layout != layout {
            *self = Self { rows: Pages::zeros(layout.bytes() / size_of::<Row>())?, layout };
        }
        let mut rest = &mut self.rows[..];
        let mut part = |[k, n]: [usize; 2]| {
            let (rows, others) = mem::take(&mut rest).split_at_mut(Packed::count(k, n));
            rest = others;
            SharedPacked::new(rows, k, n)
        };
        let heads = (0..heads).map(|_| layout.parts().map(&mut part)).collect();
        Ok(Filling { heads, layout, features })
    }

    /// Keys and values of one head.
    pub fn head(&self, head: usize) -> [Packed<&[Row]>; 2] {
        let [keys, values] = self.layout.counts();
        let (of_keys, rest) = self.rows[head * (keys + values)..].split_at(keys);
        let [[depth, tokens], [_, width]] = self.layout.parts();
        [Packed::new(of_keys, depth, tokens), Packed::new(&rest[..values], tokens, width)]
    }
}

/// Heads in memory that is used again; none only while it is given back.
#[derive(Clone)]
struct Reused(Option<Arc<Heads>>);

thread_local!(static SPARE: RefCell<Vec<Arc<Heads>>> = const { RefCell::new(Vec::new()) });

/// Segments whose memory a thread keeps at most.
const MOST: usize = 16;

impl Reused {
    /// Those of a segment, which `fill` packs.
    fn filled(dims: [usize; 3], features: &[f32], fill: impl FnOnce(&Filling) -> Result<()>) -> Result<Self> {
        let mut spare = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        let heads = Arc::get_mut(&mut spare).expect("nobody else holds what is spare");
        fill(&heads.fill(dims, features)?)?;
        Ok(Self(Some(spare)))
    }
}

impl Deref for Reused {
    type Target = Heads;

    fn deref(&self) -> &Heads {
        self.0.as_deref().expect("held until it is given back")
    }
}

impl Drop for Reused {
    fn drop(&mut self) {
        let Some(mut heads) = self.0.take() else { return };
        if Arc::get_mut(&mut heads).is_some() {
            // A thread that ends has nothing to keep.
            _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < MOST {
                    spare.push(heads);
                }
            });
        }
    }
}

/// Keys and values of every head while several threads pack them, each those of its own tokens.
pub(super) struct Filling<'a> {
    heads: SmallVec<[[SharedPacked<'a>; 2]; 8]>,
    layout: Layout,
    /// `[tokens, FLOW_DIM]`, or none.
    features: &'a [f32],
}

impl Filling<'_> {
    /// Packs the keys and values of neighbouring tokens, of which `of` tells the vectors of a head.
    ///
    /// # Safety
    /// Nobody else may pack any of them at the same time.
    pub unsafe fn pack<'b>(&self, tokens: Range<usize>, of: impl Fn(usize, usize) -> [&'b [f32]; 2]) {
        let extra = self.layout.extra();
        for (head, [keys, values]) in self.heads.iter().enumerate() {
            for token in tokens.clone() {
                let [key, value] = of(token, head);
                let features = &self.features[token * extra..][..extra];
                // SAFETY: promised by the caller.
                unsafe {
                    keys.set_column(token, key[..self.layout.head_dim].iter().chain(features).copied());
                    values.set_row(token, value);
                }
            }
        }
    }
}

impl KeyValues {
    /// Keys and values `[tokens, heads * head_dim]`. `features` `[tokens, FLOW_DIM]` of the keys are needed if the
    /// segment is to be attended to with a bias.
    pub fn new<T: Values>(keys: &T, values: &T, heads: usize, features: Option<&T>) -> Result<Self> {
        let (dims, of_features) = (keys.dims(), features.map(Values::dims));
        let &[tokens, width] = dims else { bail!("keys {dims:?} are no rows") };
        if values.dims() != dims
            || heads == 0
            || width % heads != 0
            || of_features.is_some_and(|features| features != [tokens, FLOW_DIM])
        {
            bail!("values {:?} and features do not fit keys {dims:?} of {heads} heads", values.dims());
        }
        let head_dim = width / heads;
        if let (Some(keys), Some(values)) = (keys.here()?, values.here()?) {
            let features = features.map(Values::here).transpose()?.flatten();
            let dims @ [_, _, head_dim] = [tokens, heads, head_dim];
            return Self::packed(dims, features.as_deref().unwrap_or_default(), |filling| {
                let (keys, values) = (&keys[..], &values[..]);
                let of = |token: usize, head: usize| {
                    [keys, values].map(|part| &part[token * width + head * head_dim..][..head_dim])
                };
                let part = |i: usize| i * NR..tokens.min((i + 1) * NR);
                // SAFETY: the parts are disjoint, and each belongs to one task.
                for_each(tokens.div_ceil(NR), |i| unsafe { filling.pack(part(i), of) });
                Ok(())
            });
        }
        let features = features.map(Values::to_tensor).transpose()?;
        let layout = Layout { tokens, heads, head_dim, biased: features.is_some() };
        Ok(Self { held: Held::Given([keys.to_tensor()?, values.to_tensor()?], features), layout })
    }

    /// `[tokens, heads, head_dim]` on the CPU, which `fill` packs; no `features` for a segment without a bias.
    pub(super) fn packed(
        dims: [usize; 3],
        features: &[f32],
        fill: impl FnOnce(&Filling) -> Result<()>,
    ) -> Result<Self> {
        let packed = Reused::filled(dims, features, fill)?;
        Ok(Self { layout: packed.layout, held: Held::Packed(packed) })
    }

    /// Keys and values of every head, on the CPU.
    pub(super) fn heads(&self) -> Option<&Heads> {
        match &self.held {
            Held::Packed(heads) => Some(heads),
            Held::Given(..) => None,
        }
    }

    /// Bytes of a segment on the CPU with features.
    pub fn bytes(tokens: usize, heads: usize, head_dim: usize) -> usize {
        Layout { tokens, heads, head_dim, biased: true }.bytes()
    }

    /// The shape of keys and of values, as they were given.
    pub fn dims(&self) -> [usize; 2] {
        [self.layout.tokens, self.layout.width()]
    }

    /// Where it lies, which clones share, and the bytes that it takes there; none of what it was given on a device.
    pub(crate) fn packed_at(&self) -> Option<(usize, usize)> {
        self.heads().map(|heads| (heads.rows.as_ptr() as usize, heads.layout.bytes()))
    }

    /// Keys and values as they were given.
    ///
    /// # Errors
    /// An error when there is no memory for them.
    pub fn given(&self) -> Result<[Tensor; 2]> {
        let packed = match &self.held {
            Held::Given(given, _) => return Ok(given.clone()),
            Held::Packed(packed) => packed,
        };
        let (Layout { tokens, heads, head_dim, .. }, width) = (self.layout, self.layout.width());
        let [mut keys, mut values] = [(); 2].map(|()| vec![0.0; tokens * width]);
        for head in 0..heads {
            let [packed_keys, packed_values] = packed.head(head);
            packed_keys.each(|row, first, column| {
                if row < head_dim {
                    let keys = keys[first * width + head * head_dim + row..].iter_mut().step_by(width);
                    keys.zip(column).for_each(|(key, value)| *key = *value);
                }
            });
            packed_values.each(|token, first, row| {
                values[token * width + head * head_dim + first..][..row.len()].copy_from_slice(row);
            });
        }
        let tensor = |values| Tensor::from_vec(values, (tokens, width), &Device::Cpu);
        Ok([tensor(keys)?, tensor(values)?])
    }

    /// The features of the keys.
    pub(super) fn features(&self) -> Result<Option<Tensor>> {
        match &self.held {
            Held::Given(_, features) => Ok(features.clone()),
            Held::Packed(_) if !self.layout.biased => Ok(None),
            Held::Packed(heads) => {
                let Layout { tokens, head_dim, .. } = self.layout;
                let mut features = vec![0.0; tokens * FLOW_DIM];
                heads.head(0)[0].each(|row, first, column| {
                    if let Some(feature) = row.checked_sub(head_dim) {
                        let features = features[first * FLOW_DIM + feature..].iter_mut().step_by(FLOW_DIM);
                        features.zip(column).for_each(|(feature, value)| *feature = *value);
                    }
                });
                Tensor::from_vec(features, (tokens, FLOW_DIM), &Device::Cpu).map(Some)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn keys_and_values_are_given_back_as_they_came() {
        let (keys, values, features) = (random(&[37, 12]), random(&[37, 12]), random(&[37, FLOW_DIM]));
        let rows = |x: &Tensor| x.to_vec2::<f32>().unwrap();
        for _ in 0..3 {
            let segment = KeyValues::new(&keys, &values, 3, Some(&features)).unwrap();
            assert_eq!(segment.given().unwrap().each_ref().map(rows), [rows(&keys), rows(&values)]);
            assert_eq!(rows(&segment.features().unwrap().unwrap()), rows(&features));
        }
    }

    #[test]
    fn a_segment_lies_where_one_of_its_shape_was_dropped() {
        let segment =
            || KeyValues::new(&random(&[37, 12]), &random(&[37, 12]), 3, Some(&random(&[37, FLOW_DIM]))).unwrap();
        let first = segment();
        let (at, clone) = (first.packed_at(), first.clone());
        drop(first);
        assert_ne!(segment().packed_at(), at, "a clone still holds it");
        drop(clone);
        // What was given back would be taken by this.
        let _other = Pages::<u8>::zeros(at.unwrap().1).unwrap();
        assert_eq!(segment().packed_at(), at);
    }

    #[test]
    fn keys_and_values_must_fit() {
        assert!(KeyValues::new(&random(&[4, 6]), &random(&[4, 6]), 4, None).is_err());
        assert!(KeyValues::new(&random(&[4, 6]), &random(&[3, 6]), 2, None).is_err());
        assert!(KeyValues::new(&random(&[4, 6]), &random(&[4, 6]), 2, Some(&random(&[3, FLOW_DIM]))).is_err());
    }
}
