//! `dream eval`: figures and pictures against the teacher.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bevy_dream::eval::{EvalOptions, Report, evaluate, parse_prompts};
use bevy_dream::{Error, Result};
use serde_json::Value;

use crate::args::{ModelArgs, WorldArgs, seeds, world_threads};
use crate::output::{progress, say};

/// Measure a model against the teacher, on worlds it was never trained on
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    world: WorldArgs,
    /// World seeds, A..B without B, from 500000 up
    #[arg(long, default_value = "500000..500016", value_parser = seeds, value_name = "A..B")]
    seeds: Range<u64>,
    /// Prompts with the scenes they mean: tab-separated prompt, biome, time, weather, '-' for not said
    #[arg(long, default_value = "assets/eval_prompts.tsv", value_name = "FILE")]
    prompts: PathBuf,
    /// Walk for ten minutes instead of one, for drift after 600 s
    #[arg(long)]
    long: bool,
    /// Write contact sheets of dreams beside the truth into this folder
    #[arg(long, value_name = "DIR")]
    sheets: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let text = fs::read_to_string(&args.prompts).map_err(Error::io(&args.prompts))?;
    let prompts = parse_prompts(&text).map_err(|e| Error::input(format!("{}: {e}", args.prompts.display())))?;
    if let Some(folder) = &args.sheets {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    let (_, model) = args.model.load()?;
    let options = EvalOptions {
        seeds: args.seeds.clone(),
        prompts,
        settings: args.world.settings(&*model)?,
        size: args.world.size(&*model),
        long: args.long,
        sheets: args.sheets.clone(),
    };
    let bar = progress(1000, "‰");
    let report = world_threads(args.model.threads())?.install(|| {
        evaluate(Arc::clone(&model), &options, &|what, share| {
            bar.set_message(what.to_owned());
            bar.set_position((share * 1000.0) as u64);
        })
    })?;
    bar.finish_and_clear();
    say(if args.json { to_json(&report)?.to_string() } else { table(&to_json(&report)?) })
}

fn to_json(report: &Report) -> Result<Value> {
    serde_json::to_value(report).map_err(|e| Error::input(e.to_string()))
}

/// A line per figure.
fn table(report: &Value) -> String {
    let figure = |value: &Value| match value {
        Value::Object(parts) => {
            parts.iter().map(|(name, part)| format!("{name} {}", round(part))).collect::<Vec<_>>().join("  ")
        }
        other => round(other),
    };
    let lines = report.as_object().into_iter().flatten();
    lines.map(|(name, value)| format!("{name:<28}{}", figure(value))).collect::<Vec<_>>().join("\n")
}

fn round(value: &Value) -> String {
    match value {
        Value::Number(n) if n.is_f64() => format!("{:.3}", n.as_f64().unwrap_or_default()),
        Value::String(text) => text.clone(),
        Value::Object(_) => value.to_string(),
        other => other.to_string(),
    }
}
