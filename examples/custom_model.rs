//! A world model of your own in less than a hundred lines of code: here an endless chequered plain instead of a network.
//!
//! `cargo run --example custom_model`: the explorer, with all its keys, rewinding and saving included.

use std::sync::Arc;

use bevy_dream::model::{Heeded, ModelInfo, NoiseSource, Rollout, RolloutState, Settings, WorldModel};
use bevy_dream::plugin::{ModelLoader, explorer};
use bevy_dream::simulate::ControlScript;
use bevy_dream::{Controls, Error, Frame, FrameSize, Result};
use candle_core::{Device, Tensor};

/// What worlds share: a network would have its weights here.
struct Plain(ModelInfo);

/// One world.
struct Walk {
    size: FrameSize,
    /// What decides the future, and the same after the chunk that was made last: x, z, yaw.
    past: [f32; 3],
    next: [f32; 3],
    colour: [f32; 3],
}

impl WorldModel for Plain {
    fn info(&self) -> &ModelInfo {
        &self.0
    }

    fn gflop_per_chunk(&self, size: FrameSize, _: Settings) -> f64 {
        (size.pixels() * self.0.frames_per_chunk * 20) as f64 * 1e-9
    }

    fn open(self: Arc<Self>, size: FrameSize) -> Result<Box<dyn Rollout>> {
        Ok(Box::new(Walk { size, past: [0.0; 3], next: [0.0; 3], colour: [0.3, 0.6, 0.3] }))
    }
}

impl Walk {
    fn draw(&self, [x, z, yaw]: [f32; 3]) -> Frame {
        let (sin, cos) = yaw.to_radians().sin_cos();
        let mut frame = Frame::black(self.size);
        for (i, pixel) in frame.rgb.chunks_exact_mut(3).enumerate() {
            let across = (i % self.size.width) as f32 / self.size.width as f32 - 0.5;
            let down = (i / self.size.width) as f32 / self.size.height as f32 - 0.5;
            let far = 0.7 / down.max(0.005);
            let tile = (x + far * (sin + cos * across)).floor() + (z + far * (cos - sin * across)).floor();
            let shade = (1.0 - 0.5 * tile.rem_euclid(2.0)) / (1.0 + far * 0.03);
            let colour =
                if down > 0.0 { self.colour.map(|c| c * shade) } else { [0.5 + down, 0.7 + down, 1.0 + down / 2.0] };
            pixel.copy_from_slice(&colour.map(|c| (c * 255.0) as u8));
        }
        frame
    }
}

impl Rollout for Walk {
    fn size(&self) -> FrameSize {
        self.size
    }

    fn set_prompt(&mut self, prompt: &str) -> Result<()> {
        let letters = |from| prompt.bytes().skip(from).step_by(3).fold(7u8, |sum, byte| sum.wrapping_mul(31) ^ byte);
        self.colour = [0, 1, 2].map(|from| 0.2 + f32::from(letters(from)) / 400.0);
        Ok(())
    }

    fn observe(&mut self, _: &[Frame], _: &[Controls], _: &dyn NoiseSource) -> Result<()> {
        Err(Error::input("the plain does not start from pictures"))
    }

    fn step(&mut self, controls: &[Controls], _: &dyn NoiseSource) -> Result<Vec<Frame>> {
        let frames = controls.iter().map(|c| {
            let [x, z, yaw] = self.next;
            let (sin, cos) = yaw.to_radians().sin_cos();
            let (right, ahead) = (0.2 * (c.forward * sin + c.strafe * cos), 0.2 * (c.forward * cos - c.strafe * sin));
            self.next = [x + right, z + ahead, yaw + c.look[0]];
            self.draw(self.next)
        });
        Ok(frames.collect())
    }

    fn commit(&mut self, _: &dyn NoiseSource) -> Result<()> {
        self.past = self.next;
        Ok(())
    }

    fn state(&self) -> Result<RolloutState> {
        let mut state = RolloutState::new();
        state.insert("walk", Tensor::new(&self.past, &Device::Cpu)?);
        Ok(state)
    }

    fn set_state(&mut self, state: &RolloutState) -> Result<()> {
        let walk = state.get("walk").and_then(|walk| walk.to_vec1().ok()?.try_into().ok());
        self.past = walk.ok_or_else(|| Error::input("this is no state of the plain"))?;
        self.next = self.past;
        Ok(())
    }
}

fn main() -> Result<()> {
    let info = ModelInfo {
        family: "plain".into(),
        name: "a chequered plain".into(),
        sha256: "plain-1".into(), // saves of other models are refused
        fps: 20.0,
        frames_per_chunk: 1,
        default_size: FrameSize::new(160, 90),
        size_multiple: 1,
        parameters: 0,
        notice: None,
        reads_text: true, // its colours come of the words
        holds_buttons: false,
        controls: Heeded::new([("forward", "on, back"), ("strafe", "aside"), ("yaw", "a turn")]),
        settings: Settings { steps: 1, first_steps: 1, guidance: 1.0, context_noise: 0.0 },
    };
    let script = ControlScript::parse("{\"tick\":0,\"keys\":[\"W\"],\"look\":[1,0]}\n{\"tick\":200}")?; // it begins by itself
    let options = explorer::ExploreOptions { script: Some(script), ..explorer::ExploreOptions::new("plain") };
    explorer::run_with(options, ModelLoader::new(move |_| Ok(Arc::new(Plain(info.clone())))))
}
