//! Controls files and replay files: what a player did, as JSON lines, and the hash of what came of it.
//!
//! ```text
//! {"tick":0,"keys":["W"],"look":[0.0,0.0]}
//! {"tick":40,"keys":["W","Space"],"look":[3.0,-1.0],"prompt":"a desert at sunset"}
//! ```
//!
//! A tick is one native frame. Keys, look (degrees a tick: yaw, right positive, and pitch, up positive) and `extra` (what a
//! recorded game has beyond walking, four numbers within ±1) hold until changed. A prompt takes effect with the chunk that holds its tick.
//!
//! A replay file is the same with a [`ReplayHeader`] as its first line, a line for every tick, and in it the [hash](frame_hash) of the frame
//! that came of it: `{"tick":7,"frame":"ba7816bf8f01cfea"}`.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::controls::{EXTRA_DIM, MAX_LOOK};
use crate::model::Settings;
use crate::partial::write_whole;
use crate::{Controls, Error, Frame, FrameSize, Result};

/// The version of replay files that is written and read.
const REPLAY_VERSION: u32 = 2;

/// A key of a controls file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Key {
    W,
    A,
    S,
    D,
    Shift,
    Space,
    Break,
    Place,
}

/// One line of a controls file; what is absent holds on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    tick: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<Key>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    look: Option<[f32; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<[f32; EXTRA_DIM]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frame: Option<String>,
}

/// Controls and prompt changes over time.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "bevy", derive(bevy::prelude::Reflect))]
pub struct ControlScript {
    /// Changed controls from their tick on, in order.
    controls: Vec<(u64, Controls)>,
    /// Changed prompts, in order.
    prompts: Vec<(u64, String)>,
    /// The last tick that is told of.
    last_tick: u64,
}

impl ControlScript {
    /// Reads a controls file.
    ///
    /// # Errors
    /// [`Error::Input`] with the line's number when a line is not valid JSON, has an unknown key or field,
    /// ticks that do not increase, a look beyond ±[`MAX_LOOK`], extra controls beyond ±1, or a prompt that cannot be used.
    pub fn parse(text: &str) -> Result<Self> {
        if text.trim().is_empty() {
            return Err(Error::input("the controls are empty: write one JSON object a line, with a tick"));
        }
        Ok(Self::parse_lines(text.lines().enumerate())?.0)
    }

    /// The script, and tick and hash of the frames that are told of.
    fn parse_lines<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Result<(Self, Vec<(u64, String)>)> {
        let (mut script, mut frames) = (Self::default(), Vec::new());
        let mut last = None;
        let mut controls = Controls::default();
        for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = |reason: String| Error::input(format!("controls line {}: {reason}", index + 1));
            let change: Change = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
            if last.is_some_and(|last| change.tick <= last) {
                return Err(wrong(format!("tick {} does not come after the line before", change.tick)));
            }
            last = Some(change.tick);
            script.last_tick = change.tick;
            if let Some(keys) = &change.keys {
                controls = Controls { look: controls.look, extra: controls.extra, ..from_keys(keys) };
            }
            if let Some(look) = change.look {
                if look.iter().any(|x| !(-MAX_LOOK..=MAX_LOOK).contains(x)) {
                    return Err(wrong(format!("look is {look:?}: a tick turns at most {MAX_LOOK} degrees")));
                }
                controls.look = look;
            }
            if let Some(extra) = change.extra {
                if extra.iter().any(|x| !(-1.0..=1.0).contains(x)) {
                    return Err(wrong(format!("extra is {extra:?}, not within -1 to 1")));
                }
                controls.extra = extra;
            }
            if let Some(prompt) = change.prompt {
                super::check_prompt(&prompt).map_err(|e| wrong(e.to_string()))?;
                script.prompts.push((change.tick, prompt));
            }
            if change.keys.is_some() || change.look.is_some() || change.extra.is_some() {
                script.controls.push((change.tick, controls));
            }
            frames.extend(change.frame.map(|hash| (change.tick, hash)));
        }
        Ok((script, frames))
    }

    /// The controls held during `tick` and the prompt that changes at it.
    pub fn at(&self, tick: u64) -> (Controls, Option<&str>) {
        let held = self.controls.partition_point(|(t, _)| *t <= tick).checked_sub(1);
        let prompt = self.prompts.binary_search_by_key(&tick, |(t, _)| *t).ok();
        (held.map_or_else(Controls::default, |i| self.controls[i].1), prompt.map(|i| self.prompts[i].1.as_str()))
    }

    /// The controls of the `ticks` ticks from `first_tick` on, and the last prompt that changes during them.
    pub fn chunk(&self, first_tick: u64, ticks: usize) -> (Vec<Controls>, Option<&str>) {
        let span = first_tick..first_tick + ticks as u64;
        let prompt = span.clone().rev().find_map(|t| self.at(t).1);
        (span.map(|t| self.at(t).0).collect(), prompt)
    }

    /// The tick of the last line.
    pub fn last_tick(&self) -> u64 {
        self.last_tick
    }

    /// Appends the controls of a tick, as far as a file can hold them: walking is all or nothing.
    /// What was recorded from this tick on is forgotten.
    pub fn record(&mut self, tick: u64, controls: Controls) {
        self.controls.truncate(self.controls.partition_point(|(t, _)| *t < tick));
        let mut controls = Controls { look: controls.look, extra: controls.extra, ..from_keys(&to_keys(&controls)) };
        let clamp = |x: f32, limit: f32| if x.is_nan() { 0.0 } else { x.clamp(-limit, limit) };
        controls.look = controls.look.map(|x| clamp(x, MAX_LOOK));
        controls.extra = controls.extra.map(|x| clamp(x, 1.0));
        self.last_tick = tick;
        if self.at(tick).0 != controls {
            self.controls.push((tick, controls));
        }
    }

    /// Appends a prompt change. Ticks must come in order.
    pub fn record_prompt(&mut self, tick: u64, prompt: &str) {
        self.last_tick = tick;
        self.prompts.retain(|(t, _)| *t != tick);
        self.prompts.push((tick, prompt.into()));
    }

    /// The lines that tell of it, and of the frames that came of it.
    fn changes(&self, frames: &[(u64, String)]) -> Vec<Change> {
        let mut ticks: Vec<u64> = self.controls.iter().map(|c| c.0).chain(self.prompts.iter().map(|p| p.0)).collect();
        ticks.push(self.last_tick);
        ticks.extend(frames.iter().map(|frame| frame.0));
        ticks.sort_unstable();
        ticks.dedup();
        let mut held = Controls::default();
        let mut changes = Vec::with_capacity(ticks.len());
        for tick in ticks {
            let (controls, prompt) = self.at(tick);
            let keys = to_keys(&controls);
            let before = std::mem::replace(&mut held, controls);
            let frame = frames.binary_search_by_key(&tick, |frame| frame.0).ok();
            changes.push(Change {
                tick,
                keys: (to_keys(&before) != keys).then_some(keys),
                look: (before.look != controls.look).then_some(controls.look),
                extra: (before.extra != controls.extra).then_some(controls.extra),
                prompt: prompt.map(Into::into),
                frame: frame.map(|i| frames[i].1.clone()),
            });
        }
        changes
    }
}

impl fmt::Display for ControlScript {
    /// Writes a controls file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_lines(self.changes(&[]), f)
    }
}

fn write_lines(changes: Vec<Change>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    changes.iter().try_for_each(|change| writeln!(f, "{}", serde_json::to_string(change).map_err(|_| fmt::Error)?))
}

fn from_keys(keys: &[Key]) -> Controls {
    let on = |key| keys.contains(&key);
    let axis = |plus, minus| f32::from(u8::from(on(plus))) - f32::from(u8::from(on(minus)));
    Controls {
        forward: axis(Key::W, Key::S),
        strafe: axis(Key::D, Key::A),
        sprint: on(Key::Shift),
        jump: on(Key::Space),
        look: [0.0; 2],
        break_block: on(Key::Break),
        place_block: on(Key::Place),
        extra: [0.0; EXTRA_DIM],
    }
}

fn to_keys(controls: &Controls) -> Vec<Key> {
    [
        (Key::W, controls.forward > 0.5),
        (Key::A, controls.strafe < -0.5),
        (Key::S, controls.forward < -0.5),
        (Key::D, controls.strafe > 0.5),
        (Key::Shift, controls.sprint),
        (Key::Space, controls.jump),
        (Key::Break, controls.break_block),
        (Key::Place, controls.place_block),
    ]
    .into_iter()
    .filter_map(|(key, on)| on.then_some(key))
    .collect()
}

/// The first line of a replay file: all that decides a world's frames beside the controls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayHeader {
    /// [`ModelInfo::sha256`](crate::model::ModelInfo::sha256) of the model.
    pub model: String,
    /// The world's seed.
    pub seed: u64,
    /// The first prompt.
    pub prompt: String,
    /// The start image, relative to the replay file; none when the model made its own first frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<StartImage>,
    /// The saved moment at which the frames begin, relative to the replay file; none when it is the world's
    /// beginning. Ticks are those of the world.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save: Option<PathBuf>,
    /// The settings, the same throughout.
    pub settings: Settings,
    /// The frame size.
    pub size: FrameSize,
}

/// A start image of a replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartImage {
    /// The picture's file.
    pub path: PathBuf,
    /// The [`FrameHasher`]'s digest of the picture, so that another picture is noticed.
    pub sha256: String,
}

/// A recorded session that can be run again, frame for frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// The first line.
    pub header: ReplayHeader,
    /// What the player did.
    pub script: ControlScript,
    /// Tick and [hash](frame_hash) of every frame, one a tick.
    pub frames: Vec<(u64, String)>,
}

/// What the first line of every version begins with.
#[derive(Deserialize)]
struct Version {
    replay: u32,
}

#[derive(Serialize, Deserialize)]
struct VersionedHeader {
    replay: u32,
    #[serde(flatten)]
    header: ReplayHeader,
}

impl Replay {
    /// Reads a replay file.
    ///
    /// # Errors
    /// [`Error::Input`] when the first line is not a replay header of this version, when frames are missing, or as
    /// [`ControlScript::parse`].
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |reason: String| Error::input(format!("replay line 1: {reason}"));
        let first = text.lines().next().unwrap_or_default();
        let Version { replay } = serde_json::from_str(first).map_err(|e| wrong(e.to_string()))?;
        if replay != REPLAY_VERSION {
            return Err(wrong(format!(
                "the replay is of version {replay}, but {REPLAY_VERSION} is read: record it again, or use the release that wrote it"
            )));
        }
        let VersionedHeader { header, .. } = serde_json::from_str(first).map_err(|e| wrong(e.to_string()))?;
        let (script, frames) = ControlScript::parse_lines(text.lines().enumerate().skip(1))?;
        if frames.is_empty() {
            return Err(Error::input("the replay tells of no frames"));
        }
        match frames.windows(2).find(|pair| pair[0].0 + 1 != pair[1].0) {
            Some(pair) => {
                Err(Error::input(format!("the replay lacks the frames between ticks {} and {}", pair[0].0, pair[1].0)))
            }
            None => Ok(Self { header, script, frames }),
        }
    }

    /// Writes it to a file, which is there whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write_whole(path.as_ref(), self.to_string().as_bytes())
    }
}

impl fmt::Display for Replay {
    /// Writes a replay file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = VersionedHeader { replay: REPLAY_VERSION, header: self.header.clone() };
        writeln!(f, "{}", serde_json::to_string(&header).map_err(|_| fmt::Error)?)?;
        write_lines(self.script.changes(&self.frames), f)
    }
}

/// The first 64 bits of the SHA-256 of a frame's RGB bytes, in hexadecimal.
pub fn frame_hash(frame: &Frame) -> String {
    hexadecimal(&Sha256::digest(&frame.rgb)[..8])
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 over the RGB bytes of frames in order.
#[derive(Clone, Debug, Default)]
pub struct FrameHasher(Sha256);

impl FrameHasher {
    /// Appends a frame.
    pub fn push(&mut self, frame: &Frame) {
        self.0.update(&frame.rgb);
    }

    /// The digest of the frames so far, in hexadecimal.
    pub fn digest(&self) -> String {
        hexadecimal(&self.0.clone().finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"tick":0,"keys":["W"]}
{"tick":4,"look":[3.0,-1.0],"extra":[1.0,0.0,0.0,-0.5]}

{"tick":9,"keys":["Space","A","Break"],"prompt":"a desert"}
"#;

    #[test]
    fn keys_and_look_hold_until_changed() {
        let script = ControlScript::parse(FILE).unwrap();
        assert_eq!(script.at(3), (Controls { forward: 1.0, ..Default::default() }, None));
        let turning = Controls { forward: 1.0, look: [3.0, -1.0], extra: [1.0, 0.0, 0.0, -0.5], ..Default::default() };
        assert_eq!(script.at(8), (turning, None));
        let (controls, prompt) = script.at(9);
        assert_eq!(prompt, Some("a desert"));
        assert_eq!((controls.forward, controls.strafe, controls.look), (0.0, -1.0, [3.0, -1.0]));
        assert_eq!(controls.extra, turning.extra);
        assert!(controls.jump && controls.break_block && !controls.sprint);
        assert_eq!(script.at(1000).0, controls);
        assert_eq!(script.chunk(8, 2).1, Some("a desert"), "the chunk that holds tick 9 gets its prompt");
        assert_eq!(script.chunk(10, 2).1, None);
        assert_eq!(script.last_tick(), 9);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, part) in [
            ("{\"tick\":0}\nhello", "line 2"),
            (r#"{"tick":0,"keys":["Q"]}"#, "unknown variant `Q`"),
            (r#"{"tick":0,"kyes":["W"]}"#, "unknown field `kyes`"),
            (r#"{"keys":["W"]}"#, "missing field `tick`"),
            (r#"{"tick":-1}"#, "line 1"),
            ("{\"tick\":5}\n{\"tick\":5}", "line 2: tick 5"),
            (r#"{"tick":0,"look":[1e9,0]}"#, "at most 12 degrees"),
            (r#"{"tick":0,"look":[1]}"#, "line 1"),
            (r#"{"tick":0,"extra":[2,0,0,0]}"#, "within -1 to 1"),
            (r#"{"tick":0,"prompt":""}"#, "line 1: the prompt is empty"),
            ("\n \n", "empty"),
        ] {
            let error = ControlScript::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text:?} gave {error:?}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let script = ControlScript::parse(FILE).unwrap();
        assert_eq!(ControlScript::parse(&script.to_string()).unwrap(), script);
        let mut recorded = ControlScript::default();
        for tick in 0..10 {
            let (controls, prompt) = script.at(tick);
            recorded.record(tick, controls);
            if let Some(prompt) = prompt {
                recorded.record_prompt(tick, prompt);
            }
        }
        assert_eq!(recorded, script);
    }

    #[test]
    fn replays_read_back_and_refuse_other_versions() {
        let header = ReplayHeader {
            model: "ab".into(),
            seed: u64::MAX,
            prompt: "a meadow".into(),
            start: Some(StartImage { path: "start.png".into(), sha256: "cd".into() }),
            save: Some("walk.dream".into()),
            settings: Settings { steps: 2, first_steps: 4, guidance: 1.0, context_noise: 0.1 },
            size: FrameSize::new(128, 128),
        };
        let frames = |ticks: std::ops::Range<u64>| ticks.map(|tick| (tick, format!("{tick:016x}"))).collect::<Vec<_>>();
        let replay = Replay { header, script: ControlScript::parse(FILE).unwrap(), frames: frames(2..10) };
        let text = replay.to_string();
        assert_eq!(Replay::parse(&text).unwrap(), replay);
        let still = Replay { script: ControlScript::parse(r#"{"tick":20}"#).unwrap(), frames: frames(0..21), ..replay };
        assert_eq!(Replay::parse(&still.to_string()).unwrap(), still);
        let refused = |text: &str, part: &str| {
            let error = Replay::parse(text).unwrap_err().to_string();
            assert!(error.contains(part) && error.lines().count() == 1, "{error}");
        };
        refused(&text.replacen(":2", ":3", 1), "version 3");
        refused(r#"{"replay":1,"model":"ab","seed":1,"prompt":"a","frames":20,"frames_sha256":"ef"}"#, "version 1");
        refused(FILE, "replay line 1");
        refused("", "replay line 1");
        refused(text.lines().next().unwrap(), "no frames");
        let gap: Vec<_> = text.lines().filter(|line| !line.contains(r#""tick":5"#)).collect();
        refused(&gap.join("\n"), "between ticks 4 and 6");
        refused(&text[..text.len() - 5], "line 10");
    }

    #[test]
    fn the_digest_is_sha256_of_the_bytes() {
        let mut hasher = FrameHasher::default();
        let frame = Frame { size: FrameSize::new(1, 1), rgb: b"abc".to_vec() };
        hasher.push(&frame);
        assert_eq!(frame_hash(&frame), "ba7816bf8f01cfea");
        assert_eq!(hasher.digest(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
