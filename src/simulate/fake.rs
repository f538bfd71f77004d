//! A scripted world model for tests: cheap, deterministic, with delays and faults on demand.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};

use crate::model::{
    Heeded, Interrupt, ModelInfo, NoiseSource, Rollout, RolloutState, Settings, StageTimes, WorldModel,
};
use crate::{Controls, Error, Frame, FrameSize, Result};

/// A fault to inject into a [`FakeModel`]'s step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The step returns an error.
    Error,
    /// The step panics.
    Panic,
}

/// Paints a sky and a ground that turn, tilt and scroll with the controls, in colours of the prompt.
#[derive(Clone, Debug)]
pub struct FakeModel {
    /// Its facts.
    pub info: ModelInfo,
    /// How long a step takes that is not interrupted.
    pub delay: Duration,
    /// The chunk of every world that fails, and how.
    pub fault: Option<(u64, Fault)>,
    /// How many numbers a state holds beside those that matter.
    pub ballast: usize,
}

impl Default for FakeModel {
    fn default() -> Self {
        let info = ModelInfo {
            family: "fake".into(),
            name: "fake".into(),
            sha256: "0".repeat(64),
            fps: 20.0,
            frames_per_chunk: 2,
            default_size: FrameSize::new(32, 32),
            size_multiple: 16,
            parameters: 0,
            notice: None,
            reads_text: true,
            holds_buttons: false,
            controls: Heeded::default(),
            settings: Settings { steps: 2, first_steps: 4, guidance: 1.0, context_noise: 0.1 },
        };
        Self { info, delay: Duration::ZERO, fault: None, ballast: 0 }
    }
}

impl FakeModel {
    /// One that plays 25 times as fast, for tests that wait for frames.
    pub fn fast() -> Self {
        let mut model = Self::default();
        model.info.fps = 500.0;
        model
    }

    /// Makes it ready to open worlds.
    pub fn shared(self) -> Arc<dyn WorldModel> {
        Arc::new(self)
    }
}

impl WorldModel for FakeModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn gflop_per_chunk(&self, _size: FrameSize, _settings: Settings) -> f64 {
        0.0
    }

    fn open(self: Arc<Self>, size: FrameSize) -> Result<Box<dyn Rollout>> {
        let multiple = self.info.size_multiple;
        if size.pixels() == 0 || !size.width.is_multiple_of(multiple) || !size.height.is_multiple_of(multiple) {
            return Err(Error::input(format!("frames of {size}: width and height must be multiples of {multiple}")));
        }
        Ok(Box::new(FakeRollout {
            settings: self.info.settings,
            model: self,
            size,
            ground: [0.0; 3],
            memory: [0.0; 5],
            pending: None,
            interrupt: Interrupt::default(),
            chunk: 0,
            times: StageTimes::default(),
        }))
    }
}

struct FakeRollout {
    model: Arc<FakeModel>,
    size: FrameSize,
    settings: Settings,
    /// The prompt's colour.
    ground: [f32; 3],
    /// Yaw, pitch, forward, strafe and mood (what the past looked like).
    memory: [f32; 5],
    pending: Option<[f32; 5]>,
    interrupt: Interrupt,
    chunk: u64,
    times: StageTimes,
}

impl FakeRollout {
    fn paint(&self, [yaw, pitch, forward, strafe, mood]: [f32; 5], grain: &[f32]) -> Frame {
        let FrameSize { width, height } = self.size;
        let mut rgb = Vec::with_capacity(self.size.pixels() * 3);
        for y in 0..height {
            let elevation = pitch + 45.0 - 90.0 * y as f32 / height as f32;
            for x in 0..width {
                let bearing = yaw + 90.0 * x as f32 / width as f32;
                let shade = if elevation > 0.0 {
                    0.8 + 0.2 * (bearing / 12.0).sin()
                } else {
                    let distance = 60.0 / (1.0 - elevation) + forward;
                    0.5 + 0.3 * (distance).sin() * ((bearing + strafe * 8.0) / 9.0).sin()
                };
                let base = if elevation > 0.0 { [0.45, 0.65, 0.95] } else { self.ground };
                let grain = 0.02 * grain[(y * width + x) % grain.len()];
                rgb.extend(base.map(|c| ((c * shade + grain + mood * 0.1) * 255.0) as u8));
            }
        }
        Frame { size: self.size, rgb }
    }
}

impl Rollout for FakeRollout {
    fn size(&self) -> FrameSize {
        self.size
    }

    fn set_prompt(&mut self, prompt: &str) -> Result<()> {
        let hash = Sha256::digest(prompt);
        self.ground = [0, 1, 2].map(|i| 0.2 + 0.8 * f32::from(hash[i]) / 255.0);
        Ok(())
    }

    fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    fn watch(&mut self, interrupt: Interrupt) {
        self.interrupt = interrupt;
    }

    fn observe(&mut self, frames: &[Frame], _controls: &[Controls], _noise: &dyn NoiseSource) -> Result<()> {
        if frames.iter().any(|f| f.size != self.size) {
            return Err(Error::input(format!("the frames are not {}", self.size)));
        }
        let bytes = frames.iter().flat_map(|f| &f.rgb);
        self.memory[4] = bytes.clone().map(|b| f32::from(*b) / 255.0).sum::<f32>() / bytes.count() as f32;
        Ok(())
    }

    fn step(&mut self, controls: &[Controls], noise: &dyn NoiseSource) -> Result<Vec<Frame>> {
        let start = Instant::now();
        self.interrupt.check()?;
        while let Some(left) = self.model.delay.checked_sub(start.elapsed()) {
            thread::sleep(left.min(Duration::from_millis(1)));
            self.interrupt.check()?;
        }
        match self.model.fault {
            Some((chunk, Fault::Error)) if chunk == self.chunk => return Err(Error::input("an injected error")),
            Some((chunk, Fault::Panic)) if chunk == self.chunk => panic!("an injected panic"),
            _ => {}
        }
        let mut grain = vec![0.0; 64];
        for step in 0..self.settings.steps {
            noise.fill(step as u32, &mut grain);
        }
        let mut memory = self.memory;
        let frames = controls
            .iter()
            .map(|c| {
                let moved = [c.look[0], c.look[1], c.forward * 0.2, c.strafe * 0.2, 0.01 * grain[0]];
                memory = std::array::from_fn(|i| memory[i] + moved[i]);
                self.paint(memory, &grain)
            })
            .collect();
        self.pending = Some(memory);
        self.times.denoise = start.elapsed();
        Ok(frames)
    }

    fn commit(&mut self, _noise: &dyn NoiseSource) -> Result<()> {
        if let Some(memory) = self.pending.take() {
            self.memory = memory;
            self.chunk += 1;
        }
        Ok(())
    }

    fn state(&self) -> Result<RolloutState> {
        let memory = Tensor::from_slice(&self.memory, 5, &Device::Cpu)?;
        let mut state = RolloutState::new();
        state.insert("memory", memory);
        state.insert("ballast", Tensor::zeros(self.model.ballast, DType::F32, &Device::Cpu)?);
        Ok(state)
    }

    fn set_state(&mut self, state: &RolloutState) -> Result<()> {
        let memory = state.tensor("memory", &[self.memory.len()])?;
        self.memory.copy_from_slice(&memory.to_vec1()?);
        self.pending = None;
        Ok(())
    }

    fn times(&self) -> StageTimes {
        self.times
    }
}
