//! Frames to files and back: videos, folders of pictures, contact sheets, start images.
//!
//! ```no_run
//! # use bevy_dream::{Frame, FrameSize, Result, video::VideoWriter};
//! # fn main() -> Result<()> {
//! let size = FrameSize::new(128, 128);
//! let mut video = VideoWriter::create("walk.gif", size, 20.0)?;
//! video.push(&Frame::black(size))?;
//! video.finish()
//! # }
//! ```

mod folder;
mod gif;
#[cfg(feature = "mp4")]
mod mp4;
mod picture;

use std::path::{Path, PathBuf};

pub use picture::{contact_sheet, fit, load_image, save_png};

use crate::{Error, Frame, FrameSize, Result};

/// What writes one kind of video.
trait Encoder: Send {
    fn push(&mut self, frame: &Frame) -> Result<()>;
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Writes frames to a video file, or to a folder of pictures.
///
/// What is written stands under a temporary name (`walk.gif.123-0.part`) beside the path until [`VideoWriter::finish`] puts it in
/// place, and is removed when the writer is dropped before. A process that is killed leaves it there, and it plays as far as it
/// was written, of an MP4 all but the last second.
pub struct VideoWriter {
    path: PathBuf,
    size: FrameSize,
    encoder: Box<dyn Encoder>,
}

impl VideoWriter {
    /// A writer of frames of `size`, shown `fps` (above 0, at most 1000) times a second. The path decides the format:
    ///
    /// | path | format |
    /// |---|---|
    /// | `x.gif` | an animated GIF that repeats, a palette per frame |
    /// | `x.mp4` | H.264, with the feature `mp4`; sides even, 16 to 4096 pixels |
    /// | `x/`, `x.png-folder`, an existing folder | `frame-000000.png`, `frame-000001.png`, … |
    ///
    /// # Errors
    /// [`Error::Input`] for another extension, an `.mp4` without the feature `mp4`, a size or a frame rate that
    /// the format cannot hold, a folder that is not empty; [`Error::Io`] when nothing can be written there.
    pub fn create(path: impl AsRef<Path>, size: FrameSize, fps: f32) -> Result<Self> {
        let path = path.as_ref();
        if !(fps > 0.0 && fps <= 1000.0) {
            return Err(Error::input(format!("a video cannot show {fps} frames a second: give 1 to 1000")));
        }
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        let names_folder = path.as_os_str().to_string_lossy().ends_with(['/', std::path::MAIN_SEPARATOR]);
        let encoder: Box<dyn Encoder> = if names_folder || path.is_dir() || extension == "png-folder" {
            Box::new(folder::Folder::create(path)?)
        } else {
            match extension.as_str() {
                "gif" => Box::new(gif::Gif::create(path, size, fps)?),
                #[cfg(feature = "mp4")]
                "mp4" => Box::new(mp4::Mp4::create(path, size, fps)?),
                #[cfg(not(feature = "mp4"))]
                "mp4" => {
                    return Err(Error::input(
                        "this build writes no .mp4: build with --features mp4, or write a .gif or a folder (name/)",
                    ));
                }
                _ => {
                    return Err(Error::input(format!(
                        "{}: a video is a .gif, an .mp4 or a folder of pictures (name/)",
                        path.display()
                    )));
                }
            }
        };
        Ok(Self { path: path.to_owned(), size, encoder })
    }

    /// Appends a frame. After an error the video holds those before, to be kept with [`VideoWriter::finish`].
    ///
    /// # Errors
    /// [`Error::Input`] when the frame has another size, [`Error::Io`] when it cannot be written.
    pub fn push(&mut self, frame: &Frame) -> Result<()> {
        if frame.size != self.size {
            return Err(Error::input(format!(
                "{}: a frame of {} does not fit a video of {}",
                self.path.display(),
                frame.size,
                self.size
            )));
        }
        self.encoder.push(frame)
    }

    /// Completes the video and puts it in place, even if not all of it could be written.
    ///
    /// # Errors
    /// [`Error::Input`] when there is no frame, [`Error::Io`] when the rest cannot be written.
    pub fn finish(self) -> Result<()> {
        self.encoder.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::AnimationDecoder;

    use super::*;

    const SIZE: FrameSize = FrameSize::new(24, 16);

    fn flat(value: u8) -> Frame {
        Frame { size: SIZE, rgb: vec![value; SIZE.pixels() * 3] }
    }

    fn write(path: &Path, fps: f32, frames: &[Frame]) -> Result<()> {
        let mut video = VideoWriter::create(path, SIZE, fps)?;
        frames.iter().try_for_each(|frame| video.push(frame))?;
        video.finish()
    }

    fn gif_frames(path: &Path) -> Vec<image::Frame> {
        let file = std::io::BufReader::new(fs::File::open(path).unwrap());
        image::codecs::gif::GifDecoder::new(file).unwrap().into_frames().collect_frames().unwrap()
    }

    #[test]
    fn a_gif_keeps_frames_and_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gif");
        write(&path, 20.0, &[flat(0), flat(120), flat(255)]).unwrap();
        let frames = gif_frames(&path);
        assert_eq!(frames.len(), 3);
        assert_eq!(frames[1].buffer().get_pixel(3, 3).0, [120, 120, 120, 255]);
        assert!(frames.iter().all(|f| f.delay().numer_denom_ms() == (50, 1)));
    }

    #[test]
    fn a_gif_at_an_odd_rate_has_the_right_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gif");
        write(&path, 30.0, &vec![flat(9); 30]).unwrap();
        let total: u32 = gif_frames(&path).iter().map(|f| f.delay().numer_denom_ms().0).sum();
        assert_eq!(total, 1000);
    }

    #[test]
    fn a_folder_holds_exact_pictures() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("walk.png-folder");
        let frame = Frame { size: SIZE, rgb: (0..SIZE.pixels() * 3).map(|i| (i * 7 % 251) as u8).collect() };
        write(&path, 20.0, &[flat(3), frame.clone()]).unwrap();
        assert_eq!(load_image(path.join("frame-000001.png")).unwrap(), frame);
        let error = write(&path, 20.0, &[frame]).unwrap_err().to_string();
        assert!(error.contains("not empty"), "{error}");
    }

    #[test]
    fn nothing_remains_of_an_unfinished_video() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["x.gif", "x/"] {
            let mut video = VideoWriter::create(dir.path().join(name), SIZE, 20.0).unwrap();
            video.push(&flat(1)).unwrap();
            drop(video);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn bad_outputs_are_refused_before_the_work() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["x.avi", "x", "missing/x.gif", "missing/x/"] {
            let error = VideoWriter::create(dir.path().join(name), SIZE, 20.0).err().unwrap().to_string();
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        assert!(VideoWriter::create(dir.path().join("x.gif"), SIZE, 0.0).is_err());
        assert!(VideoWriter::create(dir.path().join("x.gif"), SIZE, f32::NAN).is_err());
        assert!(write(&dir.path().join("x.gif"), 20.0, &[]).is_err(), "a video without frames");
        let mut video = VideoWriter::create(dir.path().join("x.gif"), SIZE, 20.0).unwrap();
        assert!(video.push(&Frame::black(FrameSize::new(8, 8))).is_err());
    }

    #[cfg(not(feature = "mp4"))]
    #[test]
    fn mp4_names_its_feature() {
        let error = VideoWriter::create("x.mp4", SIZE, 20.0).err().unwrap().to_string();
        assert!(error.contains("--features mp4") && error.contains(".gif"), "{error}");
    }

    #[cfg(feature = "mp4")]
    fn noise(count: usize) -> Vec<Frame> {
        let noise = |seed: usize| (0..SIZE.pixels() * 3).map(|i| (((i + seed) * 2_654_435_761) >> 7) as u8).collect();
        (0..count).map(|seed| Frame { size: SIZE, rgb: noise(seed * 7919) }).collect()
    }

    /// The boxes that a part of an MP4 consists of: type and content.
    #[cfg(feature = "mp4")]
    fn boxes(mut bytes: &[u8]) -> Vec<(&str, &[u8])> {
        let mut boxes = Vec::new();
        while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
            let content = &rest[..u32::from_be_bytes(*length) as usize - 4];
            boxes.push((std::str::from_utf8(&content[..4]).unwrap(), &content[4..]));
            bytes = &rest[content.len()..];
        }
        boxes
    }

    /// The content of the boxes at the end of `path`.
    #[cfg(feature = "mp4")]
    fn inside<'a>(bytes: &'a [u8], path: &[&str]) -> Vec<&'a [u8]> {
        path.iter().fold(vec![bytes], |parts, name| {
            parts.into_iter().flat_map(boxes).filter(|(found, _)| found == name).map(|(_, content)| content).collect()
        })
    }

    #[cfg(feature = "mp4")]
    fn number(bytes: &[u8], at: usize) -> u32 {
        u32::from_be_bytes(*bytes[at..].first_chunk().unwrap())
    }

    /// The times of the frames of an MP4, and the units of a second.
    #[cfg(feature = "mp4")]
    fn times(bytes: &[u8]) -> (Vec<u32>, u32) {
        let units = number(inside(bytes, &["moov", "trak", "mdia", "mdhd"])[0], 12);
        let runs = inside(bytes, &["moof", "traf", "trun"]);
        let times = runs.iter().flat_map(|run| (0..number(run, 4) as usize).map(|i| number(run, 12 + 16 * i)));
        (times.collect(), units)
    }

    #[cfg(feature = "mp4")]
    #[test]
    fn an_mp4_holds_its_frames_at_their_rate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.mp4");
        for (fps, count, units) in [(20.0, 41, 20_000), (29.97, 65, 29_970), (1.0, 3, 1000)] {
            write(&path, fps, &noise(count)).unwrap();
            let bytes = fs::read(&path).unwrap();
            assert_eq!(&bytes[4..8], b"ftyp");
            assert_eq!(times(&bytes), (vec![1000; count], units), "no frame is skipped");
            let begins = inside(&bytes, &["moof", "traf", "tfdt"]).into_iter().map(|begin| number(begin, 8));
            let lengths = inside(&bytes, &["moof", "traf", "trun"]).into_iter().map(|run| 1000 * number(run, 4));
            let expected = lengths.scan(0, |at, length| Some(std::mem::replace(at, *at + length)));
            assert!(begins.eq(expected));
        }
        assert!(VideoWriter::create(dir.path().join("y.mp4"), FrameSize::new(25, 16), 20.0).is_err());
    }

    #[cfg(feature = "mp4")]
    #[test]
    fn an_mp4_decodes_to_its_frames() {
        use openh264::formats::YUVSource;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.mp4");
        write(&path, 20.0, &[flat(30), flat(120), flat(230)]).unwrap();
        let bytes = fs::read(&path).unwrap();
        let mut decoder = openh264::decoder::Decoder::new().unwrap();
        let mut shown = Vec::new();
        let mut samples = inside(&bytes, &["mdat"])[0];
        while let Some((length, rest)) = samples.split_first_chunk::<4>() {
            let (unit, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
            if let Some(picture) = decoder.decode(&[&[0, 0, 0, 1], unit].concat()).unwrap() {
                assert_eq!(picture.dimensions(), (SIZE.width, SIZE.height));
                let mut rgb = vec![0; SIZE.pixels() * 3];
                picture.write_rgb8(&mut rgb);
                shown.push(rgb[300]);
            }
            samples = rest;
        }
        assert_eq!(shown.len(), 3);
        assert!(shown.iter().zip([30, 120, 230]).all(|(a, b)| a.abs_diff(b) < 12), "{shown:?}");
    }

    #[cfg(feature = "mp4")]
    #[test]
    fn an_mp4_under_way_plays_but_for_the_last_second() {
        let dir = tempfile::tempdir().unwrap();
        let mut video = VideoWriter::create(dir.path().join("x.mp4"), SIZE, 20.0).unwrap();
        noise(70).iter().for_each(|frame| video.push(frame).unwrap());
        let part = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        assert_eq!(times(&fs::read(part).unwrap()).0.len(), 60);
    }
}
