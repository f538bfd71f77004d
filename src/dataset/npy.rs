//! The `.npy` format of `NumPy`, version 1.0: a header with type and shape, then the numbers in C order.

use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"\x93NUMPY\x01\x00";

/// An array file of `descr` (`|u1`, `<f2` or `<f4`) with this shape.
pub fn encode(descr: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let shape = shape.iter().map(|n| format!("{n}, ")).collect::<String>();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", shape.trim_end());
    while !(MAGIC.len() + 2 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    [MAGIC.as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Shape and bytes of an array file of `descr` in C order.
pub fn decode<'a>(file: &'a [u8], descr: &str, name: &str) -> Result<(Vec<usize>, &'a [u8])> {
    let bad = |what: &str| Error::input(format!("{name}: {what}"));
    let rest = file.strip_prefix(MAGIC).ok_or_else(|| bad("not a version 1.0 .npy file"))?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(|| bad("the file is cut off"))?;
    let (header, data) =
        rest.split_at_checked(u16::from_le_bytes(*length).into()).ok_or_else(|| bad("the file is cut off"))?;
    let header = std::str::from_utf8(header).map_err(|_| bad("the header is not text"))?;
    if !header.contains(&format!("'descr': '{descr}'")) || !header.contains("'fortran_order': False") {
        return Err(bad(&format!("expected {descr} in C order, found {}", header.trim())));
    }
    let shape = header.split_once("'shape': (").and_then(|(_, tail)| tail.split_once(')')).map(|(shape, _)| shape);
    let shape: Option<Vec<usize>> =
        shape.and_then(|s| s.split(',').map(str::trim).filter(|n| !n.is_empty()).map(|n| n.parse().ok()).collect());
    Ok((shape.ok_or_else(|| bad("the header has no shape"))?, data))
}
