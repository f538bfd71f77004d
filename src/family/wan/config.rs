//! The sizes of the network, with the arguments of the reference's constructor as keys, and how it is sampled.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::sampler::Sampler;
use crate::checkpoint::{Adapter, Precision, parse_json};
use crate::family::umt5;
use crate::kernel::KeyValues;

/// A larger network is a mistake.
const MOST: usize = 1 << 16;
/// Tokens that the reference's memory holds where no window is stated.
const MEMORY: usize = 32_760;

/// The published keys that decide shapes and numbers, those of the 1.3B model where absent; others are of no account.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the published names")]
pub struct Config {
    model_type: String,
    pub(super) patch_size: [usize; 3],
    /// Rows of text that are seen; those that a prompt does not fill are zero.
    pub text_len: usize,
    pub in_dim: usize,
    pub dim: usize,
    pub ffn_dim: usize,
    pub freq_dim: usize,
    pub text_dim: usize,
    out_dim: usize,
    pub num_heads: usize,
    pub num_layers: usize,
    /// Latent frames that are seen, those under way included; -1 are as many as the reference has room for.
    local_attn_size: i64,
    /// The first frames, which are never forgotten.
    pub sink_size: usize,
    pub qk_norm: bool,
    pub cross_attn_norm: bool,
    pub eps: f32,
    pub sampler: Sampler,
    pub text_encoder: umt5::Config,
    /// How a LoRA beside the weights is merged into them.
    pub adapter: Adapter,
    /// How fully connected layers are held; the published configs do not say.
    pub precision: Precision,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model_type: "t2v".into(),
            patch_size: [1, 2, 2],
            text_len: 512,
            in_dim: 16,
            dim: 1536,
            ffn_dim: 8960,
            freq_dim: 256,
            text_dim: 4096,
            out_dim: 16,
            num_heads: 12,
            num_layers: 30,
            local_attn_size: -1,
            sink_size: 0,
            qk_norm: true,
            cross_attn_norm: true,
            eps: 1e-6,
            sampler: Sampler::default(),
            text_encoder: umt5::Config::default(),
            adapter: Adapter::default(),
            precision: Precision::default(),
        }
    }
}

impl Config {
    /// The published `LongLive`.
    pub fn longlive() -> Self {
        Self { local_attn_size: 12, sink_size: 3, ..Self::default() }
    }

    /// Reads and checks the text of a `config.json`; an error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut value = parse_json(text)?;
        if let Some(keys) = value.as_object_mut() {
            as_published(keys)?;
        }
        let config: Self = serde_json::from_value(value).map_err(|e| e.to_string())?;
        config.sampler.check()?;
        config.check()?;
        config.text_encoder.check().map_err(|reason| format!("text_encoder: {reason}"))?;
        config.adapter.check().map_err(|reason| format!("adapter: {reason}"))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        for (name, value) in [
            ("text_len", self.text_len),
            ("in_dim", self.in_dim),
            ("dim", self.dim),
            ("ffn_dim", self.ffn_dim),
            ("freq_dim", self.freq_dim),
            ("text_dim", self.text_dim),
            ("num_heads", self.num_heads),
            ("num_layers", self.num_layers),
            ("patch_size", self.side()),
        ] {
            if !(1..=MOST).contains(&value) {
                return Err(format!("{name} is {value}, not 1 to {MOST}"));
            }
        }
        if self.model_type != "t2v" {
            return Err(format!("model_type is {}: only models that read nothing but text (t2v)", self.model_type));
        }
        if self.patch_size != [1, self.side(), self.side()] {
            return Err(format!("patch_size {:?} is no square of one frame", self.patch_size));
        }
        if self.in_dim != self.out_dim {
            return Err(format!("in_dim {} is not out_dim {}", self.in_dim, self.out_dim));
        }
        if !self.dim.is_multiple_of(2 * self.num_heads) || !self.freq_dim.is_multiple_of(2) {
            return Err(format!("dim {} does not split into {} heads of pairs", self.dim, self.num_heads));
        }
        if !(self.eps > 0.0 && self.eps < 1.0) {
            return Err(format!("eps is {}", self.eps));
        }
        if self.sink_size > MOST {
            return Err(format!("sink_size is {}, more than {MOST}", self.sink_size));
        }
        let least = self.sink_size + self.sampler.num_frame_per_block;
        let window = usize::try_from(self.local_attn_size);
        if self.local_attn_size != -1 && !window.is_ok_and(|window| (least..=MOST).contains(&window)) {
            return Err(format!(
                "local_attn_size is {}, not -1 and not {least} (sink_size and a block) to {MOST}",
                self.local_attn_size
            ));
        }
        Ok(())
    }

    /// Side of a patch.
    pub fn side(&self) -> usize {
        self.patch_size[2]
    }

    /// Numbers of a patch.
    pub fn patch_len(&self) -> usize {
        self.in_dim * self.side() * self.side()
    }

    /// Numbers per head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.num_heads
    }

    /// Latent frames that are seen where a frame has so many `tokens`, those under way included.
    pub fn window(&self, tokens: usize) -> usize {
        let least = self.sink_size + self.sampler.num_frame_per_block;
        usize::try_from(self.local_attn_size).unwrap_or(MEMORY / tokens.max(1)).max(least)
    }

    /// Bytes of a full memory of frames of so many `tokens`.
    pub fn memory_bytes(&self, tokens: usize) -> u64 {
        let frames = self.num_layers * self.window(tokens);
        frames as u64 * KeyValues::bytes(tokens, self.num_heads, self.head_dim()) as u64
    }

    /// Operations (a multiplication and an addition are two) of one pass over a block of a world with a full memory.
    pub fn flop(&self, tokens: usize) -> f64 {
        let (own, width) = ((self.sampler.num_frame_per_block * tokens) as f64, self.dim as f64);
        let weights = 6.0 * width * width + 2.0 * width * self.ffn_dim as f64;
        let seen = (self.window(tokens) * tokens + self.text_len) as f64;
        let layer = 2.0 * own * (weights + 2.0 * width * seen);
        self.num_layers as f64 * layer + 4.0 * own * width * self.patch_len() as f64
    }
}

/// Spells the keys of a config of diffusers as the reference does.
fn as_published(keys: &mut Map<String, Value>) -> Result<(), String> {
    if let Some(heads) = keys.remove("num_attention_heads") {
        let size = keys.remove("attention_head_dim").and_then(|size| size.as_u64());
        let dim = heads.as_u64().zip(size).and_then(|(heads, size)| heads.checked_mul(size));
        keys.insert("dim".into(), dim.ok_or("num_attention_heads of attention_head_dim are no width")?.into());
        keys.insert("num_heads".into(), heads);
        let norm = keys.get("qk_norm").is_some_and(|norm| !norm.is_null());
        keys.insert("qk_norm".into(), norm.into());
    }
    for (theirs, ours) in [("in_channels", "in_dim"), ("out_channels", "out_dim")] {
        if let Some(value) = keys.remove(theirs) {
            keys.insert(ours.into(), value);
        }
    }
    if keys.get("image_dim").is_some_and(|dim| !dim.is_null()) {
        return Err("image_dim: only models that read nothing but text".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_config_is_read_and_bad_ones_are_refused() {
        let text = r#"{"_class_name": "WanModel", "dim": 1536, "eps": 1e-06, "ffn_dim": 8960, "freq_dim": 256, "in_dim": 16,
            "model_type": "t2v", "num_heads": 12, "num_layers": 30, "out_dim": 16, "text_len": 512}"#;
        let config = Config::parse(text).unwrap();
        assert_eq!((config.window(1560), config.window(390), config.patch_len()), (21, 84, 64));
        // Five passes a block: 202 TFLOP at 832x480.
        let block = 5.0 * config.flop(1560) * 1e-12;
        assert!((block - 202.0).abs() < 10.0, "{block}");
        for (other, reason) in [
            (r#"{"num_attention_heads": 12}"#, "num_attention_heads of attention_head_dim"),
            (r#"{"image_dim": 1280}"#, "image_dim"),
            (r#"{"num_layers": 1000000000}"#, "num_layers is 1000000000"),
            (r#"{"model_type": "i2v"}"#, "model_type is i2v"),
            (r#"{"num_heads": 7}"#, "does not split into 7 heads"),
            (r#"{"patch_size": [2, 2, 2]}"#, "no square of one frame"),
            (r#"{"local_attn_size": 4, "sink_size": 2}"#, "local_attn_size is 4"),
            (r#"{"sink_size": 18446744073709551615}"#, "sink_size is 18446744073709551615"),
            (r#"{"sampler": {"denoising_step_list": []}}"#, "denoising_step_list"),
            (r#"{"sampler": {"denoising_step_list": [1001]}}"#, "denoising_step_list"),
            (r#"{"sampler": {"timestep_shift": 0}}"#, "timestep_shift is 0"),
            (r#"{"sampler": {"num_frame_per_block": 0}}"#, "num_frame_per_block is 0"),
        ] {
            let found = Config::parse(other).unwrap_err();
            assert!(found.contains(reason), "{other}: {found}");
        }
    }
}
