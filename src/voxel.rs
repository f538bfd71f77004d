//! The teacher: a small, deterministic, procedural voxel world, ray-cast on the CPU.
//!
//! It makes the training data, and it is the ground truth that a dream is measured against.
//! One [`World::tick`] is a twentieth of a second and one frame.
//!
//! ```
//! use bevy_dream::voxel::{Policy, PolicyKind, World, WorldConfig};
//! use bevy_dream::FrameSize;
//!
//! let mut world = World::new(7, WorldConfig::default());
//! let mut policy = Policy::new(PolicyKind::Wander, 7);
//! let before = world.render(FrameSize::new(64, 64));
//! for _ in 0..20 {
//!     let controls = policy.next(&world);
//!     world.tick(controls);
//! }
//! assert_ne!(world.render(FrameSize::new(64, 64)), before);
//! ```

mod block;
mod caption;
mod flora;
mod grid;
mod player;
mod policy;
mod random;
mod render;
mod scene;
mod sky;
mod spawn;
mod terrain;
mod vec3;

#[cfg(test)]
mod tests;

pub use block::{Block, Material, Shape};
pub use caption::{caption, describe};
pub use grid::Hit;
pub use player::{EYE_HEIGHT, Pose};
pub use policy::{Policy, PolicyKind};
pub use random::Random;
pub use scene::{Biome, Scene, Time, Weather};
pub use vec3::Vec3;

use grid::{Grid, Stop};
use player::Player;
use render::View;
use sky::Sky;
use terrain::Terrain;

use crate::controls::EDIT_PAUSE;
use crate::{Controls, Frame, FrameSize};

/// How far a player can break and place, in blocks.
pub const REACH: f32 = 5.0;

/// Ticks that a change of time or weather takes.
pub const TRANSITION_TICKS: u32 = 20;

/// What a world is made of, beside its seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WorldConfig {
    /// Biome, time and weather at the start; from the seed when `None`.
    pub scene: Option<Scene>,
    /// 0 (open land) to 1 (structures everywhere); cliffs and caves above 0.7.
    pub richness: f32,
    /// Whether a second biome shares the land.
    pub mixed_biomes: bool,
}

impl Default for WorldConfig {
    fn default() -> Self {
        Self { scene: None, richness: 0.5, mixed_biomes: false }
    }
}

/// A world with one player in it.
#[derive(Clone, Debug)]
pub struct World {
    seed: u32,
    terrain: Terrain,
    grid: Grid,
    player: Player,
    scene: Scene,
    skies: [Sky; 2],
    sky_age: u32,
    ticks: u32,
    edit_pause: u32,
}

impl World {
    /// Builds the land and puts the player on open ground.
    pub fn new(seed: u64, config: WorldConfig) -> Self {
        let mut random = Random::new(seed, 0);
        let drawn = draw_scene(&mut random);
        let scene = config.scene.unwrap_or(drawn);
        let mut other = scene.biome;
        while other == scene.biome {
            other = Biome::ALL[random.ticks(0, Biome::ALL.len() as u32) as usize];
        }
        let folded = random::hash(seed as u32, (seed >> 32) as i32, 0, 1);
        let terrain = Terrain::new(folded, scene.biome, config.mixed_biomes.then_some(other), config.richness);
        let mut grid = terrain.build();
        flora::plant(&mut grid, &terrain, folded, config.richness);
        let pose = spawn::open_pose(&grid, &terrain, scene.biome, &mut random);
        let sky = Sky::new(scene.time, scene.weather);
        Self {
            seed: folded,
            terrain,
            grid,
            player: Player::new(pose),
            scene,
            skies: [sky.clone(), sky],
            sky_age: TRANSITION_TICKS,
            ticks: 0,
            edit_pause: 0,
        }
    }

    /// Plays one tick: turn, move, then break or place. Returns the controls that took effect:
    /// valid ones, with the pitch clamped, and edits only when they changed something.
    pub fn tick(&mut self, controls: Controls) -> Controls {
        let mut controls = controls.sanitized(self.player.pose.pitch);
        self.player.tick(&self.grid, &controls);
        self.ticks = self.ticks.wrapping_add(1);
        self.sky_age = (self.sky_age + 1).min(TRANSITION_TICKS);
        self.edit_pause = self.edit_pause.saturating_sub(1);
        let may_edit = self.edit_pause == 0;
        controls.break_block = controls.break_block && may_edit && self.break_block();
        controls.place_block = controls.place_block && may_edit && !controls.break_block && self.place_block();
        if controls.break_block || controls.place_block {
            self.edit_pause = EDIT_PAUSE;
        }
        controls
    }

    /// The picture that the player sees.
    pub fn render(&self, size: FrameSize) -> Frame {
        self.view().render(size)
    }

    /// How near everything in that picture is, line by line: one over the blocks to its plane across the line of sight, 0 for the sky.
    pub fn nearness(&self, size: FrameSize) -> Vec<f32> {
        self.view().nearness(size)
    }

    fn view(&self) -> View<'_> {
        View {
            grid: &self.grid,
            pose: self.player.pose,
            skies: [&self.skies[0], &self.skies[1]],
            blend: random::ease(self.sky_age as f32 / TRANSITION_TICKS as f32),
            seed: self.seed,
            tick: self.ticks,
        }
    }

    /// Changes time and weather, smoothly over the next [`TRANSITION_TICKS`]. The label changes at once.
    pub fn set_sky(&mut self, time: Time, weather: Weather) {
        self.skies = [Sky::new(self.scene.time, self.scene.weather), Sky::new(time, weather)];
        self.sky_age = 0;
        self.scene = Scene { time, weather, ..self.scene };
    }

    /// What the view shows: the present time and weather, and the biome that dominates about eight blocks ahead.
    pub fn scene(&self) -> Scene {
        let Pose { feet, yaw, .. } = self.player.pose;
        let ahead = [(0.0, 8.0), (-20.0, 8.0), (20.0, 8.0), (0.0, 5.0), (0.0, 14.0)].map(|(turn, far)| {
            let at = feet + Vec3::looking(yaw + turn, 0.0) * far;
            self.terrain.biome(at.x.floor() as i32, at.z.floor() as i32)
        });
        let votes = |biome: &Biome| ahead.iter().filter(|b| *b == biome).count();
        let biome = ahead.iter().copied().max_by_key(votes).unwrap_or(self.scene.biome);
        Scene { biome, ..self.scene }
    }

    /// Where the player stands and looks.
    pub fn pose(&self) -> Pose {
        self.player.pose
    }

    /// Whether the player stands on something.
    pub fn on_ground(&self) -> bool {
        self.player.on_ground
    }

    /// Whether the player's body is inside a solid block; it never is.
    pub fn is_stuck(&self) -> bool {
        player::collides(&self.grid, self.player.pose.feet)
    }

    /// The block of a cell. The land repeats every 256 blocks in x and z.
    pub fn block(&self, cell: [i32; 3]) -> Block {
        self.grid.get(cell)
    }

    /// The block in the crosshair, within [`REACH`]; water hides what is under it.
    pub fn target(&self) -> Option<Hit> {
        let hit = self.grid.cast(self.pose().eye(), self.pose().direction(), REACH, Stop::Visible)?;
        (hit.block != Block::Water).then_some(hit)
    }

    /// The distance in blocks to the first thing that stops the eye in a direction relative to the view's
    /// yaw, at most `max`.
    pub fn clearance(&self, turn: f32, max: f32) -> f32 {
        let dir = Vec3::looking(self.pose().yaw + turn, 0.0);
        self.grid.cast(self.pose().eye(), dir, max, Stop::Opaque).map_or(max, |hit| hit.t)
    }

    /// Whether there is water at a distance in blocks, in a direction relative to the view's yaw.
    pub fn water_ahead(&self, turn: f32, distance: f32) -> bool {
        let at = self.pose().feet + Vec3::looking(self.pose().yaw + turn, 0.0) * distance;
        self.grid.get([at.x.floor() as i32, terrain::SEA, at.z.floor() as i32]) == Block::Water
    }

    /// Whether a step of one block is in the way of these controls, with room above it to jump.
    pub fn step_ahead(&self, controls: &Controls) -> bool {
        let stride = self.player.stride(controls);
        let feet = self.pose().feet + stride * 0.12;
        player::collides(&self.grid, feet) && !player::collides(&self.grid, feet + vec3::vec3(0.0, 1.05, 0.0))
    }

    fn break_block(&mut self) -> bool {
        let Some(hit) = self.target().filter(|hit| hit.cell[1] > 0) else { return false };
        self.grid.set(hit.cell, Block::Air);
        true
    }

    fn place_block(&mut self) -> bool {
        let Some(hit) = self.target() else { return false };
        let mut cell = hit.cell;
        if hit.block.material().solid {
            cell[hit.axis] += hit.side;
        }
        let before = self.grid.get(cell);
        if before.material().solid || cell[1] >= grid::HEIGHT {
            return false;
        }
        self.grid.set(cell, Block::Brick);
        if self.is_stuck() {
            self.grid.set(cell, before);
            return false;
        }
        true
    }
}

/// A scene by chance: each biome alike, clear weather and noon a little more often.
fn draw_scene(random: &mut Random) -> Scene {
    Scene {
        biome: Biome::ALL[random.ticks(0, Biome::ALL.len() as u32) as usize],
        time: Time::ALL[random.weighted(&[0.23, 0.30, 0.24, 0.23])],
        weather: Weather::ALL[random.weighted(&[0.43, 0.18, 0.19, 0.20])],
    }
}
