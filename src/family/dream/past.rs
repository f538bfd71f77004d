//! What a world remembers.

use candle_core::{DType, Device, Tensor};

use super::Networks;
use crate::Result;
use crate::model::RolloutState;
use crate::model::action::Camera;
use crate::model::cache::{Memory, saved, saved_camera};
use crate::model::dit::Chunk;
use crate::model::patch::Grid;

/// What is remembered of the chunks so far.
pub struct Past {
    /// At the end of the last chunk.
    pub camera: Camera,
    /// Latents as remembered, the newest first; zeros where there are none.
    pub before: [Tensor; 2],
    pub dit: Memory,
    pub decoder: Memory,
    /// Whether nothing has been remembered.
    pub empty: bool,
}

impl Past {
    /// Nothing.
    pub fn new(networks: &Networks, tokens: usize) -> Result<Self> {
        let c = &networks.config;
        let nothing = Tensor::zeros((tokens, c.latent), DType::F32, &networks.device)?;
        Ok(Self {
            camera: Camera::default(),
            before: [nothing.clone(), nothing],
            dit: Memory::new(&c.dit.offsets),
            decoder: Memory::new(&c.decoder.offsets),
            empty: true,
        })
    }

    /// What the DiT is told of the next chunk, at whose end the camera stands at `camera`.
    pub fn chunk<'a>(&'a self, networks: &Networks, camera: &Camera, grid: &'a Grid) -> Result<Chunk<'a>> {
        let recall = networks.dit.blocks().recall(&self.dit, camera, grid)?;
        Ok(Chunk { grid, before: [&self.before[0], &self.before[1]], recall })
    }

    /// Adds all of it to `state`.
    pub fn save(&self, state: &mut RolloutState) -> Result<()> {
        if self.empty {
            return Ok(());
        }
        state.insert("camera".into(), Tensor::new(&self.camera.to_array(), &Device::Cpu)?);
        for (i, latent) in self.before.iter().enumerate() {
            state.insert(format!("before.{i}"), latent.clone());
        }
        self.dit.save("dit", state)?;
        self.decoder.save("decoder", state)
    }

    /// The past that [`Past::save`] saved, for the grids of the DiT and of the VCN's decoder.
    pub fn restore(networks: &Networks, state: &RolloutState, dit: &Grid, decoder: &Grid) -> Result<Self> {
        let c = &networks.config;
        let mut past = Self::new(networks, dit.tokens())?;
        if state.contains_key("camera") {
            past.empty = false;
            past.camera = saved_camera(state, "camera")?;
            for (i, latent) in past.before.iter_mut().enumerate() {
                let name = format!("before.{i}");
                *latent = saved(state, &name, &[dit.tokens(), c.latent])?.to_device(&networks.device)?;
            }
            past.dit = Memory::restore("dit", state, &c.dit, dit)?;
            past.decoder = Memory::restore("decoder", state, &c.decoder, decoder)?;
        }
        Ok(past)
    }
}
