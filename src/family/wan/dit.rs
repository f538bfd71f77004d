//! The transformer: attention to the block itself and to the frames that are remembered, then to the text, then an MLP;
//! the noise level modulates all but the text.

use std::borrow::Cow;
use std::collections::VecDeque;

use candle_core::{DType, Tensor};

use super::config::Config;
use crate::Result;
use crate::checkpoint::Vars;
use crate::family::layer::{Turns, norm, numbers, rms_scale};
use crate::kernel::{Activation, Array, FLOW_DIM, KeyValues, Linear, Past, activate, attention};

/// The network.
pub struct DiT {
    config: Config,
    patches: Linear,
    text: [Linear; 2],
    time: [Linear; 2],
    /// From the time to what modulates every layer.
    project: Linear,
    layers: Vec<Layer>,
    head: Linear,
    /// Added to the time, as rows: shift and scale.
    head_modulation: Tensor,
}

struct Layer {
    /// Added to the projected time, as rows: shift, scale and gate of the attention, then of the MLP.
    modulation: Tensor,
    own: Attention,
    text: Attention,
    /// Scale and shift before the text is seen.
    text_norm: Option<[Vec<f32>; 2]>,
    fc1: Linear,
    fc2: Linear,
}

struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    /// Scales of queries and keys.
    norms: Option<[Vec<f32>; 2]>,
}

/// What a noise level makes of the network.
pub struct Modulation {
    layers: Vec<Modulated>,
    /// Shift and scale.
    head: [Vec<f32>; 2],
}

struct Modulated {
    /// Shift and scale of the attention and of the MLP.
    by: [[Vec<f32>; 2]; 2],
    gates: [Tensor; 2],
}

/// What every layer sees of a text.
pub struct Heard(Vec<Words>);

struct Words {
    words: KeyValues,
    /// The rows that the text does not fill, all the same: one of them, which counts as many.
    rest: Option<KeyValues>,
}

/// Frames one after the other, and where they are.
#[derive(Clone, Copy)]
pub struct Place {
    /// Place in time of the first.
    pub start: u64,
    /// Number of frames.
    pub frames: usize,
    /// Tokens down.
    pub height: usize,
    /// Tokens across.
    pub width: usize,
}

impl Place {
    fn tokens(&self) -> usize {
        self.frames * self.height * self.width
    }
}

/// The frames that one layer remembers, the oldest first.
pub type Ring = VecDeque<KeyValues>;

impl DiT {
    /// Loads the network.
    ///
    /// # Errors
    /// As of [`Vars::tensor`].
    pub fn load(vars: &Vars, c: &Config) -> Result<Self> {
        let (dim, side) = (c.dim, c.side());
        // A patch is (line, column, channel) here and in the head, but (channel, line, column) in this weight.
        let patches = vars.tensor("patch_embedding.weight", &[dim, c.in_dim, 1, side, side])?.squeeze(2)?;
        let patches = patches.permute((0, 2, 3, 1))?.contiguous()?.flatten_from(1)?;
        let mlp = |name: &str, inputs| -> Result<[Linear; 2]> {
            let vars = vars.pp(name);
            Ok([vars.linear("0", inputs, dim)?, vars.linear("2", dim, dim)?])
        };
        Ok(Self {
            patches: Linear::new(&patches, Some(&vars.tensor("patch_embedding.bias", &[dim])?))?,
            text: mlp("text_embedding", c.text_dim)?,
            time: mlp("time_embedding", c.freq_dim)?,
            project: vars.linear("time_projection.1", dim, 6 * dim)?,
            layers: (0..c.num_layers).map(|i| Layer::load(&vars.pp("blocks").pp(i), c)).collect::<Result<_>>()?,
            head: vars.linear("head.head", dim, c.patch_len())?,
            head_modulation: vars.tensor("head.modulation", &[1, 2, dim])?.squeeze(0)?,
            config: c.clone(),
        })
    }

    /// The modulations by `times`, 0 (no noise) to 1000.
    pub fn modulations(&self, times: &[f32]) -> Result<Vec<Modulation>> {
        let (dim, half) = (self.config.dim, self.config.freq_dim / 2);
        let angles = times.iter().flat_map(|&time| {
            let angle = move |i: usize| f64::from(time) * 1e4f64.powf(-(i as f64) / half as f64);
            let part = move |f: fn(f64) -> f64| (0..half).map(move |i| f(angle(i)) as f32);
            part(f64::cos).chain(part(f64::sin))
        });
        let angles = Tensor::from_vec(angles.collect(), (times.len(), 2 * half), self.head_modulation.device())?;
        let time = self.time[1].forward(&self.time[0].forward(&angles, Activation::Silu)?, Activation::None)?;
        let projected = self.project.forward(&activate(&time, Activation::Silu)?, Activation::None)?;
        let one = |row: usize| {
            let projected = projected.get(row)?.reshape((6, dim))?;
            let layer = |layer: &Layer| {
                let rows = (&projected + &layer.modulation)?;
                let by = |first: usize| shift_and_scale(&rows.narrow(0, first, 2)?);
                Ok(Modulated { by: [by(0)?, by(3)?], gates: [rows.get(2)?, rows.get(5)?] })
            };
            let head = shift_and_scale(&self.head_modulation.broadcast_add(&time.get(row)?)?)?;
            Ok(Modulation { layers: self.layers.iter().map(layer).collect::<Result<_>>()?, head })
        };
        (0..times.len()).map(one).collect()
    }

    /// What the layers see of a text `[rows, text_dim]`. Rows that it does not fill are zero and are seen too.
    pub fn hear(&self, text: &Tensor) -> Result<Heard> {
        let (rows, width) = text.dims2()?;
        let empty = self.config.text_len.saturating_sub(rows);
        let zero = Tensor::zeros((empty.min(1), width), DType::F32, text.device())?;
        let text = Tensor::cat(&[text, &zero], 0)?;
        let text = self.text[1].forward(&self.text[0].forward(&text, Activation::Gelu)?, Activation::None)?;
        let layer = |layer: &Layer| {
            let keys = layer.text.keys(&text, self.config.eps)?;
            let values = layer.text.v.forward(&text, Activation::None)?;
            let part = |from: usize, count: usize, features: Option<&Tensor>| {
                let part = |x: &Tensor| x.narrow(0, from, count)?.contiguous();
                KeyValues::new(&part(&keys)?, &part(&values)?, self.config.num_heads, features)
            };
            if rows == 0 {
                return Ok(Words { words: part(0, 1, None)?, rest: None });
            }
            // A row that counts n times has a logit that is larger by ln n.
            let count = Tensor::new(&[[(empty as f32).ln(), 0.0, 0.0, 0.0]], text.device())?;
            let rest = (empty > 0).then(|| part(rows, 1, Some(&count))).transpose()?;
            Ok(Words { words: part(0, rows, None)?, rest })
        };
        Ok(Heard(self.layers.iter().map(layer).collect::<Result<_>>()?))
    }

    /// The velocity `[tokens, patch]` of frames x `[tokens, patch]`.
    pub fn forward(&self, x: &Tensor, by: &Modulation, text: &Heard, at: Place, past: &[Ring]) -> Result<Tensor> {
        let x = self.layers(x, by, text, at, past, None)?;
        let [shift, scale] = &by.head;
        Ok(self.head.forward(&norm(&x, scale, shift, self.config.eps)?, Activation::None)?)
    }

    /// The keys and values of frames x in every layer, one frame after the other, to be remembered.
    pub fn see(&self, x: &Tensor, by: &Modulation, text: &Heard, at: Place, past: &[Ring]) -> Result<Vec<Ring>> {
        let mut seen = Vec::with_capacity(self.layers.len());
        self.layers(x, by, text, at, past, Some(&mut seen))?;
        let tokens = at.height * at.width;
        let frame = |x: &Tensor, i: usize| x.narrow(0, i * tokens, tokens)?.contiguous();
        let ring = |[keys, values]: &[Tensor; 2]| {
            (0..at.frames).map(|i| self.remembered(&frame(keys, i)?, &frame(values, i)?)).collect()
        };
        seen.iter().map(ring).collect()
    }

    /// Keys and values of one frame as they are remembered.
    pub fn remembered(&self, keys: &Tensor, values: &Tensor) -> Result<KeyValues> {
        let features = Tensor::zeros((keys.dim(0)?, FLOW_DIM), DType::F32, keys.device())?;
        Ok(KeyValues::new(keys, values, self.config.num_heads, Some(&features))?)
    }

    fn layers(
        &self,
        x: &Tensor,
        by: &Modulation,
        text: &Heard,
        at: Place,
        past: &[Ring],
        mut seen: Option<&mut Vec<[Tensor; 2]>>,
    ) -> Result<Tensor> {
        let (c, turns) = (&self.config, turns(self.config.head_dim(), at));
        // Frames have no features to multiply with.
        let dims = [c.num_heads, at.tokens(), FLOW_DIM];
        let features = Array::new(&dims, x.device(), |out| out.fill(1.0))?;
        let past_of = |keys| Past { keys, features: Cow::Borrowed(&features) };
        let mut x = self.patches.forward(x, Activation::None)?;
        for (i, (layer, Modulated { by, gates })) in self.layers.iter().zip(&by.layers).enumerate() {
            let [[shift, scale], [mlp_shift, mlp_scale]] = by;
            let h = norm(&x, scale, shift, c.eps)?;
            let k = turns.apply(&layer.own.keys(&h, c.eps)?)?;
            let v = layer.own.v.forward(&h, Activation::None)?;
            let own = KeyValues::new(&k, &v, c.num_heads, None)?;
            if let Some(seen) = &mut seen {
                seen.push([k, v]);
                if seen.len() == self.layers.len() {
                    break;
                }
            }
            let past: Vec<_> = past[i].iter().map(past_of).collect();
            let q = turns.apply(&layer.own.queries(&h, c.eps)?)?;
            x = layer.own.out.forward_residual(&attention(&q, &own, &past)?, &x, &gates[0])?;

            let h = match &layer.text_norm {
                Some([scale, shift]) => norm(&x, scale, shift, c.eps)?,
                None => x.clone(),
            };
            let Words { words, rest } = &text.0[i];
            let rest: Vec<_> = rest.iter().map(past_of).collect();
            let told = attention(&layer.text.queries(&h, c.eps)?, words, &rest)?;
            x = (x + layer.text.out.forward(&told, Activation::None)?)?;

            let h = norm(&x, mlp_scale, mlp_shift, c.eps)?;
            x = layer.fc2.forward_residual(&layer.fc1.forward(&h, Activation::Gelu)?, &x, &gates[1])?;
        }
        Ok(x)
    }
}

impl Layer {
    fn load(vars: &Vars, c: &Config) -> Result<Self> {
        let dim = c.dim;
        let vector = |name: &str| Ok::<_, crate::Error>(numbers(&vars.tensor(name, &[dim])?)?);
        let text_norm =
            c.cross_attn_norm.then(|| Ok::<_, crate::Error>([vector("norm3.weight")?, vector("norm3.bias")?]));
        Ok(Self {
            modulation: vars.tensor("modulation", &[1, 6, dim])?.squeeze(0)?,
            own: Attention::load(&vars.pp("self_attn"), c)?,
            text: Attention::load(&vars.pp("cross_attn"), c)?,
            text_norm: text_norm.transpose()?,
            fc1: vars.linear("ffn.0", dim, c.ffn_dim)?,
            fc2: vars.linear("ffn.2", c.ffn_dim, dim)?,
        })
    }
}

impl Attention {
    fn load(vars: &Vars, c: &Config) -> Result<Self> {
        let linear = |name| vars.linear(name, c.dim, c.dim);
        let scale = |name| Ok::<_, crate::Error>(numbers(&vars.tensor(name, &[c.dim])?)?);
        let norms = c.qk_norm.then(|| Ok::<_, crate::Error>([scale("norm_q.weight")?, scale("norm_k.weight")?]));
        Ok(Self { q: linear("q")?, k: linear("k")?, v: linear("v")?, out: linear("o")?, norms: norms.transpose()? })
    }

    fn queries(&self, x: &Tensor, eps: f32) -> Result<Tensor> {
        let q = self.q.forward(x, Activation::None)?;
        Ok(match &self.norms {
            Some([scale, _]) => rms_scale(&q, scale, eps)?,
            None => q,
        })
    }

    fn keys(&self, x: &Tensor, eps: f32) -> Result<Tensor> {
        let k = self.k.forward(x, Activation::None)?;
        Ok(match &self.norms {
            Some([_, scale]) => rms_scale(&k, scale, eps)?,
            None => k,
        })
    }
}

fn shift_and_scale(rows: &Tensor) -> Result<[Vec<f32>; 2]> {
    Ok([numbers(&rows.get(0)?)?, numbers(&(rows.get(1)? + 1.0)?)?])
}

/// The first pairs of a head turn with time, the next third with the line, the last with the column.
fn turns(head_dim: usize, at: Place) -> Turns {
    let in_space = head_dim / 6;
    let in_time = head_dim / 2 - 2 * in_space;
    let mut angles = Vec::with_capacity(at.tokens() * head_dim / 2);
    for frame in 0..at.frames {
        for y in 0..at.height {
            for x in 0..at.width {
                let time = at.start as f64 + frame as f64;
                for (place, pairs) in [(time, in_time), (y as f64, in_space), (x as f64, in_space)] {
                    angles.extend((0..pairs).map(|i| place * 1e4f64.powf(-(i as f64) / pairs as f64)));
                }
            }
        }
    }
    Turns::new(angles, head_dim)
}
