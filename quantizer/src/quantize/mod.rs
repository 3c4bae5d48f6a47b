//! From a checkpoint to a `.kinglet` file.
//!
//! One block is in memory at a time, and so is a batch of calibration tokens, which goes through
//! the blocks as they are rounded. The same checkpoint and options give the same file, byte for
//! byte, whatever the number of threads.

mod blocks;
mod budget;
mod codebook;
mod convert;
mod evidence;
mod fold;
mod golden;
mod gptq;
mod heads;
mod hessian;
mod layer;
mod linear;
mod lowering;
mod offsets;
pub(crate) mod pack;
mod packed;
mod plan;
mod reach;
mod record;
mod resume;
pub mod round;
mod rounded;
mod taken;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use kinglet::Format;

pub(crate) use blocks::assembled;
pub use convert::quantize;
pub(crate) use golden::{Question, add as add_golden};
pub(crate) use hessian::cholesky;
pub use hessian::{Hessian, HessianError};
pub use linear::linear;
pub(crate) use lowering::tensor_name;
pub use reach::reachable;
pub use record::{TAKEN, record_path};
pub use rounded::{Rounded, RoundedBlock, RoundedLinear, block_weights};
pub use taken::could_be_kept;

use crate::checkpoint::CheckpointError;
use crate::fit::FitOptions;
use crate::media::PreparedError;
use crate::prune::Prune;
use crate::reference::{ReferenceError, Sample};
use crate::report::Record;
use crate::tokenizer::TokenizerImportError as ImportError;
use kinglet_model::write::WriteError;

/// How to quantize.
#[derive(Clone, Debug)]
pub struct Options {
    /// Format of the matrices in the blocks.
    pub weights: Format,
    /// Format of the embedding, and of the head where it is tied.
    pub embeddings: Format,
    /// Format of an untied head.
    pub head: Format,
    /// What to calibrate on; without any, weights are rounded to the nearest values.
    pub calibration: Vec<Sample>,
    /// What to choose each product's format for, between `weights` and int8; nothing for `weights`
    /// everywhere.
    pub target: Option<Target>,
    /// What to take out.
    pub prune: Prune,
    /// Whether each block makes up for what rounding and pruning did before it; costs a second
    /// pass, in f32. Of causal models only.
    pub correct: bool,
    /// Whether outliers of activations are folded into what is in front of a product, where that
    /// helps.
    pub fold: bool,
    /// Whether inputs of products are transformed before they are rounded, which spreads outliers,
    /// and queries and keys, too.
    pub transform: bool,
    /// Whether weights that the source has quantized already are taken over where the file has
    /// their grid, in place of being rounded again. Not where a target, pruning or fitting is asked
    /// for.
    pub take: bool,
    /// Whether to measure what each part contributes, for the report, even if nothing is decided on
    /// it.
    pub explain: bool,
    /// Steps of learning the codes of each layer from the f32 model's stream; 0 for none. Needs a
    /// calibration and `correct`.
    pub learn: usize,
    /// How to fit the rounded model to the f32 model. Codes move too if they were learned.
    pub fit: FitOptions,
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
            weights: Format::Int8Grouped,
            embeddings: Format::Int8Grouped,
            head: Format::Int8Grouped,
            calibration: vec![],
            target: None,
            prune: Prune::default(),
            correct: true,
            fold: true,
            transform: true,
            take: true,
            explain: false,
            learn: 0,
            fit: FitOptions { steps: 0, rate: 0.0 },
            golden: 64,
            prompt: "Once upon a time".to_owned(),
            metadata: vec![],
        }
    }
}

/// What to meet by choosing formats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Bits a weight in the matrices of the blocks, as [`Matrices`](crate::size::Matrices) counts
    /// them; of a pruned model, over the weights that there were.
    Bits(f64),
    /// Bytes of the file.
    Bytes(u64),
    /// Predicted damage, as [`Probe`](crate::sensitivity::Probe) measures it (mean divergence from
    /// the f32 model, nats): the sum of what each product's rounding does alone.
    Divergence(f64),
    /// Seconds that one thread of this machine spends in the products of the blocks for a token.
    Seconds(f64),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bits(bits) => write!(f, "{bits:.3} bits a weight"),
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Self::Divergence(nats) => write!(f, "a divergence of {nats:.5} nats"),
            Self::Seconds(seconds) => write!(f, "{:.4} ms a token", seconds * 1e3),
        }
    }
}

/// Where the names of a classifier's outputs stand in a file's metadata: a JSON list of strings.
pub const LABELS: &str = "labels";

/// What was done.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Weights in matrices.
    pub weights: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// What was done to each tensor, and what was measured; also written to [`record_path`] if
    /// there was a calibration.
    pub record: Record,
}

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
    fn check(path: &Path, what: impl std::fmt::Display) -> Self {
        Self::Check { path: path.to_path_buf(), what: what.to_string() }
    }
}
