//! The arithmetic of a chunk, counted from the config. Convolutions and matrix products count, the rest is small.

use super::config::{Config, TrunkConfig};
use crate::FrameSize;

impl TrunkConfig {
    /// Operations of a pass over `tokens` tokens with a full memory.
    fn flop(&self, tokens: usize, cond: usize) -> usize {
        self.layers * self.block_flop(tokens, cond) + self.temporal.len() * self.recall_flop(tokens)
    }

    /// Operations up to the keys and values of the last layer that is remembered.
    fn remember_flop(&self, tokens: usize, cond: usize) -> usize {
        let Some(&last) = self.temporal.last() else { return 0 };
        let keys_and_values = 2 * tokens * self.width * 3 * self.width;
        last * self.block_flop(tokens, cond) + (self.temporal.len() - 1) * self.recall_flop(tokens) + keys_and_values
    }

    /// Projections (12 width² weights), attention inside the chunk, modulation.
    fn block_flop(&self, tokens: usize, cond: usize) -> usize {
        24 * tokens * self.width * self.width + 4 * tokens * tokens * self.width + 12 * cond * self.width
    }

    /// Attention of one layer to earlier chunks.
    fn recall_flop(&self, tokens: usize) -> usize {
        4 * tokens * tokens * self.offsets.len() * self.width
    }
}

impl Config {
    /// Floating-point operations (a multiplication and an addition are two) of one chunk of `size` after dreamed ones: foreseeing,
    /// `steps` denoising steps, of which the first asks twice if there is any `guidance`, decoding and remembering.
    pub fn flop_per_chunk(&self, size: FrameSize, steps: usize, guidance: f32) -> usize {
        let tokens = size.pixels() / (self.patch * self.patch);
        let cells = size.pixels() / (Self::CELL * Self::CELL);
        let embed = 2 * tokens * 4 * self.latent * self.dit.width;
        let denoise = embed + self.dit.flop(tokens, self.cond) + 2 * tokens * self.dit.width * self.latent;
        let remember = embed + self.dit.remember_flop(tokens, self.cond);
        let residual = 4 * 2 * 9 * cells * self.stem * self.stem; // two blocks of two 3x3 convolutions
        let foresee = 2 * cells * self.stem * Self::CELL * Self::CELL * 3 * self.frames_per_chunk
            + residual
            + 2 * tokens * self.encoder.width * self.cells() * self.cells() * self.stem
            + self.encoder.flop(tokens, self.cond)
            + 2 * tokens * self.latent * self.encoder.width;
        let decode = 2 * tokens * self.latent * self.decoder.width
            + self.decoder.flop(tokens, self.cond)
            + 2 * tokens * self.decoder.width * self.cells() * self.cells() * self.stem
            + residual
            + 2 * cells * self.stem * Self::CELL * Self::CELL * 3 * (2 * self.frames_per_chunk - 1);
        let numbers = self.cells() * self.cells();
        let head = 2 * tokens * self.decoder.width * (self.decoder.width + 2 * numbers)
            + self.decoder.block_flop(tokens, self.cond);
        foresee + (steps + usize::from(guidance > 1.0)) * denoise + decode + usize::from(self.depth) * head + remember
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_costs_about_two_operations_a_weight_and_token() {
        let config = Config::parse(include_str!("../../tests/fixtures/parity/config.json")).unwrap();
        let size = config.default_size();
        let tokens = size.pixels() / (config.patch * config.patch);
        let step = config.flop_per_chunk(size, 2, 1.0) - config.flop_per_chunk(size, 1, 1.0);
        let weights = config.dit.layers * 12 * config.dit.width * config.dit.width;
        let attention = step as f64 / (2 * weights * tokens) as f64;
        assert!((1.0..1.6).contains(&attention), "{attention}");
        // Twice the area costs at least twice as much.
        let wide = FrameSize::new(2 * size.width, size.height);
        assert!(config.flop_per_chunk(wide, 1, 1.0) > 2 * config.flop_per_chunk(size, 1, 1.0));
    }
}
