//! From noise to a latent in a few steps.

use candle_core::Tensor;

use crate::Result;
use crate::kernel::rms_norm;

/// Signal levels of a sampler of `steps` evaluations, each with the one that follows: from 0 evenly to 1.
fn levels(steps: usize) -> impl Iterator<Item = (f64, f64)> {
    let at = move |i: usize| i as f64 / steps as f64;
    (0..steps).map(move |i| (at(i), at(i + 1)))
}

/// Denoises `noise` `[tokens, latent]` deterministically (DDIM, Song et al. 2021): x moves on the line between its noise
/// and the present prediction, `denoise` of x and its signal level. The finished latent is put back on its unit-RMS
/// sphere.
pub fn sample(noise: &Tensor, steps: usize, denoise: impl Fn(&Tensor, f32) -> Result<Tensor>) -> Result<Tensor> {
    let mut x = noise.clone();
    for (now, after) in levels(steps) {
        let clean = denoise(&x, now as f32)?;
        x = if after < 1.0 { (&x + ((clean - &x)? * ((after - now) / (1.0 - now)))?)? } else { clean };
    }
    Ok(rms_norm(&x)?)
}

/// The prediction with a prompt, moved on from the one without it (classifier-free guidance, Ho & Salimans 2022).
pub fn guided(with: &Tensor, without: &Tensor, scale: f32) -> Result<Tensor> {
    Ok((without + ((with - without)? * f64::from(scale))?)?)
}

/// A latent as it is remembered: with a little noise, so that small errors of the past do not matter.
pub fn remembered(latent: &Tensor, noise: &Tensor, context_noise: f32) -> Result<Tensor> {
    let level = f64::from(context_noise);
    Ok(((latent * (1.0 - level))? + (noise * level)?)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn levels_rise_from_noise_to_clean() {
        let levels: Vec<_> = super::levels(3).collect();
        assert_eq!(levels, [(0.0, 1.0 / 3.0), (1.0 / 3.0, 2.0 / 3.0), (2.0 / 3.0, 1.0)]);
    }
}
