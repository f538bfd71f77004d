//! The window, if there can be one.

use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant};

use bevy::app::{TaskPoolOptions, TaskPoolPlugin};
use bevy::log::{Level, LogPlugin};
use bevy::prelude::*;
use bevy::tasks::{available_parallelism, block_on};
use bevy::winit::{UpdateMode, WinitSettings};
use wgpu::{AdapterInfo, DeviceType, Instance, InstanceDescriptor};

use super::{ExploreOptions, ExplorerPlugin};
use crate::plugin::run::Running;
use crate::plugin::{DreamPlugin, ModelLoader};

/// Height of the window in logical pixels.
const HEIGHT: u32 = 720;

/// How long the window sleeps when no frame is to come; input and the model wake it earlier.
const IDLE: Duration = Duration::from_millis(100);

/// Whether the graphics adapter computes on the cores that the model needs.
#[derive(Resource)]
struct SoftwareRendering(bool);

/// An app with a window, or why there is none.
pub(super) fn open(options: &ExploreOptions, loader: ModelLoader) -> Result<App, String> {
    if cfg!(target_os = "linux") && std::env::var_os("DISPLAY").is_none_or(|display| display.is_empty()) {
        return Err("no display".into());
    }
    let adapter = adapter().ok_or("no graphics adapter")?;
    // Bevy panics when the display cannot be reached. There is no other way to ask.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let built = panic::catch_unwind(AssertUnwindSafe(|| build(options, loader, &adapter)));
    panic::set_hook(hook);
    built.map_err(|payload| match payload.downcast_ref::<String>() {
        Some(reason) if !reason.starts_with("Failed to build event loop") => reason.clone(),
        _ => "the display cannot be opened".into(),
    })
}

fn adapter() -> Option<AdapterInfo> {
    let instance = Instance::new(InstanceDescriptor::new_without_display_handle_from_env());
    block_on(instance.request_adapter(&Default::default())).ok().map(|adapter| adapter.get_info())
}

fn build(options: &ExploreOptions, loader: ModelLoader, adapter: &AdapterInfo) -> App {
    let aspect = options.size.map_or(1.0, |size| size.width as f32 / size.height as f32);
    let window = Window {
        title: "bevy_dream".into(),
        resolution: ((HEIGHT as f32 * aspect.clamp(0.75, 2.0)) as u32, HEIGHT).into(),
        ..default()
    };
    // On few cores the model needs them all.
    let task_pool_options = match available_parallelism() {
        0..=4 => TaskPoolOptions::with_num_threads(1),
        _ => TaskPoolOptions::default(),
    };
    let mut app = App::new();
    app.add_plugins((
        DefaultPlugins
            .set(WindowPlugin { primary_window: Some(window), ..default() })
            .set(TaskPoolPlugin { task_pool_options })
            .set(LogPlugin { level: Level::ERROR, ..default() }),
        DreamPlugin { loader },
        ExplorerPlugin,
    ))
    .insert_resource(ClearColor(Color::BLACK))
    .insert_resource(SoftwareRendering(adapter.device_type == DeviceType::Cpu))
    .add_systems(Last, pace);
    app
}

/// Redraws when there is something new, not as often as can be.
fn pace(mut dreams: Query<&mut Running>, software: Res<SoftwareRendering>, mut settings: ResMut<WinitSettings>) {
    let next_due = dreams.iter_mut().filter_map(|mut running| running.stream.next_due()).min();
    let until_due = next_due.and_then(|due| due.checked_duration_since(Instant::now()));
    let mode = UpdateMode::Reactive {
        wait: until_due.map_or(IDLE, |wait| wait.clamp(Duration::from_millis(1), IDLE)),
        // The mouse reports hundreds of times a second: too often for a software renderer.
        react_to_device_events: !software.0,
        react_to_user_events: true,
        react_to_window_events: true,
    };
    *settings = WinitSettings { focused_mode: mode, unfocused_mode: mode };
}
