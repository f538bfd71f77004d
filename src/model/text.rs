//! The text encoder: a prompt in any script to one unit vector of [`TEXT_DIM`] numbers.
//!
//! The slot takes any BERT sentence encoder with mean pooling. The shipped one is a small BERT distilled from
//! [all-MiniLM-L6-v2](https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2) by `train/text.py`, with a
//! projection to its space, and tuned to our DiT by `train/words.py`; that model itself, without a projection, fits too. A folder holds `text.json`
//! (Hugging Face's BERT config with `"kind": "bert"` and, where there is one, `"projection": 384`),
//! `text.safetensors` in Hugging Face's BERT layout, and `tokenizer.json`.

use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::{Linear, Module, VarBuilder};
use candle_transformers::models::bert;
use serde::Deserialize;
use tokenizers::{Tokenizer, TruncationParams};

use crate::checkpoint::{Index, Layout, Size, read_text};
use crate::{Error, Result};

/// Tensors of a sentence encoder that mean pooling has no use for.
const IGNORED: [&str; 3] = ["pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"];

/// Length of a prompt's embedding.
pub const TEXT_DIM: usize = 384;

#[derive(Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Bert,
}

#[derive(Clone, Deserialize)]
struct Config {
    #[serde(rename = "kind")]
    _kind: Kind,
    projection: Option<usize>,
    #[serde(flatten)]
    bert: bert::Config,
}

/// Turns prompts into embeddings. Shared and immutable.
pub struct TextEncoder {
    tokenizer: Tokenizer,
    bert: bert::BertModel,
    projection: Option<Linear>,
    device: Device,
}

impl fmt::Debug for TextEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextEncoder").field("device", &self.device).finish_non_exhaustive()
    }
}

impl TextEncoder {
    /// Loads `text.json`, `text.safetensors` (any float type, computed in f32) and `tokenizer.json` from `dir`.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read; [`Error::Model`] when one is damaged, they do not fit each other, or
    /// the embedding would not have [`TEXT_DIM`] numbers.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        let config = read_config(dir)?;
        check_weights(dir, &config)?;

        let (path, text) = read(dir, "tokenizer.json")?;
        let mut tokenizer = Tokenizer::from_bytes(text).map_err(damaged(&path))?;
        let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0) as usize;
        if largest >= config.bert.vocab_size {
            return Err(Error::model(
                path,
                format!("has token {largest}, but text.json says there are {}", config.bert.vocab_size),
            ));
        }
        let truncation =
            TruncationParams { max_length: config.bert.max_position_embeddings, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(damaged(&path))?;
        tokenizer.with_padding(None);

        let (path, bytes) = read(dir, "text.safetensors")?;
        let weights = VarBuilder::from_buffered_safetensors(bytes, DType::F32, device).map_err(damaged(&path))?;
        let projection = config
            .projection
            .map(|dim| candle_nn::linear(config.bert.hidden_size, dim, weights.pp("projection")))
            .transpose()
            .map_err(damaged(&path))?;
        let bert = bert::BertModel::load(weights, &config.bert).map_err(damaged(&path))?;
        Ok(Self { tokenizer, bert, projection, device: device.clone() })
    }

    /// The embedding of `prompt`: `[384]`, f32, unit norm, the same for the same prompt. Any script and length are
    /// welcome, the empty prompt too; what goes beyond the encoder's positions (64 tokens in the shipped one) is cut off.
    ///
    /// # Errors
    /// [`Error::Input`] when the tokenizer cannot read the prompt; [`Error::Tensor`] when a tensor operation fails.
    pub fn encode(&self, prompt: &str) -> Result<Tensor> {
        let unreadable = |reason: &dyn Display| Error::input(format!("the prompt cannot be read: {reason}"));
        let encoding = self.tokenizer.encode(prompt, true).map_err(|e| unreadable(&e))?;
        if encoding.is_empty() {
            return Err(unreadable(&"the tokenizer makes no tokens of it"));
        }
        let ids = Tensor::new(encoding.get_ids(), &self.device)?.unsqueeze(0)?;
        let tokens = self.bert.forward(&ids, &ids.zeros_like()?, None)?;
        let pooled = tokens.mean(1)?;
        let embedding = match &self.projection {
            Some(projection) => projection.forward(&pooled)?,
            None => pooled,
        }
        .squeeze(0)?;
        let norm = embedding.sqr()?.sum_all()?.sqrt()?;
        Ok(embedding.broadcast_div(&norm)?)
    }
}

fn read(dir: &Path, name: &str) -> Result<(PathBuf, Vec<u8>)> {
    let path = dir.join(name);
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    Ok((path, bytes))
}

/// The number of weights of the encoder in `dir`, whose names and shapes are what its config makes.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read, [`Error::Model`] when one is damaged or they do not fit each other.
pub fn check(dir: &Path) -> Result<usize> {
    check_weights(dir, &read_config(dir)?)
}

fn check_weights(dir: &Path, config: &Config) -> Result<usize> {
    let index = Index::open(dir.join("text.safetensors"))?;
    let prefix = config.bert.model_type.as_ref().map_or_else(String::new, |kind| format!("{kind}."));
    // Older files have other names for what a norm does.
    let index = index.renamed(|name| {
        let name = name.strip_prefix(&prefix).unwrap_or(name);
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    })?;
    index.check_layers("num_hidden_layers", config.bert.num_hidden_layers)?;
    index.check(config, SIZES, layout, &IGNORED)?;
    Ok(index.parameters())
}

/// What decides the shapes. No size is too large to be changed.
const SIZES: &[Size<Config>] = &[
    ("hidden_size", |c| c.bert.hidden_size ^= 1),
    ("intermediate_size", |c| c.bert.intermediate_size ^= 1),
    ("vocab_size", |c| c.bert.vocab_size ^= 1),
    ("max_position_embeddings", |c| c.bert.max_position_embeddings ^= 1),
    ("type_vocab_size", |c| c.bert.type_vocab_size ^= 1),
    ("projection", |c| c.projection = c.projection.map(|dim| dim ^ 1)),
];

/// The shapes of all tensors by name.
fn layout(config: &Config) -> Layout {
    let (c, width) = (&config.bert, config.bert.hidden_size);
    let mut layout = Layout::new();
    let mut table = |name: &str, rows: usize| {
        layout.insert(format!("embeddings.{name}_embeddings.weight"), vec![rows, width]);
    };
    table("word", c.vocab_size);
    table("position", c.max_position_embeddings);
    table("token_type", c.type_vocab_size);
    let mut linear = |name: &str, inputs: usize, outputs: usize| {
        layout.insert(format!("{name}.weight"), vec![outputs, inputs]);
        layout.insert(format!("{name}.bias"), vec![outputs]);
    };
    if let Some(dim) = config.projection {
        linear("projection", width, dim);
    }
    let layers = (0..c.num_hidden_layers).map(|i| format!("encoder.layer.{i}"));
    for layer in layers.clone() {
        for part in ["self.query", "self.key", "self.value", "output.dense"] {
            linear(&format!("{layer}.attention.{part}"), width, width);
        }
        linear(&format!("{layer}.intermediate.dense"), width, c.intermediate_size);
        linear(&format!("{layer}.output.dense"), c.intermediate_size, width);
    }
    let within = layers.flat_map(|layer| ["attention.output", "output"].map(|part| format!("{layer}.{part}")));
    for place in within.chain(["embeddings".to_owned()]) {
        layout.insert(format!("{place}.LayerNorm.weight"), vec![width]);
        layout.insert(format!("{place}.LayerNorm.bias"), vec![width]);
    }
    layout
}

fn read_config(dir: &Path) -> Result<Config> {
    let path = dir.join("text.json");
    let config: Config = serde_json::from_str(&read_text(&path)?).map_err(damaged(&path))?;
    check_config(&config).map_err(damaged(&path))?;
    Ok(config)
}

/// One line: candle's errors may carry a backtrace below it.
fn damaged<E: Display>(path: &Path) -> impl FnOnce(E) -> Error {
    let path = path.to_owned();
    move |error| Error::model(path, error.to_string().lines().next().unwrap_or_default())
}

fn check_config(config: &Config) -> Result<(), String> {
    let (heads, hidden) = (config.bert.num_attention_heads, config.bert.hidden_size);
    if heads == 0 || !hidden.is_multiple_of(heads) {
        return Err(format!("{hidden} hidden units cannot be split between {heads} heads"));
    }
    let dim = config.projection.unwrap_or(hidden);
    if dim != TEXT_DIM {
        return Err(format!("its embeddings have {dim} numbers, {TEXT_DIM} are needed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/overworld")
    }

    fn encoder() -> TextEncoder {
        TextEncoder::load(&shipped(), &Device::Cpu).unwrap()
    }

    fn embed(encoder: &TextEncoder, prompt: &str) -> Vec<f32> {
        encoder.encode(prompt).unwrap().to_vec1().unwrap()
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    /// A copy of the shipped folder to damage.
    fn copy() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["text.json", "text.safetensors", "tokenizer.json"] {
            fs::copy(shipped().join(name), dir.path().join(name)).unwrap();
        }
        dir
    }

    fn edit_config(dir: &Path, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
        let path = dir.join("text.json");
        let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut config);
        fs::write(path, serde_json::to_vec(&config).unwrap()).unwrap();
    }

    fn error(dir: &Path) -> String {
        let message = TextEncoder::load(dir, &Device::Cpu).unwrap_err().to_string();
        assert_eq!(message.lines().count(), 1, "{message}");
        message
    }

    #[test]
    fn prompts_of_like_meaning_lie_close() {
        let encoder = encoder();
        let [desert, sahara, forest] = ["a sandy desert", "the sahara under the stars", "pine trees in the snow"]
            .map(|prompt| embed(&encoder, prompt));
        assert!(dot(&desert, &sahara) > dot(&desert, &forest) + 0.1);
    }

    #[test]
    fn words_beyond_64_tokens_do_not_count() {
        let encoder = encoder();
        let long = "rain ".repeat(10_000);
        assert_eq!(embed(&encoder, &long), embed(&encoder, &(long.clone() + "desert")));
    }

    #[test]
    fn an_encoder_of_the_full_width_needs_no_projection() {
        let dir = copy();
        edit_config(dir.path(), |config| {
            config.remove("projection");
            config.insert("hidden_size".into(), TEXT_DIM.into());
            config.insert("num_hidden_layers".into(), 0.into());
        });
        let vocab_size = Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap().get_vocab_size(true);
        let row = Tensor::arange(0f32, TEXT_DIM as f32, &Device::Cpu).unwrap();
        let table = |rows: usize| row.broadcast_as((rows, TEXT_DIM)).unwrap().contiguous().unwrap();
        let weights = HashMap::from([
            ("embeddings.word_embeddings.weight", table(vocab_size)),
            ("embeddings.position_embeddings.weight", table(64)),
            ("embeddings.token_type_embeddings.weight", table(1)),
            ("embeddings.LayerNorm.weight", row.ones_like().unwrap()),
            ("embeddings.LayerNorm.bias", row.zeros_like().unwrap()),
        ]);
        candle_core::safetensors::save(&weights, dir.path().join("text.safetensors")).unwrap();
        let embedding = embed(&TextEncoder::load(dir.path(), &Device::Cpu).unwrap(), "night falls");
        assert!((dot(&embedding, &embedding) - 1.0).abs() < 1e-5);
    }

    #[test]
    fn a_missing_file_is_named() {
        for name in ["text.json", "text.safetensors", "tokenizer.json"] {
            let dir = copy();
            fs::remove_file(dir.path().join(name)).unwrap();
            assert!(error(dir.path()).contains(name));
        }
    }

    #[test]
    fn a_truncated_file_is_named() {
        for name in ["text.json", "text.safetensors", "tokenizer.json"] {
            let dir = copy();
            let path = dir.path().join(name);
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            assert!(error(dir.path()).contains(name));
        }
    }

    #[test]
    fn files_that_do_not_fit_each_other_are_refused() {
        let cases: [(&str, serde_json::Value, &str); 6] = [
            ("kind", "t5".into(), "unknown variant `t5`"),
            ("projection", 512.into(), "512"),
            ("num_attention_heads", 0.into(), "0 heads"),
            ("vocab_size", 100.into(), "the config (vocab_size) makes it [100, 128]"),
            ("num_hidden_layers", 40.into(), "text.safetensors"),
            ("max_position_embeddings", 512.into(), "the config (max_position_embeddings) makes it"),
        ];
        for (key, value, said) in cases {
            let dir = copy();
            edit_config(dir.path(), |config| _ = config.insert(key.into(), value));
            let message = error(dir.path());
            assert!(message.contains(said), "{message}");
        }
    }

    #[test]
    fn a_tokenizer_with_more_words_than_there_are_is_refused() {
        let dir = copy();
        edit_config(dir.path(), |config| _ = config.insert("vocab_size".into(), 100.into()));
        let path = dir.path().join("text.safetensors");
        let mut weights = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        let words = weights.get_mut("embeddings.word_embeddings.weight").unwrap();
        *words = words.narrow(0, 0, 100).unwrap().contiguous().unwrap();
        candle_core::safetensors::save(&weights, path).unwrap();
        assert!(error(dir.path()).contains("tokenizer.json"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_text_gives_a_unit_vector(prompt in ".{0,200}") {
            static ENCODER: LazyLock<TextEncoder> = LazyLock::new(encoder);
            let embedding = embed(&ENCODER, &prompt);
            prop_assert_eq!(embedding.len(), TEXT_DIM);
            prop_assert!((dot(&embedding, &embedding) - 1.0).abs() < 1e-4);
        }
    }
}
