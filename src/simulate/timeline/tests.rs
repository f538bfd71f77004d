use std::sync::OnceLock;

use proptest::prelude::*;

use super::super::fake::FakeModel;
use super::super::frame_hash;
use super::super::session::SessionOptions;
use super::*;
use crate::model::WorldModel;
use crate::{FrameSize, checkpoint};

/// So little memory that snapshots have to be dropped, and branches none.
const OPTIONS: TimelineOptions = TimelineOptions { chunks: 150, memory: 700_000, branches: 3 };

fn fake() -> Session {
    let size = Some(FrameSize::new(16, 16));
    let options = SessionOptions { seed: 5, prompt: "a meadow".into(), size, ..Default::default() };
    Session::new(FakeModel { ballast: 1024, ..FakeModel::default() }.shared(), options).unwrap()
}

fn timeline() -> Timeline {
    Timeline::new(fake(), OPTIONS)
}

/// The shipped model.
fn model() -> Arc<dyn WorldModel> {
    static MODEL: OnceLock<Arc<dyn WorldModel>> = OnceLock::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/overworld");
    Arc::clone(MODEL.get_or_init(|| checkpoint::load(folder, checkpoint::DeviceChoice::Cpu).unwrap()))
}

/// A world of it at a size that is quick to dream.
fn overworld() -> Session {
    let size = Some(FrameSize::new(48, 32));
    let options = SessionOptions { seed: 5, prompt: "a meadow".into(), size, ..Default::default() };
    Session::new(model(), options).unwrap()
}

/// Controls that no two ways share: lines that were walked apart must differ in their inputs.
fn controls(way: u64) -> [Controls; 2] {
    [Controls { forward: 1.0, look: [way as f32 / 64.0 - 3.0, way as f32 % 3.0 - 1.0], ..Default::default() }; 2]
}

/// Walks on; the frames of every chunk.
fn walk(timeline: &mut Timeline, ways: Range<u64>) -> Vec<Vec<Frame>> {
    ways.map(|way| timeline.step(&controls(way)).unwrap().frames).collect()
}

#[derive(Clone, Debug)]
enum Act {
    Walk(u64),
    Prompt(u8),
    Steps(usize),
    Rewind(u64),
    Switch(usize),
    /// Keeps this moment, in memory or in a file.
    Keep(bool),
    /// Goes to the moment kept.
    Return(bool),
}

fn acts(walk: u64, count: usize) -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        5 => (1..walk).prop_map(Act::Walk),
        1 => (0..3u8).prop_map(Act::Prompt),
        1 => (1..4usize).prop_map(Act::Steps),
        2 => (0..walk * 5 / 2).prop_map(Act::Rewind),
        1 => (0..3usize).prop_map(Act::Switch),
        1 => any::<bool>().prop_map(Act::Keep),
        1 => any::<bool>().prop_map(Act::Return),
    ];
    proptest::collection::vec(act, 1..count)
}

/// A chunk: what it was made from, and the hashes of its frames.
#[derive(Clone, Debug, PartialEq)]
struct Made {
    controls: [Controls; 2],
    prompt: String,
    settings: Settings,
    frames: Vec<String>,
}

/// All chunks that lead to a world, and the first that its timeline knows.
#[derive(Clone, Default)]
struct Line {
    chunks: Vec<Made>,
    known: u64,
}

impl Line {
    /// Whether the last chunk of another line is known here.
    fn holds(&self, other: &Self) -> bool {
        self.known < other.chunks.len() as u64 && self.chunks.starts_with(&other.chunks)
    }
}

/// What a [`Timeline`] should be.
#[derive(Default)]
struct Lines {
    present: Line,
    left: VecDeque<Line>,
}

impl Lines {
    /// Goes to another line; of those that were left at most `most` are kept.
    fn leave(&mut self, known: u64, present: Line, most: usize) {
        let line = Line { known, ..std::mem::replace(&mut self.present, present) };
        if line.chunks.len() as u64 > line.known && !self.left.iter().any(|other| other.holds(&line)) {
            self.left.push_back(line);
            if self.left.len() > most {
                self.left.pop_front();
            }
        }
    }
}

/// Whether every chunk of every line is what a world makes that lives through the same and never goes anywhere.
fn live(open: fn() -> Session, options: TimelineOptions, acts: Vec<Act>) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.dream");
    let mut timeline = Timeline::new(open(), options);
    let info = timeline.session().model().info().clone();
    let (mut lines, mut in_memory, mut in_file) = (Lines::default(), None, None);
    let most = options.branches;
    let mut way = 0;
    for act in acts.into_iter().chain([Act::Walk(1)]) {
        match act {
            Act::Walk(chunks) => {
                for _ in 0..chunks {
                    way += 1;
                    let (controls, session) = (controls(way), timeline.session());
                    let (prompt, settings) = (session.prompt().into(), session.settings());
                    let frames = timeline.step(&controls).unwrap().frames.iter().map(frame_hash).collect();
                    lines.present.chunks.push(Made { controls, prompt, settings, frames });
                    prop_assert!(timeline.bytes() <= options.memory);
                }
            }
            Act::Prompt(words) => timeline.set_prompt(&format!("world {words}")).unwrap(),
            Act::Steps(steps) => {
                let settings = timeline.session().settings();
                timeline.set_settings(Settings { steps, ..settings }).unwrap();
            }
            Act::Rewind(back) => {
                let Range { start, end } = timeline.chunks();
                let chunk = end.saturating_sub(back);
                if chunk < start {
                    prop_assert!(timeline.rewind(chunk).is_err());
                } else if chunk < end {
                    timeline.rewind(chunk).unwrap();
                    let chunks = lines.present.chunks[..chunk as usize].to_vec();
                    lines.leave(start, Line { chunks, known: 0 }, most);
                }
            }
            Act::Switch(branch) => {
                let known = timeline.chunks().start;
                match lines.left.remove(branch) {
                    None => prop_assert!(timeline.switch(branch).is_err()),
                    Some(other) => {
                        timeline.switch(branch).unwrap();
                        lines.leave(known, other, most);
                    }
                }
            }
            Act::Keep(in_a_file) => {
                let snapshot = timeline.snapshot().unwrap();
                let chunks = lines.present.chunks.clone();
                if in_a_file {
                    snapshot.save(&file, &info).unwrap();
                    in_file = Some(chunks);
                } else {
                    in_memory = Some((snapshot, chunks));
                }
            }
            Act::Return(to_file) => {
                let known = timeline.chunks().start;
                let kept = match (to_file, &in_file, &in_memory) {
                    (true, Some(chunks), _) => (Snapshot::load(&file, &info).unwrap(), chunks.clone()),
                    (false, _, Some(kept)) => kept.clone(),
                    _ => continue,
                };
                timeline.restore(&kept.0).unwrap();
                lines.leave(known, Line { chunks: kept.1, known: 0 }, most);
            }
        }
        prop_assert_eq!(timeline.branches().count(), lines.left.len());
        prop_assert!(timeline.bytes() <= options.memory);
    }
    for line in lines.left.iter().chain([&lines.present]) {
        let mut fresh = open();
        for (index, made) in line.chunks.iter().enumerate() {
            fresh.set_prompt(&made.prompt).unwrap();
            fresh.set_settings(made.settings).unwrap();
            let chunk = fresh.step(&made.controls).unwrap();
            prop_assert_eq!(chunk.index, index as u64);
            prop_assert_eq!(chunk.frames.iter().map(frame_hash).collect::<Vec<_>>(), &made.frames[..]);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_line_goes_on_as_if_it_had_never_been_left(acts in acts(40, 20)) {
        live(fake, OPTIONS, acts)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn every_line_of_the_shipped_model_goes_on_as_if_it_had_never_been_left(acts in acts(8, 16)) {
        // Room for the ends of two lines, 1.5 MB each, and some snapshots.
        live(overworld, TimelineOptions { memory: 7_000_000, branches: 1, ..OPTIONS }, acts)?;
    }
}

/// What `docs/PERFORMANCE.md` states: all but 0.7 MB are keys and values of 58 segments, which the world holds as well.
#[test]
fn a_snapshot_of_the_shipped_model_takes_what_is_stated() {
    let settings = Settings { steps: 1, first_steps: 1, ..model().info().settings };
    let options = SessionOptions { prompt: "a forest".into(), settings: Some(settings), ..Default::default() };
    let mut session = Session::new(model(), options).unwrap();
    let turn = Controls { forward: 0.2, look: [12.0, 0.0], ..Controls::default() };
    for _ in 0..20 {
        session.step(&[turn; 2]).unwrap();
    }
    let bytes = |snapshot: &Snapshot| {
        let mut held = Held::default();
        held.add_snapshot(snapshot);
        held.bytes
    };
    let first = session.snapshot().unwrap();
    assert!(first.state.contains("key.5.cells"), "it remembers as much as it can");
    assert!(bytes(&first) <= 8_600_000, "{} bytes", bytes(&first));
    session.step(&[turn; 2]).unwrap();
    let mut both = Held::default();
    [&first, &session.snapshot().unwrap()].into_iter().for_each(|snapshot| both.add_snapshot(snapshot));
    assert!(both.bytes <= bytes(&first) + 1_200_000, "{} bytes for two", both.bytes);
}

#[test]
fn words_that_are_taken_back_change_nothing() {
    let mut timeline = Timeline::new(overworld(), OPTIONS);
    walk(&mut timeline, 0..2);
    timeline.set_prompt("a desert").unwrap();
    timeline.set_prompt("a meadow").unwrap();
    let made = walk(&mut timeline, 2..4);
    let mut plain = Timeline::new(overworld(), OPTIONS);
    assert!(made == walk(&mut plain, 0..4)[2..]);
}

#[test]
fn known_frames_are_those_that_were_made() {
    let mut timeline = timeline();
    let made = walk(&mut timeline, 0..20);
    timeline.rewind(7).unwrap();
    assert_eq!(timeline.chunks(), 0..7);
    assert!((0..7).all(|i| timeline.frame(i).unwrap() == made[i as usize][1]));
    assert!(timeline.frame(7).is_none());
    assert_eq!(timeline.branches().next(), Some(7..20));
    assert!(walk(&mut timeline, 7..20) == made[7..]);
}

#[test]
fn the_past_is_bounded_and_says_so() {
    let mut timeline = timeline();
    let made = walk(&mut timeline, 0..600);
    let Range { start, end } = timeline.chunks();
    assert!(end == 600 && (150..250).contains(&(end - start)), "{start}..{end}");
    let error = timeline.rewind(start - 1).unwrap_err().to_string();
    assert!(error.contains(&format!("{start} to 600")), "{error}");
    timeline.rewind(start).unwrap();
    assert!(walk(&mut timeline, start..start + 3) == made[start as usize..][..3]);
}

#[test]
fn snapshots_fill_the_memory_and_are_nearer_where_the_past_is_nearer() {
    let options = TimelineOptions { memory: 300_000, ..OPTIONS };
    let mut timeline = Timeline::new(fake(), options);
    for way in 0..400 {
        walk(&mut timeline, way..way + 1);
        assert!(timeline.bytes() <= options.memory);
    }
    assert!(timeline.bytes() > options.memory * 9 / 10, "{} bytes", timeline.bytes());
    let kept: Vec<_> = timeline.moments.iter().filter(|m| m.before.is_some()).map(|m| 400 - m.index).collect();
    let gaps: Vec<_> = kept.windows(2).map(|pair| pair[0] - pair[1]).collect();
    let widest = |near: u64, far: u64| {
        let there = kept.iter().zip(&gaps).filter(|(back, _)| (near..far).contains(*back));
        there.map(|(_, gap)| *gap).max().unwrap()
    };
    assert!(widest(0, 15) <= 2 && widest(15, 50) <= 8 && widest(50, 250) <= 40, "{kept:?}");
    let bytes = timeline.bytes();
    timeline.count();
    assert_eq!(timeline.bytes(), bytes, "counted as it goes");
}

#[test]
fn without_memory_there_is_no_past_but_a_present() {
    let mut timeline = Timeline::new(fake(), TimelineOptions { memory: 1000, ..OPTIONS });
    let made = walk(&mut timeline, 0..5);
    assert_eq!((timeline.chunks(), timeline.bytes()), (5..5, 0));
    assert!(timeline.rewind(4).unwrap_err().to_string().contains("5 to 5"));
    assert!(made == walk(&mut self::timeline(), 0..5));
}

#[test]
fn a_world_of_elsewhere_leaves_a_branch() {
    let mut timeline = timeline();
    walk(&mut timeline, 0..3);
    let saved = timeline.snapshot().unwrap();
    let next = walk(&mut timeline, 3..5);
    timeline.restore(&saved).unwrap();
    assert_eq!(timeline.chunks(), 3..3);
    assert!(walk(&mut timeline, 3..5) == next);
    timeline.switch(0).unwrap();
    assert_eq!(timeline.chunks(), 0..5);
}
