//! The grid of spacetime patches: any frame size becomes tokens whose positions are a property of the data, not of
//! the network.

use candle_core::{Device, Tensor};

use crate::kernel::{FLOW_DIM, Rope};
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
    pub key_features: Tensor,
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

        let frequencies = head_dim / 4;
        let angles: Vec<f32> = tokens()
            .flat_map(|(x, y)| [x, y])
            .flat_map(|at| (0..frequencies).map(move |i| at * 100f32.powf(-(i as f32) / frequencies as f32)))
            .collect();
        let angles = Tensor::from_vec(angles, (height * width, 2 * frequencies), device)?;
        let rope = Rope { cos: angles.cos()?, sin: angles.sin()? };

        let features = positions.iter().flat_map(|p| {
            let [x, y] = p.map(|v| v * focal);
            [x, y, x * x + y * y, 1.0]
        });
        let key_features = Tensor::from_vec(features.collect::<Vec<_>>(), (height * width, FLOW_DIM), device)?;
        Ok(Self { height, width, focal, positions, rope, key_features })
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.height * self.width
    }
}

/// Tokens `[h * w, side * side * C]` from cells `[h * side, w * side, C]`; the cells of a token are in reading order.
pub fn cells_to_tokens(cells: &Tensor, side: usize) -> Result<Tensor> {
    let (height, width, channels) = cells.dims3()?;
    let (h, w) = (height / side, width / side);
    let split = cells.reshape((h, side, w, side * channels))?.transpose(1, 2)?;
    Ok(split.contiguous()?.reshape((h * w, side * side * channels))?)
}

/// The inverse of [`cells_to_tokens`] for a grid of `height` × `width` tokens.
pub fn tokens_to_cells(tokens: &Tensor, height: usize, width: usize, side: usize) -> Result<Tensor> {
    let channels = tokens.dim(1)? / (side * side);
    let split = tokens.reshape((height, width, side, side * channels))?.transpose(1, 2)?;
    Ok(split.contiguous()?.reshape((height * side, width * side, channels))?)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let tokens = cells_to_tokens(&cells, 2).unwrap();
        assert_eq!(tokens.get(1).unwrap().to_vec1::<f32>().unwrap(), [2.0, 3.0, 8.0, 9.0]);
        let back = tokens_to_cells(&tokens, 2, 3, 2).unwrap();
        assert_eq!(back.to_vec3::<f32>().unwrap(), cells.to_vec3::<f32>().unwrap());
    }
}
