//! `dream bench`: how fast a model dreams, and whether it holds its frame rate.

mod travel;

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bevy_dream::kernel::{Isa, ThreadPool, gemm_peak_gflops};
use bevy_dream::model::WorldModel;
use bevy_dream::simulate::{Session, SessionOptions};
use bevy_dream::stream::{Event, Stream, StreamOptions};
use bevy_dream::{Controls, Error, Result};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::args::{ModelArgs, WorldArgs};
use crate::output::{loading, progress, say};

/// Chunks before the clock starts.
const WARM_UP: usize = 3;

/// The part of a half after which a world is measured, and at whose end it is compared with what it was then: a minute of ten.
const PART: u32 = 5;

/// Measure the speed of a model: half the time on the model thread in real time, half flat out
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    world: WorldArgs,
    /// How long to measure
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(2..=86_400))]
    seconds: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command in a process that `began` then.
pub fn run(args: &Args, began: Instant) -> Result<()> {
    let pool = ThreadPool::new(args.model.threads())?;
    let half = Duration::from_secs(args.seconds.into()) / 2;
    let live = live(args, began, half)?;
    live.bar.set_position(u64::from(args.seconds) / 2);
    let flat = pool.install(|| flat_out(args, &live.model, half))?;
    live.bar.finish_and_clear();

    let model = &*live.model;
    let info = model.info();
    let settings = args.world.settings(model)?;
    let gflop = model.gflop_per_chunk(args.world.size(model), settings) / info.frames_per_chunk as f64;
    let peak = pool.install(gemm_peak_gflops);
    let fps = (flat.chunks.len() * info.frames_per_chunk) as f64 / flat.chunks.iter().sum::<Duration>().as_secs_f64();
    let gflops = gflop * fps;
    let report = json!({
        "model": info.name,
        "size": args.world.size(model).to_string(),
        "steps": settings.steps,
        "device": args.model.device()?.to_string(),
        "threads": args.model.threads(),
        "isa": pool.install(Isa::current).to_string(),
        "fps": round(fps),
        "shown_fps": round(live.shown_fps),
        "chunk_ms": {
            "p50": ms(&flat.chunks, 0.5), "p95": ms(&flat.chunks, 0.95), "max": ms(&flat.chunks, 1.0),
            "aged": round(aged(&flat.aged)),
        },
        "control_to_frame_ms": { "p50": ms(&live.delays, 0.5), "p95": ms(&live.delays, 0.95) },
        "spacing_ms": {
            "p50": ms(&live.spacing, 0.5), "p95": ms(&live.spacing, 0.95), "max": ms(&live.spacing, 1.0),
            "off": round_to(uneven(&live.spacing, info.fps), 4),
        },
        "first_frame_ms": round(live.first_frame.as_secs_f64() * 1e3),
        "stage_ms": {
            "foresee": ms(&flat.foresee, 0.5), "denoise": ms(&flat.denoise, 0.5),
            "decode": ms(&flat.decode, 0.5), "commit": ms(&flat.commit, 0.5),
        },
        "travel": live.rewind.into_iter().chain(flat.travel).collect::<serde_json::Map<_, _>>(),
        "rss_mb": {
            "live_start": live.memory[0], "live_end": live.memory[1], "start": flat.memory[0], "end": flat.memory[1],
        },
        "gflop_per_frame": round(gflop),
        "gflops": round(gflops),
        "gemm_peak_gflops": round(peak),
        "efficiency": round(gflops / peak),
    });
    say(if args.json { report.to_string() } else { table(&report) })
}

/// What a window would see of the model thread.
struct Live {
    model: Arc<dyn WorldModel>,
    first_frame: Duration,
    /// From taking the controls of a chunk to showing its first frame.
    delays: Vec<Duration>,
    shown_fps: f64,
    /// From each frame shown to the next.
    spacing: Vec<Duration>,
    rewind: travel::Figures,
    memory: Memory,
    /// How far the whole measurement is.
    bar: ProgressBar,
}

/// Resident memory in MB once the first [`PART`] is over, and at the end.
type Memory = [Option<f64>; 2];

/// Runs the model thread in real time.
fn live(args: &Args, began: Instant, time: Duration) -> Result<Live> {
    let (loaded, model) = crossbeam_channel::bounded(1);
    let (model_args, world_args) = (args.model.clone(), args.world);
    let load = move || {
        let model = model_args.open()?;
        world_args.settings(&*model)?;
        // The receiver lives as long as the stream.
        loaded.send(Arc::clone(&model)).ok();
        Ok(model)
    };
    let world = SessionOptions { size: args.world.size, ..world() };
    let options = StreamOptions { world, threads: Some(args.model.threads()), ..StreamOptions::default() };
    let mut stream = Stream::start(load, options)?;
    stream.input().hold(walking(0));
    let (mut first, mut last, mut delays, mut spacing) = (None, None, Vec::new(), Vec::new());
    let (mut last_tick, mut past, mut memory) = (0, 0, Memory::default());
    let mut bar = ProgressBar::hidden();
    while first.is_none_or(|first: Instant| first.elapsed() < time) {
        for event in stream.events() {
            if matches!(event, Event::Loaded(_)) {
                bar = progress(u64::from(args.seconds), "seconds");
            }
            match event {
                Event::Ended(reason) | Event::Failed(reason) | Event::Rejected(reason) => {
                    return Err(Error::input(reason));
                }
                Event::Loaded(info) if args.world.steps.is_some() => {
                    let steps = args.world.steps.unwrap_or(info.settings.steps);
                    stream.set_settings(bevy_dream::model::Settings { steps, ..info.settings })?;
                }
                _ => {}
            }
        }
        let now = Instant::now();
        if let Some(frame) = stream.due_frame(now) {
            first.get_or_insert(now);
            spacing.extend(last.replace(now).map(|last| now - last));
            (last_tick, past) = (frame.tick, frame.chunk.past);
            if frame.tick == frame.chunk.first_tick {
                delays.push(now - frame.chunk.sampled);
                stream.input().hold(walking(frame.chunk.index as usize));
            }
        }
        if memory[0].is_none() && first.is_some_and(|first| first.elapsed() >= time / PART) {
            memory[0] = resident_mb();
        }
        thread::sleep(Duration::from_millis(1));
    }
    memory[1] = resident_mb();
    let first = first.unwrap_or_else(Instant::now);
    let model = model.recv().map_err(|e| Error::Thread(e.to_string()))?;
    let shown_fps = (spacing.len() + 1) as f64 / first.elapsed().as_secs_f64();
    let age = Duration::from_secs_f32(last_tick as f32 / model.info().fps);
    let rewind = travel::rewind(&mut stream, age, past)?;
    Ok(Live { model, first_frame: first - began, delays, shown_fps, spacing, rewind, memory, bar })
}

/// Times of chunks that follow each other without a pause.
#[derive(Default)]
struct FlatOut {
    chunks: Vec<Duration>,
    foresee: Vec<Duration>,
    denoise: Vec<Duration>,
    decode: Vec<Duration>,
    commit: Vec<Duration>,
    /// What the world took for each chunk of the last [`PART`], and what it took for one as it was after the first.
    aged: Vec<[Duration; 2]>,
    travel: travel::Figures,
    memory: Memory,
}

fn flat_out(args: &Args, model: &Arc<dyn WorldModel>, time: Duration) -> Result<FlatOut> {
    let settings = Some(args.world.settings(&**model)?);
    let options = SessionOptions { size: args.world.size, settings, ..world() };
    let open = || Session::new(Arc::clone(model), options.clone());
    let mut session = loading(open)?;
    let mut times = FlatOut::default();
    let frames = model.info().frames_per_chunk;
    let make = |session: &mut Session, index: usize| -> Result<Duration> {
        let start = Instant::now();
        session.step(&vec![walking(index); frames])?;
        session.commit()?;
        Ok(start.elapsed())
    };
    for index in 0..WARM_UP {
        make(&mut session, index)?;
    }
    let (began, mut young) = (Instant::now(), None);
    for index in WARM_UP.. {
        times.chunks.push(make(&mut session, index)?);
        let stages = session.times();
        times.foresee.push(stages.foresee);
        times.denoise.push(stages.denoise);
        times.decode.push(stages.decode);
        times.commit.push(stages.commit);
        if young.is_none() && began.elapsed() >= time / PART {
            times.memory[0] = resident_mb();
            young = Some(session.snapshot()?);
        }
        if began.elapsed() >= time - time / PART {
            break;
        }
    }
    // In turn, as minutes of a machine differ by more than ages of a world.
    let mut once = open()?;
    young.iter().try_for_each(|young| once.restore(young))?;
    for index in 0.. {
        times.aged.push([make(&mut session, index)?, make(&mut once, index)?]);
        if began.elapsed() >= time {
            break;
        }
    }
    times.memory[1] = resident_mb();
    times.travel = travel::snapshots(&mut session)?;
    Ok(times)
}

fn world() -> SessionOptions {
    SessionOptions { prompt: "a flower meadow at noon, clear sky".into(), ..SessionOptions::default() }
}

/// Controls that keep every part of the model busy.
fn walking(chunk: usize) -> Controls {
    Controls { forward: 1.0, look: [(chunk as f32 * 0.1).sin() * 4.0, 0.0], ..Controls::default() }
}

/// The quantile of some times in milliseconds; none when there are no times.
fn ms(times: &[Duration], quantile: f64) -> Option<f64> {
    let mut times = times.to_vec();
    times.sort_unstable();
    let index = (times.len() as f64 * quantile).ceil() as usize;
    Some(round(times.get(index.saturating_sub(1))?.as_secs_f64() * 1e3))
}

/// The median of the first of such times over that of the second.
fn aged(pairs: &[[Duration; 2]]) -> f64 {
    let [old, young] = [0, 1].map(|which| ms(&pairs.iter().map(|pair| pair[which]).collect::<Vec<_>>(), 0.5));
    old.unwrap_or_default() / young.unwrap_or_default()
}

/// The share of spacings that are off the frame time by more than half of it.
fn uneven(spacing: &[Duration], fps: f32) -> f64 {
    let frame = 1.0 / f64::from(fps);
    let off = spacing.iter().filter(|spacing| (spacing.as_secs_f64() - frame).abs() > frame / 2.0);
    off.count() as f64 / spacing.len().max(1) as f64
}

fn round(value: f64) -> f64 {
    round_to(value, 2)
}

/// A number with so many digits after the point.
fn round_to(value: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (value * unit).round() / unit
}

/// Resident memory, where the system tells.
fn resident_mb() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(round(kilobytes / 1024.0))
}

fn table(report: &Value) -> String {
    let figure = |value: &Value| match value {
        Value::Object(parts) => parts.iter().map(|(k, v)| format!("{k} {v}")).collect::<Vec<_>>().join("  "),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let lines = report.as_object().into_iter().flatten();
    lines.map(|(name, value)| format!("{name:<20}{}", figure(value))).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_off_by_more_than_half_its_time() {
        let spacing: Vec<_> = [50, 26, 74, 24, 76].map(Duration::from_millis).to_vec();
        assert_eq!(uneven(&spacing, 20.0), 0.4);
        assert_eq!(uneven(&[], 20.0), 0.0);
    }

    #[test]
    fn a_world_is_aged_by_how_much_slower_it_is_than_it_was() {
        let times = [[10, 20], [30, 15], [90, 10], [20, 20]].map(|pair| pair.map(Duration::from_millis));
        assert_eq!(aged(&times[..1]), 0.5);
        assert_eq!(aged(&times), 20.0 / 15.0);
    }

    #[test]
    fn quantiles_are_of_the_sorted_times() {
        let times: Vec<_> = [40, 10, 30, 20].map(Duration::from_millis).to_vec();
        assert_eq!([ms(&times, 0.5), ms(&times, 0.95), ms(&times, 1.0)], [Some(20.0), Some(40.0), Some(40.0)]);
        assert_eq!(ms(&[], 0.5), None);
    }
}
