//! The grid of spacetime patches: any frame size becomes tokens whose positions are a property of the data, not of
//! the network.

use candle_core::Device;

use crate::kernel::{Array, FLOW_DIM, Rope, Values, apply};
use crate::{Error, FrameSize, Result};

/// Focal length over the square root of a frame's area, of the camera the world is seen with.
pub(super) const FOCAL: f32 = 88.09 / 128.0;

/// The tokens of one chunk, in reading order, as one trunk sees them.
pub struct Grid {
    /// Tokens down.
    pub height: usize,
    /// Tokens across.
    pub width: usize,
    /// Focal length in tokens.
    pub focal: f32,
    /// Token centres (x right, y down) in focal lengths from the middle.
    pub positions: Vec<[f32; 2]>,
    /// 2-D rotary embedding: half of the pairs turns with x, the other half with y.
    pub rope: Rope,
    /// What a flow bias needs to know of the keys, `[tokens, FLOW_DIM]`: kx, ky, |k|², 1 in tokens.
    pub key_features: Array,
}

impl Grid {
    /// The tokens of `patch` × `patch` pixels of frames of `size`, for heads of `head_dim`.
    ///
    /// # Errors
    /// [`Error::Input`] when `size` is no whole number of patches.
    pub fn new(size: FrameSize, patch: usize, head_dim: usize, device: &Device) -> Result<Self> {
        if size.pixels() == 0 || !size.width.is_multiple_of(patch) || !size.height.is_multiple_of(patch) {
            return Err(Error::input(format!(
                "frames of {size}: width and height must be multiples of {patch} pixels"
            )));
        }
        let (height, width) = (size.height / patch, size.width / patch);
        let focal = FOCAL * ((height * width) as f32).sqrt();
        let tokens = || (0..height).flat_map(|y| (0..width).map(move |x| (x as f32, y as f32)));
        let centre = |(x, y)| [(x + 0.5 - width as f32 / 2.0) / focal, (y + 0.5 - height as f32 / 2.0) / focal];
        let positions: Vec<[f32; 2]> = tokens().map(centre).collect();

        let (count, frequencies) = (height * width, head_dim / 4);
        let turn = |f: fn(f32) -> f32| {
            let angles = tokens()
                .flat_map(|(x, y)| [x, y])
                .flat_map(|at| (0..frequencies).map(move |i| at * 100f32.powf(-(i as f32) / frequencies as f32)));
            Array::new(&[count, 2 * frequencies], device, |out| {
                out.iter_mut().zip(angles).for_each(|(out, angle)| *out = f(angle));
            })
        };
        let rope = Rope { cos: turn(f32::cos)?, sin: turn(f32::sin)? };

        let key_features = Array::new(&[count, FLOW_DIM], device, |out| {
            for (out, position) in out.as_chunks_mut().0.iter_mut().zip(&positions) {
                let [x, y] = position.map(|v| v * focal);
                *out = [x, y, x * x + y * y, 1.0];
            }
        })?;
        Ok(Self { height, width, focal, positions, rope, key_features })
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.height * self.width
    }
}

/// Tokens `[h * w, side * side * C]` from cells `[h * side, w * side, C]`; the cells of a token are in reading order.
pub fn cells_to_tokens<T: Values>(cells: &T, side: usize) -> Result<T> {
    let &[height, width, channels] = cells.dims() else { return Err(misfit(cells.dims())) };
    let (h, w, line) = (height / side, width / side, side * channels);
    let run = |cells: &[f32], out: &mut [f32]| {
        for (i, out) in out.chunks_exact_mut(line).enumerate() {
            out.copy_from_slice(&cells[line_at(i, side, w) * line..][..line]);
        }
    };
    let dims = [h * w, side * line];
    Ok(apply(cells, &dims, run, |x| x.reshape((h, side, w, line))?.transpose(1, 2)?.contiguous()?.reshape(&dims[..]))?)
}

/// The inverse of [`cells_to_tokens`] for a grid of `height` × `width` tokens.
pub fn tokens_to_cells<T: Values>(tokens: &T, height: usize, width: usize, side: usize) -> Result<T> {
    let &[_, numbers] = tokens.dims() else { return Err(misfit(tokens.dims())) };
    let line = numbers / side;
    let run = |tokens: &[f32], out: &mut [f32]| {
        for (i, tokens) in tokens.chunks_exact(line).enumerate() {
            out[line_at(i, side, width) * line..][..line].copy_from_slice(tokens);
        }
    };
    let dims = [height * side, width * side, line / side];
    let split = (height, width, side, line);
    Ok(apply(tokens, &dims, run, |x| x.reshape(split)?.transpose(1, 2)?.contiguous()?.reshape(&dims[..]))?)
}

fn misfit(dims: &[usize]) -> Error {
    candle_core::Error::msg(format!("{dims:?} are neither cells nor tokens")).into()
}

/// Where among the lines of `side` cells, in a grid of `width` tokens, is the one that is number `i` as tokens hold them.
fn line_at(i: usize, side: usize, width: usize) -> usize {
    let (token, line) = (i / side, i % side);
    (token / width * side + line) * width + token % width
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Tensor;
    use proptest::prelude::*;

    proptest! {
        /// The reference numbers every value by where it lies.
        #[test]
        fn tokens_match_a_plain_reference(h in 1..6_usize, w in 1..6_usize, side in 1..5_usize, channels in 1..8_usize) {
            let (height, width) = (h * side, w * side);
            let count = (height * width * channels) as f32;
            let cells = Tensor::arange(0f32, count, &Device::Cpu).unwrap().reshape((height, width, channels)).unwrap();
            let tokens = cells_to_tokens(&Array::from_tensor(&cells).unwrap(), side).unwrap();
            prop_assert_eq!(tokens.dims(), [h * w, side * side * channels]);
            let mut at = tokens.iter();
            for (ty, tx) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
                for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
                    for c in 0..channels {
                        let from = ((ty * side + y) * width + tx * side + x) * channels + c;
                        prop_assert_eq!(at.next(), Some(&(from as f32)));
                    }
                }
            }
            let back = tokens_to_cells(&tokens, h, w, side).unwrap();
            prop_assert_eq!((back.dims(), &back[..]), (cells.dims(), &cells.flatten_all().unwrap().to_vec1::<f32>().unwrap()[..]));
        }
    }

    #[test]
    fn sizes_that_are_no_whole_number_of_patches_are_refused() {
        for (width, height) in [(0, 16), (16, 0), (100, 64), (64, 100)] {
            let size = FrameSize::new(width, height);
            assert!(matches!(Grid::new(size, 16, 8, &Device::Cpu), Err(Error::Input(_))));
        }
        let grid = Grid::new(FrameSize::new(176, 96), 16, 8, &Device::Cpu).unwrap();
        assert_eq!((grid.height, grid.width, grid.positions.len()), (6, 11, 66));
    }

    #[test]
    fn tokens_hold_their_cells_in_reading_order() {
        let cells = Tensor::arange(0f32, 24.0, &Device::Cpu).unwrap().reshape((4, 6, 1)).unwrap();
        let cells = Array::from_tensor(&cells).unwrap();
        let tokens = cells_to_tokens(&cells, 2).unwrap();
        assert_eq!(tokens[4..8], [2.0, 3.0, 8.0, 9.0]);
        assert_eq!(tokens.dims(), [6, 4]);
        let back = tokens_to_cells(&tokens, 2, 3, 2).unwrap();
        assert_eq!(back[..], cells[..]);
    }
}
