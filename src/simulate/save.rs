//! A saved world: a snapshot in a file.
//!
//! A save is a safetensors file. Its metadata hold the version, the model's SHA-256, everything of the world that is no
//! tensor as JSON, and a SHA-256 over that JSON and all tensors. It is written beside its place and then moved there, so
//! that a crash leaves the old save or the new one.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::{SafeTensors, View};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::session::Snapshot;
use crate::controls::Body;
use crate::model::{ModelInfo, RolloutState, Settings};
use crate::{Error, Result};

/// The version of saves that is written and read.
const VERSION: &str = "1";

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
        let path = path.as_ref();
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
        let bytes = safetensors::serialize(&tensors, Some(metadata)).map_err(|e| Error::input(e.to_string()))?;
        let beside = path.with_extension("tmp");
        let written = File::create(&beside).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&beside, path)
        });
        written.map_err(|source| {
            fs::remove_file(&beside).ok();
            Error::io(path)(source)
        })
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
    let tensors: BTreeMap<_, _> =
        candle_core::safetensors::load_buffer(bytes, &Device::Cpu).map_err(|_| damaged())?.into_iter().collect();
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
        let version = find(b"save\":\"1\"") + 7;
        for (at, part) in [(version, "version 2"), (good.len() - 1, "damaged"), (find(b"meadow"), "damaged")] {
            let mut bad = good.clone();
            bad[at] = if at == version { b'2' } else { bad[at] ^ 1 };
            let error = refused(&bad, &info);
            assert!(error.contains(part) && error.contains("a.dream"), "{error}");
        }
        assert!(Snapshot::load(folder.path().join("none"), &info).is_err());
    }

    #[test]
    fn a_save_that_cannot_be_written_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let info = FakeModel::default().info().clone();
        let snapshot = session(1).snapshot().unwrap();
        assert!(matches!(snapshot.save(folder.path().join("no/such/folder"), &info), Err(Error::Io { .. })));
        let path = folder.path().join("a.dream");
        snapshot.save(&path, &info).unwrap();
        // A folder in the way of the new file, which is written beside the old one.
        fs::create_dir(path.with_extension("tmp")).unwrap();
        assert!(snapshot.save(&path, &info).is_err());
        Snapshot::load(&path, &info).unwrap();
    }

    #[test]
    fn a_process_killed_while_saving_leaves_the_old_save_and_nothing_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let info = FakeModel::default().info().clone();
        let path = folder.path().join("a.dream");
        session(1).snapshot().unwrap().save(&path, &info).unwrap();
        let saved = fs::read(&path).unwrap();
        // What it had written.
        fs::write(path.with_extension("tmp"), &saved[..saved.len() / 2]).unwrap();
        assert_eq!(Snapshot::load(&path, &info).unwrap().seed, 1);
        session(2).snapshot().unwrap().save(&path, &info).unwrap();
        assert_eq!(Snapshot::load(&path, &info).unwrap().seed, 2);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
