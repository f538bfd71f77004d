//! The command line tool as a user meets it: exit codes, one clear line on bad input, results on stdout.
#![cfg(feature = "cli")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use bevy_dream::kernel::Isa;
use bevy_dream::video::{load_image, save_png};
use bevy_dream::{Frame, FrameSize};
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

/// Only the header of this file exists: whoever reads more of it reads three billion zeros.
#[test]
fn inspect_reads_no_more_than_headers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.safetensors");
    let header = r#"{"a":{"dtype":"F16","shape":[1500000,1000],"data_offsets":[0,3000000000]}}"#;
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + 3_000_000_000).unwrap();
    let report: Value = serde_json::from_str(&accepted(&["inspect", path.to_str().unwrap(), "--json"])).unwrap();
    assert_eq!((&report["parameters"], &report["bytes"]), (&1_500_000_000_u64.into(), &3_000_000_000_u64.into()));
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

/// The shipped model at a size that is quick to dream.
const SMALL: [&str; 4] = ["--model", concat!(env!("CARGO_MANIFEST_DIR"), "/models/overworld"), "--size", "48x32"];

fn render(more: &[&str]) -> Vec<String> {
    ["render", "--prompt", "a meadow", "--frames", "5"]
        .iter()
        .chain(&SMALL)
        .chain(more)
        .map(ToString::to_string)
        .collect()
}

fn borrowed(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn render_refuses_bad_input_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let out = path("x.gif");
    fs::write(path("controls"), "{\"tick\":0}\nW W W\n").unwrap();
    fs::write(path("picture.png"), "not a picture").unwrap();
    let long = "x".repeat(10_000);
    for (more, part) in [
        (&["--model", "no/such/folder"][..], "no/such/folder"),
        (&["--frames", "0"], "--frames"),
        (&["--frames", "many"], "--frames"),
        (&["--threads", "0"], "threads"),
        (&["--threads", "10000"], "threads"),
        (&["--steps", "0"], "steps"),
        (&["--steps", "65"], "steps"),
        (&["--size", "13x13"], "13x13"),
        (&["--size", "big"], "'big'"),
        (&["--size", "1000000x16"], "1 to 2048"),
        (&["--size", "18446744073709551615x18446744073709551615"], "1 to 2048"),
        (&["--device", "abacus"], "abacus"),
        #[cfg(not(feature = "cuda"))]
        (&["--device", "cuda"], "no cuda device"),
        #[cfg(not(feature = "metal"))]
        (&["--device", "metal"], "no metal device"),
        (&["--policy", "fly"], "fly"),
        (&["--prompt", " "], "prompt is empty"),
        (&["--prompt", &long], "10000"),
        (&["--controls", &path("controls")], "line 2"),
        (&["--controls", &path("missing")], "missing"),
        (&["--start", &path("picture.png")], "not a PNG"),
        (&["--start", &path("missing.png")], "missing.png"),
        (&["--out", &path("x.avi")], "x.avi"),
        (&["--out", &path("no/such/folder/x.gif")], "x.gif"),
    ] {
        // The last of two equal options counts, except where clap refuses them: replace the value then.
        let mut args = render(&["--out", &out]);
        match args.iter().position(|a| a == more[0]) {
            Some(at) => args[at + 1] = more[1].into(),
            None => args.extend(more.iter().map(ToString::to_string)),
        }
        let line = refusal(&borrowed(&args));
        assert!(line.contains(part), "{more:?} gave {line}");
    }
    assert!(!Path::new(&out).exists());
}

#[test]
fn an_instruction_set_that_is_not_there_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("walk.gif");
    let walk = |isa: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dream"));
        command.args(render(&["--out", out.to_str().unwrap()])).env("BEVY_DREAM_ISA", isa).output().unwrap()
    };
    let lacking = Isa::of_cpu().all(|isa| isa != Isa::Avx512).then_some(("avx512", "this CPU has no avx512"));
    for (isa, part) in [("mmx", "BEVY_DREAM_ISA: 'mmx'"), ("", "choose")].into_iter().chain(lacking) {
        let output = walk(isa);
        let line = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && line.lines().count() == 1 && line.contains(part), "{isa}: {line}");
    }
    assert!(walk("portable").status.success() && out.exists());
}

#[test]
fn a_rendered_walk_replays_to_the_same_frames() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let picture = Frame { size: FrameSize::new(90, 40), rgb: (0..90 * 40 * 3).map(|i| (i % 251) as u8).collect() };
    save_png(&picture, path("start.jpg.png")).unwrap();
    let args = render(&["--out", &path("walk/"), "--start", &path("start.jpg.png"), "--seed", "3", "--threads", "1"]);
    let printed = accepted(&borrowed(&args));
    assert_eq!(printed.lines().count(), 2, "{printed}");
    assert_eq!(fs::read_dir(path("walk")).unwrap().count(), 5);
    assert_eq!(load_image(path("walk/frame-000004.png")).unwrap().size, FrameSize::new(48, 32));

    let replay = path("walk.replay.jsonl");
    let model = &SMALL[..2];
    let digest = accepted(&[&["replay", &replay, "--verify", "--threads", "1"], model].concat());
    assert_eq!(digest.trim().len(), 64);
    assert_eq!(accepted(&[&["replay", &replay, "--verify", "--threads", "2"], model].concat()), digest);
    let text = fs::read_to_string(&replay).unwrap();
    fs::write(&replay, text.replace("\"seed\":3", "\"seed\":4")).unwrap();
    assert!(refusal(&[&["replay", &replay, "--verify"], model].concat()).contains("from tick 0 on"));
    assert_ne!(accepted(&[&["replay", &replay], model].concat()), digest);
    // The first frame that another prompt decides.
    let changed = text.replace("{\"tick\":2,", "{\"tick\":2,\"prompt\":\"a dark cave\",");
    assert_ne!(changed, text);
    fs::write(&replay, changed).unwrap();
    assert!(refusal(&[&["replay", &replay, "--verify"], model].concat()).contains("from tick 2 on, the 3. of 5"));
    let header: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let weights = header["model"].as_str().unwrap();
    fs::write(&replay, text.replace(weights, &"0".repeat(64))).unwrap();
    assert!(refusal(&[&["replay", &replay], model].concat()).contains("other weights"));
}

/// `dream` where no file may grow beyond some KB, as on a full disk.
#[cfg(unix)]
fn dream_on_a_full_disk(args: &[&str]) -> Output {
    // A signal that is not heeded makes a file that grows beyond the limit an error. Its unit is 512 bytes or 1024.
    Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 24; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_dream")])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[cfg(unix)]
#[test]
fn what_was_rendered_stays_when_the_disk_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let names: &[_] = if cfg!(feature = "mp4") { &["walk.gif", "walk.mp4"] } else { &["walk.gif"] };
    for name in names {
        let mut args = render(&["--out", &path(name), "--steps", "1"]);
        args[4] = "200".into();
        let output = dream_on_a_full_disk(&borrowed(&args));
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.lines().count() == 1, "{told}");
        assert!(told.contains(name) && told.contains("frames are kept"), "{told}");
        accepted(&[&["replay", &path("walk.replay.jsonl"), "--verify"], &SMALL[..2]].concat());
        let bytes = fs::read(path(name)).unwrap();
        assert!(bytes.len() > 4096, "{} bytes", bytes.len());
        if *name == "walk.gif" {
            let decoder = image::codecs::gif::GifDecoder::new(std::io::Cursor::new(bytes)).unwrap();
            let frames = image::AnimationDecoder::into_frames(decoder).collect_frames().unwrap();
            assert!(told.contains(&format!(" {} frames are kept", frames.len())), "{told}");
        }
    }
    let left = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, names.len() + 1, "the videos and a replay");
}

#[test]
fn a_world_is_driven_over_pipes() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dream"))
        .arg("env")
        .args(SMALL)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let requests = concat!(
        r#"{"reset":{"seed":7,"prompt":"a desert"}}"#,
        "\nhello\n",
        r#"{"step":{"keys":["W"],"look":[1,0]}}"#,
        "\n"
    );
    child.stdin.take().unwrap().write_all(requests.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let mut lines = output.stdout.splitn(4, |b| *b == b'\n');
    let mut next = || serde_json::from_slice::<Value>(lines.next().unwrap()).unwrap();
    assert_eq!(next()["ready"], true);
    assert!(next()["error"].is_string());
    assert_eq!(next()["bytes"], 2 * 48 * 32 * 3);
    assert_eq!(lines.next().unwrap().len(), 2 * 48 * 32 * 3);
}

#[test]
fn bench_reports_every_figure() {
    let report = accepted(&[&["bench", "--seconds", "2", "--threads", "2", "--json"], &SMALL[..]].concat());
    let report: Value = serde_json::from_str(&report).unwrap();
    for key in ["fps", "first_frame_ms", "gflop_per_frame", "gflops", "gemm_peak_gflops", "efficiency"] {
        assert!(report[key].as_f64().is_some_and(|x| x > 0.0), "{key}: {report}");
    }
    for (key, part) in [
        ("chunk_ms", "p50"),
        ("chunk_ms", "p95"),
        ("chunk_ms", "max"),
        ("control_to_frame_ms", "p50"),
        ("control_to_frame_ms", "p95"),
        ("stage_ms", "denoise"),
        ("travel", "timeline_mb"),
        ("travel", "rewind_ms"),
        ("travel", "snapshot_ms"),
        ("travel", "restore_ms"),
        ("travel", "snapshot_mb"),
    ] {
        assert!(report[key][part].as_f64().is_some_and(|x| x > 0.0), "{key}.{part}: {report}");
    }
    assert!(report["rss_mb"].get("start").is_some());
    let isa = Isa::preferred().unwrap().to_string();
    assert_eq!((&report["isa"], &report["device"]), (&isa.into(), &"cpu".into()));
}

#[test]
fn a_published_model_opens_like_our_own() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/oasis");
    let report: Value = serde_json::from_str(&accepted(&["inspect", folder, "--json"])).unwrap();
    assert_eq!((&report["family"], &report["problem"]), (&"oasis".into(), &Value::Null));
    let (run, nothing) = (&report["run"], Value::Bool(false));
    assert_eq!((&run["reads_text"], &run["controls"]["break"]), (&nothing, &"attack".into()));
    assert!(report["run"]["gflop_per_frame"].as_f64().is_some_and(|x| x > 0.0), "{report}");
    assert!(report["licence"].as_str().is_some_and(|x| x.contains("MIT")), "{report}");

    let waypoint = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/waypoint");
    let text = accepted(&["inspect", waypoint]);
    assert!(text.contains("waypoint") && text.contains("all accounted for"), "{text}");
    let ours = accepted(&["inspect", SMALL[1]]);
    assert!(ours.contains("licence  MIT OR Apache-2.0") && ours.contains("all accounted for"), "{ours}");

    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let walk = dream(&["render", "--model", folder, "--frames", "3", "--out", &path("walk/")]);
    let told = String::from_utf8_lossy(&walk.stderr);
    assert!(walk.status.success() && told.contains("licence"), "{told}");
    assert_eq!(load_image(path("walk/frame-000002.png")).unwrap().size, FrameSize::new(40, 24));
    accepted(&["replay", &path("walk.replay.jsonl"), "--verify", "--model", folder]);
    for args in [&["verify", folder][..], &["bench", "--seconds", "2", "--model", folder]] {
        let told = String::from_utf8(dream(args).stderr).unwrap();
        assert_eq!(told.matches("note: oasis").count(), 1, "{args:?}: {told}");
    }

    // Without the config these are files of another size than the published one.
    for name in ["weights.safetensors", "vae.safetensors"] {
        fs::copy(Path::new(folder).join(name), path(name)).unwrap();
    }
    let report: Value = serde_json::from_str(&accepted(&["inspect", &path("weights.safetensors"), "--json"])).unwrap();
    assert_eq!((&report["family"], &report["run"]), (&"oasis".into(), &Value::Null));
    assert!(report["problem"].as_str().is_some_and(|x| x.contains("makes it")), "{report}");
}

#[test]
fn eval_refuses_seeds_that_may_have_been_trained_on() {
    let line = refusal(&[&["eval", "--seeds", "0..4"], &SMALL[..]].concat());
    assert!(line.contains("500000"), "{line}");
    assert!(refusal(&[&["eval", "--seeds", "9..4"], &SMALL[..]].concat()).contains("'9..4'"));
    assert!(refusal(&["eval", "--prompts", "no-such-file.tsv"]).contains("no-such-file.tsv"));
}

#[test]
fn data_writes_shards_and_guards_the_held_out_seeds() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let small = ["--size", "32x32", "--ticks", "3", "--out", out];
    accepted(&[&["data", "--seeds", "1..3"], &small[..]].concat());
    assert!(dir.path().join("shard-000000.tar").exists());
    assert!(refusal(&[&["data", "--seeds", "500000..500001"], &small[..]].concat()).contains("held-out"));
    refusal(&[&["data", "--seeds", "5..5"], &small[..]].concat());
    for threads in ["0", "10000"] {
        let line = refusal(&[&["data", "--seeds", "1..3", "--threads", threads], &small[..]].concat());
        assert!(line.contains("1 to 64"), "{line}");
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let folder = dir.path().join("file/folder");
    let folder = folder.to_str().unwrap();
    for args in [
        &["data", "--seeds", "1..2", "--size", "32x32", "--ticks", "2", "--out", folder][..],
        &["eval", "--seeds", "500000..500001", "--sheets", folder, SMALL[0], SMALL[1]],
        &["gallery", "--out", folder, SMALL[0], SMALL[1]],
        &["render", "--prompt", "a meadow", "--frames", "2", "--out", folder, SMALL[0], SMALL[1], SMALL[2], SMALL[3]],
    ] {
        let line = refusal(args);
        assert!(line.contains(folder), "{args:?} gave {line}");
    }
}

#[test]
fn a_model_that_is_damaged_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    for entry in fs::read_dir(SMALL[1]).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let weights = dir.path().join("dit.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    for command in ["bench", "inspect"] {
        let path: &[&str] = if command == "bench" { &["--model", folder] } else { &[folder] };
        let line = refusal(&[&[command], path].concat());
        assert!(line.contains("dit.safetensors"), "{line}");
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
