//! The matrix product under every operator: A, row by row as it lies, times B in packed panels of 32 columns.
//!
//! The micro-kernel keeps a tile of up to 12 x 32 sums in registers (Goto & van de Geijn 2008), with AVX2 a quarter after
//! the other. Its callers walk over tiles and finish each in cache with their epilogue. A panel this wide leaves its first
//! tile time to fetch it: the weights of a model do not stay in a cache between two uses.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Deref;
use std::slice;

use bytemuck::{Pod, Zeroable};

use super::isa::Isa;
use super::op::SharedOut;
use super::threads::{current_threads, for_each};

/// Columns of a panel.
pub const NR: usize = 32;
/// Most rows of a tile.
pub const MR: usize = 12;
/// Most rows when they start whole pages apart: more would push each other out of the eight ways of the first-level cache.
/// With AVX2 only half as many are read at a time.
const PAGED_ROWS: usize = 8;
/// Products summed in one go: a panel of this height stays in the second-level cache.
const KC: usize = 1024;
/// Rows of A handled by one task, so that they stay in the second-level cache.
const ROWS: usize = 96;

/// One row of a panel: 32 neighbouring columns of B.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Row(pub [f32; NR]);

/// Sums under way: `tile[i].0[j]` belongs to row i and column j.
pub type Tile = [Row; MR];

/// B of `k` rows and `n` columns in panels, wherever its rows lie; columns beyond `n` are zero.
pub struct Packed<R = Vec<Row>> {
    rows: R,
    pub k: usize,
    pub n: usize,
}

impl Packed {
    /// Packs `n` columns, each given by the iterator over its `k` values.
    pub fn from_columns<I: Iterator<Item = f32>>(k: usize, n: usize, column: impl Fn(usize) -> I) -> Self {
        let mut rows = vec![Row::default(); Self::count(k, n)];
        let shared = SharedPacked::new(&mut rows, k, n);
        // SAFETY: nobody else has it.
        (0..n).for_each(|index| unsafe { shared.set_column(index, column(index)) });
        Self { rows, k, n }
    }

    /// Rows that the panels take.
    pub fn count(k: usize, n: usize) -> usize {
        n.div_ceil(NR) * k
    }
}

impl<R: Deref<Target = [Row]>> Packed<R> {
    /// What lies packed in these rows, [`Packed::count`] of them.
    pub fn new(rows: R, k: usize, n: usize) -> Self {
        assert_eq!(rows.len(), Packed::count(k, n));
        Self { rows, k, n }
    }

    /// The panel that holds columns `NR * index..`.
    pub fn panel(&self, index: usize) -> &[Row] {
        &self.rows[index * self.k..][..self.k]
    }

    pub fn panels(&self) -> usize {
        self.n.div_ceil(NR)
    }

    /// Hands over a part of every row after the other: its number, its first column and its values.
    pub fn each(&self, mut take: impl FnMut(usize, usize, &[f32])) {
        for first in (0..self.n).step_by(NR) {
            let width = NR.min(self.n - first);
            for (row, values) in self.panel(first / NR).iter().enumerate() {
                take(row, first, &values.0[..width]);
            }
        }
    }
}

/// A [`Packed`] that several threads pack, each its own columns or rows.
pub struct SharedPacked<'a> {
    start: *mut f32,
    k: usize,
    n: usize,
    lifetime: PhantomData<&'a mut [Row]>,
}

// SAFETY: the pointer comes from a `&mut [Row]` held for 'a, and its users are obliged to keep to disjoint parts.
unsafe impl Sync for SharedPacked<'_> {}

impl<'a> SharedPacked<'a> {
    /// Over [`Packed::count`] rows, whose columns beyond `n` are zero.
    pub fn new(rows: &'a mut [Row], k: usize, n: usize) -> Self {
        assert_eq!(rows.len(), Packed::count(k, n));
        Self { start: rows.as_mut_ptr().cast(), k, n, lifetime: PhantomData }
    }

    /// # Safety
    /// Nobody else may write this column, or a row, at the same time.
    pub unsafe fn set_column(&self, index: usize, values: impl Iterator<Item = f32>) {
        assert!(index < self.n);
        let start = index / NR * self.k * NR + index % NR;
        for (row, value) in (0..self.k).zip(values) {
            // SAFETY: the panel of a column has `k` rows of `NR` values; unaliased by the caller's promise.
            unsafe { *self.start.add(start + row * NR) = value };
        }
    }

    /// # Safety
    /// Nobody else may write this row, or a column, at the same time.
    pub unsafe fn set_row(&self, index: usize, values: &[f32]) {
        assert!(index < self.k && values.len() == self.n);
        for (panel, values) in values.chunks(NR).enumerate() {
            // SAFETY: every panel has `k` rows of `NR` values; unaliased by the caller's promise.
            let row = unsafe { slice::from_raw_parts_mut(self.start.add((panel * self.k + index) * NR), values.len()) };
            row.copy_from_slice(values);
        }
    }
}

/// Splits `count` rows into tiles of nearly equal height, because low tiles waste the multiplier.
pub fn tiles(count: usize) -> impl Iterator<Item = (usize, usize)> {
    split(count, MR)
}

/// Splits `0..count` into (start, length) of nearly equal parts, none above `most`.
pub fn split(count: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let parts = Parts::new(count, most);
    (0..parts.len()).map(move |i| parts.at(i))
}

/// What [`split`] goes through, to be had by number.
#[derive(Clone, Copy)]
pub struct Parts {
    count: usize,
    parts: usize,
}

impl Parts {
    pub fn new(count: usize, most: usize) -> Self {
        Self { count, parts: count.div_ceil(most).max(1) }
    }

    pub fn len(self) -> usize {
        self.parts
    }

    /// Start and length of one of them.
    pub fn at(self, part: usize) -> (usize, usize) {
        let start = part * self.count / self.parts;
        (start, (part + 1) * self.count / self.parts - start)
    }
}

/// `tile = A B`, or `tile += A B` if `onto`, for `rows` rows of A, which start every `lda` elements, and one panel of B.
/// AVX-512 and AVX2 give the same bits; the portable way rounds once more a step.
#[inline]
pub fn multiply(rows: usize, a: &[f32], lda: usize, b: &[Row], tile: &mut Tile, onto: bool) {
    assert!((1..=MR).contains(&rows) && a.len() >= (rows - 1) * lda + b.len());
    match Isa::current() {
        // SAFETY: the CPU has what is current, and the assertion covers every element of A that is read.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::multiply(rows, a.as_ptr(), lda, b, tile, onto) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::multiply(rows, a.as_ptr(), lda, b, tile, onto) },
        _ => multiply_portable(rows, a, lda, b, tile, onto),
    }
}

/// Calls a function that is generic over the number of rows.
#[cfg(target_arch = "x86_64")]
macro_rules! with_rows {
    ($rows:expr, $function:ident $args:tt, $($count:literal)*) => {
        match $rows {
            $($count => $function::<$count> $args,)*
            _ => unreachable!("a tile has at most so many rows"),
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use with_rows;

fn multiply_portable(rows: usize, a: &[f32], lda: usize, b: &[Row], tile: &mut Tile, onto: bool) {
    for (i, sums) in tile.iter_mut().enumerate().take(rows) {
        if !onto {
            *sums = Row::default();
        }
        for (&x, row) in a[i * lda..].iter().zip(b) {
            for (sum, &y) in sums.0.iter_mut().zip(&row.0) {
                *sum += x * y;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{Row, Tile};
    use std::arch::x86_64::{
        __m512, _mm512_fmadd_ps, _mm512_load_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_store_ps,
    };

    /// # Safety
    /// The CPU needs AVX-512F; `a` must be readable at `i * lda + p` for `i < rows` and `p < b.len()`.
    pub unsafe fn multiply(rows: usize, a: *const f32, lda: usize, b: &[Row], tile: &mut Tile, onto: bool) {
        // SAFETY: promised by the caller.
        unsafe { with_rows!(rows, fixed(a, lda, b, tile, onto), 1 2 3 4 5 6 7 8 9 10 11 12) }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn fixed<const M: usize>(a: *const f32, lda: usize, b: &[Row], tile: &mut Tile, onto: bool) {
        let mut sums = [[_mm512_setzero_ps(); 2]; M];
        // SAFETY: rows of tile and panel are 32 aligned floats; A is readable by the caller's promise.
        unsafe {
            if onto {
                for (sums, row) in sums.iter_mut().zip(&*tile) {
                    *sums = halves(row);
                }
            }
            let mut column = a;
            for row in b {
                let y = halves(row);
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*column.wrapping_add(i.wrapping_mul(lda)));
                    for (sum, y) in sums.iter_mut().zip(y) {
                        *sum = _mm512_fmadd_ps(x, y, *sum);
                    }
                }
                column = column.wrapping_add(1);
            }
            for (sums, row) in sums.iter().zip(tile) {
                _mm512_store_ps(row.0.as_mut_ptr(), sums[0]);
                _mm512_store_ps(row.0.as_mut_ptr().wrapping_add(16), sums[1]);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn halves(row: &Row) -> [__m512; 2] {
        // SAFETY: a row is 32 aligned floats.
        unsafe { [_mm512_load_ps(row.0.as_ptr()), _mm512_load_ps(row.0.as_ptr().wrapping_add(16))] }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Row, Tile};
    use std::arch::x86_64::{_mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_load_ps, _mm256_setzero_ps, _mm256_store_ps};

    /// Rows whose sums fit the registers.
    const MOST: usize = 6;

    /// # Safety
    /// The CPU needs AVX2 and FMA; `a` must be readable at `i * lda + p` for `i < rows` and `p < b.len()`.
    pub unsafe fn multiply(rows: usize, a: *const f32, lda: usize, b: &[Row], tile: &mut Tile, onto: bool) {
        // A high tile in two halves, because a low remainder would wait for its own sums.
        let first = if rows > MOST { rows.div_ceil(2) } else { rows };
        let (upper, lower) = tile.split_at_mut(first);
        for column in [0, 16] {
            // SAFETY: promised by the caller; both halves of a row's columns are there.
            unsafe {
                with_rows!(first, fixed(a, lda, b, upper, onto, column), 1 2 3 4 5 6);
                if rows > first {
                    let a = a.wrapping_add(first * lda);
                    with_rows!(rows - first, fixed(a, lda, b, lower, onto, column), 1 2 3 4 5 6);
                }
            }
        }
    }

    /// The 16 columns from `column`.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn fixed<const M: usize>(a: *const f32, lda: usize, b: &[Row], tile: &mut [Row], onto: bool, column: usize) {
        let tile: &mut [Row; M] = tile.first_chunk_mut().expect("a tile of M rows");
        let mut left = [_mm256_setzero_ps(); M];
        let mut right = [_mm256_setzero_ps(); M];
        // SAFETY: rows of tile and panel are 32 aligned floats; A is readable by the caller's promise.
        unsafe {
            if onto {
                for i in 0..M {
                    left[i] = _mm256_load_ps(tile[i].0.as_ptr().wrapping_add(column));
                    right[i] = _mm256_load_ps(tile[i].0.as_ptr().wrapping_add(column + 8));
                }
            }
            let mut values = a;
            for row in b {
                let y0 = _mm256_load_ps(row.0.as_ptr().wrapping_add(column));
                let y1 = _mm256_load_ps(row.0.as_ptr().wrapping_add(column + 8));
                for i in 0..M {
                    let x = _mm256_broadcast_ss(&*values.wrapping_add(i.wrapping_mul(lda)));
                    left[i] = _mm256_fmadd_ps(x, y0, left[i]);
                    right[i] = _mm256_fmadd_ps(x, y1, right[i]);
                }
                values = values.wrapping_add(1);
            }
            for i in 0..M {
                _mm256_store_ps(tile[i].0.as_mut_ptr().wrapping_add(column), left[i]);
                _mm256_store_ps(tile[i].0.as_mut_ptr().wrapping_add(column + 8), right[i]);
            }
        }
    }
}

/// `A B` with A `[m, k]`; every tile goes through `finish(row, rows, column, tile, out)`, which writes it to `out`, the
/// `m` by `n` result. Intermediate sums of a long product rest in `out` too.
pub fn gemm<E>(a: &[f32], b: &Packed, out: &mut [f32], finish: E)
where
    E: Fn(usize, usize, usize, &Tile, SharedOut) + Send + Sync,
{
    let (k, n) = (b.k, b.n);
    let m = a.len().checked_div(k).unwrap_or(0);
    assert!(a.len() == m * k && out.len() == m * n);
    if m == 0 || n == 0 {
        return;
    }
    let row_groups = Parts::new(m, ROWS);
    // A few tasks a thread even out the load; one that is too small costs more to hand over than to do.
    let wanted = (4 * current_threads()).min(m * n * k / 100_000).max(1);
    let height = if k.is_multiple_of(1024) && Isa::current() == Isa::Avx512 { PAGED_ROWS } else { MR };
    let panels = b.panels();
    let panel_groups = Parts::new(panels, panels.div_ceil(wanted.div_ceil(row_groups.len())));
    let out = SharedOut::new(out);
    for_each(row_groups.len() * panel_groups.len(), |task| {
        let (first_row, rows) = row_groups.at(task / panel_groups.len());
        let (first_panel, panels) = panel_groups.at(task % panel_groups.len());
        let mut tile = Tile::default();
        for p in (0..k).step_by(KC) {
            for index in first_panel..first_panel + panels {
                let panel = &b.panel(index)[p..k.min(p + KC)];
                for (start, rows) in split(rows, height) {
                    let (row, column) = (first_row + start, index * NR);
                    if p > 0 {
                        load(&mut tile, rows, row, column, n, out);
                    }
                    multiply(rows, &a[row * k + p..], k, panel, &mut tile, p > 0);
                    if p + KC >= k {
                        finish(row, rows, column, &tile, out);
                    } else {
                        store(&tile, rows, row, column, n, out);
                    }
                }
            }
        }
    });
}

fn load(tile: &mut Tile, rows: usize, row: usize, column: usize, n: usize, out: SharedOut) {
    let columns = NR.min(n - column);
    for (i, sums) in tile.iter_mut().enumerate().take(rows) {
        let start = (row + i) * n + column;
        // SAFETY: every tile belongs to one task.
        sums.0[..columns].copy_from_slice(unsafe { out.slice(start..start + columns) });
    }
}

/// Writes a tile to its place in `out`, a matrix of `n` columns.
pub fn store(tile: &Tile, rows: usize, row: usize, column: usize, n: usize, out: SharedOut) {
    let columns = NR.min(n - column);
    for (i, sums) in tile.iter().enumerate().take(rows) {
        let start = (row + i) * n + column;
        // SAFETY: every tile belongs to one task.
        unsafe { out.slice(start..start + columns) }.copy_from_slice(&sums.0[..columns]);
    }
}

/// A buffer of this thread's, kept between calls, of at least `len` floats with any content.
pub fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local!(static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });
    SCRATCH.with_borrow_mut(|buffer| {
        if buffer.len() < len {
            buffer.resize(len, 0.0);
        }
        work(&mut buffer[..len])
    })
}

/// The rate of this product on 2048³ on the current pool, in GFLOP/s: the best of five.
pub fn gemm_peak_gflops() -> f64 {
    const N: usize = 2048;
    let b = Packed::from_columns(N, N, |j| (0..N).map(move |i| (i ^ j) as f32 * 1e-3));
    let a = vec![1e-3; N * N];
    let mut out = vec![0.0; N * N];
    let flop = 2.0 * (N * N * N) as f64;
    let mut run = || {
        let start = std::time::Instant::now();
        gemm(&a, &b, &mut out, |row, rows, column, tile, out| store(tile, rows, row, column, N, out));
        flop / start.elapsed().as_secs_f64() * 1e-9
    };
    (0..5).map(|_| run()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    type Kernel = fn(usize, &[f32], usize, &[Row], &mut Tile, bool);

    /// Those that this CPU can run, beside the fastest.
    fn fast_kernels() -> Vec<Kernel> {
        let mut kernels: Vec<Kernel> = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if Isa::of_cpu().any(|isa| isa == Isa::Avx2) {
            // SAFETY: the CPU has the features, and the test's A is large enough for a whole tile.
            kernels.push(|rows, a, lda, b, tile, onto| unsafe { avx2::multiply(rows, a.as_ptr(), lda, b, tile, onto) });
        }
        kernels
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn micro_kernels_match_the_portable_one(rows in 1..=MR, k in 0..70_usize, gap in 0..3_usize, onto: bool, seed: u32) {
            let a = numbers(MR * (k + gap), seed);
            let b: Vec<Row> = numbers(k * NR, seed ^ 1).chunks_exact(NR).map(|r| Row(r.try_into().unwrap())).collect();
            let start: Vec<f32> = numbers(MR * NR, seed ^ 2);
            let mut tile = Tile::default();
            for (i, row) in tile.iter_mut().enumerate() {
                row.0.copy_from_slice(&start[i * NR..][..NR]);
            }
            let run = |kernel: Kernel| {
                let mut tile = tile;
                kernel(rows, &a, k + gap, &b, &mut tile, onto);
                tile.map(|row| row.0).concat()
            };
            let (plain, fast) = (run(multiply_portable), run(multiply));
            prop_assert!(fast.iter().zip(&plain).all(|(x, y)| (x - y).abs() < 1e-4));
            for kernel in fast_kernels() {
                prop_assert_eq!(&run(kernel)[..rows * NR], &fast[..rows * NR], "the bits depend on the CPU");
            }
        }

        #[test]
        fn gemm_matches_naive_loops(m in 1..140_usize, n in 1..70_usize, k in 1..60_usize, seed: u32) {
            prop_assert!(worst_error(m, n, k, seed) < 1e-4);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn rows_whole_pages_apart_match_naive_loops(m in 1..110_usize, n in 1..40_usize, pages in 1..4_usize, seed: u32) {
            prop_assert!(worst_error(m, n, 1024 * pages, seed) < 1e-3);
        }
    }

    #[test]
    fn long_sums_continue_where_they_paused() {
        assert!(worst_error(7, 19, 2 * KC + 5, 3) < 1e-3);
    }

    /// How far products of `m` by `k` and `k` by `n` numbers are off, in every instruction set.
    fn worst_error(m: usize, n: usize, k: usize, seed: u32) -> f64 {
        let (a, b) = (numbers(m * k, seed), numbers(k * n, seed ^ 1));
        let mut rows = vec![Row::default(); Packed::count(k, n)];
        let shared = SharedPacked::new(&mut rows, k, n);
        // SAFETY: nobody else has it.
        b.chunks_exact(n).enumerate().for_each(|(i, row)| unsafe { shared.set_row(i, row) });
        let packed = Packed::new(rows, k, n);
        let exact =
            |i: usize, j: usize| -> f64 { (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[p * n + j])).sum() };
        let exact: Vec<_> = (0..m).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| exact(i, j)).collect();
        let error = |isa: Isa| {
            let mut out = vec![0.0; m * n];
            isa.run(|| {
                gemm(&a, &packed, &mut out, |row, rows, column, tile, out| store(tile, rows, row, column, n, out));
            });
            out.iter().zip(&exact).map(|(&x, exact)| (f64::from(x) - exact).abs()).fold(0.0, f64::max)
        };
        Isa::of_cpu().map(error).fold(0.0, f64::max)
    }
}
