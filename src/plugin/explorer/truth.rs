//! The ground truth beside the dream: the teacher's world, walked from the same start under the same controls.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;

use bevy::prelude::*;
use crossbeam_channel::{Receiver, Sender, unbounded};

use super::layout::MessageLine;
use crate::plugin::component::show_in;
use crate::plugin::{Dream, DreamChunkShown, DreamMoved, DreamScreen, DreamStarted, DreamStatus};
use crate::voxel::{World as TeacherWorld, WorldConfig, describe};
use crate::{Controls, Frame, FrameSize};

/// What the window shows.
#[derive(Resource, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shown {
    #[default]
    Dream,
    Both,
    Truth,
}

/// The picture of the teacher's world.
#[derive(Component)]
pub(super) struct TruthView;

/// The ground truth of the present world, if it has one.
#[derive(Resource, Default)]
pub(super) struct Truth {
    teacher: Option<Teacher>,
    /// The picture that the dream began with.
    start: Option<Arc<Frame>>,
    drawn: VecDeque<(u64, Frame)>,
}

impl Truth {
    /// The world is no longer known to the teacher.
    pub(super) fn lose(&mut self, shown: &mut Shown) {
        *self = Self::default();
        *shown = Shown::Dream;
    }
}

/// Tab: the dream, both, the ground truth. A world that has none is left for one that begins with the teacher's picture.
pub(super) fn cycle(
    keys: Res<ButtonInput<KeyCode>>,
    dream: Single<(&mut Dream, &DreamStatus)>,
    mut truth: ResMut<Truth>,
    mut shown: ResMut<Shown>,
    mut message: Single<&mut Text, With<MessageLine>>,
) {
    if !keys.just_pressed(KeyCode::Tab) {
        return;
    }
    let (mut dream, status) = dream.into_inner();
    if truth.teacher.is_none() {
        if status.size == UVec2::ZERO {
            return;
        }
        let size = FrameSize::new(status.size.x as usize, status.size.y as usize);
        let world = TeacherWorld::new(dream.seed, WorldConfig::default());
        let start = Arc::new(world.render(size));
        dream.prompt = describe(world.scene());
        dream.start = Some(Arc::clone(&start));
        *truth = Truth { teacher: Some(Teacher::new(world, size)), start: Some(start), ..default() };
    }
    (*shown, message.0) = match *shown {
        Shown::Dream => (Shown::Both, "left the dream, right the ground truth".into()),
        Shown::Both => (Shown::Truth, "the ground truth".into()),
        Shown::Truth => (Shown::Dream, "the dream".into()),
    };
}

/// Lets the teacher do what the dream did, and shows his picture of the same tick.
pub(super) fn follow(
    mut chunks: MessageReader<DreamChunkShown>,
    status: Single<&DreamStatus>,
    mut truth: ResMut<Truth>,
    view: Single<&ImageNode, With<TruthView>>,
    mut images: ResMut<Assets<Image>>,
) {
    let Truth { teacher: Some(teacher), drawn, .. } = &mut *truth else {
        chunks.clear();
        return;
    };
    for chunk in chunks.read().filter(|chunk| chunk.world == status.world) {
        teacher.walk(chunk.first_tick, chunk.controls.clone());
    }
    drawn.extend(teacher.frames.try_iter());
    let due = drawn.iter().rposition(|(tick, _)| *tick <= status.tick);
    if let Some((_, frame)) = due.and_then(|due| drawn.drain(..=due).next_back())
        && let Some(mut image) = images.get_mut(&view.image)
    {
        show_in(&mut image, frame.size, frame.to_rgba());
    }
}

pub(super) fn on_started(
    started: On<DreamStarted>,
    dreams: Query<&Dream>,
    mut truth: ResMut<Truth>,
    mut shown: ResMut<Shown>,
) {
    let same = |dream: &Dream| match (&dream.start, &truth.start) {
        (Some(begun), Some(known)) => Arc::ptr_eq(begun, known),
        _ => false,
    };
    match &truth.teacher {
        Some(teacher) if dreams.get(started.entity).is_ok_and(same) => teacher.walk(0, Vec::new()),
        Some(_) => truth.lose(&mut shown),
        None => {}
    }
}

pub(super) fn on_moved(moved: On<DreamMoved>, mut truth: ResMut<Truth>) {
    truth.drawn.clear();
    if let Some(teacher) = &truth.teacher {
        teacher.walk(moved.tick, Vec::new());
    }
}

/// The image of the ground truth; its pixels come later.
pub(super) fn image(images: &mut Assets<Image>) -> Handle<Image> {
    DreamScreen::new(images).0
}

/// The teacher's world on a thread of its own, since a picture takes some milliseconds.
struct Teacher {
    walks: Sender<(u64, Vec<Controls>)>,
    /// Ticks and their pictures.
    frames: Receiver<(u64, Frame)>,
}

impl Teacher {
    fn new(start: TeacherWorld, size: FrameSize) -> Self {
        let (walks, inbox) = unbounded();
        let (outbox, frames) = unbounded();
        thread::spawn(move || teach(&start, size, &inbox, &outbox));
        Self { walks, frames }
    }

    /// Walks under `controls` from `tick` on, wherever the world was before. Without controls it looks at what was there.
    fn walk(&self, tick: u64, controls: Vec<Controls>) {
        self.walks.send((tick, controls)).ok();
    }
}

fn teach(start: &TeacherWorld, size: FrameSize, walks: &Receiver<(u64, Vec<Controls>)>, frames: &Sender<(u64, Frame)>) {
    let mut world = start.clone();
    let mut walked: Vec<Controls> = Vec::new();
    for (tick, controls) in walks {
        let tick = tick as usize;
        if tick < walked.len() {
            walked.truncate(tick);
            world = start.clone();
            for &controls in &walked {
                world.tick(controls);
            }
        }
        // A chunk that was late and never shown did not tell its controls.
        while walked.len() < tick {
            let held = controls.first().copied().unwrap_or_default();
            world.tick(held);
            walked.push(held);
        }
        if controls.is_empty() && frames.send((tick.saturating_sub(1) as u64, world.render(size))).is_err() {
            return;
        }
        for controls in controls {
            world.tick(controls);
            walked.push(controls);
            if frames.send((walked.len() as u64 - 1, world.render(size))).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_teacher_goes_where_he_is_told_and_back() {
        let size = FrameSize::new(24, 16);
        let start = TeacherWorld::new(3, WorldConfig::default());
        let held = Controls { forward: 1.0, look: [4.0, 0.0], ..Controls::default() };
        let truth = |ticks: usize| {
            let mut world = start.clone();
            for _ in 0..ticks {
                world.tick(held);
            }
            world.render(size)
        };
        let teacher = Teacher::new(start.clone(), size);
        let next = || teacher.frames.recv_timeout(Duration::from_secs(20)).unwrap();
        teacher.walk(0, vec![held; 4]);
        for tick in 0..4 {
            assert!(next() == (tick, truth(tick as usize + 1)), "tick {tick}");
        }
        teacher.walk(2, Vec::new());
        assert!(next() == (1, truth(2)), "back");
        teacher.walk(2, vec![held; 1]);
        assert!(next() == (2, truth(3)), "and on from there");
    }
}
