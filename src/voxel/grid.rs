//! The blocks of a world: a torus of columns with one bit a block, so that a ray passes a column in a few instructions.

use super::block::Block;
use super::vec3::{Vec3, vec3};

/// The world repeats after this many blocks in x and z.
pub const EXTENT: i32 = 256;

/// Number of blocks in a column.
pub const HEIGHT: i32 = 64;

/// Where a ray met a block.
#[derive(Clone, Copy, Debug)]
pub struct Hit {
    /// Distance along the ray in units of its direction.
    pub t: f32,
    /// The cell, not wrapped to the torus.
    pub cell: [i32; 3],
    /// The axis that the face looks along.
    pub axis: usize,
    /// The side of that axis, −1 or 1.
    pub side: i32,
    /// The block.
    pub block: Block,
}

/// Which blocks stop a ray.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All that can be seen.
    Visible,
    /// All that casts a shadow.
    Opaque,
}

/// The blocks of a world.
#[derive(Clone, Debug)]
pub struct Grid {
    blocks: Vec<u8>,
    visible: Vec<u64>,
    opaque: Vec<u64>,
    ceiling: i32,
}

impl Grid {
    /// A grid of air.
    pub fn new() -> Self {
        let columns = (EXTENT * EXTENT) as usize;
        Self {
            blocks: vec![0; columns * HEIGHT as usize],
            visible: vec![0; columns],
            opaque: vec![0; columns],
            ceiling: 0,
        }
    }

    fn column(x: i32, z: i32) -> usize {
        ((z & (EXTENT - 1)) << 8 | x & (EXTENT - 1)) as usize
    }

    /// The block of a cell; air above the top, stone below the bottom.
    pub fn get(&self, [x, y, z]: [i32; 3]) -> Block {
        match y {
            ..0 => Block::Stone,
            HEIGHT.. => Block::Air,
            _ => Block::from_code(self.blocks[Self::column(x, z) * HEIGHT as usize + y as usize]),
        }
    }

    /// Sets a cell; does nothing above the top and below the bottom.
    pub fn set(&mut self, [x, y, z]: [i32; 3], block: Block) {
        if (0..HEIGHT).contains(&y) {
            let column = Self::column(x, z);
            self.blocks[column * HEIGHT as usize + y as usize] = block as u8;
            let write = |bits: &mut u64, on: bool| *bits = *bits & !(1 << y) | u64::from(on) << y;
            write(&mut self.visible[column], block != Block::Air);
            write(&mut self.opaque[column], block.blocks_light());
            self.ceiling = self.ceiling.max(y + 1);
        }
    }

    /// Whether the cell holds something that casts a shadow.
    pub fn opaque(&self, x: i32, y: i32, z: i32) -> bool {
        (0..HEIGHT).contains(&y) && self.opaque[Self::column(x, z)] >> y & 1 == 1
    }

    /// The height of the highest solid block's top face.
    pub fn surface(&self, x: i32, z: i32) -> i32 {
        HEIGHT - self.opaque[Self::column(x, z)].leading_zeros() as i32
    }

    /// The first block on the way from `origin` along `dir`, up to `max` times `dir`.
    pub fn cast(&self, origin: Vec3, dir: Vec3, max: f32, stop: Stop) -> Option<Hit> {
        let masks = if stop == Stop::Visible { &self.visible } else { &self.opaque };
        let (mut x, mut z) = (floor(origin.x), floor(origin.z));
        let (sx, sz) = (if dir.x < 0.0 { -1 } else { 1 }, if dir.z < 0.0 { -1 } else { 1 });
        let (step_x, step_z) = (1.0 / dir.x.abs().max(1e-9), 1.0 / dir.z.abs().max(1e-9));
        let edge = |o: f32, s: i32| if s > 0 { floor(o) as f32 + 1.0 - o } else { o - floor(o) as f32 };
        let (mut next_x, mut next_z) = (edge(origin.x, sx) * step_x, edge(origin.z, sz) * step_z);
        let (mut t, mut y0, mut entered) = (0.0f32, floor(origin.y), None);
        loop {
            let exit = next_x.min(next_z).min(max);
            let y1 = floor(origin.y + dir.y * exit);
            if y0.min(y1) < self.ceiling {
                let mut bits = masks[Self::column(x, z)] & span(y0.min(y1), y0.max(y1));
                while bits != 0 {
                    let y = if dir.y < 0.0 { 63 - bits.leading_zeros() as i32 } else { bits.trailing_zeros() as i32 };
                    bits &= !(1 << y);
                    let block = self.get([x, y, z]);
                    let hit = if block.is_cube() {
                        cube_face(origin, dir, t, y, y0, entered)
                    } else {
                        box_face(origin, dir, [x, y, z], block)
                    };
                    if let Some((t, axis, side)) = hit
                        && t <= max
                    {
                        return Some(Hit { t, cell: [x, y, z], axis, side, block });
                    }
                }
            } else if dir.y >= 0.0 {
                return None;
            }
            if exit >= max {
                return None;
            }
            (t, y0) = (exit, y1);
            // Selections instead of branches: which side comes next is a coin toss to the processor.
            let east_west = next_x < next_z;
            x = x.wrapping_add(if east_west { sx } else { 0 });
            z = z.wrapping_add(if east_west { 0 } else { sz });
            next_x += if east_west { step_x } else { 0.0 };
            next_z += if east_west { 0.0 } else { step_z };
            entered = Some(if east_west { (0, -sx) } else { (2, -sz) });
        }
    }
}

/// Rounds down; several times faster than `f32::floor` where the target has no instruction for it.
pub fn floor(v: f32) -> i32 {
    let towards_zero = v as i32;
    towards_zero.wrapping_sub(i32::from(v < towards_zero as f32))
}

/// The bits `low..=high`.
fn span(low: i32, high: i32) -> u64 {
    if high < 0 || low >= HEIGHT {
        return 0;
    }
    let (low, high) = (low.max(0), high.min(HEIGHT - 1));
    u64::MAX.wrapping_shl(low as u32) & u64::MAX.wrapping_shr(63 - high as u32)
}

/// The face of the cube at height `y` that a ray meets which enters the column at `t` and height `y0`.
/// A cube that holds the ray's origin is not seen.
fn cube_face(
    origin: Vec3,
    dir: Vec3,
    t: f32,
    y: i32,
    y0: i32,
    entered: Option<(usize, i32)>,
) -> Option<(f32, usize, i32)> {
    if y == y0 {
        return entered.map(|(axis, side)| (t, axis, side));
    }
    let (face, side) = if dir.y < 0.0 { (y + 1, 1) } else { (y, -1) };
    Some(((face as f32 - origin.y) / dir.y, 1, side))
}

/// The face of a block that fills a part of its cell.
fn box_face(origin: Vec3, dir: Vec3, [x, y, z]: [i32; 3], block: Block) -> Option<(f32, usize, i32)> {
    let shape = block.material().shape;
    let low = vec3(x as f32 + shape.inset, y as f32, z as f32 + shape.inset);
    let size = vec3(1.0 - 2.0 * shape.inset, shape.height, 1.0 - 2.0 * shape.inset);
    let (mut near, mut far, mut face) = (0.0f32, f32::INFINITY, None);
    let slabs = [(origin.x, dir.x, low.x, size.x), (origin.y, dir.y, low.y, size.y), (origin.z, dir.z, low.z, size.z)];
    for (axis, (o, d, low, size)) in slabs.into_iter().enumerate() {
        let inverse = 1.0 / if d.abs() < 1e-9 { 1e-9 } else { d };
        let (a, b) = ((low - o) * inverse, (low + size - o) * inverse);
        if a.min(b) > near {
            near = a.min(b);
            face = Some((axis, if d > 0.0 { -1 } else { 1 }));
        }
        far = far.min(a.max(b));
    }
    face.filter(|_| near < far).map(|(axis, side)| (near, axis, side))
}
