//! Animated GIF.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::Path;

use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, RgbaImage};

use super::Encoder;
use crate::partial::Partial;
use crate::{Error, Frame, FrameSize, Result};

/// Quality of the palette search, 1 (best) to 30 (fastest): 10 looks the same on dreamed frames, many times faster.
const PALETTE_SPEED: i32 = 10;

pub(super) struct Gif {
    /// Without a buffer, which would not tell of a full disk when it is dropped.
    encoder: GifEncoder<File>,
    /// The same file, to cut back to what is whole.
    file: File,
    partial: Partial,
    fps: f64,
    /// Frames in the file, and its length with them.
    frames: usize,
    whole: u64,
}

impl Gif {
    pub(super) fn create(path: &Path, size: FrameSize, fps: f32) -> Result<Self> {
        if size.width > usize::from(u16::MAX) || size.height > usize::from(u16::MAX) {
            return Err(Error::input(format!("{}: a GIF cannot hold frames of {size}", path.display())));
        }
        let partial = Partial::new(path)?;
        let file = File::create(partial.path()).map_err(Error::io(path))?;
        let written = file.try_clone().map_err(Error::io(path))?;
        let mut encoder = GifEncoder::new_with_speed(written, PALETTE_SPEED);
        encoder.set_repeat(Repeat::Infinite).map_err(failed(path))?;
        Ok(Self { encoder, file, partial, fps: f64::from(fps), frames: 0, whole: 0 })
    }

    /// The time at which frame `index` is shown, in the hundredths of a second that a GIF counts in.
    fn shown_at(&self, index: usize) -> u32 {
        (index as f64 * 100.0 / self.fps).round() as u32
    }

    /// Takes back what is written of a frame.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.whole)?;
        self.file.seek(SeekFrom::Start(self.whole)).map(drop)
    }
}

impl Encoder for Gif {
    fn push(&mut self, frame: &Frame) -> Result<()> {
        let target = self.partial.target();
        let (width, height) = (frame.size.width as u32, frame.size.height as u32);
        let pixels = RgbaImage::from_raw(width, height, frame.to_rgba())
            .ok_or_else(|| Error::input(format!("{}: a frame is not {}", target.display(), frame.size)))?;
        let hundredths = self.shown_at(self.frames + 1) - self.shown_at(self.frames);
        let delay = Delay::from_numer_denom_ms(hundredths * 10, 1);
        let encoded = self.encoder.encode_frame(image::Frame::from_parts(pixels, 0, 0, delay)).map_err(failed(target));
        match encoded {
            Ok(()) => {
                self.frames += 1;
                self.whole = self.file.stream_position().map_err(Error::io(target))?;
            }
            // Whether that can be done is of less interest than why.
            Err(_) => _ = self.cut(),
        }
        encoded
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let Self { encoder, partial, frames, .. } = *self;
        if frames == 0 {
            return Err(Error::input(format!("{}: a video needs a frame", partial.target().display())));
        }
        drop(encoder); // writes the trailer
        partial.finish()
    }
}

fn failed(path: &Path) -> impl FnOnce(image::ImageError) -> Error + '_ {
    move |error| Error::io(path)(std::io::Error::other(error))
}
