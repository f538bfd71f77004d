//! No window, no graphics card: an app that dreams five seconds into a file.
//!
//! `cargo run --example headless -- walk.gif`

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the output of a program")]

use std::time::Duration;

use bevy::app::ScheduleRunnerPlugin;
use bevy::prelude::*;
use bevy_dream::prelude::*;
use bevy_dream::video::VideoWriter;
use bevy_dream::{Frame, FrameSize};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/overworld");
const FRAMES: usize = 100;

/// The frames so far.
#[derive(Resource, Default)]
struct Film(Vec<Frame>);

fn main() -> AppExit {
    App::new()
        .add_plugins((
            MinimalPlugins.set(ScheduleRunnerPlugin::run_loop(Duration::from_millis(5))),
            AssetPlugin::default(),
            ImagePlugin::default(),
            DreamPlugin::default(),
        ))
        .init_resource::<Film>()
        .add_systems(Startup, |mut commands: Commands| {
            let held = Controls { forward: 1.0, look: [1.0, 0.0], ..default() };
            commands.spawn((Dream::new(MODEL, "a forest at sunset"), DreamControls { held, ..default() }));
        })
        .add_systems(Update, (film, end).chain())
        .add_observer(|error: On<DreamError>, mut exit: MessageWriter<AppExit>| {
            eprintln!("error: {}", error.reason);
            exit.write(AppExit::error());
        })
        .run()
}

/// Keeps every frame that comes to the screen: without a renderer its pixels stay in the image.
fn film(
    dreams: Query<(&DreamStatus, &DreamScreen)>,
    images: Res<Assets<Image>>,
    mut film: ResMut<Film>,
    mut tick: Local<u64>,
) {
    for (status, screen) in &dreams {
        let new = status.size != UVec2::ZERO && (film.0.is_empty() || status.tick != *tick);
        if let Some(rgba) = images.get(&screen.0).and_then(|image| image.data.as_ref()).filter(|_| new) {
            let size = FrameSize::new(status.size.x as usize, status.size.y as usize);
            film.0.push(Frame { size, rgb: rgba.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect() });
            *tick = status.tick;
        }
    }
}

fn end(film: Res<Film>, status: Query<&DreamStatus>, mut exit: MessageWriter<AppExit>) {
    if film.0.len() < FRAMES {
        return;
    }
    let path = std::env::args().nth(1).unwrap_or_else(|| "headless.gif".into());
    let fps = status.iter().next().map_or(20.0, |status| status.fps);
    let written = VideoWriter::create(&path, film.0[0].size, fps).and_then(|mut video| {
        film.0.iter().try_for_each(|frame| video.push(frame))?;
        video.finish()
    });
    exit.write(match written {
        Ok(()) => {
            println!("{path}");
            AppExit::Success
        }
        Err(error) => {
            eprintln!("error: {error}");
            AppExit::error()
        }
    });
}
