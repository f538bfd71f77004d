//! What stands on the ground: trees, plants, and a few structures.

use super::block::Block;
use super::grid::{EXTENT, Grid};
use super::random::{hash, hash_unit};
use super::scene::Biome;
use super::terrain::{SEA, Terrain};

/// Trees and plants keep to one spot in each square of this many blocks.
const SPACING: i32 = 8;

/// Structures keep to one spot in each square of this many blocks.
const PLOT: i32 = 32;

/// One object's place and luck: `luck(n)` is the n-th random number in 0..1.
struct Spot {
    seed: u32,
    x: i32,
    y: i32,
    z: i32,
}

impl Spot {
    fn luck(&self, n: i32) -> f32 {
        hash_unit(self.seed.wrapping_add(77), self.x, n, self.z)
    }

    fn whole(&self, n: i32, from: i32, to: i32) -> i32 {
        from + (self.luck(n) * (to - from) as f32) as i32
    }
}

/// Puts plants and structures on the ground.
pub fn plant(grid: &mut Grid, terrain: &Terrain, seed: u32, richness: f32) {
    scatter(grid, seed, PLOT, 5, |grid, spot| {
        if spot.luck(0) < 0.6 * richness {
            structure(grid, spot, terrain.biome(spot.x, spot.z));
        }
    });
    scatter(grid, seed.wrapping_add(1), SPACING, 0, |grid, spot| {
        let biome = terrain.biome(spot.x, spot.z);
        if grows_on(biome, grid.get([spot.x, spot.y - 1, spot.z])) {
            tree(grid, spot, biome);
        }
    });
    scatter(grid, seed.wrapping_add(2), 4, 0, |grid, spot| {
        let biome = terrain.biome(spot.x, spot.z);
        if grows_on(biome, grid.get([spot.x, spot.y - 1, spot.z])) {
            small_plants(grid, spot, biome, seed);
        }
    });
}

/// Calls `put` with one spot in each square of `spacing` blocks, on dry ground.
fn scatter(grid: &mut Grid, seed: u32, spacing: i32, margin: i32, put: impl Fn(&mut Grid, &Spot)) {
    for cz in 0..EXTENT / spacing {
        for cx in 0..EXTENT / spacing {
            let h = hash(seed, cx, 3, cz);
            let room = (spacing - 2 * margin) as u32;
            let x = cx * spacing + margin + (h % room) as i32;
            let z = cz * spacing + margin + (h / 256 % room) as i32;
            let y = grid.surface(x, z);
            if y > SEA && grid.get([x, y, z]) == Block::Air {
                put(grid, &Spot { seed, x, y, z });
            }
        }
    }
}

fn grows_on(biome: Biome, ground: Block) -> bool {
    match biome {
        Biome::Meadow => ground == Block::Grass,
        Biome::Forest => ground == Block::Moss,
        Biome::Desert => ground == Block::Sand,
        Biome::Snowfield => ground == Block::Snow,
        Biome::Badlands => ground == Block::RedSand,
        Biome::Shore => matches!(ground, Block::Sand | Block::Grass),
    }
}

fn tree(grid: &mut Grid, spot: &Spot, biome: Biome) {
    let kind = spot.luck(1);
    match biome {
        Biome::Meadow if spot.luck(0) < 0.16 => {
            trunk(grid, spot, Block::OakLog, spot.whole(2, 4, 6));
            crown(grid, spot, spot.whole(2, 4, 6), [2.6, 2.3], Block::MeadowLeaves);
        }
        Biome::Forest if spot.luck(0) < 0.72 && kind < 0.6 => {
            let height = spot.whole(2, 5, 8);
            trunk(grid, spot, Block::OakLog, height);
            crown(grid, spot, height, [2.6, 2.2], Block::OakLeaves);
        }
        Biome::Forest if spot.luck(0) < 0.72 => {
            let height = spot.whole(2, 6, 9);
            trunk(grid, spot, Block::BirchLog, height);
            crown(grid, spot, height - 1, [1.8, 3.2], Block::BirchLeaves);
        }
        Biome::Desert if spot.luck(0) < 0.24 => cactus(grid, spot),
        Biome::Desert if spot.luck(0) < 0.28 => boulder(grid, spot, Block::Sandstone),
        Biome::Snowfield if spot.luck(0) < 0.26 => fir(grid, spot),
        Biome::Badlands if spot.luck(0) < 0.08 => cactus(grid, spot),
        Biome::Badlands if spot.luck(0) < 0.11 => boulder(grid, spot, Block::ClayRed),
        Biome::Shore if spot.luck(0) < 0.32 => palm(grid, spot),
        _ => {}
    }
}

fn small_plants(grid: &mut Grid, spot: &Spot, biome: Biome, seed: u32) {
    // Flowers of one colour grow together: the colour is chosen per region.
    let region = hash(seed, spot.x >> 4, 9, spot.z >> 4) as usize;
    let (chance, plant) = match biome {
        Biome::Meadow => (0.5, [Block::Poppy, Block::Buttercup, Block::Daisy, Block::Bellflower][region % 4]),
        Biome::Forest => (0.07, Block::Mushroom),
        Biome::Desert => (0.07, Block::DeadBush),
        Biome::Badlands => (0.06, Block::DeadBush),
        Biome::Shore if grid.get([spot.x, spot.y - 1, spot.z]) == Block::Grass => (0.2, Block::Daisy),
        Biome::Snowfield | Biome::Shore => return,
    };
    let dense = biome != Biome::Meadow || !(region / 4).is_multiple_of(3);
    if dense && spot.luck(0) < chance {
        grid.set([spot.x, spot.y, spot.z], plant);
    }
}

fn trunk(grid: &mut Grid, spot: &Spot, log: Block, height: i32) {
    for y in 0..height {
        grid.set([spot.x, spot.y + y, spot.z], log);
    }
}

/// Leaves in an ellipsoid of these horizontal and vertical radii around the top of a trunk.
fn crown(grid: &mut Grid, spot: &Spot, height: i32, [radius, rise]: [f32; 2], leaves: Block) {
    let reach = radius.max(rise).ceil() as i32;
    for dy in -reach..=reach {
        for dz in -reach..=reach {
            for dx in -reach..=reach {
                let flat = (dx * dx + dz * dz) as f32 / (radius * radius);
                let cell = [spot.x + dx, spot.y + height + dy, spot.z + dz];
                if dy > 2 - height && flat + (dy * dy) as f32 / (rise * rise) < 1.0 && grid.get(cell) == Block::Air {
                    grid.set(cell, leaves);
                }
            }
        }
    }
}

/// Rings of leaves that get narrower upwards, with snow on the tips.
fn fir(grid: &mut Grid, spot: &Spot) {
    let rings = spot.whole(2, 3, 5);
    trunk(grid, spot, Block::FirLog, 2);
    let mut y = spot.y + 2;
    for ring in 0..rings {
        for layer in 0..2 {
            let radius = 1.05 + 0.5 * (rings - 1 - ring) as f32 - 0.5 * layer as f32;
            for dz in -2i32..=2 {
                for dx in -2i32..=2 {
                    if ((dx * dx + dz * dz) as f32) < radius * radius {
                        let snowy = layer == 1 || ring + 1 == rings;
                        let leaves = if snowy { Block::SnowyLeaves } else { Block::FirLeaves };
                        grid.set([spot.x + dx, y, spot.z + dz], leaves);
                    }
                }
            }
            y += 1;
        }
    }
    grid.set([spot.x, y, spot.z], Block::SnowyLeaves);
}

fn palm(grid: &mut Grid, spot: &Spot) {
    let height = spot.whole(2, 5, 8);
    trunk(grid, spot, Block::PalmLog, height);
    let top = spot.y + height;
    grid.set([spot.x, top, spot.z], Block::PalmLeaves);
    for (dx, dz) in [(1, 0), (-1, 0), (0, 1), (0, -1)] {
        grid.set([spot.x + dx, top, spot.z + dz], Block::PalmLeaves);
        grid.set([spot.x + 2 * dx, top, spot.z + 2 * dz], Block::PalmLeaves);
        grid.set([spot.x + 3 * dx, top - 1, spot.z + 3 * dz], Block::PalmLeaves);
    }
    for (dx, dz) in [(1, 1), (-1, 1), (1, -1), (-1, -1)] {
        grid.set([spot.x + dx, top, spot.z + dz], Block::PalmLeaves);
        grid.set([spot.x + 2 * dx, top - 1, spot.z + 2 * dz], Block::PalmLeaves);
    }
}

fn cactus(grid: &mut Grid, spot: &Spot) {
    let height = spot.whole(2, 2, 5);
    trunk(grid, spot, Block::Cactus, height);
    if height > 2 {
        let side = if spot.luck(3) < 0.5 { 1 } else { -1 };
        let [x, z] = if spot.luck(4) < 0.5 { [spot.x + side, spot.z] } else { [spot.x, spot.z + side] };
        grid.set([x, spot.y + 1, z], Block::Cactus);
        grid.set([x, spot.y + 2, z], Block::Cactus);
    }
}

fn boulder(grid: &mut Grid, spot: &Spot, rock: Block) {
    let (width, height) = (spot.whole(2, 2, 4), spot.whole(3, 2, 4));
    for y in -1..height {
        for z in 0..width {
            for x in 0..width - y / 2 {
                grid.set([spot.x + x, spot.y + y, spot.z + z], rock);
            }
        }
    }
}

fn structure(grid: &mut Grid, spot: &Spot, biome: Biome) {
    let (wall, roof) = match biome {
        Biome::Desert | Biome::Badlands => (Block::Sandstone, Block::ClayBrown),
        Biome::Shore => (Block::Planks, Block::PalmLeaves),
        _ => (Block::Planks, Block::Roof),
    };
    match spot.luck(1) {
        ..0.45 => hut(grid, spot, wall, roof),
        ..0.7 => well(grid, spot, roof),
        _ => pillar(grid, spot),
    }
}

/// Fills a box of cells, given by its corners relative to the spot.
fn fill(grid: &mut Grid, spot: &Spot, from: [i32; 3], to: [i32; 3], block: Block) {
    for y in from[1]..=to[1] {
        for z in from[2]..=to[2] {
            for x in from[0]..=to[0] {
                grid.set([spot.x + x, spot.y + y, spot.z + z], block);
            }
        }
    }
}

fn hut(grid: &mut Grid, spot: &Spot, wall: Block, roof: Block) {
    fill(grid, spot, [-2, -4, -2], [2, -1, 2], Block::Cobble);
    fill(grid, spot, [-2, 0, -2], [2, 2, 2], wall);
    fill(grid, spot, [-1, 0, -1], [1, 2, 1], Block::Air);
    fill(grid, spot, [0, 0, 2], [0, 1, 2], Block::Air);
    fill(grid, spot, [-2, 1, 0], [2, 1, 0], Block::Air);
    fill(grid, spot, [-3, 3, -3], [3, 3, 3], roof);
    fill(grid, spot, [-2, 4, -2], [2, 4, 2], roof);
    fill(grid, spot, [-1, 5, -1], [1, 5, 1], roof);
}

fn well(grid: &mut Grid, spot: &Spot, roof: Block) {
    fill(grid, spot, [-1, -3, -1], [1, 0, 1], Block::Cobble);
    fill(grid, spot, [0, 0, 0], [0, 0, 0], Block::Water);
    for (x, z) in [(-1, -1), (1, -1), (-1, 1), (1, 1)] {
        fill(grid, spot, [x, 1, z], [x, 2, z], Block::OakLog);
    }
    fill(grid, spot, [-1, 3, -1], [1, 3, 1], roof);
}

fn pillar(grid: &mut Grid, spot: &Spot) {
    fill(grid, spot, [-1, -2, -1], [1, 0, 1], Block::Cobble);
    fill(grid, spot, [0, 1, 0], [0, spot.whole(2, 4, 7), 0], Block::Cobble);
}
