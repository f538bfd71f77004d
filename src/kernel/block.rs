//! A transformer block as one operator, whose intermediate results rest in buffers that are kept.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{Result, Tensor, bail};

use super::array::Array;
use super::attention::{self, Past, Segments, attend_rows};
use super::key_values::{Filling, Heads, KeyValues};
use super::linear::{Activation, Epilogue, Linear};
use super::norm::{norm_all, stock_modulate};
use super::op::{SharedOut, View};
use super::rope::{self, Rope, norm_rotate};
use super::threads::for_each_rows;

/// Vectors that modulate a block: shift, scale and gate of its attention, then of its MLP.
pub const MODULATIONS: usize = 6;

/// A DiT block (Peebles & Xie 2023, adaLN-Zero) with QK-norm.
pub struct Block {
    /// Queries, keys and values of all heads.
    pub qkv: Linear,
    /// Scale `[head_dim]` of a normed query.
    pub q_norm: Tensor,
    /// Scale `[head_dim]` of a normed key.
    pub k_norm: Tensor,
    /// What follows the attention.
    pub proj: Linear,
    /// The first half of the MLP.
    pub fc1: Linear,
    /// The second half of the MLP.
    pub fc2: Linear,
}

/// Buffers of a thread that leads.
#[derive(Default)]
struct Scratch {
    normed: Vec<f32>,
    qkv: Vec<f32>,
    own: Heads,
    seen: Vec<f32>,
    between: Vec<f32>,
    hidden: Vec<f32>,
}

thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());

impl Block {
    /// The tokens x `[tokens, width]` after the block under `modulation` `[MODULATIONS * width]`. They attend to each other
    /// and to the `past`.
    pub fn forward(&self, x: &Array, modulation: &Array, rope: &Rope, past: &[Past]) -> Result<Array> {
        Ok(self.run(x, modulation, rope, past, None)?.0)
    }

    /// The same, with the tokens' keys and values to be attended to later by their bias `features` `[tokens, FLOW_DIM]`.
    pub fn forward_keeping(
        &self,
        x: &Array,
        modulation: &Array,
        rope: &Rope,
        past: &[Past],
        features: &Array,
    ) -> Result<(Array, KeyValues)> {
        let (x, keys) = self.run(x, modulation, rope, past, Some(features))?;
        Ok((x, keys.expect("asked for")))
    }

    fn run(
        &self,
        x: &Array,
        modulation: &Array,
        rope: &Rope,
        past: &[Past],
        features: Option<&Array>,
    ) -> Result<(Array, Option<KeyValues>)> {
        self.check(x, modulation, rope)?;
        past.iter().try_for_each(|past| past.check(x.dims(), self.heads()))?;
        if !x.device().is_cpu() {
            let (x, keys) = self.stock(&x.tensor()?, &modulation.tensor()?, rope, past, features)?;
            return Ok((Array::from_tensor(&x)?, keys));
        }
        let (_, width) = x.dims2()?;
        let segments = past.iter().map(Past::segment).collect::<Result<Segments>>()?;
        let (bias1, bias2) = (self.fc1.bias()?, self.fc2.bias()?);
        let part = |i: usize| &modulation[i * width..][..width];
        SCRATCH.with_borrow_mut(|scratch| {
            let kept = features.map(|features| self.keep(x, modulation, rope, features, scratch)).transpose()?;
            let Scratch { normed, qkv, own, seen, between, hidden } = scratch;
            let own = match kept.as_ref().and_then(KeyValues::heads) {
                Some(own) => own,
                None => {
                    self.prepare(x, modulation, rope, normed, qkv, &own.fill(self.dims(x), &[])?)?;
                    own
                }
            };
            let inner = self.fc1.outputs();
            seen.resize(x.len(), 0.0);
            between.resize(x.len(), 0.0);
            hidden.resize(x.len() / width * inner, 0.0);
            let [seen, between, normed, hidden] = [seen, between, normed, hidden].map(|buffer| SharedOut::new(buffer));
            let after = |rows: Range<usize>, out: &mut [f32]| {
                let of = |width: usize| rows.start * width..rows.end * width;
                attend_rows(qkv, 3 * width, rows.clone(), own, &segments, seen);
                // SAFETY: each group of rows belongs to one task.
                let [seen, between, normed, hidden] = unsafe {
                    [seen.slice(of(width)), between.slice(of(width)), normed.slice(of(width)), hidden.slice(of(inner))]
                };
                let (residual, gate) = (Some(&x[of(width)]), Some(part(2)));
                self.proj.product(seen, &Epilogue { residual, gate, ..Epilogue::default() }, between);
                norm_all(between, normed, width, part(3), part(4));
                let (bias, activation) = (bias1.as_deref(), Activation::Gelu);
                self.fc1.product(normed, &Epilogue { bias, activation, ..Epilogue::default() }, hidden);
                let (bias, residual, gate) = (bias2.as_deref(), Some(&*between), Some(part(5)));
                self.fc2.product(hidden, &Epilogue { bias, residual, gate, ..Epilogue::default() }, out);
            };
            let out = Array::new(x.dims(), x.device(), |out| for_each_rows(out, width, after))?;
            Ok((out, kept))
        })
    }

    /// Only the keys and values of [`Block::forward_keeping`].
    pub fn keys(&self, x: &Array, modulation: &Array, rope: &Rope, features: &Array) -> Result<KeyValues> {
        self.check(x, modulation, rope)?;
        if !x.device().is_cpu() {
            return Ok(self.stock_keys(&x.tensor()?, &modulation.tensor()?, rope, Some(features))?.1);
        }
        SCRATCH.with_borrow_mut(|scratch| self.keep(x, modulation, rope, features, scratch))
    }

    /// The keys and values of x, to be remembered; what else [`Block::prepare`] tells goes to `scratch`.
    fn keep(
        &self,
        x: &[f32],
        modulation: &[f32],
        rope: &Rope,
        features: &[f32],
        scratch: &mut Scratch,
    ) -> Result<KeyValues> {
        let Scratch { normed, qkv, .. } = scratch;
        KeyValues::packed(self.dims(x), features, |own| self.prepare(x, modulation, rope, normed, qkv, own))
    }

    /// Queries, keys and values in `qkv`, and these packed in `own`.
    fn prepare(
        &self,
        x: &[f32],
        modulation: &[f32],
        rope: &Rope,
        normed: &mut Vec<f32>,
        qkv: &mut Vec<f32>,
        own: &Filling,
    ) -> Result<()> {
        let (width, head_dim) = (self.width(), self.head_dim());
        let half = head_dim / 2;
        let (wq, wk) = (View::new(&self.q_norm)?, View::new(&self.k_norm)?);
        normed.resize(x.len(), 0.0);
        qkv.resize(3 * x.len(), 0.0);
        let shared = SharedOut::new(normed);
        for_each_rows(qkv, 3 * width, |rows, qkv| {
            let of = rows.start * width..rows.end * width;
            // SAFETY: each group of rows belongs to one task.
            let normed = unsafe { shared.slice(of.clone()) };
            norm_all(&x[of], normed, width, &modulation[..width], &modulation[width..2 * width]);
            self.qkv.product(normed, &Epilogue::default(), qkv);
            for (token, row) in rows.clone().zip(qkv.chunks_exact_mut(3 * width)) {
                let (cos, sin) = (&rope.cos[token * half..][..half], &rope.sin[token * half..][..half]);
                let (queries, keys) = row[..2 * width].split_at_mut(width);
                queries.chunks_exact_mut(head_dim).for_each(|query| norm_rotate(query, &wq, cos, sin));
                keys.chunks_exact_mut(head_dim).for_each(|key| norm_rotate(key, &wk, cos, sin));
            }
            let first = rows.start;
            let part = |token: usize, head: usize, part: usize| {
                &qkv[(3 * (token - first) + part) * width + head * head_dim..][..head_dim]
            };
            // SAFETY: each token belongs to one task.
            unsafe { own.pack(rows, |token, head| [part(token, head, 1), part(token, head, 2)]) };
        });
        Ok(())
    }

    /// `[tokens, heads, head_dim]` of x.
    fn dims(&self, x: &[f32]) -> [usize; 3] {
        [x.len() / self.width(), self.heads(), self.head_dim()]
    }

    fn width(&self) -> usize {
        self.proj.outputs()
    }

    fn head_dim(&self) -> usize {
        self.q_norm.elem_count()
    }

    fn heads(&self) -> usize {
        self.width() / self.head_dim()
    }

    fn check(&self, x: &Array, modulation: &Array, rope: &Rope) -> Result<()> {
        let (tokens, width) = x.dims2()?;
        let table = [tokens, self.head_dim() / 2];
        if width != self.width()
            || modulation.dims() != [MODULATIONS * width]
            || rope.cos.dims() != table
            || rope.sin.dims() != table
        {
            bail!(
                "a block of width {} does not fit tokens {:?}, modulation {:?} and tables {:?}",
                self.width(),
                x.dims(),
                modulation.dims(),
                rope.cos.dims()
            );
        }
        Ok(())
    }

    fn stock_keys(
        &self,
        x: &Tensor,
        modulation: &Tensor,
        rope: &Rope,
        features: Option<&Array>,
    ) -> Result<(Tensor, KeyValues)> {
        let width = self.width();
        let h = stock_modulate(x, &modulation.narrow(0, 0, width)?, &modulation.narrow(0, width, width)?)?;
        let qkv = self.qkv.forward(&h, Activation::None)?;
        let part = |i: usize| qkv.narrow(1, i * width, width)?.contiguous();
        let (q, k) = (rope::stock(&part(0)?, &self.q_norm, rope)?, rope::stock(&part(1)?, &self.k_norm, rope)?);
        let features = features.map(Array::tensor).transpose()?;
        Ok((q, KeyValues::new(&k, &part(2)?, self.heads(), features.as_ref())?))
    }

    fn stock(
        &self,
        x: &Tensor,
        modulation: &Tensor,
        rope: &Rope,
        past: &[Past],
        features: Option<&Array>,
    ) -> Result<(Tensor, Option<KeyValues>)> {
        let part = |i: usize| modulation.narrow(0, i * self.width(), self.width());
        let (q, own) = self.stock_keys(x, modulation, rope, features)?;
        let seen = attention::stock(&q, &own, past)?;
        let x = (x + self.proj.forward(&seen, Activation::None)?.broadcast_mul(&part(2)?)?)?;
        let h = stock_modulate(&x, &part(3)?, &part(4)?)?;
        let h = self.fc2.forward(&self.fc1.forward(&h, Activation::Gelu)?, Activation::None)?;
        Ok(((x + h.broadcast_mul(&part(5)?)?)?, features.is_some().then_some(own)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{FLOW_DIM, Isa, ThreadPool};
    use candle_core::Device;
    use proptest::prelude::*;
    use std::borrow::Cow;

    fn random(shape: &[usize], scale: f32) -> Tensor {
        Tensor::randn(0f32, scale, shape, &Device::Cpu).unwrap()
    }

    fn block(heads: usize, head_dim: usize) -> Block {
        let width = heads * head_dim;
        let linear = |inputs: usize, outputs: usize, bias: bool| {
            let bias = bias.then(|| random(&[outputs], 1.0));
            Linear::new(&random(&[outputs, inputs], (inputs as f32).powf(-0.5)), bias.as_ref()).unwrap()
        };
        Block {
            qkv: linear(width, 3 * width, false),
            q_norm: random(&[head_dim], 1.0),
            k_norm: random(&[head_dim], 1.0),
            proj: linear(width, width, false),
            fc1: linear(width, 4 * width, true),
            fc2: linear(4 * width, width, true),
        }
    }

    fn array(shape: &[usize], scale: f32) -> Array {
        Array::from_tensor(&random(shape, scale)).unwrap()
    }

    /// A block, its tokens, modulation and places, and a segment of the past with the queries' features.
    type Case = (Block, Array, Array, Rope, KeyValues, Array);

    fn case(tokens: usize, heads: usize, half: usize, past: usize) -> Case {
        let (head_dim, width) = (2 * half, heads * 2 * half);
        let angle = random(&[tokens, half], 1.0);
        let [cos, sin] = [angle.cos(), angle.sin()].map(|x| Array::from_tensor(&x.unwrap()).unwrap());
        let (keys, values) = (random(&[past, width], 1.0), random(&[past, width], 1.0));
        let segment = KeyValues::new(&keys, &values, heads, Some(&random(&[past, FLOW_DIM], 1.0))).unwrap();
        let features = array(&[heads, tokens, FLOW_DIM], 1.0);
        let (x, modulation) = (array(&[tokens, width], 1.0), array(&[MODULATIONS * width], 0.5));
        (block(heads, head_dim), x, modulation, Rope { cos, sin }, segment, features)
    }

    fn worst(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn matches_stock_candle(tokens in 1..70_usize, heads in 1..4_usize, half in 1..20_usize, old in 1..50_usize) {
            let (block, x, modulation, rope, keys, features) = case(tokens, heads, half, old);
            let past = [Past { keys: &keys, features: Cow::Owned(features) }];
            let of_keys = array(&[tokens, FLOW_DIM], 1.0);
            let [stock_x, by] = [&x, &modulation].map(|x| x.tensor().unwrap());
            let (reference, own) = block.stock(&stock_x, &by, &rope, &past, Some(&of_keys)).unwrap();
            let own = own.unwrap().given().unwrap();
            for isa in Isa::of_cpu() {
                let (y, kept) = isa.run(|| block.forward_keeping(&x, &modulation, &rope, &past, &of_keys)).unwrap();
                let only = isa.run(|| block.keys(&x, &modulation, &rope, &of_keys)).unwrap();
                let y = y.tensor().unwrap();
                prop_assert!(worst(&y, &reference) < 1e-3, "{isa}: {}", worst(&y, &reference));
                for kept in [kept, only] {
                    let kept = kept.given().unwrap();
                    prop_assert!(kept.iter().zip(&own).all(|(kept, own)| worst(kept, own) < 1e-4), "{isa}");
                }
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let (block, x, modulation, rope, keys, features) = case(64, 3, 16, 64);
        let past = [Past { keys: &keys, features: Cow::Owned(features) }];
        let run = |threads| {
            let pool = ThreadPool::new(threads).unwrap();
            pool.install(|| block.forward(&x, &modulation, &rope, &past)).unwrap().to_vec()
        };
        let once = run(1);
        assert!([2, 3, 5].into_iter().all(|threads| run(threads) == once));
    }

    #[test]
    fn a_misfit_is_an_error() {
        let (block, x, modulation, rope, keys, _) = case(4, 2, 3, 5);
        let forward = |x: &Array, modulation: &Array, past: &[Past]| block.forward(x, modulation, &rope, past).is_ok();
        assert!(forward(&x, &modulation, &[]));
        assert!(!forward(&array(&[4, 13], 1.0), &modulation, &[]));
        assert!(!forward(&array(&[5, 12], 1.0), &modulation, &[]));
        assert!(!forward(&x, &array(&[12], 1.0), &[]));
        let narrow = Cow::Owned(array(&[2, 3, FLOW_DIM], 1.0));
        assert!(!forward(&x, &modulation, &[Past { keys: &keys, features: narrow }]));
    }
}
