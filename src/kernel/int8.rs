//! Products of 8-bit numbers: weights rounded to a scale per output, inputs to a scale per row when they come.
//!
//! Sums are whole numbers, so every CPU finds the same ones. An input is kept as a number from 1 to 255, 128 more than it
//! means, because the multiplier takes one side without sign (`vpdpbusd`); what the 128 add is known and taken off.

use std::cell::RefCell;

use super::gemm::{MR, NR, Packed, Parts, Row, Tile};
use super::isa::Isa;
use super::math::{largest, simd};
use super::op::SharedOut;
use super::threads::{current_threads, for_each, for_each_mut};

/// Products that one instruction sums up.
const GROUP: usize = 4;
/// What an input is stored with beyond what it means.
const ZERO: u8 = 128;
/// The largest rounded number.
const LARGEST: f32 = 127.0;
/// Tiles handled by one task.
const TILES: usize = 8;

/// Four neighbouring rows of 32 columns.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Group([[i8; GROUP]; NR]);

/// Weights of `k` inputs and `n` outputs, in panels of 32 columns; inputs and columns beyond are zero.
pub struct Int8 {
    groups: Vec<Group>,
    /// What one step of each column means.
    scales: Vec<Row>,
    /// What [`ZERO`] adds to the sums of each column.
    excess: Vec<[i32; NR]>,
    k: usize,
    n: usize,
}

impl Int8 {
    /// Rounds each column to 255 steps.
    pub fn new(packed: &Packed) -> Self {
        let (k, n) = (packed.k, packed.n);
        let height = k.div_ceil(GROUP);
        let mut groups = vec![Group([[0; GROUP]; NR]); height * packed.panels()];
        let (mut scales, mut excess) = (vec![Row::default(); packed.panels()], vec![[0; NR]; packed.panels()]);
        for panel in 0..packed.panels() {
            let rows = packed.panel(panel);
            for (column, excess) in excess[panel].iter_mut().enumerate() {
                let most = rows.iter().map(|row| row.0[column].abs()).fold(0.0, f32::max);
                scales[panel].0[column] = most / LARGEST;
                let steps = if most > 0.0 { LARGEST / most } else { 0.0 };
                for (index, row) in rows.iter().enumerate() {
                    let value = (row.0[column] * steps).round_ties_even() as i8;
                    groups[panel * height + index / GROUP].0[column][index % GROUP] = value;
                    *excess += i32::from(ZERO) * i32::from(value);
                }
            }
        }
        Self { groups, scales, excess, k, n }
    }

    fn panel(&self, index: usize) -> &[Group] {
        let height = self.k.div_ceil(GROUP);
        &self.groups[index * height..][..height]
    }
}

/// The rounded inputs of one tile of rows; at 16 bits as well, where the CPU [`widens`].
#[derive(Default)]
struct Inputs {
    values: Vec<u8>,
    wide: Vec<i16>,
    scales: [f32; MR],
}

/// Whether this CPU multiplies best at 16 bits.
fn widens() -> bool {
    Isa::current() != Isa::Portable && !has_vnni()
}

fn has_vnni() -> bool {
    #[cfg(target_arch = "x86_64")]
    return Isa::current() == Isa::Avx512 && is_x86_feature_detected!("avx512vnni");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

simd! {
    fn widen_inputs(values: &[u8], wide: &mut [i16]) {
        for (wide, &value) in wide.iter_mut().zip(values) {
            *wide = i16::from(value);
        }
    }
}

simd! {
    fn widen_weights(groups: &[Group], wide: &mut [i16]) {
        for (wide, group) in wide.chunks_exact_mut(GROUP * NR).zip(groups) {
            for (wide, &value) in wide.iter_mut().zip(group.0.as_flattened()) {
                *wide = i16::from(value);
            }
        }
    }
}

simd! {
    /// Rounds a row to 255 steps, whose size it returns.
    fn round(row: &[f32], rounded: &mut [u8]) -> f32 {
        let most = largest(row);
        let steps = if most > 0.0 { LARGEST / most } else { 0.0 };
        for (rounded, value) in rounded.iter_mut().zip(row) {
            // Adding this rounds to the nearest whole number, which is left in the low bits.
            const WHOLE: f32 = 12_582_912.0;
            *rounded = ((value * steps + WHOLE).to_bits() as u8).wrapping_add(ZERO);
        }
        most / LARGEST
    }
}

/// Whole sums of a tile.
type Sums = [[i32; NR]; MR];

/// `sums = A B` for `rows` rows of A, each of `GROUP * b.len()` numbers, and one panel of B, whose `wide` is read where the
/// CPU [`widens`].
#[inline]
fn multiply(rows: usize, a: &Inputs, b: &[Group], wide: &[i16], sums: &mut Sums) {
    let length = rows * GROUP * b.len();
    assert!((1..=MR).contains(&rows) && a.values.len() >= length);
    assert!(!widens() || (a.wide.len() >= length && wide.len() >= GROUP * NR * b.len()));
    #[cfg(target_arch = "x86_64")]
    if has_vnni() {
        // SAFETY: the CPU has the features, and the assertions cover every element that is read.
        return unsafe { vnni::multiply(rows, a.values.as_ptr(), b, sums) };
    }
    #[cfg(target_arch = "x86_64")]
    if widens() {
        // SAFETY: as above.
        return unsafe { avx2::multiply(rows, b.len(), a.wide.as_ptr(), wide.as_ptr(), sums) };
    }
    multiply_portable(rows, &a.values, b, sums);
}

fn multiply_portable(rows: usize, a: &[u8], b: &[Group], sums: &mut Sums) {
    for (row, sums) in a.chunks_exact((GROUP * b.len()).max(1)).zip(sums).take(rows) {
        *sums = [0; NR];
        for (x, group) in row.chunks_exact(GROUP).zip(b) {
            for (sum, y) in sums.iter_mut().zip(&group.0) {
                *sum += x.iter().zip(y).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum::<i32>();
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod vnni {
    use super::{GROUP, Group, Sums};
    use crate::kernel::gemm::with_rows;
    use std::arch::x86_64::{
        _mm512_dpbusd_epi32, _mm512_load_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512,
    };

    /// # Safety
    /// The CPU needs AVX-512F and VNNI; `a` must be readable for `rows` rows of `GROUP * b.len()` bytes.
    pub unsafe fn multiply(rows: usize, a: *const u8, b: &[Group], sums: &mut Sums) {
        // SAFETY: promised by the caller.
        unsafe { with_rows!(rows, fixed(a, b, sums), 1 2 3 4 5 6 7 8 9 10 11 12) }
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn fixed<const M: usize>(a: *const u8, b: &[Group], out: &mut Sums) {
        let lda = GROUP * b.len();
        let mut sums = [[_mm512_setzero_si512(); 2]; M];
        // SAFETY: a group is 128 aligned bytes, a row of sums 32 numbers; A is readable by the caller's promise.
        unsafe {
            let mut column = a;
            for group in b {
                let start: *const i8 = group.0.as_ptr().cast();
                let y = [_mm512_load_si512(start.cast()), _mm512_load_si512(start.wrapping_add(64).cast())];
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = column.wrapping_add(i.wrapping_mul(lda)).cast::<i32>();
                    let x = _mm512_set1_epi32(x.read_unaligned());
                    for (sum, y) in sums.iter_mut().zip(y) {
                        *sum = _mm512_dpbusd_epi32(*sum, x, y);
                    }
                }
                column = column.wrapping_add(GROUP);
            }
            for (sums, out) in sums.iter().zip(out) {
                _mm512_storeu_si512(out.as_mut_ptr().cast(), sums[0]);
                _mm512_storeu_si512(out.as_mut_ptr().wrapping_add(16).cast(), sums[1]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{GROUP, NR, Sums};
    use crate::kernel::gemm::with_rows;
    use std::arch::x86_64::{
        _mm256_add_epi32, _mm256_hadd_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_permute4x64_epi64,
        _mm256_set1_epi64x, _mm256_setzero_si256, _mm256_storeu_si256,
    };

    /// Rows and columns whose sums fit the registers.
    const ROWS: usize = 6;
    const COLUMNS: usize = 8;

    /// As the others, at 16 bits: two products of 8 bits cannot overflow the sum, and widening costs nothing here.
    ///
    /// # Safety
    /// The CPU needs AVX2; `a` must be readable for `rows` rows of `GROUP * height` numbers, `b` for `GROUP * NR * height`.
    pub unsafe fn multiply(rows: usize, height: usize, a: *const i16, b: *const i16, sums: &mut Sums) {
        for first in (0..rows).step_by(ROWS) {
            let a = a.wrapping_add(first * GROUP * height);
            for column in (0..NR).step_by(COLUMNS) {
                let (b, sums) = (b.wrapping_add(column * GROUP), &mut sums[first..]);
                // SAFETY: promised by the caller.
                unsafe { with_rows!(ROWS.min(rows - first), few(height, a, b, sums, column), 1 2 3 4 5 6) }
            }
        }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn few<const M: usize>(height: usize, a: *const i16, b: *const i16, out: &mut [[i32; NR]], column: usize) {
        let mut sums = [[_mm256_setzero_si256(); 2]; M];
        let (mut a, mut b, lda) = (a, b, GROUP * height);
        // SAFETY: readable by the caller's promise; eight columns of a group are 32 numbers.
        unsafe {
            for _ in 0..height {
                let y = [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.wrapping_add(16).cast())];
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = a.wrapping_add(i.wrapping_mul(lda)).cast::<i64>();
                    let x = _mm256_set1_epi64x(x.read_unaligned());
                    for (sum, y) in sums.iter_mut().zip(y) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(x, y));
                    }
                }
                (a, b) = (a.wrapping_add(GROUP), b.wrapping_add(GROUP * NR));
            }
            for (sums, out) in sums.iter().zip(out) {
                // Each column's two sums are neighbours; adding them leaves columns 0 1 4 5 2 3 6 7.
                let sums = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(sums[0], sums[1]));
                _mm256_storeu_si256(out[column..][..COLUMNS].as_mut_ptr().cast(), sums);
            }
        }
    }
}

simd! {
    /// What whole sums mean.
    fn means(rows: usize, sums: &Sums, inputs: &[f32; MR], scales: &Row, excess: &[i32; NR], tile: &mut Tile) {
        for ((sums, input), row) in sums.iter().zip(inputs).zip(tile).take(rows) {
            for (column, value) in row.0.iter_mut().enumerate() {
                *value = (sums[column] - excess[column]) as f32 * (input * scales.0[column]);
            }
        }
    }
}

/// As [`gemm`](super::gemm::gemm), of A rounded to 8 bits.
pub fn gemm_int8<E>(a: &[f32], b: &Int8, out: &mut [f32], finish: E)
where
    E: Fn(usize, usize, usize, &Tile, SharedOut) + Send + Sync,
{
    thread_local!(static INPUTS: RefCell<Vec<Inputs>> = const { RefCell::new(Vec::new()) });
    thread_local!(static WEIGHTS: RefCell<Vec<i16>> = const { RefCell::new(Vec::new()) });
    let (k, n) = (b.k, b.n);
    let m = a.len().checked_div(k).unwrap_or(0);
    assert!(a.len() == m * k && out.len() == m * n);
    if m == 0 || n == 0 {
        return;
    }
    INPUTS.with_borrow_mut(|inputs| {
        let tiles = Parts::new(m, MR);
        inputs.resize_with(tiles.len().max(inputs.len()), Default::default);
        let inputs = &mut inputs[..tiles.len()];
        let stride = k.next_multiple_of(GROUP);
        for_each_mut(inputs, |index, inputs| {
            let (first, rows) = tiles.at(index);
            inputs.values.clear();
            inputs.values.resize(rows * stride, ZERO);
            for (row, rounded) in inputs.values.chunks_exact_mut(stride).enumerate() {
                inputs.scales[row] = round(&a[(first + row) * k..][..k], &mut rounded[..k]);
            }
            if widens() {
                inputs.wide.resize(rows * stride, 0);
                widen_inputs(&inputs.values, &mut inputs.wide);
            }
        });
        let inputs = &*inputs;
        let groups = Parts::new(tiles.len(), TILES);
        let wanted = (4 * current_threads()).min(m * n * k / 400_000).max(1);
        let panels = Parts::new(b.scales.len(), b.scales.len().div_ceil(wanted.div_ceil(groups.len())));
        let out = SharedOut::new(out);
        for_each(groups.len() * panels.len(), |task| {
            let (first_tile, count) = groups.at(task / panels.len());
            let (first_panel, width) = panels.at(task % panels.len());
            let (mut sums, mut tile) = ([[0; NR]; MR], Tile::default());
            WEIGHTS.with_borrow_mut(|wide| {
                for panel in first_panel..first_panel + width {
                    if widens() {
                        wide.resize(NR * stride, 0);
                        widen_weights(b.panel(panel), wide);
                    }
                    for index in first_tile..first_tile + count {
                        let ((row, rows), inputs) = (tiles.at(index), &inputs[index]);
                        multiply(rows, inputs, b.panel(panel), wide, &mut sums);
                        means(rows, &sums, &inputs.scales, &b.scales[panel], &b.excess[panel], &mut tile);
                        finish(row, rows, panel * NR, &tile, out);
                    }
                }
            });
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::gemm::store;
    use proptest::prelude::*;

    type Kernel = fn(usize, &[u8], &[Group], &mut Sums);

    /// Those that this CPU can run.
    fn kernels() -> Vec<Kernel> {
        let mut kernels: Vec<Kernel> = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if has_vnni() {
            // SAFETY: the CPU has the features, and the test's A is large enough.
            kernels.push(|rows, a, b, sums| unsafe { vnni::multiply(rows, a.as_ptr(), b, sums) });
        }
        #[cfg(target_arch = "x86_64")]
        if Isa::of_cpu().any(|isa| isa == Isa::Avx2) {
            kernels.push(|rows, a, b, sums| {
                let (mut wide_a, mut wide_b) = (vec![0; a.len()], vec![0; GROUP * NR * b.len()]);
                widen_inputs(a, &mut wide_a);
                widen_weights(b, &mut wide_b);
                // SAFETY: as above.
                unsafe { avx2::multiply(rows, b.len(), wide_a.as_ptr(), wide_b.as_ptr(), sums) }
            });
        }
        kernels
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_cpu_finds_the_same_sums(rows in 1..=MR, height in 0..40_usize, bytes in proptest::collection::vec(any::<u8>(), 173)) {
            let a: Vec<u8> = bytes.iter().cycle().take(rows * height * GROUP).copied().collect();
            let value = |at: usize| bytes[at % 171].wrapping_mul(31) as i8;
            let b: Vec<_> = (0..height)
                .map(|i| Group(std::array::from_fn(|j| std::array::from_fn(|l| value(i * 128 + j * 4 + l)))))
                .collect();
            let run = |kernel: Kernel| {
                let mut sums = [[0; NR]; MR];
                kernel(rows, &a, &b, &mut sums);
                sums
            };
            let plain = run(multiply_portable);
            for kernel in kernels() {
                prop_assert_eq!(run(kernel)[..rows].concat(), plain[..rows].concat());
            }
        }

        #[test]
        fn products_are_as_near_as_eight_bits_allow(m in 1..140_usize, n in 1..70_usize, k in 1..300_usize, seed: u32) {
            let number = |i: usize| (((i as u32).wrapping_mul(2_654_435_761) ^ seed) >> 8) as f32 / (1 << 23) as f32 - 1.0;
            let a: Vec<f32> = (0..m * k).map(number).collect();
            let b: Vec<f32> = (0..k * n).map(|i| number(i + 7_777_777)).collect();
            let packed = Packed::from_columns(k, n, |j| b[j..].iter().step_by(n).copied());
            let weights = Int8::new(&packed);
            let product = |isa: Isa| {
                let mut out = vec![0.0; m * n];
                isa.run(|| gemm_int8(&a, &weights, &mut out, |row, rows, column, tile, out| {
                    store(tile, rows, row, column, n, out);
                }));
                out
            };
            let out = product(Isa::Portable);
            for i in 0..m {
                for j in 0..n {
                    let exact: f32 = (0..k).map(|p| a[i * k + p] * b[p * n + j]).sum();
                    // Half a step of each factor, in every product.
                    let bound = k as f32 * (2.0 * 0.5 / LARGEST + 0.25 / (LARGEST * LARGEST)) + 1e-4;
                    prop_assert!((out[i * n + j] - exact).abs() < bound, "{} is not {exact}", out[i * n + j]);
                }
            }
            prop_assert!(Isa::of_cpu().all(|isa| product(isa) == out), "the bits depend on the CPU");
        }
    }

    #[test]
    fn nothing_stays_nothing() {
        let packed = Packed::from_columns(3, 2, |j| std::iter::repeat_n(j as f32, 3));
        let mut out = [1.0; 4];
        gemm_int8(&[0.0, 0.0, 0.0, 1.0, -1.0, 2.0], &Int8::new(&packed), &mut out, |row, rows, column, tile, out| {
            store(tile, rows, row, column, 2, out);
        });
        assert_eq!(&out[..3], [0.0; 3]);
        assert!((out[3] - 2.0).abs() < 0.03);
    }
}
