//! Whether a dream shows what it was asked for, at once and when the words change.

use std::str::FromStr;

use super::Bench;
use super::dream::Dream;
use super::report::{Report, SceneAccuracy};
use super::scene::{Labels, Probe, STRIDE, clips_of};
use super::teacher::{CONTEXT, Walk, stroll};
use super::vcn::mean;
use crate::voxel::{Biome, Time, Weather, describe};
use crate::{Controls, Error, Frame, Result};

/// Ticks of a fresh dream before it is judged, on its last half second.
const FRESH: usize = 20;

/// Ticks that the dream has to follow a changed prompt.
const CHANGE: usize = 80;

/// Ticks between two looks at it, and of each look.
const LOOK: usize = 10;

/// Every so many prompts one is tried on a running world.
const CHANGED_EVERY: usize = 4;

/// A prompt and the scene it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalPrompt {
    /// The prompt.
    pub text: String,
    /// Indices into [`Biome::ALL`], [`Time::ALL`] and [`Weather::ALL`], as far as the prompt says so.
    pub labels: [Option<usize>; 3],
}

/// Reads a prompt file: a line is `prompt`, `biome`, `time` and `weather`, separated by tabs, with the scene's names
/// and `-` where the prompt says nothing.
///
/// # Errors
/// [`Error::Input`] with the line's number when a line is not of this form, or when there is none.
pub fn parse_prompts(text: &str) -> Result<Vec<EvalPrompt>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let prompts = lines
        .map(|(i, line)| parse_line(line).map_err(|reason| Error::input(format!("prompts line {}: {reason}", i + 1))))
        .collect::<Result<Vec<_>>>()?;
    if prompts.is_empty() {
        return Err(Error::input("the prompt file is empty: write prompt, biome, time and weather, tab-separated"));
    }
    Ok(prompts)
}

fn parse_line(line: &str) -> Result<EvalPrompt> {
    let [text, biome, time, weather] = line.split('\t').map(str::trim).collect::<Vec<_>>()[..] else {
        return Err(Error::input("expected prompt, biome, time and weather, separated by tabs"));
    };
    crate::simulate::check_prompt(text)?;
    let labels = [index(Biome::ALL, biome)?, index(Time::ALL, time)?, index(Weather::ALL, weather)?];
    Ok(EvalPrompt { text: text.into(), labels })
}

fn index<T: FromStr<Err = Error> + PartialEq>(all: &[T], name: &str) -> Result<Option<usize>> {
    if name == "-" {
        return Ok(None);
    }
    let value: T = name.parse()?;
    Ok(all.iter().position(|v| *v == value))
}

/// Right answers and questions per label.
#[derive(Default)]
struct Score([[usize; 2]; 3]);

impl Score {
    fn count(&mut self, asked: [Option<usize>; 3], seen: Labels) {
        for (column, asked) in asked.into_iter().enumerate() {
            if let Some(asked) = asked {
                self.0[column][0] += usize::from(asked == seen[column]);
                self.0[column][1] += 1;
            }
        }
    }

    fn accuracy(&self) -> SceneAccuracy {
        let share = |[right, all]: [usize; 2]| right as f64 / all as f64;
        let [biome, time, weather] = self.0.map(share);
        let all = share([self.0.iter().map(|s| s[0]).sum(), self.0.iter().map(|s| s[1]).sum()]);
        SceneAccuracy { all, biome, time, weather }
    }
}

fn obeys(asked: [Option<usize>; 3], seen: Labels) -> bool {
    asked.iter().zip(seen).all(|(asked, seen)| asked.is_none_or(|asked| asked == seen))
}

/// A slow walk with a slow turn, so that new land comes into view.
fn ambling(ticks: usize) -> Vec<Controls> {
    vec![Controls { forward: 1.0, look: [1.0, 0.0], ..Controls::default() }; ticks]
}

fn look_at(frames: &[Frame]) -> Vec<Frame> {
    frames[frames.len() - LOOK..].iter().skip(STRIDE - 1).step_by(STRIDE).cloned().collect()
}

/// Measures prompt and reprompt accuracies. Returns what each fresh dream showed at the end.
pub(super) fn measure(
    bench: &Bench<'_>,
    probe: &Probe,
    prompts: &[EvalPrompt],
    report: &mut Report,
) -> Result<Vec<Frame>> {
    let dreams = bench.each("fresh prompts", 0.33..0.45, prompts, |i, prompt| {
        let mut dream = Dream::new(bench, bench.seeds[i % bench.seeds.len()], &prompt.text)?;
        let frames = dream.walk(&ambling(FRESH))?;
        Ok((probe.judge(&look_at(&frames)), frames[FRESH - 1].clone()))
    })?;
    let (mut fresh, mut constant) = (Score::default(), Score::default());
    let usual = most_frequent(prompts);
    for (prompt, (seen, _)) in prompts.iter().zip(&dreams) {
        fresh.count(prompt.labels, *seen);
        constant.count(prompt.labels, usual);
    }

    let changes: Vec<_> = prompts.iter().step_by(CHANGED_EVERY).collect();
    let dreams_changed = bench.each("changed prompts", 0.45..0.55, &changes, |i, prompt| {
        let seed = bench.seeds[i % bench.seeds.len()];
        let (mut world, controls) = stroll(seed, CONTEXT);
        let scene = world.scene();
        let context = Walk::record(&mut world, &controls, bench.size);
        let before = probe.judge(&look_at(&context.frames));
        let mut dream = Dream::new(bench, seed, &describe(scene))?;
        dream.observe(&context.frames, &context.controls)?;
        dream.set_prompt(&prompt.text)?;
        let frames = dream.walk(&ambling(CHANGE))?;
        let looks: Vec<_> = frames.chunks(LOOK).map(|look| probe.judge(&look_at(look))).collect();
        Ok((before, looks))
    })?;
    let (mut changed, mut before) = (Score::default(), Score::default());
    let mut seconds = Vec::new();
    for (prompt, (seen_before, looks)) in changes.iter().zip(&dreams_changed) {
        before.count(prompt.labels, *seen_before);
        changed.count(prompt.labels, looks[looks.len() - 1]);
        if obeys(prompt.labels, looks[looks.len() - 1]) {
            // From when on it stays right.
            let wrong = looks.iter().rposition(|&seen| !obeys(prompt.labels, seen)).map_or(0, |last| last + 1);
            seconds.push((wrong + 1) as f64 * LOOK as f64 / f64::from(crate::controls::TICKS_PER_SECOND));
        }
    }
    let mut taught = Score::default();
    for (clip, labels) in bench.seeds.iter().flat_map(|&seed| clips_of(seed, LOOK / STRIDE, bench.size)) {
        taught.count(labels.map(Some), probe.judge(&clip));
    }
    report.prompt_accuracy = fresh.accuracy();
    report.prompt_accuracy_baseline = constant.accuracy();
    report.prompt_accuracy_teacher = taught.accuracy();
    report.reprompt_accuracy = changed.accuracy();
    report.reprompt_accuracy_baseline = before.accuracy();
    report.reprompt_seconds = mean(&seconds);
    Ok(dreams.into_iter().map(|(_, frame)| frame).collect())
}

/// The most frequent labels: what a dream that ignores its prompt could at best always show.
fn most_frequent(prompts: &[EvalPrompt]) -> Labels {
    std::array::from_fn(|column| {
        let votes = |label: usize| prompts.iter().filter(|p| p.labels[column] == Some(label)).count();
        (0..Biome::ALL.len()).rev().max_by_key(|&label| votes(label)).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompt_files_are_read_and_mistakes_named_by_line() {
        let prompts = parse_prompts("a sunny lawn\tmeadow\t-\tclear\n\nnight\t-\tnight\t-\n").unwrap();
        assert_eq!(prompts[0].labels, [Some(0), None, Some(0)]);
        assert_eq!((prompts[1].text.as_str(), prompts[1].labels), ("night", [None, Some(3), None]));
        for (text, part) in [
            ("", "empty"),
            ("a lawn\tmeadow", "line 1"),
            ("a\tmeadow\t-\t-\nb\tmoon\t-\t-", "line 2: 'moon' is not a biome"),
            (" \tmeadow\t-\t-", "line 1: the prompt is empty"),
        ] {
            let error = parse_prompts(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_shipped_prompts_are_valid() {
        let prompts = parse_prompts(include_str!("../../assets/eval_prompts.tsv")).unwrap();
        assert!(prompts.len() > 50);
    }
}
