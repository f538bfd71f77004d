//! A cut scene: controls and prompts from a file, with subtitles, then the end.

use std::time::Duration;

use bevy::prelude::*;
use bevy::winit::{UpdateMode, WinitSettings};
use bevy_dream::prelude::*;
use bevy_dream::simulate::ControlScript;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/overworld");
const SCENE: &str = r#"
{"tick":0,"keys":["W"],"look":[0.5,0]}
{"tick":60,"keys":["W","Shift"],"look":[-1.5,0],"prompt":"a flower meadow at sunset"}
{"tick":100,"keys":[],"look":[3,0.5]}
{"tick":130,"keys":["W"],"look":[0,0],"prompt":"a meadow under a starry night sky"}
{"tick":200}
"#;

#[derive(Component)]
struct Subtitle;

fn main() -> Result {
    let script = ControlScript::parse(SCENE)?;
    let last_tick = script.last_tick();
    let window = Window { title: "scripted".into(), resolution: (640, 480).into(), ..default() };
    App::new()
        .add_plugins((
            DefaultPlugins.set(WindowPlugin { primary_window: Some(window), ..default() }),
            DreamPlugin::default(),
        ))
        .insert_resource(WinitSettings {
            focused_mode: UpdateMode::reactive(Duration::from_millis(25)),
            unfocused_mode: UpdateMode::reactive(Duration::from_millis(25)),
        })
        .insert_resource(ClearColor(Color::BLACK))
        .add_systems(Startup, move |mut commands: Commands, mut images: ResMut<Assets<Image>>| {
            let screen = DreamScreen::new(&mut images);
            commands.spawn(Camera2d);
            let custom_size = Some(Vec2::new(640.0, 400.0));
            let rect = Some(Rect::new(0.0, 24.0, 128.0, 104.0)); // wide, as in the cinema
            commands.spawn(Sprite { image: screen.0.clone(), custom_size, rect, ..default() });
            commands.spawn((Subtitle, Text2d::default(), Transform::from_xyz(0.0, -220.0, 1.0)));
            commands.spawn((Dream::new(MODEL, "a flower meadow at noon"), DreamScript(script.clone()), screen));
        })
        .add_systems(Update, move |status: Single<&DreamStatus>, mut exit: MessageWriter<AppExit>| {
            if status.tick > last_tick {
                exit.write(AppExit::Success);
            }
        })
        .add_observer(|on: On<DreamStarted>, mut line: Single<&mut Text2d, With<Subtitle>>| line.0 = on.prompt.clone())
        .add_observer(|on: On<DreamPromptApplied>, mut line: Single<&mut Text2d, With<Subtitle>>| {
            line.0 = on.prompt.clone();
        })
        .add_observer(|error: On<DreamError>| error!("{}", error.reason))
        .run();
    Ok(())
}
