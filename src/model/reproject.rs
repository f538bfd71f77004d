//! What one camera sees, as another sees it. Twin of `reproject` in `train/geometry.py`.
//!
//! A frame's nearness is one over the blocks to what each of its cells shows, across the line of sight; 0 is infinitely far.

use super::action::Camera;
use super::warp::{Lens, between, floor};
use crate::kernel::with_scratch;

/// Of the way to a thing: it fades from there to twice that, and is behind a camera that came closer.
const NEAR: f32 = 0.05;
/// Nearness below which all counts alike.
const FARTHEST: f32 = 0.02;
/// Share of a cell from which on it is taken as seen.
const KNOWN: f32 = 0.3;

/// Fills `out` with the nearness of flat, bare ground `eye` blocks below a camera of this pitch in radians, line by line, in `height` × `width` cells;
/// all is far where `eye` is 0.
pub fn ground(height: usize, width: usize, pitch: f32, eye: f32, out: &mut [f32]) {
    let lens = Lens::new(height, width, 1);
    let out = out.iter_mut().enumerate();
    out.for_each(|(i, near)| *near = slope(lens.ray(i % width, i / width), pitch, eye));
}

fn slope(ray: [f32; 2], pitch: f32, eye: f32) -> f32 {
    if eye > 0.0 { down(ray, pitch).max(0.0) / eye } else { 0.0 }
}

/// How far a ray of a camera pitched so leads down, for one along its axis.
fn down([_, y]: [f32; 2], pitch: f32) -> f32 {
    y * pitch.cos() - pitch.sin()
}

/// How the rays of one camera run as another sees them.
pub(super) struct Carry {
    yaw: (f32, f32),
    from: (f32, f32),
    to: (f32, f32),
    /// Blocks that the other stands away: what is so near moves to the right, down and forward.
    moved: [f32; 3],
}

impl Carry {
    pub fn new(from: &Camera, to: &Camera) -> Self {
        let ([yaw, pitch, x, z, ..], [to_yaw, to_pitch, to_x, to_z, ..]) = (from.to_array(), to.to_array());
        let (sin, cos) = to_yaw.sin_cos();
        let (x, z) = (x - to_x, z - to_z);
        let angle = |radians: f64| (radians.sin() as f32, radians.cos() as f32);
        let moved = [x * cos - z * sin, to.height() - from.height(), x * sin + z * cos];
        Self { yaw: angle(yaw - to_yaw), from: angle(pitch), to: angle(to_pitch), moved: moved.map(|v| v as f32) }
    }

    /// The ray `x`, `y` in focal lengths to something so near, as the other's right, down and forward: levelled, turned to where
    /// the other looks, moved to where it stands, and pitched as it is. Nearness over the last is the other's.
    pub fn ray(&self, [x, y]: [f32; 2], nearness: f32) -> [f32; 3] {
        let ((ys, yc), (fs, fc), (ts, tc)) = (self.yaw, self.from, self.to);
        let (y, z) = (y * fc - fs, y * fs + fc);
        let (x, z) = (x * yc + z * ys, z * yc - x * ys);
        let [right, down, forward] = self.moved;
        let (x, y, z) = (x + right * nearness, y + down * nearness, z + forward * nearness);
        [x, y * tc + z * ts, z * tc - y * ts]
    }
}

/// Fills `out` with the nearness `[height, width]` of a frame as the camera of `carry`'s end sees it, then with how much of each
/// cell is known.
///
/// Every cell is handed to the four that it falls between, the nearer the more it counts (softmax splatting, Niklaus & Liu 2020,
/// with a power for the exponential); then both are smoothed, to close the gaps that walking ahead opens.
pub(super) fn splat(nearness: &[f32], carry: &Carry, [height, width]: [usize; 2], out: &mut [f32]) {
    let (lens, cells) = (Lens::new(height, width, 1), height * width);
    with_scratch(2 * 3 * cells, |scratch| {
        let (sums, across) = scratch.as_chunks_mut::<3>().0.split_at_mut(cells);
        sums.fill([0.0; 3]);
        for (i, &near) in nearness.iter().enumerate() {
            let [x, y, z] = carry.ray(lens.ray(i % width, i / width), near);
            let ahead = ahead(z);
            if ahead == 0.0 {
                continue;
            }
            let [x, y] = lens.point([x, y, z]);
            let near = near / z;
            let (left, top) = (floor(x) as f32, floor(y) as f32);
            for (column, along) in [(left, left + 1.0 - x), (left + 1.0, x - left)] {
                for (line, down) in [(top, top + 1.0 - y), (top + 1.0, y - top)] {
                    let inside = |at: f32, count: usize| at >= 0.0 && at < count as f32;
                    if inside(column, width) && inside(line, height) {
                        let share = ahead * along * down;
                        let weight = share * (near + FARTHEST).powi(2);
                        let sum = &mut sums[line as usize * width + column as usize];
                        *sum = [sum[0] + weight * near, sum[1] + weight, sum[2] + share];
                    }
                }
            }
        }
        across.iter_mut().zip(smooth(sums, width, 1)).for_each(|(out, sum)| *out = sum);
        let (near, share) = out.split_at_mut(cells);
        for ([nearness, weight, known], (near, share)) in smooth(across, width, width).zip(near.iter_mut().zip(share)) {
            (*near, *share) = (nearness / (weight + 1e-20), known);
        }
    });
}

/// What [`splat`] made.
pub(super) struct Splat<'a> {
    near: &'a [f32],
    share: &'a [f32],
    height: usize,
    width: usize,
}

impl<'a> Splat<'a> {
    pub fn new(values: &'a [f32], [height, width]: [usize; 2]) -> Self {
        let (near, share) = values.split_at(height * width);
        Self { near, share, height, width }
    }

    /// Nearness and how far it is known, 0 to 1, at a point in cells, bilinear, edges held.
    pub fn at(&self, x: f32, y: f32) -> (f32, f32) {
        let (left, right, along) = between(x, self.width);
        let (top, bottom, down) = between(y, self.height);
        let mix = |values: &[f32]| {
            let line =
                |y: usize| values[y * self.width + left] * (1.0 - along) + values[y * self.width + right] * along;
            line(top) * (1.0 - down) + line(bottom) * down
        };
        (mix(self.near), (mix(self.share) / KNOWN).min(1.0))
    }
}

/// A quarter, a half and a quarter of the neighbours `stride` apart, in lines of `width`; nothing beyond the edge.
fn smooth(sums: &[[f32; 3]], width: usize, stride: usize) -> impl Iterator<Item = [f32; 3]> {
    let before = move |i: usize| if stride == 1 { !i.is_multiple_of(width) } else { i >= stride };
    let after = move |i: usize| if stride == 1 { i % width + 1 < width } else { i + stride < sums.len() };
    let at = |i: usize, known: bool, k: usize| if known { sums[i][k] } else { 0.0 };
    let mix = move |i: usize, k: usize| {
        0.25 * at(i.wrapping_sub(stride), before(i), k) + 0.5 * sums[i][k] + 0.25 * at(i + stride, after(i), k)
    };
    (0..sums.len()).map(move |i| [0, 1, 2].map(|k| mix(i, k)))
}

/// How far what is at this depth is ahead, 0 to 1.
fn ahead(z: f32) -> f32 {
    (z / NEAR - 1.0).clamp(0.0, 1.0)
}

/// The point in pixels where the camera of `carry`'s end saw what this ray meets so near, and how far that was in its view, 0 to 1:
/// it begins within a pixel of the edge.
pub(super) fn look_up(lens: &Lens, carry: &Carry, ray: [f32; 2], nearness: f32) -> ([f32; 2], f32) {
    let [x, y, z] = carry.ray(ray, nearness);
    let depth = z.max(NEAR);
    let inside = |at: f32, middle: f32| (middle - (at / depth).abs() * lens.focal).clamp(0.0, 1.0);
    let [across, down] = lens.middle;
    (lens.point([x, y, depth]), inside(x, across) * inside(y, down) * ahead(z))
}

/// How far above the horizon this ray leads, for one along the camera's axis.
pub(super) fn above(ray: [f32; 2], now: &Camera) -> f32 {
    -down(ray, now.pitch())
}

/// The nearness of the ground where this ray meets it, as of [`ground`].
pub(super) fn ground_at(ray: [f32; 2], now: &Camera, eye: f32) -> f32 {
    slope(ray, now.pitch(), eye)
}
