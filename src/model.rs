//! The [`WorldModel`] trait: what the simulator needs of a model, whatever its family.
//!
//! A [`WorldModel`] is shared, immutable weights. [`WorldModel::open`] starts a [`Rollout`], which holds
//! one world's memory (KV cache, decoder memory) and makes it grow chunk by chunk.

pub mod action;
pub mod cache;
pub mod config;
pub mod dit;
mod flop;
pub mod flow;
mod interrupt;
pub mod patch;
pub mod reproject;
pub mod sampler;
mod state;
pub mod text;
pub mod trunk;
pub mod vcn;
pub mod views;
mod warp;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use interrupt::Interrupt;
use serde::{Deserialize, Serialize};
pub(crate) use state::Part;
pub use state::RolloutState;

use crate::{Controls, Frame, FrameSize, Result};

/// Facts about a model that do not change while it is loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The family whose code runs it, for instance `dream`.
    pub family: String,
    /// A name for people.
    pub name: String,
    /// SHA-256 over the config and the weights, in hexadecimal: saves and replays of other weights are refused.
    pub sha256: String,
    /// Native frames per second; one frame is one tick of the controls.
    pub fps: f32,
    /// Frames made by one [`Rollout::step`].
    pub frames_per_chunk: usize,
    /// The size the model was trained at.
    pub default_size: FrameSize,
    /// Width and height must be multiples of this many pixels.
    pub size_multiple: usize,
    /// Number of weights.
    pub parameters: usize,
    /// What a user should know of the rights to it.
    pub notice: Option<String>,
    /// Whether it reads prompts.
    pub reads_text: bool,
    /// Whether it is told that a button is held; if not, it is told when the teacher's player would act.
    pub holds_buttons: bool,
    /// What it is told of the player.
    pub controls: Heeded,
    /// Settings the model is shipped with.
    pub settings: Settings,
}

/// The controls that a model heeds, by their names ([`CONTROL_NAMES`](crate::controls::CONTROL_NAMES) and its own actions), and
/// what each is to it. Nothing else that a player does reaches it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Heeded(pub BTreeMap<String, String>);

impl Heeded {
    /// These pairs of a control and what it is to the model. What a control is in several ways is joined.
    pub fn new<A: Into<String>, B: AsRef<str>>(pairs: impl IntoIterator<Item = (A, B)>) -> Self {
        let mut heeded = BTreeMap::<String, String>::new();
        for (control, meaning) in pairs {
            let all = heeded.entry(control.into()).or_default();
            if !all.is_empty() {
                all.push_str(", ");
            }
            all.push_str(meaning.as_ref());
        }
        Self(heeded)
    }
}

/// What a user may change while a world runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "bevy", derive(bevy::prelude::Reflect))]
pub struct Settings {
    /// Denoising steps per chunk, 1 to 64.
    pub steps: usize,
    /// Denoising steps for a chunk that has no past.
    pub first_steps: usize,
    /// How much a chunk that has no past follows the prompt: the scale of classifier-free guidance (Ho & Salimans
    /// 2022), 1 (none) to 16. Above 1 its denoising takes twice as long, and our own model guides later chunks, too.
    pub guidance: f32,
    /// Noise level at which the past is remembered, 0 (as made) to 0.5.
    pub context_noise: f32,
}

/// Where one chunk's time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct StageTimes {
    /// Turning the last frame to where the camera goes, and encoding it: our own model's.
    pub foresee: Duration,
    /// Denoising steps.
    pub denoise: Duration,
    /// Latents to pixels.
    pub decode: Duration,
    /// Writing the finished chunk to the cache, off the path to the screen.
    pub commit: Duration,
}

/// Standard normal noise for one chunk, addressed by step so that it does not depend on the order of calls.
pub trait NoiseSource {
    /// Fills `out` with the noise of `step` of the present chunk. Step 0 is the start of the diffusion,
    /// later steps are for samplers that add noise again, [`CONTEXT_NOISE_STEP`] is the context noise.
    fn fill(&self, step: u32, out: &mut [f32]);
}

/// The [`NoiseSource`] step that perturbs a finished latent before it is remembered.
pub const CONTEXT_NOISE_STEP: u32 = u32::MAX;

/// Shared, immutable weights of a world model.
pub trait WorldModel: Send + Sync {
    /// Facts about this model.
    fn info(&self) -> &ModelInfo;

    /// Billions of floating-point operations (a multiplication and an addition are two) that one chunk of a world with a
    /// full memory takes, all stages together.
    fn gflop_per_chunk(&self, size: FrameSize, settings: Settings) -> f64;

    /// Starts a world of its own memory, with no past and the empty prompt.
    ///
    /// # Errors
    /// [`crate::Error::Input`] when the model cannot make frames of this size.
    fn open(self: Arc<Self>, size: FrameSize) -> Result<Box<dyn Rollout>>;
}

/// One world's memory, growing chunk by chunk.
pub trait Rollout: Send {
    /// The size of the frames it makes.
    fn size(&self) -> FrameSize;

    /// The prompt for the chunks to come. The past is kept.
    fn set_prompt(&mut self, prompt: &str) -> Result<()>;

    /// The settings for the chunks to come; nothing to do for a model that has none.
    fn set_settings(&mut self, _settings: Settings) {}

    /// What may interrupt the steps to come, of which a model asks before every pass through its network; nothing to do for a
    /// model that is always quick.
    fn watch(&mut self, _interrupt: Interrupt) {}

    /// Appends true frames to the past: a whole number of chunks with their controls, or one image
    /// (one frame, one control), which counts as a still chunk.
    ///
    /// # Errors
    /// [`crate::Error::Input`] when a frame has another size or the counts do not fit.
    fn observe(&mut self, frames: &[Frame], controls: &[Controls], noise: &dyn NoiseSource) -> Result<()>;

    /// Denoises and decodes the next chunk under `controls` (one per frame). The chunk is not part of the
    /// past before [`Rollout::commit`], so that it reaches the screen first.
    ///
    /// # Errors
    /// [`crate::Error::Interrupted`] when what it [watches](Rollout::watch) is raised: the world is as it was before.
    fn step(&mut self, controls: &[Controls], noise: &dyn NoiseSource) -> Result<Vec<Frame>>;

    /// Makes the chunk of the last [`Rollout::step`] part of the past; nothing to do when there is none.
    fn commit(&mut self, noise: &dyn NoiseSource) -> Result<()>;

    /// The frames as the video compression network alone gives them back, encoded and decoded from a fresh
    /// start: the bound on how well a dream can look. Takes what [`Rollout::observe`] takes and leaves the
    /// world as it is. A model without such a network gives back what it gets.
    ///
    /// # Errors
    /// [`crate::Error::Input`] when a frame has another size or the counts do not fit.
    fn reconstruct(&mut self, frames: &[Frame], _controls: &[Controls]) -> Result<Vec<Frame>> {
        Ok(frames.to_vec())
    }

    /// Everything that decides the future but settings and noise. Call after [`Rollout::commit`].
    fn state(&self) -> Result<RolloutState>;

    /// Continues from [`Rollout::state`].
    ///
    /// # Errors
    /// [`crate::Error::Input`] when the state is not of this model and size.
    fn set_state(&mut self, state: &RolloutState) -> Result<()>;

    /// Where the time of the last chunk went; zero for stages that a model does not have or measure.
    fn times(&self) -> StageTimes {
        StageTimes::default()
    }
}
