//! All that a report can show. Every part may be missing; the page then leaves its section out.
//!
//! [`Record`] is what the quantizer wrote beside the file. Everything else is measured when the
//! report is made. Fields that a reader does not know are skipped and absent ones are empty, so
//! that old reports can be read by new programs and the other way round.

use kinglet_evaluate::record::Record;
use kinglet_evaluate::{Agreement, Evaluation, Protocol};
use serde::{Deserialize, Serialize};

/// A report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The model's name.
    pub name: String,
    /// What it is.
    pub model: Option<ModelFacts>,
    /// How large.
    pub size: Option<Size>,
    /// How fast.
    pub speed: Option<Speed>,
    /// What quality was measured on.
    pub text: Option<Text>,
    /// The files that were evaluated, the report's own first.
    pub quality: Vec<Quality>,
    /// Of models that do not continue texts: how near their outputs are to the checkpoint's.
    pub agreement: Vec<Agreed>,
    /// Bytes by component of the file.
    pub components: Vec<Component>,
    /// What the quantizer wrote down.
    pub record: Record,
    /// Prompts and their continuations.
    pub prompts: Vec<Prompt>,
}

/// What a model is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelFacts {
    /// Family of the checkpoint.
    pub family: String,
    /// Width of the residual stream.
    pub width: usize,
    /// Tokens.
    pub vocab: usize,
    /// Positions it was made for.
    pub context: usize,
    /// Blocks in the file.
    pub blocks: usize,
    /// Blocks in the checkpoint.
    pub checkpoint_blocks: Option<usize>,
}

/// How large a file is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Size {
    /// Bytes of the checkpoint's weights as f32.
    pub f32_bytes: Option<u64>,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Weights in matrices of the file.
    pub weights: u64,
    /// Bits of one in the matrices of the blocks, as [`Matrices`](kinglet_evaluate::size::Matrices) counts
    /// them.
    pub bits_per_weight: f64,
}

/// How fast a file decodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Tokens a second, median of the rounds.
    pub tokens_per_second: f64,
    /// Instruction set.
    pub isa: String,
    /// Threads.
    pub threads: usize,
    /// Tokens decoded in a round, from an empty context.
    pub tokens: usize,
    /// Rounds.
    pub rounds: usize,
}

/// What quality was measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Text {
    /// Its name.
    pub name: String,
    /// Windows and begin token.
    #[serde(flatten)]
    pub protocol: Protocol,
}

/// A file that was evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// The file's name.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// What was done to it: the colour of its point.
    #[serde(default)]
    pub means: Option<Means>,
    /// Measured decode speed.
    #[serde(default)]
    pub tokens_per_second: Option<f64>,
    /// What came out.
    #[serde(flatten)]
    pub evaluation: Evaluation,
}

/// A file whose outputs were compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreed {
    /// The file's name.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// The name of the file with the inputs.
    pub on: String,
    /// What came out.
    #[serde(flatten)]
    pub agreement: Agreement,
}

/// Part of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// What it is, for people.
    pub name: String,
    /// Bytes in the file.
    pub bytes: u64,
    /// Weights in its matrices.
    pub weights: u64,
}

/// What was done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// Pruned, and coded in int8 throughout, which costs next to nothing.
    Pruned,
    /// Quantized only.
    Quantized,
    /// Both.
    Both,
}

/// A prompt, continued greedily by the f32 model and by the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Prompt {
    /// The text given.
    pub text: String,
    /// The f32 model's continuation, a piece for each token.
    pub reference: Vec<String>,
    /// The file's.
    pub model: Vec<String>,
    /// The first token at which they part; nothing if they never do.
    pub parts_at: Option<usize>,
}
