//! Prompts to what the transformer reads, each encoded once and kept on disk.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use sha2::{Digest, Sha256};
use tokenizers::{Tokenizer, TruncationParams};

use super::config::Config;
use crate::checkpoint::Weights;
use crate::family::umt5::Umt5;
use crate::{Error, Result};

/// The folder, beside the weights, of prompts that have been encoded.
const PROMPTS: &str = "prompts";
/// Where the tokenizer may lie beside the weights.
const TOKENIZERS: [&str; 3] = ["tokenizer.json", "tokenizer/tokenizer.json", "google/umt5-xxl/tokenizer.json"];
/// The name of the embeddings in a file of one prompt.
const EMBEDS: &str = "text_embeds";

/// SHA-256 in hexadecimal.
fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The prompts of a model, each in a file named by its SHA-256 and the fingerprint of the encoder that read it.
pub struct Prompts {
    folder: PathBuf,
    encoder: Option<PathBuf>,
    config: Config,
}

impl Prompts {
    /// Those of the model in `folder`, whose `encoder` may be missing.
    pub fn new(folder: &Path, encoder: Option<&Path>, config: &Config) -> Self {
        Self { folder: folder.to_owned(), encoder: encoder.map(Path::to_owned), config: config.clone() }
    }

    /// The embeddings `[tokens, text_dim]` of a prompt: from disk, or from the encoder, which takes a while. Without
    /// either, the empty prompt has no tokens.
    ///
    /// # Errors
    /// [`Error::Input`] when there is neither, [`Error::Model`] when a file is damaged.
    pub fn embed(&self, prompt: &str) -> Result<Tensor> {
        let prompt = prompt.split_whitespace().collect::<Vec<_>>().join(" ");
        let Some(encoder) = &self.encoder else {
            if let Some(path) = self.kept(&prompt) {
                return self.read(&path);
            }
            if prompt.is_empty() {
                return Ok(Tensor::zeros((0, self.config.text_dim), DType::F32, &Device::Cpu)?);
            }
            let reason = format!(
                "no umT5 here to read '{prompt}', nor what one made of it in {}",
                self.folder.join(PROMPTS).display()
            );
            return Err(Error::input(reason));
        };
        let encoder = Umt5::open(encoder, &self.config.text_encoder)?;
        let path =
            self.folder.join(PROMPTS).join(format!("{}-{}.safetensors", digest(&prompt), encoder.fingerprint()?));
        if path.exists() {
            return self.read(&path);
        }
        let embeds = encoder.encode(&self.tokens(&prompt)?)?;
        if let Err(error) = self.write(&path, &embeds) {
            tracing::warn!("the prompt '{prompt}' will have to be read again: {error}");
        }
        Ok(embeds)
    }

    /// Where a prompt is kept that some encoder has read, which need not be there any more.
    fn kept(&self, prompt: &str) -> Option<PathBuf> {
        let (entries, name) = (fs::read_dir(self.folder.join(PROMPTS)).ok()?, digest(prompt));
        let mut files = entries.flatten().map(|entry| entry.path()).filter(|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            file.starts_with(&name) && file.ends_with(".safetensors")
        });
        files.next()
    }

    fn read(&self, path: &Path) -> Result<Tensor> {
        let file = Weights::open(path, &Device::Cpu)?;
        let rows = file.vars().shape(EMBEDS)?.first().copied().unwrap_or(0).min(self.config.text_len);
        let embeds = file.vars().tensor(EMBEDS, &[rows, self.config.text_dim])?;
        file.finish()?;
        Ok(embeds)
    }

    /// Under another name until it is whole.
    fn write(&self, path: &Path, embeds: &Tensor) -> Result<()> {
        let folder = self.folder.join(PROMPTS);
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let partial = path.with_extension("part");
        safetensors::save(&HashMap::from([(EMBEDS, embeds.clone())]), &partial)?;
        fs::rename(&partial, path).map_err(Error::io(path))
    }

    fn tokens(&self, prompt: &str) -> Result<Vec<u32>> {
        let paths = TOKENIZERS.map(|name| self.folder.join(name));
        let path = paths.iter().find(|path| path.exists()).unwrap_or(&paths[0]);
        let bytes = fs::read(path).map_err(Error::io(path))?;
        let one_line = |e: tokenizers::Error| e.to_string().lines().next().unwrap_or_default().to_owned();
        let damaged = |e| Error::model(path, one_line(e));
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(damaged)?;
        let truncation = TruncationParams { max_length: self.config.text_len, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(damaged)?;
        tokenizer.with_padding(None);
        let encoding = tokenizer.encode(prompt, true);
        let encoding = encoding.map_err(|e| Error::input(format!("the prompt cannot be read: {}", one_line(e))))?;
        Ok(encoding.get_ids().to_vec())
    }
}
