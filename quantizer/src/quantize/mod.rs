//! From a checkpoint to a `.kinglet` file.
//!
//! Tensors stream: a batch of panels is read, rounded on all cores and written before the next is read, so memory does not
//! grow with the checkpoint. The same checkpoint and options give the same file, byte for byte, whatever the number of threads.

mod codebook;
mod convert;
mod golden;
mod outline;
mod pack;
pub mod round;

use std::path::{Path, PathBuf};

use kinglet::Format;

pub use convert::quantize;

use crate::checkpoint::CheckpointError;
use crate::file::WriteError;
use crate::tokenizer::TokenizerImportError as ImportError;

/// How to quantize.
#[derive(Clone, Debug)]
pub struct Options {
    /// Format of the matrices in the blocks.
    pub weights: Format,
    /// Format of the embedding, and of the head where it is tied.
    pub embeddings: Format,
    /// Format of an untied head.
    pub head: Format,
    /// Tokens of the golden answer; 0 for none.
    pub golden: usize,
    /// Text that the golden sequence begins with.
    pub prompt: String,
    /// Free pairs to carry along.
    pub metadata: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            weights: Format::Int8,
            embeddings: Format::Int8,
            head: Format::Int8,
            golden: 64,
            prompt: "Once upon a time".to_owned(),
            metadata: vec![],
        }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Weights in matrices.
    pub weights: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Why a checkpoint was not quantized. The target is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer cannot be imported.
    #[error(transparent)]
    Tokenizer(#[from] ImportError),
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The runtime does not have what the checkpoint needs.
    #[error("{what} is not supported by this version of the runtime: {instead}")]
    Unsupported {
        /// What it needs.
        what: String,
        /// What there is.
        instead: String,
    },
    /// The finished file was not what it should be.
    #[error("the written file {} failed its own check: {what}; this is a defect of the quantizer, please report it", path.display())]
    Check {
        /// The temporary file.
        path: PathBuf,
        /// What was wrong.
        what: String,
    },
}

impl QuantizeError {
    fn check(path: &Path, what: impl std::fmt::Display) -> Self {
        Self::Check { path: path.to_path_buf(), what: what.to_string() }
    }
}
