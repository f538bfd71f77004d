//! The names and shapes of all tensors, as the reference saves them.

use super::config::{DitConfig, VaeConfig, mlp};
use crate::checkpoint::{Layout, Size};

/// What decides the shapes of the DiT.
pub const DIT_SIZES: &[Size<DitConfig>] = &[
    ("dit.hidden_size", |c| c.hidden_size *= 2),
    ("dit.mlp_ratio", |c| c.mlp_ratio *= 2.0),
    ("dit.in_channels", |c| c.in_channels *= 2),
    ("dit.patch_size", |c| c.patch_size *= 2),
    ("dit.external_cond_dim", |c| c.external_cond_dim *= 2),
];
/// What decides those of the autoencoder.
pub const VAE_SIZES: &[Size<VaeConfig>] = &[
    ("vae.enc_dim", |c| c.enc_dim *= 2),
    ("vae.dec_dim", |c| c.dec_dim *= 2),
    ("vae.mlp_ratio", |c| c.mlp_ratio *= 2.0),
    ("vae.latent_dim", |c| c.latent_dim *= 2),
    ("vae.use_variational", |c| c.use_variational = !c.use_variational),
    ("vae.patch_size", |c| c.patch_size *= 2),
];

/// A layer of `inputs` and `outputs` with a bias.
fn linear(layout: &mut Layout, name: String, inputs: usize, outputs: usize) {
    layout.insert(format!("{name}.weight"), vec![outputs, inputs]);
    layout.insert(format!("{name}.bias"), vec![outputs]);
}

impl DitConfig {
    /// The tensors of the DiT, but for the rotary tables.
    pub fn layout(&self) -> Layout {
        let (width, side) = (self.hidden_size, self.patch_size);
        let mut layout = Layout::new();
        layout.insert("x_embedder.proj.weight".into(), vec![width, self.in_channels, side, side]);
        layout.insert("x_embedder.proj.bias".into(), vec![width]);
        let mut add = |name: String, inputs, outputs| linear(&mut layout, name, inputs, outputs);
        add("t_embedder.mlp.0".into(), Self::LEVEL_DIM, width);
        add("t_embedder.mlp.2".into(), width, width);
        add("external_cond".into(), self.external_cond_dim, width);
        add("final_layer.adaLN_modulation.1".into(), width, 2 * width);
        add("final_layer.linear".into(), width, self.patch());
        for half in (0..self.depth).flat_map(|i| ['s', 't'].map(|half| format!("blocks.{i}.{half}"))) {
            add(format!("{half}_attn.to_out"), width, width);
            add(format!("{half}_mlp.fc1"), width, self.mlp());
            add(format!("{half}_mlp.fc2"), self.mlp(), width);
            add(format!("{half}_adaLN_modulation.1"), width, 6 * width);
        }
        for half in (0..self.depth).flat_map(|i| ['s', 't'].map(|half| format!("blocks.{i}.{half}"))) {
            layout.insert(format!("{half}_attn.to_qkv.weight"), vec![3 * width, width]);
        }
        layout
    }
}

impl VaeConfig {
    /// The tensors of the autoencoder.
    pub fn layout(&self) -> Layout {
        let (side, latent) = (self.patch_size, self.latent_dim);
        let mut layout = Layout::new();
        layout.insert("patch_embed.proj.weight".into(), vec![self.enc_dim, 3, side, side]);
        layout.insert("patch_embed.proj.bias".into(), vec![self.enc_dim]);
        let mut add = |name: String, inputs, outputs| linear(&mut layout, name, inputs, outputs);
        add("quant_conv".into(), self.enc_dim, self.moments());
        add("post_quant_conv".into(), latent, self.dec_dim);
        add("predictor".into(), self.dec_dim, self.pixels());
        let towers = [
            ("encoder", "enc_norm", self.enc_dim, self.enc_depth),
            ("decoder", "dec_norm", self.dec_dim, self.dec_depth),
        ];
        for (tower, _, width, depth) in towers {
            let hidden = mlp(width, self.mlp_ratio);
            for i in 0..depth {
                add(format!("{tower}.{i}.attn.qkv"), width, 3 * width);
                add(format!("{tower}.{i}.attn.proj"), width, width);
                add(format!("{tower}.{i}.mlp.fc1"), width, hidden);
                add(format!("{tower}.{i}.mlp.fc2"), hidden, width);
            }
        }
        for (tower, last, width, depth) in towers {
            let within = (0..depth).flat_map(|i| ["norm1", "norm2"].map(|norm| format!("{tower}.{i}.{norm}")));
            for norm in within.chain([last.to_owned()]) {
                layout.insert(format!("{norm}.weight"), vec![width]);
                layout.insert(format!("{norm}.bias"), vec![width]);
            }
        }
        layout
    }
}
