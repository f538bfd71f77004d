//! Pictures as they enter and leave a model.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::kernel::with_alpha;
use crate::{Error, Result};

/// The longest side of a frame that is made, in pixels: memory for larger ones would run out without a word.
pub const MAX_SIDE: usize = 2048;

/// Width and height of a frame in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "bevy", derive(bevy::prelude::Reflect))]
pub struct FrameSize {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
}

impl FrameSize {
    /// A size of `width` × `height` pixels.
    pub const fn new(width: usize, height: usize) -> Self {
        Self { width, height }
    }

    /// Itself, if a frame may be that large.
    ///
    /// # Errors
    /// [`Error::Input`] when a side is 0 or longer than [`MAX_SIDE`].
    pub fn check(self) -> Result<Self> {
        if [self.width, self.height].iter().all(|side| (1..=MAX_SIDE).contains(side)) {
            return Ok(self);
        }
        Err(Error::input(format!("frames of {self}: width and height must be 1 to {MAX_SIDE} pixels")))
    }

    /// Number of pixels.
    pub const fn pixels(self) -> usize {
        self.width * self.height
    }
}

impl fmt::Display for FrameSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl FromStr for FrameSize {
    type Err = Error;

    /// Parses `WxH`, for instance `176x96`, and [checks](FrameSize::check) it.
    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once('x').and_then(|(w, h)| Some(Self::new(w.parse().ok()?, h.parse().ok()?)));
        match parsed {
            Some(size) => size.check(),
            None => Err(Error::input(format!("'{text}' is not a frame size: write it as WxH, for instance 128x128"))),
        }
    }
}

/// One picture: 8-bit display-referred RGB, row by row from the top left.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "bevy", derive(bevy::prelude::Reflect))]
pub struct Frame {
    /// The picture's size.
    pub size: FrameSize,
    /// `height × width × 3` bytes.
    pub rgb: Vec<u8>,
}

impl Frame {
    /// A black frame.
    pub fn black(size: FrameSize) -> Self {
        Self { size, rgb: vec![0; size.pixels() * 3] }
    }

    /// The pixels with an opaque alpha channel, as textures want them.
    pub fn to_rgba(&self) -> Vec<u8> {
        with_alpha(&self.rgb)
    }
}
