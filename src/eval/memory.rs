//! What a dream remembers: the place where one stands still or that one looked away from, the block that one placed or broke.

use super::Bench;
use super::dream::Dream;
use super::image::psnr;
use super::report::{EditAccuracy, Report};
use super::teacher::{Walk, open_place};
use super::vcn::mean;
use crate::voxel::{World, describe};
use crate::{Controls, Frame, Result};

/// Seconds between looking away and being back.
const AWAY: [usize; 3] = [2, 4, 8];

/// Seconds of standing still.
const REST: [usize; 2] = [5, 20];

/// Worlds in which one stands still, or looks away and back; each takes as long as it says.
const PLACES: usize = 8;

/// Ticks of a quarter turn.
const TURN: usize = 18;

/// Ticks of looking down, of the edit and a moment after it, of turning away and of turning back.
const EDIT: usize = 10;

/// Ticks of looking elsewhere, the second time.
const ELSEWHERE: usize = 50;

/// The ticks in which one has looked back, of those of [`edit_walk`]: 1.5 and 5 seconds after the edit.
const LOOKS: [usize; 2] = [4 * EDIT - 1, 6 * EDIT + ELSEWHERE - 1];

/// Pixels differ by an edit when a channel does by more than this.
const VISIBLE: u8 = 24;

fn turning(ticks: usize, yaw: f32, pitch: f32) -> Vec<Controls> {
    vec![Controls { look: [yaw, pitch], ..Controls::default() }; ticks]
}

/// An open place in the teacher's world, the true way there, and a dream that has seen it.
struct Place {
    world: World,
    context: Walk,
    dream: Dream,
}

impl Place {
    /// One in the world of this seed, if it has any.
    fn find(bench: &Bench<'_>, seed: u64) -> Result<Option<Self>> {
        let Some((mut world, controls)) = open_place(seed, 0) else { return Ok(None) };
        let context = Walk::record(&mut world, &controls, bench.size);
        let mut dream = Dream::new(bench, seed, &describe(world.scene()))?;
        dream.observe(&context.frames, &context.controls)?;
        Ok(Some(Self { world, context, dream }))
    }
}

/// Measures `rest_psnr_db`, `revisit_psnr_db` and `edit_accuracy`.
pub(super) fn measure(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    rests(bench, report)?;
    revisits(bench, report)?;
    edits(bench, report)
}

fn rests(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let seeds = &bench.seeds[..bench.seeds.len().min(PLACES)];
    let rests = bench.each("standing still", 0.25..0.27, seeds, |_, &seed| {
        let Some(Place { mut world, context, mut dream }) = Place::find(bench, seed)? else { return Ok(None) };
        let mut decibels = [[0.0; REST.len()]; 2];
        let mut tick = 0;
        for (i, seconds) in REST.into_iter().enumerate() {
            let still = turning(seconds * 20 - tick, 0.0, 0.0);
            tick += still.len();
            still.iter().for_each(|&control| _ = world.tick(control));
            let (dreamed, truth) = (dream.walk(&still)?, [world.render(bench.size)]);
            decibels[0][i] = psnr(&dreamed[dreamed.len() - 1..], &truth);
            decibels[1][i] = psnr(&context.frames[context.frames.len() - 1..], &truth);
        }
        Ok(Some(decibels))
    })?;
    let rests: Vec<_> = rests.into_iter().flatten().collect();
    for (i, seconds) in REST.into_iter().enumerate() {
        let over = |which: usize| mean(&rests.iter().map(|rest| rest[which][i]).collect::<Vec<_>>());
        report.rest_psnr_db.insert(seconds.to_string(), over(0));
        report.rest_psnr_db_baseline.insert(seconds.to_string(), over(1));
    }
    Ok(())
}

fn revisits(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let seeds = &bench.seeds[..bench.seeds.len().min(PLACES)];
    let walks = bench.each("looking away and back", 0.27..0.3, seeds, |_, &seed| {
        let Some(Place { world, mut dream, .. }) = Place::find(bench, seed)? else { return Ok(None) };
        let moment = dream.moment()?;
        let mut back = [0.0; AWAY.len()];
        for (seconds, back) in AWAY.into_iter().zip(&mut back) {
            dream.back_to(&moment)?;
            let wait = seconds * 20 - 2 * TURN;
            let way = [turning(TURN, 5.0, 0.0), turning(wait, 0.0, 0.0), turning(TURN, -5.0, 0.0)].concat();
            let mut world = world.clone();
            for &control in &way {
                world.tick(control);
            }
            let dreamed = dream.walk(&way)?;
            *back = psnr(&dreamed[dreamed.len() - 1..], &[world.render(bench.size)]);
        }
        let mut other = world.clone();
        for control in turning(TURN, 5.0, 0.0) {
            other.tick(control);
        }
        Ok(Some((back, psnr(&[other.render(bench.size)], &[world.render(bench.size)]))))
    })?;
    let (back, elsewhere): (Vec<_>, Vec<_>) = walks.into_iter().flatten().unzip();
    report.revisit_psnr_db.insert("all".into(), mean(&back.concat()));
    for (i, seconds) in AWAY.into_iter().enumerate() {
        let back: Vec<_> = back.iter().map(|back| back[i]).collect();
        report.revisit_psnr_db.insert(seconds.to_string(), mean(&back));
    }
    report.revisit_psnr_db_baseline = mean(&elsewhere);
    Ok(())
}

/// How many edits are seen after looking back once and twice, and how many there were.
#[derive(Clone, Copy, Default)]
struct Tally {
    seen: [usize; 2],
    all: usize,
}

impl Tally {
    /// Of one edit, which is to be seen in `truth` and not in `untouched`, by the frames of [`LOOKS`].
    fn of(frames: &[Frame], truth: &Walk, untouched: &Walk) -> Self {
        let seen = LOOKS.map(|at| usize::from(shows_edit(&frames[at], &truth.frames[at], &untouched.frames[at])));
        Self { seen, all: 1 }
    }

    fn sum<'a>(tallies: impl IntoIterator<Item = &'a Self>) -> Self {
        tallies.into_iter().fold(Self::default(), |sum, tally| Self {
            seen: [sum.seen[0] + tally.seen[0], sum.seen[1] + tally.seen[1]],
            all: sum.all + tally.all,
        })
    }

    fn share(&self, look: usize) -> f64 {
        self.seen[look] as f64 / self.all as f64
    }
}

/// Edits of a dream and of the true frames through the VCN: placed, broken.
type Edits = [[Tally; 2]; 2];

fn edits(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let worlds = bench.each("editing blocks", 0.3..0.33, &bench.seeds, |_, &seed| {
        let mut edits = Edits::default();
        let Some(Place { world, mut dream, .. }) = Place::find(bench, seed)? else { return Ok(edits) };
        let moment = dream.moment()?;
        let [dreamed, coded] = &mut edits;
        for (kind, (dreamed, coded)) in dreamed.iter_mut().zip(coded).enumerate() {
            let (way, plain) = edit_walk(kind == 0, world.pose().pitch);
            let [truth, untouched] = [&way, &plain].map(|way| Walk::record(&mut world.clone(), way, bench.size));
            let visible = LOOKS.iter().all(|&at| is_visible(&truth.frames[at], &untouched.frames[at]));
            if !truth.controls.iter().any(|c| c.place_block || c.break_block) || !visible {
                continue;
            }
            dream.back_to(&moment)?;
            *dreamed = Tally::of(&dream.walk(&way)?, &truth, &untouched);
            *coded = Tally::of(&dream.reconstruct(&truth.frames, &truth.controls)?, &truth, &untouched);
        }
        Ok(edits)
    })?;
    let accuracy = |which: usize| {
        let [placed, broken] = [0, 1].map(|kind| Tally::sum(worlds.iter().map(|edits| &edits[which][kind])));
        let all = Tally::sum([&placed, &broken]);
        EditAccuracy {
            all: all.share(0),
            place: placed.share(0),
            broken: broken.share(0),
            later: all.share(1),
            trials: all.all,
        }
    };
    report.edit_accuracy = accuracy(0);
    report.edit_accuracy_teacher = accuracy(1);
    Ok(())
}

/// Look down, edit, look away and back, and away for longer and back; and the same without the edit.
fn edit_walk(place: bool, pitch: f32) -> (Vec<Controls>, Vec<Controls>) {
    let down = turning(EDIT, 0.0, (-32.0 - pitch) / EDIT as f32);
    let still = |ticks: usize| turning(ticks, 0.0, 0.0);
    let [away, back] = [4.5, -4.5].map(|yaw| turning(EDIT, yaw, 0.0));
    let plain = [down, still(EDIT), away.clone(), back.clone(), away, still(ELSEWHERE), back].concat();
    let mut way = plain.clone();
    way[EDIT].place_block = place;
    way[EDIT].break_block = !place;
    (way, plain)
}

fn differing(with: &Frame, without: &Frame) -> Vec<usize> {
    (0..with.rgb.len()).filter(|&i| with.rgb[i].abs_diff(without.rgb[i]) > VISIBLE).collect()
}

/// Whether the edit changes at least one part in two hundred of the picture.
fn is_visible(with: &Frame, without: &Frame) -> bool {
    differing(with, without).len() * 200 > with.rgb.len()
}

/// Whether a picture is nearer to the world with the edit than to the one without, where these differ.
fn shows_edit(seen: &Frame, with: &Frame, without: &Frame) -> bool {
    let error = |truth: &Frame| -> u64 {
        differing(with, without).into_iter().map(|i| u64::from(seen.rgb[i].abs_diff(truth.rgb[i])).pow(2)).sum()
    };
    error(with) < error(without)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FrameSize;
    use crate::voxel::WorldConfig;

    #[test]
    fn edits_are_seen_where_the_worlds_differ() {
        let size = FrameSize::new(64, 64);
        let seen = (0..12)
            .filter(|&seed| {
                let world = World::new(seed, WorldConfig::default());
                let (way, plain) = edit_walk(true, world.pose().pitch);
                let [with, without] = [way, plain].map(|way| {
                    let mut world = world.clone();
                    for &control in &way {
                        world.tick(control);
                    }
                    world.render(size)
                });
                is_visible(&with, &without) && {
                    assert!(shows_edit(&with, &with, &without) && !shows_edit(&without, &with, &without));
                    true
                }
            })
            .count();
        assert!(seen > 5, "only {seen} of 12 placed blocks can be seen");
    }
}
