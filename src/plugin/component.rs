//! The components of a dreamed world.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bevy::asset::RenderAssetUsages;
use bevy::prelude::*;

use crate::model::Settings;
use crate::simulate::{ControlScript, TimelineOptions};
use crate::{Controls, Frame, FrameSize};

/// A dreamed world as it is wanted. Change a field and the world follows; despawn it and the world ends.
///
/// A new `model`, `threads` or `past` loads anew, a new `seed`, `size` or `start` starts a new world, a new `prompt` alone goes on
/// in the present one. After a failure any change starts a new world. A value that cannot be used is told by
/// [`DreamError`](super::DreamError) and put back.
#[derive(Component, Clone, Debug, Default, PartialEq, Reflect)]
#[reflect(Component, Default, Debug, PartialEq)]
#[require(DreamControls, DreamStatus)]
pub struct Dream {
    /// The model's folder.
    pub model: PathBuf,
    /// What the world looks like.
    pub prompt: String,
    /// Seed of all randomness: the same seed, prompt and controls give the same frames.
    pub seed: u64,
    /// A picture to start from, of any size; see [`video::load_image`](crate::video::load_image).
    pub start: Option<Arc<Frame>>,
    /// Whether the world stands still.
    pub paused: bool,
    /// Worker threads of the model; [as many as usual](crate::kernel::default_threads) when `None`. Several worlds at once are faster with a few each.
    pub threads: Option<usize>,
    /// How much of the past is kept to go back to, which bounds the memory it takes.
    pub past: TimelineOptions,
    /// Frame size in pixels; the model's own when `None`.
    pub size: Option<UVec2>,
    /// Settings; those the model is shipped with when `None`.
    pub settings: Option<Settings>,
}

impl Dream {
    /// A world of the model in folder `model`.
    pub fn new(model: impl Into<PathBuf>, prompt: impl Into<String>) -> Self {
        Self { model: model.into(), prompt: prompt.into(), ..Default::default() }
    }
}

/// What the player does in a [`Dream`]: written by the game, read once an update. Any values may be written: those that are
/// no numbers count as none, and too large ones as the largest.
#[derive(Component, Clone, Copy, Debug, Default, PartialEq, Reflect)]
#[reflect(Component, Default, Debug, PartialEq)]
pub struct DreamControls {
    /// The controls held; their look is a steady turn in degrees a tick.
    pub held: Controls,
    /// Degrees turned since the last update: yaw (right positive) and pitch (up positive). Set back to zero when read.
    pub turn: Vec2,
}

/// Controls and prompts that play in place of [`DreamControls`] until their last tick, in the first world of a [`Dream`]
/// that is spawned with it.
#[derive(Component, Clone, Debug, PartialEq, Reflect)]
#[reflect(Component, Debug, PartialEq)]
pub struct DreamScript(pub ControlScript);

/// The image that shows a [`Dream`], for sprites, user interfaces and materials. It is added where it is absent, and
/// lives on the graphics card only, black before the first frame.
#[derive(Component, Clone, Debug, Reflect)]
#[reflect(Component, Debug)]
pub struct DreamScreen(pub Handle<Image>);

impl DreamScreen {
    /// A new image, for sprites and user interfaces.
    pub fn new(images: &mut Assets<Image>) -> Self {
        Self::of_size(images, UVec2::ONE)
    }

    /// A new image for materials: they keep the texture that an image has when they are first drawn, and a texture is made
    /// anew for frames of another size. So it must have theirs from the beginning.
    pub fn of_size(images: &mut Assets<Image>, size: UVec2) -> Self {
        // 8-bit sRGB. The pixels are moved to the graphics card, not kept beside it.
        let mut image = Image { asset_usage: RenderAssetUsages::RENDER_WORLD, ..Image::default_uninit() };
        let size = FrameSize::new(size.x as usize, size.y as usize);
        show_in(&mut image, size, Frame::black(size).to_rgba());
        Self(images.add(image))
    }
}

/// A [`Dream`] as it is.
#[derive(Component, Clone, Debug, Default, PartialEq, Reflect)]
#[reflect(Component, Default, Debug, PartialEq)]
pub struct DreamStatus {
    /// Whether it runs.
    pub phase: DreamPhase,
    /// The model's name.
    pub model: String,
    /// The model's frames per second.
    pub fps: f32,
    /// Counts the worlds since the model was loaded, from 1.
    pub world: u64,
    /// The prompt in force.
    pub prompt: String,
    /// The settings in force, none before the model is loaded.
    pub settings: Option<Settings>,
    /// The tick of the frame on the screen.
    pub tick: u64,
    /// The size of the frame on the screen, zero before the first.
    pub size: UVec2,
    /// The part that has been read from disk, 0 to 1, of what it waits for: the model, or what reads a prompt for it. Nothing if
    /// that takes less than a second.
    pub reading: Option<f32>,
    /// Whether it is being recorded.
    pub recording: bool,
    /// The lines that were left by going back, the newest last: the ticks of each that the present line does not share.
    pub branches: Vec<Range<u64>>,
}

/// Whether a [`Dream`] runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Reflect)]
pub enum DreamPhase {
    /// The model is being loaded.
    #[default]
    Loading,
    /// Frames are made.
    Running,
    /// The world stands still.
    Paused,
    /// There is no world, for this reason.
    Failed(String),
}

/// Shows `rgba` in `image`.
pub(super) fn show_in(image: &mut Image, size: FrameSize, rgba: Vec<u8>) {
    let extent = &mut image.texture_descriptor.size;
    (extent.width, extent.height) = (size.width as u32, size.height as u32);
    image.data = Some(rgba);
}
