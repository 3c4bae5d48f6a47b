//! What is asked of training, and what it answers.

/// Kinds of new interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One matrix.
    Linear,
    /// Two, with GELU between them.
    TwoLayer,
    /// Learned queries that look at the encoder's states, so that the decoder looks at a fixed
    /// number of rows.
    Resampler,
}

/// An interface that has learned nothing yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fresh {
    /// Its kind.
    pub shape: Shape,
    /// Queries of a resampler; by default 32.
    pub queries: Option<usize>,
    /// Width of the hidden layer of two, or of a resampler; by default the wider of what meets, or
    /// what the decoder looks at.
    pub width: Option<usize>,
}

/// How to adapt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// A new interface; nothing to go on with the file's.
    pub fresh: Option<Fresh>,
    /// Whether the norms of the decoder's attention across learn, too.
    pub norms: bool,
    /// How often each pair is seen.
    pub passes: usize,
    /// Pairs of a step.
    pub batch: usize,
    /// The largest step of a number.
    pub rate: f32,
    /// Part of the sources that is held out.
    pub held_out: f64,
    /// Of random weights, of the order of pairs and of those held out.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fresh: None,
            norms: false,
            passes: 20,
            batch: 32,
            rate: 2e-3,
            held_out: 0.1,
            seed: 1,
        }
    }
}

/// How well a file does on pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Score {
    /// How many there are.
    pub pairs: usize,
    /// Tokens of their texts, ends included.
    pub tokens: usize,
    /// Mean cross-entropy of a token, in nats.
    pub cross_entropy: f64,
    /// Part of the pairs whose greedy answer is the text.
    pub exact: f64,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Outcome {
    /// Pairs that were learned from.
    pub learned_from: usize,
    /// Numbers that learned.
    pub parameters: usize,
    /// Steps.
    pub steps: usize,
    /// The pass whose interface was kept; 0 for the one before the first.
    pub best_pass: usize,
    /// Mean cross-entropy of the held-out tokens before the first pass and after each, with the
    /// interface rounded.
    pub curve: Vec<f64>,
    /// The given file on the pairs held out, as the runtime runs it.
    pub file: Score,
    /// The interface as it was before training; the same as `file` unless it is new.
    pub before: Score,
    /// The written file.
    pub after: Score,
    /// Tensors that are those of the given file, byte for byte.
    pub kept_tensors: usize,
    /// Bytes of the file.
    pub bytes: u64,
}
