//! The names and shapes of all tensors, in the spellings that are in use.

use super::config::Config;
use super::dit::NOISE_DIM;
use crate::checkpoint::{Index, Layout, Size};

/// A tensor that is of no use without training.
pub const IGNORED: &str = "ctrl_cfg.null_emb";

/// How the tensors of a checkpoint are spelled: as published, or as the networks are written today.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// `attn_cond_head` and `mlp_cond_head`, or `cond_head`.
    two_heads: bool,
    /// `dit_mlp` or `mlp`.
    dit_mlp: bool,
    /// The layer of the controls in two parts, or in one.
    pub split: bool,
    /// The last layer as a layer, or as a convolution.
    pub linear_unpatchify: bool,
    /// What all layers share is told once, or in every layer.
    once: bool,
}

impl Names {
    /// Those of the published files.
    pub const PUBLISHED: Self =
        Self { two_heads: true, dit_mlp: true, split: true, linear_unpatchify: false, once: false };

    /// Those of a checkpoint.
    pub fn of(index: &Index) -> Self {
        let has = |name: &str| index.tensors().contains_key(&format!("transformer.blocks.{name}.weight"));
        let two_heads = has("0.attn_cond_head.cond_proj.0");
        let head = if two_heads { "attn_cond_head" } else { "cond_head" };
        Self {
            two_heads,
            dit_mlp: has("0.dit_mlp.fc1"),
            split: has("0.ctrl_mlpfusion.fc1_x"),
            linear_unpatchify: index.tensors().get("unpatchify.weight").is_some_and(|entry| entry.shape.len() == 2),
            once: has("1.attn.q_proj") && !has(&format!("1.{head}.cond_proj.0")),
        }
    }

    /// The names in a layer of what makes scale, shift and gate, twice.
    pub fn cond_proj(self, layer: usize) -> Vec<String> {
        if self.once && layer > 0 {
            return Vec::new();
        }
        let name = |slot: usize| match self.two_heads {
            true if slot < 3 => format!("attn_cond_head.cond_proj.{slot}.weight"),
            true => format!("mlp_cond_head.cond_proj.{}.weight", slot - 3),
            false => format!("cond_head.cond_proj.{slot}.weight"),
        };
        (0..6).map(name).collect()
    }

    /// The name in a layer of what is added to the conditioning.
    pub fn bias_in(self) -> &'static str {
        if self.two_heads { "mlp_cond_head.bias_in" } else { "cond_head.bias_in" }
    }

    /// The name in a layer of its MLP.
    pub fn mlp(self) -> &'static str {
        if self.dit_mlp { "dit_mlp" } else { "mlp" }
    }
}

/// What decides them.
pub const SIZES: &[Size<Config>] = &[
    ("d_model", |c| c.d_model *= 2),
    ("n_heads", |c| c.n_heads *= 2),
    ("n_kv_heads", |c| c.n_kv_heads = Some(2 * c.kv_heads())),
    ("mlp_ratio", |c| c.mlp_ratio *= 2),
    ("channels", |c| c.channels *= 2),
    ("patch", |c| c.patch = c.patch.map(|side| 2 * side)),
    ("n_buttons", |c| c.n_buttons *= 2),
];

/// The shapes of all tensors by name.
pub fn layout(c: &Config, names: Names) -> Layout {
    let (width, side, hidden) = (c.d_model, c.side(), c.mlp_ratio * c.d_model);
    let kv = c.kv_heads() * c.head_dim();
    let mut layout = Layout::new();
    let mut add = |name: String, shape: &[usize]| _ = layout.insert(name, shape.to_vec());
    add("patchify.weight".into(), &[width, c.channels, side, side]);
    if names.linear_unpatchify {
        add("unpatchify.weight".into(), &[c.patch_len(), width]);
        add("unpatchify.bias".into(), &[c.patch_len()]);
    } else {
        add("unpatchify.weight".into(), &[width, c.channels, side, side]);
        add("unpatchify.bias".into(), &[c.channels]);
    }
    add("out_norm.fc.weight".into(), &[2 * width, width]);
    add("denoise_step_emb.mlp.fc1.weight".into(), &[4 * width, NOISE_DIM]);
    add("denoise_step_emb.mlp.fc2.weight".into(), &[width, 4 * width]);
    add("ctrl_emb.mlp.fc1.weight".into(), &[hidden, c.controls()]);
    add("ctrl_emb.mlp.fc2.weight".into(), &[width, hidden]);
    for i in 0..c.n_layers {
        let mut add = |name: &str, shape: &[usize]| add(format!("transformer.blocks.{i}.{name}"), shape);
        for (name, rows) in [("q", width), ("k", kv), ("v", kv), ("out", width)] {
            add(&format!("attn.{name}_proj.weight"), &[rows, width]);
        }
        if c.value_residual {
            add("attn.v_lamb", &[]);
        }
        names.cond_proj(i).iter().for_each(|name| add(name, &[width, width]));
        add(names.bias_in(), &[width]);
        add(&format!("{}.fc1.weight", names.mlp()), &[hidden, width]);
        add(&format!("{}.fc2.weight", names.mlp()), &[width, hidden]);
        match (c.sees_controls(i), names.split) {
            (false, _) => {}
            (true, true) => ["fc1_x", "fc1_c", "fc2"]
                .iter()
                .for_each(|name| add(&format!("ctrl_mlpfusion.{name}.weight"), &[width, width])),
            (true, false) => {
                add("ctrl_mlpfusion.mlp.fc1.weight", &[width, 2 * width]);
                add("ctrl_mlpfusion.mlp.fc2.weight", &[width, width]);
            }
        }
    }
    layout
}
