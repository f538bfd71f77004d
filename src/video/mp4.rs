//! H.264 in a fragmented MP4 file: `OpenH264` encodes, muxide writes the container.
//!
//! A fragment of about a second is in the file as soon as it is made, and a file that ends after any of them plays: memory does
//! not grow with the length, and a full disk or a killed process takes the last second alone.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use muxide::codec::h264::{annexb_to_avcc, extract_avc_config};
use muxide::fragmented::{FragmentConfig, FragmentedMuxer};
use openh264::OpenH264API;
use openh264::encoder::{
    BitRate, Encoder as H264, EncoderConfig, FrameRate, FrameType, QpRange, RateControlMode, VuiConfig,
};
use openh264::formats::{RgbSliceU8, YUVBuffer};

use super::Encoder;
use crate::partial::Partial;
use crate::{Error, Frame, FrameSize, Result};

/// Bits spent on a pixel: dreamed frames are small, so what would be lavish for a film costs little here.
const BITS_PER_PIXEL: f32 = 1.0;

/// The time of a frame in the file's units, of which a second then has a whole number.
const FRAME_TIME: u32 = 1000;

/// Frames of a fragment at most.
const MOST: usize = 60;

pub(super) struct Mp4 {
    h264: H264,
    file: File,
    partial: Partial,
    config: FragmentConfig,
    /// Made once the first frame tells the parameters that the file begins with.
    muxer: Option<FragmentedMuxer>,
    /// Frames that are encoded but not in the file yet, and whether each is a key frame.
    waiting: VecDeque<(Vec<u8>, bool)>,
    /// Frames of a fragment.
    fragment: usize,
    /// Frames in the file, and its length with them.
    frames: u64,
    whole: u64,
}

impl Mp4 {
    pub(super) fn create(path: &Path, size: FrameSize, fps: f32) -> Result<Self> {
        let fits = |side: usize| (16..=4096).contains(&side) && side.is_multiple_of(2);
        if !fits(size.width) || !fits(size.height) {
            return Err(Error::input(format!(
                "{}: an MP4 cannot hold frames of {size}: both sides must be even, 16 to 4096",
                path.display()
            )));
        }
        let config = EncoderConfig::new()
            .bitrate(BitRate::from_bps((size.pixels() as f32 * fps * BITS_PER_PIXEL) as u32))
            .max_frame_rate(FrameRate::from_hz(fps))
            .qp(QpRange::new(10, 30))
            .rate_control_mode(RateControlMode::Bufferbased) // never skips a frame
            .skip_frames(false)
            .vui(VuiConfig::bt601()); // the matrix that `YUVBuffer` converts with
        let h264 = H264::with_api_config(OpenH264API::from_source(), config).map_err(failed(path))?;
        let partial = Partial::new(path)?;
        let file = File::create(partial.path()).map_err(Error::io(path))?;
        let second = ((fps * FRAME_TIME as f32).round() as u32).max(1);
        Ok(Self {
            h264,
            file,
            partial,
            config: FragmentConfig::new(size.width as u32, size.height as u32, second),
            muxer: None,
            waiting: VecDeque::new(),
            fragment: (fps.round() as usize).clamp(2, MOST),
            frames: 0,
            whole: 0,
        })
    }

    /// Writes the oldest `count` frames that wait as a fragment. On an error the file is cut back to what is whole.
    fn write(&mut self, count: usize) -> Result<()> {
        let written = self.muxed(count).and_then(|bytes| {
            self.file.write_all(&bytes).map_err(Error::io(self.partial.target()))?;
            Ok(bytes.len() as u64)
        });
        match written {
            Ok(bytes) => self.whole += bytes,
            Err(_) => {
                // What follows would come after a gap.
                self.waiting.clear();
                self.file.set_len(self.whole).ok();
            }
        }
        written.map(drop)
    }

    /// The oldest `count` frames that wait as a fragment, after the beginning of the file if it is the first.
    fn muxed(&mut self, count: usize) -> Result<Vec<u8>> {
        let target = self.partial.target();
        let mut bytes = Vec::new();
        let muxer = match &mut self.muxer {
            Some(muxer) => muxer,
            none => {
                let first = self.waiting.front().map_or(&[][..], |(bits, _)| bits);
                let parameters = extract_avc_config(first)
                    .ok_or_else(|| failed(target)(std::io::Error::other("the encoder gives no parameters")))?;
                let config = FragmentConfig { sps: parameters.sps, pps: parameters.pps, ..self.config.clone() };
                let muxer = none.insert(FragmentedMuxer::new(config).map_err(failed(target))?);
                bytes = muxer.init_segment();
                muxer
            }
        };
        for (bits, key) in self.waiting.drain(..count) {
            let shown_at = self.frames * u64::from(FRAME_TIME);
            muxer.write_video(shown_at, shown_at, &annexb_to_avcc(&bits), key).map_err(failed(target))?;
            self.frames += 1;
        }
        bytes.extend(muxer.flush_segment().unwrap_or_default());
        Ok(bytes)
    }
}

impl Encoder for Mp4 {
    fn push(&mut self, frame: &Frame) -> Result<()> {
        let target = self.partial.target();
        let rgb = RgbSliceU8::new(&frame.rgb, (frame.size.width, frame.size.height));
        let stream = self.h264.encode(&YUVBuffer::from_rgb8_source(rgb)).map_err(failed(target))?;
        let key = matches!(stream.frame_type(), FrameType::IDR | FrameType::I);
        self.waiting.push_back((stream.to_vec(), key));
        // The muxer takes the time of a fragment's last frame from the one before, so none may be left alone.
        if self.waiting.len() < self.fragment + 2 { Ok(()) } else { self.write(self.fragment) }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let written = if self.waiting.is_empty() { Ok(()) } else { self.write(self.waiting.len()) };
        if self.whole > 0 {
            self.partial.finish()?;
            return written;
        }
        written.and(Err(Error::input(format!("{}: a video needs a frame", self.partial.target().display()))))
    }
}

fn failed<E: std::error::Error + Send + Sync + 'static>(path: &Path) -> impl FnOnce(E) -> Error + '_ {
    move |error| Error::io(path)(std::io::Error::other(error))
}
