//! The encoder of umT5 (Chung et al. 2023), which reads prompts for Wan: a T5 encoder with position biases of its own in
//! every layer.
//!
//! The published one has 5.7 billion weights and is needed once a prompt. So it is never held: its layers are read one by
//! one while the prompt goes through them, and of the embeddings only the rows of the prompt's tokens.

use std::path::Path;

use candle_core::{D, Device, Tensor};
use candle_nn::ops::softmax;
use serde::Deserialize;

use super::layer::{numbers, rms_scale};
use crate::checkpoint::{Index, Layout, Size, Vars, Weights, checkpoints, find, folder_of, read_config};
use crate::{Error, Result};

/// What a user should know of the rights.
pub const NOTICE: &str = "umt5 is a text encoder of Google, published under the Apache licence 2.0";

/// A tensor that only this network has.
pub const KEY: &str = "shared.weight";
/// The same, as the authors of Wan spell it.
const WAN_KEY: &str = "token_embedding.weight";
/// Another name for the embeddings.
const ALIAS: &str = "embed_tokens.weight";
/// A larger network is a mistake.
const MOST: usize = 1 << 20;
/// Parts of a layer's names as the authors of Wan spell them, and in transformers.
const WAN: [(&str, &str); 10] = [
    ("attn.q.", "layer.0.SelfAttention.q."),
    ("attn.k.", "layer.0.SelfAttention.k."),
    ("attn.v.", "layer.0.SelfAttention.v."),
    ("attn.o.", "layer.0.SelfAttention.o."),
    ("pos_embedding.embedding.", "layer.0.SelfAttention.relative_attention_bias."),
    ("norm1.", "layer.0.layer_norm."),
    ("norm2.", "layer.1.layer_norm."),
    ("ffn.gate.0.", "layer.1.DenseReluDense.wi_0."),
    ("ffn.fc1.", "layer.1.DenseReluDense.wi_1."),
    ("ffn.fc2.", "layer.1.DenseReluDense.wo."),
];

/// The sizes, with the keys of transformers; those of umT5-xxl where absent.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the published names")]
pub struct Config {
    pub d_model: usize,
    pub d_kv: usize,
    pub d_ff: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub vocab_size: usize,
    pub relative_attention_num_buckets: usize,
    pub relative_attention_max_distance: usize,
    pub layer_norm_epsilon: f32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            d_model: 4096,
            d_kv: 64,
            d_ff: 10_240,
            num_layers: 24,
            num_heads: 64,
            vocab_size: 256_384,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
        }
    }
}

/// What decides the shapes.
const SIZES: &[Size<Config>] = &[
    ("d_model", |c| c.d_model *= 2),
    ("d_kv", |c| c.d_kv *= 2),
    ("num_heads", |c| c.num_heads *= 2),
    ("d_ff", |c| c.d_ff *= 2),
    ("vocab_size", |c| c.vocab_size *= 2),
    ("relative_attention_num_buckets", |c| c.relative_attention_num_buckets *= 2),
];

impl Config {
    /// Reads and checks the text of a `config.json`; an error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        config.check()?;
        Ok(config)
    }

    /// Checks the sizes; an error says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        for (name, value, least) in [
            ("d_model", self.d_model, 1),
            ("d_kv", self.d_kv, 1),
            ("d_ff", self.d_ff, 1),
            ("num_layers", self.num_layers, 1),
            ("num_heads", self.num_heads, 1),
            ("vocab_size", self.vocab_size, 1),
            ("relative_attention_num_buckets", self.relative_attention_num_buckets, 4),
            ("relative_attention_max_distance", self.relative_attention_max_distance, 1),
        ] {
            if !(least..=MOST).contains(&value) {
                return Err(format!("{name} is {value}, not {least} to {MOST}"));
            }
        }
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets / 4 {
            return Err("relative_attention_max_distance is within the buckets of single steps".into());
        }
        if !(self.layer_norm_epsilon > 0.0 && self.layer_norm_epsilon < 1.0) {
            return Err(format!("layer_norm_epsilon is {}", self.layer_norm_epsilon));
        }
        Ok(())
    }

    /// The shapes of all tensors by name, as transformers spells them.
    pub fn layout(&self) -> Layout {
        let (width, inner) = (self.d_model, self.num_heads * self.d_kv);
        let mut layout = Layout::from([
            (KEY.to_owned(), vec![self.vocab_size, width]),
            ("encoder.final_layer_norm.weight".to_owned(), vec![width]),
        ]);
        for i in 0..self.num_layers {
            for (name, shape) in [
                ("0.SelfAttention.q", vec![inner, width]),
                ("0.SelfAttention.k", vec![inner, width]),
                ("0.SelfAttention.v", vec![inner, width]),
                ("0.SelfAttention.o", vec![width, inner]),
                ("0.SelfAttention.relative_attention_bias", vec![self.relative_attention_num_buckets, self.num_heads]),
                ("0.layer_norm", vec![width]),
                ("1.DenseReluDense.wi_0", vec![self.d_ff, width]),
                ("1.DenseReluDense.wi_1", vec![self.d_ff, width]),
                ("1.DenseReluDense.wo", vec![width, self.d_ff]),
                ("1.layer_norm", vec![width]),
            ] {
                layout.insert(format!("encoder.block.{i}.layer.{name}.weight"), shape);
            }
        }
        layout
    }

    /// Compares every name and shape of a checkpoint, spelled as transformers does it, with those of these sizes.
    ///
    /// # Errors
    /// [`Error::Model`] naming the first that is missing, of another shape or left over.
    pub fn check_index(&self, index: &Index) -> Result<()> {
        index.check_layers("num_layers", self.num_layers)?;
        index.check(self, SIZES, Self::layout, &[ALIAS])
    }

    /// The bucket of a key that lies `distance` after the query. Rounded as PyTorch does it.
    pub fn bucket(&self, distance: i64) -> usize {
        let half = self.relative_attention_num_buckets / 2;
        let exact = half / 2;
        let (side, steps) = (if distance > 0 { half } else { 0 }, distance.unsigned_abs() as usize);
        if steps < exact {
            return side + steps;
        }
        let scale = (self.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
        let log = (steps as f32 / exact as f32).ln() / scale * (half - exact) as f32;
        side + (exact + log as usize).min(half - 1)
    }
}

/// The same checkpoint with its tensors spelled as in transformers, however they are in the file.
///
/// # Errors
/// [`Error::Model`] when two of them get the same name.
pub fn as_published(index: Index) -> Result<Index> {
    if !index.tensors().contains_key(WAN_KEY) {
        return Ok(index);
    }
    index.renamed(|name| match (name, name.strip_prefix("blocks.")) {
        (WAN_KEY, _) => KEY.into(),
        ("norm.weight", _) => "encoder.final_layer_norm.weight".into(),
        (_, Some(rest)) => {
            WAN.iter().fold(format!("encoder.block.{rest}"), |name, (theirs, ours)| name.replace(theirs, ours))
        }
        _ => name.into(),
    })
}

/// The number of weights of a checkpoint, whose every name and shape is checked from its headers alone.
///
/// # Errors
/// As of [`Index::open`]; [`Error::Model`] when it is not what the `config.json` beside it makes.
pub fn check(path: &Path) -> Result<usize> {
    let config = folder_of(path).join("config.json");
    let config = if config.exists() { read_config(&config, Config::parse)? } else { Config::default() };
    let [index] = find(path, checkpoints(path), [KEY], 1, as_published)?;
    let index = index.ok_or_else(|| Error::model(path, format!("no umT5 here: no file has '{KEY}'")))?;
    config.check_index(&index)?;
    Ok(index.parameters())
}

/// The encoder, on disk.
pub struct Umt5 {
    config: Config,
    weights: Weights,
}

impl Umt5 {
    /// Reads the headers of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Model`] when it is damaged or not of these sizes.
    pub fn open(path: &Path, config: &Config) -> Result<Self> {
        let index = as_published(Index::open(path)?)?;
        config.check_index(&index)?;
        Ok(Self { config: config.clone(), weights: Weights::new(index, &Device::Cpu) })
    }

    /// Sixteen digits that tell encoders apart, as of [`Index::fingerprint`].
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        Ok(self.weights.fingerprint()?[..16].to_owned())
    }

    /// The embeddings `[tokens, d_model]` of a text of at least one token.
    ///
    /// # Errors
    /// [`Error::Input`] when there is no token or one is unknown, [`Error::Model`] when weights are not finite.
    pub fn encode(self, tokens: &[u32]) -> Result<Tensor> {
        let (c, vars) = (&self.config, self.weights.vars());
        if tokens.is_empty() || tokens.iter().any(|&token| token as usize >= c.vocab_size) {
            return Err(Error::input(format!("a text is one token or more below {}", c.vocab_size)));
        }
        let mut x = vars.rows(KEY, &[c.vocab_size, c.d_model], tokens)?;
        let buckets = self.buckets(tokens.len())?;
        for i in 0..c.num_layers {
            let vars = vars.pp("encoder.block").pp(i).pp("layer");
            x = (&x + self.attend(&vars.pp(0), &x, &buckets)?)?;
            x = (&x + self.think(&vars.pp(1), &x)?)?;
        }
        self.norm(&vars.pp("encoder"), "final_layer_norm.weight", &x)
    }

    fn norm(&self, vars: &Vars, name: &str, x: &Tensor) -> Result<Tensor> {
        let scale = numbers(&vars.tensor(name, &[self.config.d_model])?)?;
        Ok(rms_scale(x, &scale, self.config.layer_norm_epsilon)?)
    }

    /// The bucket of every key for every query, `[tokens * tokens]`.
    fn buckets(&self, tokens: usize) -> Result<Tensor> {
        let pairs = (0..tokens as i64).flat_map(|query| (0..tokens as i64).map(move |key| key - query));
        let buckets: Vec<_> = pairs.map(|distance| self.config.bucket(distance) as u32).collect();
        Ok(Tensor::from_vec(buckets, tokens * tokens, &Device::Cpu)?)
    }

    fn attend(&self, vars: &Vars, x: &Tensor, buckets: &Tensor) -> Result<Tensor> {
        let (c, tokens) = (&self.config, x.dim(0)?);
        let (heads, inner) = (c.num_heads, c.num_heads * c.d_kv);
        let h = self.norm(vars, "layer_norm.weight", x)?;
        let vars = vars.pp("SelfAttention");
        let part = |name| -> Result<Tensor> {
            let y = product(&h, &vars.tensor(name, &[inner, c.d_model])?)?;
            Ok(y.reshape((tokens, heads, c.d_kv))?.transpose(0, 1)?.contiguous()?)
        };
        let [q, k, v] = [part("q.weight")?, part("k.weight")?, part("v.weight")?];
        let bias = vars.tensor("relative_attention_bias.weight", &[c.relative_attention_num_buckets, heads])?;
        let bias = bias.index_select(buckets, 0)?.t()?.reshape((heads, tokens, tokens))?;
        // T5 does not scale its logits.
        let weights = softmax(&(q.matmul(&k.t()?)? + bias)?, D::Minus1)?;
        let seen = weights.matmul(&v)?.transpose(0, 1)?.contiguous()?.reshape((tokens, inner))?;
        product(&seen, &vars.tensor("o.weight", &[c.d_model, inner])?)
    }

    fn think(&self, vars: &Vars, x: &Tensor) -> Result<Tensor> {
        let c = &self.config;
        let h = self.norm(vars, "layer_norm.weight", x)?;
        let vars = vars.pp("DenseReluDense");
        let gate = product(&h, &vars.tensor("wi_0.weight", &[c.d_ff, c.d_model])?)?.gelu()?;
        let h = (gate * product(&h, &vars.tensor("wi_1.weight", &[c.d_ff, c.d_model])?)?)?;
        product(&h, &vars.tensor("wo.weight", &[c.d_model, c.d_ff])?)
    }
}

/// `x Wᵀ`. Packing a weight would not pay: it is used once.
fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    Ok(x.matmul(&weight.t()?)?)
}
