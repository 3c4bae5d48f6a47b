//! Hugging Face directories: config.json, generation_config.json and safetensors.

use std::path::Path;

use super::CheckpointError;
use super::config::Config;
use super::fields::{Fields, read_object};
use super::names::HUGGING_FACE;
use super::tensors::Tensors;
use super::{Architecture, layers};

/// Bytes of config.json and of generation_config.json.
const CONFIG_LIMIT: u64 = 1 << 20;

/// Reads settings and headers.
pub(super) fn open(dir: &Path, context: Option<usize>) -> Result<(Architecture, Tensors), CheckpointError> {
    const CONFIG: &str = "config.json";
    const GENERATION: &str = "generation_config.json";
    let config = read_object(&dir.join(CONFIG), CONFIG_LIMIT)?;
    let generation = dir.join(GENERATION);
    let generation = match generation.exists() {
        true => Some(read_object(&generation, CONFIG_LIMIT)?),
        false => None,
    };
    let generation = generation.as_ref().map(|map| Fields::new(map, GENERATION));
    let config = Config::read_json(Fields::new(&config, CONFIG), generation, context)?;
    let tensors = Tensors::open(dir)?;
    Ok((layers::describe(config, &tensors, &HUGGING_FACE)?, tensors))
}
