//! One episode: a policy plays a world, and frames, actions and labels are kept.

use half::f16;
use serde::{Deserialize, Serialize};

use crate::controls::{CONTROL_NAMES, TICKS_PER_SECOND};
use crate::voxel::{Policy, PolicyKind, Random, Scene, Time, Weather, World, WorldConfig, caption};
use crate::{Controls, Frame, FrameSize};

/// The version of the teacher: frames of different versions must not be compared.
pub const GENERATOR: &str = "voxel-1";

/// Different captions per scene.
const TEXTS: usize = 12;

/// What to record.
#[derive(Clone, Debug)]
pub struct EpisodeConfig {
    /// Frame size.
    pub size: FrameSize,
    /// Number of frames.
    pub ticks: usize,
    /// Who plays.
    pub policy: PolicyKind,
    /// [`WorldConfig::richness`].
    pub richness: f32,
}

impl Default for EpisodeConfig {
    fn default() -> Self {
        Self { size: FrameSize::new(128, 128), ticks: 96, policy: PolicyKind::Mixed, richness: 0.5 }
    }
}

/// A scene and the tick from which on it holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SceneChange {
    /// Index of the first frame.
    pub tick: usize,
    /// The label; where time or weather change, the picture follows within a second.
    #[serde(flatten)]
    pub scene: Scene,
}

/// Captions of a scene and the tick from which on they hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaptionSet {
    /// Index of the first frame.
    pub tick: usize,
    /// Different phrasings.
    pub texts: Vec<String>,
}

/// The `.json` of an episode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpisodeMeta {
    /// The world's seed, from which everything else of the episode follows.
    pub seed: u64,
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// Frames a second.
    pub fps: f32,
    /// The first scene and every change.
    pub scenes: Vec<SceneChange>,
    /// Captions of each of `scenes`.
    pub captions: Vec<CaptionSet>,
    /// What the numbers of an action are: [`CONTROL_NAMES`], or names of the game's own.
    #[serde(default = "control_names")]
    pub actions: Vec<String>,
    /// [`GENERATOR`].
    pub generator: String,
    /// Who played.
    pub policy: String,
}

/// [`CONTROL_NAMES`], which are those of recordings that say none.
pub(crate) fn control_names() -> Vec<String> {
    CONTROL_NAMES.map(Into::into).into()
}

/// A recorded episode.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// Seed, scenes, captions.
    pub meta: EpisodeMeta,
    /// One picture a tick.
    pub frames: Vec<Frame>,
    /// The controls that led to each frame; the first are still.
    pub actions: Vec<Controls>,
    /// How near everything in each frame is, as of [`World::nearness`]; none of a game that cannot tell.
    pub nearness: Vec<Vec<f16>>,
}

/// Plays and records the episode of a seed. 30 % of the worlds mix two biomes; in 35 % of the episodes
/// time or weather change once.
pub fn record(seed: u64, config: &EpisodeConfig) -> Episode {
    let mut random = Random::new(seed, 2);
    let mixed_biomes = random.chance(0.3);
    let mut world = World::new(seed, WorldConfig { scene: None, richness: config.richness, mixed_biomes });
    let mut policy = Policy::new(config.policy.clone(), seed);
    let change = random.chance(0.35).then(|| (config.ticks as f32 * random.range(0.2, 0.7)) as usize);

    let near = |world: &World| world.nearness(config.size).into_iter().map(f16::from_f32).collect();
    let (mut frames, mut nearness) = (vec![world.render(config.size)], vec![near(&world)]);
    let mut actions = vec![Controls::default()];
    let mut scenes = vec![SceneChange { tick: 0, scene: world.scene() }];
    for tick in 1..config.ticks {
        if Some(tick) == change {
            let (time, weather) = other_sky(world.scene(), &mut random);
            world.set_sky(time, weather);
        }
        let controls = policy.next(&world);
        actions.push(world.tick(controls));
        frames.push(world.render(config.size));
        nearness.push(near(&world));
        let scene = world.scene();
        if scenes.last().is_some_and(|last| last.scene != scene) {
            scenes.push(SceneChange { tick, scene });
        }
    }
    let captions = scenes.iter().map(|s| CaptionSet { tick: s.tick, texts: captions(s.scene, &mut random) }).collect();
    let meta = EpisodeMeta {
        seed,
        width: config.size.width,
        height: config.size.height,
        fps: TICKS_PER_SECOND,
        scenes,
        captions,
        actions: control_names(),
        generator: GENERATOR.to_owned(),
        policy: config.policy.to_string(),
    };
    Episode { meta, frames, actions, nearness }
}

/// A sky that differs in time, in weather, or in both.
fn other_sky(scene: Scene, random: &mut Random) -> (Time, Weather) {
    let what = random.weighted(&[0.4, 0.4, 0.2]);
    let mut other = |now: usize, count: u32| (now + random.ticks(1, count) as usize) % count as usize;
    let (mut time, mut weather) = (scene.time, scene.weather);
    if what != 1 {
        time = Time::ALL[other(time as usize, 4)];
    }
    if what != 0 {
        weather = Weather::ALL[other(weather as usize, 4)];
    }
    (time, weather)
}

fn captions(scene: Scene, random: &mut Random) -> Vec<String> {
    let mut texts: Vec<String> = Vec::with_capacity(TEXTS);
    while texts.len() < TEXTS {
        let text = caption(scene, random);
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts
}
