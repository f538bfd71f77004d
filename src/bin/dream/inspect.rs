//! `dream inspect`: what a model is made of, from its headers alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use bevy_dream::{Error, Result};
use safetensors::tensor::Metadata;
use serde::Serialize;
use serde_json::Value;

use crate::output::say;

/// A longer header is not a header.
const MAX_HEADER: u64 = 100 << 20;

/// Show what a model is made of, reading headers only
#[derive(clap::Args)]
pub struct Args {
    /// A model folder or a .safetensors file
    path: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    path: PathBuf,
    /// From the folder's `config.json`.
    family: Option<String>,
    name: Option<String>,
    licence: Option<String>,
    parameters: usize,
    bytes: usize,
    /// Bytes of weights per number format.
    memory: BTreeMap<String, usize>,
    config: Option<Value>,
    files: Vec<FileReport>,
}

#[derive(Serialize)]
struct FileReport {
    file: String,
    bytes: usize,
    metadata: BTreeMap<String, String>,
    tensors: Vec<TensorReport>,
}

#[derive(Serialize)]
struct TensorReport {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    bytes: usize,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let report = inspect(&args.path)?;
    if args.json {
        say(serde_json::to_string(&report).map_err(|e| Error::input(e.to_string()))?)
    } else {
        say(describe(&report).trim_end())
    }
}

fn inspect(path: &Path) -> Result<Report> {
    let kind = fs::metadata(path).map_err(Error::io(path))?;
    let (folder, weights) = if kind.is_dir() {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(Error::io(path))?;
        let mut weights: Vec<_> = entries.into_iter().map(|e| e.path()).filter(|p| is_weights(p)).collect();
        weights.sort();
        if weights.is_empty() {
            return Err(Error::model(path, "no .safetensors file in this folder"));
        }
        (path, weights)
    } else if is_weights(path) {
        (path.parent().unwrap_or(Path::new("")), vec![path.to_owned()])
    } else {
        return Err(Error::model(path, "neither a folder nor a .safetensors file"));
    };
    let config = read_config(&folder.join("config.json"))?;
    let word = |key| config.as_ref().and_then(|c| c.get(key)).and_then(Value::as_str).map(str::to_owned);
    let files = weights.iter().map(|p| read_header(p)).collect::<Result<Vec<_>>>()?;
    let tensors = || files.iter().flat_map(|f| &f.tensors);
    let mut memory = BTreeMap::new();
    for tensor in tensors() {
        *memory.entry(tensor.dtype.clone()).or_default() += tensor.bytes;
    }
    let stated = files.iter().find_map(|f| f.metadata.get("license").or(f.metadata.get("licence")).cloned());
    Ok(Report {
        path: path.to_owned(),
        family: word("family"),
        name: word("name"),
        licence: stated.or_else(|| word("license")).or_else(|| licence_of_card(folder)),
        parameters: tensors().map(|t| t.shape.iter().product::<usize>()).sum(),
        bytes: tensors().map(|t| t.bytes).sum(),
        memory,
        config,
        files,
    })
}

fn is_weights(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "safetensors")
}

fn read_config(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text).map(Some).map_err(|e| Error::model(path, format!("not JSON: {e}")))
}

/// The `license:` line of a model card.
fn licence_of_card(folder: &Path) -> Option<String> {
    let card = fs::read_to_string(folder.join("MODEL_CARD.md")).ok()?;
    let line = card.lines().find_map(|l| l.strip_prefix("license:").or_else(|| l.strip_prefix("licence:")))?;
    Some(line.trim().to_owned())
}

fn read_header(path: &Path) -> Result<FileReport> {
    let damaged = |reason: String| Error::model(path, reason);
    let file = File::open(path).map_err(Error::io(path))?;
    let size = file.metadata().map_err(Error::io(path))?.len();
    let mut reader = BufReader::new(file);
    let mut length = [0; 8];
    reader.read_exact(&mut length).map_err(|_| damaged("too short to be a .safetensors file".into()))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length + 8 > size {
        return Err(damaged(format!("not a .safetensors file, or cut off: its header would be {length} bytes")));
    }
    let mut header = Vec::new();
    reader.take(length).read_to_end(&mut header).map_err(Error::io(path))?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|e| damaged(format!("a broken header: {e}")))?;
    let expected = length + 8 + header.data_len() as u64;
    if size != expected {
        return Err(damaged(format!("the header promises {expected} bytes, the file has {size}")));
    }
    let mut tensors: Vec<_> = header
        .tensors()
        .into_iter()
        .map(|(name, info)| TensorReport {
            name,
            dtype: format!("{:?}", info.dtype),
            shape: info.shape.clone(),
            bytes: info.data_offsets.1 - info.data_offsets.0,
        })
        .collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(FileReport {
        file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        bytes: header.data_len(),
        metadata: header.metadata().clone().unwrap_or_default().into_iter().collect(),
        tensors,
    })
}

fn describe(report: &Report) -> String {
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "not stated".into());
    let mut text = format!(
        "{}\n  family   {}\n  name     {}\n  licence  {}\n  weights  {:.2} M in {:.1} MB\n",
        report.path.display(),
        or_unknown(&report.family),
        or_unknown(&report.name),
        or_unknown(&report.licence),
        report.parameters as f64 / 1e6,
        report.bytes as f64 / 1e6,
    );
    for (dtype, bytes) in &report.memory {
        text += &format!("  {dtype:<8} {:.1} MB\n", *bytes as f64 / 1e6);
    }
    if let Some(config) = &report.config {
        text += &format!("  config   {config}\n");
    }
    for file in &report.files {
        let width = file.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
        text += &format!("\n{} ({} keys, {:.1} MB)\n", file.file, file.tensors.len(), file.bytes as f64 / 1e6);
        for tensor in &file.tensors {
            text += &format!("  {:<width$}  {:<4}  {:?}\n", tensor.name, tensor.dtype, tensor.shape);
        }
    }
    text
}
