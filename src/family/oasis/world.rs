//! One world: the window of past frames, what the DiT sees of them, and how both grow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Tensor};

use super::Networks;
use super::config::Context;
use super::dit::Seen;
use super::schedule::{MAX_NOISE, steps};
use crate::model::patch::{cells_to_tokens, tokens_to_cells};
use crate::model::{Interrupt, RolloutState, StageTimes};
use crate::{Error, Result};

/// Of a saved world: place in time of the first frame.
const POSITION: &str = "position";

/// One world's memory, driven by actions.
pub struct World {
    networks: Arc<Networks>,
    /// Denoising steps a frame.
    pub steps: usize,
    context: Context,
    /// The past that the next frame sees, the oldest first.
    window: VecDeque<Frame>,
    /// What is seen of the first frames of the window, one by one.
    seen: VecDeque<Seen>,
    /// Place in time of the window's first frame.
    position: u64,
    pending: Option<Frame>,
    /// What may interrupt [`World::step`].
    pub interrupt: Interrupt,
    times: StageTimes,
}

/// A frame of the past.
#[derive(Clone)]
struct Frame {
    /// `[tokens, patch]`.
    latent: Tensor,
    /// `[1, actions]`.
    action: Tensor,
}

impl World {
    /// A world with no past.
    pub fn new(networks: Arc<Networks>, context: Context) -> Self {
        Self {
            steps: networks.config.ddim_steps.0,
            networks,
            context,
            window: VecDeque::new(),
            seen: VecDeque::new(),
            position: 0,
            pending: None,
            interrupt: Interrupt::default(),
            times: StageTimes::default(),
        }
    }

    /// Where the time of the last frame went.
    pub fn times(&self) -> StageTimes {
        self.times
    }

    /// Remembers a true latent `[channels, height, width]` to which `action` `[actions]` led.
    ///
    /// # Errors
    /// [`Error::Tensor`] when they are of another shape.
    pub fn observe(&mut self, latent: &Tensor, action: &[f32]) -> Result<()> {
        let frame = Frame { latent: self.patches(latent)?, action: self.action(action)? };
        self.pending = None;
        self.push(frame);
        Ok(())
    }

    /// Denoises `noise` `[channels, height, width]` to the latent of the next frame, to which `action` `[actions]` leads. It
    /// is not part of the past before [`World::commit`].
    ///
    /// # Errors
    /// [`Error::Tensor`] when they are of another shape.
    pub fn step(&mut self, noise: &Tensor, action: &[f32]) -> Result<Tensor> {
        let start = Instant::now();
        let networks = Arc::clone(&self.networks);
        let action = self.action(action)?;
        let mut x = self.patches(&noise.clamp(-MAX_NOISE, MAX_NOISE)?)?;
        let steps = steps(self.steps);
        let levels: Vec<_> = steps.iter().map(|step| step.level).collect();
        let position = self.position + self.window.len() as u64;
        for (step, by) in steps.iter().zip(networks.dit.modulations(&levels, &action)?) {
            if self.context == Context::Recompute {
                self.seen.clear();
            }
            self.look_back()?;
            self.interrupt.check()?;
            let v = networks.dit.forward(&x, &by, position, self.seen.make_contiguous())?;
            x = ((x * step.keep)? + (v * step.turn)?)?;
        }
        self.pending = Some(Frame { latent: x.clone(), action });
        self.times.denoise = start.elapsed();
        self.latent(&x)
    }

    /// Makes the frame of the last [`World::step`] part of the past.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is not enough memory.
    pub fn commit(&mut self) -> Result<()> {
        let start = Instant::now();
        if let Some(frame) = self.pending.take() {
            self.push(frame);
            if self.context != Context::Recompute {
                self.look_back()?;
            }
            self.times.commit = start.elapsed();
        }
        Ok(())
    }

    /// The time that the last latent took to become a picture, for [`World::times`].
    pub(super) fn decoded_since(&mut self, start: Instant) {
        self.times.decode = start.elapsed();
    }

    fn push(&mut self, frame: Frame) {
        self.window.push_back(frame);
        if self.window.len() < self.networks.config.dit.max_frames {
            return;
        }
        self.window.pop_front();
        match self.context {
            Context::Streaming => {
                self.seen.pop_front();
                self.position += 1;
            }
            // What is seen of every frame depends on those before it, and one of them is gone.
            Context::Exact | Context::Recompute => self.seen.clear(),
        }
    }

    /// Sees those frames of the window that have not been seen.
    fn look_back(&mut self) -> Result<()> {
        while let Some(Frame { latent, action }) = self.window.get(self.seen.len()) {
            self.interrupt.check()?;
            let dit = &self.networks.dit;
            let (by, position) = (dit.past(action)?, self.position + self.seen.len() as u64);
            let seen = dit.see(latent, &by, position, self.seen.make_contiguous())?;
            self.seen.push_back(seen);
        }
        Ok(())
    }

    fn action(&self, action: &[f32]) -> Result<Tensor> {
        Ok(Tensor::from_slice(action, (1, action.len()), &self.networks.device)?)
    }

    fn patches(&self, latent: &Tensor) -> Result<Tensor> {
        let c = &self.networks.config.dit;
        if latent.dims() != [c.in_channels, c.input_h, c.input_w] {
            let reason = format!("a latent of shape {:?}", latent.dims());
            return Err(Error::Tensor(candle_core::Error::Msg(reason)));
        }
        cells_to_tokens(&latent.permute((1, 2, 0))?.contiguous()?, c.patch_size)
    }

    fn latent(&self, patches: &Tensor) -> Result<Tensor> {
        let c = &self.networks.config.dit;
        let (height, width) = (c.input_h / c.patch_size, c.input_w / c.patch_size);
        let cells = tokens_to_cells(patches, height, width, c.patch_size)?;
        Ok(cells.permute((2, 0, 1))?.contiguous()?)
    }

    /// All that decides the future. What is seen of the window follows from it, but not if it is kept for good.
    pub(super) fn state(&self) -> Result<RolloutState> {
        let mut state = RolloutState::new();
        let position = Tensor::new(self.position as i64, &candle_core::Device::Cpu)?;
        state.insert(POSITION, position);
        for (i, frame) in self.window.iter().enumerate() {
            state.insert(format!("{i}.latent"), frame.latent.clone());
            state.insert(format!("{i}.action"), frame.action.clone());
        }
        if self.context == Context::Streaming {
            for (i, seen) in self.seen.iter().enumerate() {
                for (layer, [keys, values]) in seen.iter().enumerate() {
                    state.insert(format!("{i}.{layer}.keys"), keys.clone());
                    state.insert(format!("{i}.{layer}.values"), values.clone());
                }
            }
        }
        Ok(state)
    }

    /// Continues from [`World::state`].
    pub(super) fn set_state(&mut self, state: &RolloutState) -> Result<()> {
        let c = &self.networks.config.dit;
        let load = |name: String, shape: &[usize]| -> Result<Tensor> {
            Ok(state.tensor(&name, shape)?.to_device(&self.networks.device)?)
        };
        let position = state.tensor(POSITION, &[])?.to_dtype(DType::I64)?.to_scalar::<i64>()?;
        let (mut window, mut seen) = (VecDeque::new(), VecDeque::new());
        while window.len() < c.max_frames && state.contains(&format!("{}.latent", window.len())) {
            let i = window.len();
            let latent = load(format!("{i}.latent"), &[c.tokens(), c.patch()])?;
            let action = load(format!("{i}.action"), &[1, c.external_cond_dim])?;
            window.push_back(Frame { latent, action });
            // The newest frames may not have been seen yet.
            if self.context == Context::Streaming && state.contains(&format!("{i}.0.keys")) {
                let part = |layer, part| load(format!("{i}.{layer}.{part}"), &[c.tokens(), c.hidden_size]);
                let layer = |layer| Ok([part(layer, "keys")?, part(layer, "values")?]);
                seen.push_back((0..c.depth).map(layer).collect::<Result<Seen>>()?);
            }
        }
        let position = u64::try_from(position).map_err(|e| Error::input(e.to_string()))?;
        (self.window, self.seen, self.position, self.pending) = (window, seen, position, None);
        Ok(())
    }
}
