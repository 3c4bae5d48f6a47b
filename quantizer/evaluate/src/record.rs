//! What a quantizer knows when it writes a file, and writes beside it for the report.
//!
//! Every part may be missing. Fields that a reader does not know are skipped and absent ones are
//! empty, so that old records can be read by new programs and the other way round.

use serde::{Deserialize, Serialize};

use crate::Place;

/// What the quantizer writes down.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// What was done, step by step: calibration, rounding, pruning, the budget.
    pub notes: Vec<Note>,
    /// What was done to each tensor.
    pub tensors: Vec<Tensor>,
    /// Measured cost of rounding each component alone.
    pub sensitivity: Vec<Sensitivity>,
    /// What was measured of each block.
    pub blocks: Vec<BlockFigures>,
}

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// In a word or two: "calibration".
    pub what: String,
    /// In a sentence.
    pub how: String,
}

/// What was done to a tensor, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tensor {
    /// Its name in the file.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// How it lies: "int4".
    pub format: String,
    /// Bits of a weight: all bytes of the matrix times 8, over its weights.
    pub bits: f64,
    /// How its weights were rounded: "nearest", "GPTQ".
    pub rounding: Option<String>,
    /// Relative error of its outputs on the calibration text, or of its weights: `|Wx - W'x| /
    /// |Wx|`.
    pub error: Option<f64>,
    /// Fraction of weights that are exactly zero.
    pub sparsity: Option<f64>,
    /// Why so.
    pub reason: Option<String>,
}

/// The measured cost of rounding one component and nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sensitivity {
    /// The component: a tensor, a block, the embedding.
    pub name: String,
    /// The format it was rounded to.
    pub format: String,
    /// Mean KL divergence from the f32 model.
    pub mean_kl: f64,
}

/// What was measured of one block f, on states x of the calibration text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockFigures {
    /// Which.
    pub place: Place,
    /// Mean of `|f(x) - f(y)| / |x - y|` over pairs of states where the block lies.
    #[serde(default)]
    pub plasticity: Option<f64>,
    /// The same on token embeddings.
    #[serde(default)]
    pub plasticity_on_embeddings: Option<f64>,
    /// Block influence: 1 minus the mean cosine of the stream before and after it.
    #[serde(default)]
    pub influence: Option<f64>,
    /// The damage that was measured: mean KL divergence from the f32 model without this block.
    #[serde(default)]
    pub damage: Option<f64>,
    /// The damage of rounding: the sum of what each of its products does alone in the coarsest
    /// format tried.
    #[serde(default)]
    pub rounding: Option<f64>,
}
