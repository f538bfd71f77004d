//! The camera: one ray a pixel, four where surfaces meet, so that edges are clean and cheap.

use super::block::Block;
use super::grid::{Grid, Hit, Stop, floor};
use super::player::Pose;
use super::random::{hash, hash_unit, mix, noise2, step};
use super::sky::Sky;
use super::vec3::{Vec3, rgb, vec3};
use crate::{Frame, FrameSize};

/// Focal length in pixels of a 128×128 frame (72° across); it grows with the square root of the pixel count.
const FOCAL: f32 = 88.09;

/// Nothing counts as nearer than so many blocks.
const NEAREST: f32 = 0.1;

/// Where the four rays of an edge pixel go (a rotated grid).
const SUBPIXELS: [(f32, f32); 4] = [(-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125)];

/// What the camera needs to know.
pub struct View<'a> {
    /// The blocks.
    pub grid: &'a Grid,
    /// The eye.
    pub pose: Pose,
    /// The sky that goes, the sky that comes, and how far it has come, 0 to 1.
    pub skies: [&'a Sky; 2],
    /// See [`View::skies`].
    pub blend: f32,
    /// Varies textures, clouds and stars.
    pub seed: u32,
    /// Moves rain and snow.
    pub tick: u32,
}

/// The camera's axes, scaled so that one unit of `right` and `down` is a pixel.
struct Lens {
    eye: Vec3,
    forward: Vec3,
    right: Vec3,
    up: Vec3,
}

impl Lens {
    /// The ray through a point of the picture, in pixels from its middle.
    fn ray(&self, x: f32, y: f32) -> Vec3 {
        (self.forward + self.right * x + self.up * -y).normalized()
    }
}

/// One ray's colour, and the surface it met: neighbours with different surfaces form an edge.
#[derive(Clone, Copy, Default)]
struct Sample {
    color: Vec3,
    surface: u32,
}

impl View<'_> {
    /// The picture.
    pub fn render(&self, size: FrameSize) -> Frame {
        let (w, h) = (size.width, size.height);
        let scale = ((w * h) as f32).sqrt() / 128.0;
        let lens = self.lens(FOCAL * scale);
        let ray = |x: f32, y: f32| self.sample(&lens, x - w as f32 / 2.0, y - h as f32 / 2.0);
        let mut samples = vec![Sample::default(); w * h];
        for (i, sample) in samples.iter_mut().enumerate() {
            *sample = ray((i % w) as f32 + 0.5, (i / w) as f32 + 0.5);
        }
        let mut colors = Vec::with_capacity(w * h);
        for (i, sample) in samples.iter().enumerate() {
            let (x, y) = (i % w, i / w);
            let differs = |inside: bool, j: usize| {
                inside && samples[j].surface != sample.surface && contrast(samples[j].color, sample.color)
            };
            let edge = differs(x > 0, i.wrapping_sub(1))
                || differs(x + 1 < w, i + 1)
                || differs(y > 0, i.wrapping_sub(w))
                || differs(y + 1 < h, i + w);
            colors.push(if edge {
                let rays = SUBPIXELS.map(|(dx, dy)| ray(x as f32 + 0.5 + dx, y as f32 + 0.5 + dy).color);
                rays.into_iter().fold(Vec3::default(), |sum, c| sum + c * 0.25)
            } else {
                sample.color
            });
        }
        self.precipitation(&mut colors, size, scale);
        let byte = |v: f32| (v.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
        Frame { size, rgb: colors.iter().flat_map(|c| [byte(c.x), byte(c.y), byte(c.z)]).collect() }
    }

    /// How near what the middle of each pixel shows is: one over the blocks to its plane across the line of sight, 0 for the sky.
    pub fn nearness(&self, size: FrameSize) -> Vec<f32> {
        let (w, h) = (size.width as f32, size.height as f32);
        let lens = self.lens(FOCAL * (w * h).sqrt() / 128.0);
        let near = |i: usize| {
            let (x, y) = ((i % size.width) as f32 + 0.5, (i / size.width) as f32 + 0.5);
            let dir = lens.ray(x - w / 2.0, y - h / 2.0);
            let hit = self.grid.cast(lens.eye, dir, self.sight(), Stop::Visible);
            hit.map_or(0.0, |hit| 1.0 / (hit.t * dir.dot(lens.forward)).max(NEAREST))
        };
        (0..size.pixels()).map(near).collect()
    }

    /// How far one sees, in blocks.
    fn sight(&self) -> f32 {
        self.skies[0].haze[1].max(self.skies[1].haze[1])
    }

    fn lens(&self, focal: f32) -> Lens {
        let Pose { yaw, pitch, .. } = self.pose;
        Lens {
            eye: self.pose.eye(),
            forward: Vec3::looking(yaw, pitch),
            right: Vec3::looking(yaw + 90.0, 0.0) * (1.0 / focal),
            up: Vec3::looking(yaw, pitch + 90.0) * (1.0 / focal),
        }
    }

    /// The ray through a point of the picture, in pixels from its middle.
    fn sample(&self, lens: &Lens, x: f32, y: f32) -> Sample {
        let dir = lens.ray(x, y);
        match self.grid.cast(lens.eye, dir, self.sight(), Stop::Visible) {
            Some(hit) => self.surface(lens.eye, dir, &hit),
            None => Sample { color: self.blended(|sky| sky.color(dir, self.seed)), surface: 0 },
        }
    }

    /// A value of both skies, mixed.
    fn blended(&self, value: impl Fn(&Sky) -> Vec3) -> Vec3 {
        match self.blend {
            1.0 => value(self.skies[1]),
            blend => value(self.skies[0]).mix(value(self.skies[1]), blend),
        }
    }

    fn surface(&self, eye: Vec3, dir: Vec3, hit: &Hit) -> Sample {
        let at = eye + dir * hit.t;
        let mut normal = [0.0; 3];
        normal[hit.axis] = hit.side as f32;
        let normal = vec3(normal[0], normal[1], normal[2]);
        let paint = self.paint(hit, at) * self.corners(hit, at);
        let lit = |sky: &Sky| {
            let slope = normal.dot(sky.sun);
            let open = at + normal * 0.01;
            let bright = sky.direct.x > 0.0 && slope > 0.0 && hit.t < sky.haze[1] * 0.8;
            if bright && self.grid.cast(open, sky.sun, 24.0, Stop::Opaque).is_none() { slope } else { 0.0 }
        };
        let sun = if self.blend == 1.0 { [0.0, lit(self.skies[1])] } else { self.skies.map(lit) };
        let color = |sky: &Sky, sun: f32| {
            let light = sky.ambient * (0.88 + 0.12 * normal.y + 0.06 * normal.x.abs()) + sky.direct * sun;
            let mut color = weathered(paint, sky, normal.y > 0.0).times(light);
            if hit.block == Block::Water {
                color = water(color, sky, dir);
            }
            color.mix(sky.air(dir), sky.haze_at(hit.t))
        };
        let [old, new] = self.skies;
        let color = match self.blend {
            1.0 => color(new, sun[1]),
            blend => color(old, sun[0]).mix(color(new, sun[1]), blend),
        };
        let shadow = u32::from(sun[0] > 0.0) + 2 * u32::from(sun[1] > 0.0);
        let plane = (hit.cell[hit.axis] + hit.side) as u32 & 0xffff;
        let face = (hit.axis as u32) << 1 | u32::from(hit.side > 0);
        Sample { color, surface: plane << 16 | (hit.block as u32) << 8 | face << 4 | shadow << 1 | 1 }
    }

    /// The block's own colour, with a soft texture that fades with distance.
    fn paint(&self, hit: &Hit, at: Vec3) -> Vec3 {
        let material = hit.block.material();
        let base = if hit.axis == 1 { material.top } else { material.side };
        let [x, y, z] = hit.cell;
        let wrap = |v: i32| v & 255;
        let block = (hash_unit(self.seed, wrap(x), y, wrap(z)) - 0.5) * 0.055 * step(30.0, 10.0, hit.t);
        let texel = if hit.t < 9.0 {
            let quarter = |v: f32| floor(v * 4.0) & 1023;
            let offset = at - vec3(x as f32, y as f32, z as f32) + vec3(wrap(x) as f32, y as f32, wrap(z) as f32);
            (hash_unit(self.seed ^ 5, quarter(offset.x), quarter(offset.y), quarter(offset.z)) - 0.5)
                * 0.035
                * step(9.0, 3.0, hit.t)
        } else {
            0.0
        };
        let patch = (noise2(self.seed ^ 6, at.x / 8.0, at.z / 8.0, 32) - 0.5) * 0.12;
        base * (1.0 + block + texel + patch)
    }

    /// Darkening towards neighbouring blocks (ambient occlusion, interpolated over the face).
    fn corners(&self, hit: &Hit, at: Vec3) -> f32 {
        if hit.t > 32.0 || !hit.block.is_cube() {
            return 1.0;
        }
        let (u_axis, v_axis) = [(1, 2), (0, 2), (0, 1)][hit.axis];
        let at = [at.x, at.y, at.z];
        let (u, v) = (at[u_axis] - hit.cell[u_axis] as f32, at[v_axis] - hit.cell[v_axis] as f32);
        let blocked = |du: i32, dv: i32| {
            let mut cell = hit.cell;
            cell[hit.axis] += hit.side;
            cell[u_axis] += du;
            cell[v_axis] += dv;
            f32::from(u8::from(self.grid.opaque(cell[0], cell[1], cell[2])))
        };
        let (left, right, low, high) = (blocked(-1, 0), blocked(1, 0), blocked(0, -1), blocked(0, 1));
        let corner = |a: f32, b: f32, du, dv| if a + b == 2.0 { 3.0 } else { a + b + blocked(du, dv) };
        let near = mix(corner(left, low, -1, -1), corner(right, low, 1, -1), u);
        let far = mix(corner(left, high, -1, 1), corner(right, high, 1, 1), u);
        1.0 - 0.10 * mix(near, far, v) * step(32.0, 20.0, hit.t)
    }

    /// A few faint streaks or flakes. They hang in the air: turning the camera moves them across the picture.
    fn precipitation(&self, colors: &mut [Vec3], size: FrameSize, scale: f32) {
        let amount = |of: fn(&Sky) -> f32| mix(of(self.skies[0]), of(self.skies[1]), self.blend);
        let (rain, snow) = (amount(|s| s.rain), amount(|s| s.snow));
        let focal = FOCAL * scale;
        let (w, h) = (size.width as f32, size.height as f32);
        let (turn, tilt) = (self.pose.yaw.to_radians() * focal, self.pose.pitch.to_radians() * focal);
        let mut draw = |count: u32, speed: f32, radius: [f32; 2], color: Vec3, alpha: f32| {
            for i in 0..count {
                let part = |stream: i32| (hash(41, i as i32, stream, 0) >> 8) as f32 / (1 << 24) as f32;
                let depth = 0.7 + 0.6 * part(2);
                let x = (part(0) * w * 4.0 - turn * depth).rem_euclid(w * 1.25) - 0.1 * w;
                let y = (part(1) * h * 4.0 + tilt + self.tick as f32 * speed * scale * depth).rem_euclid(h * 1.25)
                    - 0.1 * h;
                blob(colors, size, [x, y], radius.map(|r| r * scale * depth), color, alpha);
            }
        };
        if rain > 0.0 {
            draw(16, 17.0, [0.7, 7.0], rgb(0xdfe8f2), 0.16 * rain);
        }
        if snow > 0.0 {
            draw(24, 2.0, [1.5, 1.5], rgb(0xffffff), 0.4 * snow);
        }
    }
}

/// A soft ellipse.
fn blob(colors: &mut [Vec3], size: FrameSize, [x, y]: [f32; 2], [rx, ry]: [f32; 2], color: Vec3, alpha: f32) {
    let span =
        |c: f32, r: f32, n: usize| ((c - r).floor().max(0.0) as usize)..((c + r).ceil().clamp(0.0, n as f32) as usize);
    for py in span(y, ry + 1.0, size.height) {
        for px in span(x, rx + 1.0, size.width) {
            let (dx, dy) = ((px as f32 + 0.5 - x) / (rx + 0.3), (py as f32 + 0.5 - y) / (ry + 0.3));
            let pixel = &mut colors[py * size.width + px];
            *pixel = pixel.mix(color, alpha * (1.0 - dx * dx - dy * dy).max(0.0));
        }
    }
}

/// Whether an edge between two colours can be seen.
fn contrast(a: Vec3, b: Vec3) -> bool {
    (a.x - b.x).abs() + (a.y - b.y).abs() + (a.z - b.z).abs() > 0.05
}

/// What wetness and frost do to a colour.
fn weathered(paint: Vec3, sky: &Sky, looks_up: bool) -> Vec3 {
    let grey = (paint.x + paint.y + paint.z) / 3.0;
    let wet = (vec3(grey, grey, grey).mix(paint, 1.0 + 0.25 * sky.wet)) * (1.0 - 0.14 * sky.wet);
    if looks_up { wet.mix(rgb(0xf2f6fb), sky.frost) } else { wet }
}

/// Water shows the sky at grazing angles.
fn water(body: Vec3, sky: &Sky, dir: Vec3) -> Vec3 {
    let away = 1.0 + dir.y.min(0.0);
    let mirror = vec3(dir.x, dir.y.abs().max(0.02), dir.z);
    body.mix(sky.air(mirror), 0.16 + 0.56 * away * away * away * away)
}
