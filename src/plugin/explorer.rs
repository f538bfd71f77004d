//! The explorer: a window to walk in a dreamed world, what `dream play` and the example `explore` open.
//!
//! | input | does |
//! |---|---|
//! | click, Esc | catches the mouse to look around, frees it |
//! | W A S D, Shift, Space | walk, run, jump |
//! | arrow keys | look around without a mouse |
//! | left, right mouse button | break, place a block |
//! | a gamepad | walks and looks as [`DreamInput`] says |
//! | Enter | opens the prompt bar; there it applies the prompt to this world, Shift+Enter starts a new one, from a seed where a number is written; up and down bring earlier prompts |
//! | 1 to 9 | preset prompts |
//! | R | a new world of the same prompt |
//! | a dropped file | a picture starts a new world, a saved world is gone on with |
//! | Ctrl+V | starts a new world from a picture in the clipboard; in the prompt bar it pastes words |
//! | Tab | the dream, the ground truth beside it, the ground truth |
//! | P, full stop | pause, one chunk |
//! | Backspace | held, goes back in time |
//! | B, Shift+B, click | the newest branch, the oldest, the one clicked |
//! | brackets, minus and equals | denoising steps, context noise |
//! | F | sharp or smooth pixels |
//! | F5, F9 | save, load |
//! | F8 | begins and ends a recording |
//! | F1, F3 | help, figures |

mod adjust;
mod bar;
mod graphics;
mod hud;
mod keys;
mod layout;
mod outside;
mod shots;
#[cfg(test)]
mod tests;
mod tour;
mod travel;
mod truth;
mod window;

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bevy::prelude::*;
use bevy::render::error_handler::RenderErrorHandler;
use bevy::render::renderer::RenderDevice;

use super::{Dream, DreamInput, DreamScript, ModelLoader};
use crate::checkpoint::DeviceChoice;
use crate::model::Settings;
use crate::simulate::{ControlScript, check_prompt};
use crate::{Error, FrameSize, Result};

/// What to explore.
#[derive(Clone, Debug, Default)]
pub struct ExploreOptions {
    /// The model's folder.
    pub model_dir: PathBuf,
    /// The first prompt; the first preset when `None`.
    pub prompt: Option<String>,
    /// The first seed.
    pub seed: u64,
    /// Where the model runs.
    pub device: DeviceChoice,
    /// Worker threads of the model; [as many as usual](crate::kernel::default_threads) when `None`.
    pub threads: Option<usize>,
    /// Frame size; the model's own when `None`.
    pub size: Option<FrameSize>,
    /// Settings; those the model is shipped with when `None`.
    pub settings: Option<Settings>,
    /// The folder of the quick save and the recordings; the working folder when it is empty.
    pub folder: PathBuf,
    /// Controls and prompts that play before the player takes over.
    pub script: Option<ControlScript>,
    /// Pictures of the window, by the time after the first frame: the last one closes the window.
    pub screenshots: Vec<(PathBuf, Duration)>,
}

impl ExploreOptions {
    /// The model in folder `model_dir`, all else as it comes.
    pub fn new(model_dir: impl Into<PathBuf>) -> Self {
        Self { model_dir: model_dir.into(), ..Default::default() }
    }

    fn first_prompt(&self) -> String {
        self.prompt.clone().unwrap_or_else(|| presets().swap_remove(0))
    }
}

/// Opens the window and returns when it is closed. Where there is no display or no graphics adapter, it says so on
/// stderr and renders a short tour to a video and a picture instead.
///
/// # Errors
/// [`Error::Input`] for a prompt that cannot be used, the model's errors where there is no window to show them,
/// [`Error::Io`] when the tour or a screenshot cannot be written, [`Error::Graphics`] when the graphics device fails again and again.
pub fn run(options: ExploreOptions) -> Result<()> {
    let loader = ModelLoader::on(options.device);
    run_with(options, loader)
}

/// [`run`] with models of your own, wherever they run.
///
/// # Errors
/// As [`run`].
pub fn run_with(options: ExploreOptions, loader: ModelLoader) -> Result<()> {
    check_prompt(&options.first_prompt())?;
    let ended = Ended::default();
    match window::open(&options, loader.clone()) {
        Ok(mut app) => {
            let screenshots = options.screenshots.clone();
            app.insert_resource(Explored(options)).insert_resource(ended.clone());
            app.run();
            ended.take().map_or_else(|| shots::check(&screenshots), Err)
        }
        Err(reason) => {
            say(&format!("No window ({reason}): rendering a short tour instead."));
            tour::render(&options, &loader)
        }
    }
}

/// The prompts on the number keys.
fn presets() -> Vec<String> {
    serde_json::from_str(include_str!("../../assets/presets.json")).unwrap_or_default()
}

fn say(line: &str) {
    // A closed stderr is no reason to stop.
    writeln!(std::io::stderr(), "{line}").ok();
}

#[derive(Resource)]
struct Explored(ExploreOptions);

/// Why the window closed, if not by the user.
#[derive(Resource, Clone, Default)]
struct Ended(Arc<Mutex<Option<Error>>>);

impl Ended {
    /// The first reason counts.
    fn tell(&self, error: Error) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The explorer's systems and user interface, for an app that has a window and the [`DreamPlugin`](super::DreamPlugin).
struct ExplorerPlugin;

impl Plugin for ExplorerPlugin {
    fn build(&self, app: &mut App) {
        let keys = (
            keys::commands,
            travel::keys,
            travel::rewind,
            truth::cycle,
            adjust::settings,
            adjust::filter,
            adjust::record,
            outside::paste,
        );
        let pictures = (layout::fit, layout::aim, layout::show_screen, layout::tell_phase, layout::fade, truth::follow);
        app.init_resource::<truth::Shown>()
            .init_resource::<truth::Truth>()
            .init_resource::<shots::Taken>()
            .init_resource::<graphics::Failures>()
            .insert_resource(RenderErrorHandler(graphics::handle))
            .add_systems(Startup, (layout::spawn, spawn_dream).chain())
            .add_systems(
                Update,
                (
                    bar::keys,
                    keys.chain().run_if(keys::not_writing),
                    outside::drop_file,
                    keys::let_go,
                    keys::listen,
                    bar::visibility,
                )
                    .chain(),
            )
            .add_systems(Update, (pictures, travel::list, hud::write, shots::take))
            .add_systems(Update, graphics::tell.run_if(resource_exists_and_changed::<RenderDevice>))
            .add_observer(layout::on_error)
            .add_observer(layout::on_prompt)
            .add_observer(layout::on_moved)
            .add_observer(layout::on_saved)
            .add_observer(layout::on_recorded)
            .add_observer(truth::on_started)
            .add_observer(truth::on_moved)
            .add_observer(shots::on_error);
    }
}

fn spawn_dream(mut commands: Commands, explored: Res<Explored>) {
    let options = &explored.0;
    let dream = Dream {
        model: options.model_dir.clone(),
        prompt: options.first_prompt(),
        seed: options.seed,
        threads: options.threads,
        size: options.size.map(|size| UVec2::new(size.width as u32, size.height as u32)),
        settings: options.settings,
        ..default()
    };
    let mut dream = commands.spawn((dream, DreamInput::default()));
    if let Some(script) = &options.script {
        dream.insert(DreamScript(script.clone()));
    }
}
