//! Episodes to tar shards and back.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::f16;
use rayon::prelude::*;

use super::episode::{Episode, EpisodeConfig, EpisodeMeta, control_names, record};
use super::npy;
use crate::controls::CONTROL_DIM;
use crate::{Controls, Error, Frame, FrameSize, Result};

/// Episodes in a full shard.
pub const EPISODES_PER_SHARD: usize = 64;

/// The farthest from 0 that a number of an action may be: what is larger drowns everything else in training.
pub const MAX_ACTION: f32 = 1e4;

/// Whether an action can be recorded.
///
/// # Errors
/// [`Error::Input`] when one of its numbers is not finite or farther from 0 than [`MAX_ACTION`].
pub fn check_action(action: &[f32]) -> Result<()> {
    match action.iter().find(|x| !(-MAX_ACTION..=MAX_ACTION).contains(*x)) {
        Some(x) => Err(Error::input(format!(
            "an action of {x} cannot be trained on: its numbers must lie within ±{MAX_ACTION}"
        ))),
        None => Ok(()),
    }
}

/// Records the episodes of `seeds` into shards in the folder `out`, on the threads of the current rayon pool.
/// The files do not depend on the number of threads. `progress` is called with the number of new episodes.
///
/// # Errors
/// [`Error::Io`] when a shard cannot be written.
pub fn write_dataset(seeds: Range<u64>, config: &EpisodeConfig, out: &Path, progress: impl Fn(u64)) -> Result<()> {
    let mut writer = ShardWriter::new(out)?;
    let mut next = seeds.start;
    while next < seeds.end {
        // two a thread are made side by side before they are written
        let batch = next..seeds.end.min(next + 2 * rayon::current_num_threads() as u64);
        let episodes: Vec<Episode> = batch.clone().into_par_iter().map(|seed| record(seed, config)).collect();
        for episode in &episodes {
            writer.write(episode)?;
        }
        progress(batch.end - batch.start);
        next = batch.end;
    }
    writer.finish()
}

/// Writes episodes to `shard-000000.tar`, `shard-000001.tar`, … A shard has its name only once it is complete.
pub struct ShardWriter {
    folder: PathBuf,
    shards: usize,
    open: Option<(tar::Builder<BufWriter<File>>, usize)>,
}

impl ShardWriter {
    /// A writer into `folder`, which is made if need be.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be made.
    pub fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        Ok(Self { folder: folder.to_owned(), shards: 0, open: None })
    }

    /// A writer into `folder` whose shards come after those that are there.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be made or read.
    pub fn after(folder: &Path) -> Result<Self> {
        let mut writer = Self::new(folder)?;
        let number = |path: PathBuf| path.file_stem()?.to_str()?.strip_prefix("shard-")?.parse::<usize>().ok();
        writer.shards = ShardReader::shards(folder)?.into_iter().filter_map(number).max().map_or(0, |last| last + 1);
        Ok(writer)
    }

    fn path(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("shard-{:06}.{ending}", self.shards))
    }

    /// Appends an episode.
    ///
    /// # Errors
    /// [`Error::Io`] when the shard cannot be written.
    pub fn write(&mut self, episode: &Episode) -> Result<()> {
        let actions: Vec<_> = episode.actions.iter().map(Controls::to_vector).collect();
        self.append(&episode.meta, &episode.frames, &actions, &episode.nearness)
    }

    /// Appends frames, what led to each (rows of any numbers, all of the same length) and how near what each shows is, as in
    /// [`Episode::nearness`].
    ///
    /// # Errors
    /// [`Error::Input`] when they are not as many, as long or as large as they should be, or by [`check_action`]; what was
    /// written before stays. [`Error::Io`] when the shard cannot be written.
    pub fn append(
        &mut self,
        meta: &EpisodeMeta,
        frames: &[Frame],
        actions: &[impl AsRef<[f32]>],
        nearness: &[Vec<f16>],
    ) -> Result<()> {
        check(meta, frames, actions, nearness)?;
        let path = self.path("tar.part");
        let (mut tar, count) = match self.open.take() {
            Some(open) => open,
            None => (tar::Builder::new(BufWriter::new(File::create(&path).map_err(Error::io(&path))?)), 0),
        };
        for (ending, bytes) in files(meta, frames, actions, nearness) {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            let name = format!("{:08}.{ending}", meta.seed);
            tar.append_data(&mut header, name, bytes.as_slice()).map_err(Error::io(&path))?;
        }
        self.open = Some((tar, count + 1));
        if count + 1 == EPISODES_PER_SHARD { self.close() } else { Ok(()) }
    }

    /// Completes the present shard; the next episode begins another.
    ///
    /// # Errors
    /// [`Error::Io`] when the shard cannot be written.
    pub fn close(&mut self) -> Result<()> {
        if let Some((tar, _)) = self.open.take() {
            let (part, path) = (self.path("tar.part"), self.path("tar"));
            tar.into_inner().and_then(|mut file| file.flush()).map_err(Error::io(&part))?;
            fs::rename(&part, &path).map_err(Error::io(&path))?;
            self.shards += 1;
        }
        Ok(())
    }

    /// Completes the last shard.
    ///
    /// # Errors
    /// [`Error::Io`] when the shard cannot be written.
    pub fn finish(mut self) -> Result<()> {
        self.close()
    }
}

/// Whether an episode is what its metadata say.
fn check(meta: &EpisodeMeta, frames: &[Frame], actions: &[impl AsRef<[f32]>], nearness: &[Vec<f16>]) -> Result<()> {
    let size = FrameSize::new(meta.width, meta.height);
    if actions.len() != frames.len() || !(nearness.is_empty() || nearness.len() == frames.len()) {
        return Err(Error::input(format!(
            "an episode of {} frames cannot have {} actions and {} pictures of nearness",
            frames.len(),
            actions.len(),
            nearness.len()
        )));
    }
    if let Some(frame) = frames.iter().find(|frame| frame.size != size || frame.rgb.len() != size.pixels() * 3) {
        return Err(Error::input(format!("a frame of {} is not of an episode of {size}", frame.size)));
    }
    if nearness.iter().any(|near| near.len() != size.pixels()) {
        return Err(Error::input(format!("a picture of nearness is not {size}")));
    }
    for (tick, action) in actions.iter().map(AsRef::as_ref).enumerate() {
        if action.len() != meta.actions.len() {
            return Err(Error::input(format!(
                "tick {tick}: an action of {} numbers, but {} are named",
                action.len(),
                meta.actions.len()
            )));
        }
        check_action(action).map_err(|error| Error::input(format!("tick {tick}: {error}")))?;
    }
    Ok(())
}

/// The files of an episode: ending and content.
fn files(
    meta: &EpisodeMeta,
    frames: &[Frame],
    actions: &[impl AsRef<[f32]>],
    nearness: &[Vec<f16>],
) -> Vec<(&'static str, Vec<u8>)> {
    let pixels: Vec<u8> = frames.iter().flat_map(|f| f.rgb.iter().copied()).collect();
    let numbers: Vec<u8> = actions.iter().flat_map(AsRef::as_ref).flat_map(|x| x.to_le_bytes()).collect();
    let width = actions.first().map_or(CONTROL_DIM, |row| row.as_ref().len());
    let json = serde_json::to_vec(meta).expect("metadata has only text and numbers");
    let mut files = vec![
        ("frames.npy", npy::encode("|u1", &[frames.len(), meta.height, meta.width, 3], &pixels)),
        ("actions.npy", npy::encode("<f4", &[actions.len(), width], &numbers)),
    ];
    if !nearness.is_empty() {
        let numbers: Vec<u8> = nearness.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
        files.push(("nearness.npy", npy::encode("<f2", &[nearness.len(), meta.height, meta.width], &numbers)));
    }
    files.push(("json", json));
    files
}

/// Reads the episodes of one shard, in order.
pub struct ShardReader {
    path: PathBuf,
    tar: tar::Archive<BufReader<File>>,
}

impl ShardReader {
    /// Opens a shard.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        Ok(Self { path: path.to_owned(), tar: tar::Archive::new(BufReader::new(file)) })
    }

    /// The shards in a folder, in order.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be read.
    pub fn shards(folder: &Path) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(folder).map_err(Error::io(folder))?;
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "tar"))
            .collect();
        paths.sort();
        Ok(paths)
    }

    /// Calls `each` with every episode.
    ///
    /// # Errors
    /// [`Error::Io`] when the shard cannot be read, [`Error::Input`] when it is not of this layout, and what `each` returns.
    pub fn for_each(&mut self, mut each: impl FnMut(Episode) -> Result<()>) -> Result<()> {
        let path = self.path.clone();
        let bad = |what: &str| Error::input(format!("{}: {what}", path.display()));
        let mut arrays: Vec<Vec<u8>> = Vec::new();
        for entry in self.tar.entries().map_err(Error::io(&path))? {
            let mut entry = entry.map_err(Error::io(&path))?;
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(Error::io(&path))?;
            if entry.path().is_ok_and(|name| name.extension().is_some_and(|ending| ending == "json")) {
                let meta = serde_json::from_slice(&bytes).map_err(|e| bad(&e.to_string()))?;
                each(episode(meta, &arrays, &path.to_string_lossy())?)?;
                arrays.clear();
            } else {
                arrays.push(bytes);
            }
        }
        if arrays.is_empty() { Ok(()) } else { Err(bad("the last episode is incomplete")) }
    }
}

/// An episode from its arrays: frames, actions and, of some, nearness.
fn episode(meta: EpisodeMeta, arrays: &[Vec<u8>], name: &str) -> Result<Episode> {
    let [frames, actions, nearness @ ..] = arrays else {
        return Err(Error::input(format!("{name}: an episode lacks its frames or its actions")));
    };
    let size = FrameSize::new(meta.width, meta.height);
    if meta.actions != control_names() {
        return Err(Error::input(format!("{name}: the actions {:?} are another game's", meta.actions)));
    }
    let (shape, pixels) = npy::decode(frames, "|u1", name)?;
    let (rows, numbers) = npy::decode(actions, "<f4", name)?;
    let ticks = shape.first().copied().unwrap_or_default();
    let fits = shape == [ticks, size.height, size.width, 3] && rows == [ticks, CONTROL_DIM];
    if !fits || pixels.len() != ticks * size.pixels() * 3 || numbers.len() != ticks * CONTROL_DIM * 4 {
        return Err(Error::input(format!("{name}: frames {shape:?} and actions {rows:?} do not fit {size}")));
    }
    let nearness = nearness.first().map(|file| npy::decode(file, "<f2", name)).transpose()?;
    if nearness.as_ref().is_some_and(|(shape, numbers)| {
        *shape != [ticks, size.height, size.width] || numbers.len() != ticks * size.pixels() * 2
    }) {
        return Err(Error::input(format!("{name}: nearness does not fit frames {shape:?}")));
    }
    let near = |bytes: &[u8]| bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect();
    let nearness = nearness.map_or(vec![], |(_, bytes)| bytes.chunks_exact(size.pixels() * 2).map(near).collect());
    let frames = pixels.chunks_exact(size.pixels() * 3).map(|rgb| Frame { size, rgb: rgb.to_vec() }).collect();
    let row = |bytes: &[u8]| {
        let mut vector = [0.0; CONTROL_DIM];
        for (value, bytes) in vector.iter_mut().zip(bytes.chunks_exact(4)) {
            *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        check_action(&vector).map_err(|error| Error::input(format!("{name}: {error}")))?;
        Ok(Controls::from_vector(vector))
    };
    let actions = numbers.chunks_exact(CONTROL_DIM * 4).map(row).collect::<Result<_>>()?;
    Ok(Episode { meta, frames, actions, nearness })
}
