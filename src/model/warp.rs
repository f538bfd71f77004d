//! Turning a picture back by a known rotation of the camera.
//!
//! A rotation moves the picture the same at every depth, so the controls alone tell where each pixel comes from.

use candle_core::Device;
use half::f16;
use smallvec::SmallVec;

use super::patch::FOCAL;
use crate::Result;
use crate::kernel::{Array, for_each_chunk, for_each_rows};

/// Colour channels of a frame.
pub(super) const RGB: usize = 3;

/// Pictures held as cells of `side` × `side` pixels, `channels` numbers a cell (picture, colour, line, column).
pub(super) struct Cells<'a> {
    pub values: &'a [f32],
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub side: usize,
}

impl Cells<'_> {
    /// The colours of a picture at a point in pixels, bilinear; the picture's edges go on outside.
    pub fn sample(&self, picture: usize, x: f32, y: f32) -> [f32; RGB] {
        let (left, right, along) = between(x, self.width * self.side);
        let (top, bottom, down) = between(y, self.height * self.side);
        let corners = [(top, left), (top, right), (bottom, left), (bottom, right)].map(|(y, x)| {
            let cell = (y / self.side) * self.width + x / self.side;
            cell * self.channels + picture * RGB * self.side * self.side + (y % self.side) * self.side + x % self.side
        });
        let weights = [(1.0 - down) * (1.0 - along), (1.0 - down) * along, down * (1.0 - along), down * along];
        std::array::from_fn(|colour| {
            let value = |corner: usize| self.values[corner + colour * self.side * self.side];
            corners.iter().zip(weights).map(|(&corner, weight)| weight * value(corner)).sum()
        })
    }
}

/// The two of `count` numbers that a point lies between, and how far from the first; edges held.
pub(super) fn between(at: f32, count: usize) -> (usize, usize, f32) {
    let at = at.clamp(0.0, (count - 1) as f32);
    let low = at as usize;
    (low, (low + 1).min(count - 1), at - low as f32)
}

/// A picture as lines of pixels, each red, green, blue and nothing, with its edges drawn on [`BORDER`] pixels beyond them.
#[derive(Clone)]
pub(super) struct Picture {
    /// `[lines, columns, 4]`, on the CPU.
    pixels: Array,
    height: usize,
    width: usize,
    /// That of the cells it came in.
    pub side: usize,
}

/// As far as bicubic sampling may look.
const BORDER: usize = 4;

impl Picture {
    /// The last picture of `cells`, in -1..1, rounded to half precision as it is saved.
    pub fn new(cells: &Cells) -> Result<Self> {
        let (height, width, area) = (cells.height * cells.side, cells.width * cells.side, cells.side * cells.side);
        let last = cells.channels - RGB * area;
        let inside = |at: usize, count: usize| at.saturating_sub(BORDER).min(count - 1);
        let dims = [height + 2 * BORDER, width + 2 * BORDER, 4];
        let pixels = Array::new(&dims, &Device::Cpu, |out| {
            for_each_rows(out, 4 * dims[1], |rows, out| {
                for (y, line) in rows.zip(out.as_chunks_mut().0.chunks_exact_mut(dims[1])) {
                    let y = inside(y, height);
                    let line_at = y / cells.side * cells.width * cells.channels + y % cells.side * cells.side + last;
                    for (x, pixel) in line.iter_mut().enumerate() {
                        let x = inside(x, width);
                        let at = line_at + x / cells.side * cells.channels + x % cells.side;
                        let value = |colour: usize| half(cells.values[at + colour * area].clamp(-1.0, 1.0));
                        *pixel = [value(0), value(1), value(2), 0.0];
                    }
                }
            });
        })?;
        Ok(Self { pixels, height, width, side: cells.side })
    }

    /// The inverse of [`Picture::new`] for one picture: its cells `[height, width, RGB * side * side]`.
    pub fn cells(&self) -> Result<Array> {
        let side = self.side;
        let (columns, pixels) = (self.width + 2 * BORDER, self.pixels.as_chunks::<4>().0);
        let dims = [self.height / side, self.width / side, RGB * side * side];
        Ok(Array::new(&dims, &Device::Cpu, |cells| {
            for (cell, numbers) in cells.chunks_exact_mut(dims[2]).enumerate() {
                let (left, top) = (cell % dims[1] * side, cell / dims[1] * side);
                for (colour, numbers) in numbers.chunks_exact_mut(side * side).enumerate() {
                    for (y, line) in numbers.chunks_exact_mut(side).enumerate() {
                        let pixels = &pixels[(top + y + BORDER) * columns + left + BORDER..];
                        line.iter_mut().zip(pixels).for_each(|(number, pixel)| *number = pixel[colour]);
                    }
                }
            }
        })?)
    }

    /// The colours at a point in pixels, bicubic (Keys 1981, with a slope of −0.75 as in PyTorch); the edges go on outside.
    pub fn sample(&self, x: f32, y: f32) -> [f32; RGB] {
        let split = |at: f32, count: usize| {
            let at = at.clamp(-2.0, count as f32 + 1.0);
            let low = floor(at);
            ((low + BORDER as i32 - 1) as usize, cubic(at - low as f32))
        };
        let ((left, across), (top, down)) = (split(x, self.width), split(y, self.height));
        let pixels = self.pixels.as_chunks::<4>().0;
        let mut sum = [0.0; 4];
        for (line, down) in down.into_iter().enumerate() {
            let at = (top + line) * (self.width + 2 * BORDER) + left;
            for (pixel, across) in pixels[at..at + 4].iter().zip(across) {
                let weight = down * across;
                sum.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += weight * value);
            }
        }
        [sum[0], sum[1], sum[2]]
    }
}

/// A number in half precision.
pub(super) fn half(value: f32) -> f32 {
    f16::from_f32(value).to_f32()
}

/// The whole number below; what every CPU is compiled for has no instruction for it, and a call for every pixel costs.
pub(super) fn floor(at: f32) -> i32 {
    let whole = at as i32;
    whole - i32::from(whole as f32 > at)
}

/// Weights of the four pixels around a point that lies `along` from the second to the third.
fn cubic(along: f32) -> [f32; 4] {
    const SLOPE: f32 = -0.75;
    let near = |t: f32| ((SLOPE + 2.0) * t - (SLOPE + 3.0)) * t * t + 1.0;
    let far = |t: f32| ((SLOPE * t - 5.0 * SLOPE) * t + 8.0 * SLOPE) * t - 4.0 * SLOPE;
    [far(along + 1.0), near(along), near(1.0 - along), far(2.0 - along)]
}

/// Pixels of frames of `height` × `width` cells, in focal lengths from the middle.
pub(super) struct Lens {
    pub focal: f32,
    pub middle: [f32; 2],
}

impl Lens {
    pub fn new(height: usize, width: usize, side: usize) -> Self {
        let focal = FOCAL * ((height * width) as f32).sqrt() * side as f32;
        Self { focal, middle: [width, height].map(|cells| (cells * side) as f32 / 2.0) }
    }

    /// The ray through the middle of a pixel: right and down, for one forward.
    pub fn ray(&self, x: usize, y: usize) -> [f32; 2] {
        [(x as f32 + 0.5 - self.middle[0]) / self.focal, (y as f32 + 0.5 - self.middle[1]) / self.focal]
    }

    /// Where a ray meets the picture, in pixels.
    pub fn point(&self, [x, y, z]: [f32; 3]) -> [f32; 2] {
        [x / z * self.focal + self.middle[0] - 0.5, y / z * self.focal + self.middle[1] - 0.5]
    }
}

/// The frames of a chunk from what the decoder draws, both as cells `[height, width, channels]`.
///
/// The decoder draws every frame as the camera of the last one sees it, then, of all but the last, what the turn cannot
/// tell. `turns[i]` is the camera's rotation from frame i to the last: yaw right and pitch up in radians.
///
/// # Errors
/// [`crate::Error::Tensor`] when the cells hold another number of pictures.
pub fn turn_back(cells: &Array, turns: &[[f32; 2]], side: usize) -> Result<Array> {
    let (height, width, channels) = cells.dims3()?;
    let (frames, picture) = (turns.len() + 1, RGB * side * side);
    if channels != (2 * frames - 1) * picture {
        let reason = format!("cells of {channels} channels are not what a decoder draws for {frames} frames");
        return Err(candle_core::Error::msg(reason).into());
    }
    let values = cells.numbers()?;
    let drawn = Cells { values: &values, height, width, channels, side };
    let lens = Lens::new(height, width, side);

    let turns: SmallVec<[_; 4]> = turns.iter().map(|turn| turn.map(f32::sin_cos)).collect();
    let cell_at = |cell: usize, out: &mut [f32]| {
        let (residuals, last) = (&values[cell * channels + frames * picture..], (frames - 1) * picture);
        out[last..].copy_from_slice(&values[cell * channels + last..][..picture]);
        for (frame, &[(ys, yc), (ps, pc)]) in turns.iter().enumerate() {
            for pixel in 0..side * side {
                let [x, y] = lens.ray(cell % width * side + pixel % side, cell / width * side + pixel / side);
                // the pixel's ray, as the camera of the last frame has it
                let (x, z) = (x * yc - ys, x * ys + yc);
                let (y, z) = (y * pc + z * ps, z * pc - y * ps);
                let [x, y] = lens.point([x, y, z]);
                let seen = drawn.sample(frame, x, y);
                for (colour, seen) in seen.into_iter().enumerate() {
                    let at = frame * picture + colour * side * side + pixel;
                    out[at] = seen + residuals[at];
                }
            }
        }
    };
    Ok(Array::new(&[height, width, frames * picture], cells.device(), |out| {
        for_each_chunk(out, width * frames * picture, |line, out| {
            let cells = out.chunks_exact_mut(frames * picture).enumerate();
            cells.for_each(|(column, out)| cell_at(line * width + column, out));
        });
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One picture drawn for the earlier frame, nothing for the last, and no residual.
    fn earlier(turn: [f32; 2], draw: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let (cells, side) = (8, 4);
        let mut values = vec![0.0; cells * cells * 3 * RGB * side * side];
        for y in 0..cells * side {
            for x in 0..cells * side {
                let cell = (y / side) * cells + x / side;
                values[cell * 3 * RGB * 16 + (y % side) * side + x % side] = draw(x, y);
            }
        }
        let dims = [cells, cells, 3 * RGB * 16];
        let drawn = Array::new(&dims, &Device::Cpu, |out| out.copy_from_slice(&values)).unwrap();
        let frames = turn_back(&drawn, &[turn], side).unwrap();
        let at =
            |x: usize, y: usize| frames[((y / side) * cells + x / side) * 2 * RGB * 16 + (y % side) * side + x % side];
        (0..32 * 32).map(|i| at(i % 32, i / 32)).collect()
    }

    #[test]
    fn what_the_camera_turned_to_was_on_that_side_before() {
        // a bright column in the middle after turning right by about four pixels stood right of the middle before
        let focal = FOCAL * 32.0;
        let before = earlier([(4.0 / focal).atan(), 0.0], |x, _| f32::from(u8::from(x == 16)));
        let brightest = (0..32).max_by(|a, b| before[16 * 32 + a].total_cmp(&before[16 * 32 + b])).unwrap();
        assert_eq!(brightest, 20);
        // and after looking up by four pixels, a bright line in the middle was above
        let before = earlier([0.0, (4.0 / focal).atan()], |_, y| f32::from(u8::from(y == 16)));
        let brightest = (0..32).max_by(|a, b| before[a * 32 + 16].total_cmp(&before[b * 32 + 16])).unwrap();
        assert_eq!(brightest, 12);
    }

    #[test]
    fn a_camera_that_rests_changes_nothing() {
        let picture = |x: usize, y: usize| (x * 37 + y * 11) as f32 / 100.0;
        let still = earlier([0.0; 2], picture);
        assert!((0..32 * 32).all(|i| (still[i] - picture(i % 32, i / 32)).abs() < 1e-3));
    }
}
