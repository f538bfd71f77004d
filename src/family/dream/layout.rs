//! The names and shapes of all tensors.

use crate::checkpoint::{Layout, Size, changes};
use crate::kernel::MODULATIONS;
use crate::model::action::MOTION_DIM;
use crate::model::config::{Config, TrunkConfig};
use crate::model::dit::FREQUENCIES;
use crate::model::flow::BASIS;
use crate::model::vcn::RES_BLOCKS;

/// What decides the shapes.
pub const SIZES: &[Size<Config>] = &[
    ("frames_per_chunk", |c| c.frames_per_chunk *= 2),
    ("patch", |c| c.patch *= 2),
    ("controls", |c| c.controls *= 2),
    ("text", |c| c.text *= 2),
    ("latent", |c| c.latent *= 2),
    ("cond", |c| c.cond *= 2),
    ("stem", |c| c.stem *= 2),
    ("encoder.width", |c| c.encoder.width *= 2),
    ("encoder.heads", |c| c.encoder.heads *= 2),
    ("decoder.width", |c| c.decoder.width *= 2),
    ("decoder.heads", |c| c.decoder.heads *= 2),
    ("decoder.offsets", |c| c.decoder.offsets.push(0)),
    ("dit.width", |c| c.dit.width *= 2),
    ("dit.heads", |c| c.dit.heads *= 2),
    ("dit.offsets", |c| c.dit.offsets.push(0)),
    ("edit_rank", |c| c.edit_rank *= 2),
];

/// Of a layer of `inputs` and `outputs` with a bias.
fn linear(layout: &mut Layout, name: &str, inputs: usize, outputs: usize) {
    layout.insert(format!("{name}.weight"), vec![outputs, inputs]);
    layout.insert(format!("{name}.bias"), vec![outputs]);
}

/// Of a stack of blocks.
fn trunk(layout: &mut Layout, name: &str, c: &TrunkConfig, cond: usize) {
    let width = c.width;
    for layer in 0..c.layers {
        let name = |part: &str| format!("{name}.{layer}.{part}");
        linear(layout, &name("ada"), cond, MODULATIONS * width);
        linear(layout, &name("fc1"), width, 4 * width);
        linear(layout, &name("fc2"), 4 * width, width);
        layout.insert(name("qkv.weight"), vec![3 * width, width]);
        layout.insert(name("proj.weight"), vec![width, width]);
        layout.insert(name("q_norm"), vec![c.head_dim()]);
        layout.insert(name("k_norm"), vec![c.head_dim()]);
        if c.temporal.contains(&layer) {
            layout.insert(name("flow.weight"), vec![c.heads, MOTION_DIM, BASIS, 2]);
            layout.insert(name("flow.log_alpha"), vec![c.heads]);
            layout.insert(name("flow.slot"), vec![c.heads, c.offsets.len()]);
        }
    }
}

/// Whether a weight is one of those that a model's precision is of.
pub fn in_precision(name: &str) -> bool {
    name.contains("blocks.") && ["qkv", "proj", "fc1", "fc2"].iter().any(|l| name.ends_with(&format!(".{l}.weight")))
}

/// The tensors of the VCN.
pub fn vcn(c: &Config) -> Layout {
    let mut layout = Layout::new();
    let (picture, numbers) = (Config::CELL * Config::CELL * 3, c.cells() * c.cells());
    let controls = c.controls * c.frames_per_chunk;
    let (encoder, decoder) = (&c.encoder, &c.decoder);
    let mut add = |name: &str, inputs, outputs| linear(&mut layout, name, inputs, outputs);
    add("enc_in", picture * c.frames_per_chunk, c.stem);
    add("enc_token", numbers * c.stem, encoder.width);
    add("enc_control", controls, c.cond);
    add("enc_out", encoder.width, c.latent);
    add("dec_in", c.latent, decoder.width);
    add("dec_control", controls, c.cond);
    add("dec_token", decoder.width, numbers * c.stem);
    add("dec_out", c.stem, picture * (2 * c.frames_per_chunk - 1));
    if c.depth {
        add("near_in", decoder.width + numbers, decoder.width);
        add("near_out", decoder.width, numbers);
    }
    for half in ["enc_res", "dec_res"] {
        for name in (0..RES_BLOCKS).flat_map(|i| [1, 2].map(|conv| format!("{half}.{i}.conv{conv}"))) {
            layout.insert(format!("{name}.weight"), vec![c.stem, c.stem, 3, 3]);
            layout.insert(format!("{name}.bias"), vec![c.stem]);
        }
    }
    trunk(&mut layout, "enc_blocks", encoder, c.cond);
    trunk(&mut layout, "dec_blocks", decoder, c.cond);
    if c.depth {
        trunk(&mut layout, "near_blocks", &c.near(), c.cond);
    }
    layout
}

/// The tensors of the DiT.
pub fn dit(c: &Config) -> Layout {
    let (mut layout, width) = (Layout::new(), c.dit.width);
    let mut add = |name: &str, inputs, outputs| linear(&mut layout, name, inputs, outputs);
    add("patch_in", 4 * c.latent, width);
    add("tau_in", 2 * FREQUENCIES, width);
    add("control_in", c.controls * c.frames_per_chunk + 1, width);
    add("text_in", c.text, width);
    add("cond", width, c.cond);
    add("ada_out", c.cond, 2 * width);
    add("patch_out", width, 2 * c.latent);
    trunk(&mut layout, "blocks", &c.dit, c.cond);
    layout
}

/// The tensors of the changes of the DiT where a block is broken or placed.
pub fn edits(c: &Config) -> Layout {
    changes(&dit(c), c.edit_rank)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Index;
    use std::path::Path;

    #[test]
    fn it_is_what_the_loader_asks_for() {
        for folder in ["models/overworld", "tests/fixtures/parity"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
            let config = Config::parse(&config).unwrap();
            let files = [
                ("vcn.safetensors", vcn as fn(&Config) -> Layout),
                ("dit.safetensors", dit),
                ("edits.safetensors", edits),
            ];
            for (name, layout) in files {
                // The loader is strict, and reads these.
                Index::open(folder.join(name)).unwrap().check(&config, SIZES, layout, &[]).unwrap();
            }
        }
    }
}
