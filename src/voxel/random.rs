//! Randomness that depends on nothing but a seed: a stream for choices, hashes and value noise for terrain.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::grid::floor;

/// A stream of choices (`ChaCha8`), the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// The stream number `stream` of `seed`; streams of one seed are independent.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    /// A number in 0..1.
    pub fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1 << 24) as f32
    }

    /// A number in `from..to`.
    pub fn range(&mut self, from: f32, to: f32) -> f32 {
        from + (to - from) * self.unit()
    }

    /// A whole number in `from..to`.
    pub fn ticks(&mut self, from: u32, to: u32) -> u32 {
        from + ((self.unit() * (to - from) as f32) as u32).min(to - from - 1)
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// −1 or 1.
    pub fn sign(&mut self) -> f32 {
        if self.chance(0.5) { 1.0 } else { -1.0 }
    }

    /// One of the items.
    ///
    /// # Panics
    /// When there are none.
    pub fn pick<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.ticks(0, items.len() as u32) as usize]
    }

    /// An index, with probability proportional to its weight.
    pub fn weighted(&mut self, weights: &[f32]) -> usize {
        let mut left = self.unit() * weights.iter().sum::<f32>();
        for (i, w) in weights.iter().enumerate() {
            left -= w;
            if left < 0.0 {
                return i;
            }
        }
        weights.len() - 1
    }
}

/// A well-mixed 32-bit hash of three coordinates (finaliser of `MurmurHash3`).
pub fn hash(seed: u32, x: i32, y: i32, z: i32) -> u32 {
    let mut h = seed ^ 0x9e37_79b9;
    for v in [x, y, z] {
        h = (h ^ (v as u32).wrapping_mul(0xcc9e_2d51)).rotate_left(15).wrapping_mul(0x85eb_ca6b);
    }
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

/// [`hash`] as a number in 0..1.
pub fn hash_unit(seed: u32, x: i32, y: i32, z: i32) -> f32 {
    (hash(seed, x, y, z) >> 8) as f32 / (1 << 24) as f32
}

/// Smooth noise in 0..1 with one random value per lattice point, repeating every `period` points (a power of two).
pub fn noise2(seed: u32, x: f32, z: f32, period: i32) -> f32 {
    let (x0, z0) = (floor(x), floor(z));
    let (u, v) = (ease(x - x0 as f32), ease(z - z0 as f32));
    let at = |dx: i32, dz: i32| hash_unit(seed, (x0 + dx) & (period - 1), 0, (z0 + dz) & (period - 1));
    mix(mix(at(0, 0), at(1, 0), u), mix(at(0, 1), at(1, 1), u), v)
}

/// [`noise2`] in space; only x and z repeat.
pub fn noise3(seed: u32, p: [f32; 3], period: i32) -> f32 {
    let fy = p[1].floor();
    let layer = |dy: i32| noise2(seed.wrapping_add((fy as i32 + dy) as u32 * 0x27d4_eb2f), p[0], p[2], period);
    mix(layer(0), layer(1), ease(p[1] - fy))
}

/// From 0 to 1 with flat ends.
pub fn ease(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

/// [`ease`] of where `x` stands between `from` and `to`, clamped.
pub fn step(from: f32, to: f32, x: f32) -> f32 {
    ease(((x - from) / (to - from)).clamp(0.0, 1.0))
}

/// From `a` at 0 to `b` at 1.
pub fn mix(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}
