//! Two worlds of one model beside each other: what is done in one is done in both. W A S D walk, the arrows look.

use std::time::Duration;

use bevy::prelude::*;
use bevy::winit::{UpdateMode, WinitSettings};
use bevy_dream::prelude::*;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/overworld");
const PROMPTS: [&str; 2] = ["a flower meadow at noon, clear sky", "red badlands in the evening light"];

fn main() {
    let window = Window { title: "portals".into(), resolution: (800, 460).into(), ..default() };
    App::new()
        .add_plugins((
            DefaultPlugins.set(WindowPlugin { primary_window: Some(window), ..default() }),
            DreamPlugin::default(),
        ))
        // Twice the worlds' frame rate is enough, and leaves the processor to the model.
        .insert_resource(WinitSettings {
            focused_mode: UpdateMode::reactive(Duration::from_millis(25)),
            unfocused_mode: UpdateMode::reactive(Duration::from_millis(25)),
        })
        .insert_resource(ClearColor(Color::srgb(0.03, 0.03, 0.05)))
        .add_systems(Startup, setup)
        .add_observer(|error: On<DreamError>| error!("{}", error.reason))
        .run();
}

fn setup(mut commands: Commands, mut images: ResMut<Assets<Image>>) {
    commands.spawn(Camera2d);
    for (prompt, x) in PROMPTS.into_iter().zip([-195.0, 195.0]) {
        let screen = DreamScreen::new(&mut images);
        commands.spawn((
            Sprite { image: screen.0.clone(), custom_size: Some(Vec2::splat(370.0)), ..default() },
            Transform::from_xyz(x, 25.0, 0.0),
        ));
        commands.spawn((Text2d::new(prompt), TextFont::from_font_size(16.0), Transform::from_xyz(x, -190.0, 0.0)));
        // Both models are one; each world has a thread, and a past, of its own.
        let input = DreamInput { mouse: false, ..default() };
        commands.spawn((Dream { threads: Some(1), ..Dream::new(MODEL, prompt) }, screen, input));
    }
}
