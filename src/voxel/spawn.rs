//! Where a player starts: on open ground, with something to see.

use super::block::Block;
use super::grid::{EXTENT, Grid, Stop};
use super::player::{EYE_HEIGHT, Pose, collides};
use super::random::Random;
use super::scene::Biome;
use super::terrain::{SEA, Terrain};
use super::vec3::{Vec3, vec3};

/// The best of a few dozen random poses in a biome.
pub fn open_pose(grid: &Grid, terrain: &Terrain, biome: Biome, random: &mut Random) -> Pose {
    let mut best = (f32::NEG_INFINITY, Pose { feet: vec3(0.5, grid.surface(0, 0) as f32, 0.5), yaw: 0.0, pitch: 0.0 });
    for _ in 0..48 {
        let mut coordinate = || random.ticks(0, EXTENT as u32) as i32;
        let (x, z) = (coordinate(), coordinate());
        let feet = vec3(x as f32 + 0.5, grid.surface(x, z) as f32, z as f32 + 0.5);
        let pose = Pose { feet, yaw: random.range(0.0, 360.0), pitch: random.range(-8.0, 3.0) };
        let on_ground = terrain.height(x, z).floor() as i32 + 1 == feet.y as i32 && feet.y as i32 > SEA;
        let score = if on_ground && !collides(grid, feet) { score(grid, terrain, biome, pose) } else { -100.0 };
        if score > best.0 {
            best = (score, pose);
        }
    }
    best.1
}

/// How good a view is: far ahead, with a few things in the middle distance and, at the shore, water.
fn score(grid: &Grid, terrain: &Terrain, biome: Biome, pose: Pose) -> f32 {
    let eye = pose.feet + vec3(0.0, EYE_HEIGHT, 0.0);
    let mut score = if terrain.biome(pose.feet.x as i32, pose.feet.z as i32) == biome { 0.0 } else { -40.0 };
    let mut water = 0;
    for turn in [-32.0, -24.0, -16.0, -8.0, 0.0, 8.0, 16.0, 24.0, 32.0] {
        for pitch in [-6.0, 2.0] {
            score += match grid.cast(eye, Vec3::looking(pose.yaw + turn, pitch), 60.0, Stop::Visible) {
                Some(hit) if hit.block == Block::Water => {
                    water += 1;
                    if biome == Biome::Shore && water <= 6 { 8.0 } else { -0.5 }
                }
                Some(hit) if hit.t < 6.0 => -6.0,
                Some(hit) if pitch > 0.0 && (8.0..30.0).contains(&hit.t) => 3.0,
                Some(hit) => hit.t.min(30.0) / 15.0,
                None => 1.5,
            };
        }
        let ahead = pose.feet + Vec3::looking(pose.yaw + turn, 0.0) * 10.0;
        score += if terrain.biome(ahead.x.floor() as i32, ahead.z.floor() as i32) == biome { 1.0 } else { -1.0 };
    }
    score
}
