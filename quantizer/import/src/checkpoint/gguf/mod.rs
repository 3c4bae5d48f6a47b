//! GGUF files: another source of settings, tensors and a tokenizer.
//!
//! | module | what it knows |
//! |---|---|
//! | `cursor` | reading without trusting lengths |
//! | `header` | the format of the header |
//! | `settings` | which key stands for which setting of config.json |
//! | `vocabulary` | which key stands for which part of a tokenizer |
//!
//! The numbers of a tensor are the matter of [`super::blocks`], the order of its
//! rows that of [`super::tensors`].

mod cursor;
mod header;
mod settings;
mod vocabulary;

use std::path::Path;

use self::header::Metadata;
use super::config::Config;
use super::file::PositionedFile;
use super::names::{GGUF, GGUF_LLAMA};
use super::tensors::Tensors;
use super::{Architecture, CheckpointError, TensorRef, layers};
use crate::tokenizer::TokenizerImportError;

/// Several files of one model; the key that counts them.
const SPLIT: &str = "split.count";

/// What is kept of a file beside its tensors.
#[derive(Debug)]
pub(super) struct Gguf {
    metadata: Metadata,
}

/// Reads the header of a file.
pub(super) fn open(
    path: &Path,
    context: Option<usize>,
) -> Result<(Architecture, Tensors, Gguf), CheckpointError> {
    let file = PositionedFile::open(path)?;
    let (metadata, entries) = header::read(&file)?;
    let tensors = Tensors { files: vec![file], entries };
    if let Some(header::Value::Unsigned(count @ 2..)) = metadata.get(SPLIT) {
        return Err(CheckpointError::Unsupported {
            file: "the file's metadata",
            field: SPLIT.to_owned(),
            value: count.to_string(),
            supported: "models in one file are read; join the parts (llama-gguf-split --merge)"
                .to_owned(),
        });
    }
    let family = settings::family(&metadata)?;
    let names = if family.architecture == "llama" { &GGUF_LLAMA } else { &GGUF };
    let mut config = settings::read(&metadata, family, names, &tensors, context)?;
    apply_factors(&mut config, &tensors)?;
    Ok((layers::describe(config, &tensors, names)?, tensors, Gguf { metadata }))
}

impl Gguf {
    /// The tokenizer section; empty if the file has no tokenizer.
    pub(super) fn tokenizer(&self, tensors: &Tensors) -> Result<Vec<u8>, TokenizerImportError> {
        match tensors.files.first() {
            Some(file) => vocabulary::import(&self.metadata, file),
            None => Ok(Vec::new()),
        }
    }
}

/// Llama 3's scaling is a tensor here: what each pair's frequency is divided by.
fn apply_factors(config: &mut Config, tensors: &Tensors) -> Result<(), CheckpointError> {
    let Some(stored) = tensors.get(GGUF.rotation) else {
        return Ok(());
    };
    let pairs = config.rope.frequencies.len();
    if stored.shape != [pairs] {
        return Err(CheckpointError::WrongShape {
            tensor: GGUF.rotation.to_owned(),
            expected: vec![pairs],
            found: stored.shape.clone(),
        });
    }
    let tensor = TensorRef::stored(GGUF.rotation, 1, pairs);
    let mut factors = vec![0.0; pairs];
    tensors.read_rows(&tensor, 0..1, &mut factors)?;
    for (frequency, factor) in config.rope.frequencies.iter_mut().zip(&factors) {
        *frequency /= f64::from(*factor);
    }
    match config.rope.frequencies.iter().all(|frequency| frequency.is_finite() && *frequency >= 0.0)
    {
        true => Ok(()),
        false => Err(CheckpointError::Rotation {
            settings: format!("divided by the tensor {}", GGUF.rotation),
        }),
    }
}
