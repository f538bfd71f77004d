//! The directory of a zip archive whose files are stored as they are, as PyTorch writes it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use super::index::shown;

/// Length of the record at the end, without its comment.
const END: u64 = 22;
/// Most bytes of the directory.
const MAX_DIRECTORY: u64 = 64 << 20;

/// A file of the archive.
#[derive(Debug)]
pub struct Member {
    pub name: String,
    /// Where its contents begin.
    pub start: u64,
    pub size: u64,
}

/// The files of an archive.
pub fn read(file: &File) -> Result<Vec<Member>, String> {
    let size = file.metadata().map_err(|e| e.to_string())?.len();
    let tail_start = size.saturating_sub(END + 0xffff);
    let tail = bytes(file, tail_start, size - tail_start)?;
    let at = tail.windows(4).rposition(|w| w == b"PK\x05\x06").ok_or("no zip archive, or it is cut off")?;
    let (mut length, mut start) = (u64::from(u32_at(&tail, at + 12)?), u64::from(u32_at(&tail, at + 16)?));
    // Archives beyond 4 GB say it in a longer record, to which 20 bytes before the end point.
    if at >= 20 && tail[at - 20..].starts_with(b"PK\x06\x07") {
        let record = bytes(file, u64_at(&tail, at - 12)?, 56)?;
        if !record.starts_with(b"PK\x06\x06") {
            return Err("a zip archive with a broken end".into());
        }
        (length, start) = (u64_at(&record, 40)?, u64_at(&record, 48)?);
    }
    if length > MAX_DIRECTORY {
        return Err(format!("a zip archive with a directory of {length} bytes"));
    }
    let directory = bytes(file, start, length)?;
    let (mut members, mut at) = (Vec::new(), 0);
    while at < directory.len() {
        let entry = directory.get(at..at + 46).filter(|e| e.starts_with(b"PK\x01\x02"));
        let entry = entry.ok_or("a zip archive with a broken directory")?;
        let [name, extra, comment] = [28, 30, 32].map(|i| usize::from(u16::from_le_bytes([entry[i], entry[i + 1]])));
        let rest = directory.get(at + 46..at + 46 + name + extra + comment).ok_or("a zip archive with a cut name")?;
        let name_text = String::from_utf8_lossy(&rest[..name]).into_owned();
        if u16::from_le_bytes([entry[10], entry[11]]) != 0 {
            return Err(format!("'{}' in the archive is compressed, which PyTorch does not do", shown(&name_text)));
        }
        let [packed, size, offset] = long_sizes(entry, &rest[name..name + extra])?;
        if packed != size {
            return Err(format!("'{}' in the archive has two sizes", shown(&name_text)));
        }
        members.push((name_text, offset, size));
        at += 46 + rest.len();
    }
    members.into_iter().map(|(name, offset, bytes)| locate(file, size, name, offset, bytes)).collect()
}

/// Packed size, size and offset of a directory entry; those that do not fit 32 bits stand in its extra field.
fn long_sizes(entry: &[u8], mut extra: &[u8]) -> Result<[u64; 3], String> {
    let mut sizes = [u64::from(u32_at(entry, 20)?), u64::from(u32_at(entry, 24)?), u64::from(u32_at(entry, 42)?)];
    while let Some((head, rest)) = extra.split_at_checked(4) {
        let [kind, length] = [0, 2].map(|i| u16::from_le_bytes([head[i], head[i + 1]]));
        let field = rest.get(..usize::from(length)).ok_or("a zip archive with a cut field")?;
        if kind == 1 {
            // The order of the field is that of size, packed size and offset.
            let mut values = field.chunks_exact(8).map(|v| v.try_into().map_or(0, u64::from_le_bytes));
            for i in [1, 0, 2] {
                if sizes[i] == u64::from(u32::MAX) {
                    sizes[i] = values.next().ok_or("a zip archive with a cut field")?;
                }
            }
        }
        extra = &rest[field.len()..];
    }
    Ok(sizes)
}

/// Finds the contents behind a member's own header.
fn locate(file: &File, archive: u64, name: String, offset: u64, size: u64) -> Result<Member, String> {
    let header = bytes(file, offset, 30)?;
    if !header.starts_with(b"PK\x03\x04") {
        return Err(format!("'{}' is not where the archive says", shown(&name)));
    }
    let [name_length, extra] = [26, 28].map(|i| u64::from(u16::from_le_bytes([header[i], header[i + 1]])));
    let start = offset + 30 + name_length + extra;
    match start.checked_add(size) {
        Some(end) if end <= archive => Ok(Member { name, start, size }),
        _ => Err(format!("'{}' reaches beyond the end of the archive", shown(&name))),
    }
}

/// A part of the file that is known to be small.
pub fn bytes(mut file: &File, start: u64, length: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start)).map_err(|e| e.to_string())?;
    file.take(length).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err("an archive that is cut off".into()) }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, String> {
    let value = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or("a zip archive that is cut off")?;
    Ok(u32::from_le_bytes(*value))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, String> {
    let value = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or("a zip archive that is cut off")?;
    Ok(u64::from_le_bytes(*value))
}
