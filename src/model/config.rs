//! `config.json` of a model folder: everything that decides shapes.

use serde::Deserialize;

use crate::FrameSize;
use crate::checkpoint::Precision;
use crate::controls::{CONTROL_DIM, EXTRA_DIM};

/// A stack of transformer blocks.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrunkConfig {
    /// Numbers per token.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Blocks that also see earlier chunks.
    pub temporal: Vec<usize>,
    /// How many chunks back they see.
    pub offsets: Vec<usize>,
}

impl TrunkConfig {
    /// Numbers per token and head.
    pub fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    fn check(&self, name: &str) -> Result<(), String> {
        let in_range = |value: usize, most: usize, field: &str| match value {
            0 => Err(format!("{name}.{field} is 0")),
            v if v > most => Err(format!("{name}.{field} is {v}, above {most}")),
            _ => Ok(()),
        };
        in_range(self.width, 1 << 14, "width")?;
        in_range(self.heads, 1 << 10, "heads")?;
        in_range(self.layers, 1 << 10, "layers")?;
        if !self.width.is_multiple_of(4 * self.heads) {
            return Err(format!("{name}.width {} does not split into {} heads of 4n numbers", self.width, self.heads));
        }
        if !self.temporal.is_sorted_by(|a, b| a < b) || self.temporal.iter().any(|&layer| layer >= self.layers) {
            return Err(format!("{name}.temporal {:?} are no rising layers below {}", self.temporal, self.layers));
        }
        if self.offsets.iter().any(|&offset| offset == 0 || offset > 1 << 12)
            || self.temporal.is_empty() != self.offsets.is_empty()
        {
            return Err(format!("{name}.offsets {:?} are no numbers of chunks back", self.offsets));
        }
        Ok(())
    }
}

/// The whole model.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `dream`.
    pub family: String,
    /// A name for people.
    pub name: String,
    /// Pixels across, at the size trained at.
    pub width: usize,
    /// Pixels down, at the size trained at.
    pub height: usize,
    /// Frames per second.
    pub fps: f32,
    /// The camera's height above the ground in blocks, 0 to 100; at 0 walking moves nothing in view, as where a camera stands.
    pub eye: f32,
    /// Whether the VCN tells how near things are; else all is flat ground.
    #[serde(default)]
    pub depth: bool,
    /// Pixels across a token.
    pub patch: usize,
    /// Frames, and so ticks, of one latent.
    pub frames_per_chunk: usize,
    /// Numbers per tick of the controls: those of [`Controls::to_vector`](crate::Controls::to_vector) and `actions`.
    pub controls: usize,
    /// What the recorded game has beyond those: the names of [`Controls::extra`](crate::Controls::extra), as far as they are
    /// used.
    #[serde(default)]
    pub actions: Vec<String>,
    /// Length of a text embedding.
    pub text: usize,
    /// Numbers per token of a latent.
    pub latent: usize,
    /// Length of a conditioning vector.
    pub cond: usize,
    /// Channels of the convolutional part of the VCN.
    pub stem: usize,
    /// The VCN's encoder.
    pub encoder: TrunkConfig,
    /// The VCN's decoder.
    pub decoder: TrunkConfig,
    /// The diffusion transformer.
    pub dit: TrunkConfig,
    /// Rank of the changes of the DiT's weights where a block is broken or placed; 0 is none.
    #[serde(default)]
    pub edit_rank: usize,
    /// Denoising steps per chunk.
    pub steps: usize,
    /// Denoising steps of a chunk without a past.
    pub first_steps: usize,
    /// Scale of classifier-free guidance for a chunk without a past, 1 (none, for later chunks either) to 16.
    pub guidance: f32,
    /// Noise level at which the past is remembered.
    pub context_noise: f32,
    /// How the blocks of the DiT and of the VCN are computed: f32 or int8.
    #[serde(default)]
    pub precision: Precision,
}

impl Config {
    /// Pixels across a cell, which is a position of the VCN's convolutions.
    pub const CELL: usize = 4;

    /// Reads and checks the text of a `config.json`; an error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        config.check()?;
        Ok(config)
    }

    /// The size trained at.
    pub fn default_size(&self) -> FrameSize {
        FrameSize::new(self.width, self.height)
    }

    /// The block that tells how near things are.
    pub fn near(&self) -> TrunkConfig {
        TrunkConfig { layers: 1, temporal: vec![], offsets: vec![], ..self.decoder.clone() }
    }

    /// Cells across a token.
    pub fn cells(&self) -> usize {
        self.patch / Self::CELL
    }

    fn check(&self) -> Result<(), String> {
        for (name, value) in [
            ("patch", self.patch),
            ("frames_per_chunk", self.frames_per_chunk),
            ("text", self.text),
            ("latent", self.latent),
            ("cond", self.cond),
            ("stem", self.stem),
        ] {
            if value == 0 || value > 1 << 14 {
                return Err(format!("{name} is {value}, not 1 to {}", 1 << 14));
            }
        }
        if self.edit_rank > self.dit.width {
            return Err(format!("edit_rank is {}, above the DiT's width", self.edit_rank));
        }
        if self.actions.len() > EXTRA_DIM {
            return Err(format!("actions are {}, more than {EXTRA_DIM}", self.actions.len()));
        }
        let numbers = CONTROL_DIM + self.actions.len();
        if self.controls != numbers {
            return Err(format!("controls is {}, but a tick has {numbers}, with actions", self.controls));
        }
        if !self.patch.is_multiple_of(Self::CELL) {
            return Err(format!("patch {} is not a multiple of {}", self.patch, Self::CELL));
        }
        for (name, value) in [("width", self.width), ("height", self.height)] {
            if value == 0 || !value.is_multiple_of(self.patch) {
                return Err(format!("{name} {value} is not a multiple of patch {}", self.patch));
            }
        }
        for (name, steps) in [("steps", self.steps), ("first_steps", self.first_steps)] {
            if !(1..=64).contains(&steps) {
                return Err(format!("{name} is {steps}, not 1 to 64"));
            }
        }
        if !(1.0..=16.0).contains(&self.guidance) {
            return Err(format!("guidance is {}, not 1 to 16", self.guidance));
        }
        if !(0.0..=0.5).contains(&self.context_noise) {
            return Err(format!("context_noise is {}, not 0 to 0.5", self.context_noise));
        }
        if !(0.0..=100.0).contains(&self.eye) {
            return Err(format!("eye is {}, not 0 to 100", self.eye));
        }
        if !(self.fps.is_finite() && self.fps > 0.0) {
            return Err(format!("fps is {}", self.fps));
        }
        if !matches!(self.precision, Precision::F32 | Precision::Int8) {
            return Err("precision is neither f32 nor int8".into());
        }
        if !self.encoder.temporal.is_empty() {
            return Err("encoder.temporal is not empty, but chunks are encoded one by one".into());
        }
        self.encoder.check("encoder")?;
        self.decoder.check("decoder")?;
        self.dit.check("dit")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../../tests/fixtures/parity/config.json");

    #[test]
    fn a_good_config_is_read() {
        let config = Config::parse(GOOD).unwrap();
        assert_eq!((config.default_size(), config.dit.head_dim()), (FrameSize::new(48, 32), 16));
    }

    #[test]
    fn a_bad_config_names_the_field() {
        for (good, bad, field) in [
            ("\"latent\": 8", "\"latent\": 0", "latent"),
            ("\"latent\": 8", "\"latent\": 8, \"mystery\": 1", "mystery"),
            ("\"latent\": 8,", "", "latent"),
            ("\"heads\": 2", "\"heads\": 3", "encoder.width"),
            ("\"width\": 48", "\"width\": 50", "width 50"),
            ("\"controls\": 8", "\"controls\": 9", "controls"),
            ("\"actions\": []", "\"actions\": [\"dig\"]", "controls"),
            ("\"actions\": []", "\"actions\": [\"\", \"\", \"\", \"\", \"\"]", "actions"),
            ("\"steps\": 2", "\"steps\": 65", "steps is 65"),
            ("\"edit_rank\": 4", "\"edit_rank\": 33", "edit_rank is 33"),
            ("\"guidance\": 1.5", "\"guidance\": 0.5", "guidance"),
            ("\"context_noise\": 0.1", "\"context_noise\": 0.9", "context_noise"),
            ("\"fps\": 20.0", "\"fps\": 0.0", "fps"),
            ("\"eye\": 1.62", "\"eye\": -1.0", "eye"),
            ("\"precision\": \"f32\"", "\"precision\": \"int4\"", "int4"),
            ("\"precision\": \"f32\"", "\"precision\": \"q4\"", "precision"),
        ] {
            assert!(GOOD.contains(good), "{good}");
            let reason = Config::parse(&GOOD.replacen(good, bad, 1)).unwrap_err();
            assert!(reason.contains(field), "{reason}");
        }
    }
}
