//! Products of 8-bit numbers: weights rounded to a scale per output, inputs to a scale per row when they come.
//!
//! Sums are whole numbers, so every CPU finds the same ones. An input is kept as a number from 1 to 255, 128 more than it
//! means, because the multiplier takes one side without sign (`vpdpbusd`); what the 128 add is known and taken off. The weights
//! of two neighbouring inputs are 128 together at most, so that their products fit the 16 bits that AVX2 sums them in.

use std::cell::RefCell;

use super::gemm::{MR, NR, Packed, Parts, Row, Tile};
#[cfg(target_arch = "x86_64")]
use super::isa::Isa;
use super::math::{largest, simd};
use super::op::SharedOut;
use super::threads::{current_threads, for_each, for_each_mut};

/// Products that one instruction sums up.
const GROUP: usize = 4;
/// What an input is stored with beyond what it means.
const ZERO: u8 = 128;
/// The largest rounded input; of weights, two neighbours share as much before they are rounded.
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
    /// Rounds each column to as many steps as its neighbours allow.
    pub fn new(packed: &Packed) -> Self {
        let (k, n) = (packed.k, packed.n);
        let height = k.div_ceil(GROUP);
        let mut groups = vec![Group([[0; GROUP]; NR]); height * packed.panels()];
        let (mut scales, mut excess) = (vec![Row::default(); packed.panels()], vec![[0; NR]; packed.panels()]);
        for panel in 0..packed.panels() {
            let rows = packed.panel(panel);
            for (column, excess) in excess[panel].iter_mut().enumerate() {
                let pairs = rows.chunks(2).map(|pair| pair.iter().map(|row| row.0[column].abs()).sum());
                let most = pairs.fold(0.0, f32::max);
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

/// The rounded inputs of one tile of rows.
#[derive(Default)]
struct Inputs {
    values: Vec<u8>,
    scales: [f32; MR],
}

#[cfg(target_arch = "x86_64")]
fn has_vnni() -> bool {
    Isa::current() == Isa::Avx512 && is_x86_feature_detected!("avx512vnni")
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

/// `sums = A B` for `rows` rows of A, each of `GROUP * b.len()` numbers, and one panel of B.
#[inline]
fn multiply(rows: usize, a: &[u8], b: &[Group], sums: &mut Sums) {
    assert!((1..=MR).contains(&rows) && a.len() >= rows * GROUP * b.len());
    #[cfg(target_arch = "x86_64")]
    match Isa::current() {
        Isa::Portable => {}
        // SAFETY: the CPU has the features, and the assertion covers every element that is read.
        _ if has_vnni() => return unsafe { vnni::multiply(rows, a.as_ptr(), b, sums) },
        // SAFETY: as above.
        _ => return unsafe { avx2::multiply(rows, a.as_ptr(), b, sums) },
    }
    multiply_portable(rows, a, b, sums);
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
    use super::{GROUP, Group, NR, Sums};
    use crate::kernel::gemm::with_rows;
    use std::arch::x86_64::{
        _mm256_add_epi32, _mm256_load_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi16,
        _mm256_set1_epi32, _mm256_setzero_si256, _mm256_storeu_si256,
    };

    /// Rows and columns whose sums fit the registers.
    const ROWS: usize = 6;
    const COLUMNS: usize = 16;

    /// As the others; the sum of two products must fit 16 bits.
    ///
    /// # Safety
    /// The CPU needs AVX2; `a` must be readable for `rows` rows of `GROUP * b.len()` bytes.
    pub unsafe fn multiply(rows: usize, a: *const u8, b: &[Group], sums: &mut Sums) {
        // A high tile in two halves, because a low remainder would wait for its own sums.
        let first = if rows > ROWS { rows.div_ceil(2) } else { rows };
        let (upper, lower) = sums.split_at_mut(first);
        for column in (0..NR).step_by(COLUMNS) {
            // SAFETY: promised by the caller.
            unsafe {
                with_rows!(first, few(a, b, upper, column), 1 2 3 4 5 6);
                if rows > first {
                    let a = a.wrapping_add(first * GROUP * b.len());
                    with_rows!(rows - first, few(a, b, lower, column), 1 2 3 4 5 6);
                }
            }
        }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn few<const M: usize>(a: *const u8, b: &[Group], out: &mut [[i32; NR]], column: usize) {
        let lda = GROUP * b.len();
        let ones = _mm256_set1_epi16(1);
        let mut sums = [[_mm256_setzero_si256(); 2]; M];
        // SAFETY: 16 columns of a group are 64 aligned bytes; A is readable by the caller's promise.
        unsafe {
            let mut values = a;
            for group in b {
                let start = group.0[column..][..COLUMNS].as_ptr();
                let y = [_mm256_load_si256(start.cast()), _mm256_load_si256(start.wrapping_add(8).cast())];
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = values.wrapping_add(i.wrapping_mul(lda)).cast::<i32>();
                    let x = _mm256_set1_epi32(x.read_unaligned());
                    for (sum, y) in sums.iter_mut().zip(y) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), ones));
                    }
                }
                values = values.wrapping_add(GROUP);
            }
            for (sums, out) in sums.iter().zip(out) {
                let out: *mut i32 = out[column..][..COLUMNS].as_mut_ptr();
                _mm256_storeu_si256(out.cast(), sums[0]);
                _mm256_storeu_si256(out.wrapping_add(8).cast(), sums[1]);
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
            for panel in first_panel..first_panel + width {
                for index in first_tile..first_tile + count {
                    let ((row, rows), inputs) = (tiles.at(index), &inputs[index]);
                    multiply(rows, &inputs.values, b.panel(panel), &mut sums);
                    means(rows, &sums, &inputs.scales, &b.scales[panel], &b.excess[panel], &mut tile);
                    finish(row, rows, panel * NR, &tile, out);
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Isa;
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
            // SAFETY: as above.
            kernels.push(|rows, a, b, sums| unsafe { avx2::multiply(rows, a.as_ptr(), b, sums) });
        }
        kernels
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_cpu_finds_the_same_sums(rows in 1..=MR, height in 0..40_usize, bytes in proptest::collection::vec(any::<u8>(), 173)) {
            let a: Vec<u8> = bytes.iter().cycle().take(rows * height * GROUP).copied().collect();
            // Any weight, and of 128 what it leaves to its neighbour.
            let pair = |at: usize| {
                let one = bytes[at % 171].wrapping_mul(31) as i8;
                let other = (128 - i16::from(one).abs()).min(127) as i8;
                if bytes[at % 167] % 2 == 0 { [one, other] } else { [other, one.wrapping_neg()] }
            };
            let group = |at: usize| [pair(at), pair(at + 1)].concat().try_into().expect("four weights");
            let b: Vec<_> = (0..height).map(|i| Group(std::array::from_fn(|j| group(i * 64 + j * 2)))).collect();
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
                    // Half a step of each factor, in every product; two weights of up to 1 share the steps.
                    let bound = k as f32 * (3.0 * 0.5 / LARGEST + 2.0 * 0.25 / (LARGEST * LARGEST)) + 1e-4;
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
