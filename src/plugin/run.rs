//! The systems between the components and the model threads.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bevy::diagnostic::Diagnostics;
use bevy::prelude::*;

use super::component::show_in;
use super::diagnostic::{NATIVE_FPS, QUEUED_FRAMES, Taken, measure_chunk, measure_spacing};
use super::event::Tell;
use super::wish::Wishes;
use super::{
    Dream, DreamChunkShown, DreamControls, DreamError, DreamMoved, DreamPhase, DreamPromptApplied, DreamRecorded,
    DreamRecovered, DreamSaved, DreamScreen, DreamScript, DreamStarted, DreamStatus, ModelLoader,
};
use crate::checkpoint::Progress;
use crate::model::Settings;
use crate::simulate::{ControlScript, SessionOptions, check_settings};
use crate::stream::{Event, Stream, StreamOptions, StreamThread, TimedFrame, Wake};
use crate::{FrameSize, Result};

/// The frame rate is measured over this time.
const RATE_WINDOW: Duration = Duration::from_secs(2);

/// The model thread of a [`Dream`].
#[derive(Component)]
pub(super) struct Running {
    pub stream: Stream,
    /// What was asked of it.
    wishes: Wishes,
    /// What was asked when the present world began.
    began: Dream,
    /// Whether the world stands still.
    paused: bool,
    /// Why there is no world, until there is one again.
    failure: Option<String>,
    /// The settings that the model is shipped with, once it is loaded.
    shipped: Option<Settings>,
    /// World and chunk of the frame on the screen.
    chunk: Option<(u64, u64)>,
    /// When which ticks were lately shown.
    shown: VecDeque<(Instant, u64)>,
}

/// The model threads that have not ended, lest a world that goes in the middle of the game makes it wait for a recording or a save.
/// The end of the game does wait.
#[derive(Resource, Default)]
pub(super) struct Threads(Vec<StreamThread>);

/// Makes the model threads do what the [`Dream`]s say.
pub(super) fn follow(
    mut commands: Commands,
    mut dreams: Query<
        (Entity, &mut Dream, &mut DreamStatus, Option<&mut Running>, Option<&DreamScript>),
        Changed<Dream>,
    >,
    screens: Query<(), With<DreamScreen>>,
    loader: Res<ModelLoader>,
    taken: Res<Taken>,
    mut threads: ResMut<Threads>,
    mut images: ResMut<Assets<Image>>,
    #[cfg(feature = "window")] proxy: Option<Res<bevy::winit::EventLoopProxyWrapper>>,
) {
    let _lap = taken.lap();
    for (entity, mut dream, mut status, running, script) in &mut dreams {
        // A refused setting that is put back is no other change.
        let dream = dream.bypass_change_detection();
        if !screens.contains(entity) {
            commands.entity(entity).insert(DreamScreen::new(&mut images));
        }
        let outcome = match running {
            Some(mut running) if !running.needs_new_thread(dream) => {
                if let Some(Err(error)) = dream.settings.map(check_settings) {
                    dream.settings = running.wishes.last().settings;
                    commands.tell(DreamError { entity, reason: error.to_string(), fatal: false });
                }
                running.follow(dream, &mut status)
            }
            _ => {
                #[cfg(feature = "window")]
                let wake = proxy.as_ref().map(|proxy| window_waker(proxy));
                #[cfg(not(feature = "window"))]
                let wake = None;
                let failure = match std::mem::take(&mut *status).phase {
                    DreamPhase::Failed(reason) => Some(reason),
                    _ => None,
                };
                Running::start(dream, script.map(|script| script.0.clone()), loader.clone(), wake).map(|running| {
                    threads.0.retain(|thread| !thread.is_finished());
                    threads.0.push(running.stream.thread());
                    commands.entity(entity).insert(Running { failure, ..running });
                })
            }
        };
        if let Err(error) = outcome {
            status.phase = DreamPhase::Failed(error.to_string());
            commands.tell(DreamError { entity, reason: error.to_string(), fatal: true });
        }
    }
}

/// Lets the model thread wake a window that redraws only on demand.
#[cfg(feature = "window")]
fn window_waker(proxy: &bevy::winit::EventLoopProxyWrapper) -> Wake {
    let proxy = (**proxy).clone();
    // It fails only when the window is gone.
    std::sync::Arc::new(move || {
        proxy.send_event(bevy::winit::WinitUserEvent::WakeUp).ok();
    })
}

/// Hands the controls over.
pub(super) fn control(mut dreams: Query<(&mut DreamControls, &Running)>, taken: Res<Taken>) {
    let _lap = taken.lap();
    for (mut controls, running) in &mut dreams {
        let input = running.stream.input();
        input.hold(controls.held);
        if controls.turn != Vec2::ZERO {
            input.turn(controls.turn.x, controls.turn.y);
            controls.turn = Vec2::ZERO;
        }
    }
}

/// Tells what the model threads told.
pub(super) fn hear(
    mut commands: Commands,
    mut dreams: Query<(Entity, &mut Dream, &mut DreamStatus, &mut Running)>,
    taken: Res<Taken>,
) {
    let _lap = taken.lap();
    for (entity, mut dream, mut status, mut running) in &mut dreams {
        let Running { stream, wishes, began, paused, failure, shipped, shown, .. } = &mut *running;
        let wish = dream.bypass_change_detection();
        let finished = stream.is_finished();
        for (obeyed, event) in stream.told() {
            wishes.obey(obeyed);
            match event {
                Event::Reading(progress) => {
                    let part = |Progress { done, total }| done as f32 / total.max(1) as f32;
                    status.reading = progress.map(part);
                }
                Event::Loaded(info) => {
                    status.model = info.name;
                    status.fps = info.fps;
                    *shipped = Some(info.settings);
                    status.settings = wishes.last().settings.or(*shipped);
                }
                Event::Started { world, seed, prompt, .. } => {
                    status.phase = if *paused { DreamPhase::Paused } else { DreamPhase::Running };
                    status.world = world;
                    status.prompt.clone_from(&prompt);
                    began.clone_from(wishes.obeyed());
                    commands.tell(DreamStarted { entity, world, seed, prompt });
                    if let Some(reason) = failure.take() {
                        commands.tell(DreamRecovered { entity, reason });
                    }
                }
                Event::Paused(now) => {
                    *paused = now;
                    // The time that it stands still is no spacing.
                    shown.clear();
                    match status.phase {
                        DreamPhase::Running if now => status.phase = DreamPhase::Paused,
                        DreamPhase::Paused if !now => status.phase = DreamPhase::Running,
                        _ => {}
                    }
                }
                Event::PromptApplied { prompt, tick } => {
                    status.prompt.clone_from(&prompt);
                    wishes.settle(wish, |dream| &mut dream.prompt, &prompt);
                    commands.tell(DreamPromptApplied { entity, prompt, tick });
                }
                Event::Moved { world, tick, prompt, settings } => {
                    status.world = world;
                    status.prompt.clone_from(&prompt);
                    status.settings = Some(settings);
                    wishes.settle(wish, |dream| &mut dream.prompt, &prompt);
                    if wishes.last().settings.is_some() {
                        wishes.settle(wish, |dream| &mut dream.settings, &Some(settings));
                    }
                    commands.tell(DreamMoved { entity, tick, prompt });
                }
                Event::Branches(branches) => status.branches = branches,
                Event::Recording(now) => status.recording = now,
                Event::Recorded(path) => commands.tell(DreamRecorded { entity, path }),
                Event::Saved(path) => commands.tell(DreamSaved { entity, path }),
                Event::Rejected(reason) => {
                    // Back to what is, lest a refused value spoils the next new world.
                    wishes.settle(wish, |dream| &mut dream.prompt, &status.prompt);
                    wishes.settle(wish, |dream| &mut dream.seed, &began.seed);
                    wishes.settle(wish, |dream| &mut dream.size, &began.size);
                    wishes.settle(wish, |dream| &mut dream.start, &began.start);
                    commands.tell(DreamError { entity, reason, fatal: false });
                }
                Event::Failed(reason) | Event::Ended(reason) => {
                    end(entity, reason, &mut status, failure, &mut commands);
                }
            }
        }
        if finished && !matches!(status.phase, DreamPhase::Failed(_)) {
            end(entity, "the model thread has ended".into(), &mut status, failure, &mut commands);
        }
    }
}

/// There is no world any more, for this reason.
fn end(
    entity: Entity,
    reason: String,
    status: &mut DreamStatus,
    failure: &mut Option<String>,
    commands: &mut Commands,
) {
    status.phase = DreamPhase::Failed(reason.clone());
    *failure = Some(reason.clone());
    commands.tell(DreamError { entity, reason, fatal: true });
}

/// Makes frames visible that are due.
pub(super) fn show(
    mut dreams: Query<(Entity, &mut Running, &mut DreamStatus, &DreamScreen)>,
    mut images: ResMut<Assets<Image>>,
    mut commands: Commands,
    mut diagnostics: Diagnostics,
    taken: Res<Taken>,
) {
    let _lap = taken.lap();
    let now = Instant::now();
    for (entity, mut running, mut status, screen) in &mut dreams {
        // An image is touched only for new pixels: touching it alone would upload nothing, with an error.
        let Some(frame) = running.stream.due_frame(now) else { continue };
        status.tick = frame.tick;
        status.size = UVec2::new(frame.size.width as u32, frame.size.height as u32);
        let (new_chunk, spacing) = running.note(&frame, now);
        if let Some(spacing) = spacing.filter(|_| status.fps > 0.0) {
            measure_spacing(&mut diagnostics, spacing, Duration::from_secs_f32(1.0 / status.fps));
        }
        if new_chunk && !frame.chunk.controls.is_empty() {
            measure_chunk(&mut diagnostics, &frame.chunk, now);
            commands.tell(DreamChunkShown {
                entity,
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
        let options =
            StreamOptions { world: session_options(dream), threads: dream.threads, past: dream.past, script, wake };
        let stream = Stream::start(move || loader.load(&folder), options)?;
        if dream.paused {
            stream.pause(true)?;
        }
        Ok(Self {
            stream,
            began: dream.clone(),
            wishes: Wishes::new(dream.clone()),
            paused: false,
            failure: None,
            shipped: None,
            chunk: None,
            shown: VecDeque::new(),
        })
    }

    /// Whether `dream` cannot be had from this thread.
    fn needs_new_thread(&self, dream: &Dream) -> bool {
        let asked = self.wishes.last();
        self.stream.is_finished()
            || asked.model != dream.model
            || asked.threads != dream.threads
            || asked.past != dream.past
    }

    fn follow(&mut self, dream: &Dream, status: &mut DreamStatus) -> Result<()> {
        let asked = self.wishes.last().clone();
        let failed = matches!(status.phase, DreamPhase::Failed(_));
        if failed || asked.seed != dream.seed || asked.size != dream.size || asked.start != dream.start {
            self.stream.new_world(session_options(dream))?;
        } else if asked.prompt != dream.prompt {
            self.stream.set_prompt(&dream.prompt)?;
        }
        if let Some(settings) = dream.settings.or(self.shipped).filter(|_| asked.settings != dream.settings) {
            self.stream.set_settings(settings)?;
            status.settings = Some(settings);
        }
        if asked.paused != dream.paused {
            self.stream.pause(dream.paused)?;
        }
        self.wishes.ask(dream.clone(), self.stream.sent());
        Ok(())
    }

    /// Notes a frame shown: whether it is the first of its chunk that is, and how long after the one before of this walk.
    fn note(&mut self, frame: &TimedFrame, now: Instant) -> (bool, Option<Duration>) {
        let chunk = Some((frame.chunk.world, frame.chunk.index));
        let before = std::mem::replace(&mut self.chunk, chunk);
        if before.is_none_or(|(world, _)| world != frame.chunk.world) {
            self.shown.clear();
        }
        let spacing = self.shown.back().map(|(before, _)| now - *before).filter(|_| !self.paused);
        self.shown.push_back((now, frame.tick));
        while self.shown.front().is_some_and(|(time, _)| now - *time > RATE_WINDOW) {
            self.shown.pop_front();
        }
        (before != chunk, spacing)
    }

    /// Frames per second lately.
    fn rate(&self) -> Option<f64> {
        let ((from, first), (to, last)) = (self.shown.front()?, self.shown.back()?);
        (last > first).then(|| (last - first) as f64 / (*to - *from).as_secs_f64())
    }
}

pub(super) fn session_options(dream: &Dream) -> SessionOptions {
    SessionOptions {
        seed: dream.seed,
        prompt: dream.prompt.clone(),
        start: dream.start.as_deref().cloned(),
        size: dream.size.map(|size| FrameSize::new(size.x as usize, size.y as usize)),
        settings: dream.settings,
    }
}
