//! H.264 in an MP4 file: OpenH264 encodes, muxide writes the container.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use muxide::api::{Muxer, MuxerBuilder, VideoCodec};
use openh264::OpenH264API;
use openh264::encoder::{
    BitRate, Encoder as H264, EncoderConfig, FrameRate, FrameType, QpRange, RateControlMode, VuiConfig,
};
use openh264::formats::{RgbSliceU8, YUVBuffer};

use super::Encoder;
use super::partial::Partial;
use crate::{Error, Frame, FrameSize, Result};

/// Bits spent on a pixel: dreamed frames are small, so what would be lavish for a film costs little here.
const BITS_PER_PIXEL: f32 = 1.0;

pub(super) struct Mp4 {
    h264: H264,
    muxer: Muxer<BufWriter<File>>,
    partial: Partial,
    fps: f64,
    frames: usize,
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
        let muxer = MuxerBuilder::new(BufWriter::new(file))
            .video(VideoCodec::H264, size.width as u32, size.height as u32, f64::from(fps))
            .build()
            .map_err(failed(path))?;
        Ok(Self { h264, muxer, partial, fps: f64::from(fps), frames: 0 })
    }
}

impl Encoder for Mp4 {
    fn push(&mut self, frame: &Frame) -> Result<()> {
        let target = self.partial.target();
        let rgb = RgbSliceU8::new(&frame.rgb, (frame.size.width, frame.size.height));
        let stream = self.h264.encode(&YUVBuffer::from_rgb8_source(rgb)).map_err(failed(target))?;
        let key = matches!(stream.frame_type(), FrameType::IDR | FrameType::I);
        let shown_at = self.frames as f64 / self.fps;
        self.muxer.write_video(shown_at, &stream.to_vec(), key).map_err(failed(target))?;
        self.frames += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let Self { muxer, partial, frames, .. } = *self;
        if frames == 0 {
            return Err(Error::input(format!("{}: a video needs a frame", partial.target().display())));
        }
        muxer.finish().map_err(failed(partial.target()))?;
        partial.finish()
    }
}

fn failed<E: std::error::Error + Send + Sync + 'static>(path: &Path) -> impl FnOnce(E) -> Error + '_ {
    move |error| Error::io(path)(std::io::Error::other(error))
}
