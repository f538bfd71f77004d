//! What is still in view of the past: frames as another camera sees them.

use std::f64::consts::TAU;
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};
use smallvec::SmallVec;

use super::action::Camera;
use super::reproject::{Carry, Splat, above, ground_at, look_up, splat};
use super::state::{Halves, RolloutState};
use super::warp::{Cells, Lens, Picture, RGB, half};
use crate::Result;
use crate::kernel::{Array, for_each_chunk};

/// Key frames at most.
const MOST: usize = 6;
/// How far in degrees from all others a key frame is taken, or
const TURN: f64 = 40.0;
/// in blocks.
const WAY: f64 = 1.0;
/// Of that: a frame so near to a key frame takes its place.
const FRESH: f64 = 1.0 / 8.0;
/// But only so many times in a row: each is drawn from the one before, and would wear for good where one stands still.
const GIVES_WAY: u32 = 10;
/// A key frame so many blocks away is forgotten.
const FAR: f64 = 6.0;
/// When a block is broken or placed, key frames stay that were taken here and so many degrees to the side: they do not show it.
const ASIDE: f64 = 70.0;
/// What is further away than so many blocks may hide things, as fog does and hills do.
const DISTANT: f32 = 30.0;
/// They come into view so far above the horizon, for one forward, or so far below.
const HORIZON: [f32; 2] = [0.25, 0.12];
/// How much of it is taken for unknown.
const DOUBT: f32 = 0.3;
/// It is bare as far as neighbouring pixels differ by less than this, of −1..1.
const BARE: f32 = 0.01;

/// The frames that a world goes on seeing: its last one, and key frames of other places until they are left behind.
/// Twin of `Views` in `train/geometry.py`.
#[derive(Clone, Default)]
pub struct Views {
    last: Option<Seen>,
    /// The newest first.
    keys: Vec<Seen>,
}

/// What cameras see of the past.
pub struct Sight {
    /// `[height, width, cameras * 3 * side * side]`, −1..1.
    pub cells: Array,
    /// How much of what the last camera sees in the middle of each cell no view shows, 0..1, and a part of what is far away, from which
    /// things come into view; and how much is far away and bare: `[height, width, 2]`, on the CPU.
    pub unseen: Array,
}

/// A frame and where it was seen from.
#[derive(Clone)]
struct Seen {
    picture: Picture,
    /// How near each cell is `[height, width]`, see [`super::reproject`]; as the picture on the CPU and rounded to half precision.
    nearness: Array,
    camera: Camera,
    /// How many key frames gave way to it, one to the other.
    worn: u32,
    /// Both in half precision as they are saved, made when they first are: cells `[height, width, 3 * side * side]` in −1..1 and
    /// nearness.
    saved: OnceLock<[Halves; 2]>,
}

impl Seen {
    /// The last frame of cells `[height, width, frames * 3 * side * side]`.
    fn new(cells: &Array, nearness: &Array, camera: Camera, side: usize) -> Result<Self> {
        let (height, width, channels) = cells.dims3()?;
        if nearness.dims() != [height, width] || channels < RGB * side * side {
            return Err(candle_core::Error::msg(format!("cells of {channels} channels are not a frame")).into());
        }
        let picture = Picture::new(&Cells { values: &cells.numbers()?, height, width, channels, side })?;
        let numbers = nearness.numbers()?;
        let nearness = Array::new(nearness.dims(), &Device::Cpu, |out| {
            out.iter_mut().zip(&*numbers).for_each(|(out, near)| *out = half(near.max(0.0)));
        })?;
        Ok(Self { picture, nearness, camera, worn: 0, saved: OnceLock::new() })
    }

    fn names(name: &str) -> [String; 4] {
        ["cells", "nearness", "camera", "worn"].map(|part| format!("{name}.{part}"))
    }

    fn save(&self, name: &str, state: &mut RolloutState) -> Result<()> {
        if self.saved.get().is_none() {
            let (cells, near) = (Halves::new(&self.picture.cells()?)?, Halves::new(&self.nearness)?);
            self.saved.get_or_init(|| [cells, near]);
        }
        let [cells, nearness, camera, worn] = Self::names(name);
        if let Some(saved) = self.saved.get() {
            state.insert_picture(cells, &saved[0]);
            state.insert_picture(nearness, &saved[1]);
        }
        state.insert(camera, Tensor::new(&self.camera.to_array(), &Device::Cpu)?);
        state.insert(worn, Tensor::new(self.worn, &Device::Cpu)?);
        Ok(())
    }

    /// The inverse of [`Seen::save`].
    fn restore(name: &str, state: &RolloutState, shape: &[usize; 3], side: usize) -> Result<Self> {
        let [cells, nearness, camera, worn] = Self::names(name);
        let array = |name: &str, shape: &[usize]| -> Result<Array> {
            Ok(Array::from_tensor(&state.tensor(name, shape)?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?)?)
        };
        let seen = Self::new(&array(&cells, shape)?, &array(&nearness, &shape[..2])?, state.camera(&camera)?, side)?;
        Ok(Self { worn: state.tensor(&worn, &[])?.to_dtype(DType::U32)?.to_scalar()?, ..seen })
    }
}

/// How far apart two cameras are, of what takes a key frame.
fn apart(a: &Camera, b: &Camera) -> f64 {
    (turn(a, b) / TURN).max(way(a, b) / WAY)
}

/// Degrees between two cameras.
fn turn(a: &Camera, b: &Camera) -> f64 {
    let ([yaw, pitch, ..], [other_yaw, other_pitch, ..]) = (a.to_array(), b.to_array());
    let turn = (yaw - other_yaw + TAU / 2.0).rem_euclid(TAU) - TAU / 2.0;
    turn.abs().max((pitch - other_pitch).abs()).to_degrees()
}

/// Blocks between two cameras.
fn way(a: &Camera, b: &Camera) -> f64 {
    let ([_, _, x, z, ..], [_, _, other_x, other_z, ..]) = (a.to_array(), b.to_array());
    (x - other_x).hypot(z - other_z)
}

impl Views {
    /// Whether nothing has been seen.
    pub fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Takes the last frame of cells `[height, width, frames * 3 * side * side]` and its nearness `[height, width]`, that `camera`
    /// sees. What was seen before of a place that was `edited` since is forgotten.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] when they do not fit each other.
    pub fn add(&mut self, cells: &Array, nearness: &Array, camera: Camera, edited: bool, side: usize) -> Result<()> {
        let seen = Seen::new(cells, nearness, camera, side)?;
        self.keys.retain(|Seen { camera: other, .. }| match edited {
            true => way(&camera, other) < WAY && turn(&camera, other) >= ASIDE,
            false => way(&camera, other) <= FAR,
        });
        let distances = self.keys.iter().map(|key| apart(&camera, &key.camera)).enumerate();
        let (index, nearest) = distances.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, f64::INFINITY));
        let worn = if nearest < FRESH { self.keys[index].worn + 1 } else { 0 };
        let fresh = nearest < FRESH && worn <= GIVES_WAY;
        if fresh {
            self.keys.remove(index);
        }
        if fresh || nearest >= 1.0 {
            self.keys.insert(0, Seen { worn, ..seen.clone() });
            self.keys.truncate(MOST);
        }
        self.last = Some(seen);
        Ok(())
    }

    /// What `cameras`, one at least, see if nothing else moves: each pixel from the nearest key frame that knows it, else from the last frame, and
    /// where that does not, as it goes on at its edge, over flat ground. Nothing if nothing has been seen. `eye` is that of the
    /// [`Config`](super::config::Config).
    ///
    /// # Errors
    /// Those of the device.
    pub fn see(&self, cameras: &[Camera], eye: f32, device: &Device) -> Result<Option<Sight>> {
        let Some(last) = &self.last else { return Ok(None) };
        let (height, width) = last.nearness.dims2()?;
        let side = last.picture.side;
        let (frames, picture) = (cameras.len(), RGB * side * side);
        // A key frame before the last one, as that was drawn from it: what is drawn less often is sharper and nearer the truth.
        let mut views: SmallVec<[&Seen; MOST + 1]> = self.keys.iter().collect();
        if let Some(now) = cameras.last() {
            let away = |seen: &Seen| apart(now, &seen.camera);
            views.sort_by(|a, b| away(a).total_cmp(&away(b)));
        }
        views.push(last);

        // how near what every camera sees is, by every view
        let (shape, pairs, cells) = ([height, width], frames * views.len(), height * width);
        let way = |pair: usize| (&views[pair % views.len()].camera, &cameras[pair / views.len()]);
        let moved = Array::new(&[pairs, 2, cells], &Device::Cpu, |moved| {
            for_each_chunk(moved, 2 * cells, |pair, out| {
                let (then, now) = way(pair);
                splat(&views[pair % views.len()].nearness, &Carry::new(then, now), shape, out);
            });
        })?;
        let splats = moved.chunks_exact(2 * cells).map(|values| Splat::new(values, shape));
        let back = (0..pairs).map(way).map(|(then, now)| Carry::new(now, then));
        let seen: SmallVec<[_; 16]> = splats.zip(back).collect();

        let lens = Lens::new(height, width, side);
        // Hands over which views show a pixel, at which point, how near and how much of it, and returns what they leave.
        let show = |frame: usize, x: usize, y: usize, add: &mut dyn FnMut(usize, [f32; 2], f32, f32)| {
            let (ray, mut left) = (lens.ray(x, y), 1.0);
            let cell = |at: usize| (at as f32 + 0.5) / side as f32 - 0.5;
            let seen = &seen[frame * views.len()..][..views.len()];
            for (view, (splat, back)) in seen.iter().enumerate() {
                let (nearness, share) = splat.at(cell(x), cell(y));
                if share == 0.0 {
                    continue;
                }
                let (at, inside) = look_up(&lens, back, ray, nearness);
                let share = share * inside;
                if share > 0.0 {
                    add(view, at, nearness, left * share);
                    left *= 1.0 - share;
                }
                if left == 0.0 {
                    break;
                }
            }
            left
        };
        let colour = |frame: usize, x: usize, y: usize| {
            let mut colour = [0.0; RGB];
            let mut add = |view: usize, [x, y]: [f32; 2], _: f32, share: f32| {
                // bicubic, as frames are seen again and again: bilinear blurs them each time
                let pixel = views[view].picture.sample(x, y);
                colour.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += share * value.clamp(-1.0, 1.0));
            };
            let left = show(frame, x, y, &mut add);
            if left > 0.0 {
                let (ray, (_, back)) = (lens.ray(x, y), &seen[(frame + 1) * views.len() - 1]);
                let (at, _) = look_up(&lens, back, ray, ground_at(ray, &cameras[frame], eye));
                add(views.len() - 1, at, 0.0, left);
            }
            colour
        };
        let draw = |line: usize, out: &mut [f32]| {
            for (column, out) in out.chunks_exact_mut(frames * picture).enumerate() {
                for (frame, out) in out.chunks_exact_mut(picture).enumerate() {
                    for pixel in 0..side * side {
                        let colour = colour(frame, column * side + pixel % side, line * side + pixel / side);
                        for (channel, value) in colour.into_iter().enumerate() {
                            out[channel * side * side + pixel] = value;
                        }
                    }
                }
            }
        };
        let dims = [height, width, frames * picture];
        let cells = Array::new(&dims, device, |out| for_each_chunk(out, width * frames * picture, draw))?;
        let numbers = cells.numbers()?;
        // How much neighbours in a line of pixels differ in a cell.
        let relief = |line: usize, column: usize| {
            let cell = &numbers[((line * width + column + 1) * frames - 1) * picture..][..picture];
            let differences =
                cell.chunks_exact(side).flat_map(|pixels| pixels.windows(2).map(|two| (two[1] - two[0]).abs()));
            differences.sum::<f32>() / (RGB * side * (side - 1)) as f32
        };
        let bare = |line: usize, column: usize| {
            let near = column.saturating_sub(1)..width.min(column + 2);
            let count = near.len() as f32;
            let mean = near.map(|column| relief(line, column)).sum::<f32>() / count;
            (-(mean / BARE).powi(2)).exp()
        };
        let middle = |cell: usize| cell * side + side / 2;
        let leave = |line: usize, out: &mut [f32]| {
            for (column, out) in out.chunks_exact_mut(2).enumerate() {
                let (x, y, mut far) = (middle(column), middle(line), 0.0);
                let add = &mut |_: usize, _: [f32; 2], near: f32, share: f32| {
                    far += if near * DISTANT < 1.0 { share } else { 0.0 }
                };
                let left = show(frames - 1, x, y, add);
                let up = above(lens.ray(x, y), &cameras[frames - 1]);
                let far = if -HORIZON[1] < up && up < HORIZON[0] { far } else { 0.0 };
                out[0] = left + DOUBT * far;
                out[1] = if far > 0.0 { far * bare(line, column) } else { 0.0 };
            }
        };
        let unseen = Array::new(&[height, width, 2], &Device::Cpu, |out| for_each_chunk(out, 2 * width, leave))?;
        Ok(Some(Sight { cells, unseen }))
    }

    /// Adds all of it to `state`.
    pub fn save(&self, state: &mut RolloutState) -> Result<()> {
        if let Some(last) = &self.last {
            last.save("last", state)?;
        }
        self.keys.iter().enumerate().try_for_each(|(i, key)| key.save(&format!("key.{i}"), state))
    }

    /// What [`Views::save`] saved, with something seen, for frames of cells of this `shape`.
    ///
    /// # Errors
    /// [`crate::Error::Input`] when the state is of another size.
    pub fn restore(state: &RolloutState, shape: &[usize; 3], side: usize) -> Result<Self> {
        let restore = |name: &str| Seen::restore(name, state, shape, side);
        let names = (0..MOST).map(|i| format!("key.{i}")).take_while(|name| state.contains(&Seen::names(name)[0]));
        Ok(Self { last: Some(restore("last")?), keys: names.map(|name| restore(&name)).collect::<Result<_>>()? })
    }
}

#[cfg(test)]
mod tests;
