//! One world: the networks' memory of what has been dreamed, and how it grows.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use super::Networks;
use super::past::{Foreseen, Past};
use crate::kernel::{Array, cells_to_frames, frames_to_cells};
use crate::model::action::{Camera, turns};
use crate::model::cache::Memory;
use crate::model::config::Config;
use crate::model::dit::{Condition, DiT};
use crate::model::patch::Grid;
use crate::model::sampler::{Levels, first_levels, guided, levels, louder, next_levels, remembered, sample};
use crate::model::trunk::Kept;
use crate::model::vcn::Drawn;
use crate::model::{CONTEXT_NOISE_STEP, Interrupt, NoiseSource, RolloutState, Settings, StageTimes};
use crate::{Controls, Error, Frame, FrameSize, Result};

/// The signal level of a chunk that begins anew from what was foreseen of it. As in `train/sampler.py`.
const RENEWED: f32 = 0.05;

/// One world's memory, prompted with text embeddings.
pub struct World {
    networks: Arc<Networks>,
    pub(super) size: FrameSize,
    pub(super) settings: Settings,
    /// The prompt's embedding `[text]`.
    text: Array,
    /// The embedding before, if the prompt is new: the next chunk then begins a new past, from what is foreseen of it, made noisy
    /// (`SDEdit`, Meng et al. 2022), and is guided away from the words before.
    former: Option<Array>,
    encoder_grid: Grid,
    decoder_grid: Grid,
    dit_grid: Grid,
    past: Past,
    pending: Option<Pending>,
    pub(super) interrupt: Interrupt,
    times: StageTimes,
}

/// A chunk that is made but not remembered.
struct Pending {
    latent: Array,
    foreseen: Array,
    /// Its frames as cells, and how near those of the last are.
    cells: Array,
    nearness: Array,
    /// The noise level at which it will be remembered, and the DiT's condition there.
    context_noise: f32,
    condition: Condition,
    camera: Camera,
    /// Whether a block is broken or placed in it.
    edited: bool,
    decoder: Kept,
    /// Whether the past before it is to be forgotten.
    renewed: bool,
    /// Whether it is no true one.
    dreamed: bool,
}

/// Where the denoising of a chunk begins.
struct Beginning {
    /// The past that it has, if not the world's.
    past: Option<Past>,
    levels: Levels,
    x: Array,
    foreseen: Array,
    /// The words that it is guided away from if it has no past.
    unwanted: Array,
}

/// How much louder noise is where nothing was foreseen, and where what was is far away and bare. As in `train/sampler.py`.
const LOUDER: [f32; 2] = [1.3, 0.0];

/// How far the first step of a chunk follows the words on a walk where the DiT sees no true frame: left to itself the world forgets
/// them. As in `train/sampler.py`.
const NEXT_GUIDANCE: f32 = 4.0;

/// How much louder noise is in such a chunk; where it is bare once the DiT looks back to as much as it can, as nothing would come
/// out of there any more. What has just begun is as bare as its words say. As in `train/sampler.py`.
const GUIDED_LOUDER: [f32; 2] = [0.5, 3.0];

/// How far a chunk in which a block is broken or placed goes on from what it would be without. As in `train/sampler.py`.
const EDIT_GUIDANCE: f32 = 2.0;

/// Times as many steps such a chunk takes: it is more than a correction of what was foreseen. As in `train/sampler.py`.
const EDIT_STEPS: usize = 2;

/// The same controls with no block broken or placed.
fn unedited(controls: &[Controls]) -> SmallVec<[Controls; 4]> {
    controls.iter().map(|&c| Controls { break_block: false, place_block: false, ..c }).collect()
}

/// Whether a block is broken or placed under `controls`.
fn edited(controls: &[Controls]) -> bool {
    controls.iter().any(|c| c.break_block || c.place_block)
}

/// Whether there is a step in `controls`: all in view changes then, not its borders alone.
fn walked(controls: &[Controls]) -> bool {
    controls.iter().any(|c| c.forward != 0.0 || c.strafe != 0.0)
}

impl World {
    /// A world with no past.
    ///
    /// # Errors
    /// [`Error::Input`] when frames of this `size` cannot be made.
    pub fn new(networks: Arc<Networks>, size: FrameSize, text: Array, settings: Settings) -> Result<Self> {
        let c = &networks.config;
        let grid = |trunk: usize| Grid::new(size, c.patch, trunk, &networks.device);
        let (encoder_grid, decoder_grid) = (grid(c.encoder.head_dim())?, grid(c.decoder.head_dim())?);
        let dit_grid = grid(c.dit.head_dim())?;
        if text.dims() != [c.text] {
            return Err(Error::input(format!("a text embedding has {} numbers, not {:?}", c.text, text.dims())));
        }
        let past = Past::new(&networks, Camera::default(), dit_grid.tokens())?;
        let times = StageTimes::default();
        Ok(Self {
            networks,
            size,
            settings,
            text,
            former: None,
            encoder_grid,
            decoder_grid,
            dit_grid,
            past,
            pending: None,
            interrupt: Interrupt::default(),
            times,
        })
    }

    /// The embedding `[text]` of the prompt for the chunks to come. One that comes back before a chunk was made was never gone.
    ///
    /// # Errors
    /// [`Error::Tensor`] when it cannot be read.
    pub fn set_text(&mut self, text: Array) -> Result<()> {
        let former = self.former.as_ref().unwrap_or(&self.text);
        let new = !self.past.is_empty() && text.numbers()? != former.numbers()?;
        let before = std::mem::replace(&mut self.text, text);
        let former = self.former.take().unwrap_or(before);
        self.former = new.then_some(former);
        Ok(())
    }

    /// Where the time of the last chunk went.
    pub fn times(&self) -> StageTimes {
        self.times
    }

    /// The latents `[tokens, latent]` of true frames, without remembering them.
    ///
    /// # Errors
    /// As of [`Rollout::observe`](crate::model::Rollout::observe).
    pub fn encode(&self, frames: &[Frame], controls: &[Controls]) -> Result<Vec<Array>> {
        let per_chunk = self.networks.config.frames_per_chunk;
        if frames.is_empty() || frames.len() != controls.len() || !frames.len().is_multiple_of(per_chunk) {
            return Err(Error::input(format!(
                "{} frames with {} controls are no whole number of chunks of {per_chunk}",
                frames.len(),
                controls.len()
            )));
        }
        if let Some(frame) = frames.iter().find(|f| f.size != self.size || f.rgb.len() != self.size.pixels() * 3) {
            return Err(Error::input(format!("a frame is {}, not {}", frame.size, self.size)));
        }
        let chunks = frames.chunks_exact(per_chunk).zip(controls.chunks_exact(per_chunk));
        let latents = chunks.map(|(frames, controls)| {
            let pixels: Vec<&[u8]> = frames.iter().map(|frame| &frame.rgb[..]).collect();
            let FrameSize { width, height } = self.size;
            let cells = frames_to_cells(&pixels, height, width, Config::CELL, &self.networks.device)?;
            self.encode_cells(cells, controls)
        });
        latents.collect()
    }

    /// The latent of one chunk's [cells](frames_to_cells).
    ///
    /// # Errors
    /// [`Error::Tensor`] when they are not of this size.
    pub fn encode_cells(&self, cells: Array, controls: &[Controls]) -> Result<Array> {
        let controls = self.networks.controls(controls)?;
        self.networks.vcn.encode(cells, &controls, &self.encoder_grid)
    }

    /// Remembers a true latent under `controls`.
    ///
    /// # Errors
    /// [`Error::Tensor`] when it is not of this size.
    pub fn observe_latent(&mut self, latent: Array, controls: &[Controls], noise: &Array) -> Result<()> {
        let networks = Arc::clone(&self.networks);
        let camera = self.past.camera.after(controls);
        let features = networks.controls(controls)?;
        let foreseen = self.past.foresee(&networks, controls, &features, &self.encoder_grid)?.latent;
        let drawn = self.decode(&self.past, &latent, controls, &features, &camera)?;
        let prompt = networks.dit.prompt(&self.text, &features, &camera)?;
        let context_noise = self.settings.context_noise;
        let condition = networks.dit.conditions(&[1.0 - context_noise], &prompt)?.at(0)?;
        self.former = None;
        let pending = Pending {
            latent,
            foreseen,
            cells: drawn.cells,
            nearness: drawn.nearness,
            context_noise,
            condition,
            camera,
            edited: edited(controls),
            decoder: drawn.remembered,
            renewed: false,
            dreamed: false,
        };
        self.remember(pending, noise)
    }

    /// Draws a latent after what the decoder remembers.
    fn decode(
        &self,
        past: &Past,
        latent: &Array,
        controls: &[Controls],
        features: &Array,
        camera: &Camera,
    ) -> Result<Drawn> {
        let vcn = &self.networks.vcn;
        let recall = vcn.decoder().recall(&past.decoder, camera, &self.decoder_grid)?;
        vcn.decode(latent, features, &turns(controls), camera.pitch(), &self.decoder_grid, &recall)
    }

    /// Denoises `noise` `[tokens, latent]` to the latent of the next chunk and decodes it to cells; both wait for
    /// [`World::commit_with`].
    ///
    /// # Errors
    /// [`Error::Tensor`] when the noise is not of this size.
    pub fn step_from(&mut self, controls: &[Controls], noise: &Array) -> Result<(&Array, &Array)> {
        let start = Instant::now();
        let networks = Arc::clone(&self.networks);
        let camera = self.past.camera.after(controls);
        let features = networks.controls(controls)?;
        let foreseen = self.past.foresee(&networks, controls, &features, &self.encoder_grid)?;
        self.times.foresee = start.elapsed();

        let start = Instant::now();
        let Settings { guidance, context_noise, .. } = self.settings;
        let edited = edited(controls);
        let follows = guidance > 1.0 && !edited && walked(controls) && self.past.is_dreamed();
        let Beginning { past, levels, x, foreseen, unwanted } = self.begin(foreseen, noise, edited, follows)?;
        let past = past.as_ref().unwrap_or(&self.past);
        let taus: Levels = levels.iter().copied().chain([1.0 - context_noise]).collect();
        let conditions =
            |dit: &DiT, text: &Array, features: &Array| dit.conditions(&taus, &dit.prompt(text, features, &camera)?);
        let edits = edited && !past.is_empty();
        let dit = networks.denoiser(edits);
        let prompted = conditions(dit, &self.text, &features)?;
        // What it is guided away from, how far, and in how many steps.
        let away = if past.is_empty() && guidance > 1.0 {
            Some((conditions(&networks.dit, &unwanted, &features)?, guidance, levels.len()))
        } else if edits {
            let unedited = networks.controls(&unedited(controls))?;
            Some((conditions(&networks.dit, &self.text, &unedited)?, EDIT_GUIDANCE, levels.len()))
        } else if follows {
            Some((conditions(&networks.dit, &unwanted, &features)?, NEXT_GUIDANCE, 1))
        } else {
            None
        };
        let known = past.chunk(&networks, &camera, &self.dit_grid, &foreseen)?;
        let latent = sample(x, &levels, |x, i| {
            self.interrupt.check()?;
            let with = || dit.denoise(x, &prompted.at(i)?, &known);
            match &away {
                Some((other, far, steps)) if i < *steps => {
                    let without = || networks.dit.denoise(x, &other.at(i)?, &known);
                    let two = Array::two(x.dims(), x.device(), |which| if which == 0 { with() } else { without() })?;
                    let [with, without] = two;
                    guided(&with, without, *far)
                }
                _ => with(),
            }
        })?;
        // It is the DiT itself that remembers.
        let condition = match edits {
            true => conditions(&networks.dit, &self.text, &features)?.at(levels.len())?,
            false => prompted.at(levels.len())?,
        };
        drop(known);
        self.times.denoise = start.elapsed();

        let start = Instant::now();
        let Drawn { cells, nearness, remembered } = self.decode(past, &latent, controls, &features, &camera)?;
        self.times.decode = start.elapsed();
        let pending = self.pending.insert(Pending {
            latent,
            foreseen,
            cells,
            nearness,
            context_noise,
            condition,
            camera,
            edited,
            decoder: remembered,
            renewed: self.former.is_some(),
            dreamed: true,
        });
        Ok((&pending.latent, &pending.cells))
    }

    /// Where the denoising of the next chunk begins, if it is `edited` or if it `follows` the words: at noise, louder where nothing
    /// was foreseen, or, if the prompt is new, at a noisy form of what was foreseen of it.
    fn begin(
        &self,
        Foreseen { latent: foreseen, unseen }: Foreseen,
        noise: &Array,
        edited: bool,
        follows: bool,
    ) -> Result<Beginning> {
        let Settings { steps, first_steps, .. } = self.settings;
        Ok(match &self.former {
            None => {
                let (levels, x) = if self.past.is_empty() {
                    (first_levels(first_steps), noise.clone())
                } else if edited {
                    (levels(EDIT_STEPS * steps), louder(noise, &unseen, LOUDER)?)
                } else if follows {
                    let [unknown, bare] = GUIDED_LOUDER;
                    let bare = if self.past.is_long() { bare } else { 0.0 };
                    (levels(steps), louder(noise, &unseen, [unknown, bare])?)
                } else {
                    (next_levels(steps), louder(noise, &unseen, LOUDER)?)
                };
                let unwanted = Array::zeros(self.text.dims(), self.text.device())?;
                Beginning { past: None, levels, x, foreseen, unwanted }
            }
            Some(former) => Beginning {
                past: Some(self.forgotten()?),
                levels: [RENEWED].into_iter().chain(levels(first_steps).into_iter().filter(|&l| l > RENEWED)).collect(),
                foreseen: Array::zeros(foreseen.dims(), foreseen.device())?,
                x: remembered(foreseen, noise, 1.0 - RENEWED)?,
                unwanted: former.clone(),
            },
        })
    }

    /// Remembers the chunk of the last [`World::step_from`] with the context noise `noise` `[tokens, latent]`.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the noise is not of this size.
    pub fn commit_with(&mut self, noise: &Array) -> Result<()> {
        match self.pending.take() {
            Some(pending) => self.remember(pending, noise),
            None => Ok(()),
        }
    }

    /// A new past where the camera stands.
    fn forgotten(&self) -> Result<Past> {
        Past::new(&self.networks, self.past.camera, self.dit_grid.tokens())
    }

    fn remember(&mut self, chunk: Pending, noise: &Array) -> Result<()> {
        let start = Instant::now();
        let networks = Arc::clone(&self.networks);
        if chunk.renewed {
            self.past = self.forgotten()?;
            self.former = None;
        }
        let latent = remembered(chunk.latent, noise, chunk.context_noise)?;
        let known = self.past.chunk(&networks, &chunk.camera, &self.dit_grid, &chunk.foreseen)?;
        let layers = networks.dit.remember(&latent, &chunk.condition, &known)?;
        drop(known);
        self.past.dit.push(chunk.camera, layers);
        self.past.decoder.push(chunk.camera, chunk.decoder);
        self.past.before.swap(0, 1);
        self.past.before[0] = latent;
        self.past.camera = chunk.camera;
        self.past.count(chunk.dreamed);
        self.past.views.add(&chunk.cells, &chunk.nearness, chunk.camera, chunk.edited, Config::CELL)?;
        self.times.commit = start.elapsed();
        Ok(())
    }

    fn frames(&self, cells: &Array) -> Result<Vec<Frame>> {
        let pictures = cells_to_frames(cells, self.networks.config.frames_per_chunk, Config::CELL)?;
        let mut frames = Vec::with_capacity(pictures.len()); // `collect` would take room for four
        frames.extend(pictures.into_iter().map(|rgb| Frame { size: self.size, rgb }));
        Ok(frames)
    }

    fn draw(&self, step: u32, noise: &dyn NoiseSource) -> Result<Array> {
        let dims = [self.dit_grid.tokens(), self.networks.config.latent];
        Ok(Array::new(&dims, &self.networks.device, |out| noise.fill(step, out))?)
    }

    pub(super) fn observe(&mut self, frames: &[Frame], controls: &[Controls], noise: &dyn NoiseSource) -> Result<()> {
        let (frames, controls) = self.whole_chunks(frames, controls);
        let latents = self.encode(&frames, &controls)?;
        self.pending = None;
        let controls = controls.chunks_exact(self.networks.config.frames_per_chunk);
        for (i, (latent, controls)) in latents.into_iter().zip(controls).enumerate() {
            // Every chunk has its own noise, though they are observed under one source.
            let noise = self.draw(CONTEXT_NOISE_STEP - i as u32, noise)?;
            self.observe_latent(latent, controls, &noise)?;
        }
        Ok(())
    }

    pub(super) fn reconstruct(&mut self, frames: &[Frame], controls: &[Controls]) -> Result<Vec<Frame>> {
        let (count, networks) = (frames.len(), Arc::clone(&self.networks));
        let (frames, controls) = self.whole_chunks(frames, controls);
        let (mut memory, mut camera) = (Memory::new(&networks.config.decoder.offsets), Camera::default());
        let mut out = Vec::with_capacity(frames.len());
        let latents = self.encode(&frames, &controls)?;
        for (latent, controls) in latents.iter().zip(controls.chunks_exact(networks.config.frames_per_chunk)) {
            camera = camera.after(controls);
            let (turns, controls) = (turns(controls), networks.controls(controls)?);
            let recall = networks.vcn.decoder().recall(&memory, &camera, &self.decoder_grid)?;
            let drawn = networks.vcn.decode(latent, &controls, &turns, camera.pitch(), &self.decoder_grid, &recall)?;
            drop(recall);
            out.extend(self.frames(&drawn.cells)?);
            memory.push(camera, drawn.remembered);
        }
        out.truncate(count);
        Ok(out)
    }

    /// One image as a still chunk; anything else as it is.
    fn whole_chunks<'a>(
        &self,
        frames: &'a [Frame],
        controls: &'a [Controls],
    ) -> (Cow<'a, [Frame]>, Cow<'a, [Controls]>) {
        match (frames, controls) {
            ([frame], [first]) => {
                let count = self.networks.config.frames_per_chunk;
                let mut still = vec![Controls::default(); count];
                still[0] = *first;
                (vec![frame.clone(); count].into(), still.into())
            }
            _ => (frames.into(), controls.into()),
        }
    }

    pub(super) fn step(&mut self, controls: &[Controls], noise: &dyn NoiseSource) -> Result<Vec<Frame>> {
        let per_chunk = self.networks.config.frames_per_chunk;
        if controls.len() != per_chunk {
            return Err(Error::input(format!("a chunk takes {per_chunk} controls, not {}", controls.len())));
        }
        let noise = self.draw(0, noise)?;
        self.step_from(controls, &noise)?;
        match &self.pending {
            Some(pending) => self.frames(&pending.cells),
            None => Ok(Vec::new()),
        }
    }

    pub(super) fn commit(&mut self, noise: &dyn NoiseSource) -> Result<()> {
        let noise = self.draw(CONTEXT_NOISE_STEP, noise)?;
        self.commit_with(&noise)
    }

    pub(super) fn state(&self) -> Result<RolloutState> {
        let mut state = RolloutState::new();
        state.insert("text", self.text.tensor()?);
        if let Some(former) = &self.former {
            state.insert("former", former.tensor()?);
        }
        self.past.save(&mut state)?;
        Ok(state)
    }

    pub(super) fn set_state(&mut self, state: &RolloutState) -> Result<()> {
        let networks = &self.networks;
        let embedding = |name| -> Result<Array> {
            Ok(Array::from_tensor(&state.tensor(name, &[networks.config.text])?.to_device(&networks.device)?)?)
        };
        let text = embedding("text")?;
        let former = state.contains("former").then(|| embedding("former")).transpose()?;
        let past = Past::restore(networks, state, &self.dit_grid, &self.decoder_grid)?;
        (self.text, self.former, self.past, self.pending) = (text, former, past, None);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
