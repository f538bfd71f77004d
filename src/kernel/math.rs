//! Elementwise functions that vectorise, and the dispatch between [instruction sets](super::Isa).

/// Defines a function that is compiled for every [`Isa`](super::Isa) and picks at run time.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                use $crate::kernel::Isa;
                match Isa::current() {
                    // SAFETY: the CPU has what is current.
                    Isa::Avx512 => unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    Isa::Avx2 => unsafe { avx2($($arg),*) },
                    Isa::Portable => portable($($arg),*),
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            portable($($arg),*)
        }
    };
}
pub(crate) use simd;

/// Number of partial sums in a reduction: enough to fill the vector units.
const LANES: usize = 16;

/// e^x to about 1e-7 relative; below -87 it is about 1e-38, above 88 it stays finite.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Cody-Waite reduction x = n ln 2 + r, then the Taylor polynomial of e^r on |r| < 0.35.
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves n in the low bits of the mantissa
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// x / (1 + e^-x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// The tanh approximation of GELU, as a sigmoid: (1 + tanh u) / 2 = 1 / (1 + e^-2u).
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
    x / (1.0 + exp(-TWICE_SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
}

/// The Gaussian error linear unit itself. The complement of the error function is Abramowitz and Stegun's 7.1.26, off by
/// 1.5e-7 at most.
#[inline(always)]
pub fn gelu_erf(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = 1.061_405_4;
    let p = p * t - 1.453_152;
    let p = p * t + 1.421_413_7;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    let tail = 0.5 * p * t * exp(-z * z);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

#[inline(always)]
pub fn sum_squares(x: &[f32]) -> f32 {
    reduce(x, 0.0, |sum, v| sum + v * v, |a, b| a + b)
}

#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    reduce(x, f32::NEG_INFINITY, larger, larger)
}

/// The largest magnitude, 0 of nothing.
#[inline(always)]
pub fn largest(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    reduce(x, 0.0, |most, v| larger(most, v.abs()), larger)
}

#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    reduce(x, 0.0, |sum, v| sum + v, |a, b| a + b)
}

/// A reduction in [`LANES`] interleaved parts, which are then folded.
#[inline(always)]
fn reduce(x: &[f32], start: f32, step: impl Fn(f32, f32) -> f32, fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = step(*lane, v);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(rest) {
        *lane = step(*lane, v);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = fold(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_to_1e_6() {
        for i in -86_000..=86_000 {
            let x = i as f32 * 1e-3;
            let (ours, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours / exact - 1.0).abs() < 1e-6, "exp({x}) = {ours}, not {exact}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(1e9).is_finite());
    }

    #[test]
    fn activations_match_their_definitions() {
        for i in -1000..=1000 {
            let x = i as f32 * 0.02;
            let v = f64::from(x);
            let tanh = (0.797_884_560_8 * (v + 0.044_715 * v.powi(3))).tanh();
            assert!((f64::from(gelu(x)) - 0.5 * v * (1.0 + tanh)).abs() < 2e-6 * (1.0 + v.abs()));
            assert!((f64::from(silu(x)) - v / (1.0 + (-v).exp())).abs() < 2e-6 * (1.0 + v.abs()));
        }
    }
}
