//! What sentence-transformers puts after a model: `modules.json` and the folders it lists.
//!
//! ```text
//! Transformer (the directory itself) -> Pooling -> [Dense] -> [Normalize]
//! ```
//!
//! The weights of a dense module are in its folder; they go by the folder's name and theirs.

use std::path::{Component, Path};

use serde_json::Value;

use super::super::fields::{CONFIG_LIMIT, Fields, MAX_SIZE, read_list, read_object};
use super::super::settings::named_activation;
use super::super::tensors::Tensors;
use super::super::{Activation, CheckpointError};
use super::super::{Output, Pooling};
use super::parts::Parts;

const MODULES: &str = "modules.json";
const POOLING: &str = "config.json of the pooling module";
const DENSE: &str = "config.json of the dense module";
const SENTENCES: &str = "sentence_bert_config.json";
const SUPPORTED: &str = "supported are Transformer, Pooling (cls, mean or max), at most one Dense \
                         and Normalize, in this order";

/// The modules.
pub(in super::super) struct Modules {
    pooling: Pooling,
    /// Numbers that are pooled.
    pooled: Option<usize>,
    dense: Option<Dense>,
    normalize: bool,
    /// Tokens of a text: the rest is cut off.
    pub(super) longest: Option<usize>,
}

struct Dense {
    folder: String,
    inputs: usize,
    outputs: usize,
    bias: bool,
    activation: Activation,
}

impl Modules {
    /// Reads the modules, where there are any, and adds their tensors.
    pub(in super::super) fn read(
        dir: &Path,
        tensors: &mut Tensors,
    ) -> Result<Option<Self>, CheckpointError> {
        let path = dir.join(MODULES);
        if !path.exists() {
            return Ok(None);
        }
        let list = read_list(&path, CONFIG_LIMIT)?;
        let mut found = Self {
            pooling: Pooling::None,
            pooled: None,
            dense: None,
            normalize: false,
            longest: None,
        };
        for (place, module) in list.iter().enumerate() {
            found.add(dir, tensors, place, module)?;
        }
        match found.pooling {
            Pooling::None => Err(refused("the list", "without pooling")),
            _ => Ok(Some(found)),
        }
    }

    fn add(
        &mut self,
        dir: &Path,
        tensors: &mut Tensors,
        place: usize,
        module: &Value,
    ) -> Result<(), CheckpointError> {
        let kind = module.get("type").and_then(Value::as_str).unwrap_or_default();
        let folder = module.get("path").and_then(Value::as_str).unwrap_or_default();
        let pooled = self.pooling != Pooling::None;
        match (place, kind.rsplit('.').next().unwrap_or_default()) {
            (0, "Transformer") if folder.is_empty() => self.longest = longest(dir)?,
            (0, "Transformer") => {
                return Err(refused("path", "the model in a folder of its own: move its files up"));
            }
            (1.., "Pooling") if !pooled => {
                let config = read_object(&inside(dir, folder)?.join("config.json"), CONFIG_LIMIT)?;
                let fields = Fields::new(&config, POOLING);
                self.pooling = pooling(fields)?;
                self.pooled = fields.size("word_embedding_dimension", MAX_SIZE)?;
            }
            (1.., "Dense") if pooled && self.dense.is_none() && !self.normalize => {
                let path = inside(dir, folder)?;
                let config = read_object(&path.join("config.json"), CONFIG_LIMIT)?;
                self.dense = Some(Dense::read(folder, Fields::new(&config, DENSE))?);
                tensors.add_folder(folder, Tensors::open(&path)?);
            }
            (1.., "Normalize") if pooled => self.normalize = true,
            _ => return Err(refused("type", kind)),
        }
        Ok(())
    }

    /// What becomes of the model's states.
    pub(super) fn output(
        &self,
        parts: &mut Parts<'_>,
        width: usize,
    ) -> Result<Output, CheckpointError> {
        if let Some(pooled) = self.pooled.filter(|pooled| *pooled != width) {
            return Err(CheckpointError::BadField {
                file: POOLING,
                field: "word_embedding_dimension".to_owned(),
                value: pooled.to_string(),
                expected: format!("the width of the model, {width}"),
            });
        }
        let dense = match &self.dense {
            Some(dense) => Some(dense.find(parts, width)?),
            None => None,
        };
        Ok(Output { pooling: self.pooling, dense, head: None, normalize: self.normalize })
    }
}

impl Dense {
    fn read(folder: &str, fields: Fields<'_>) -> Result<Self, CheckpointError> {
        const ACTIVATION: &str = "activation_function";
        let name = fields.text(ACTIVATION)?.unwrap_or("torch.nn.modules.activation.Tanh");
        let activation = match name.rsplit('.').next().unwrap_or_default() {
            "Identity" => Some(Activation::Identity),
            // Its option of the approximation is not stored.
            "GELU" => Some(Activation::Gelu),
            name => named_activation(&name.to_lowercase()),
        };
        Ok(Self {
            folder: folder.to_owned(),
            inputs: fields.required_size("in_features", MAX_SIZE)?,
            outputs: fields.required_size("out_features", MAX_SIZE)?,
            bias: fields.flag("bias")?.unwrap_or(true),
            activation: activation.ok_or_else(|| {
                fields.unsupported(ACTIVATION, "supported are Tanh, Identity, ReLU, GELU and SiLU")
            })?,
        })
    }

    fn find(
        &self,
        parts: &mut Parts<'_>,
        width: usize,
    ) -> Result<(super::super::Linear, Activation), CheckpointError> {
        if self.inputs != width {
            return Err(CheckpointError::BadField {
                file: DENSE,
                field: "in_features".to_owned(),
                value: self.inputs.to_string(),
                expected: format!("the numbers that are pooled, {width}"),
            });
        }
        let linear = parts.linear(
            &format!("{}/linear", self.folder),
            self.outputs,
            self.inputs,
            self.bias,
        )?;
        Ok((linear.into(), self.activation))
    }
}

/// Which of the states are pooled.
fn pooling(fields: Fields<'_>) -> Result<Pooling, CheckpointError> {
    const SUPPORTED: &str = "supported is one of cls, mean and max";
    const KINDS: [(&str, &str, Pooling); 3] = [
        ("pooling_mode_cls_token", "cls", Pooling::First),
        ("pooling_mode_mean_tokens", "mean", Pooling::Mean),
        ("pooling_mode_max_tokens", "max", Pooling::Max),
    ];
    if let Some(name) = fields.text("pooling_mode")? {
        let found = KINDS.iter().find(|(_, known, _)| *known == name);
        return found
            .map(|(_, _, pooling)| *pooling)
            .ok_or_else(|| fields.unsupported("pooling_mode", SUPPORTED));
    }
    let mut found = None;
    for (key, value) in fields.iter() {
        if !key.starts_with("pooling_mode_") || *value == Value::Bool(false) {
            continue;
        }
        let kind = KINDS.iter().find(|(known, _, _)| known == key).filter(|_| found.is_none());
        found = Some(kind.ok_or_else(|| fields.unsupported(key, SUPPORTED))?.2);
    }
    found.ok_or_else(|| fields.missing("pooling_mode_mean_tokens", SUPPORTED))
}

/// Tokens of a text, of which the library cuts the rest off.
fn longest(dir: &Path) -> Result<Option<usize>, CheckpointError> {
    let path = dir.join(SENTENCES);
    if !path.exists() {
        return Ok(None);
    }
    let settings = read_object(&path, CONFIG_LIMIT)?;
    Fields::new(&settings, SENTENCES).size("max_seq_length", MAX_SIZE)
}

/// A folder of the directory itself.
fn inside(dir: &Path, folder: &str) -> Result<std::path::PathBuf, CheckpointError> {
    let path = Path::new(folder);
    match path.components().collect::<Vec<_>>().as_slice() {
        [Component::Normal(_)] => Ok(dir.join(path)),
        _ => Err(refused("path", folder)),
    }
}

fn refused(field: &str, value: &str) -> CheckpointError {
    CheckpointError::Unsupported {
        file: MODULES,
        field: field.to_owned(),
        value: super::super::error::abbreviate(value),
        supported: SUPPORTED.to_owned(),
    }
}
