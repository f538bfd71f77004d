//! Pictures for people: what the model does, unselected, from seeds and prompts that stand here.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::dream::Dream;
use super::teacher::{CONTEXT, Walk, open_place, stroll};
use super::{Bench, check_clock};
use crate::controls::TICKS_PER_SECOND;
use crate::dataset::HELD_OUT_SEED;
use crate::model::{Settings, WorldModel};
use crate::video::{VideoWriter, contact_sheet, save_png};
use crate::voxel::describe;
use crate::{Controls, Error, Frame, FrameSize, Result};

/// The first of the worlds shown: beyond those of the figures.
const FIRST_SEED: u64 = HELD_OUT_SEED + 1000;

/// The worlds of `walks.gif`.
const PROMPTS: [&str; 12] = [
    "a flower meadow at noon, clear sky",
    "a foggy forest at dawn",
    "desert dunes at sunset",
    "a snowfield under the stars",
    "red badlands in the evening light",
    "a tropical beach with palm trees on a sunny day",
    "a forest in heavy rain",
    "snow falling on a moonlit plain",
    "mist over the sea at sunrise",
    "a desert at noon with tall cacti",
    "wide green hills in the morning",
    "fir trees in deep snow at midday",
];

/// What is asked of a running world, and how it began.
const CHANGES: [[&str; 2]; 4] = [
    ["a meadow at noon", "night falls over the meadow"],
    ["a forest at noon in clear weather", "thick fog in the forest"],
    ["a desert at noon", "a desert at sunset"],
    ["a snowfield at night", "a snowfield at noon"],
];

/// Worlds of each sheet.
const WORLDS: u64 = 4;

/// Seconds that the moving pictures last, and their frames a second.
const MOVING: (usize, f32) = (5, 10.0);

/// Ticks of a quarter turn.
const TURN: usize = 18;

/// Writes into `folder`:
///
/// | file | shows |
/// |---|---|
/// | `walks.gif` | a walk from each of twelve prompts, without a start picture |
/// | `truth.gif` | four held-out worlds, the teacher above, the dream of the same controls below |
/// | `minute.png` | prompts walked for a minute: after 0, 1, 2, 5, 10, 20, 40 and 60 seconds |
/// | `change.png` | words changed after two seconds: 1, 2, 2.5, 3, 4, 5 and 6 seconds |
/// | `back.png` | a quarter turn away and back, the teacher above, the dream below |
///
/// Prompts and seeds were fixed before anything was looked at.
///
/// # Errors
/// [`Error::Input`] for a model or a size that [`evaluate`](super::evaluate) refuses; those of the model; [`Error::Io`] when the folder cannot be written.
pub fn gallery(
    model: Arc<dyn WorldModel>,
    settings: Settings,
    size: FrameSize,
    folder: &Path,
    progress: &(dyn Fn(&str, f64) + Sync),
) -> Result<()> {
    check_clock(&*model, size)?;
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let seeds = (FIRST_SEED..FIRST_SEED + WORLDS).collect();
    let bench = Bench { model, seeds, settings, size, progress };
    walks(&bench, &folder.join("walks.gif"))?;
    truth(&bench, &folder.join("truth.gif"))?;
    minute(&bench, &folder.join("minute.png"))?;
    change(&bench, &folder.join("change.png"))?;
    back(&bench, &folder.join("back.png"))
}

/// Ahead with a gentle sway of the head.
fn sway(ticks: usize) -> Vec<Controls> {
    let look = |tick: usize| if (tick / 30).is_multiple_of(2) { 2.0 } else { -2.0 };
    (0..ticks).map(|t| Controls { forward: 1.0, look: [look(t), 0.0], ..Controls::default() }).collect()
}

/// The tick that ends so many seconds after the start, and the one before a start.
fn tick(seconds: f32) -> usize {
    ((seconds * TICKS_PER_SECOND) as usize).saturating_sub(1)
}

fn at(frames: &[Frame], seconds: &[f32]) -> Vec<Frame> {
    seconds.iter().map(|&s| frames[tick(s)].clone()).collect()
}

/// Writes a moving picture of `worlds` in rows of so many.
fn moving(path: &Path, worlds: &[Vec<Frame>], columns: usize) -> Result<()> {
    let (seconds, fps) = MOVING;
    let each = (TICKS_PER_SECOND / fps) as usize;
    let still = |t: usize| {
        let rows: Vec<Vec<Frame>> =
            worlds.chunks(columns).map(|row| row.iter().map(|world| world[t].clone()).collect()).collect();
        contact_sheet(&rows, 1)
    };
    let mut video = VideoWriter::create(path, still(0).size, fps)?;
    for t in (0..tick(seconds as f32) + 1).step_by(each) {
        video.push(&still(t))?;
    }
    video.finish()
}

fn walks(bench: &Bench<'_>, path: &Path) -> Result<()> {
    let worlds = bench.each("walks", 0.0..0.25, &PROMPTS, |i, prompt| {
        Dream::new(bench, FIRST_SEED + i as u64, prompt)?.walk(&sway(MOVING.0 * TICKS_PER_SECOND as usize))
    })?;
    moving(path, &worlds, 4)
}

fn truth(bench: &Bench<'_>, path: &Path) -> Result<()> {
    let ticks = MOVING.0 * TICKS_PER_SECOND as usize;
    let worlds = bench.each("beside the truth", 0.25..0.4, &bench.seeds, |_, &seed| {
        let (mut world, controls) = stroll(seed, CONTEXT + ticks);
        let prompt = describe(world.scene());
        let walk = Walk::record(&mut world, &controls, bench.size);
        let mut dream = Dream::new(bench, seed, &prompt)?;
        dream.observe(&walk.frames[..CONTEXT], &controls[..CONTEXT])?;
        Ok((walk.frames[CONTEXT..].to_vec(), dream.walk(&controls[CONTEXT..])?))
    })?;
    let (mut rows, dreamed): (Vec<_>, Vec<_>) = worlds.into_iter().unzip();
    let columns = rows.len();
    rows.extend(dreamed);
    moving(path, &rows, columns)
}

fn minute(bench: &Bench<'_>, path: &Path) -> Result<()> {
    let rows = bench.each("a minute", 0.4..0.8, &PROMPTS[..WORLDS as usize], |i, prompt| {
        let frames = Dream::new(bench, bench.seeds[i], prompt)?.walk(&sway(60 * TICKS_PER_SECOND as usize))?;
        Ok(at(&frames, &[0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0]))
    })?;
    save_png(&contact_sheet(&rows, 1), path)
}

fn change(bench: &Bench<'_>, path: &Path) -> Result<()> {
    let rows = bench.each("changed words", 0.8..0.9, &CHANGES, |i, [before, after]| {
        let mut dream = Dream::new(bench, bench.seeds[i], before)?;
        let mut frames = dream.walk(&sway(2 * TICKS_PER_SECOND as usize))?;
        dream.set_prompt(after)?;
        frames.extend(dream.walk(&sway(4 * TICKS_PER_SECOND as usize))?);
        Ok(at(&frames, &[1.0, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0]))
    })?;
    save_png(&contact_sheet(&rows, 1), path)
}

fn back(bench: &Bench<'_>, path: &Path) -> Result<()> {
    let turn = |yaw: f32| vec![Controls { look: [yaw, 0.0], ..Controls::default() }; TURN];
    let way = [turn(5.0), vec![Controls::default(); 4], turn(-5.0)].concat();
    let pairs = bench.each("away and back", 0.9..1.0, &bench.seeds, |_, &seed| {
        let Some((mut world, controls)) = open_place(seed, 0) else { return Ok(Vec::new()) };
        let prompt = describe(world.scene());
        let before = Walk::record(&mut world, &controls, bench.size);
        let truth = Walk::record(&mut world, &way, bench.size);
        let mut dream = Dream::new(bench, seed, &prompt)?;
        dream.observe(&before.frames, &before.controls)?;
        let dreamed = dream.walk(&way)?;
        let last = before.frames[CONTEXT - 1].clone();
        let strip = |frames: &[Frame]| {
            let shown = [TURN / 2, TURN, TURN + 4, TURN + 4 + TURN / 2, way.len()];
            std::iter::once(last.clone()).chain(shown.map(|tick| frames[tick - 1].clone())).collect::<Vec<_>>()
        };
        Ok(vec![strip(&truth.frames), strip(&dreamed)])
    })?;
    save_png(&contact_sheet(&pairs.concat(), 1), path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::fake::FakeModel;
    use crate::video::load_image;

    #[test]
    fn a_gallery_is_five_pictures() {
        let dir = tempfile::tempdir().unwrap();
        let model = FakeModel::default().shared();
        let (settings, size) = (model.info().settings, FrameSize::new(32, 32));
        gallery(Arc::clone(&model), settings, size, dir.path(), &|_, _| ()).unwrap();
        for (name, columns, rows) in
            [("walks.gif", 4, 3), ("truth.gif", 4, 2), ("minute.png", 8, 4), ("change.png", 7, 4)]
        {
            let sheet = contact_sheet(&vec![vec![Frame::black(size); columns]; rows], 1);
            assert_eq!(load_image(dir.path().join(name)).unwrap().size, sheet.size, "{name}");
        }
        assert!(dir.path().join("back.png").exists());
        let small = gallery(model, settings, FrameSize::new(16, 16), dir.path(), &|_, _| ()).unwrap_err();
        assert!(small.to_string().contains("16x16"), "{small}");
    }
}
