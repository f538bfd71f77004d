//! What is still in view of the past: frames as another camera sees them.

use std::f64::consts::TAU;
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};
use smallvec::SmallVec;

use super::RolloutState;
use super::action::Camera;
use super::reproject::{Carry, Splat, above, ground_at, look_up, splat};
use super::warp::{Cells, Lens, Picture, RGB, half, halves};
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
    saved: OnceLock<[Tensor; 2]>,
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
            let (height, width) = self.nearness.dims2()?;
            let shape = (height, width, RGB * self.picture.side * self.picture.side);
            let cells = Tensor::from_vec(self.picture.cells(), shape, &Device::Cpu)?;
            let near = Tensor::from_vec(halves(&self.nearness), (height, width), &Device::Cpu)?;
            self.saved.get_or_init(|| [cells, near]);
        }
        let [cells, nearness, camera, worn] = Self::names(name);
        if let Some(saved) = self.saved.get() {
            state.insert(cells, saved[0].clone());
            state.insert(nearness, saved[1].clone());
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
mod tests {
    use super::*;
    use crate::Controls;
    use crate::model::patch::FOCAL;
    use crate::model::reproject::ground;

    const EYE: f32 = 1.62;
    const SIDE: usize = 4;
    const SIZE: usize = 32;

    fn index(x: usize, y: usize) -> usize {
        ((y / SIDE) * (SIZE / SIDE) + x / SIDE) * RGB * SIDE * SIDE + (y % SIDE) * SIDE + x % SIDE
    }

    /// A frame whose red is drawn.
    fn frame(draw: impl Fn(usize, usize) -> f32) -> Array {
        let fill = |out: &mut [f32]| {
            out.fill(0.0);
            (0..SIZE * SIZE).for_each(|i| out[index(i % SIZE, i / SIZE)] = draw(i % SIZE, i / SIZE));
        };
        Array::new(&[SIZE / SIDE, SIZE / SIDE, RGB * SIDE * SIDE], &Device::Cpu, fill).unwrap()
    }

    const CELLS: usize = SIZE / SIDE;

    fn near(fill: impl FnOnce(&mut [f32])) -> Array {
        Array::new(&[CELLS, CELLS], &Device::Cpu, fill).unwrap()
    }

    /// Flat ground, seen straight ahead.
    fn flat(eye: f32) -> Array {
        near(|out| ground(CELLS, CELLS, 0.0, eye, out))
    }

    /// The red of what is seen.
    fn red(views: &Views, camera: Camera) -> impl Fn(usize, usize) -> f32 + use<> {
        let seen = views.see(&[camera], EYE, &Device::Cpu).unwrap().unwrap().cells;
        move |x, y| seen[index(x, y)]
    }

    fn look(look: [f32; 2]) -> Camera {
        Camera::default().after(&[Controls { look, ..Controls::default() }])
    }

    fn seen(draw: impl Fn(usize, usize) -> f32, camera: Camera) -> impl Fn(usize, usize) -> f32 {
        let mut views = Views::default();
        views.add(&frame(draw), &flat(EYE), Camera::default(), false, SIDE).unwrap();
        red(&views, camera)
    }

    fn brightest(line: impl Iterator<Item = f32>) -> usize {
        line.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0
    }

    #[test]
    fn turning_and_walking_move_what_is_seen() {
        let four_pixels = (4.0 / (FOCAL * SIZE as f32)).atan().to_degrees();
        // after turning right, what stood in the middle stands left of it; after looking up, below
        let turned = seen(|x, _| f32::from(u8::from(x == 16)), look([four_pixels, 0.0]));
        assert_eq!(brightest((0..SIZE).map(|x| turned(x, 16))), 12);
        let tilted = seen(|_, y| f32::from(u8::from(y == 16)), look([0.0, four_pixels]));
        assert_eq!(brightest((0..SIZE).map(|y| tilted(16, y))), 20);
        // walking brings the ground near and leaves the sky; ground at the left of the middle goes on to the left
        let walked = Camera::default().after(&[Controls { forward: 1.0, ..Controls::default() }; 2]);
        let lines = seen(|_, y| f32::from(u8::from(y == 8 || y == 24)), walked);
        assert_eq!(brightest((0..16).map(|y| lines(16, y))), 8);
        assert!(16 + brightest((16..SIZE).map(|y| lines(16, y))) > 24);
        let column = seen(|x, _| f32::from(u8::from(x == 8)), walked);
        assert!(brightest((0..SIZE).map(|x| column(x, 28))) < 8);
        // but not where the camera stands
        let mut views = Views::default();
        views.add(&frame(|_, y| y as f32 / SIZE as f32), &flat(0.0), Camera::default(), false, SIDE).unwrap();
        let [still, walked] =
            [Camera::default(), walked].map(|camera| views.see(&[camera], 0.0, &Device::Cpu).unwrap().unwrap().cells);
        assert_eq!(still[..], walked[..]);
    }

    #[test]
    fn what_is_near_moves_more_and_hides_what_is_far() {
        // a post one block ahead, before a wall ten blocks away
        let post = |x: usize| (12..20).contains(&x);
        let nearness = near(|out| {
            let cells = out.iter_mut().enumerate();
            cells.for_each(|(i, near)| *near = if post(i % CELLS * SIDE) { 1.0 } else { 0.1 });
        });
        let mut views = Views::default();
        views.add(&frame(|x, _| if post(x) { 1.0 } else { -1.0 }), &nearness, Camera::default(), false, SIDE).unwrap();
        let step = Controls { strafe: 1.0, ..Controls::default() };
        let stepped = red(&views, Camera::default().after(&[step; 2]));
        let expected = 15.5 - 0.43 * FOCAL * SIZE as f32;
        assert!(
            (0..SIZE).all(|x| (stepped(x, 16) > 0.5) == ((x as f32 - expected).abs() < 3.6) || (13..20).contains(&x))
        );
        // a jump lowers it, and what is far hardly moves
        let rows = |near: f32| {
            let mut views = Views::default();
            let all = self::near(|out| out.fill(near));
            views.add(&frame(|_, y| f32::from(u8::from(y == 16))), &all, Camera::default(), false, SIDE).unwrap();
            let jumped = red(&views, Camera::default().after(&[Controls { jump: true, ..Controls::default() }]));
            brightest((0..SIZE).map(|y| jumped(16, y)))
        };
        assert_eq!((rows(0.01), rows(0.5)), (16, 20));
    }

    #[test]
    fn nothing_changes_while_the_camera_rests() {
        let picture = |x: usize, y: usize| ((x * 37 + y * 11) % 64) as f32 / 64.0;
        let still = seen(picture, Camera::default());
        assert!((0..SIZE * SIZE).all(|i| (still(i % SIZE, i / SIZE) - picture(i % SIZE, i / SIZE)).abs() < 1e-3));
    }

    #[test]
    fn what_comes_into_view_is_unknown_until_it_was_seen() {
        let mut views = Views::default();
        let wall = near(|out| out.fill(0.1));
        let add = |views: &mut Views, camera| views.add(&frame(|_, _| 0.5), &wall, camera, false, SIDE).unwrap();
        let unknown = |views: &Views, yaw: f32| {
            let sight = views.see(&[look([0.0; 2]), look([yaw, 0.0])], EYE, &Device::Cpu).unwrap().unwrap();
            assert_eq!(sight.unseen.dims(), [CELLS, CELLS, 2]);
            move |x: usize, y: usize| sight.unseen[2 * (y * CELLS + x)]
        };
        add(&mut views, look([0.0; 2]));
        let (still, turned) = (unknown(&views, 0.0), unknown(&views, 20.0));
        for y in 0..CELLS {
            assert!((0..CELLS).all(|x| still(x, y) == 0.0));
            assert_eq!((turned(0, y), turned(CELLS - 1, y)), (0.0, 1.0), "on the right something comes in");
        }
        add(&mut views, look([45.0, 0.0]));
        assert_eq!(unknown(&views, 20.0)(CELLS - 1, 0), 0.0, "a key frame shows it");
    }

    #[test]
    fn what_is_far_away_is_in_doubt_at_the_horizon() {
        let mut views = Views::default();
        views.add(&frame(|_, _| 0.5), &flat(EYE), Camera::default(), false, SIDE).unwrap();
        let unseen = |views: &Views, which: usize| -> Vec<f32> {
            let sight = views.see(&[Camera::default()], EYE, &Device::Cpu).unwrap().unwrap();
            (0..CELLS).map(|line| sight.unseen[2 * (line * CELLS + CELLS / 2) + which]).collect()
        };
        assert_eq!(
            unseen(&views, 0),
            [0.0, 0.0, DOUBT, 0.0, 0.0, 0.0, 0.0, 0.0],
            "neither the sky above nor the ground"
        );
        assert_eq!(unseen(&views, 1), [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0], "nothing is to be seen there");
        views.add(&frame(|x, _| (x % 2) as f32), &flat(EYE), Camera::default(), false, SIDE).unwrap();
        assert!(unseen(&views, 0)[2] == DOUBT && unseen(&views, 1)[2] < 1e-6, "something is");
    }

    #[test]
    fn where_one_stands_still_it_stays_as_it_was() {
        let mut views = Views::default();
        let pass = |pass: u8| frame(move |_, _| f32::from(pass) / 64.0);
        let seen = |views: &Views| red(views, look([0.0; 2]))(16, 16) * 64.0;
        for i in 0..40 {
            views.add(&pass(i), &flat(EYE), look([0.0; 2]), false, SIDE).unwrap();
            assert!((seen(&views) - f32::from(i).min(GIVES_WAY as f32)).abs() < 0.1, "after {i} passes");
        }
        let mut state = RolloutState::new();
        views.save(&mut state).unwrap();
        let shape = [SIZE / SIDE, SIZE / SIDE, RGB * SIDE * SIDE];
        let mut restored = Views::restore(&state, &shape, SIDE).unwrap();
        restored.add(&pass(50), &flat(EYE), look([0.0; 2]), false, SIDE).unwrap();
        assert!((seen(&restored) - GIVES_WAY as f32).abs() < 0.1, "and after it was saved");
        // but for an edit
        restored.add(&pass(60), &flat(EYE), look([0.0; 2]), true, SIDE).unwrap();
        assert!((seen(&restored) - 60.0).abs() < 0.1);
    }

    #[test]
    fn what_was_looked_away_from_is_seen_again_until_it_is_left_behind() {
        let mut views = Views::default();
        let steps = [0.0, 30.0, 60.0, 90.0];
        let stripe = |x: usize, _: usize| f32::from(u8::from(x == 16));
        for yaw in steps {
            let drawn = if yaw == 0.0 { frame(stripe) } else { frame(|_, _| -0.5) };
            views.add(&drawn, &flat(EYE), look([yaw, 0.0]), false, SIDE).unwrap();
        }
        // half a turn back the old middle is out of the last frame, and a whole circle is the same direction
        for back in [0.0, 360.0, -360.0] {
            let again = red(&views, look([back, 0.0]));
            assert!(again(16, 16) > 0.9 && again(4, 16) == 0.0, "{back}");
        }
        let mut state = RolloutState::new();
        views.save(&mut state).unwrap();
        let shape = [SIZE / SIDE, SIZE / SIDE, RGB * SIDE * SIDE];
        let restored = Views::restore(&state, &shape, SIDE).unwrap();
        assert!(red(&restored, look([0.0; 2]))(16, 16) > 0.9);
        let mut edited = views.clone();
        edited.add(&frame(|_, _| 0.5), &flat(EYE), look([-20.0, -9.0]), true, SIDE).unwrap();
        let middle = |yaw: f32| red(&edited, look([yaw, 0.0]))(16, 20);
        assert!((middle(0.0) - 0.5).abs() < 1e-3, "what is new there is in no frame of before: {}", middle(0.0));
        assert!((middle(60.0) + 0.5).abs() < 1e-3, "but what is aside is as it was: {}", middle(60.0));
        let gone = look([90.0, 0.0]).after(&[Controls { forward: 1.0, ..Controls::default() }; 29]);
        views.add(&frame(|_, _| -0.5), &flat(EYE), gone, false, SIDE).unwrap();
        assert!(red(&views, look([0.0; 2]))(16, 16) < 0.0);
    }
}
