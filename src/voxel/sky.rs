//! Light and air: what time of day and weather do to the sky, the ground and the distance.

use super::random::{hash, mix, noise2, step};
use super::scene::{Time, Weather};
use super::vec3::{Vec3, rgb, vec3};

/// Light and air of one time of day and weather.
#[derive(Clone, Debug)]
pub struct Sky {
    horizon: Vec3,
    zenith: Vec3,
    glow: Vec3,
    disc: Vec3,
    disc_radius: f32,
    /// How much of the disc, the stars and the clouds' shape shows, 0 to 1.
    openness: f32,
    stars: f32,
    cloud: Vec3,
    /// Direction to the sun or moon.
    pub sun: Vec3,
    /// Light from everywhere.
    pub ambient: Vec3,
    /// Light from the sun or moon.
    pub direct: Vec3,
    /// Distance in blocks at which the haze begins, and at which it hides everything.
    pub haze: [f32; 2],
    /// Share of white on faces that look up.
    pub frost: f32,
    /// How wet the ground is, 0 to 1.
    pub wet: f32,
    /// Share of visible rain streaks and snowflakes, 0 to 1.
    pub rain: f32,
    /// Share of visible snowflakes, 0 to 1.
    pub snow: f32,
}

impl Sky {
    /// The sky of a time and a weather.
    pub fn new(time: Time, weather: Weather) -> Self {
        let clear = Self::clear(time);
        // The overcast colour keeps a third of the hour's own tint.
        let overcast = |grey: Vec3, tint: f32| {
            let bright = grey.times(match time {
                Time::Noon => vec3(1.0, 1.0, 1.0),
                Time::Dawn => vec3(0.90, 0.86, 0.90),
                Time::Sunset => vec3(0.84, 0.74, 0.70),
                Time::Night => vec3(0.40, 0.47, 0.62),
            });
            (bright.mix(clear.horizon, tint), bright.mix(clear.zenith, tint))
        };
        let total = clear.ambient + clear.direct * 0.5;
        let grey = (total.x + total.y + total.z) / 3.0;
        let total = total.mix(vec3(grey, grey, grey), if time == Time::Night { 0.0 } else { 0.5 });
        match weather {
            Weather::Clear => clear,
            Weather::Fog => {
                let (horizon, zenith) = overcast(rgb(0xd6dade), 0.30);
                let zenith = horizon.mix(zenith, 0.35);
                Self {
                    horizon,
                    zenith,
                    openness: 0.0,
                    ambient: total,
                    direct: Vec3::default(),
                    haze: [1.5, 26.0],
                    ..clear
                }
            }
            Weather::Rain => {
                let (horizon, zenith) = overcast(rgb(0x8e9cab), 0.25);
                let zenith = zenith * 0.78;
                let ambient = total.times(vec3(0.80, 0.84, 0.92));
                Self {
                    horizon,
                    zenith,
                    openness: 0.0,
                    ambient,
                    direct: Vec3::default(),
                    haze: [8.0, 52.0],
                    wet: 1.0,
                    rain: 1.0,
                    ..clear
                }
            }
            Weather::Snowfall => {
                let (horizon, zenith) = overcast(rgb(0xdfe6ef), 0.25);
                let zenith = horizon.mix(zenith, 0.6) * 0.94;
                let ambient = total.times(vec3(0.95, 0.98, 1.04));
                Self {
                    horizon,
                    zenith,
                    openness: 0.0,
                    ambient,
                    direct: Vec3::default(),
                    haze: [6.0, 42.0],
                    frost: 0.3,
                    snow: 1.0,
                    ..clear
                }
            }
        }
    }

    fn clear(time: Time) -> Self {
        let base = Self {
            horizon: rgb(0xc4e2f6),
            zenith: rgb(0x4a94e2),
            glow: rgb(0x302c18),
            disc: rgb(0xfffbe6),
            disc_radius: 0.075,
            openness: 1.0,
            stars: 0.0,
            cloud: rgb(0xffffff),
            sun: vec3(0.45, 0.80, 0.40).normalized(),
            ambient: vec3(0.60, 0.65, 0.72),
            direct: vec3(0.52, 0.48, 0.38),
            haze: [24.0, 66.0],
            frost: 0.0,
            wet: 0.0,
            rain: 0.0,
            snow: 0.0,
        };
        match time {
            Time::Noon => base,
            Time::Dawn => Self {
                horizon: rgb(0xf6cfc6),
                zenith: rgb(0x93a3dc),
                glow: rgb(0x5a3a18),
                disc: rgb(0xfff0cc),
                cloud: rgb(0xfbdfe2),
                sun: vec3(0.74, 0.26, -0.58).normalized(),
                ambient: vec3(0.60, 0.55, 0.66),
                direct: vec3(0.48, 0.36, 0.28),
                ..base
            },
            Time::Sunset => Self {
                horizon: rgb(0xf29a4e),
                zenith: rgb(0x5c4a92),
                glow: rgb(0x8a4210),
                disc: rgb(0xffdf90),
                disc_radius: 0.095,
                cloud: rgb(0xf08a72),
                sun: vec3(-0.74, 0.24, 0.60).normalized(),
                ambient: vec3(0.58, 0.47, 0.52),
                direct: vec3(0.54, 0.32, 0.13),
                ..base
            },
            Time::Night => Self {
                horizon: rgb(0x4158a0),
                zenith: rgb(0x1c2858),
                glow: rgb(0x10182e),
                disc: rgb(0xeef2ff),
                disc_radius: 0.07,
                stars: 1.0,
                cloud: rgb(0x4f64a4),
                sun: vec3(0.50, 0.48, -0.72).normalized(),
                ambient: vec3(0.38, 0.45, 0.64),
                direct: vec3(0.20, 0.24, 0.30),
                ..base
            },
        }
    }

    /// The colour of the air in a direction, which is also the colour of what the haze hides.
    pub fn air(&self, dir: Vec3) -> Vec3 {
        let low = 1.0 - dir.y.clamp(0.0, 1.0);
        let near = dir.dot(self.sun).max(0.0);
        let (near2, low2) = (near * near, low * low);
        let near8 = near2 * near2 * near2 * near2;
        self.horizon.mix(self.zenith, 1.0 - low2 * low)
            + self.glow * (self.openness * low * (0.35 * near2 + 0.65 * near8))
    }

    /// The colour of the open sky in a direction.
    pub fn color(&self, dir: Vec3, seed: u32) -> Vec3 {
        let mut color = self.air(dir);
        if self.openness > 0.0 && dir.y > 0.0 {
            color += rgb(0xe8ecff) * (self.stars * star(dir, seed));
            let away = (1.0 - dir.dot(self.sun)).max(0.0) * 2.0;
            let radius = self.disc_radius;
            color = color.mix(self.disc, step(radius * radius * 1.25, radius * radius * 0.8, away));
            color = color.mix(self.cloud, 0.75 * self.openness * clouds(dir, seed));
        }
        color
    }

    /// How much of a thing at this distance the haze hides, 0 to 1.
    pub fn haze_at(&self, distance: f32) -> f32 {
        step(self.haze[0] - 0.35 * self.haze[1], self.haze[1], distance).max(0.0)
    }
}

fn clouds(dir: Vec3, seed: u32) -> f32 {
    let plane = 1.5 / (dir.y + 0.12);
    let (x, z) = (dir.x * plane, dir.z * plane);
    let n = mix(noise2(seed ^ 11, x, z, 1 << 20), noise2(seed ^ 12, x * 2.3, z * 2.3, 1 << 20), 0.3);
    step(0.56, 0.74, n) * step(0.04, 0.2, dir.y)
}

/// A few large, soft stars.
fn star(dir: Vec3, seed: u32) -> f32 {
    let plane = 5.0 / (dir.y + 0.5); // few and large: what a small model can remember
    let (x, z) = (dir.x * plane, dir.z * plane);
    let (cx, cz) = (x.floor(), z.floor());
    let h = hash(seed ^ 21, cx as i32, 0, cz as i32);
    if !h.is_multiple_of(5) {
        return 0.0;
    }
    let jitter = |bits: u32| 0.3 + 0.4 * (bits & 255) as f32 / 255.0;
    let (dx, dz) = (x - cx - jitter(h >> 8), z - cz - jitter(h >> 16));
    0.6 * step(0.02, 0.0, dx * dx + dz * dz)
}
