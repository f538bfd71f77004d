//! From noise to a latent in a few steps.

use candle_core::Tensor;

use crate::Result;
use crate::kernel::rms_norm;

/// The signal levels at which a sampler of `steps` evaluations asks: from 0 evenly towards 1.
pub fn levels(steps: usize) -> Vec<f32> {
    (0..steps).map(|i| i as f32 / steps as f32).collect()
}

/// Denoises `x` `[tokens, latent]`, at the first of rising signal levels, deterministically (DDIM, Song et al. 2021): x
/// moves on the line between its noise and the present prediction, `denoise` of x and the number of its level. The finished
/// latent is put back on its unit-RMS sphere.
pub fn sample(x: Tensor, levels: &[f32], denoise: impl Fn(&Tensor, usize) -> Result<Tensor>) -> Result<Tensor> {
    let mut x = x;
    for (i, &now) in levels.iter().enumerate() {
        let clean = denoise(&x, i)?;
        x = match levels.get(i + 1) {
            Some(after) => (&x + ((clean - &x)? * f64::from((after - now) / (1.0 - now)))?)?,
            None => clean,
        };
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
    fn levels_rise_from_noise() {
        assert_eq!(super::levels(4), [0.0, 0.25, 0.5, 0.75]);
    }
}
