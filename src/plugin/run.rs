//! The systems between the components and the model threads.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bevy::diagnostic::Diagnostics;
use bevy::prelude::*;

use super::component::show_in;
use super::diagnostic::{NATIVE_FPS, QUEUED_FRAMES, measure_chunk};
use super::{
    Dream, DreamChunkShown, DreamControls, DreamError, DreamLoad, DreamMoved, DreamPhase, DreamPromptApplied,
    DreamRewind, DreamSave, DreamSaved, DreamScreen, DreamScript, DreamStarted, DreamStatus, ModelLoader,
};
use crate::simulate::{ControlScript, SessionOptions};
use crate::stream::{Event, Stream, StreamOptions, TimedFrame, Wake};
use crate::{Error, FrameSize, Result};

/// The frame rate is measured over this time.
const RATE_WINDOW: Duration = Duration::from_secs(2);

/// The model thread of a [`Dream`].
#[derive(Component)]
pub(super) struct Running {
    pub stream: Stream,
    /// What was last asked of it.
    asked: Dream,
    /// World and chunk of the frame on the screen.
    chunk: Option<(u64, u64)>,
    /// When which ticks were lately shown.
    shown: VecDeque<(Instant, u64)>,
}

/// Makes the model threads do what the [`Dream`]s say.
pub(super) fn follow(
    mut commands: Commands,
    mut dreams: Query<(Entity, &Dream, &mut DreamStatus, Option<&mut Running>, Option<&DreamScript>), Changed<Dream>>,
    screens: Query<(), With<DreamScreen>>,
    loader: Res<ModelLoader>,
    mut images: ResMut<Assets<Image>>,
    #[cfg(feature = "window")] proxy: Option<Res<bevy::winit::EventLoopProxyWrapper>>,
) {
    for (entity, dream, mut status, running, script) in &mut dreams {
        if !screens.contains(entity) {
            commands.entity(entity).insert(DreamScreen::new(&mut images));
        }
        let outcome = match running {
            Some(mut running) if !running.needs_new_thread(dream) => running.follow(dream, &status),
            _ => {
                #[cfg(feature = "window")]
                let wake = proxy.as_ref().map(|proxy| window_waker(proxy));
                #[cfg(not(feature = "window"))]
                let wake = None;
                *status = DreamStatus::default();
                Running::start(dream, script.map(|script| script.0.clone()), loader.clone(), wake).map(|running| {
                    commands.entity(entity).insert(running);
                })
            }
        };
        if let Err(error) = outcome {
            status.phase = DreamPhase::Failed(error.to_string());
            commands.trigger(DreamError { entity, reason: error.to_string(), fatal: true });
        }
    }
}

/// Lets the model thread wake a window that redraws only on demand.
#[cfg(feature = "window")]
fn window_waker(proxy: &bevy::winit::EventLoopProxyWrapper) -> Wake {
    let proxy = (**proxy).clone();
    // It fails only when the window is gone.
    Box::new(move || {
        proxy.send_event(bevy::winit::WinitUserEvent::WakeUp).ok();
    })
}

/// Hands the controls over.
pub(super) fn control(mut dreams: Query<(&mut DreamControls, &Running)>) {
    for (mut controls, running) in &mut dreams {
        let input = running.stream.input();
        input.hold(controls.held);
        if controls.turn != Vec2::ZERO {
            input.turn(controls.turn.x, controls.turn.y);
            controls.turn = Vec2::ZERO;
        }
    }
}

pub(super) fn rewind(rewind: On<DreamRewind>, dreams: Query<&Running>, commands: Commands) {
    obey(rewind.entity, dreams, commands, |stream| stream.rewind(rewind.time));
}

pub(super) fn save(save: On<DreamSave>, dreams: Query<&Running>, commands: Commands) {
    obey(save.entity, dreams, commands, |stream| stream.save(&save.path));
}

pub(super) fn load(load: On<DreamLoad>, dreams: Query<&Running>, commands: Commands) {
    obey(load.entity, dreams, commands, |stream| stream.load(&load.path));
}

fn obey(entity: Entity, dreams: Query<&Running>, mut commands: Commands, command: impl FnOnce(&Stream) -> Result<()>) {
    let outcome = match dreams.get(entity) {
        Ok(running) => command(&running.stream),
        Err(_) => Err(Error::input("there is no dreamed world yet")),
    };
    if let Err(error) = outcome {
        commands.trigger(DreamError { entity, reason: error.to_string(), fatal: false });
    }
}

/// Tells what the model threads told.
pub(super) fn hear(mut commands: Commands, mut dreams: Query<(Entity, &mut Dream, &mut DreamStatus, &mut Running)>) {
    for (entity, mut dream, mut status, mut running) in &mut dreams {
        let Running { stream, asked, .. } = &mut *running;
        for event in stream.events() {
            match event {
                Event::Loaded(info) => {
                    status.model = info.name;
                    status.fps = info.fps;
                }
                Event::Started { world, seed, prompt, .. } => {
                    status.phase = DreamPhase::Running;
                    status.world = world;
                    status.prompt.clone_from(&prompt);
                    commands.trigger(DreamStarted { entity, world, seed, prompt });
                }
                Event::PromptApplied { prompt, tick } => {
                    status.prompt.clone_from(&prompt);
                    commands.trigger(DreamPromptApplied { entity, prompt, tick });
                }
                Event::Moved { world, tick, prompt } => {
                    status.world = world;
                    status.prompt.clone_from(&prompt);
                    asked.prompt.clone_from(&prompt);
                    dream.bypass_change_detection().prompt.clone_from(&prompt);
                    commands.trigger(DreamMoved { entity, tick, prompt });
                }
                Event::Saved(path) => commands.trigger(DreamSaved { entity, path }),
                Event::Rejected(reason) => {
                    // Back to what is, lest a refused prompt spoils the next new world.
                    asked.prompt.clone_from(&status.prompt);
                    dream.bypass_change_detection().prompt.clone_from(&status.prompt);
                    commands.trigger(DreamError { entity, reason, fatal: false });
                }
                Event::Failed(reason) | Event::LoadFailed(reason) => {
                    status.phase = DreamPhase::Failed(reason.clone());
                    commands.trigger(DreamError { entity, reason, fatal: true });
                }
            }
        }
    }
}

/// Makes frames visible that are due.
pub(super) fn show(
    mut dreams: Query<(Entity, &mut Running, &mut DreamStatus, &DreamScreen)>,
    mut images: ResMut<Assets<Image>>,
    mut chunks: MessageWriter<DreamChunkShown>,
    mut diagnostics: Diagnostics,
) {
    let now = Instant::now();
    for (entity, mut running, mut status, screen) in &mut dreams {
        // An image is touched only for new pixels: touching it alone would upload nothing, with an error.
        let Some(frame) = running.stream.due_frame(now) else { continue };
        status.tick = frame.tick;
        status.size = UVec2::new(frame.size.width as u32, frame.size.height as u32);
        if running.note(&frame, now) {
            measure_chunk(&mut diagnostics, &frame.chunk, now);
            chunks.write(DreamChunkShown {
                dream: entity,
                world: frame.chunk.world,
                index: frame.chunk.index,
                first_tick: frame.chunk.first_tick,
                controls: frame.chunk.controls.clone(),
            });
        }
        if let Some(rate) = running.rate() {
            diagnostics.add_measurement(&NATIVE_FPS, || rate);
        }
        diagnostics.add_measurement(&QUEUED_FRAMES, || running.stream.queued() as f64);
        if let Some(mut image) = images.get_mut(&screen.0) {
            show_in(&mut image, frame.size, frame.rgba);
        }
    }
}

impl Running {
    fn start(dream: &Dream, script: Option<ControlScript>, loader: ModelLoader, wake: Option<Wake>) -> Result<Self> {
        let folder = dream.model.clone();
        let options = StreamOptions { world: session_options(dream), threads: dream.threads, script, wake };
        let stream = Stream::start(move || loader.load(&folder), options)?;
        if dream.paused {
            stream.pause(true)?;
        }
        Ok(Self { stream, asked: dream.clone(), chunk: None, shown: VecDeque::new() })
    }

    /// Whether `dream` cannot be had from this thread.
    fn needs_new_thread(&self, dream: &Dream) -> bool {
        self.stream.is_finished() || self.asked.model != dream.model || self.asked.threads != dream.threads
    }

    fn follow(&mut self, dream: &Dream, status: &DreamStatus) -> Result<()> {
        let asked = std::mem::replace(&mut self.asked, dream.clone());
        let failed = matches!(status.phase, DreamPhase::Failed(_));
        if failed || asked.seed != dream.seed || asked.size != dream.size {
            self.stream.new_world(session_options(dream))?;
        } else if asked.prompt != dream.prompt {
            self.stream.set_prompt(&dream.prompt)?;
        }
        if let Some(settings) = dream.settings.filter(|_| asked.settings != dream.settings) {
            self.stream.set_settings(settings)?;
        }
        if asked.paused != dream.paused {
            self.stream.pause(dream.paused)?;
        }
        Ok(())
    }

    /// Notes a frame shown; whether it is the first of its chunk that is.
    fn note(&mut self, frame: &TimedFrame, now: Instant) -> bool {
        let chunk = Some((frame.chunk.world, frame.chunk.index));
        let before = std::mem::replace(&mut self.chunk, chunk);
        if before.is_none_or(|(world, _)| world != frame.chunk.world) {
            self.shown.clear();
        }
        self.shown.push_back((now, frame.tick));
        while self.shown.front().is_some_and(|(time, _)| now - *time > RATE_WINDOW) {
            self.shown.pop_front();
        }
        before != chunk
    }

    /// Frames per second lately.
    fn rate(&self) -> Option<f64> {
        let ((from, first), (to, last)) = (self.shown.front()?, self.shown.back()?);
        (last > first).then(|| (last - first) as f64 / (*to - *from).as_secs_f64())
    }
}

fn session_options(dream: &Dream) -> SessionOptions {
    SessionOptions {
        seed: dream.seed,
        prompt: dream.prompt.clone(),
        start: None,
        size: dream.size.map(|size| FrameSize::new(size.x as usize, size.y as usize)),
        settings: dream.settings,
    }
}
