//! The diffusion transformer: every block attends within a frame, then over time.

use candle_core::{D, Tensor};

use super::config::DitConfig;
use super::schedule::CONTEXT_LEVEL;
use crate::Result;
use crate::checkpoint::Vars;
use crate::family::layer::{EPS, Turns, attend_in_time, norm, numbers};
use crate::kernel::{Activation, KeyValues, Linear, activate, attention};

const LEVEL_DIM: usize = DitConfig::LEVEL_DIM;

/// The network.
pub struct DiT {
    config: DitConfig,
    embed: Linear,
    level: [Linear; 2],
    action: Linear,
    /// Of every block the half that attends within a frame and the one that attends over time.
    halves: Vec<[Half; 2]>,
    ada: Linear,
    head: Linear,
    in_space: Turns,
}

/// Half a block: attention, then an MLP.
struct Half {
    qkv: Linear,
    out: Linear,
    fc1: Linear,
    fc2: Linear,
    ada: Linear,
}

/// What a noise level and an action make of the network.
#[derive(Clone)]
pub struct Modulation {
    halves: Vec<[[Vector; 6]; 2]>,
    last: [Vector; 2],
}

/// `[width]`. Scales are stored with their 1 added.
type Vector = Tensor;

/// Keys and values `[tokens, width]` of a frame in every block.
pub type Seen = Vec<[Tensor; 2]>;

impl DiT {
    /// Loads the network.
    ///
    /// # Errors
    /// As of [`Vars::tensor`].
    pub fn load(vars: &Vars, config: &DitConfig) -> Result<Self> {
        let (width, side, channels) = (config.hidden_size, config.patch_size, config.in_channels);
        let half = |vars: Vars, part: char| -> Result<Half> {
            let attn = vars.pp(format!("{part}_attn"));
            let mlp = vars.pp(format!("{part}_mlp"));
            Ok(Half {
                qkv: attn.linear_no_bias("to_qkv", width, 3 * width)?,
                out: attn.linear("to_out", width, width)?,
                fc1: mlp.linear("fc1", width, config.mlp())?,
                fc2: mlp.linear("fc2", config.mlp(), width)?,
                ada: vars.linear(&format!("{part}_adaLN_modulation.1"), width, 6 * width)?,
            })
        };
        let block = |i| Ok([half(vars.pp("blocks").pp(i), 's')?, half(vars.pp("blocks").pp(i), 't')?]);
        let proj = vars.pp("x_embedder.proj");
        // A patch is (line, column, channel) here and in the head, but (channel, line, column) in this weight.
        let weight = proj.tensor("weight", &[width, channels, side, side])?.permute((0, 2, 3, 1))?.flatten_from(1)?;
        let embed = Linear::new(&weight, Some(&proj.tensor("bias", &[width])?))?;
        let [height, across] = [config.input_h / side, config.input_w / side];
        let head_dim = width / config.num_heads;
        Ok(Self {
            embed,
            level: [vars.linear("t_embedder.mlp.0", LEVEL_DIM, width)?, vars.linear("t_embedder.mlp.2", width, width)?],
            action: vars.linear("external_cond", config.external_cond_dim, width)?,
            halves: (0..config.depth).map(block).collect::<Result<_>>()?,
            ada: vars.linear("final_layer.adaLN_modulation.1", width, 2 * width)?,
            head: vars.linear("final_layer.linear", width, config.patch())?,
            in_space: Turns::in_space(height, across, head_dim, head_dim / 4, 128.0),
            config: config.clone(),
        })
    }

    /// The modulations by `action` `[1, actions]` and each of the noise `levels`.
    pub fn modulations(&self, levels: &[usize], action: &Tensor) -> Result<Vec<Modulation>> {
        let angles = levels.iter().flat_map(|&level| {
            let angle = move |i: usize| {
                let exponent = -(1e4f64.ln() as f32) * i as f32 / (LEVEL_DIM / 2) as f32;
                f64::from(level as f32 * f64::from(exponent).exp() as f32)
            };
            let half = || (0..LEVEL_DIM / 2).map(angle);
            half().map(|a| a.cos() as f32).chain(half().map(|a| a.sin() as f32))
        });
        let embedding = Tensor::from_vec(angles.collect::<Vec<_>>(), (levels.len(), LEVEL_DIM), action.device())?;
        let level = self.level[1].forward(&self.level[0].forward(&embedding, Activation::Silu)?, Activation::None)?;
        let cond = activate(&level.broadcast_add(&self.action.forward(action, Activation::None)?)?, Activation::Silu)?;
        let vectors = |ada: &Linear| ada.forward(&cond, Activation::None);
        let halves = self.halves.iter().map(|[space, time]| Ok([vectors(&space.ada)?, vectors(&time.ada)?]));
        let (halves, last) = (halves.collect::<Result<Vec<_>>>()?, vectors(&self.ada)?);
        let one = |row: usize| {
            let halves = halves.iter().map(|[space, time]| Ok([split(space, row)?, split(time, row)?]));
            Ok(Modulation { halves: halves.collect::<Result<_>>()?, last: split(&last, row)? })
        };
        (0..levels.len()).map(one).collect()
    }

    /// The modulation of a frame of the past.
    pub fn past(&self, action: &Tensor) -> Result<Modulation> {
        Ok(self.modulations(&[CONTEXT_LEVEL], action)?.remove(0))
    }

    /// The prediction `[tokens, patch]` for a frame x `[tokens, patch]` at `position`, after the frames `past`.
    pub fn forward(&self, x: &Tensor, by: &Modulation, position: u64, past: &[Seen]) -> Result<Tensor> {
        let x = self.blocks(x, by, position, past, None)?;
        let [shift, scale] = &by.last;
        Ok(self.head.forward(&norm(&x, &numbers(scale)?, &numbers(shift)?, EPS)?, Activation::None)?)
    }

    /// What later frames see of a frame x `[tokens, patch]` at `position`, after the frames `past`.
    pub fn see(&self, x: &Tensor, by: &Modulation, position: u64, past: &[Seen]) -> Result<Seen> {
        let mut seen = Seen::with_capacity(self.halves.len());
        self.blocks(x, by, position, past, Some(&mut seen))?;
        Ok(seen)
    }

    /// The tokens after all blocks. Of a frame to be `seen`, nothing is computed after the last keys and values.
    fn blocks(
        &self,
        x: &Tensor,
        by: &Modulation,
        position: u64,
        past: &[Seen],
        mut seen: Option<&mut Seen>,
    ) -> Result<Tensor> {
        let heads = self.config.num_heads;
        let in_time = Turns::in_time(position, self.config.hidden_size / heads);
        let mut x = self.embed.forward(x, Activation::None)?;
        for (layer, ([space, time], [by_space, by_time])) in self.halves.iter().zip(&by.halves).enumerate() {
            let [q, k, v] = space.heads(&x, by_space, &self.in_space)?;
            let attended = attention(&q, &KeyValues::new(&k, &v, heads, None)?, &[])?;
            x = space.finish(&x, &attended, by_space)?;

            let [q, k, v] = time.heads(&x, by_time, &in_time)?;
            let own = [k, v];
            if let Some(seen) = &mut seen {
                seen.push(own.clone());
                if seen.len() == self.halves.len() {
                    break;
                }
            }
            let all: Vec<_> = past.iter().map(|frame| &frame[layer]).chain([&own]).collect();
            x = time.finish(&x, &attend_in_time(&q, &all, heads)?, by_time)?;
        }
        Ok(x)
    }
}

impl Half {
    /// Queries, keys and values.
    fn heads(&self, x: &Tensor, by: &[Vector; 6], turns: &Turns) -> Result<[Tensor; 3]> {
        let h = norm(x, &numbers(&by[1])?, &numbers(&by[0])?, EPS)?;
        Ok(turns.split(&self.qkv.forward(&h, Activation::None)?)?)
    }

    /// What is after the attention.
    fn finish(&self, x: &Tensor, attended: &Tensor, by: &[Vector; 6]) -> Result<Tensor> {
        let x = self.out.forward_residual(attended, x, &by[2])?;
        let h = norm(&x, &numbers(&by[4])?, &numbers(&by[3])?, EPS)?;
        let h = self.fc1.forward(&h, Activation::Gelu)?;
        Ok(self.fc2.forward_residual(&h, &x, &by[5])?)
    }
}

/// The vectors in one row: shift, scale and gate, twice, or shift and scale.
fn split<const N: usize>(rows: &Tensor, row: usize) -> Result<[Vector; N]> {
    let parts = rows.get(row)?.chunk(N, D::Minus1)?;
    let part = |(i, part): (usize, Tensor)| if i % 3 == 1 { part + 1.0 } else { part.contiguous() };
    let parts = parts.into_iter().enumerate().map(part).collect::<Result<Vec<_>, _>>()?;
    Ok(parts.try_into().map_err(|_| candle_core::Error::Msg("a modulation of another width".into()))?)
}
