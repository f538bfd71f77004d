//! A saved world: a snapshot in a file.
//!
//! A save is a safetensors file. Its metadata hold the version, the model's SHA-256, everything of the world that is no
//! tensor as JSON, and a SHA-256 over that JSON and all tensors, which are [packed]. It is written beside its place and then
//! moved there, so that a crash leaves the old save or the new one.

mod packed;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::{SafeTensors, View};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::session::Snapshot;
use crate::controls::Body;
use crate::model::{ModelInfo, RolloutState, Settings};
use crate::partial::write_whole;
use crate::{Error, Result};

/// The version of saves that is written and read.
const VERSION: &str = "2";

/// What of a [`Snapshot`] is no tensor.
#[derive(Serialize, Deserialize)]
struct World {
    seed: u64,
    prompt: String,
    settings: Settings,
    next_chunk: u64,
    body: Body,
}

impl Snapshot {
    /// Writes a save of a world of `model`.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written; a save that was there before is then still there. [`Error::Tensor`]
    /// when there is not enough memory.
    pub fn save(&self, path: impl AsRef<Path>, model: &ModelInfo) -> Result<()> {
        let world = World {
            seed: self.seed,
            prompt: self.prompt.clone(),
            settings: self.settings,
            next_chunk: self.next_chunk,
            body: self.body,
        };
        let world = serde_json::to_string(&world).map_err(|e| Error::input(e.to_string()))?;
        let tensors = self.state.to_tensors()?;
        let metadata = HashMap::from([
            ("bevy_dream save".to_owned(), VERSION.to_owned()),
            ("model".to_owned(), model.sha256.clone()),
            ("sha256".to_owned(), digest(&world, &tensors)),
            ("world".to_owned(), world),
        ]);
        let bytes =
            safetensors::serialize(packed::pack(&tensors)?, Some(metadata)).map_err(|e| Error::input(e.to_string()))?;
        write_whole(path.as_ref(), &bytes)
    }

    /// Reads a save of a world of `model`.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no such file, [`Error::Input`] when it is no save, of another version or model, or
    /// damaged.
    pub fn load(path: impl AsRef<Path>, model: &ModelInfo) -> Result<Self> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(Error::io(path))?;
        read(&bytes, model).map_err(|reason| Error::input(format!("{}: {reason}", path.display())))
    }
}

fn read(bytes: &[u8], model: &ModelInfo) -> Result<Snapshot, String> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|_| "this is no saved world, or it is cut off")?;
    let metadata = metadata.metadata().clone().unwrap_or_default();
    let field = |name: &str| metadata.get(name).map(String::as_str).unwrap_or_default();
    match field("bevy_dream save") {
        VERSION => {}
        "" => return Err("this is no saved world".into()),
        other => return Err(format!("the save is of version {other}, but {VERSION} is read")),
    }
    if field("model") != model.sha256 {
        let [saved, present] = [field("model"), &model.sha256].map(|hash| hash.get(..12).unwrap_or(hash));
        return Err(format!(
            "the world was saved with another model ({saved}..., not {present}... of {}): load it with that one",
            model.name
        ));
    }
    let damaged = || "the save is damaged".to_owned();
    let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu).map_err(|_| damaged())?;
    let tensors = packed::unpack(tensors.into_iter().collect()).ok_or_else(damaged)?;
    if field("sha256") != digest(field("world"), &tensors) {
        return Err(damaged());
    }
    let World { seed, prompt, settings, next_chunk, body } =
        serde_json::from_str(field("world")).map_err(|_| damaged())?;
    let checked = if model.reads_text { super::check_prompt(&prompt) } else { Ok(()) };
    checked.and_then(|()| super::check_settings(settings)).map_err(|e| e.to_string())?;
    let state = RolloutState::from_tensors(tensors);
    Ok(Snapshot { state, seed, prompt, settings, next_chunk, body })
}

/// SHA-256 of everything that a save says of its world, in hexadecimal.
fn digest(world: &str, tensors: &BTreeMap<String, Tensor>) -> String {
    let mut hash = Sha256::new_with_prefix(world);
    for (name, tensor) in tensors {
        let shape = tensor.dims().iter().map(|&n| n as u64);
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update(format!("{:?}", tensor.dtype()));
        shape.for_each(|n| hash.update(n.to_le_bytes()));
        hash.update(View::data(tensor));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeModel;
    use super::super::session::{Session, SessionOptions};
    use super::*;
    use crate::{Controls, model::WorldModel};

    fn session(seed: u64) -> Session {
        let options = SessionOptions { seed, prompt: "a meadow".into(), ..Default::default() };
        let mut session = Session::new(FakeModel::default().shared(), options).unwrap();
        walk(&mut session);
        session
    }

    fn walk(session: &mut Session) -> Vec<crate::Frame> {
        let held = Controls { forward: 1.0, look: [3.0, 2.0], jump: true, ..Controls::default() };
        (0..4).flat_map(|_| session.step(&[held; 2]).unwrap().frames).collect()
    }

    #[test]
    fn a_loaded_world_goes_on_as_the_saved_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.dream");
        let (mut first, mut second) = (session(1), session(2));
        let info = FakeModel::default().info().clone();
        first.snapshot().unwrap().save(&path, &info).unwrap();
        second.restore(&Snapshot::load(&path, &info).unwrap()).unwrap();
        assert!(walk(&mut first) == walk(&mut second));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn what_is_no_save_of_this_model_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.dream");
        let info = FakeModel::default().info().clone();
        session(1).snapshot().unwrap().save(&path, &info).unwrap();
        let good = fs::read(&path).unwrap();
        let refused = |bytes: &[u8], info: &ModelInfo| {
            fs::write(&path, bytes).unwrap();
            Snapshot::load(&path, info).unwrap_err().to_string()
        };
        let other = ModelInfo { sha256: "f".repeat(64), ..info.clone() };
        assert!(refused(&good, &other).contains("another model (000000000000..., not ffffffffffff..."));
        assert!(refused(b"hello", &info).contains("no saved world"));
        assert!(refused(&good[..good.len() - 1], &info).contains("cut off"));
        let find = |part: &[u8]| good.windows(part.len()).position(|w| w == part).unwrap();
        let version = find(b"save\":\"2\"") + 7;
        for (at, part) in [(version, "version 1"), (good.len() - 1, "damaged"), (find(b"meadow"), "damaged")] {
            let mut bad = good.clone();
            bad[at] = if at == version { b'1' } else { bad[at] ^ 1 };
            let error = refused(&bad, &info);
            assert!(error.contains(part) && error.contains("a.dream"), "{error}");
        }
        assert!(Snapshot::load(folder.path().join("none"), &info).is_err());
    }

    #[test]
    fn saves_side_by_side_leave_each_other_and_all_else_alone() {
        let folder = tempfile::tempdir().unwrap();
        let info = FakeModel::default().info().clone();
        fs::write(folder.path().join("world.tmp"), "a user's own").unwrap();
        let names = ["world.dream", "world.save", "world"];
        std::thread::scope(|scope| {
            for (seed, name) in names.into_iter().enumerate() {
                let (path, snapshot, info) =
                    (folder.path().join(name), session(seed as u64).snapshot().unwrap(), &info);
                scope.spawn(move || (0..20).for_each(|_| snapshot.save(&path, info).unwrap()));
            }
        });
        for (seed, name) in names.into_iter().enumerate() {
            assert_eq!(Snapshot::load(folder.path().join(name), &info).unwrap().seed, seed as u64);
        }
        assert_eq!(fs::read(folder.path().join("world.tmp")).unwrap(), b"a user's own");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), names.len() + 1, "nothing else is left");
    }

    /// Saves again and again to the file that the environment names: what the tests below do harm to.
    #[test]
    #[ignore = "a process of its own"]
    fn save_for_ever() {
        let Some(path) = std::env::var_os("SAVE_FOR_EVER") else { return };
        let info = FakeModel::default().info().clone();
        let mut session = session(2);
        loop {
            walk(&mut session);
            session.snapshot().unwrap().save(&path, &info).unwrap();
        }
    }

    #[cfg(unix)]
    fn process_that_saves(path: &Path, limit: &str) -> std::process::Child {
        // A signal that is not heeded makes a file that grows beyond the limit an error, as on a full disk.
        std::process::Command::new("sh")
            .args(["-c", &format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "simulate::save::tests::save_for_ever", "--ignored"])
            .env("SAVE_FOR_EVER", path)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap()
    }

    #[cfg(unix)]
    #[test]
    fn a_full_disk_leaves_the_old_save_alone() {
        let folder = tempfile::tempdir().unwrap();
        let info = FakeModel::default().info().clone();
        let path = folder.path().join("a.dream");
        let snapshot = session(1).snapshot().unwrap();
        assert!(matches!(snapshot.save(folder.path().join("no/such/folder"), &info), Err(Error::Io { .. })));
        snapshot.save(&path, &info).unwrap();
        assert!(!process_that_saves(&path, "0").wait().unwrap().success());
        assert_eq!(Snapshot::load(&path, &info).unwrap().seed, 1);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[cfg(unix)]
    #[test]
    fn a_process_killed_while_saving_leaves_a_whole_save() {
        let folder = tempfile::tempdir().unwrap();
        let info = FakeModel::default().info().clone();
        let path = folder.path().join("a.dream");
        for kill in 0..12 {
            session(1).snapshot().unwrap().save(&path, &info).unwrap();
            let mut process = process_that_saves(&path, "unlimited");
            while Snapshot::load(&path, &info).unwrap().seed == 1 {
                std::thread::yield_now();
            }
            std::thread::sleep(std::time::Duration::from_micros(kill * 97));
            process.kill().unwrap();
            process.wait().unwrap();
            assert_eq!(Snapshot::load(&path, &info).unwrap().seed, 2);
        }
        // What it had written of another is in nobody's way.
        session(3).snapshot().unwrap().save(&path, &info).unwrap();
        assert_eq!(Snapshot::load(&path, &info).unwrap().seed, 3);
    }
}
