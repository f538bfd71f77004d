//! The default model's world in a file.

use std::path::Path;

use bevy_dream::checkpoint::{self, DeviceChoice};
use bevy_dream::model::Settings;
use bevy_dream::simulate::{Session, SessionOptions, Snapshot};
use bevy_dream::{Controls, Frame};

/// The most that a save may take.
const BYTES: u64 = 8_000_000;

#[test]
fn a_saved_world_goes_on_to_the_bit_and_is_small() {
    let model = checkpoint::load(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/overworld"), DeviceChoice::Cpu);
    let model = model.unwrap();
    let walk = |session: &mut Session, chunks: usize| -> Vec<Frame> {
        let held = Controls { forward: 0.2, look: [12.0, 0.0], ..Controls::default() };
        (0..chunks).flat_map(|_| session.step(&[held; 2]).unwrap().frames).collect()
    };
    let settings = Settings { steps: 1, first_steps: 1, ..model.info().settings };
    let begin = |seed| {
        let options =
            SessionOptions { seed, prompt: "a forest at noon".into(), settings: Some(settings), ..Default::default() };
        Session::new(model.clone(), options).unwrap()
    };
    let mut walked = begin(1);
    // Until it remembers as much as it can: all chunks that it looks back to, and all key frames.
    walk(&mut walked, 20);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.dream");
    walked.snapshot().unwrap().save(&path, model.info()).unwrap();
    let bytes = std::fs::metadata(&path).unwrap().len();
    assert!(bytes <= BYTES, "{bytes} bytes");
    let mut loaded = begin(2);
    loaded.restore(&Snapshot::load(&path, model.info()).unwrap()).unwrap();
    assert!(walk(&mut loaded, 2) == walk(&mut walked, 2));
}
