//! Contact sheets: figures are not enough.

use std::fs;
use std::path::Path;

use super::future::Strip;
use crate::video::{contact_sheet, save_png};
use crate::{Error, Frame, Result};

/// Pictures in a row of fresh prompts.
const COLUMNS: usize = 12;

/// Writes `walks.png` (per walk a row of the truth above a row of the dream, from the last true frame to the walk's end)
/// and `prompts.png` (what fresh prompts showed after a second, row by row in the order of the file).
pub(super) fn write(folder: &Path, walks: &[Strip], fresh: &[Frame]) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let rows: Vec<_> = walks.iter().flat_map(|strip| [strip.truth.clone(), strip.dream.clone()]).collect();
    save_png(&contact_sheet(&rows, 1), folder.join("walks.png"))?;
    let rows: Vec<_> = fresh.chunks(COLUMNS).map(<[Frame]>::to_vec).collect();
    save_png(&contact_sheet(&rows, 1), folder.join("prompts.png"))
}
