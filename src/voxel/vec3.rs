//! Three numbers: a place, a direction or a colour. x is east, y is up, z is south.

use std::ops::{Add, AddAssign, Mul, Sub};

/// Three numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Vec3 {
    /// East, or red.
    pub x: f32,
    /// Up, or green.
    pub y: f32,
    /// South, or blue.
    pub z: f32,
}

/// Shorthand for [`Vec3`].
pub const fn vec3(x: f32, y: f32, z: f32) -> Vec3 {
    Vec3 { x, y, z }
}

/// A colour from `0xRRGGBB`, 0 to 1 per channel.
pub const fn rgb(hex: u32) -> Vec3 {
    vec3((hex >> 16 & 255) as f32 / 255.0, (hex >> 8 & 255) as f32 / 255.0, (hex & 255) as f32 / 255.0)
}

impl Vec3 {
    /// The scalar product.
    pub fn dot(self, o: Self) -> f32 {
        self.x * o.x + self.y * o.y + self.z * o.z
    }

    /// The same direction with length 1.
    #[must_use]
    pub fn normalized(self) -> Self {
        self * (1.0 / self.dot(self).sqrt())
    }

    /// From `self` at 0 to `o` at 1.
    #[must_use]
    pub fn mix(self, o: Self, t: f32) -> Self {
        self + (o - self) * t
    }

    /// Channel by channel.
    #[must_use]
    pub fn times(self, o: Self) -> Self {
        vec3(self.x * o.x, self.y * o.y, self.z * o.z)
    }

    /// The direction of a view, `yaw` and `pitch` in degrees; yaw 0 looks north (−z) and grows to the right.
    pub fn looking(yaw: f32, pitch: f32) -> Self {
        let ((sy, cy), (sp, cp)) = (yaw.to_radians().sin_cos(), pitch.to_radians().sin_cos());
        vec3(sy * cp, sp, -cy * cp)
    }
}

impl Add for Vec3 {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        vec3(self.x + o.x, self.y + o.y, self.z + o.z)
    }
}

impl AddAssign for Vec3 {
    fn add_assign(&mut self, o: Self) {
        *self = *self + o;
    }
}

impl Sub for Vec3 {
    type Output = Self;
    fn sub(self, o: Self) -> Self {
        vec3(self.x - o.x, self.y - o.y, self.z - o.z)
    }
}

impl Mul<f32> for Vec3 {
    type Output = Self;
    fn mul(self, s: f32) -> Self {
        vec3(self.x * s, self.y * s, self.z * s)
    }
}
