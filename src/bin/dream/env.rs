//! `dream env`: another process drives a world over stdin and stdout, a JSON object a line.
//!
//! | request | reply |
//! |---|---|
//! | `{"reset":{"seed":7,"prompt":"…","start":"a.png"}}` (the start image is optional) | `{"ready":true,"width":128,"height":128,"fps":20.0,"frames_per_chunk":2}` |
//! | `{"step":{"keys":["W"],"look":[0,0]}}` | `{"frames":2,"tick":2,"ms":71.0,"bytes":98304}` and as many bytes of RGB |
//! | `{"prompt":"…"}`, `{"snapshot":"a"}`, `{"restore":"a"}` | `{"ok":true}` |
//! | anything else | `{"error":"…"}` |

use std::collections::HashMap;
use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bevy_dream::model::{Settings, WorldModel};
use bevy_dream::simulate::{ControlScript, Session, SessionOptions, Snapshot};
use bevy_dream::video::load_image;
use bevy_dream::{Controls, Error, Frame, FrameSize, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::args::{ModelArgs, WorldArgs};
use crate::output::loading;

/// A longer line is refused, so that noise on stdin cannot fill the memory.
const MAX_LINE: u64 = 1 << 20;

/// Drive a world from another process: JSON lines on stdin and stdout
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    world: WorldArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let (pool, model) = args.model.load()?;
    let (settings, size) = (args.world.settings(&*model)?, args.world.size(&*model));
    let mut server = Server { model, settings, size, session: None, snapshots: HashMap::new() };
    pool.install(|| server.serve(io::stdin().lock(), io::stdout()))
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Request {
    Reset(Reset),
    Step(Value),
    Prompt(String),
    Snapshot(String),
    Restore(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reset {
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    prompt: String,
    start: Option<PathBuf>,
}

struct Server {
    model: Arc<dyn WorldModel>,
    settings: Settings,
    size: FrameSize,
    session: Option<Session>,
    snapshots: HashMap<String, Snapshot>,
}

impl Server {
    /// Answers requests until stdin ends or nobody reads the answers.
    fn serve(&mut self, mut requests: impl BufRead, mut replies: impl Write) -> Result<()> {
        while let Some(line) = read_line(&mut requests).map_err(Error::io("stdin"))? {
            if line.as_ref().is_ok_and(|l| l.trim().is_empty()) {
                continue;
            }
            let (reply, frames) = line
                .and_then(|line| self.answer(&line))
                .unwrap_or_else(|error| (json!({ "error": error.to_string() }), Vec::new()));
            let mut message = format!("{reply}\n").into_bytes();
            frames.iter().for_each(|frame| message.extend_from_slice(&frame.rgb));
            replies.write_all(&message).and_then(|()| replies.flush()).map_err(Error::io("stdout"))?;
            if let Some(session) = &mut self.session {
                // The chunk is remembered while the driver looks at it; an error comes up again at the next step.
                let _ = session.commit();
            }
        }
        Ok(())
    }

    fn answer(&mut self, line: &str) -> Result<(Value, Vec<Frame>)> {
        let request = serde_json::from_str(line).map_err(|e| Error::input(format!("not a request: {e}")))?;
        let frames_per_chunk = self.model.info().frames_per_chunk;
        let ok = (json!({ "ok": true }), Vec::new());
        Ok(match request {
            Request::Reset(reset) => {
                let options = SessionOptions {
                    seed: reset.seed,
                    prompt: reset.prompt,
                    start: reset.start.map(load_image).transpose()?,
                    size: Some(self.size),
                    settings: Some(self.settings),
                };
                self.session = Some(loading(|| Session::new(Arc::clone(&self.model), options))?);
                let FrameSize { width, height } = self.size;
                let fps = self.model.info().fps;
                let ready = json!({
                    "ready": true, "width": width, "height": height, "fps": fps, "frames_per_chunk": frames_per_chunk,
                });
                (ready, Vec::new())
            }
            Request::Step(step) => {
                let controls = controls_of(step)?;
                let session = self.session()?;
                let start = Instant::now();
                let chunk = session.step(&vec![controls; frames_per_chunk])?;
                let bytes: usize = chunk.frames.iter().map(|f| f.rgb.len()).sum();
                let ms = (start.elapsed().as_secs_f64() * 1e4).round() / 10.0;
                let made = json!({ "frames": chunk.frames.len(), "tick": session.tick(), "ms": ms, "bytes": bytes });
                (made, chunk.frames)
            }
            Request::Prompt(prompt) => {
                let session = self.session()?;
                loading(|| session.set_prompt(&prompt))?;
                ok
            }
            Request::Snapshot(name) => {
                let moment = self.session()?.snapshot()?;
                self.snapshots.insert(name, moment);
                ok
            }
            Request::Restore(name) => {
                let moment = self.snapshots.get(&name).cloned();
                let moment = moment.ok_or_else(|| Error::input(format!("there is no snapshot '{name}'")))?;
                self.session()?.restore(&moment)?;
                ok
            }
        })
    }

    fn session(&mut self) -> Result<&mut Session> {
        self.session.as_mut().ok_or_else(|| Error::input("there is no world yet: send a reset first"))
    }
}

/// The next line; none at the end of the input, an error inside for a line that cannot be used.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Result<String>>> {
    let mut line = Vec::new();
    input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.len() as u64 == MAX_LINE && !line.ends_with(b"\n") {
        input.skip_until(b'\n')?;
        return Ok(Some(Err(Error::input(format!("a line has more than {MAX_LINE} bytes")))));
    }
    Ok(Some(String::from_utf8(line).map_err(|_| Error::input("a line is not UTF-8"))))
}

/// Keys and look, written as in a controls file.
fn controls_of(step: Value) -> Result<Controls> {
    let Value::Object(mut change) = step else {
        return Err(Error::input("a step holds an object with keys and look"));
    };
    if let Some(key) = change.keys().find(|key| !["keys", "look"].contains(&key.as_str())) {
        return Err(Error::input(format!("a step holds keys and look, not '{key}'")));
    }
    change.insert("tick".into(), 0.into());
    let script = ControlScript::parse(&Value::Object(change).to_string())?;
    Ok(script.at(0).0)
}

#[cfg(test)]
mod tests {
    use bevy_dream::simulate::fake::FakeModel;

    use super::*;

    /// The replies to requests, each with the bytes that follow it.
    fn converse(requests: &[u8]) -> Vec<(Value, Vec<u8>)> {
        let model = FakeModel::default().shared();
        let (settings, size) = (model.info().settings, model.info().default_size);
        let mut server = Server { model, settings, size, session: None, snapshots: HashMap::new() };
        let mut output = Vec::new();
        server.serve(requests, &mut output).unwrap();
        let mut rest = &output[..];
        let mut replies = Vec::new();
        while !rest.is_empty() {
            let end = rest.iter().position(|b| *b == b'\n').unwrap();
            let reply: Value = serde_json::from_slice(&rest[..end]).unwrap();
            let bytes = reply["bytes"].as_u64().unwrap_or(0) as usize;
            replies.push((reply, rest[end + 1..][..bytes].to_vec()));
            rest = &rest[end + 1 + bytes..];
        }
        replies
    }

    const RESET: &str = r#"{"reset":{"seed":7,"prompt":"a meadow"}}"#;
    const STEP: &str = r#"{"step":{"keys":["W"],"look":[2,0]}}"#;

    #[test]
    fn a_world_is_driven_step_by_step() {
        let replies = converse(format!("{RESET}\n{STEP}\n{{\"prompt\":\"a desert\"}}\n{STEP}").as_bytes());
        let ready = json!({"ready": true, "width": 32, "height": 32, "fps": 20.0, "frames_per_chunk": 2});
        assert_eq!(replies[0].0, ready);
        assert_eq!((&replies[1].0["frames"], &replies[1].0["tick"]), (&2.into(), &2.into()));
        assert_eq!(replies[1].1.len(), 2 * 32 * 32 * 3);
        assert_eq!(replies[2].0, json!({"ok": true}));
        assert_eq!(replies[3].0["tick"], 4);
    }

    #[test]
    fn a_restored_world_repeats_itself() {
        let (keep, back) = (r#"{"snapshot":"a"}"#, r#"{"restore":"a"}"#);
        let replies = converse([RESET, STEP, keep, STEP, back, STEP].join("\n").as_bytes());
        assert_eq!(replies[3].1, replies[5].1);
        assert_ne!(replies[1].1, replies[3].1);
    }

    #[test]
    fn mistakes_are_answered_and_the_world_lives_on() {
        let mistakes: [&[u8]; 12] = [
            b"hello",
            b"\xff\xfe",
            b"{}",
            br#"{"fly":1}"#,
            br#"{"step":{"keys":["Q"]}}"#,
            br#"{"step":{"look":[1e9,0]}}"#,
            br#"{"step":{"tick":3}}"#,
            br#"{"step":[]}"#,
            br#"{"prompt":""}"#,
            br#"{"restore":"never"}"#,
            br#"{"reset":{"prompt":" "}}"#,
            br#"{"reset":{"prompt":"x","start":"no-such-file.png"}}"#,
        ];
        let mut requests = format!("{STEP}\n{RESET}\n").into_bytes();
        for mistake in mistakes {
            requests.extend_from_slice(mistake);
            requests.push(b'\n');
        }
        requests.extend_from_slice(&vec![b'x'; 3 << 20]);
        requests.extend_from_slice(format!("\n\n{STEP}\n").as_bytes());
        let replies = converse(&requests);
        assert_eq!(replies.len(), 2 + 12 + 1 + 1);
        assert!(replies[0].0["error"].as_str().unwrap().contains("reset first"));
        for (reply, _) in &replies[2..15] {
            let error = reply["error"].as_str().unwrap();
            assert!(!error.is_empty() && !error.contains('\n'), "{error}");
        }
        assert_eq!(replies[15].0["tick"], 2);
    }
}
