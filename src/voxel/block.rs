//! The kinds of blocks: what they look like and which part of their cell they fill.

use super::vec3::{Vec3, rgb};

/// The part of a cell that a block fills: a box, centred in x and z.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Distance of the box to the cell's sides.
    pub inset: f32,
    /// The box's top above the cell's floor.
    pub height: f32,
}

const CUBE: Shape = Shape { inset: 0.0, height: 1.0 };
const TRUNK: Shape = Shape { inset: 0.18, height: 1.0 };
const FLOWER: Shape = Shape { inset: 0.32, height: 0.36 };
const BUSH: Shape = Shape { inset: 0.24, height: 0.55 };

/// How one kind of block looks and behaves.
#[derive(Clone, Copy, Debug)]
pub struct Material {
    /// Colour of the top and bottom faces.
    pub top: Vec3,
    /// Colour of the sides.
    pub side: Vec3,
    /// The filled part of the cell.
    pub shape: Shape,
    /// Players collide with it.
    pub solid: bool,
}

macro_rules! blocks {
    ($($(#[$doc:meta])* $name:ident: $top:literal $side:literal $shape:ident $solid:literal),+ $(,)?) => {
        /// A kind of block.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Block { $($(#[$doc])* $name),+ }

        impl Block {
            const ALL: &[Self] = &[$(Self::$name),+];
            const MATERIALS: &[Material] = &[$(
                Material { top: rgb($top), side: rgb($side), shape: $shape, solid: $solid }
            ),+];
        }
    };
}

blocks! {
    /// Nothing.
    Air: 0x000000 0x000000 CUBE false,
    /// Meadow ground.
    Grass: 0x7cc455 0x86b05a CUBE true,
    /// Forest ground.
    Moss: 0x549649 0x628a4c CUBE true,
    /// Under grass.
    Dirt: 0x9a7350 0x8e6a4a CUBE true,
    /// Deep ground.
    Stone: 0x9a9ca2 0x8e9097 CUBE true,
    /// Beach and desert ground.
    Sand: 0xecd694 0xe0c684 CUBE true,
    /// Desert rock.
    Sandstone: 0xe2bf7a 0xd3a962 CUBE true,
    /// Snowfield ground.
    Snow: 0xe6edf5 0xdae5f0 CUBE true,
    /// Frozen ponds.
    Ice: 0xa4d4ee 0x93c4e2 CUBE true,
    /// Badlands ground.
    RedSand: 0xd77f45 0xc86f3c CUBE true,
    /// Badlands layer.
    ClayRed: 0xbb5237 0xb04a33 CUBE true,
    /// Badlands layer.
    ClayOrange: 0xdb8a4c 0xd27f45 CUBE true,
    /// Badlands layer.
    ClayCream: 0xe8c592 0xdfb683 CUBE true,
    /// Badlands layer.
    ClayBrown: 0x8c4a38 0x824334 CUBE true,
    /// Sea and wells; its look depends on the sky.
    Water: 0x3a8fd0 0x3a8fd0 CUBE false,
    /// Trunk of the round tree.
    OakLog: 0x8a6440 0x7b5838 TRUNK true,
    /// Trunk of the slender tree.
    BirchLog: 0xe8e4d8 0xe0dccf TRUNK true,
    /// Trunk of the fir.
    FirLog: 0x5f4634 0x573f2f TRUNK true,
    /// Trunk of the palm.
    PalmLog: 0xb58d5c 0xa98252 TRUNK true,
    /// Crown of meadow trees.
    MeadowLeaves: 0x5fae3e 0x559f39 CUBE true,
    /// Crown of the round forest tree.
    OakLeaves: 0x3c7d3a 0x357034 CUBE true,
    /// Crown of the slender forest tree.
    BirchLeaves: 0x93b847 0x85a841 CUBE true,
    /// Crown of the fir.
    FirLeaves: 0x2f5f4c 0x295544 CUBE true,
    /// Snow on a fir.
    SnowyLeaves: 0xe2ebf3 0x557f77 CUBE true,
    /// Fronds of the palm.
    PalmLeaves: 0x58ad4c 0x4c9c45 CUBE true,
    /// A green column in the desert.
    Cactus: 0x63a04e 0x528f45 TRUNK true,
    /// A dry shrub.
    DeadBush: 0xa67c49 0x987142 BUSH false,
    /// A red flower.
    Poppy: 0xe4483c 0xd8433a FLOWER false,
    /// A yellow flower.
    Buttercup: 0xf7d53c 0xeec93a FLOWER false,
    /// A white flower.
    Daisy: 0xf8f4ee 0xebe7e2 FLOWER false,
    /// A violet flower.
    Bellflower: 0xb287e6 0xa67ada FLOWER false,
    /// A red mushroom.
    Mushroom: 0xd24a3a 0xefe3cf FLOWER false,
    /// Walls of huts.
    Planks: 0xc29a62 0xb88f58 CUBE true,
    /// Roofs.
    Roof: 0xa8483c 0x9a4137 CUBE true,
    /// Wells and pillars.
    Cobble: 0xaaaab0 0x9c9ca4 CUBE true,
    /// What players place.
    Brick: 0xe65f80 0xdb5676 CUBE true,
}

impl Block {
    /// The block stored as `code`.
    pub fn from_code(code: u8) -> Self {
        Self::ALL[usize::from(code)]
    }

    /// How it looks and behaves.
    pub fn material(self) -> &'static Material {
        &Self::MATERIALS[self as usize]
    }

    /// It fills its whole cell and can be seen.
    pub fn is_cube(self) -> bool {
        self != Self::Air && self.material().shape == CUBE
    }

    /// It casts shadows and darkens corners.
    pub fn blocks_light(self) -> bool {
        self.material().solid
    }
}
