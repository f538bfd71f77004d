//! Single pictures.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use image::codecs::png::PngEncoder;
use image::imageops::{self, FilterType};
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageError, ImageReader, RgbImage};

use crate::{Error, Frame, FrameSize, Result};

/// Larger pictures than this many pixels are refused, so that a small file cannot fill the memory.
const MAX_PIXELS: u64 = 64 << 20;

/// Pixels between the frames of a contact sheet.
const GAP: usize = 2;

/// Reads a PNG, JPEG, GIF (its first frame), BMP or WebP picture of at most 64 megapixels, upright.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Input`] when it is no such picture, broken, or too large.
pub fn load_image(path: impl AsRef<Path>) -> Result<Frame> {
    let path = path.as_ref();
    let refused = |reason: &str| Error::input(format!("{}: {reason}", path.display()));
    let broken = |error: ImageError| match error {
        ImageError::Unsupported(_) => refused("not a PNG, JPEG, GIF, BMP or WebP picture"),
        other => refused(&format!("a broken picture ({})", other.to_string().replace('\n', " "))),
    };
    if path.is_dir() {
        return Err(refused("a folder, not a picture"));
    }
    let file = File::open(path).map_err(Error::io(path))?;
    let reader = ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(Error::io(path))?;
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(refused(&format!("{width}x{height} is too large: at most 64 megapixels")));
    }
    let orientation = decoder.orientation().map_err(broken)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(broken)?;
    picture.apply_orientation(orientation);
    let rgb = picture.into_rgb8();
    if rgb.is_empty() {
        return Err(refused("a picture without pixels"));
    }
    Ok(Frame { size: FrameSize::new(rgb.width() as usize, rgb.height() as usize), rgb: rgb.into_raw() })
}

/// Writes a PNG file.
///
/// # Errors
/// [`Error::Io`] when it cannot be written.
pub fn save_png(frame: &Frame, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let mut file = BufWriter::new(File::create(path).map_err(Error::io(path))?);
    PngEncoder::new(&mut file)
        .write_image(&frame.rgb, frame.size.width as u32, frame.size.height as u32, ExtendedColorType::Rgb8)
        .map_err(|error| Error::io(path)(std::io::Error::other(error)))?;
    // Dropping it would not tell of a full disk.
    file.flush().map_err(Error::io(path))
}

/// The middle of `frame`, as much as has the aspect ratio of `size`, resampled to `size`.
pub fn fit(frame: &Frame, size: FrameSize) -> Frame {
    if frame.size == size {
        return frame.clone();
    }
    let FrameSize { width, height } = frame.size;
    let (cut_width, cut_height) = if width * size.height > height * size.width {
        ((height * size.width / size.height).max(1), height)
    } else {
        (width, (width * size.height / size.width).max(1))
    };
    let (left, top) = ((width - cut_width) / 2, (height - cut_height) / 2);
    let cut = RgbImage::from_fn(cut_width as u32, cut_height as u32, |x, y| {
        let at = ((top + y as usize) * width + left + x as usize) * 3;
        image::Rgb([frame.rgb[at], frame.rgb[at + 1], frame.rgb[at + 2]])
    });
    let resized = imageops::resize(&cut, size.width as u32, size.height as u32, FilterType::CatmullRom);
    Frame { size, rgb: resized.into_raw() }
}

/// Frames side by side, one row of pictures below the other on white, each enlarged `scale` times (at least 1).
/// A cell is as large as the largest frame. No frames at all give one white pixel.
pub fn contact_sheet(rows: &[Vec<Frame>], scale: usize) -> Frame {
    let scale = scale.max(1);
    let largest = |side: fn(&Frame) -> usize| rows.iter().flatten().map(side).max().unwrap_or(0) * scale;
    let (cell_width, cell_height) = (largest(|f| f.size.width), largest(|f| f.size.height));
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let extent = |count: usize, cell: usize| (count * (cell + GAP)).saturating_sub(GAP).max(1);
    let size = FrameSize::new(extent(columns, cell_width), extent(rows.len(), cell_height));
    let mut sheet = Frame { size, rgb: vec![255; size.pixels() * 3] };
    for (row, frames) in rows.iter().enumerate() {
        for (column, frame) in frames.iter().enumerate() {
            let (left, top) = (column * (cell_width + GAP), row * (cell_height + GAP));
            for y in 0..frame.size.height * scale {
                for x in 0..frame.size.width * scale {
                    let from = (y / scale * frame.size.width + x / scale) * 3;
                    let to = ((top + y) * size.width + left + x) * 3;
                    sheet.rgb[to..to + 3].copy_from_slice(&frame.rgb[from..from + 3]);
                }
            }
        }
    }
    sheet
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn bad_pictures_are_refused_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let good = dir.path().join("good.png");
        save_png(&Frame::black(FrameSize::new(40, 30)), &good).unwrap();
        let whole = fs::read(&good).unwrap();
        // A bitmap header that claims 60000 x 60000 pixels.
        let mut huge = vec![0x42, 0x4d];
        huge.extend_from_slice(&[0; 8]);
        huge.extend_from_slice(&54u32.to_le_bytes());
        huge.extend_from_slice(&40u32.to_le_bytes());
        huge.extend_from_slice(&60000i32.to_le_bytes());
        huge.extend_from_slice(&60000i32.to_le_bytes());
        huge.extend_from_slice(&[1, 0, 24, 0]);
        huge.extend_from_slice(&[0; 24]);
        let bad = [
            dir.path().join("missing.png"),
            dir.path().to_owned(),
            file("empty.png", b""),
            file("text.png", b"not a picture"),
            file("cut.png", &whole[..whole.len() / 2]),
            file("huge.bmp", &huge),
        ];
        for path in bad {
            let error = load_image(&path).unwrap_err().to_string();
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let error = load_image(dir.path().join("huge.bmp")).unwrap_err().to_string();
        assert!(error.contains("64 megapixels"), "{error}");
        assert_eq!(load_image(&good).unwrap().size, FrameSize::new(40, 30));
    }

    #[test]
    fn fit_cuts_the_middle() {
        // Three vertical bars, the middle one white: a square cut from the middle is all white.
        let size = FrameSize::new(90, 30);
        let rgb = (0..size.pixels()).flat_map(|i| [if (30..60).contains(&(i % 90)) { 255 } else { 0 }; 3]).collect();
        let fitted = fit(&Frame { size, rgb }, FrameSize::new(16, 16));
        assert_eq!(fitted.size, FrameSize::new(16, 16));
        assert!(fitted.rgb.iter().all(|&v| v == 255));
    }

    #[test]
    fn fit_takes_any_size() {
        for (width, height) in [(1, 1), (1, 500), (500, 1), (33, 77)] {
            let fitted = fit(&Frame::black(FrameSize::new(width, height)), FrameSize::new(128, 128));
            assert_eq!(fitted.rgb.len(), 128 * 128 * 3);
        }
    }

    #[test]
    fn a_contact_sheet_places_frames_in_rows() {
        let frame = |value| Frame { size: FrameSize::new(4, 3), rgb: vec![value; 36] };
        let sheet = contact_sheet(&[vec![frame(1), frame(2)], vec![frame(3)]], 2);
        assert_eq!(sheet.size, FrameSize::new(8 + GAP + 8, 6 + GAP + 6));
        let at = |x: usize, y: usize| sheet.rgb[(y * sheet.size.width + x) * 3];
        assert_eq!((at(0, 0), at(8 + GAP, 5), at(7, 6 + GAP), at(9 + GAP, 9 + GAP)), (1, 2, 3, 255));
        assert_eq!(contact_sheet(&[], 1).size, FrameSize::new(1, 1));
    }
}
