//! What a world remembers.

use candle_core::{Device, Tensor};
use smallvec::SmallVec;

use super::Networks;
use crate::kernel::Array;
use crate::model::RolloutState;
use crate::model::action::Camera;
use crate::model::cache::Memory;
use crate::model::config::Config;
use crate::model::dit::Chunk;
use crate::model::patch::{Grid, cells_to_tokens};
use crate::model::views::{Sight, Views};
use crate::{Controls, Result};

/// The chunk to come, if nothing but the camera moves.
pub struct Foreseen {
    /// `[tokens, latent]`: zeros when nothing has been seen yet.
    pub latent: Array,
    /// Of each of a token's cells how much is unknown, and how much far away and bare, 0..1: `[tokens, cells * 2]`, on the CPU.
    pub unseen: Array,
}

/// What is remembered of the chunks so far.
pub struct Past {
    /// At the end of the last chunk.
    pub camera: Camera,
    /// Latents as remembered, the newest first; zeros where there are none.
    pub before: [Array; 2],
    /// What is still in view.
    pub views: Views,
    /// Chunks dreamed since the last true one, as far as the DiT looks back.
    dreamed: usize,
    pub dit: Memory,
    pub decoder: Memory,
}

impl Past {
    /// Nothing, with the camera at `camera`.
    pub fn new(networks: &Networks, camera: Camera, tokens: usize) -> Result<Self> {
        let c = &networks.config;
        let nothing = Array::zeros(&[tokens, c.latent], &networks.device)?;
        let dit = Memory::new(&c.dit.offsets);
        Ok(Self {
            camera,
            before: [nothing.clone(), nothing],
            views: Views::default(),
            dreamed: dit.reach(),
            dit,
            decoder: Memory::new(&c.decoder.offsets),
        })
    }

    /// Whether nothing has been remembered.
    pub fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    /// Remembers that the newest chunk was dreamed, or that it is a true one.
    pub fn count(&mut self, dreamed: bool) {
        self.dreamed = if dreamed { (self.dreamed + 1).min(self.dit.reach()) } else { 0 };
    }

    /// Whether the DiT will see no true chunk when it dreams the next one.
    pub fn is_dreamed(&self) -> bool {
        self.dreamed >= self.dit.reach()
    }

    /// Whether the DiT looks back to no more chunks than there are.
    pub fn is_long(&self) -> bool {
        self.dit.back(self.dit.reach()).is_some()
    }

    /// The chunk to come under `controls`, whose `features` are these.
    pub fn foresee(
        &self,
        networks: &Networks,
        controls: &[Controls],
        features: &Array,
        encoder: &Grid,
    ) -> Result<Foreseen> {
        let cameras: SmallVec<[_; 4]> =
            (1..=controls.len()).map(|ticks| self.camera.after(&controls[..ticks])).collect();
        match self.views.see(&cameras, networks.config.eye, &networks.device)? {
            Some(Sight { cells, unseen }) => {
                let unseen = cells_to_tokens(&unseen, networks.config.cells())?;
                Ok(Foreseen { latent: networks.vcn.encode(cells, features, encoder)?, unseen })
            }
            None => Ok(Foreseen {
                latent: Array::zeros(self.before[0].dims(), &networks.device)?,
                unseen: Array::new(&[encoder.tokens(), 2], &Device::Cpu, |unseen| unseen.fill(1.0))?,
            }),
        }
    }

    /// What the DiT is told of the next chunk, at whose end the camera stands at `camera`.
    pub fn chunk<'a>(
        &'a self,
        networks: &Networks,
        camera: &Camera,
        grid: &'a Grid,
        foreseen: &'a Array,
    ) -> Result<Chunk<'a>> {
        let recall = networks.dit.blocks().recall(&self.dit, camera, grid)?;
        let before = [&self.before[0], &self.before[1]];
        Ok(Chunk { grid, before, foreseen, begins: self.is_empty(), recall })
    }

    /// Adds all of it to `state`.
    pub fn save(&self, state: &mut RolloutState) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        self.views.save(state)?;
        state.insert("camera", Tensor::new(&self.camera.to_array(), &Device::Cpu)?);
        state.insert("dreamed", Tensor::new(&[self.dreamed as f32], &Device::Cpu)?);
        for (i, latent) in self.before.iter().enumerate() {
            state.insert(format!("before.{i}"), latent.tensor()?);
        }
        self.dit.save("dit", state)?;
        self.decoder.save("decoder", state)
    }

    /// The past that [`Past::save`] saved, for the grids of the DiT and of the VCN's decoder.
    pub fn restore(networks: &Networks, state: &RolloutState, dit: &Grid, decoder: &Grid) -> Result<Self> {
        let c = &networks.config;
        let mut past = Self::new(networks, Camera::default(), dit.tokens())?;
        if state.contains("camera") {
            let (side, numbers) = (c.cells(), Config::CELL * Config::CELL * 3);
            past.views = Views::restore(state, &[dit.height * side, dit.width * side, numbers], Config::CELL)?;
            past.camera = state.camera("camera")?;
            past.dreamed = state.tensor("dreamed", &[1])?.to_vec1::<f32>()?[0] as usize;
            for (i, latent) in past.before.iter_mut().enumerate() {
                let name = format!("before.{i}");
                *latent =
                    Array::from_tensor(&state.tensor(&name, &[dit.tokens(), c.latent])?.to_device(&networks.device)?)?;
            }
            past.dit = Memory::restore("dit", state, &c.dit, dit)?;
            past.decoder = Memory::restore("decoder", state, &c.decoder, decoder)?;
        }
        Ok(past)
    }
}
