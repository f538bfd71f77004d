use super::caption::biome_nouns;
use super::*;
use crate::controls::{MAX_LOOK, MAX_PITCH};

const SIZE: FrameSize = FrameSize::new(32, 24);

fn world_of(biome: Biome) -> World {
    let scene = Scene { biome, time: Time::Noon, weather: Weather::Clear };
    World::new(11, WorldConfig { scene: Some(scene), ..WorldConfig::default() })
}

/// Looks at the ground in front.
fn look_down(world: &mut World) {
    for _ in 0..5 {
        world.tick(Controls { look: [0.0, -9.0], ..Controls::default() });
    }
}

#[test]
fn a_seed_gives_the_same_frames_again() {
    let play = || {
        let mut world = World::new(5, WorldConfig::default());
        let mut policy = Policy::new(PolicyKind::Mixed, 5);
        (0..60).map(|_| (world.tick(policy.next(&world)), world.render(SIZE))).collect::<Vec<_>>()
    };
    assert!(play() == play());
}

#[test]
fn seeds_and_scenes_give_different_pictures() {
    let first = world_of(Biome::Forest).render(SIZE);
    assert_ne!(first, world_of(Biome::Desert).render(SIZE));
    let scene = Some(world_of(Biome::Forest).scene());
    assert_ne!(first, World::new(12, WorldConfig { scene, ..WorldConfig::default() }).render(SIZE));
}

#[test]
fn the_player_is_never_inside_a_block() {
    for (i, &biome) in Biome::ALL.iter().enumerate() {
        for richness in [0.5, 1.0] {
            let scene = Scene { biome, time: Time::Noon, weather: Weather::Clear };
            let mut world = World::new(i as u64, WorldConfig { scene: Some(scene), richness, mixed_biomes: true });
            let mut random = Random::new(i as u64, 9);
            for _ in 0..400 {
                let controls = Controls {
                    forward: random.range(-1.0, 1.5),
                    strafe: random.range(-1.0, 1.0),
                    sprint: true,
                    jump: random.chance(0.3),
                    look: [random.range(-12.0, 12.0), random.range(-9.0, 9.0)],
                    break_block: random.chance(0.05),
                    place_block: random.chance(0.05),
                    ..Controls::default()
                };
                world.tick(controls);
                assert!(!world.is_stuck(), "{biome} at {:?}", world.pose());
            }
        }
    }
}

#[test]
fn a_jump_climbs_one_block_but_not_two() {
    let mut world = world_of(Biome::Meadow);
    let ground = world.pose().feet.y;
    let heights = (0..20).map(|_| {
        world.tick(Controls { jump: true, ..Controls::default() });
        world.pose().feet.y - ground
    });
    let highest = heights.fold(0.0, f32::max);
    assert!((1.1..1.4).contains(&highest), "{highest}");
}

#[test]
fn edits_are_seen_and_stay() {
    let mut world = world_of(Biome::Desert);
    look_down(&mut world);
    let before = world.render(SIZE);
    let broken = world.target().expect("the ground is in reach").cell;
    assert!(world.tick(Controls { break_block: true, ..Controls::default() }).break_block);
    assert_eq!(world.block(broken), Block::Air);
    assert_ne!(world.render(SIZE), before);

    for _ in 0..EDIT_PAUSE {
        world.tick(Controls::default());
    }
    assert!(world.tick(Controls { place_block: true, ..Controls::default() }).place_block);
    let placed = world.target().expect("the new block is in the crosshair").cell;
    assert_eq!(world.block(placed), Block::Brick);
    for turn in [12.0, -12.0] {
        for _ in 0..10 {
            world.tick(Controls { look: [turn, 0.0], ..Controls::default() });
        }
    }
    assert_eq!(world.block(placed), Block::Brick);
}

#[test]
fn idle_hands_change_nothing() {
    let mut world = world_of(Biome::Meadow);
    look_down(&mut world);
    let target = world.target().map(|hit| hit.cell);
    for _ in 0..20 {
        world.tick(Controls::default());
    }
    assert_eq!(world.target().map(|hit| hit.cell), target);
}

#[test]
fn tick_returns_what_took_effect() {
    let mut world = world_of(Biome::Shore);
    let wild = Controls { forward: 9.0, strafe: f32::NAN, look: [90.0, 0.0], ..Controls::default() };
    let effective = world.tick(wild);
    assert_eq!((effective.forward, effective.strafe, effective.look[0]), (1.0, 0.0, MAX_LOOK));

    let start = world.pose().pitch;
    let up = Controls { look: [0.0, 10.0], ..Controls::default() };
    let turned: f32 = (0..30).map(|_| world.tick(up).look[1]).sum();
    assert!((world.pose().pitch - MAX_PITCH).abs() < 1e-3);
    assert!((start + turned - MAX_PITCH).abs() < 1e-3);
    let sky = Controls { look: [0.0, 0.0], break_block: true, place_block: true, ..Controls::default() };
    let effective = world.tick(sky);
    assert!(!effective.break_block && !effective.place_block, "nothing is in reach");
}

#[test]
fn a_new_sky_comes_smoothly_and_keeps_the_land() {
    let mut world = world_of(Biome::Meadow);
    let noon = world.render(SIZE);
    world.set_sky(Time::Night, Weather::Clear);
    assert_eq!(world.scene().time, Time::Night);
    let change: u64 = world.render(SIZE).rgb.iter().zip(&noon.rgb).map(|(&a, &b)| u64::from(a.abs_diff(b))).sum();
    assert!(change < noon.rgb.len() as u64 / 2, "no jump when the change begins");
    let brightness = |world: &World| world.render(SIZE).rgb.iter().map(|&v| u64::from(v)).sum::<u64>();
    let mut last = brightness(&world);
    for _ in 0..TRANSITION_TICKS {
        world.tick(Controls::default());
        let now = brightness(&world);
        assert!(now < last, "it gets darker tick by tick");
        last = now;
    }
    let night = world.render(SIZE);
    world.tick(Controls::default());
    assert!(world.render(SIZE) == night);
}

#[test]
fn every_scene_is_bright_enough_to_see() {
    for scene in Scene::all() {
        let frame = World::new(3, WorldConfig { scene: Some(scene), ..WorldConfig::default() }).render(SIZE);
        let mean = frame.rgb.iter().map(|&v| f32::from(v)).sum::<f32>() / frame.rgb.len() as f32;
        assert!(mean > 50.0, "{scene}: {mean}");
    }
}

#[test]
fn look_returns_to_the_same_view() {
    let mut world = world_of(Biome::Snowfield);
    let mut policy = Policy::new(PolicyKind::Look, 4);
    let start = world.pose();
    let mut strayed: f32 = 0.0;
    let mut returned = false;
    for _ in 0..120 {
        world.tick(policy.next(&world));
        let turn = (world.pose().yaw - start.yaw + 540.0).rem_euclid(360.0) - 180.0;
        strayed = strayed.max(turn.abs());
        returned |= strayed > 25.0 && turn.abs() < 0.01;
    }
    assert!(returned);
}

#[test]
fn a_script_is_played_as_written() {
    let script =
        vec![Controls { forward: 1.0, ..Controls::default() }, Controls { look: [3.0, 1.0], ..Controls::default() }];
    let world = world_of(Biome::Desert);
    let mut policy = Policy::new(PolicyKind::Scripted(script.clone()), 0);
    let played: Vec<_> = (0..3).map(|_| policy.next(&world)).collect();
    assert_eq!(played, [script[0], script[1], Controls::default()]);
}

#[test]
fn words_and_scenes_parse_as_they_print() {
    for scene in Scene::all() {
        assert_eq!(scene.to_string().parse::<Scene>().unwrap(), scene);
    }
    assert!("moon".parse::<Biome>().unwrap_err().to_string().contains("meadow"));
}

#[test]
fn captions_are_many_and_name_the_biome() {
    for scene in Scene::all() {
        let mut random = Random::new(1, 0);
        let texts: std::collections::BTreeSet<_> = (0..200).map(|_| caption(scene, &mut random)).collect();
        assert!(texts.len() > 120, "{scene}: {}", texts.len());
        for text in &texts {
            let lower = text.to_lowercase();
            assert!(biome_nouns(scene.biome).iter().any(|noun| lower.contains(noun)), "{scene}: {text}");
        }
        assert!(describe(scene).contains(scene.biome.name()));
    }
}
