//! The teacher's side of a measurement: true walks and places to start from.

use crate::voxel::{Policy, PolicyKind, World, WorldConfig};
use crate::{Controls, Frame, FrameSize};

/// Ticks of true context before a dream begins: one second.
pub(super) const CONTEXT: usize = 20;

/// A true walk: `controls[t]` lead to `frames[t]`.
pub(super) struct Walk {
    pub frames: Vec<Frame>,
    pub controls: Vec<Controls>,
}

impl Walk {
    /// Lets the world run under `controls` and renders every tick.
    pub fn record(world: &mut World, controls: &[Controls], size: FrameSize) -> Self {
        let (controls, frames) = controls
            .iter()
            .map(|&control| {
                let control = world.tick(control);
                (control, world.render(size))
            })
            .unzip();
        Self { frames, controls }
    }
}

/// The controls of a stroll of `ticks` ticks, and the world it begins in.
pub(super) fn stroll(seed: u64, ticks: usize) -> (World, Vec<Controls>) {
    let start = World::new(seed, WorldConfig::default());
    let (mut world, mut policy) = (start.clone(), Policy::new(PolicyKind::Wander, seed));
    let controls = (0..ticks)
        .map(|_| {
            let controls = policy.next(&world);
            world.tick(controls)
        })
        .collect();
    (start, controls)
}

/// A place in the world of `seed` from which one can walk, step and look every way, reached by a stroll: the world as
/// it was [`CONTEXT`] ticks before, and the controls that lead there. None when the stroll finds no such place;
/// `which` asks for another one.
pub(super) fn open_place(seed: u64, which: u64) -> Option<(World, Vec<Controls>)> {
    let mut world = World::new(seed, WorldConfig::default());
    let mut policy = Policy::new(PolicyKind::Wander, seed ^ (which << 32));
    let mut stroll = |world: &mut World, ticks: usize| -> Vec<Controls> {
        (0..ticks)
            .map(|_| {
                let controls = policy.next(world);
                world.tick(controls)
            })
            .collect()
    };
    for _ in 0..12 {
        let before = world.clone();
        let controls = stroll(&mut world, CONTEXT);
        if is_open(&world) {
            return Some((before, controls));
        }
    }
    None
}

fn is_open(world: &World) -> bool {
    let moves = |forward: f32, strafe: f32| {
        let mut world = world.clone();
        let before = world.pose().feet;
        for _ in 0..10 {
            world.tick(Controls { forward, strafe, ..Controls::default() });
        }
        let way = world.pose().feet - before;
        // Two blocks in half a second; a step up or down would look like a jump.
        way.x.hypot(way.z) > 1.6 && way.y.abs() < 0.4
    };
    world.on_ground()
        && world.pose().pitch.abs() < 20.0
        && [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)]
            .into_iter()
            .all(|(forward, strafe)| moves(forward, strafe))
}
