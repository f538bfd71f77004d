//! Frames as the codec's pictures and back.

use candle_core::{Device, Tensor};

use crate::{Error, Frame, FrameSize, Result};

/// The picture `[3, height, width]`, values of 0 to 1, of a frame of `size`.
///
/// # Errors
/// [`Error::Input`] when it is of another size.
pub fn picture(frame: &Frame, size: FrameSize) -> Result<Tensor> {
    if frame.size != size || frame.rgb.len() != size.pixels() * 3 {
        return Err(Error::input(format!("a frame is {}, not {size}", frame.size)));
    }
    let values: Vec<_> = frame.rgb.iter().map(|&byte| f32::from(byte) / 255.0).collect();
    let picture = Tensor::from_vec(values, (size.height, size.width, 3), &Device::Cpu)?;
    Ok(picture.permute((2, 0, 1))?.contiguous()?)
}

/// The frame of a picture `[3, height, width]`.
///
/// # Errors
/// [`Error::Tensor`] when it is of another shape.
pub fn frame(picture: &Tensor) -> Result<Frame> {
    let (_, height, width) = picture.dims3()?;
    let values = picture.permute((1, 2, 0))?.contiguous()?.flatten_all()?.to_vec1::<f32>()?;
    let rgb = values.into_iter().map(|value| (value * 255.0 + 0.5) as u8).collect();
    Ok(Frame { size: FrameSize::new(width, height), rgb })
}
