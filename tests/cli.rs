//! The command line tool as a user meets it: exit codes, one clear line on bad input, results on stdout.
#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn dream(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dream")).args(args).stdin(Stdio::null()).output().unwrap()
}

/// The one line that a refused command prints; nothing goes to stdout.
fn refusal(args: &[&str]) -> String {
    let output = dream(args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{args:?} succeeded");
    assert!(output.stdout.is_empty(), "{args:?} printed to stdout");
    assert_eq!(text.lines().count(), 1, "{args:?} gave {text:?}");
    assert!(text.starts_with("error: "), "{args:?} gave {text:?}");
    text
}

fn accepted(args: &[&str]) -> String {
    let output = dream(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A model folder that only `inspect` can use.
fn write_model(folder: &Path) {
    let header = r#"{"__metadata__":{"license":"MIT"},"b.weight":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},"a.bias":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&[0; 16]);
    fs::write(folder.join("dit.safetensors"), bytes).unwrap();
    fs::write(folder.join("config.json"), r#"{"family":"dream","name":"tiny"}"#).unwrap();
}

#[test]
fn usage_mistakes_are_one_line() {
    for args in [&[][..], &["dance"], &["inspect"], &["inspect", "x", "--shout"]] {
        refusal(args);
    }
    assert!(accepted(&["--help"]).contains("inspect"));
}

#[test]
fn inspect_accounts_for_every_key() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let folder = dir.path().to_str().unwrap();
    let report: Value = serde_json::from_str(&accepted(&["inspect", folder, "--json"])).unwrap();
    assert_eq!((&report["family"], &report["licence"]), (&"dream".into(), &"MIT".into()));
    assert_eq!((&report["parameters"], &report["memory"]["F16"]), (&7.into(), &12.into()));
    assert_eq!(report["files"][0]["tensors"][1]["shape"], serde_json::json!([2, 3]));
    let text = accepted(&["inspect", dir.path().join("dit.safetensors").to_str().unwrap()]);
    assert!(text.contains("b.weight") && text.contains("[2, 3]"), "{text}");
}

#[test]
fn inspect_refuses_what_is_no_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    refusal(&["inspect", &path("missing")]);
    assert!(refusal(&["inspect", &path("")]).contains("no .safetensors"));
    write_model(dir.path());
    let whole = fs::read(path("dit.safetensors")).unwrap();
    for (name, bytes) in [
        ("cut.safetensors", &whole[..whole.len() - 3]),
        ("cut-header.safetensors", &whole[..40]),
        ("empty.safetensors", &[]),
        ("noise.safetensors", &[0xff; 64]),
        ("note.txt", b"hello"),
    ] {
        fs::write(path(name), bytes).unwrap();
        refusal(&["inspect", &path(name)]);
    }
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let mut child = Command::new(env!("CARGO_BIN_EXE_dream"))
        .args(["inspect", dir.path().to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
