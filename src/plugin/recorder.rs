//! Recording any game for training: pictures of a camera and what the player did, in the shards of [`dataset`](crate::dataset).
//!
//! ```no_run
//! # use bevy::prelude::*;
//! # use bevy_dream::plugin::recorder::{DreamRecorder, DreamRecorderPlugin, DreamTake};
//! fn setup(mut commands: Commands) {
//!     let actions = vec!["forward".into(), "fire".into()];
//!     commands.spawn((Camera2d, DreamRecorder { actions, ..DreamRecorder::new("data/game", UVec2::splat(64)) }));
//! }
//!
//! /// Twenty times a second.
//! fn take(keys: Res<ButtonInput<KeyCode>>, recorder: Single<Entity, With<DreamRecorder>>, mut commands: Commands) {
//!     let action = [KeyCode::KeyW, KeyCode::Space].map(|key| f32::from(u8::from(keys.pressed(key)))).into();
//!     commands.trigger(DreamTake { entity: *recorder, action });
//! }
//!
//! App::new()
//!     .add_plugins((DefaultPlugins, DreamRecorderPlugin))
//!     .insert_resource(Time::<Fixed>::from_hz(20.0))
//!     .add_systems(Startup, setup)
//!     .add_systems(FixedUpdate, take)
//!     .run();
//! ```
//!
//! The pictures are read back from the graphics card while the game goes on, and written by a thread of their own.

#[cfg(test)]
mod tests;

use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bevy::camera::RenderTarget;
use bevy::ecs::lifecycle::HookContext;
use bevy::ecs::reflect::ReflectEvent;
use bevy::ecs::world::DeferredWorld;
use bevy::prelude::*;
use bevy::render::gpu_readback::{Readback, ReadbackComplete};
use bevy::render::render_resource::{TextureFormat, TextureUsages};
use crossbeam_channel::{Receiver, Sender, unbounded};

use super::DreamError;
use super::event::Tell;
use crate::controls::{CONTROL_NAMES, TICKS_PER_SECOND};
use crate::dataset::{CaptionSet, EpisodeMeta, ShardWriter, check_action};
use crate::{Error, Frame, FrameSize, Result};

/// Bytes that the rows of a picture from the graphics card are a multiple of.
const ROW_ALIGNMENT: usize = 256;

/// Records every [`DreamRecorder`].
pub struct DreamRecorderPlugin;

impl Plugin for DreamRecorderPlugin {
    fn build(&self, app: &mut App) {
        app.add_message::<DreamError>()
            .init_resource::<Writers>()
            .add_systems(First, (end_shots, hear))
            .add_observer(take)
            .add_observer(keep);
    }
}

/// On a camera: what it sees goes to a picture instead of the window, and at every [`DreamTake`] to an episode. Give the
/// window a camera of its own.
///
/// It begins with the first picture that is not black. An episode is written when it is complete, and when the recorder goes,
/// while the game goes on; the end of the game waits for it. A folder may already hold shards. What cannot
/// be written is told by a [`DreamError`] of this entity, and is the end of the recording. Changes of its fields count for the next
/// recording.
#[derive(Component, Clone, Debug, PartialEq, Reflect)]
#[reflect(Component, Debug, PartialEq)]
#[component(on_add = begin, on_remove = end)]
pub struct DreamRecorder {
    /// The folder of the shards.
    pub folder: PathBuf,
    /// The pictures' size in pixels: for training, a multiple of the model's patch.
    pub size: UVec2,
    /// Frames of an episode.
    pub frames: usize,
    /// Frames a second, as often as the game triggers [`DreamTake`].
    pub fps: f32,
    /// What the numbers of a [`DreamTake::action`] are. Those called as in [`CONTROL_NAMES`] are these controls for a model
    /// trained on the recording; what else a game has becomes its [`Controls::extra`](crate::Controls::extra).
    pub actions: Vec<String>,
    /// What is to be seen, in words: a prompt that gives such pictures. Empty for none.
    pub caption: String,
}

impl DreamRecorder {
    /// Records into `folder`: episodes of 200 frames, 20 a second, without words, whose actions are
    /// [`Controls::to_vector`](crate::Controls::to_vector).
    pub fn new(folder: impl Into<PathBuf>, size: UVec2) -> Self {
        let actions = CONTROL_NAMES.map(Into::into).into();
        Self { folder: folder.into(), size, frames: 200, fps: TICKS_PER_SECOND, actions, caption: String::new() }
    }
}

/// Trigger it once a tick: the picture of this update becomes a frame.
#[derive(EntityEvent, Clone, Debug, PartialEq, Reflect)]
#[reflect(Event, Debug, Clone, PartialEq)]
pub struct DreamTake {
    /// The [`DreamRecorder`].
    pub entity: Entity,
    /// What led to the frame: the numbers that [`DreamRecorder::actions`] names, by [`check_action`]. With others the frame is
    /// not recorded, which a [`DreamError`] tells once until it is again, and what follows is another episode.
    pub action: Vec<f32>,
}

/// A recording under way.
#[derive(Component)]
struct Recording {
    /// As it was when it began, at least a pixel large.
    recorder: DreamRecorder,
    target: Handle<Image>,
    /// The frames of the episode so far, and what led to them.
    episode: Vec<(Frame, Vec<f32>)>,
    /// Shots taken, and the number of the one whose picture comes next.
    shots: u64,
    next: u64,
    /// Whether the camera has drawn something: at first its shaders are still compiled.
    drawn: bool,
    /// Whether the last action was refused.
    refused: bool,
    episodes: Sender<Vec<(Frame, Vec<f32>)>>,
    /// Dropped after the sender: it waits for who reads from it.
    writer: Arc<Writer>,
}

/// The thread that writes the episodes of `recorder`.
struct Writer {
    recorder: Entity,
    errors: Receiver<String>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writer {
    /// Nothing that was recorded is lost.
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Those that are still writing, so that no recording waits for its own when it ends in the middle of the game.
#[derive(Resource, Default)]
struct Writers(Vec<Arc<Writer>>);

/// A picture on its way from the graphics card.
#[derive(Component)]
struct Shot {
    recorder: Entity,
    number: u64,
    action: Vec<f32>,
}

fn begin(mut world: DeferredWorld, HookContext { entity, .. }: HookContext) {
    let Some(mut recorder) = world.get::<DreamRecorder>(entity).cloned() else { return };
    recorder.size = recorder.size.max(UVec2::ONE);
    let mut image = Image::new_target_texture(recorder.size.x, recorder.size.y, TextureFormat::Rgba8UnormSrgb, None);
    image.texture_descriptor.usage |= TextureUsages::COPY_SRC;
    let target = world.resource_mut::<Assets<Image>>().add(image);
    let (episodes, inbox) = unbounded();
    let (failed, errors) = unbounded();
    let began = recorder.clone();
    let thread = thread::spawn(move || {
        if let Err(error) = write(&began, &inbox) {
            failed.send(error.to_string()).ok();
        }
    });
    let writer = Arc::new(Writer { recorder: entity, errors, thread: Some(thread) });
    world.resource_mut::<Writers>().0.push(Arc::clone(&writer));
    let recording = Recording {
        recorder,
        target: target.clone(),
        episode: vec![],
        shots: 0,
        next: 0,
        drawn: false,
        refused: false,
        episodes,
        writer,
    };
    world.commands().entity(entity).insert((RenderTarget::Image(target.into()), recording));
}

fn end(mut world: DeferredWorld, HookContext { entity, .. }: HookContext) {
    world.commands().entity(entity).try_remove::<(Recording, RenderTarget)>();
}

impl Recording {
    fn end_episode(&mut self) {
        // A writer that is gone has told why.
        self.episodes.send(mem::take(&mut self.episode)).ok();
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.end_episode();
    }
}

/// Writes the episodes that come.
fn write(recorder: &DreamRecorder, inbox: &Receiver<Vec<(Frame, Vec<f32>)>>) -> Result<()> {
    let mut shards = ShardWriter::after(&recorder.folder)?;
    for episode in inbox.iter().filter(|episode| !episode.is_empty()) {
        let texts = Vec::from_iter((!recorder.caption.is_empty()).then(|| recorder.caption.clone()));
        let captions = if texts.is_empty() { vec![] } else { vec![CaptionSet { tick: 0, texts }] };
        let (frames, actions): (Vec<_>, Vec<_>) = episode.into_iter().unzip();
        let meta = EpisodeMeta {
            seed: 0,
            width: recorder.size.x as usize,
            height: recorder.size.y as usize,
            fps: recorder.fps,
            scenes: Vec::new(),
            captions,
            actions: recorder.actions.clone(),
            generator: "recorder-1".into(),
            policy: "player".into(),
        };
        shards.append(&meta, &frames, &actions, &[])?;
        // A shard an episode: a game that is killed loses one at most.
        shards.close()?;
    }
    Ok(())
}

fn take(take: On<DreamTake>, mut recordings: Query<&mut Recording>, mut commands: Commands) {
    let DreamTake { entity, action } = &*take;
    let Ok(mut recording) = recordings.get_mut(*entity) else { return };
    let number = recording.shots;
    recording.shots += 1;
    let usable = match (action.len(), recording.recorder.actions.len()) {
        (given, named) if given != named => {
            Err(Error::input(format!("an action of {given} numbers cannot be recorded: the recorder names {named}")))
        }
        _ => check_action(action),
    };
    let before = mem::replace(&mut recording.refused, usable.is_err());
    match usable {
        Ok(()) => {
            let shot = Shot { recorder: *entity, number, action: action.clone() };
            commands.spawn((shot, Readback::texture(recording.target.clone())));
        }
        Err(error) if !before => {
            let reason = format!("{error}; frames are left out until it is as it should be");
            commands.tell(DreamError { entity: *entity, reason, fatal: false });
        }
        Err(_) => {}
    }
}

/// A shot asks for one picture, that of the update it was taken in.
fn end_shots(shots: Query<Entity, (With<Shot>, With<Readback>)>, mut commands: Commands) {
    for shot in &shots {
        commands.entity(shot).remove::<Readback>();
    }
}

/// Puts a picture that arrived into the episode.
fn keep(
    done: On<ReadbackComplete>,
    shots: Query<&Shot>,
    mut recordings: Query<&mut Recording>,
    mut commands: Commands,
) {
    let Ok(shot) = shots.get(done.entity) else { return };
    commands.entity(done.entity).despawn();
    let Ok(mut recording) = recordings.get_mut(shot.recorder) else { return };
    if shot.number < recording.next {
        return;
    }
    // After a picture that did not come, what follows is no continuation.
    let goes_on = shot.number == recording.next;
    recording.next = shot.number + 1;
    if !goes_on {
        recording.end_episode();
    }
    let UVec2 { x: width, y: height } = recording.recorder.size;
    let size = FrameSize::new(width as usize, height as usize);
    if let Some(rgb) = unpad(&done.data, size) {
        recording.drawn |= rgb.iter().any(|&part| part > 0);
        if recording.drawn {
            recording.episode.push((Frame { size, rgb }, shot.action.clone()));
        }
    }
    if recording.episode.len() >= recording.recorder.frames {
        recording.end_episode();
    }
}

/// RGB of the padded RGBA rows.
fn unpad(rgba: &[u8], size: FrameSize) -> Option<Vec<u8>> {
    let row = size.width * 4;
    let padded = row.next_multiple_of(ROW_ALIGNMENT);
    let rows = rgba.chunks(padded).take(size.height).map(|padded| padded.get(..row));
    let mut rgb = Vec::with_capacity(size.pixels() * 3);
    for row in rows {
        rgb.extend(row?.chunks_exact(4).flat_map(|pixel| &pixel[..3]));
    }
    (rgb.len() == size.pixels() * 3).then_some(rgb)
}

fn hear(mut writers: ResMut<Writers>, recordings: Query<&Recording>, mut commands: Commands) {
    writers.0.retain(|writer| {
        let finished = writer.thread.as_ref().is_none_or(JoinHandle::is_finished);
        if let Ok(reason) = writer.errors.try_recv() {
            let entity = writer.recorder;
            commands.tell(DreamError { entity, reason, fatal: true });
            if recordings.get(entity).is_ok_and(|recording| Arc::ptr_eq(&recording.writer, writer)) {
                commands.entity(entity).remove::<DreamRecorder>();
            }
        }
        !finished
    });
}
