//! 8-bit frames to the square cells that a network reads and writes, and back.

use candle_core::{Device, Result, bail};
use smallvec::SmallVec;

use super::array::{Array, Values};
use super::math::simd;
use super::op::View;
use super::threads::{current_threads, for_each_mut};

/// Colour channels of a frame.
const RGB: usize = 3;

/// Cells `[height / side, width / side, frames * 3 * side * side]` in −1..1 of `frames`, each `height * width * 3` bytes.
/// A cell holds its pixels as (frame, channel, line, column).
pub fn frames_to_cells(frames: &[&[u8]], height: usize, width: usize, side: usize, device: &Device) -> Result<Array> {
    if !height.is_multiple_of(side)
        || !width.is_multiple_of(side)
        || frames.iter().any(|f| f.len() != height * width * RGB)
    {
        bail!("{} frames of {width}x{height} pixels do not fit cells of {side}", frames.len());
    }
    let (lines, columns) = (height / side, width / side);
    Array::new(&[lines, columns, frames.len() * RGB * side * side], device, |cells| {
        visit(lines, columns, frames.len(), side, |cell, frame, pixel| {
            cells[cell] = f32::from(frames[frame][pixel]) / 127.5 - 1.0;
        });
    })
}

/// The inverse of [`frames_to_cells`], clamped and rounded to the nearest byte.
pub fn cells_to_frames<T: Values>(cells: &T, frames: usize, side: usize) -> Result<SmallVec<[Vec<u8>; 4]>> {
    let &[height, width, channels] = cells.dims() else { bail!("{:?} are no cells", cells.dims()) };
    if channels != frames * RGB * side * side || cells.dims().contains(&0) {
        bail!("cells {:?} do not hold {frames} frames of {side}x{side} pixels a cell", cells.dims());
    }
    let (area, line) = (side * side, width * side * side * RGB);
    // One frame's pixels in lines of cells.
    let draw = |cells: &[f32], frame: usize, out: &mut [u8]| {
        for (cells, out) in cells.chunks_exact(width * channels).zip(out.chunks_exact_mut(line)) {
            for (column, cell) in cells.chunks_exact(channels).enumerate() {
                for (i, pixels) in cell[frame * RGB * area..][..RGB * area].chunks_exact(side).enumerate() {
                    let (channel, y) = (i / side, i % side);
                    let bytes = out[(y * width + column) * side * RGB + channel..].iter_mut().step_by(RGB);
                    // A cast from float saturates, and takes not-a-number to 0.
                    bytes.zip(pixels).for_each(|(byte, pixel)| *byte = (pixel * 127.5 + 128.0) as u8);
                }
            }
        }
    };
    let run = |values: &[f32]| {
        let mut out: SmallVec<[Vec<u8>; 4]> = (0..frames).map(|_| vec![0; height * line]).collect();
        let most = height.div_ceil(current_threads());
        let parts = height.div_ceil(most);
        let mut of_threads: SmallVec<[&mut [u8]; 16]> =
            out.iter_mut().flat_map(|f| f.chunks_mut(most * line)).collect();
        for_each_mut(&mut of_threads, |i, out| draw(&values[i % parts * most * width * channels..], i / parts, out));
        drop(of_threads);
        out
    };
    if let Some(values) = cells.here()? {
        return Ok(run(&values));
    }
    let here = cells.to_tensor()?.to_device(&Device::Cpu)?.contiguous()?;
    Ok(run(&View::new(&here)?))
}

/// RGB bytes with an opaque alpha channel.
pub fn with_alpha(rgb: &[u8]) -> Vec<u8> {
    let mut rgba = vec![0; rgb.len() / RGB * 4];
    add_alpha(rgb, &mut rgba);
    rgba
}

simd! {
    fn add_alpha(rgb: &[u8], rgba: &mut [u8]) {
        for (rgba, rgb) in rgba.as_chunks_mut().0.iter_mut().zip(rgb.as_chunks::<RGB>().0) {
            *rgba = [rgb[0], rgb[1], rgb[2], u8::MAX];
        }
    }
}

/// Calls `at(index in cells, frame, index in the frame)` for every byte.
#[inline(always)]
fn visit(height: usize, width: usize, frames: usize, side: usize, mut at: impl FnMut(usize, usize, usize)) {
    let mut cell = 0;
    for cell_y in 0..height {
        for cell_x in 0..width {
            for frame in 0..frames {
                for channel in 0..RGB {
                    for y in cell_y * side..(cell_y + 1) * side {
                        let line = (y * width + cell_x) * side;
                        for pixel in line..line + side {
                            at(cell, frame, pixel * RGB + channel);
                            cell += 1;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Isa, ThreadPool};
    use candle_core::Tensor;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn frames_survive_the_round_trip(h in 1..4_usize, w in 1..4_usize, side in 1..5_usize, count in 1..4_usize) {
            let bytes = h * w * side * side * RGB;
            let frames: Vec<Vec<u8>> =
                (0..count).map(|f| (0..bytes).map(|i| (i * 7 + f * 31) as u8).collect()).collect();
            let borrowed: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            let cells = frames_to_cells(&borrowed, h * side, w * side, side, &Device::Cpu).unwrap();
            prop_assert_eq!(cells_to_frames(&cells, count, side).unwrap().into_vec(), frames);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// The reference goes through the frame, not through the cells.
        #[test]
        fn pixels_match_a_plain_reference(h in 1..4_usize, w in 1..5_usize, side in 1..6_usize, count in 1..4_usize,
                                          threads in 1..5_usize, values in prop::collection::vec(-1.5f32..1.5, 31..64)) {
            let (height, width) = (h * side, w * side);
            let channels = count * RGB * side * side;
            let cells = Array::new(&[h, w, channels], &Device::Cpu, |out| {
                out.iter_mut().enumerate().for_each(|(i, out)| *out = values[i % values.len()]);
            }).unwrap();
            let at = |frame: usize, y: usize, x: usize, channel: usize| {
                let (cell, inside) = (y / side * w + x / side, y % side * side + x % side);
                cells[cell * channels + (frame * RGB + channel) * side * side + inside]
            };
            let each = |value: &dyn Fn(usize, usize, usize, usize) -> u8| -> Vec<Vec<u8>> {
                let pixel = |f, i: usize| (0..RGB).map(move |c| (f, i / width, i % width, c));
                (0..count).map(|f| (0..height * width).flat_map(|i| pixel(f, i)).map(|(f, y, x, c)| value(f, y, x, c)).collect()).collect()
            };
            let expected = each(&|f, y, x, c| (at(f, y, x, c) * 127.5 + 128.0).floor().clamp(0.0, 255.0) as u8);
            for isa in Isa::of_cpu() {
                let pool = ThreadPool::with_isa(threads, isa).unwrap();
                let frames = pool.install(|| cells_to_frames(&cells, count, side)).unwrap();
                prop_assert_eq!(&frames[..], &expected[..], "{}", isa);
                for rgb in frames {
                    let opaque: Vec<u8> = rgb.chunks(RGB).flat_map(|p| [p[0], p[1], p[2], 255]).collect();
                    prop_assert_eq!(isa.run(|| with_alpha(&rgb)), opaque, "{}", isa);
                }
            }
        }
    }

    #[test]
    fn a_cell_is_ordered_by_frame_channel_line_column() {
        // One frame of 2 x 4 pixels, its red channel numbered in reading order.
        let frame: Vec<u8> = (0..8).flat_map(|i| [i, 100, 200]).collect();
        let cells = frames_to_cells(&[&frame], 2, 4, 2, &Device::Cpu).unwrap();
        let bytes: Vec<f32> = cells[12..].iter().map(|v| (v + 1.0) * 127.5).collect();
        let expected = [2.0, 3.0, 6.0, 7.0, 100.0, 100.0, 100.0, 100.0, 200.0, 200.0, 200.0, 200.0];
        assert!(bytes.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3), "{bytes:?}");
    }

    #[test]
    fn cells_that_hold_no_frames_are_an_error() {
        for (dims, frames, side) in [([2, 2, 12], 2, 2), ([0, 2, 12], 1, 2), ([2, 0, 12], 1, 2), ([2, 2, 0], 0, 2)] {
            let cells = Array::zeros(&dims, &Device::Cpu).unwrap();
            assert!(cells_to_frames(&cells, frames, side).is_err(), "{dims:?}");
        }
    }

    #[test]
    fn values_beyond_the_range_are_clamped() {
        let cells = Tensor::new(&[[[-9.0f32, 0.0, f32::NAN]], [[1.0, 9.0, -1.0]]], &Device::Cpu).unwrap();
        assert_eq!(cells_to_frames(&cells, 1, 1).unwrap()[..], [[0, 128, 0, 255, 255, 0]]);
    }
}
