//! Chunks to frames, each given when it is due.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::model::StageTimes;
use crate::{Controls, FrameSize};

/// Facts about the chunk that a frame belongs to.
#[derive(Clone, Debug)]
pub struct ChunkInfo {
    /// The world, as in [`Event::Started`](super::Event::Started).
    pub world: u64,
    /// Index of the chunk in its world, from 0.
    pub index: u64,
    /// Tick of its first frame.
    pub first_tick: u64,
    /// The controls it was made under, one a frame; none for a look at a moment that was gone to.
    pub controls: Vec<Controls>,
    /// When these controls were taken.
    pub sampled: Instant,
    /// When the frames were ready.
    pub ready: Instant,
    /// Where the time went; the commit time is that of the chunk before.
    pub times: StageTimes,
    /// [Bytes](crate::simulate::Timeline::bytes) that the world's past takes.
    pub past: usize,
}

/// A frame to be shown now.
#[derive(Clone, Debug)]
pub struct TimedFrame {
    /// The frame's size.
    pub size: FrameSize,
    /// `height × width × 4` bytes of display-referred RGBA.
    pub rgba: Vec<u8>,
    /// The frame's tick.
    pub tick: u64,
    /// Its chunk.
    pub chunk: Arc<ChunkInfo>,
}

/// A finished chunk on its way to the screen.
pub(super) struct TimedChunk {
    pub info: Arc<ChunkInfo>,
    pub size: FrameSize,
    pub frames: Vec<Vec<u8>>,
    pub due: Instant,
    pub frame_time: Duration,
}

/// The receiving end: holds the frames of the chunk being shown.
pub(super) struct Playout {
    chunks: Receiver<TimedChunk>,
    world: Arc<AtomicU64>,
    frames: VecDeque<(Instant, TimedFrame)>,
    frames_per_chunk: usize,
    /// When the frame after the last one that arrived is expected.
    expected: Option<Instant>,
}

impl Playout {
    /// Plays what arrives in `chunks`, as far as it belongs to the present `world`.
    pub fn new(chunks: Receiver<TimedChunk>, world: Arc<AtomicU64>) -> Self {
        Self { chunks, world, frames: VecDeque::new(), frames_per_chunk: 0, expected: None }
    }

    pub fn due(&mut self, now: Instant) -> Option<TimedFrame> {
        let mut newest = None;
        while self.front_due().is_some_and(|due| due <= now) {
            newest = self.frames.pop_front().map(|(_, frame)| frame);
        }
        newest
    }

    pub fn next_due(&mut self) -> Option<Instant> {
        self.front_due().or(self.expected)
    }

    fn front_due(&mut self) -> Option<Instant> {
        let world = self.world.load(Ordering::Acquire);
        self.frames.retain(|(_, frame)| frame.chunk.world == world);
        while self.frames.is_empty() {
            let chunk = self.chunks.try_recv().ok()?;
            if chunk.info.world != world {
                continue;
            }
            let TimedChunk { info, size, frames, due, frame_time } = chunk;
            self.frames_per_chunk = frames.len();
            self.expected = Some(due + frame_time * frames.len() as u32);
            self.frames.extend(frames.into_iter().enumerate().map(|(i, rgba)| {
                let tick = info.first_tick + i as u64;
                (due + frame_time * i as u32, TimedFrame { size, rgba, tick, chunk: Arc::clone(&info) })
            }));
        }
        self.frames.front().map(|(due, _)| *due)
    }

    pub fn queued(&self) -> usize {
        self.frames.len() + self.chunks.len() * self.frames_per_chunk
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Sender, bounded};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn send(chunks: &Sender<TimedChunk>, world: u64, index: u64, due: Instant) {
        let info = ChunkInfo {
            world,
            index,
            first_tick: index * 2,
            controls: vec![Controls::default(); 2],
            sampled: due,
            ready: due,
            times: StageTimes::default(),
            past: 0,
        };
        let frames = vec![vec![0; 4]; 2];
        let size = FrameSize::new(1, 1);
        chunks.send(TimedChunk { info: Arc::new(info), size, frames, due, frame_time: 50 * MS }).unwrap();
    }

    #[test]
    fn frames_come_when_due_and_late_ones_are_skipped() {
        let (outbox, chunks) = bounded(4);
        let mut playout = Playout::new(chunks, Arc::new(AtomicU64::new(1)));
        let start = Instant::now();
        send(&outbox, 1, 0, start);
        send(&outbox, 1, 1, start + 100 * MS);
        let mut tick_at = |ms| playout.due(start + ms * MS).map(|f| f.tick);
        assert_eq!([tick_at(0), tick_at(40), tick_at(50)], [Some(0), None, Some(1)]);
        assert_eq!([tick_at(155), tick_at(500)], [Some(3), None], "tick 2 is over");
        assert_eq!(playout.next_due(), Some(start + 200 * MS), "the next chunk is expected then");
    }

    #[test]
    fn a_new_world_replaces_frames_that_wait() {
        let (outbox, chunks) = bounded(4);
        let world = Arc::new(AtomicU64::new(1));
        let mut playout = Playout::new(chunks, Arc::clone(&world));
        let start = Instant::now();
        send(&outbox, 1, 0, start);
        send(&outbox, 1, 1, start + 100 * MS);
        assert_eq!(playout.due(start).unwrap().chunk.world, 1);
        assert_eq!(playout.queued(), 3);
        world.store(2, Ordering::Release);
        send(&outbox, 2, 0, start + 10 * MS);
        assert_eq!(playout.due(start + 9 * MS).map(|f| f.tick), None);
        assert_eq!(playout.due(start + 10 * MS).map(|f| (f.chunk.world, f.tick)), Some((2, 0)));
    }
}
