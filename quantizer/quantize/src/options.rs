//! What is asked of a quantization, and what it answers.

use std::fmt;

use kinglet::{Format, Isa};

use kinglet_import::checkpoint::Architecture;

use crate::fit::FitOptions;
use crate::prune::Prune;
use kinglet_evaluate::record::Record;
use kinglet_reference::Sample;

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
    /// The instruction set whose times [`Target::Seconds`] counts. All give the same file otherwise.
    pub isa: Isa,
    /// Tokens of the golden answer; 0 for none.
    pub golden: usize,
    /// Text that the golden sequence begins with.
    pub prompt: String,
    /// Free pairs to carry along.
    pub metadata: Vec<(String, String)>,
}

impl Options {
    /// Whether blocks make up for those before them. Only where a position is predicted from those
    /// before it: on the few thousand tokens that sentences are, the least squares of this fit the
    /// sentences and not the model (MiniLM in int8: 1 - cosine 0.0019, and 0.0007 without).
    pub(crate) fn corrects(&self, architecture: &Architecture) -> bool {
        self.correct && architecture.is_causal()
    }
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
            isa: Isa::detect(),
            golden: 64,
            prompt: "Once upon a time".to_owned(),
            metadata: vec![],
        }
    }
}

/// What to meet by choosing formats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Bits a weight in the matrices of the blocks, as [`Matrices`](kinglet_evaluate::size::Matrices) counts
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
    /// What was done to each tensor, and what was measured; also written to [`crate::record_path`]
    /// if there was a calibration.
    pub record: Record,
}
