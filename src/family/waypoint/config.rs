//! The sizes of the network, with the keys of the published `config.yaml`.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::checkpoint::{Precision, parse_json};
use crate::kernel::KeyValues;

/// A larger network is a mistake.
const MOST: usize = 1 << 14;
/// A larger picture is a mistake.
const MOST_TOKENS: usize = 1 << 16;

/// The published keys that decide shapes and numbers; others are of no account here.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the published names")]
pub struct Config {
    pub d_model: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    #[serde(default)]
    pub n_kv_heads: Option<usize>,
    pub mlp_ratio: usize,
    pub channels: usize,
    #[serde(default = "one_by_one")]
    pub patch: [usize; 2],
    /// Tokens down.
    pub height: usize,
    /// Tokens across.
    pub width: usize,
    pub local_window: usize,
    pub global_window: usize,
    pub global_attn_period: usize,
    #[serde(default)]
    pub global_attn_offset: i64,
    #[serde(default = "one")]
    pub global_pinned_dilation: usize,
    pub n_buttons: usize,
    pub ctrl_conditioning_period: usize,
    #[serde(default)]
    pub value_residual: bool,
    pub scheduler_sigmas: Vec<f32>,
    #[serde(default = "four")]
    pub temporal_compression: usize,
    #[serde(default = "sixty")]
    pub inference_fps: f32,
    #[serde(default)]
    /// How fully connected layers are held; the published configs do not say.
    pub precision: Precision,
    #[serde(default)]
    noise_conditioning: Option<String>,
    #[serde(default)]
    prompt_conditioning: Option<Value>,
    #[serde(default)]
    gated_attn: bool,
    #[serde(default)]
    moe: bool,
}

fn one() -> usize {
    1
}

fn four() -> usize {
    4
}

fn sixty() -> f32 {
    60.0
}

fn one_by_one() -> [usize; 2] {
    [1, 1]
}

impl Config {
    /// Reads and checks the text of a `config.json` or of a flat `config.yaml`; an error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value =
            if text.trim_start().starts_with('{') { parse_json(text)? } else { Value::Object(flat_yaml(text)?) };
        let config: Self = serde_json::from_value(value).map_err(|e| e.to_string())?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        for (name, value) in [
            ("d_model", self.d_model),
            ("n_layers", self.n_layers),
            ("n_heads", self.n_heads),
            ("n_kv_heads", self.kv_heads()),
            ("mlp_ratio", self.mlp_ratio),
            ("channels", self.channels),
            ("patch", self.patch[0]),
            ("height", self.height),
            ("width", self.width),
            ("local_window", self.local_window),
            ("global_window", self.global_window),
            ("global_attn_period", self.global_attn_period),
            ("global_pinned_dilation", self.global_pinned_dilation),
            ("n_buttons", self.n_buttons),
            ("ctrl_conditioning_period", self.ctrl_conditioning_period),
            ("temporal_compression", self.temporal_compression),
        ] {
            if !(1..=MOST).contains(&value) {
                return Err(format!("{name} is {value}, not 1 to {MOST}"));
            }
        }
        // Tables of places grow with them, whatever the weights are.
        if self.tokens() > MOST_TOKENS {
            return Err(format!("height x width is more than {MOST_TOKENS}"));
        }
        if !self.n_heads.is_multiple_of(self.kv_heads()) {
            return Err(format!("n_heads {} is not a multiple of n_kv_heads {}", self.n_heads, self.kv_heads()));
        }
        if !self.d_model.is_multiple_of(16 * self.n_heads) {
            return Err(format!("d_model {} does not split into {} heads of 16n numbers", self.d_model, self.n_heads));
        }
        if self.patch[0] != self.patch[1] {
            return Err(format!("patch {:?} is no square", self.patch));
        }
        if !self.global_window.is_multiple_of(self.global_pinned_dilation) {
            return Err(format!(
                "global_window {} is not a multiple of global_pinned_dilation {}",
                self.global_window, self.global_pinned_dilation
            ));
        }
        let falls = self.scheduler_sigmas.is_sorted_by(|a, b| a > b);
        if !falls || !(2..=65).contains(&self.scheduler_sigmas.len()) || self.scheduler_sigmas.last() != Some(&0.0) {
            return Err(format!("scheduler_sigmas {:?} do not fall to 0", self.scheduler_sigmas));
        }
        if self.prompt_conditioning.as_ref().is_some_and(|value| !value.is_null()) {
            return Err("prompt_conditioning: models that read text are not supported".into());
        }
        if self.gated_attn || self.moe || self.noise_conditioning.as_deref().is_some_and(|kind| kind != "wan") {
            return Err("gated_attn, moe or noise_conditioning: of another generation than 1.5".into());
        }
        if !(self.inference_fps.is_finite() && self.inference_fps > 0.0) {
            return Err(format!("inference_fps is {}", self.inference_fps));
        }
        Ok(())
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.n_kv_heads.unwrap_or(self.n_heads)
    }

    /// Numbers per head.
    pub fn head_dim(&self) -> usize {
        self.d_model / self.n_heads
    }

    /// Tokens of a frame.
    pub fn tokens(&self) -> usize {
        self.height * self.width
    }

    /// Side of a patch.
    pub fn side(&self) -> usize {
        self.patch[0]
    }

    /// Numbers of a patch.
    pub fn patch_len(&self) -> usize {
        self.channels * self.side() * self.side()
    }

    /// The shape `[channels, height, width]` of a latent.
    pub fn latent(&self) -> [usize; 3] {
        [self.channels, self.height * self.side(), self.width * self.side()]
    }

    /// Numbers that tell the controls: mouse x and y, buttons, wheel.
    pub fn controls(&self) -> usize {
        self.n_buttons + 3
    }

    /// Whether a layer is told the controls.
    pub fn sees_controls(&self, layer: usize) -> bool {
        layer.is_multiple_of(self.ctrl_conditioning_period)
    }

    /// How many frames a layer remembers, and that it remembers every so manieth.
    pub fn memory(&self, layer: usize) -> (usize, usize) {
        let global = (layer as i64 - self.global_attn_offset).rem_euclid(self.global_attn_period as i64) == 0;
        if global {
            (self.global_window / self.global_pinned_dilation, self.global_pinned_dilation)
        } else {
            (self.local_window, 1)
        }
    }

    /// Bytes of a full memory.
    pub fn memory_bytes(&self) -> u64 {
        let frames: usize = (0..self.n_layers).map(|layer| self.memory(layer).0).sum();
        frames as u64 * KeyValues::bytes(self.tokens(), self.kv_heads(), self.head_dim()) as u64
    }

    /// Operations (a multiplication and an addition are two) of one pass over a frame of a world with a full memory.
    pub fn flop(&self) -> f64 {
        let kv = (self.kv_heads() * self.head_dim()) as f64;
        let (tokens, width) = (self.tokens() as f64, self.d_model as f64);
        let layer = |layer: usize| {
            let weights = 2.0 * width * (width + kv) + 2.0 * width * width * self.mlp_ratio as f64;
            let controls = if self.sees_controls(layer) { 2.0 * width * width } else { 0.0 };
            let seen = (self.memory(layer).0 + 1) as f64 * tokens;
            2.0 * tokens * (weights + controls + 2.0 * width * seen)
        };
        (0..self.n_layers).map(layer).sum::<f64>() + 4.0 * tokens * width * self.patch_len() as f64
    }
}

/// A YAML file of one level: `key: value`, where a value is a number, a word, a list in brackets or a list of lines.
fn flat_yaml(text: &str) -> Result<Map<String, Value>, String> {
    let mut map = Map::new();
    let mut last = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.split(" #").next().unwrap_or_default().trim_end();
        let wrong = || format!("line {} is not 'key: value'", number + 1);
        let value =
            |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.trim_matches(['"', '\''])));
        if line.trim().is_empty() || line.starts_with('#') || line == "---" {
            continue;
        }
        if let Some(item) = line.trim_start().strip_prefix("- ") {
            let list: &mut Value = last.as_ref().and_then(|key: &String| map.get_mut(key)).ok_or_else(wrong)?;
            match list {
                Value::Array(items) => items.push(value(item.trim())),
                Value::Null => *list = Value::Array(vec![value(item.trim())]),
                _ => return Err(wrong()),
            }
            continue;
        }
        if line.starts_with(' ') {
            // The insides of a group that decides nothing here.
            continue;
        }
        let (key, rest) = line.split_once(':').ok_or_else(wrong)?;
        let rest = rest.trim();
        let found = if rest.is_empty() || rest == "~" { Value::Null } else { value(rest) };
        if map.insert(key.trim().into(), found).is_some() {
            return Err(format!("line {}: '{key}' appears twice", number + 1));
        }
        last = Some(key.trim().to_owned());
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_yaml_is_read() {
        let text = "# a comment\nmodel_type: waypoint-1.5\nd_model: 2048\nn_layers: 24\nn_heads: 32\nn_kv_heads: 16\nmlp_ratio: 4\n\
            channels: 32\npatch: [2, 2]\nheight: 16\nwidth: 32\nlocal_window: 16\nglobal_window: 128\nglobal_attn_period: 4\n\
            global_attn_offset: -1\nglobal_pinned_dilation: 8\nn_buttons: 256\nctrl_conditioning_period: 3\n\
            value_residual: true\nprompt_conditioning: null\nscheduler_sigmas:\n- 1.0\n- 0.9\n- 0.75\n- 0.3\n- 0.0\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(
            (config.tokens(), config.latent(), config.memory(3), config.memory(4)),
            (512, [32, 32, 64], (16, 8), (16, 1))
        );
        let pass = config.flop() * 1e-12;
        assert!((pass - 2.08).abs() < 0.05, "{pass}");
        for (part, other, reason) in [
            ("n_heads: 32", "n_heads: 24", "n_heads 24 is not a multiple"),
            ("- 0.0", "- 0.4", "do not fall to 0"),
            ("null", "true", "models that read text"),
            ("d_model: 2048", "d_model: 2048\nd_model: 1", "appears twice"),
            ("n_layers: 24", "n_layers: 1000000000", "n_layers is 1000000000"),
            ("n_layers: 24", "n_layers", "line 4"),
        ] {
            let found = Config::parse(&text.replacen(part, other, 1)).unwrap_err();
            assert!(found.contains(reason), "{found}");
        }
    }
}
