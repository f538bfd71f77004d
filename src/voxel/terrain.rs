//! The ground: which biome lies where, how high it is, and what it is made of.

use super::block::Block;
use super::grid::{EXTENT, Grid};
use super::random::{ease, mix, noise2, noise3, step};
use super::scene::Biome;

/// The cell height of the water's surface and of frozen ponds.
pub const SEA: i32 = 22;

/// Above this richness the ground has cliffs and caves.
const WILD: f32 = 0.7;

/// The layers of the badlands, from the bottom up, repeating.
const LAYERS: [Block; 8] = [
    Block::ClayRed,
    Block::ClayRed,
    Block::ClayOrange,
    Block::ClayCream,
    Block::ClayOrange,
    Block::ClayRed,
    Block::ClayBrown,
    Block::ClayOrange,
];

/// The plan of a world's ground.
#[derive(Clone, Debug)]
pub struct Terrain {
    seed: u32,
    biome: Biome,
    other: Option<Biome>,
    richness: f32,
}

impl Terrain {
    /// A plan with one biome, or two in regions of about 40 blocks.
    pub fn new(seed: u32, biome: Biome, other: Option<Biome>, richness: f32) -> Self {
        Self { seed, biome, other, richness }
    }

    fn noise(&self, stream: u32, scale: i32, x: i32, z: i32) -> f32 {
        let at = |v: i32| v as f32 / scale as f32;
        noise2(self.seed.wrapping_mul(31).wrapping_add(stream), at(x), at(z), EXTENT / scale)
    }

    /// How much of the second biome there is, 0 to 1.
    fn otherness(&self, x: i32, z: i32) -> f32 {
        if self.other.is_none() { 0.0 } else { step(0.44, 0.56, self.noise(1, 32, x, z)) }
    }

    /// The biome of a column.
    pub fn biome(&self, x: i32, z: i32) -> Biome {
        match self.other {
            Some(other) if self.otherness(x, z) > 0.5 => other,
            _ => self.biome,
        }
    }

    /// The ground's height in blocks, not rounded.
    pub fn height(&self, x: i32, z: i32) -> f32 {
        let gentle = match (self.otherness(x, z), self.other) {
            (share, Some(other)) if share > 0.0 => {
                mix(self.height_of(self.biome, x, z), self.height_of(other, x, z), share)
            }
            _ => self.height_of(self.biome, x, z),
        };
        let wild = (self.richness - WILD).max(0.0) / (1.0 - WILD);
        gentle + wild * 14.0 * step(0.58, 0.68, self.noise(7, 32, x, z))
    }

    fn height_of(&self, biome: Biome, x: i32, z: i32) -> f32 {
        let (hill, bump) = (self.noise(2, 64, x, z), self.noise(3, 16, x, z));
        match biome {
            Biome::Meadow => 22.6 + 6.0 * hill + 1.4 * bump,
            Biome::Forest => 22.6 + 6.0 * hill + 2.0 * self.noise(4, 32, x, z),
            Biome::Desert => 22.8 + 2.0 * hill + 6.0 * ease(self.noise(4, 32, x, z)),
            Biome::Snowfield => 20.0 + 7.0 * hill + 2.5 * self.noise(4, 32, x, z),
            Biome::Badlands => {
                let mesa = self.noise(4, 32, x, z);
                let terraces = step(0.570, 0.580, mesa) + step(0.670, 0.680, mesa) + step(0.770, 0.780, mesa);
                23.0 + 2.0 * hill + 4.0 * terraces
            }
            Biome::Shore => {
                // The land rises slowly behind the water's edge: a wide beach.
                let slope = 17.6 + 10.0 * hill + 1.0 * bump - SEA as f32;
                SEA as f32 + if slope > 0.0 { 0.55 * slope } else { slope }
            }
        }
    }

    /// All columns of the ground, with water but nothing that stands on it.
    pub fn build(&self) -> Grid {
        let mut grid = Grid::new();
        for z in 0..EXTENT {
            for x in 0..EXTENT {
                self.build_column(&mut grid, x, z);
            }
        }
        grid
    }

    fn build_column(&self, grid: &mut Grid, x: i32, z: i32) {
        let (biome, height) = (self.biome(x, z), self.height(x, z));
        let sea = height < SEA as f32 + 0.3;
        let frozen = sea && biome == Biome::Snowfield;
        let top = if sea { SEA - i32::from(!frozen) } else { height.floor() as i32 };
        for y in 0..=top {
            let depth = top - y;
            let block = match biome {
                _ if sea && !frozen => Block::Sand,
                Biome::Snowfield if frozen && depth == 0 => Block::Ice,
                Biome::Badlands if depth == 0 && top < 27 => Block::RedSand,
                Biome::Badlands => LAYERS[y as usize % LAYERS.len()],
                _ if depth > 4 => Block::Stone,
                Biome::Meadow if depth == 0 => Block::Grass,
                Biome::Forest if depth == 0 => Block::Moss,
                Biome::Shore if depth == 0 && top > 24 => Block::Grass,
                Biome::Meadow | Biome::Forest => Block::Dirt,
                Biome::Desert if depth > 2 => Block::Sandstone,
                Biome::Desert | Biome::Shore => Block::Sand,
                Biome::Snowfield => Block::Snow,
            };
            if !self.hollow(x, y, z, depth) {
                grid.set([x, y, z], block);
            }
        }
        if sea && !frozen {
            grid.set([x, SEA, z], Block::Water);
        }
    }

    /// Caves, in rich worlds.
    fn hollow(&self, x: i32, y: i32, z: i32, depth: i32) -> bool {
        if self.richness <= WILD || y < 3 || (y <= SEA && depth < 3) {
            return false;
        }
        let p = [x as f32 / 16.0, y as f32 / 10.0, z as f32 / 16.0];
        noise3(self.seed.wrapping_add(99), p, EXTENT / 16) > 0.97 - 0.25 * self.richness
    }
}
