//! The dream on the screen of a television: a mesh in a lit 3D room.

use std::f32::consts::FRAC_PI_2;
use std::time::Duration;

use bevy::core_pipeline::tonemapping::Tonemapping;
use bevy::prelude::*;
use bevy::winit::{UpdateMode, WinitSettings};
use bevy_dream::prelude::*;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/overworld");

fn main() {
    let window = Window { title: "television".into(), resolution: (800, 500).into(), ..default() };
    App::new()
        .add_plugins((
            DefaultPlugins.set(WindowPlugin { primary_window: Some(window), ..default() }),
            DreamPlugin::default(),
        ))
        .insert_resource(WinitSettings {
            focused_mode: UpdateMode::reactive(Duration::from_millis(25)),
            unfocused_mode: UpdateMode::reactive(Duration::from_millis(25)),
        })
        .insert_resource(GlobalAmbientLight { brightness: 120.0, ..default() })
        .add_systems(Startup, (room, television))
        .add_systems(Update, (sway, stroll))
        .add_observer(|error: On<DreamError>| error!("{}", error.reason))
        .run();
}

fn room(mut commands: Commands, mut meshes: ResMut<Assets<Mesh>>, mut materials: ResMut<Assets<StandardMaterial>>) {
    // Colours reach the window as they are, those of the dream too.
    commands.spawn((Camera3d::default(), Tonemapping::None));

    let mut spawn = |mesh: Mesh, colour: Color, place: Transform| {
        let material = StandardMaterial { base_color: colour, perceptual_roughness: 0.8, ..default() };
        commands.spawn((Mesh3d(meshes.add(mesh)), MeshMaterial3d(materials.add(material)), place));
    };
    let floor = Plane3d::new(Vec3::Y, Vec2::splat(6.0)).into();
    spawn(floor, Color::srgb(0.45, 0.3, 0.2), Transform::default());
    let wall = || Plane3d::new(Vec3::Z, Vec2::new(6.0, 2.0)).into();
    spawn(wall(), Color::srgb(0.45, 0.5, 0.5), Transform::from_xyz(0.0, 2.0, -1.4));
    let left = Transform::from_xyz(-3.0, 2.0, 0.0).with_rotation(Quat::from_rotation_y(FRAC_PI_2));
    spawn(wall(), Color::srgb(0.55, 0.45, 0.35), left);
    let table = Cuboid::new(2.2, 0.5, 0.9).into();
    spawn(table, Color::srgb(0.35, 0.2, 0.1), Transform::from_xyz(0.0, 0.25, -0.3));
    let vase = ConicalFrustum { radius_top: 0.12, radius_bottom: 0.07, height: 0.35 }.into();
    spawn(vase, Color::srgb(0.15, 0.4, 0.5), Transform::from_xyz(0.9, 0.675, -0.1));

    let lamp = Transform::from_xyz(-2.0, 2.9, 1.6).looking_at(Vec3::new(0.0, 0.6, -0.4), Vec3::Y);
    commands.spawn((
        SpotLight {
            color: Color::srgb(1.0, 0.85, 0.65),
            intensity: 900_000.0,
            outer_angle: 0.9,
            inner_angle: 0.3,
            shadow_maps_enabled: true,
            ..default()
        },
        lamp,
    ));
}

fn television(
    mut commands: Commands,
    mut images: ResMut<Assets<Image>>,
    mut meshes: ResMut<Assets<Mesh>>,
    mut materials: ResMut<Assets<StandardMaterial>>,
) {
    let place = Transform::from_xyz(-0.15, 1.1, -0.3);
    let case = StandardMaterial { base_color: Color::srgb(0.06, 0.06, 0.07), perceptual_roughness: 0.4, ..default() };
    commands.spawn((Mesh3d(meshes.add(Cuboid::new(1.3, 1.2, 0.7))), MeshMaterial3d(materials.add(case)), place));

    // A screen shines by itself: no light falls on it, but some comes from it.
    let screen = DreamScreen::of_size(&mut images, UVec2::splat(128));
    let glass = StandardMaterial { base_color_texture: Some(screen.0.clone()), unlit: true, ..default() };
    commands.spawn((
        Mesh3d(meshes.add(Rectangle::new(1.05, 1.0))),
        MeshMaterial3d(materials.add(glass)),
        place.mul_transform(Transform::from_xyz(0.0, 0.0, 0.355)),
        children![(
            PointLight { color: Color::srgb(0.6, 0.8, 1.0), intensity: 40_000.0, ..default() },
            Transform::from_xyz(0.0, 0.0, 0.5),
        )],
    ));
    commands.spawn((
        Dream { threads: Some(1), ..Dream::new(MODEL, "a tropical beach with palm trees on a sunny day") },
        screen,
    ));
}

/// The viewer sways, so that one sees the depth.
fn sway(time: Res<Time>, mut camera: Single<&mut Transform, With<Camera3d>>) {
    let angle = 0.4 * (0.5 * time.elapsed_secs()).sin();
    let eye = Vec3::new(3.0 * angle.sin(), 1.6, 3.0 * angle.cos());
    **camera = Transform::from_translation(eye).looking_at(Vec3::new(0.0, 0.95, 0.0), Vec3::Y);
}

/// Nobody holds the controls: the dream strolls by itself.
fn stroll(time: Res<Time>, mut controls: Single<&mut DreamControls>) {
    controls.held.forward = 1.0;
    controls.held.look[0] = (0.7 * time.elapsed_secs()).sin();
}
