//! Hugging Face directories: config.json, generation_config.json and safetensors.

use std::path::Path;

use super::CheckpointError;
use super::config::Config;
use super::families::{self, Modules, Source};
use super::fields::{CONFIG_LIMIT, Fields, read_object};
use super::names::HUGGING_FACE;
use super::tensors::Tensors;
use super::{Architecture, layers};

/// Reads settings and headers.
pub(super) fn open(
    dir: &Path,
    context: Option<usize>,
) -> Result<(Architecture, Tensors), CheckpointError> {
    const CONFIG: &str = "config.json";
    const GENERATION: &str = "generation_config.json";
    let config = read_object(&dir.join(CONFIG), CONFIG_LIMIT)?;
    let config = Fields::new(&config, CONFIG);
    let generation = dir.join(GENERATION);
    let generation = match generation.exists() {
        true => Some(read_object(&generation, CONFIG_LIMIT)?),
        false => None,
    };
    let generation = generation.as_ref().map(|map| Fields::new(map, GENERATION));
    if let Some(kind) = families::kind_of(config)? {
        let mut tensors = Tensors::open(dir)?;
        let modules = Modules::read(dir, &mut tensors)?;
        let modules = modules.as_ref();
        let source = Source { dir, config, generation, context, tensors: &tensors, modules };
        return Ok((kind.import(source)?, tensors));
    }
    let config = Config::read_json(config, generation, context, &families::supported())?;
    let tensors = Tensors::open(dir)?;
    Ok((layers::describe(config, &tensors, &HUGGING_FACE)?, tensors))
}
