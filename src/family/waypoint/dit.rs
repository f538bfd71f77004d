//! The transformer: attention to the frame itself and to the frames that a layer remembers, then an MLP, both modulated by
//! the noise level; every few layers also hear of the controls.

use std::borrow::Cow;
use std::collections::VecDeque;

use candle_core::{D, DType, Tensor};

use super::config::Config;
use super::layout::Names;
use crate::Result;
use crate::checkpoint::Vars;
use crate::family::layer::{Turns, numbers, rms_modulate, rms_norm};
use crate::kernel::{Activation, Array, FLOW_DIM, KeyValues, Linear, Past, activate, attention};

/// Length of the embedding of a noise level.
pub const NOISE_DIM: usize = 512;

/// The network.
pub struct DiT {
    config: Config,
    patchify: Linear,
    unpatchify: Linear,
    noise: [Linear; 2],
    controls: [Linear; 2],
    /// From the conditioning to scale, shift and gate of the attention, then of the MLP: the same in all layers.
    ada: Vec<Linear>,
    out: Linear,
    layers: Vec<Layer>,
    /// Features of an attention bias that there is not.
    no_bias: Features,
}

struct Features {
    keys: Tensor,
    queries: Array,
}

struct Layer {
    /// Added to the conditioning.
    bias: Tensor,
    /// Queries by their place among those that share keys.
    q: Vec<Linear>,
    k: Linear,
    v: Linear,
    out: Linear,
    /// How much of the first layer's values is mixed in.
    first_values: Option<f64>,
    fusion: Option<Fusion>,
    fc1: Linear,
    fc2: Linear,
}

struct Fusion {
    x: Linear,
    controls: Linear,
    out: Linear,
}

/// What a noise level makes of the network.
pub struct Modulation {
    /// Of every layer.
    layers: Vec<[Tensor; 6]>,
    out: [Tensor; 2],
}

/// What the controls of a frame tell the layers that hear of them, each `[1, width]`.
pub struct Heard(Vec<Option<Tensor>>);

/// The frames that one layer remembers, the oldest first.
#[derive(Default)]
pub struct Ring(pub VecDeque<KeyValues>);

impl DiT {
    /// Loads the network.
    ///
    /// # Errors
    /// As of [`Vars::tensor`].
    pub fn load(vars: &Vars, config: &Config, names: Names) -> Result<Self> {
        let c = config;
        let (width, side, channels, patch) = (c.d_model, c.side(), c.channels, c.patch_len());
        // A patch is (line, column, channel) here, but (channel, line, column) in the weights.
        let patchify = vars.tensor("patchify.weight", &[width, channels, side, side])?;
        let patchify = patchify.permute((0, 2, 3, 1))?.contiguous()?.flatten_from(1)?;
        let (weight, bias) = if names.linear_unpatchify {
            let weight = vars.tensor("unpatchify.weight", &[patch, width])?.reshape((channels, side, side, width))?;
            let bias = vars.tensor("unpatchify.bias", &[patch])?.reshape((channels, side, side))?;
            (weight.permute((1, 2, 0, 3))?, bias.permute((1, 2, 0))?.contiguous()?.flatten_all()?)
        } else {
            let weight = vars.tensor("unpatchify.weight", &[width, channels, side, side])?;
            let bias = vars.tensor("unpatchify.bias", &[channels])?;
            (weight.permute((2, 3, 1, 0))?, bias.repeat(side * side)?)
        };
        let unpatchify = Linear::new(&weight.contiguous()?.reshape((patch, width))?, Some(&bias))?;
        let mlp = |name: &str, sizes: [usize; 3]| -> Result<[Linear; 2]> {
            let vars = vars.pp(name);
            Ok([vars.linear_no_bias("fc1", sizes[0], sizes[1])?, vars.linear_no_bias("fc2", sizes[1], sizes[2])?])
        };
        let mut ada: Vec<Tensor> = Vec::new();
        let mut layers = Vec::new();
        for i in 0..c.n_layers {
            let vars = vars.pp("transformer.blocks").pp(i);
            for (slot, name) in names.cond_proj(i).iter().enumerate() {
                let weight = vars.tensor(name, &[width, width])?;
                match ada.get(slot) {
                    None => ada.push(weight),
                    Some(first) => {
                        let error = (first - weight)?.abs()?.max_all()?.to_scalar::<f32>()?;
                        if error != 0.0 {
                            return Err(vars.error(name, "is not that of the first layer, which all share"));
                        }
                    }
                }
            }
            layers.push(Layer::load(&vars, c, i, names)?);
        }
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, vars.device());
        Ok(Self {
            patchify: Linear::new(&patchify, None)?,
            unpatchify,
            noise: mlp("denoise_step_emb.mlp", [NOISE_DIM, 4 * width, width])?,
            controls: mlp("ctrl_emb.mlp", [c.controls(), c.mlp_ratio * width, width])?,
            ada: ada.iter().map(|weight| vars.layer(weight, None)).collect::<Result<_>>()?,
            out: vars.linear_no_bias("out_norm.fc", width, 2 * width)?,
            layers,
            no_bias: Features {
                keys: zeros(&[c.tokens(), FLOW_DIM])?,
                queries: Array::zeros(&[c.kv_heads(), c.tokens(), FLOW_DIM], vars.device())?,
            },
            config: c.clone(),
        })
    }

    /// The modulations by noise levels `sigmas`.
    pub fn modulations(&self, sigmas: &[f32]) -> Result<Vec<Modulation>> {
        let half = NOISE_DIM / 2;
        let angles = sigmas.iter().flat_map(|&sigma| {
            let frequency = move |i: usize| 1e4f64.powf(-(i as f64) / (half - 1) as f64) as f32;
            let angle = move |i: usize| f64::from(sigma * 1000.0 * frequency(i));
            let scale = |x: f64| (x * std::f64::consts::SQRT_2) as f32;
            let part = move |f: fn(f64) -> f64| (0..half).map(move |i| scale(f(angle(i))));
            part(f64::sin).chain(part(f64::cos))
        });
        let x = Tensor::from_vec(angles.collect::<Vec<_>>(), (sigmas.len(), NOISE_DIM), self.no_bias.keys.device())?;
        let cond = self.noise[1].forward(&self.noise[0].forward(&x, Activation::Silu)?, Activation::None)?;
        let out = self.out.forward(&activate(&cond, Activation::Silu)?, Activation::None)?;
        let layers = self.layers.iter().map(|layer| {
            let cond = activate(&cond.broadcast_add(&layer.bias)?, Activation::Silu)?;
            self.ada.iter().map(|ada| Ok(ada.forward(&cond, Activation::None)?)).collect::<Result<Vec<_>>>()
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let one = |row: usize| {
            let six = |slots: &Vec<Tensor>| {
                let row = slots.iter().map(|slot| Ok(slot.get(row)?)).collect::<Result<Vec<_>>>()?;
                Ok(row.try_into().map_err(|_| candle_core::Error::Msg("six vectors modulate a layer".into()))?)
            };
            let row = out.get(row)?.chunk(2, D::Minus1)?;
            let out = [row[0].contiguous()?, row[1].contiguous()?];
            Ok(Modulation { layers: layers.iter().map(six).collect::<Result<_>>()?, out })
        };
        (0..sigmas.len()).map(one).collect()
    }

    /// What `controls` `[1, controls]` tell the layers.
    pub fn hear(&self, controls: &Tensor) -> Result<Heard> {
        let x = self.controls[0].forward(controls, Activation::Silu)?;
        let x = rms_norm(&self.controls[1].forward(&x, Activation::None)?)?;
        let hear =
            |layer: &Layer| layer.fusion.as_ref().map(|f| Ok(f.controls.forward(&x, Activation::None)?)).transpose();
        Ok(Heard(self.layers.iter().map(hear).collect::<Result<_>>()?))
    }

    /// The velocity `[tokens, patch]` of a frame x `[tokens, patch]` at the place `time`.
    pub fn forward(&self, x: &Tensor, by: &Modulation, heard: &Heard, time: u64, past: &[Ring]) -> Result<Tensor> {
        let x = self.layers(x, by, heard, time, past, None)?;
        let x = activate(&rms_modulate(&x, &by.out[1], &by.out[0])?, Activation::Silu)?;
        Ok(self.unpatchify.forward(&x, Activation::None)?)
    }

    /// The keys and values of a frame in every layer, to be remembered.
    pub fn see(&self, x: &Tensor, by: &Modulation, heard: &Heard, time: u64, past: &[Ring]) -> Result<Vec<KeyValues>> {
        let mut seen = Vec::with_capacity(self.layers.len());
        self.layers(x, by, heard, time, past, Some(&mut seen))?;
        Ok(seen)
    }

    /// Keys and values as they are remembered.
    pub fn remembered(&self, keys: &Tensor, values: &Tensor) -> Result<KeyValues> {
        Ok(KeyValues::new(keys, values, self.config.kv_heads(), Some(&self.no_bias.keys))?)
    }

    fn layers(
        &self,
        x: &Tensor,
        by: &Modulation,
        heard: &Heard,
        time: u64,
        past: &[Ring],
        mut seen: Option<&mut Vec<KeyValues>>,
    ) -> Result<Tensor> {
        let turns = turns(&self.config, time);
        let mut x = self.patchify.forward(x, Activation::None)?;
        let mut first_values = None;
        for (i, layer) in self.layers.iter().enumerate() {
            let [scale, shift, gate, mlp_scale, mlp_shift, mlp_gate] = &by.layers[i];
            let h = rms_modulate(&x, shift, scale)?;
            let k = turns.norm(&layer.k.forward(&h, Activation::None)?)?;
            let v = layer.v.forward(&h, Activation::None)?;
            let first = first_values.get_or_insert_with(|| v.clone());
            let v = match layer.first_values {
                Some(share) => (&v + ((&*first - &v)? * share)?)?,
                None => v,
            };
            let own = self.remembered(&k, &v)?;
            let past = past[i]
                .0
                .iter()
                .map(|keys| Past { keys, features: Cow::Borrowed(&self.no_bias.queries) })
                .collect::<Vec<_>>();
            let attend = |q: &Linear| attention(&turns.norm(&q.forward(&h, Activation::None)?)?, &own, &past);
            let last = i + 1 == self.layers.len();
            if !(last && seen.is_some()) {
                let attended = layer.q.iter().map(attend).collect::<Result<Vec<_>, _>>()?;
                x = layer.out.forward_residual(&Tensor::cat(&attended, 1)?, &x, gate)?;
                if let (Some(fusion), Some(heard)) = (&layer.fusion, &heard.0[i]) {
                    let h = fusion.x.forward(&rms_norm(&x)?, Activation::None)?.broadcast_add(heard)?;
                    x = (x + fusion.out.forward(&activate(&h, Activation::Silu)?, Activation::None)?)?;
                }
                let h = rms_modulate(&x, mlp_shift, mlp_scale)?;
                x = layer.fc2.forward_residual(&layer.fc1.forward(&h, Activation::Silu)?, &x, mlp_gate)?;
            }
            if let Some(seen) = &mut seen {
                seen.push(own);
            }
        }
        Ok(x)
    }
}

impl Layer {
    fn load(vars: &Vars, c: &Config, layer: usize, names: Names) -> Result<Self> {
        let (width, head, kv) = (c.d_model, c.head_dim(), c.kv_heads());
        let (kv_width, shared) = (kv * head, c.n_heads / kv);
        let attn = vars.pp("attn");
        // Head h of the queries goes with head h / shared of the keys.
        let q = attn.tensor("q_proj.weight", &[width, width])?.reshape((kv, shared, head, width))?;
        let q = |m| vars.layer(&q.narrow(1, m, 1)?.contiguous()?.reshape((kv_width, width))?, None);
        let out = attn.tensor("out_proj.weight", &[width, width])?.reshape((width, kv, shared, head))?;
        let out = out.permute((0, 2, 1, 3))?.contiguous()?.reshape((width, width))?;
        let first_values = c.value_residual.then(|| Ok::<_, crate::Error>(numbers(&attn.tensor("v_lamb", &[])?)?[0]));
        let fusion = c.sees_controls(layer).then(|| Fusion::load(&vars.pp("ctrl_mlpfusion"), width, names));
        let mlp = vars.pp(names.mlp());
        Ok(Self {
            bias: vars.tensor(names.bias_in(), &[width])?,
            q: (0..shared).map(q).collect::<Result<_>>()?,
            k: attn.linear_no_bias("k_proj", width, kv_width)?,
            v: attn.linear_no_bias("v_proj", width, kv_width)?,
            out: vars.layer(&out, None)?,
            first_values: first_values.transpose()?.map(f64::from),
            fusion: fusion.transpose()?,
            fc1: mlp.linear_no_bias("fc1", width, c.mlp_ratio * width)?,
            fc2: mlp.linear_no_bias("fc2", c.mlp_ratio * width, width)?,
        })
    }
}

impl Fusion {
    fn load(vars: &Vars, width: usize, names: Names) -> Result<Self> {
        if names.split {
            return Ok(Self {
                x: vars.linear_no_bias("fc1_x", width, width)?,
                controls: vars.linear_no_bias("fc1_c", width, width)?,
                out: vars.linear_no_bias("fc2", width, width)?,
            });
        }
        let joint = vars.tensor("mlp.fc1.weight", &[width, 2 * width])?;
        let half = |i| Ok::<_, crate::Error>(Linear::new(&joint.narrow(1, i * width, width)?.contiguous()?, None)?);
        Ok(Self { x: half(0)?, controls: half(1)?, out: vars.linear_no_bias("mlp.fc2", width, width)? })
    }
}

/// A quarter of a head's pairs turn with the column, a quarter with the line, half with time; neighbouring pairs alike.
fn turns(c: &Config, time: u64) -> Turns {
    let in_space = c.head_dim() / 16;
    let fastest = 0.8 * c.height.min(c.width) as f64 / 2.0;
    let spread = |i: usize| 1.0 + if in_space > 1 { (fastest - 1.0) * i as f64 / (in_space - 1) as f64 } else { 0.0 };
    let place = |at: usize, count: usize| (2 * at + 1) as f64 / count as f64 - 1.0;
    let in_time = c.head_dim() / 8;
    let mut angles = Vec::with_capacity(c.tokens() * c.head_dim() / 2);
    for token in 0..c.tokens() {
        for position in [place(token % c.width, c.width), place(token / c.width, c.height)] {
            let angle = |i| position * spread(i) * std::f64::consts::PI;
            angles.extend((0..in_space).map(angle).flat_map(|a| [a, a]));
        }
        let angle = |i: usize| time as f64 * 1e4f64.powf(-(i as f64) / in_time as f64);
        angles.extend((0..in_time).map(angle).flat_map(|a| [a, a]));
    }
    Turns::new(angles, c.head_dim())
}
