//! Memory in pages of its own.
//!
//! What a world remembers lives for a tenth of a second or for minutes, in pieces of several sizes. An allocator's heap is
//! scattered by that and grows for minutes; pages of their own go back to the system, each piece alone.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, cast_slice, cast_slice_mut};
use candle_core::Result;
use memmap2::MmapMut;

/// Numbers in pages of their own.
pub(crate) struct Pages<T> {
    /// None for no numbers.
    map: Option<MmapMut>,
    numbers: PhantomData<T>,
}

impl<T: Pod> Pages<T> {
    /// So many zeros.
    ///
    /// # Errors
    /// An error when the system has no memory.
    pub fn zeros(count: usize) -> Result<Self> {
        let map = Some(count * size_of::<T>()).filter(|&bytes| bytes > 0).map(MmapMut::map_anon).transpose()?;
        Ok(Self { map, numbers: PhantomData })
    }
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self { map: None, numbers: PhantomData }
    }
}

impl<T: Pod> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.map.as_deref().map(cast_slice).unwrap_or_default()
    }
}

impl<T: Pod> DerefMut for Pages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.map.as_deref_mut().map(cast_slice_mut).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zeros_that_can_be_written() {
        let mut pages = Pages::<f32>::zeros(5000).unwrap();
        assert!(pages.len() == 5000 && pages.iter().all(|&number| number == 0.0));
        pages[4999] = 1.0;
        assert_eq!(pages.iter().sum::<f32>(), 1.0);
        assert!(Pages::<f32>::zeros(0).unwrap().is_empty() && Pages::<f32>::default().is_empty());
        assert!(Pages::<u8>::zeros(isize::MAX as usize).is_err());
    }
}
