//! Fully connected layers with everything that follows them fused in.

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Module, Result, Tensor, bail};

use super::array::{Values, apply};
use super::gemm::{NR, Packed, Tile, gemm};
use super::int8::{Int8, gemm_int8};
use super::math::{gelu, gelu_erf, silu, simd};
use super::op::{SharedOut, View};
use super::threads::for_each_chunk;

/// What a layer does to each of its outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// x times the logistic function of x.
    Silu,
    /// The Gaussian error linear unit in its tanh approximation.
    Gelu,
    /// The Gaussian error linear unit itself.
    GeluErf,
}

impl Activation {
    pub(super) fn stock(self, x: Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(x),
            Self::Silu => x.silu(),
            Self::Gelu => x.gelu(),
            Self::GeluErf => x.gelu_erf(),
        }
    }
}

simd! {
    /// Applies an activation in place.
    pub(super) fn activate_slice(x: &mut [f32], activation: Activation) {
        match activation {
            Activation::None => {}
            Activation::Silu => x.iter_mut().for_each(|v| *v = silu(*v)),
            Activation::Gelu => x.iter_mut().for_each(|v| *v = gelu(*v)),
            Activation::GeluErf => x.iter_mut().for_each(|v| *v = gelu_erf(*v)),
        }
    }
}

/// Values of one task.
const PART: usize = 8192;

/// An activation on its own.
pub fn activate<T: Values>(x: &T, activation: Activation) -> Result<T> {
    let run = |x: &[f32], out: &mut [f32]| {
        for_each_chunk(out, PART, |i, out| {
            out.copy_from_slice(&x[i * PART..][..out.len()]);
            activate_slice(out, activation);
        });
    };
    apply(x, x.dims(), run, |x| activation.stock(x.clone()))
}

/// What happens to a product `y` before it is written: `residual + gate * activation(y + bias)`.
#[derive(Default)]
pub(super) struct Epilogue<'a> {
    pub bias: Option<&'a [f32]>,
    pub activation: Activation,
    pub residual: Option<&'a [f32]>,
    pub gate: Option<&'a [f32]>,
}

simd! {
    /// Finishes one tile of a result of `n` columns.
    pub(super) fn finish(
        epilogue: &Epilogue<'_>, n: usize, row: usize, rows: usize, column: usize, tile: &Tile, out: SharedOut<'_>,
    ) {
        let columns = NR.min(n - column);
        let bias = epilogue.bias.map(|values| pad(&values[column..], columns));
        let gate = epilogue.gate.map(|values| pad(&values[column..], columns));
        for (i, sums) in tile.iter().enumerate().take(rows) {
            let start = (row + i) * n + column;
            let mut y = sums.0;
            if let Some(bias) = &bias {
                y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
            match epilogue.activation {
                Activation::None => {}
                Activation::Silu => y.iter_mut().for_each(|v| *v = silu(*v)),
                Activation::Gelu => y.iter_mut().for_each(|v| *v = gelu(*v)),
                Activation::GeluErf => y.iter_mut().for_each(|v| *v = gelu_erf(*v)),
            }
            if let Some(gate) = &gate {
                y.iter_mut().zip(gate).for_each(|(y, g)| *y *= g);
            }
            if let Some(residual) = epilogue.residual {
                y.iter_mut().zip(&pad(&residual[start..], columns)).for_each(|(y, r)| *y += r);
            }
            // SAFETY: every tile belongs to one task.
            let out = unsafe { out.slice(start..start + columns) };
            match out.first_chunk_mut() {
                Some(whole) => *whole = y,
                None => out.copy_from_slice(&y[..columns]),
            }
        }
    }
}

/// The first `columns` values, followed by zeros.
#[inline(always)]
fn pad(values: &[f32], columns: usize) -> [f32; NR] {
    match values.first_chunk() {
        Some(whole) => *whole,
        None => {
            let mut padded = [0.0; NR];
            padded[..columns].copy_from_slice(&values[..columns]);
            padded
        }
    }
}

/// A fully connected layer, `y = x Wᵀ + b`.
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    inputs: usize,
    outputs: usize,
}

enum Weight {
    Packed(Packed),
    Int8(Int8),
    /// `[in, out]`, for other devices than the CPU.
    Stock(Tensor),
    /// In blocks of a few bits a number, as in GGUF files.
    Quantised(QMatMul),
    /// `[out, in]` of 16 bits a number.
    Half(Tensor),
}

impl Linear {
    /// A layer of `weight` `[out, in]` and `bias` `[out]`; on the CPU the weight is repacked and not kept.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        if let Some(bias) = bias
            && bias.dims() != [outputs]
        {
            bail!("a bias of shape {:?} does not fit a weight of shape {:?}", bias.shape(), weight.shape());
        }
        let weight = if weight.device().is_cpu() {
            let weight = weight.contiguous()?;
            let values = View::new(&weight)?;
            Weight::Packed(Packed::from_columns(inputs, outputs, |o| values[o * inputs..][..inputs].iter().copied()))
        } else {
            Weight::Stock(weight.t()?.contiguous()?)
        };
        Ok(Self { weight, bias: bias.cloned(), inputs, outputs })
    }

    /// The same layer with weights rounded to 8 bits an output, and its inputs to 8 bits a row when they come; on other devices
    /// than the CPU as it is.
    #[must_use]
    pub fn into_int8(mut self) -> Self {
        if let Weight::Packed(packed) = &self.weight {
            self.weight = Weight::Int8(Int8::new(packed));
        }
        self
    }

    /// A layer of `weight` `[out, in]`, held in the blocks of `dtype`, and `bias` `[out]`. Its products round x too.
    ///
    /// # Errors
    /// An error when the inputs are no whole number of blocks.
    pub fn quantised(weight: &Tensor, bias: Option<&Tensor>, dtype: GgmlDType) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        if bias.is_some_and(|bias| bias.dims() != [outputs]) {
            bail!("a bias does not fit a weight of shape {:?}", weight.shape());
        }
        let weight = QMatMul::from_qtensor(QTensor::quantize(weight, dtype)?)?;
        Ok(Self { weight: Weight::Quantised(weight), bias: bias.cloned(), inputs, outputs })
    }

    /// A layer of `weight` `[out, in]`, held in the 16 bits of `dtype` and widened for every product, and `bias` `[out]`.
    ///
    /// # Errors
    /// An error when the bias does not fit.
    pub fn half(weight: &Tensor, bias: Option<&Tensor>, dtype: DType) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        if bias.is_some_and(|bias| bias.dims() != [outputs]) {
            bail!("a bias does not fit a weight of shape {:?}", weight.shape());
        }
        let weight = Weight::Half(weight.to_dtype(dtype)?);
        Ok(Self { weight, bias: bias.cloned(), inputs, outputs })
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `residual + gate * (x Wᵀ + b)`, with residual `[rows, out]` and gate `[out]`.
    pub fn forward_residual(&self, x: &Tensor, residual: &Tensor, gate: &Tensor) -> Result<Tensor> {
        let rows = self.rows(x.dims())?;
        if residual.dims() != [rows, self.outputs] || gate.dims() != [self.outputs] {
            bail!("residual or gate do not fit an output of {rows} by {}", self.outputs);
        }
        if let Some(y) = self.stock_product(x)? {
            return residual + finish_stock(y, self.bias.as_ref(), Activation::None)?.broadcast_mul(gate)?;
        }
        let (bias, residual, gate) = (self.bias()?, View::new(residual)?, View::new(gate)?);
        let (residual, gate) = (Some(&*residual), Some(&*gate));
        let epilogue = Epilogue { bias: bias.as_deref(), residual, gate, ..Epilogue::default() };
        let x = View::new(x)?;
        Tensor::make(&[rows, self.outputs], |out| self.product(&x, &epilogue, out))
    }

    fn rows(&self, dims: &[usize]) -> Result<usize> {
        match *dims {
            [rows, inputs] if inputs == self.inputs => Ok(rows),
            _ => bail!("a layer of {} inputs got {dims:?}", self.inputs),
        }
    }

    /// `activation(x Wᵀ + b)` of x `[rows, in]`.
    pub fn forward<T: Values>(&self, x: &T, activation: Activation) -> Result<T> {
        let rows = self.rows(x.dims())?;
        let (Weight::Packed(_) | Weight::Int8(_), Some(numbers)) = (&self.weight, x.here()?) else {
            let x = x.to_tensor()?;
            let Some(y) = self.stock_product(&x)? else { bail!("a layer on the CPU got {:?}", x.device()) };
            return T::of_tensor(finish_stock(y, self.bias.as_ref(), activation)?);
        };
        let bias = self.bias()?;
        let epilogue = Epilogue { bias: bias.as_deref(), activation, ..Epilogue::default() };
        T::make(&[rows, self.outputs], |out| self.product(&numbers, &epilogue, out))
    }

    /// `x Wᵀ` where the weight is not packed.
    fn stock_product(&self, x: &Tensor) -> Result<Option<Tensor>> {
        match &self.weight {
            Weight::Packed(_) | Weight::Int8(_) => Ok(None),
            Weight::Stock(weight) => x.matmul(weight).map(Some),
            Weight::Quantised(weight) => weight.forward(x).map(Some),
            Weight::Half(weight) => x.matmul(&weight.to_dtype(x.dtype())?.t()?).map(Some),
        }
    }

    /// The bias of a layer on the CPU, for its [`Epilogue`].
    pub(super) fn bias(&self) -> Result<Option<View<'_>>> {
        self.bias.as_ref().map(View::new).transpose()
    }

    /// `x Wᵀ` and what follows it, of a layer on the CPU.
    pub(super) fn product(&self, x: &[f32], epilogue: &Epilogue, out: &mut [f32]) {
        let finish = |row: usize, rows: usize, column: usize, tile: &Tile, out: SharedOut<'_>| {
            finish(epilogue, self.outputs, row, rows, column, tile, out);
        };
        match &self.weight {
            Weight::Packed(packed) => gemm(x, packed, out, finish),
            Weight::Int8(quantized) => gemm_int8(x, quantized, out, finish),
            Weight::Stock(_) | Weight::Quantised(_) | Weight::Half(_) => {
                unreachable!("a layer that is computed by candle")
            }
        }
    }
}

fn finish_stock(mut y: Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
    if let Some(bias) = bias {
        y = y.broadcast_add(bias)?;
    }
    activation.stock(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Isa, ThreadPool};
    use candle_core::Device;
    use proptest::prelude::*;

    const ACTIVATIONS: [Activation; 4] = [Activation::None, Activation::Silu, Activation::Gelu, Activation::GeluErf];

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    fn stock(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
        finish_stock(x.matmul(weight)?, bias, activation)
    }

    fn worst(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_activation_matches_stock_candle(rows in 1..80_usize, inputs in 1..50_usize, outputs in 1..70_usize,
                                                 with_bias: bool, activation in 0..4_usize) {
            let (x, weight) = (random(&[rows, inputs]), random(&[outputs, inputs]));
            let bias = with_bias.then(|| random(&[outputs]));
            let layer = Linear::new(&weight, bias.as_ref()).unwrap();
            let activation = ACTIVATIONS[activation];
            let reference = stock(&x, &weight.t().unwrap(), bias.as_ref(), activation).unwrap();
            for isa in Isa::of_cpu() {
                let ours = isa.run(|| layer.forward(&x, activation)).unwrap();
                prop_assert!(worst(&ours, &reference) < 1e-4, "{isa}");
            }
        }

        #[test]
        fn a_gated_residual_matches_stock_candle(rows in 1..80_usize, inputs in 1..50_usize, outputs in 1..70_usize) {
            let (x, weight) = (random(&[rows, inputs]), random(&[outputs, inputs]));
            let (residual, gate) = (random(&[rows, outputs]), random(&[outputs]));
            let layer = Linear::new(&weight, None).unwrap();
            let product = stock(&x, &weight.t().unwrap(), None, Activation::None).unwrap();
            let reference = (&residual + product.broadcast_mul(&gate).unwrap()).unwrap();
            for isa in Isa::of_cpu() {
                let ours = isa.run(|| layer.forward_residual(&x, &residual, &gate)).unwrap();
                prop_assert!(worst(&ours, &reference) < 1e-4, "{isa}");
            }
        }

        #[test]
        fn an_activation_alone_matches_stock_candle(rows in 1..5_usize, width in 1..5000_usize, activation in 0..4_usize) {
            let x = random(&[rows, width]);
            let reference = ACTIVATIONS[activation].stock(x.clone()).unwrap();
            for isa in Isa::of_cpu() {
                let ours = isa.run(|| activate(&x, ACTIVATIONS[activation])).unwrap();
                prop_assert!(worst(&ours, &reference) < 1e-5, "{isa}");
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let (x, layer) = (random(&[130, 300]), Linear::new(&random(&[500, 300]), None).unwrap());
        let run = |threads| {
            let y = ThreadPool::new(threads).unwrap().install(|| layer.forward(&x, Activation::Gelu)).unwrap();
            y.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let once = run(1);
        assert!([2, 3, 4, 7].into_iter().all(|threads| run(threads) == once));
    }

    #[test]
    fn few_bits_are_near() {
        let (x, weight, bias) = (random(&[50, 512]), random(&[70, 512]), random(&[70]));
        let residual = random(&[50, 70]);
        let exact = Linear::new(&weight, Some(&bias)).unwrap();
        let norm = |x: Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        for (dtype, most) in [(GgmlDType::Q8_0, 2e-2), (GgmlDType::Q4K, 1e-1)] {
            let layer = Linear::quantised(&weight, Some(&bias), dtype).unwrap();
            let outputs = |layer: &Linear| {
                let plain = layer.forward(&x, Activation::Gelu).unwrap();
                [plain, layer.forward_residual(&x, &residual, &bias).unwrap()]
            };
            for (ours, exact) in outputs(&layer).into_iter().zip(outputs(&exact)) {
                let error = norm((ours - &exact).unwrap()) / norm(exact);
                assert!(error > 0.0 && error < most, "{dtype:?}: {error}");
            }
        }
        assert!(Linear::quantised(&random(&[4, 33]), None, GgmlDType::Q8_0).is_err());
    }

    #[test]
    fn a_misfit_is_an_error() {
        let layer = Linear::new(&random(&[4, 3]), None).unwrap();
        assert!(layer.forward(&random(&[2, 4]), Activation::None).is_err());
        assert!(Linear::new(&random(&[4, 3]), Some(&random(&[3]))).is_err());
    }
}
