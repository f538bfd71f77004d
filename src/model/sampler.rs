//! From noise to a latent in a few steps.

use smallvec::SmallVec;

use crate::Result;
use crate::kernel::{Array, rms_norm};

/// Signal levels, as many as are usual without a list on the heap.
pub type Levels = SmallVec<[f32; 8]>;

/// Signal levels at which a sampler of `steps` evaluations asks: from 0 evenly towards 1.
pub fn levels(steps: usize) -> Levels {
    (0..steps).map(|i| i as f32 / steps as f32).collect()
}

/// Those of a chunk after true frames: they lie later (timesteps shifted by 2, Esser et al. 2024), as most of it is foreseen. What
/// is drawn is nearer the truth, and what the louder noise brings in where nothing was foreseen keeps its edges. As in
/// `train/sampler.py`.
pub fn next_levels(steps: usize) -> Levels {
    levels(steps).into_iter().map(|level| 2.0 * level / (1.0 + level)).collect()
}

/// Those of a chunk without a past: they lie nearest where noise begins to take shape, which decides what is to be seen.
pub fn first_levels(steps: usize) -> Levels {
    levels(steps).into_iter().map(|level| level * level).collect()
}

/// Denoises `x` `[tokens, latent]`, at the first of rising signal levels, deterministically (DDIM, Song et al. 2021): x
/// moves on the line between its noise and the present prediction, `denoise` of x and the number of its level. The finished
/// latent is put back on its unit-RMS sphere.
pub fn sample(mut x: Array, levels: &[f32], denoise: impl Fn(&Array, usize) -> Result<Array>) -> Result<Array> {
    for (i, &now) in levels.iter().enumerate() {
        let clean = denoise(&x, i)?;
        x = match levels.get(i + 1) {
            Some(after) => towards(x, &clean, (after - now) / (1.0 - now))?,
            None => clean,
        };
    }
    Ok(rms_norm(&x)?)
}

/// The prediction with a prompt, moved on from the one without it (classifier-free guidance, Ho & Salimans 2022).
pub fn guided(with: &Array, without: Array, scale: f32) -> Result<Array> {
    towards(without, with, scale)
}

/// A latent as it is remembered: with a little noise, so that small errors of the past do not matter.
pub fn remembered(latent: Array, noise: &Array, context_noise: f32) -> Result<Array> {
    let (own, share) = ((1.0 - f64::from(context_noise)) as f32, context_noise);
    let run = |latent, noise| latent * own + noise * share;
    Ok(latent.zip(noise, run, |latent, noise| (latent * f64::from(own))? + (noise * f64::from(share))?)?)
}

/// The noise `[tokens, latent]` of a chunk with a past, `louder` by these shares the more of a token's cells is unknown, and the more
/// is far away and bare. `unseen` `[tokens, cells * 2]`, on the CPU, tells of each cell both, 0..1: at the size that was trained, what
/// comes into view stays empty.
pub fn louder(noise: &Array, unseen: &Array, louder: [f32; 2]) -> Result<Array> {
    let ((tokens, latent), (known_of, numbers)) = (noise.dims2()?, unseen.dims2()?);
    if known_of != tokens || numbers % 2 != 0 {
        return Err(candle_core::Error::msg(format!("{tokens} tokens cannot be unseen as {:?}", unseen.dims())).into());
    }
    let factors = Array::new(noise.dims(), noise.device(), |out| {
        for (out, unseen) in out.chunks_exact_mut(latent).zip(unseen.chunks_exact(numbers)) {
            let sum = unseen.chunks_exact(2).map(|cell| cell[0] * louder[0] + cell[1] * louder[1]).sum::<f32>();
            out.fill(1.0 + sum / (numbers / 2) as f32);
        }
    })?;
    Ok(factors.zip(noise, |factor, noise| factor * noise, |factor, noise| factor * noise)?)
}

/// `x`, so far towards `y`.
fn towards(x: Array, y: &Array, far: f32) -> Result<Array> {
    Ok(x.zip(y, |x, y| x + (y - x) * far, |x, y| x + ((y - x)? * f64::from(far))?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn levels_rise_from_noise() {
        assert_eq!(levels(4)[..], [0.0, 0.25, 0.5, 0.75]);
        assert_eq!(next_levels(4)[..], [0.0, 0.4, 2.0 / 3.0, 1.5 / 1.75]);
        assert_eq!(first_levels(4)[..], [0.0, 0.0625, 0.25, 0.5625]);
    }

    #[test]
    fn noise_is_louder_where_something_may_come() {
        let array = |dims: &[usize], numbers: &[f32]| {
            Array::new(dims, &Device::Cpu, |out| out.copy_from_slice(numbers)).unwrap()
        };
        let noise = array(&[2, 3], &[1.0, -2.0, 0.0, 1.0, -2.0, 0.0]);
        let unseen = array(&[2, 4], &[0.0, 0.0, 0.0, 0.5, 1.0, 0.0, 0.5, 0.0]);
        let loud = louder(&noise, &unseen, [2.0, 4.0]).unwrap();
        assert_eq!(loud[..], [2.0, -4.0, 0.0, 2.5, -5.0, 0.0]);
        assert!(louder(&noise, &array(&[3, 2], &[0.0; 6]), [1.0; 2]).is_err());
    }
}
