//! Why a checkpoint was not quantized.

use std::path::{Path, PathBuf};

use crate::options::Target;
use crate::rounding::hessian::HessianError;
use kinglet_import::checkpoint::CheckpointError;
use kinglet_import::tokenizer::TokenizerImportError as ImportError;
use kinglet_media::PreparedError;
use kinglet_model::write::WriteError;
use kinglet_reference::ReferenceError;

/// Why a checkpoint was not quantized. The target is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The calibration tokens cannot be run.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The inputs of a block are of no use.
    #[error("block {block}: {source}")]
    Hessian {
        /// The block.
        block: usize,
        /// What is wrong with them.
        source: HessianError,
    },
    /// A target out of reach.
    #[error("{target} cannot be met: {} is the nearest", with(target, *nearest))]
    Target {
        /// What was asked for.
        target: Target,
        /// The nearest, in its unit.
        nearest: f64,
    },
    /// Nothing would be left.
    #[error("{what} cannot be taken out: something has to be left")]
    Prune {
        /// What was asked for.
        what: String,
    },
    /// Nothing says how much to prune.
    #[error("how much to prune follows from a target: give one, or parts of heads and channels")]
    NoTarget,
    /// Decisions need measurements, and these need tokens.
    #[error(
        "pruning, targets and explanations are decided on measurements: give a text to calibrate on"
    )]
    NothingToMeasure,
    /// The same file is being made.
    #[error("another command is at work on this file (it uses {}): wait for it, or choose another \
             name", dir.display())]
    Busy {
        /// The directory that is in use.
        dir: PathBuf,
    },
    /// The directory for unfinished work is something else.
    #[error("{} is not a directory of this command, and is left as it is ({what}): move it away, \
             or choose another name for the file", dir.display())]
    Strange {
        /// The directory.
        dir: PathBuf,
        /// What is strange about it.
        what: String,
    },
    /// A finished block is not where it was kept.
    #[error("block {block} has gone from {}: another command seems to have used it; run this one \
             again", dir.display())]
    Lost {
        /// The block.
        block: usize,
        /// Where it was.
        dir: PathBuf,
    },
    /// How the model's input is made ready cannot be told.
    #[error(transparent)]
    Prepared(#[from] PreparedError),
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
    #[error("the written file {} failed its own check: {what}; this is a defect of the quantizer, \
             please report it", path.display())]
    Check {
        /// The temporary file.
        path: PathBuf,
        /// What was wrong.
        what: String,
    },
}

/// A target with another number.
fn with(target: &Target, number: f64) -> Target {
    match target {
        Target::Bits(_) => Target::Bits(number),
        Target::Bytes(_) => Target::Bytes(number as u64),
        Target::Divergence(_) => Target::Divergence(number),
        Target::Seconds(_) => Target::Seconds(number),
    }
}

impl QuantizeError {
    pub(crate) fn check(path: &Path, what: impl std::fmt::Display) -> Self {
        Self::Check { path: path.to_path_buf(), what: what.to_string() }
    }
}
