//! The embeddings `text_embeds` of the tokens `ids`.

use std::path::Path;

use candle_core::{DType, Device};

use super::{PASS, Stage};
use crate::Result;
use crate::checkpoint::{Weights, read_config};
use crate::family::umt5::{Config, Umt5};

/// Encodes the text.
pub fn stages(folder: &Path) -> Result<Vec<Stage>> {
    let config = read_config(&folder.join("config.json"), Config::parse)?;
    let encoder = Umt5::open(&folder.join("weights.safetensors"), &config)?;
    let case = Weights::open(folder.join("case.safetensors"), &Device::Cpu)?;
    let vars = case.vars();
    let count = vars.shape("ids")?.first().copied().unwrap_or(0);
    let ids = vars.tensor("ids", &[count])?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
    let expected = vars.tensor("text_embeds", &[count, config.d_model])?;
    case.finish()?;
    let mut stage = Stage::new("encoding", PASS);
    let embeds = stage.time(|| encoder.encode(&ids))?;
    stage.compare(&embeds, &expected)?;
    Ok(vec![stage])
}
