//! The Rust text encoder gives what the PyTorch one that exported it gave: the shipped one, or that of the model
//! folder in `$PARITY_FIXTURE`.

use std::path::{Path, PathBuf};

use bevy_dream::model::text::TextEncoder;
use candle_core::Device;

#[derive(serde::Deserialize)]
struct Fixture {
    prompts: Vec<String>,
    embeddings: Vec<Vec<f32>>,
}

#[test]
fn prompts_in_any_script_are_embedded_as_in_pytorch() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (model, fixture) = match std::env::var_os("PARITY_FIXTURE").map(PathBuf::from) {
        Some(folder) => (folder.clone(), folder.join("text_parity.json")),
        None => (root.join("models/overworld"), root.join("tests/fixtures/text_parity.json")),
    };
    let fixture: Fixture = serde_json::from_slice(&std::fs::read(fixture).unwrap()).unwrap();
    assert!(fixture.prompts.len() >= 12);
    let encoder = TextEncoder::load(&model, &Device::Cpu).unwrap();
    for (prompt, expected) in fixture.prompts.iter().zip(&fixture.embeddings) {
        let ours: Vec<f32> = encoder.encode(prompt).unwrap().to_vec1().unwrap();
        let worst = ours.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(ours.len() == expected.len() && worst < 1e-4, "{prompt:.40}: off by {worst}");
    }
}
