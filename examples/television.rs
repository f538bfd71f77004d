//! The dream on the screen of a television: a mesh in a scene with perspective and shaded by a lamp.
//!
//! Bevy's 3D renderer is not needed for this, and would double what is built: these are flat-coloured meshes of its 2D
//! renderer before a camera with perspective, and the lamp's light is in the colours of their corners.

use std::time::Duration;

use bevy::mesh::VertexAttributeValues;
use bevy::prelude::*;
use bevy::winit::{UpdateMode, WinitSettings};
use bevy_dream::prelude::*;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/overworld");
const LAMP: Vec3 = Vec3::new(-2.5, 3.0, 3.0);

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
        .insert_resource(ClearColor(Color::srgb(0.02, 0.02, 0.03)))
        .add_systems(Startup, setup)
        .add_systems(Update, (sway, stroll))
        .add_observer(|error: On<DreamError>| error!("{}", error.reason))
        .run();
}

fn setup(
    mut commands: Commands,
    mut images: ResMut<Assets<Image>>,
    mut meshes: ResMut<Assets<Mesh>>,
    mut materials: ResMut<Assets<ColorMaterial>>,
) {
    let perspective = Projection::Perspective(PerspectiveProjection { fov: 0.9, ..default() });
    commands.spawn((Camera2d, perspective, Transform::default()));

    let white = materials.add(Color::WHITE);
    let mut spawn = |mesh: Mesh, at: Vec3, colour: Color| {
        commands.spawn((
            Mesh2d(meshes.add(lit(mesh, at, colour))),
            MeshMaterial2d(white.clone()),
            Transform::from_translation(at),
        ));
    };
    let ground = Plane3d::new(Vec3::Y, Vec2::splat(6.0)).mesh().subdivisions(24).build();
    spawn(ground, Vec3::new(0.0, -1.0, 0.0), Color::srgb(0.45, 0.32, 0.22));
    let wall = Plane3d::new(Vec3::Z, Vec2::splat(6.0)).mesh().subdivisions(24).build();
    spawn(wall, Vec3::new(0.0, 2.0, -2.0), Color::srgb(0.35, 0.4, 0.45));
    spawn(Cuboid::new(1.8, 0.6, 0.9).into(), Vec3::new(0.0, -0.7, 0.0), Color::srgb(0.4, 0.25, 0.15));
    spawn(Cuboid::new(1.3, 1.2, 0.8).into(), Vec3::new(0.0, 0.2, 0.0), Color::srgb(0.25, 0.25, 0.27));

    // A screen shines by itself: its texture is shown as it is.
    let screen = DreamScreen::of_size(&mut images, UVec2::splat(128));
    commands.spawn((
        Mesh2d(meshes.add(Rectangle::new(1.05, 1.0))),
        MeshMaterial2d(materials.add(ColorMaterial { texture: Some(screen.0.clone()), ..Color::WHITE.into() })),
        Transform::from_xyz(0.0, 0.2, 0.405),
    ));
    commands.spawn((
        Dream { threads: Some(1), ..Dream::new(MODEL, "a tropical beach with palm trees on a sunny day") },
        screen,
    ));
}

/// The mesh with the lamp's light on it.
fn lit(mut mesh: Mesh, at: Vec3, colour: Color) -> Mesh {
    let (Some(VertexAttributeValues::Float32x3(places)), Some(VertexAttributeValues::Float32x3(normals))) =
        (mesh.attribute(Mesh::ATTRIBUTE_POSITION), mesh.attribute(Mesh::ATTRIBUTE_NORMAL))
    else {
        return mesh;
    };
    let shaded = places.iter().zip(normals).map(|(&place, &normal)| {
        let way = LAMP - at - Vec3::from(place);
        let light = 0.1 + 22.0 * way.normalize().dot(normal.into()).max(0.0) / way.length_squared();
        (colour.to_linear() * light.min(1.2)).to_f32_array()
    });
    let colours: Vec<[f32; 4]> = shaded.map(|[r, g, b, _]| [r, g, b, 1.0]).collect();
    mesh.insert_attribute(Mesh::ATTRIBUTE_COLOR, colours);
    mesh
}

/// The viewer sways, so that one sees the depth.
fn sway(time: Res<Time>, mut camera: Single<&mut Transform, With<Camera2d>>) {
    let angle = 0.5 * (0.5 * time.elapsed_secs()).sin();
    let eye = Vec3::new(3.2 * angle.sin(), 0.7, 3.2 * angle.cos());
    **camera = Transform::from_translation(eye).looking_at(Vec3::new(0.0, 0.05, 0.0), Vec3::Y);
}

/// Nobody holds the controls: the dream strolls by itself.
fn stroll(time: Res<Time>, mut controls: Single<&mut DreamControls>) {
    controls.held.forward = 1.0;
    controls.held.look[0] = (0.7 * time.elapsed_secs()).sin();
}
