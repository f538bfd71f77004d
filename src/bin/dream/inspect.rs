//! `dream inspect`: what a model is made of and what it takes to run it, from its headers alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bevy_dream::checkpoint::{Index, checkpoints, family, is_checkpoint, parse_json, read_text};
use bevy_dream::family::facts::{WorldFacts, facts};
use bevy_dream::kernel::{Activation, Linear, ThreadPool, default_threads};
use bevy_dream::model::Heeded;
use bevy_dream::{Error, Result};
use candle_core::{Device, Tensor};
use serde::Serialize;
use serde_json::Value;

use crate::output::say;

/// As long as the speed of this machine is measured.
const MOMENT: Duration = Duration::from_millis(200);

/// Show what a model is made of and what it takes to run it, reading headers only
#[derive(clap::Args)]
pub struct Args {
    /// A model folder or a checkpoint: .safetensors, .safetensors.index.json, .pt, .pth or .bin
    path: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    path: PathBuf,
    /// From the folder's `config.json`, or from the names of the tensors.
    family: Option<String>,
    name: Option<String>,
    licence: Option<String>,
    parameters: usize,
    bytes: u64,
    /// Bytes of weights per number format.
    memory: BTreeMap<String, u64>,
    /// Whether every key of every file has its place and its shape; nothing of a family that is not known.
    accounted: Option<bool>,
    /// What it takes to run it here.
    run: Option<Run>,
    /// Why it cannot be run.
    problem: Option<String>,
    config: Option<Value>,
    files: Vec<FileReport>,
}

#[derive(Serialize)]
struct Run {
    /// Of weights and memory.
    bytes: u64,
    /// Free memory, where the system tells.
    bytes_free: Option<u64>,
    gflop_per_frame: f64,
    /// The rate of a layer as they are in a DiT, measured just now.
    gflops: f64,
    seconds_per_frame: f64,
    /// Frames a second that the world is meant to run at.
    fps: f32,
    /// Whether it reads prompts.
    reads_text: bool,
    /// The controls that it heeds, and what each is to it.
    controls: Heeded,
}

#[derive(Serialize)]
struct FileReport {
    file: String,
    bytes: u64,
    metadata: BTreeMap<String, String>,
    tensors: Vec<TensorReport>,
}

#[derive(Serialize)]
struct TensorReport {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    bytes: u64,
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
        let weights = checkpoints(path);
        if weights.is_empty() {
            return Err(Error::model(path, "no .safetensors file in this folder, nor another checkpoint"));
        }
        (path, weights)
    } else if is_checkpoint(path) {
        (path.parent().unwrap_or(Path::new("")), vec![path.to_owned()])
    } else {
        return Err(Error::model(path, "neither a folder nor a checkpoint"));
    };
    let config = read_config(&folder.join("config.json"))?;
    let word = |key| config.as_ref().and_then(|c| c.get(key)).and_then(Value::as_str).map(str::to_owned);
    let files = weights.iter().map(|p| read_headers(p, folder)).collect::<Result<Vec<_>>>()?;
    let tensors = || files.iter().flat_map(|f| &f.tensors);
    let mut memory = BTreeMap::new();
    for tensor in tensors() {
        *memory.entry(tensor.dtype.clone()).or_default() += tensor.bytes;
    }
    let stated = files.iter().find_map(|f| f.metadata.get("license").or(f.metadata.get("licence")).cloned());
    let (known, problem) = match facts(path) {
        Ok(facts) => (facts, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let notice = known.as_ref().and_then(|facts| facts.notice).map(str::to_owned);
    Ok(Report {
        path: path.to_owned(),
        family: word("family").or_else(|| family(path).ok()),
        name: word("name"),
        licence: stated.or_else(|| word("license")).or_else(|| licence_of_card(folder)).or(notice),
        parameters: tensors().map(|t| t.shape.iter().product::<usize>()).sum(),
        bytes: tensors().map(|t| t.bytes).sum(),
        memory,
        accounted: (known.is_some() || problem.is_some()).then_some(problem.is_none()),
        run: known.and_then(|facts| facts.world).map(run_here).transpose()?,
        problem,
        config,
        files,
    })
}

fn read_config(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    parse_json(&read_text(path)?).map(Some).map_err(|reason| Error::model(path, reason))
}

/// The `license:` line at the head of a model card, or the first line of a licence.
fn licence_of_card(folder: &Path) -> Option<String> {
    let read = |name: &&str| read_text(&folder.join(name)).ok();
    let told = |card: String| {
        let line = card.lines().find_map(|l| l.strip_prefix("license:").or_else(|| l.strip_prefix("licence:")))?;
        Some(line.trim().to_owned())
    };
    let first = |text: String| Some(text.lines().map(str::trim).find(|line| !line.is_empty())?.to_owned());
    let card = ["MODEL_CARD.md", "README.md"].iter().filter_map(read).find_map(told);
    card.or_else(|| ["LICENSE", "LICENSE.txt", "LICENSE.md"].iter().filter_map(read).find_map(first))
}

fn read_headers(path: &Path, folder: &Path) -> Result<FileReport> {
    let index = Index::open(path)?;
    let tensor = |(name, entry): (&String, &bevy_dream::checkpoint::Entry)| TensorReport {
        name: name.clone(),
        dtype: format!("{:?}", entry.dtype),
        shape: entry.shape.clone(),
        bytes: entry.bytes,
    };
    let tensors: Vec<_> = index.tensors().iter().map(tensor).collect();
    Ok(FileReport {
        file: path.strip_prefix(folder).unwrap_or(path).display().to_string(),
        bytes: tensors.iter().map(|t| t.bytes).sum(),
        metadata: index.metadata().clone(),
        tensors,
    })
}

/// What it takes to run a model on this machine.
fn run_here(facts: WorldFacts) -> Result<Run> {
    let gflops = ThreadPool::new(default_threads())?.install(layer_gflops)?;
    Ok(Run {
        bytes: facts.bytes,
        bytes_free: free_bytes(),
        gflop_per_frame: facts.gflop_per_frame,
        gflops,
        seconds_per_frame: facts.gflop_per_frame / gflops,
        fps: facts.fps,
        reads_text: facts.reads_text,
        controls: facts.controls,
    })
}

/// The rate of a layer of 1024 numbers on 144 tokens: the best of ten, or of as many as a busy machine does in a moment.
fn layer_gflops() -> Result<f64> {
    const WIDTH: usize = 1024;
    const TOKENS: usize = 144;
    let ones = |rows| Tensor::ones((rows, WIDTH), candle_core::DType::F32, &Device::Cpu);
    let (layer, x) = (Linear::new(&ones(WIDTH)?, None)?, ones(TOKENS)?);
    let (mut best, begin) = (f64::INFINITY, Instant::now());
    for _ in 0..10 {
        let start = Instant::now();
        layer.forward(&x, Activation::None)?;
        best = best.min(start.elapsed().as_secs_f64());
        if begin.elapsed() > MOMENT {
            break;
        }
    }
    Ok((2 * TOKENS * WIDTH * WIDTH) as f64 * 1e-9 / best)
}

fn free_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
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
    if report.accounted == Some(true) {
        text += "  keys     all accounted for\n";
    }
    if let Some(run) = &report.run {
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        text += &format!("  runs in  {:.2} GB of memory", gigabytes(run.bytes));
        if let Some(free) = run.bytes_free {
            let enough = if free > run.bytes { "" } else { ", which is not enough" };
            text += &format!(", {:.2} GB are free{enough}", gigabytes(free));
        }
        text += &format!(
            "\n  speed    {:.0} GFLOP a frame at {:.0} GFLOP/s make {:.3} s a frame; the world is meant to run at {} a second\n",
            run.gflop_per_frame, run.gflops, run.seconds_per_frame, run.fps
        );
        let words =
            if run.reads_text { "a picture to start from and prompts" } else { "a picture to start from, no prompts" };
        let controls =
            run.controls.0.iter().map(|(name, meaning)| {
                if name == meaning { format!(", {name}") } else { format!(", {name} ({meaning})") }
            });
        text += &format!("  told     {words}{}\n", controls.collect::<String>());
    }
    if let Some(problem) = &report.problem {
        text += &format!("  problem  {problem}\n");
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
