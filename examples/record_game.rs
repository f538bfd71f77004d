//! A small ordinary game, recorded for training: `cargo run --example record_game -- data/game 8` records eight episodes.
//!
//! Walk the disc through the garden with W A S D, Z dashes; while no key is held it walks by itself.

use bevy::prelude::*;
use bevy_dream::plugin::recorder::{DreamRecorder, DreamRecorderPlugin, DreamTake};
use bevy_dream::prelude::*;

/// Frames of an episode, twenty a second.
const FRAMES: usize = 100;
const SPEED: f32 = 6.0;

#[derive(Component)]
struct Player;

/// How many frames are still to be recorded.
#[derive(Resource)]
struct Left(usize);

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = args.next().unwrap_or_else(|| "data/game".into());
    let episodes: usize = args.next().and_then(|n| n.parse().ok()).unwrap_or(4);
    let window = Window { title: "record_game".into(), resolution: (512, 512).into(), ..default() };
    App::new()
        .add_plugins((
            DefaultPlugins.set(WindowPlugin { primary_window: Some(window), ..default() }),
            DreamRecorderPlugin,
        ))
        .insert_resource(ClearColor(Color::srgb(0.3, 0.55, 0.25)))
        .insert_resource(Time::<Fixed>::from_hz(20.0))
        .insert_resource(Left(episodes * FRAMES))
        .add_systems(Startup, move |mut commands: Commands| {
            let recorder = DreamRecorder {
                frames: FRAMES,
                // The first two are controls that every model knows; the dash is this game's own.
                actions: ["forward", "strafe", "dash"].map(Into::into).into(),
                caption: "a disc in a walled garden, seen from above".into(),
                ..DreamRecorder::new(folder.clone(), UVec2::splat(64))
            };
            // The window shows 512 units; the recorder sees the same with fewer pixels.
            let wide = OrthographicProjection { scale: 8.0, ..OrthographicProjection::default_2d() };
            commands.spawn((Camera2d, Camera { order: -1, ..default() }, Projection::from(wide), recorder));
            commands.spawn(Camera2d);
        })
        .add_systems(Startup, garden)
        .add_systems(FixedUpdate, play)
        .add_observer(|error: On<DreamError>| error!("{}", error.reason))
        .run();
}

fn garden(mut commands: Commands, mut meshes: ResMut<Assets<Mesh>>, mut materials: ResMut<Assets<ColorMaterial>>) {
    let mut bed = |x: f32, y: f32, size: Vec2, colour: Color| {
        commands.spawn((Sprite::from_color(colour, size), Transform::from_xyz(x, y, 0.0)));
    };
    for side in [-1.0, 1.0] {
        bed(side * 248.0, 0.0, Vec2::new(16.0, 512.0), Color::srgb(0.5, 0.4, 0.35));
        bed(0.0, side * 248.0, Vec2::new(512.0, 16.0), Color::srgb(0.5, 0.4, 0.35));
        bed(side * 120.0, 90.0, Vec2::new(110.0, 70.0), Color::srgb(0.8, 0.3, 0.35));
        bed(side * 120.0, -110.0, Vec2::new(70.0, 110.0), Color::srgb(0.9, 0.8, 0.3));
    }
    let disc = (Mesh2d(meshes.add(Circle::new(26.0))), MeshMaterial2d(materials.add(Color::srgb(0.95, 0.95, 1.0))));
    commands.spawn((Player, disc, Transform::from_xyz(0.0, 0.0, 1.0)));
}

/// One tick: what is held moves the disc, and is recorded as what led to the picture.
fn play(
    keys: Res<ButtonInput<KeyCode>>,
    time: Res<Time>,
    mut player: Single<&mut Transform, With<Player>>,
    recorder: Option<Single<Entity, With<DreamRecorder>>>,
    mut left: ResMut<Left>,
    mut waited: Local<u32>,
    mut exit: MessageWriter<AppExit>,
    mut commands: Commands,
) {
    let axis = |plus, minus| f32::from(i8::from(keys.pressed(plus)) - i8::from(keys.pressed(minus)));
    let mut way = Vec2::new(axis(KeyCode::KeyD, KeyCode::KeyA), axis(KeyCode::KeyW, KeyCode::KeyS));
    let mut dash = f32::from(u8::from(keys.pressed(KeyCode::KeyZ)));
    if way == Vec2::ZERO {
        // Long straight ways that change at odd times.
        let leg = (time.elapsed_secs() * 0.9).floor();
        way = Vec2::new((leg * 1.7 + 1.0).sin().round(), (leg * 2.4).sin().round());
        dash = f32::from(u8::from((leg * 3.1).sin() > 0.5));
    }
    let moved = player.translation.xy() + SPEED * (1.0 + dash) * way;
    player.translation = moved.clamp(Vec2::splat(-210.0), Vec2::splat(210.0)).extend(1.0);
    if time.elapsed_secs() < 1.0 {
        return; // the shaders are still compiled
    }
    match (recorder, left.0) {
        (Some(recorder), 1..) => {
            left.0 -= 1;
            commands.trigger(DreamTake { entity: *recorder, action: vec![way.y, way.x, dash] });
        }
        (None, _) => {
            exit.write(AppExit::error());
        }
        // The last pictures are still on their way from the graphics card.
        _ if *waited < 10 => *waited += 1,
        _ => {
            exit.write(AppExit::Success);
        }
    }
}
