//! 3 x 3 convolutions over channels-last pictures.

use std::cell::RefCell;

use candle_core::{Result, Tensor, bail};

use super::array::Values;
use super::gemm::{NR, Packed, Parts, Tile, multiply, tiles};
use super::linear::{Activation, Epilogue, activate_slice, finish};
use super::op::{SharedOut, View};
use super::threads::{for_each, for_each_chunk};

/// Lines of the picture handled by one task.
const LINES: usize = 4;

/// A 3 x 3 convolution with zero padding that keeps height and width.
///
/// In a channels-last picture with a border, the 3 neighbours of a pixel in one line are contiguous, and those of the
/// next pixel start one pixel on: three products with an overlapping A replace im2col.
pub struct Conv3x3 {
    weight: Weight,
    bias: Tensor,
    inputs: usize,
    outputs: usize,
}

enum Weight {
    Packed(Packed),
    /// `[out, in, 3, 3]`, for other devices than the CPU.
    Stock(Tensor),
}

impl Conv3x3 {
    /// A convolution of `weight` `[out, in, 3, 3]` and `bias` `[out]`; on the CPU the weight is repacked and not kept.
    pub fn new(weight: &Tensor, bias: &Tensor) -> Result<Self> {
        let (outputs, inputs, height, width) = weight.dims4()?;
        if (height, width) != (3, 3) || bias.dims() != [outputs] {
            bail!("weight {:?} and bias {:?} make no 3x3 convolution", weight.shape(), bias.shape());
        }
        let weight = if weight.device().is_cpu() {
            let columns = weight.permute((0, 2, 3, 1))?.contiguous()?;
            let values = View::new(&columns)?;
            let k = 9 * inputs;
            Weight::Packed(Packed::from_columns(k, outputs, |o| values[o * k..][..k].iter().copied()))
        } else {
            Weight::Stock(weight.clone())
        };
        Ok(Self { weight, bias: bias.clone(), inputs, outputs })
    }

    /// `after(conv(before(x)))` of x `[height, width, in]`, plus `residual` `[height, width, out]` if there is one.
    pub fn forward<T: Values>(&self, x: &T, before: Activation, after: Activation, residual: Option<&T>) -> Result<T> {
        let &[height, width, inputs] = x.dims() else { bail!("{:?} are no picture", x.dims()) };
        let shape = [height, width, self.outputs];
        if inputs != self.inputs || residual.is_some_and(|r| r.dims() != shape) {
            bail!("a convolution of {} to {} channels got {:?}", self.inputs, self.outputs, x.dims());
        }
        let packed = match &self.weight {
            Weight::Packed(packed) => packed,
            Weight::Stock(weight) => {
                let residual = residual.map(Values::to_tensor).transpose()?;
                return T::of_tensor(stock(&x.to_tensor()?, weight, &self.bias, before, after, residual.as_ref())?);
            }
        };
        let bias = View::new(&self.bias)?;
        let (x, residual) = (x.here()?, residual.map(Values::here).transpose()?.flatten());
        let Some(x) = x else { bail!("a convolution on the CPU got a picture that is elsewhere") };
        let epilogue = Epilogue { bias: Some(&bias), activation: after, residual: residual.as_deref(), gate: None };
        T::make(&shape, |out| {
            PADDED.with_borrow_mut(|padded| {
                pad(&x, width, inputs, before, padded);
                convolve(padded, width, inputs, packed, &epilogue, out);
            });
        })
    }
}

thread_local!(static PADDED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });

/// Writes `activation(x)` of a picture with lines of `width` pixels to `padded`, with a border of one pixel of zeros.
fn pad(x: &[f32], width: usize, channels: usize, activation: Activation, padded: &mut Vec<f32>) {
    let (line, padded_line) = (width * channels, (width + 2) * channels);
    let height = x.len() / line;
    padded.resize((height + 2) * padded_line, 0.0);
    let lines = LINES * padded_line;
    for_each_chunk(padded, lines, |task, out| {
        for (i, out) in out.chunks_exact_mut(padded_line).enumerate() {
            let (left, rest) = out.split_at_mut(channels);
            let (middle, right) = rest.split_at_mut(line);
            left.fill(0.0);
            right.fill(0.0);
            match (task * LINES + i).checked_sub(1).filter(|&y| y < height) {
                Some(y) => {
                    middle.copy_from_slice(&x[y * line..][..line]);
                    activate_slice(middle, activation);
                }
                None => middle.fill(0.0),
            }
        }
    });
}

fn convolve(padded: &[f32], width: usize, inputs: usize, weight: &Packed, epilogue: &Epilogue, out: &mut [f32]) {
    let padded_line = (width + 2) * inputs;
    let height = padded.len() / padded_line - 2;
    let lines = Parts::new(height, LINES);
    let out = SharedOut::new(out);
    for_each(lines.len(), |task| {
        let (first, count) = lines.at(task);
        let mut tile = Tile::default();
        for panel in 0..weight.panels() {
            for y in first..first + count {
                for (x, pixels) in tiles(width) {
                    for (dy, taps) in weight.panel(panel).chunks_exact(3 * inputs).enumerate() {
                        let padded = &padded[(y + dy) * padded_line + x * inputs..];
                        multiply(pixels, padded, inputs, taps, &mut tile, dy > 0);
                    }
                    finish(epilogue, weight.n, y * width + x, pixels, panel * NR, &tile, out);
                }
            }
        }
    });
}

fn stock(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    before: Activation,
    after: Activation,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let x = before.stock(x.permute((2, 0, 1))?.unsqueeze(0)?.contiguous()?)?;
    let y = x.conv2d(weight, 1, 1, 1, 1)?.squeeze(0)?.permute((1, 2, 0))?.contiguous()?.broadcast_add(bias)?;
    let y = after.stock(y)?;
    match residual {
        Some(residual) => residual + y,
        None => Ok(y),
    }
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
        fn matches_stock_candle(height in 1..14_usize, width in 1..14_usize, inputs in 1..9_usize,
                                outputs in 1..40_usize, silu_before: bool, silu_after: bool, with_residual: bool) {
            let random = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
            let (x, weight, bias) = (random(&[height, width, inputs]), random(&[outputs, inputs, 3, 3]), random(&[outputs]));
            let residual = with_residual.then(|| random(&[height, width, outputs]));
            let silu = |on| if on { Activation::Silu } else { Activation::None };
            let (before, after) = (silu(silu_before), silu(silu_after));
            let conv = Conv3x3::new(&weight, &bias).unwrap();
            let reference = stock(&x, &weight, &bias, before, after, residual.as_ref()).unwrap();
            for isa in Isa::of_cpu() {
                let ours = isa.run(|| conv.forward(&x, before, after, residual.as_ref())).unwrap();
                let error = (ours - &reference).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                prop_assert!(error < 1e-4, "{isa}: {error}");
            }
        }
    }

    #[test]
    fn a_misfit_is_an_error() {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(Conv3x3::new(&zeros(&[4, 3, 5, 5]), &zeros(&[4])).is_err());
        let conv = Conv3x3::new(&zeros(&[4, 3, 3, 3]), &zeros(&[4])).unwrap();
        assert!(conv.forward(&zeros(&[8, 8, 2]), Activation::None, Activation::None, None).is_err());
    }
}
