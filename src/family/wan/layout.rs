//! The names and shapes of all tensors.

use super::config::Config;
use crate::Result;
use crate::checkpoint::{Index, Layout, Size};

/// A tensor that only the DiT has.
pub const DIT_KEY: &str = "time_projection.1.weight";
/// A tensor that only its LoRA has.
pub const LORA_KEY: &str = "blocks.0.self_attn.q.lora_A.weight";
/// What training wraps modules in leaves its marks in their names.
const WRAPPERS: [&str; 5] =
    ["_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.", "base_model.model.", "default."];
/// Parts of names as diffusers spells them, and in the reference.
const DIFFUSERS: [(&str, &str); 16] = [
    ("condition_embedder.time_embedder.linear_1.", "time_embedding.0."),
    ("condition_embedder.time_embedder.linear_2.", "time_embedding.2."),
    ("condition_embedder.text_embedder.linear_1.", "text_embedding.0."),
    ("condition_embedder.text_embedder.linear_2.", "text_embedding.2."),
    ("condition_embedder.time_proj.", "time_projection.1."),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".to_out.0.", ".o."),
    (".ffn.net.0.proj.", ".ffn.0."),
    (".ffn.net.2.", ".ffn.2."),
    (".norm2.", ".norm3."),
    (".scale_shift_table", ".modulation"),
    ("proj_out.", "head.head."),
];

/// The same checkpoint with its tensors spelled as in the reference, however they are in the file.
///
/// # Errors
/// [`crate::Error::Model`] when two of them get the same name.
pub fn as_published(index: Index) -> Result<Index> {
    let known = |name: &String| [DIT_KEY, LORA_KEY].contains(&published(name).as_str());
    if index.tensors().keys().any(known) { index.renamed(published) } else { Ok(index) }
}

fn published(name: &str) -> String {
    let name = WRAPPERS.iter().fold(name.to_owned(), |name, wrapper| name.replace(wrapper, ""));
    match name.strip_prefix("model.").unwrap_or(&name) {
        "scale_shift_table" => "head.modulation".into(),
        name => DIFFUSERS.iter().fold(name.to_owned(), |name, (theirs, ours)| name.replace(theirs, ours)),
    }
}

/// What decides them.
pub const SIZES: &[Size<Config>] = &[
    ("in_dim", |c| c.in_dim *= 2),
    ("patch_size", |c| c.patch_size = c.patch_size.map(|side| 2 * side)),
    ("dim", |c| c.dim *= 2),
    ("ffn_dim", |c| c.ffn_dim *= 2),
    ("freq_dim", |c| c.freq_dim *= 2),
    ("text_dim", |c| c.text_dim *= 2),
];

/// The shapes of all tensors by name.
pub fn layout(c: &Config) -> Layout {
    let (dim, side) = (c.dim, c.side());
    let mut layout = Layout::new();
    let mut add = |name: &str, shape: &[usize]| _ = layout.insert(name.to_owned(), shape.to_vec());
    let mut linear = |name: &str, inputs: usize, outputs: usize| {
        add(&format!("{name}.weight"), &[outputs, inputs]);
        add(&format!("{name}.bias"), &[outputs]);
    };
    linear("text_embedding.0", c.text_dim, dim);
    linear("text_embedding.2", dim, dim);
    linear("time_embedding.0", c.freq_dim, dim);
    linear("time_embedding.2", dim, dim);
    linear("time_projection.1", dim, 6 * dim);
    linear("head.head", dim, c.patch_len());
    for i in 0..c.num_layers {
        for part in ["self_attn", "cross_attn"] {
            for name in ["q", "k", "v", "o"] {
                linear(&format!("blocks.{i}.{part}.{name}"), dim, dim);
            }
        }
        linear(&format!("blocks.{i}.ffn.0"), dim, c.ffn_dim);
        linear(&format!("blocks.{i}.ffn.2"), c.ffn_dim, dim);
    }
    add("patch_embedding.weight", &[dim, c.in_dim, 1, side, side]);
    add("patch_embedding.bias", &[dim]);
    add("head.modulation", &[1, 2, dim]);
    for i in 0..c.num_layers {
        let mut add = |name: &str, shape: &[usize]| add(&format!("blocks.{i}.{name}"), shape);
        add("modulation", &[1, 6, dim]);
        if c.cross_attn_norm {
            add("norm3.weight", &[dim]);
            add("norm3.bias", &[dim]);
        }
        if c.qk_norm {
            for name in ["self_attn.norm_q", "self_attn.norm_k", "cross_attn.norm_q", "cross_attn.norm_k"] {
                add(&format!("{name}.weight"), &[dim]);
            }
        }
    }
    layout
}
