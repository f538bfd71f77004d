//! What moves in a clip: image shifts of a grid of cells, by block matching.

use super::image::Luma;
use crate::{Frame, FrameSize};

/// Pictures are compared at this width and height: fine enough for a step's motion, coarse enough that a soft picture
/// counts like a sharp one.
const SIDE: usize = 48;

/// Cells across and down.
const CELLS: usize = 4;

/// The largest shift looked for, across and down, in pixels of the small picture.
const REACH: [isize; 2] = [8, 6];

/// Numbers per pair of pictures: shift across, shift down and confidence of every cell.
const PER_PAIR: usize = CELLS * CELLS * 3;

/// Motion features of a clip of at least two frames, in order and evenly spaced: the shifts over its first and over
/// its second half, and the difference of brightness between them.
pub(super) fn motion_features(frames: &[Frame]) -> Vec<f32> {
    let small: Vec<_> = frames.iter().map(|f| Luma::new(f).shrunk(FrameSize::new(SIDE, SIDE))).collect();
    let pairs: Vec<_> = small.windows(2).map(|pair| pair_features(&pair[0], &pair[1])).collect();
    let middle = pairs.len().div_ceil(2);
    let mut features = mean(&pairs[..middle]);
    features.extend(mean(&pairs[middle.min(pairs.len() - 1)..]));
    features
}

fn mean(rows: &[Vec<f32>]) -> Vec<f32> {
    (0..PER_PAIR).map(|i| rows.iter().map(|r| r[i]).sum::<f32>() / rows.len() as f32).collect()
}

fn pair_features(before: &Luma, after: &Luma) -> Vec<f32> {
    let cell = SIDE / CELLS;
    let mut features = Vec::with_capacity(PER_PAIR);
    for row in 0..CELLS {
        for column in 0..CELLS {
            features.extend(shift(before, after, column * cell, row * cell, cell));
        }
    }
    features
}

/// The shift that best explains a cell of `after` by `before`, weighted by how much better it is than a typical one,
/// and that weight. A cell without texture has weight 0.
fn shift(before: &Luma, after: &Luma, left: usize, top: usize, cell: usize) -> [f32; 3] {
    let mut costs = Vec::with_capacity((2 * REACH[0] as usize + 1) * (2 * REACH[1] as usize + 1));
    for dy in -REACH[1]..=REACH[1] {
        for dx in -REACH[0]..=REACH[0] {
            if let Some(cost) = cost(before, after, [left, top], cell, [dx, dy]) {
                // A faint preference for small shifts decides between equals.
                costs.push((cost * (1.0 + 0.01 * (dx as f32).hypot(dy as f32)) + 1e-6, dx, dy));
            }
        }
    }
    let typical = costs.iter().map(|c| c.0).sum::<f32>() / costs.len() as f32;
    // Soft weights give shifts between whole pixels, and average where several shifts fit alike.
    let best = costs.iter().map(|c| c.0).fold(f32::MAX, f32::min);
    let weigh = |cost: f32| (-(cost - best) / (0.5 * best + 0.01 * typical + 1e-5)).exp();
    let sums = costs.iter().fold([0.0; 3], |[w, x, y], &(cost, dx, dy)| {
        let weight = weigh(cost);
        [w + weight, x + weight * dx as f32, y + weight * dy as f32]
    });
    let confidence = 1.0 - best / typical;
    [confidence * sums[1] / sums[0], confidence * sums[2] / sums[0], confidence]
}

/// Mean squared difference of a cell under a shift of its content by (dx, dy), over the part that stays inside;
/// none when less than half of it does.
fn cost(before: &Luma, after: &Luma, corner: [usize; 2], cell: usize, [dx, dy]: [isize; 2]) -> Option<f32> {
    let range = |start: usize, shift: isize| {
        let [first, last] = [start as isize, (start + cell) as isize].map(|at| at.clamp(shift, SIDE as isize + shift));
        first.clamp(0, SIDE as isize)..last.clamp(0, SIDE as isize)
    };
    let (columns, rows) = (range(corner[0], dx), range(corner[1], dy));
    let count = columns.len() * rows.len();
    if count * 2 < cell * cell {
        return None;
    }
    let mut sum = 0.0;
    for y in rows {
        for x in columns.clone() {
            sum += (after.at(x as usize, y as usize) - before.at((x - dx) as usize, (y - dy) as usize)).powi(2);
        }
    }
    Some(sum / count as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A textured picture whose content is moved by (x, y) pixels.
    fn moved(x: f32, y: f32) -> Frame {
        let size = FrameSize::new(96, 96);
        let value = |i: usize| {
            let (u, v) = ((i % 96) as f32 - x, (i / 96) as f32 - y);
            127.0 + 50.0 * (u * 0.21 + (v * 0.07).sin() * 2.0).sin() + 50.0 * (v * 0.17 + (u * 0.05).cos() * 3.0).sin()
        };
        Frame { size, rgb: (0..size.pixels()).flat_map(|i| [value(i) as u8; 3]).collect() }
    }

    #[test]
    fn shifts_are_found_with_sign_and_size() {
        // 96 pixels are 48 in the small picture: 6 pixels are 3.
        for (x, y) in [(6.0, 0.0), (-6.0, 0.0), (0.0, 5.0), (0.0, -5.0), (0.0, 0.0)] {
            let features = motion_features(&[moved(0.0, 0.0), moved(x, y), moved(2.0 * x, 2.0 * y)]);
            assert_eq!(features.len(), 2 * PER_PAIR);
            for cell in features.chunks_exact(3).filter(|c| c[2] > 0.5) {
                assert!((cell[0] - x / 2.0).abs() < 0.8 && (cell[1] - y / 2.0).abs() < 0.8, "{cell:?} for {x}, {y}");
            }
            let sure = features.chunks_exact(3).filter(|c| c[2] > 0.5).count();
            assert!(sure > CELLS * CELLS, "only {sure} cells are sure");
        }
    }

    #[test]
    fn flat_pictures_have_no_motion() {
        let flat = Frame { size: FrameSize::new(64, 64), rgb: vec![90; 64 * 64 * 3] };
        assert!(motion_features(&[flat.clone(), flat]).iter().all(|x| x.abs() < 1e-3));
    }
}
