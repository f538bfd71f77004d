//! Fused CPU operators of a small diffusion transformer: f32, batch 1, contiguous.
//!
//! A forward pass at batch 1 is bound by packing, memory traffic and thread hand-offs, not by the multiplier. So
//! weights are packed once at load, whatever follows a product happens in its epilogue, and a cache is read where it
//! lies. Every operator has a stock candle path, which runs on other devices and is what the tests compare with. Operators take
//! and make [`Values`]: tensors, or [`Array`]s, which need nothing from the heap once a world has been walked for a while.
//!
//! Work is shared out over the current [`ThreadPool`]. No sum is ever split between threads, so results
//! are bit-identical for any number of threads.

#![allow(
    unsafe_code,
    reason = "SIMD and disjoint writes from several threads; each use is tested against a safe version"
)]

mod array;
mod attention;
mod block;
mod conv;
mod gemm;
mod int8;
mod isa;
mod key_values;
mod linear;
mod math;
mod norm;
mod op;
mod pages;
mod pixels;
mod rope;
mod threads;

pub(crate) use array::apply;
pub use array::{Array, Values};
pub use attention::{Past, attention};
pub use block::{Block, MODULATIONS};
pub use conv::Conv3x3;
pub use gemm::gemm_peak_gflops;
pub(crate) use gemm::with_scratch;
pub use isa::Isa;
pub use key_values::{FLOW_DIM, KeyValues};
pub use linear::{Activation, Linear, activate};
pub use norm::{norm_modulate, rms_norm};
pub(crate) use pages::Pages;
pub use pixels::{cells_to_frames, frames_to_cells, with_alpha};
pub use rope::Rope;
pub use threads::{MAX_THREADS, ThreadPool, check_threads, default_threads};
pub(crate) use threads::{for_each_chunk, for_each_rows};

/// Added to the mean square in every RMS norm.
pub const NORM_EPS: f32 = 1e-6;
