//! The player's body: walking, jumping and colliding.

use super::block::Block;
use super::grid::Grid;
use super::vec3::{Vec3, vec3};
use crate::Controls;
use crate::controls::TICKS_PER_SECOND;

/// The eye's height above the feet.
pub const EYE_HEIGHT: f32 = 1.62;

const WIDTH: f32 = 0.6;
const TALL: f32 = 1.8;
const WALK_SPEED: f32 = 4.3;
const SPRINT: f32 = 1.5;
const GRAVITY: f32 = 28.0;
const JUMP_SPEED: f32 = 8.5;

/// Where the player stands and looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pose {
    /// The middle of the soles, in blocks.
    pub feet: Vec3,
    /// Degrees; 0 looks north (−z), growing to the right.
    pub yaw: f32,
    /// Degrees, up positive.
    pub pitch: f32,
}

impl Pose {
    /// The camera's place.
    pub fn eye(&self) -> Vec3 {
        self.feet + vec3(0.0, EYE_HEIGHT, 0.0)
    }

    /// The camera's direction.
    pub fn direction(&self) -> Vec3 {
        Vec3::looking(self.yaw, self.pitch)
    }
}

/// The player's body.
#[derive(Clone, Debug)]
pub struct Player {
    /// Where it stands and looks.
    pub pose: Pose,
    /// Whether it stands on something.
    pub on_ground: bool,
    fall: f32,
}

impl Player {
    /// A body at rest.
    pub fn new(pose: Pose) -> Self {
        Self { pose, on_ground: true, fall: 0.0 }
    }

    /// Turns and moves for one tick.
    pub fn tick(&mut self, grid: &Grid, controls: &Controls) {
        let dt = 1.0 / TICKS_PER_SECOND;
        self.pose.yaw = (self.pose.yaw + controls.look[0]).rem_euclid(360.0);
        self.pose.pitch += controls.look[1];
        if controls.jump && self.on_ground {
            self.fall = JUMP_SPEED;
        }
        let step = self.stride(controls) * dt;
        self.slide(grid, 0, step.x);
        self.slide(grid, 2, step.z);
        let rise = self.fall * dt - 0.5 * GRAVITY * dt * dt;
        self.fall -= GRAVITY * dt;
        let free = self.slide(grid, 1, rise);
        self.on_ground = !free && rise <= 0.0;
        if !free {
            self.fall = 0.0;
        }
    }

    /// The walking velocity in blocks a second.
    pub fn stride(&self, controls: &Controls) -> Vec3 {
        let (ahead, right) = (Vec3::looking(self.pose.yaw, 0.0), Vec3::looking(self.pose.yaw + 90.0, 0.0));
        let wish = ahead * controls.forward + right * controls.strafe;
        let length = wish.dot(wish).sqrt().max(1.0);
        wish * (WALK_SPEED * if controls.sprint { SPRINT } else { 1.0 } / length)
    }

    /// Moves along one axis as far as nothing is in the way; true when nothing was.
    fn slide(&mut self, grid: &Grid, axis: usize, distance: f32) -> bool {
        let moved = |by: f32| {
            let mut feet = self.pose.feet;
            *[&mut feet.x, &mut feet.y, &mut feet.z][axis] += by;
            feet
        };
        if !collides(grid, moved(distance)) {
            self.pose.feet = moved(distance);
            return true;
        }
        let (mut free, mut blocked) = (0.0, distance);
        for _ in 0..12 {
            let half = (free + blocked) / 2.0;
            *(if collides(grid, moved(half)) { &mut blocked } else { &mut free }) = half;
        }
        self.pose.feet = moved(free);
        false
    }
}

/// Whether a body with its soles at `feet` touches a solid block.
pub fn collides(grid: &Grid, feet: Vec3) -> bool {
    let cells = |from: f32, to: f32| from.floor() as i32..=to.floor() as i32;
    let half = WIDTH / 2.0;
    cells(feet.y, feet.y + TALL).any(|y| {
        cells(feet.z - half, feet.z + half)
            .any(|z| cells(feet.x - half, feet.x + half).any(|x| touches(grid.get([x, y, z]), [x, y, z], feet)))
    })
}

fn touches(block: Block, [x, y, z]: [i32; 3], feet: Vec3) -> bool {
    let material = block.material();
    let reach = (WIDTH + 1.0) / 2.0 - material.shape.inset;
    let near = |cell: i32, at: f32| (cell as f32 + 0.5 - at).abs() < reach;
    material.solid
        && near(x, feet.x)
        && near(z, feet.z)
        && feet.y < y as f32 + material.shape.height
        && feet.y + TALL > y as f32
}
