//! One world: the networks' memory of what has been dreamed, and how it grows.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;

use super::Networks;
use super::past::Past;
use crate::kernel::{KeyValues, cells_to_frames, frames_to_cells};
use crate::model::action::{Camera, turns};
use crate::model::cache::{Memory, saved};
use crate::model::config::Config;
use crate::model::dit::Condition;
use crate::model::patch::Grid;
use crate::model::sampler::{guided, levels, remembered, sample};
use crate::model::{CONTEXT_NOISE_STEP, NoiseSource, RolloutState, Settings, StageTimes};
use crate::{Controls, Error, Frame, FrameSize, Result};

/// The signal level of a chunk that begins anew from what was foreseen of it. As in `train/model.py`.
const RENEWED: f32 = 0.1;

/// One world's memory, prompted with text embeddings.
pub struct World {
    networks: Arc<Networks>,
    pub(super) size: FrameSize,
    pub(super) settings: Settings,
    /// The prompt's embedding `[text]`.
    text: Tensor,
    /// The embedding before, if the prompt is new: the next chunk then begins a new past, from what is foreseen of it, made noisy
    /// (SDEdit, Meng et al. 2022), and is guided away from the words before.
    former: Option<Tensor>,
    encoder_grid: Grid,
    decoder_grid: Grid,
    dit_grid: Grid,
    past: Past,
    pending: Option<Pending>,
    times: StageTimes,
}

/// A chunk that is made but not remembered.
struct Pending {
    latent: Tensor,
    foreseen: Tensor,
    /// Its last frame as cells.
    last: Tensor,
    /// The noise level at which it will be remembered, and the DiT's condition there.
    context_noise: f32,
    condition: Condition,
    camera: Camera,
    decoder: Vec<KeyValues>,
    /// Whether the past before it is to be forgotten.
    renewed: bool,
}

impl World {
    /// A world with no past.
    ///
    /// # Errors
    /// [`Error::Input`] when frames of this `size` cannot be made.
    pub fn new(networks: Arc<Networks>, size: FrameSize, text: Tensor, settings: Settings) -> Result<Self> {
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
            times,
        })
    }

    /// The embedding `[text]` of the prompt for the chunks to come.
    ///
    /// # Errors
    /// [`Error::Tensor`] when it is no vector.
    pub fn set_text(&mut self, text: Tensor) -> Result<()> {
        let new = !self.past.is_empty() && text.to_vec1::<f32>()? != self.text.to_vec1::<f32>()?;
        let before = std::mem::replace(&mut self.text, text);
        if new && self.former.is_none() {
            self.former = Some(before);
        }
        Ok(())
    }

    /// Where the time of the last chunk went.
    pub fn times(&self) -> StageTimes {
        self.times
    }

    /// The latents `[tokens, latent]` of true frames, without remembering them.
    ///
    /// # Errors
    /// As of [`Rollout::observe`].
    pub fn encode(&self, frames: &[Frame], controls: &[Controls]) -> Result<Vec<Tensor>> {
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
            self.encode_cells(&cells, controls)
        });
        latents.collect()
    }

    /// The latent of one chunk's [cells](frames_to_cells).
    ///
    /// # Errors
    /// [`Error::Tensor`] when they are not of this size.
    pub fn encode_cells(&self, cells: &Tensor, controls: &[Controls]) -> Result<Tensor> {
        let controls = self.networks.controls(controls)?;
        self.networks.vcn.encode(cells, &controls, &self.encoder_grid)
    }

    /// Remembers a true latent under `controls`.
    ///
    /// # Errors
    /// [`Error::Tensor`] when it is not of this size.
    pub fn observe_latent(&mut self, latent: Tensor, controls: &[Controls], noise: &Tensor) -> Result<()> {
        let networks = Arc::clone(&self.networks);
        let camera = self.past.camera.after(controls);
        let features = networks.controls(controls)?;
        let foreseen = self.past.foresee(&networks, controls, &features, &self.encoder_grid)?;
        let (cells, decoder) = self.decode(&self.past, &latent, controls, &features, &camera)?;
        let prompt = networks.dit.prompt(&self.text, &features, &camera)?;
        let context_noise = self.settings.context_noise;
        let condition = networks.dit.conditions(&[1.0 - context_noise], &prompt)?.at(0)?;
        let last = last_frame(&cells)?;
        self.former = None;
        let pending = Pending { latent, foreseen, last, context_noise, condition, camera, decoder, renewed: false };
        self.remember(pending, noise)
    }

    /// The cells of a latent and what the decoder remembers of them.
    fn decode(
        &self,
        past: &Past,
        latent: &Tensor,
        controls: &[Controls],
        features: &Tensor,
        camera: &Camera,
    ) -> Result<(Tensor, Vec<KeyValues>)> {
        let vcn = &self.networks.vcn;
        let recall = vcn.decoder().recall(&past.decoder, camera, &self.decoder_grid)?;
        vcn.decode(latent, features, &turns(controls), &self.decoder_grid, &recall)
    }

    /// Denoises `noise` `[tokens, latent]` to the latent of the next chunk and decodes it to cells; both wait for
    /// [`World::commit_with`].
    ///
    /// # Errors
    /// [`Error::Tensor`] when the noise is not of this size.
    pub fn step_from(&mut self, controls: &[Controls], noise: &Tensor) -> Result<(Tensor, Tensor)> {
        let start = Instant::now();
        let networks = Arc::clone(&self.networks);
        let camera = self.past.camera.after(controls);
        let features = networks.controls(controls)?;
        let mut foreseen = self.past.foresee(&networks, controls, &features, &self.encoder_grid)?;
        self.times.foresee = start.elapsed();

        let start = Instant::now();
        let Settings { steps, first_steps, guidance, context_noise } = self.settings;
        let past = if self.former.is_some() { &self.forgotten()? } else { &self.past };
        let mut levels = levels(if past.is_empty() { first_steps } else { steps });
        let mut x = noise.clone();
        let mut unwanted = self.text.zeros_like()?;
        if let Some(former) = &self.former {
            levels.retain(|&level| level > RENEWED);
            levels.insert(0, RENEWED);
            x = remembered(&foreseen, noise, 1.0 - RENEWED)?;
            (foreseen, unwanted) = (foreseen.zeros_like()?, former.clone());
        }
        let taus = [&levels[..], &[1.0 - context_noise]].concat();
        let conditions =
            |text: &Tensor| networks.dit.conditions(&taus, &networks.dit.prompt(text, &features, &camera)?);
        let prompted = conditions(&self.text)?;
        let known = past.chunk(&networks, &camera, &self.dit_grid, &foreseen)?;
        let latent = if past.is_empty() && guidance > 1.0 {
            let unprompted = conditions(&unwanted)?;
            sample(x, &levels, |x, i| {
                let [with, without] = [&prompted, &unprompted].map(|c| networks.dit.denoise(x, &c.at(i)?, &known));
                guided(&with?, &without?, guidance)
            })?
        } else {
            sample(x, &levels, |x, i| networks.dit.denoise(x, &prompted.at(i)?, &known))?
        };
        let condition = prompted.at(levels.len())?;
        self.times.denoise = start.elapsed();

        let start = Instant::now();
        let (cells, decoder) = self.decode(past, &latent, controls, &features, &camera)?;
        self.times.decode = start.elapsed();
        let (last, renewed, made) = (last_frame(&cells)?, self.former.is_some(), latent.clone());
        self.pending =
            Some(Pending { latent: made, foreseen, last, context_noise, condition, camera, decoder, renewed });
        Ok((latent, cells))
    }

    /// Remembers the chunk of the last [`World::step_from`] with the context noise `noise` `[tokens, latent]`.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the noise is not of this size.
    pub fn commit_with(&mut self, noise: &Tensor) -> Result<()> {
        match self.pending.take() {
            Some(pending) => self.remember(pending, noise),
            None => Ok(()),
        }
    }

    /// A new past where the camera stands.
    fn forgotten(&self) -> Result<Past> {
        Past::new(&self.networks, self.past.camera, self.dit_grid.tokens())
    }

    fn remember(&mut self, chunk: Pending, noise: &Tensor) -> Result<()> {
        let start = Instant::now();
        let networks = Arc::clone(&self.networks);
        if chunk.renewed {
            self.past = self.forgotten()?;
            self.former = None;
        }
        let latent = remembered(&chunk.latent, noise, chunk.context_noise)?;
        let known = self.past.chunk(&networks, &chunk.camera, &self.dit_grid, &chunk.foreseen)?;
        let layers = networks.dit.remember(&latent, &chunk.condition, &known)?;
        self.past.dit.push(chunk.camera, layers);
        self.past.decoder.push(chunk.camera, chunk.decoder);
        self.past.before.swap(0, 1);
        self.past.before[0] = latent;
        self.past.camera = chunk.camera;
        self.past.views.add(&chunk.last, chunk.camera)?;
        self.times.commit = start.elapsed();
        Ok(())
    }

    fn frames(&self, cells: &Tensor) -> Result<Vec<Frame>> {
        let frames = cells_to_frames(cells, self.networks.config.frames_per_chunk, Config::CELL)?;
        Ok(frames.into_iter().map(|rgb| Frame { size: self.size, rgb }).collect())
    }

    fn draw(&self, step: u32, noise: &dyn NoiseSource) -> Result<Tensor> {
        let shape = (self.dit_grid.tokens(), self.networks.config.latent);
        let mut values = vec![0.0; shape.0 * shape.1];
        noise.fill(step, &mut values);
        Ok(Tensor::from_vec(values, shape, &self.networks.device)?)
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
            let (cells, layers) = networks.vcn.decode(latent, &controls, &turns, &self.decoder_grid, &recall)?;
            out.extend(self.frames(&cells)?);
            memory.push(camera, layers);
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
        let (_, cells) = self.step_from(controls, &noise)?;
        self.frames(&cells)
    }

    pub(super) fn commit(&mut self, noise: &dyn NoiseSource) -> Result<()> {
        let noise = self.draw(CONTEXT_NOISE_STEP, noise)?;
        self.commit_with(&noise)
    }

    pub(super) fn state(&self) -> Result<RolloutState> {
        let mut state = RolloutState::from([("text".to_owned(), self.text.clone())]);
        state.extend(self.former.clone().map(|former| ("former".to_owned(), former)));
        self.past.save(&mut state)?;
        Ok(state)
    }

    pub(super) fn set_state(&mut self, state: &RolloutState) -> Result<()> {
        let networks = &self.networks;
        let text = saved(state, "text", &[networks.config.text])?.to_device(&networks.device)?;
        let former = match state.contains_key("former") {
            true => Some(saved(state, "former", &[networks.config.text])?.to_device(&networks.device)?),
            false => None,
        };
        let past = Past::restore(networks, state, &self.dit_grid, &self.decoder_grid)?;
        (self.text, self.former, self.past, self.pending) = (text, former, past, None);
        Ok(())
    }
}

/// The last frame of a chunk's cells.
fn last_frame(cells: &Tensor) -> Result<Tensor> {
    let numbers = Config::CELL * Config::CELL * 3;
    Ok(cells.narrow(2, cells.dim(2)? - numbers, numbers)?.contiguous()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::Noise;
    use candle_core::Device;
    use std::path::Path;

    const SETTINGS: Settings = Settings { steps: 1, first_steps: 2, guidance: 2.0, context_noise: 0.1 };

    fn networks() -> Arc<Networks> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
        Arc::new(Networks::load(&folder, &Device::Cpu).unwrap())
    }

    fn text(networks: &Networks, seed: f32) -> Tensor {
        let n = networks.config.text;
        (Tensor::arange(0f32, n as f32, &Device::Cpu).unwrap() * f64::from(seed)).unwrap().sin().unwrap()
    }

    fn world(size: FrameSize) -> World {
        let networks = networks();
        let text = text(&networks, 1.0);
        World::new(networks, size, text, SETTINGS).unwrap()
    }

    fn controls(chunk: u64) -> [Controls; 2] {
        let look = [[3.0, 1.0], [-5.0, 0.0], [0.0, -2.0]][chunk as usize % 3];
        [Controls { forward: 1.0, jump: chunk.is_multiple_of(2), look, ..Controls::default() }; 2]
    }

    fn dream(world: &mut World, chunks: std::ops::Range<u64>) -> Vec<Frame> {
        let mut frames = Vec::new();
        for chunk in chunks {
            let noise = Noise { seed: 1, chunk };
            frames.extend(world.step(&controls(chunk), &noise).unwrap());
            world.commit(&noise).unwrap();
        }
        frames
    }

    #[test]
    fn a_restored_world_goes_on_as_if_nothing_had_happened() {
        let size = FrameSize::new(48, 32);
        let mut first = world(size);
        for age in [0, 1, 15] {
            dream(&mut first, 0..age);
            let state = first.state().unwrap();
            let mut second = world(size);
            second.set_text(text(&networks(), 7.0)).unwrap();
            dream(&mut second, 40..42);
            second.set_state(&state).unwrap();
            assert_eq!(dream(&mut first, 20..23), dream(&mut second, 20..23), "at age {age}");
        }
    }

    #[test]
    fn new_words_begin_a_new_past_from_what_is_in_view() {
        let size = FrameSize::new(48, 32);
        let after = |grey: u8, age: u64, words: f32| {
            let mut world = world(size);
            let noise = Noise { seed: 1, chunk: 0 };
            let frame = Frame { size, rgb: vec![grey; size.pixels() * 3] };
            world.observe(&[frame], &[Controls::default()], &noise).unwrap();
            dream(&mut world, 20..20 + age);
            world.set_text(text(&world.networks, words)).unwrap();
            let frames = dream(&mut world, 1..2);
            (frames, world.state().unwrap().keys().filter(|name| name.starts_with("dit")).count())
        };
        assert_eq!(after(90, 2, 7.0).1, after(90, 0, 7.0).1, "what was before is forgotten");
        assert!(after(90, 2, 1.0).1 > after(90, 2, 7.0).1, "the same words are not new");
        assert_ne!(after(20, 0, 7.0).0, after(200, 0, 7.0).0, "it begins from what is seen");
    }

    #[test]
    fn a_state_of_another_size_is_refused_and_changes_nothing() {
        let (mut wide, mut other) = (world(FrameSize::new(48, 32)), world(FrameSize::new(32, 32)));
        dream(&mut wide, 0..2);
        dream(&mut other, 0..2);
        let mut twin = world(FrameSize::new(32, 32));
        dream(&mut twin, 0..2);
        assert!(matches!(other.set_state(&wide.state().unwrap()), Err(Error::Input(_))));
        assert!(matches!(other.set_state(&RolloutState::new()), Err(Error::Input(_))));
        assert_eq!(dream(&mut other, 2..4), dream(&mut twin, 2..4));
    }

    /// The same networks at 8 bits.
    fn rounded_networks() -> Arc<Networks> {
        let (from, to) =
            (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity"), tempfile::tempdir().unwrap());
        for name in ["vcn.safetensors", "dit.safetensors"] {
            std::fs::copy(from.join(name), to.path().join(name)).unwrap();
        }
        let config = std::fs::read_to_string(from.join("config.json")).unwrap();
        let config = config.replacen("\"f32\"", "\"int8\"", 1);
        std::fs::write(to.path().join("config.json"), config).unwrap();
        Arc::new(Networks::load(to.path(), &Device::Cpu).unwrap())
    }

    #[test]
    fn eight_bits_dream_nearly_the_same_on_any_number_of_threads() {
        let size = FrameSize::new(48, 32);
        let exact = dream(&mut world(size), 0..3);
        let rounded = |threads| {
            let (networks, pool) = (rounded_networks(), crate::kernel::ThreadPool::new(threads).unwrap());
            let text = text(&networks, 1.0);
            pool.install(|| dream(&mut World::new(networks, size, text, SETTINGS).unwrap(), 0..3))
        };
        let frames = rounded(1);
        let psnr = crate::eval::psnr(&exact, &frames);
        assert!((30.0..90.0).contains(&psnr), "{psnr} dB");
        assert!([2, 3].into_iter().all(|threads| rounded(threads) == frames));
    }

    #[test]
    fn memory_does_not_grow_with_age() {
        let mut world = world(FrameSize::new(32, 32));
        dream(&mut world, 0..12);
        let names: Vec<_> = world.state().unwrap().into_keys().collect();
        dream(&mut world, 12..30);
        assert!(world.state().unwrap().into_keys().eq(names));
    }

    #[test]
    fn frames_of_every_shape_are_made() {
        for (width, height) in [(16, 16), (64, 32), (16, 80)] {
            let size = FrameSize::new(width, height);
            let frames = dream(&mut world(size), 0..2);
            assert!(frames.len() == 4 && frames.iter().all(|f| f.size == size && f.rgb.len() == size.pixels() * 3));
        }
        let networks = networks();
        let text = text(&networks, 1.0);
        let refused = World::new(networks, FrameSize::new(100, 100), text, SETTINGS);
        assert!(matches!(refused, Err(Error::Input(_))));
    }

    #[test]
    fn prompt_controls_noise_and_past_all_matter() {
        let size = FrameSize::new(32, 32);
        let latent = |prompt: f32, forward: f32, seed: u64, observed: Option<u8>| {
            let mut world = world(size);
            world.set_text(text(&world.networks, prompt)).unwrap();
            let noise = Noise { seed, chunk: 0 };
            if let Some(grey) = observed {
                let frame = Frame { size, rgb: vec![grey; size.pixels() * 3] };
                world.observe(&[frame], &[Controls::default()], &noise).unwrap();
            }
            let noise = world.draw(0, &noise).unwrap();
            let (latent, _) = world.step_from(&[Controls { forward, ..Controls::default() }; 2], &noise).unwrap();
            latent.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let base = latent(1.0, 0.0, 1, None);
        assert_eq!(base, latent(1.0, 0.0, 1, None));
        let others = [latent(2.0, 0.0, 1, None), latent(1.0, 1.0, 1, None), latent(1.0, 0.0, 2, None)];
        assert!(others.iter().all(|other| *other != base));
        let [dark, light] = [20, 200].map(|grey| latent(1.0, 0.0, 1, Some(grey)));
        assert!(dark != base && dark != light);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let size = FrameSize::new(32, 32);
        let mut world = world(size);
        let noise = Noise { seed: 1, chunk: 0 };
        let still = Controls::default();
        let frames = |count: usize, size| vec![Frame::black(size); count];
        for (frames, controls) in [
            (frames(0, size), vec![]),
            (frames(3, size), vec![still; 3]),
            (frames(2, size), vec![still; 1]),
            (frames(2, FrameSize::new(16, 16)), vec![still; 2]),
            (vec![Frame { size, rgb: vec![0; 5] }; 2], vec![still; 2]),
        ] {
            assert!(matches!(world.observe(&frames, &controls, &noise), Err(Error::Input(_))));
        }
        assert!(matches!(world.step(&[still], &noise), Err(Error::Input(_))));
        world.commit(&noise).unwrap();
        assert!(world.past.is_empty());
    }

    #[test]
    fn reconstruction_leaves_the_world_as_it_is() {
        let size = FrameSize::new(32, 32);
        let (mut world, mut twin) = (world(size), world(size));
        let frames = dream(&mut twin, 0..3);
        dream(&mut world, 0..3);
        let given = [controls(0), controls(1), controls(2)].concat();
        assert_eq!(world.reconstruct(&frames, &given).unwrap().len(), 6);
        assert_eq!(world.reconstruct(&frames[..1], &given[..1]).unwrap().len(), 1);
        assert_eq!(dream(&mut world, 3..5), dream(&mut twin, 3..5));
    }
}
