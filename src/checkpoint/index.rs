//! Where every tensor of a checkpoint lies, read from headers alone and checked before anything is allocated for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::DType;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use sha2::{Digest, Sha256};

use super::layout::{Layout, Size, blame};
use super::text::{parse_json, read_text};
use super::{progress, pth};
use crate::{Error, Result};

/// A longer header is not a header.
const MAX_HEADER: u64 = 100 << 20;
/// A longer name is not a name.
const MAX_NAME: usize = 300;
/// What may lie beside a model without being a part of it.
const BESIDE: [&str; 1] = ["case.safetensors"];
/// Tensors of the autoencoder of Wan, in both spellings, whose place TAEHV takes.
const REPLACED: [&str; 2] = ["decoder.conv1.weight", "decoder.conv_in.weight"];
/// Where diffusers keeps the parts of a model.
const FOLDERS: [&str; 3] = ["transformer", "text_encoder", "vae"];
/// Bytes of a tensor that count for a fingerprint.
const FIRST: u64 = 1 << 12;
/// How the list of a model's shards ends.
const SHARDS: &str = ".safetensors.index.json";

/// A tensor in a file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// How its numbers are stored.
    pub dtype: Dtype,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Bytes of its numbers.
    pub bytes: u64,
    /// Where they begin in the file.
    pub(super) start: u64,
    /// Which of the files.
    pub(super) file: usize,
}

impl Entry {
    /// The format of its numbers, if it is one of those that weights have.
    pub(super) fn float(&self) -> Option<DType> {
        match self.dtype {
            Dtype::F32 => Some(DType::F32),
            Dtype::F16 => Some(DType::F16),
            Dtype::BF16 => Some(DType::BF16),
            Dtype::F64 => Some(DType::F64),
            _ => None,
        }
    }

    /// Why `name` is no weight.
    pub(super) fn no_float(&self, name: &str) -> String {
        format!("'{name}' holds {:?}, not floating-point numbers", self.dtype)
    }
}

/// The tensors of one checkpoint: a `.safetensors` file, shards with their `.safetensors.index.json`, or a `.pt`, `.pth`
/// or `.bin` file of PyTorch.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    files: Vec<(PathBuf, File)>,
    tensors: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

impl Index {
    /// Reads the headers of `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read, [`Error::Model`] when it is damaged or hostile.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let mut index = Self { path, files: Vec::new(), tensors: BTreeMap::new(), metadata: BTreeMap::new() };
        let path = index.path.clone();
        if is_shards(&path) {
            index.add_shards(&path)?;
        } else if is_pth(&path) {
            let file = File::open(&path).map_err(Error::io(&path))?;
            let tensors = pth::read(&file).map_err(|reason| Error::model(&path, reason))?;
            index.add(&path, file, tensors)?;
        } else {
            index.add_safetensors(&path)?;
        }
        Ok(index)
    }

    /// The file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the tensors.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> &BTreeMap<String, Entry> {
        &self.tensors
    }

    /// What the file says of itself.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.tensors.values().map(|entry| entry.shape.iter().product::<usize>()).sum()
    }

    /// Compares every name and shape with the `layout` that a config makes, of whose `sizes` those are named that make a
    /// wrong one; names that end in one of `ignored` do not count.
    ///
    /// # Errors
    /// [`Error::Model`] naming the first that is missing, of another shape, of no floating-point numbers or left over.
    pub fn check<C: Clone>(
        &self,
        config: &C,
        sizes: &[Size<C>],
        layout: impl Fn(&C) -> Layout,
        ignored: &[&str],
    ) -> Result<()> {
        let made = layout(config);
        let wrong = |reason| Err(Error::model(&self.path, reason));
        for (name, shape) in &made {
            let Some(entry) = self.tensors.get(name) else {
                return wrong(format!("'{name}' is missing"));
            };
            if entry.shape != *shape {
                let by = blame(config, sizes, layout, name, &entry.shape);
                return wrong(format!("'{name}' has the shape {:?}, but {by} makes it {shape:?}", entry.shape));
            }
            if entry.float().is_none() {
                return wrong(entry.no_float(name));
            }
        }
        match self
            .tensors
            .keys()
            .find(|name| !ignored.iter().any(|end| name.ends_with(end)) && !made.contains_key(*name))
        {
            Some(name) => wrong(format!("'{name}' has no place in this model")),
            None => Ok(()),
        }
    }

    /// Refuses more `layers`, which `field` of the config states, than there are tensors, before a layout of so many is made.
    ///
    /// # Errors
    /// [`Error::Model`] naming the field.
    pub fn check_layers(&self, field: &str, layers: usize) -> Result<()> {
        let most = self.tensors.len();
        if layers > most {
            return Err(Error::model(&self.path, format!("{field} is {layers}, but there are only {most} tensors")));
        }
        Ok(())
    }

    /// The same tensors by other names.
    ///
    /// # Errors
    /// [`Error::Model`] when two get the same name.
    pub fn renamed(mut self, rename: impl Fn(&str) -> String) -> Result<Self> {
        for (name, entry) in std::mem::take(&mut self.tensors) {
            let renamed = rename(&name);
            if self.tensors.insert(renamed.clone(), entry).is_some() {
                return Err(Error::model(&self.path, format!("'{name}' is '{renamed}' in another spelling")));
            }
        }
        Ok(self)
    }

    /// SHA-256, in hexadecimal, over the names, formats and shapes of all tensors and the first numbers of each: tells
    /// checkpoints apart that were trained or rounded differently, without reading them whole.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for (name, entry) in &self.tensors {
            hash.update(format!("{name} {:?} {:?} ", entry.dtype, entry.shape));
            hash.update(self.read_part(entry, 0, entry.bytes.min(FIRST) as usize)?);
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The bytes of a tensor.
    pub(super) fn read(&self, entry: &Entry) -> Result<Vec<u8>> {
        self.read_part(entry, 0, entry.bytes as usize)
    }

    /// So many bytes of a tensor, which must lie within it.
    pub(super) fn read_part(&self, entry: &Entry, from: u64, count: usize) -> Result<Vec<u8>> {
        let (path, mut file) = (&self.files[entry.file].0, &self.files[entry.file].1);
        // The headers were checked against the length of the file.
        let mut bytes = vec![0; count];
        let read = file.seek(SeekFrom::Start(entry.start + from)).and_then(|_| file.read_exact(&mut bytes));
        read.map_err(Error::io(path))?;
        progress::read(count as u64);
        Ok(bytes)
    }

    fn add(&mut self, path: &Path, file: File, tensors: Vec<(String, Entry)>) -> Result<()> {
        for (name, entry) in tensors {
            if name.len() > MAX_NAME || name.contains(char::is_control) {
                return Err(Error::model(path, format!("'{}' is no name of a tensor", shown(&name))));
            }
            let entry = Entry { file: self.files.len(), ..entry };
            if self.tensors.insert(name.clone(), entry).is_some() {
                return Err(Error::model(path, format!("'{name}' appears twice")));
            }
        }
        self.files.push((path.to_owned(), file));
        Ok(())
    }

    fn add_safetensors(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(Error::io(path))?;
        let size = file.metadata().map_err(Error::io(path))?.len();
        let damaged = |reason: String| Error::model(path, format!("not a whole safetensors file: {reason}"));
        let header = read_header(&file, size).map_err(damaged)?;
        self.metadata.extend(header.metadata);
        self.add(path, file, header.tensors)
    }

    fn add_shards(&mut self, path: &Path) -> Result<()> {
        #[derive(Deserialize)]
        struct Shards {
            weight_map: BTreeMap<String, String>,
        }
        let shards = |value| serde_json::from_value(value).map_err(|e| e.to_string());
        let Shards { weight_map } = parse_json(&read_text(path)?)
            .and_then(shards)
            .map_err(|reason| Error::model(path, format!("no list of shards: {reason}")))?;
        for shard in weight_map.values().collect::<BTreeSet<_>>() {
            let same_folder = Path::new(shard).file_name().is_some_and(|name| name == shard.as_str());
            if !same_folder || shard.len() > MAX_NAME || shard.contains(char::is_control) {
                return Err(Error::model(path, format!("the shard '{}' is not in the same folder", shown(shard))));
            }
            self.add_safetensors(&path.with_file_name(shard))?;
        }
        let place = |name: &String| self.tensors.get(name).map(|entry| &self.files[entry.file].0);
        for (name, shard) in &weight_map {
            if place(name) != Some(&path.with_file_name(shard)) {
                return Err(Error::model(path, format!("'{}' is not in {shard}", shown(name))));
            }
        }
        match self.tensors.keys().find(|name| !weight_map.contains_key(*name)) {
            Some(name) => Err(Error::model(path, format!("'{name}' is in a shard but not in the list"))),
            None => Ok(()),
        }
    }
}

/// Whether `path` is named as a checkpoint that [`Index::open`] reads.
pub fn is_checkpoint(path: &Path) -> bool {
    is_shards(path) || is_pth(path) || path.extension().is_some_and(|e| e == "safetensors")
}

/// The folder of a model, which may be told as one of the files in it.
pub(crate) fn folder_of(path: &Path) -> &Path {
    if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) }
}

/// The checkpoints in a folder in the order of their names, or a file and after it its neighbours, then those in the folders
/// that diffusers has. Shards stand behind their list.
pub fn checkpoints(path: &Path) -> Vec<PathBuf> {
    let folder = folder_of(path);
    // Below the folder that one is in lies "".
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut files = beside(folder);
    files.sort_by_key(|file| file.file_name() != path.file_name());
    files.extend(FOLDERS.iter().flat_map(|name| beside(&folder.join(name))));
    files
}

/// The checkpoints that lie in a folder itself.
fn beside(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries.filter(|file| is_checkpoint(file)).collect();
    if files.iter().any(|file| is_shards(file)) {
        files.retain(|file| !file.file_name().is_some_and(|name| name.to_string_lossy().contains("-of-")));
    }
    files.sort();
    files
}

/// The networks of a model among its `files`, spelled as `published`, each known by a tensor that no other has; the first
/// `needed` of them must be there. In a folder every file must have its place; the neighbours of a file need not be of the same
/// model.
///
/// # Errors
/// As of [`Index::open`]; [`Error::Model`] when two files hold the same network and neither is `path`, or one holds none.
pub fn find<const N: usize>(
    path: &Path,
    files: Vec<PathBuf>,
    keys: [&str; N],
    needed: usize,
    published: impl Fn(Index) -> Result<Index>,
) -> Result<[Option<Index>; N]> {
    let (mut found, mut unused) = ([const { None }; N], None);
    for file in files {
        let index = published(Index::open(&file)?)?;
        let Some(slot) = keys.iter().position(|key| index.tensors.contains_key(*key)) else {
            let beside = BESIDE.iter().any(|name| index.path.ends_with(name))
                || REPLACED.iter().any(|key| index.tensors.contains_key(*key));
            if !beside && path.is_dir() {
                unused.get_or_insert(file);
            }
            continue;
        };
        match &found[slot] {
            None => found[slot] = Some(index),
            // The file that was asked for comes first, then what lies in the folder itself; what comes after it need not be of
            // the same model.
            Some(first) if first.path.file_name() == path.file_name() || first.path.parent() != file.parent() => {}
            Some(first) => return Err(Error::model(&file, format!("the same network as {}", first.path.display()))),
        }
    }
    match unused {
        // Without a network that is needed, that is what is wrong.
        Some(file) if found[..needed].iter().all(Option::is_some) => {
            Err(Error::model(&file, "of no use to this model: take it away, or name the model's first file"))
        }
        _ => Ok(found),
    }
}

fn is_shards(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(SHARDS))
}

fn is_pth(path: &Path) -> bool {
    path.extension().is_some_and(|e| ["pt", "pth", "bin"].iter().any(|pth| e == *pth))
}

/// The beginning of a text that may be hostile, in one line.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).collect::<String>().escape_debug().to_string()
}

/// The bytes that `count` numbers take, if that is a number at all.
pub(super) fn bytes_of(shape: &[usize], dtype: Dtype) -> Option<u64> {
    let count = shape.iter().try_fold(1u64, |n, &size| n.checked_mul(size as u64))?;
    let bits = count.checked_mul(dtype.bitsize() as u64)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

#[derive(Default)]
struct Header {
    tensors: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    /// Offsets are those of the header; a map would hide that a name appears twice.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        header.metadata = map.next_value()?;
                        continue;
                    }
                    let TensorInfo { dtype, shape, data_offsets: (start, end) } = map.next_value()?;
                    let bytes = end.checked_sub(start).map(|n| n as u64);
                    if bytes.is_none() || bytes != bytes_of(&shape, dtype) {
                        let name = shown(&name);
                        let reason = format!("'{name}' of {dtype:?} {shape:?} does not take bytes {start} to {end}");
                        return Err(A::Error::custom(reason));
                    }
                    let entry = Entry { dtype, shape, bytes: (end - start) as u64, start: start as u64, file: 0 };
                    header.tensors.push((name, entry));
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Names)
    }
}

/// The header of a safetensors file of `size` bytes.
fn read_header(file: &File, size: u64) -> Result<Header, String> {
    let mut reader = BufReader::new(file);
    let mut length = [0; 8];
    reader.read_exact(&mut length).map_err(|_| "it is too short")?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length + 8 > size {
        return Err(format!("its header would be {length} bytes"));
    }
    let mut text = Vec::new();
    reader.take(length).read_to_end(&mut text).map_err(|e| e.to_string())?;
    let mut header: Header = serde_json::from_slice(&text).map_err(|e| format!("a broken header: {e}"))?;
    header.tensors.sort_by_key(|(_, entry)| (entry.start, entry.bytes));
    let mut end = 0;
    for (name, entry) in &mut header.tensors {
        if entry.start != end {
            let what = if entry.start < end { "overlaps what is before it" } else { "begins after a gap" };
            return Err(format!("'{}' {what}", shown(name)));
        }
        end += entry.bytes;
        // A sum of what follows could be too large for a number.
        if end > size {
            break;
        }
        entry.start += 8 + length;
    }
    if size.checked_sub(8 + length) != Some(end) {
        return Err(format!("the header promises {end} bytes of numbers, the file has {}", size - 8 - length));
    }
    Ok(header)
}
