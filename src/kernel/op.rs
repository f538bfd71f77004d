//! The bridge from candle's tensors to the slices that the kernels work on.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Layout, Result, Storage, StorageRef, Tensor, bail};

/// The f32 values of a contiguous CPU tensor.
pub struct View<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> View<'a> {
    pub fn new(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let range = range(layout)?;
        match &*storage {
            Storage::Cpu(CpuStorage::F32(_)) => Ok(Self { storage, range }),
            _ => bail!("a CPU kernel needs f32 tensors on the CPU, not {:?}", tensor.dtype()),
        }
    }
}

impl Deref for View<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("checked on construction"),
        }
    }
}

fn range(layout: &Layout) -> Result<Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => bail!("a CPU kernel needs contiguous tensors, not {layout:?}"),
    }
}

/// An output that several threads write, each its own part.
#[derive(Clone, Copy)]
pub struct SharedOut<'a> {
    start: *mut f32,
    len: usize,
    lifetime: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer comes from a `&mut [f32]` held for 'a, and `slice` obliges its callers to keep to disjoint parts.
unsafe impl Send for SharedOut<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for SharedOut<'_> {}

impl<'a> SharedOut<'a> {
    pub fn new(out: &'a mut [f32]) -> Self {
        Self { start: out.as_mut_ptr(), len: out.len(), lifetime: std::marker::PhantomData }
    }

    /// Number of values.
    pub fn len(self) -> usize {
        self.len
    }

    /// The part at `range`.
    ///
    /// # Safety
    /// No other reference to any of these elements may be alive.
    pub unsafe fn slice(self, range: Range<usize>) -> &'a mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: in bounds by the assertion, unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
