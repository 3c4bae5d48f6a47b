//! What quantization cost: perplexity on a text, and the distance of predictions and hidden states
//! from the f32 checkpoint's.
//!
//! # Protocol
//! The text is one sequence of tokens, without special ones. It is cut into windows of `window`
//! tokens that do not overlap. Each is run on its own, after a begin-of-sequence token, and all
//! its tokens are scored (without a begin token, all but the first). The last window may be short.
//! Perplexity is the exponential of the mean negative log-likelihood of a scored token.
//!
//! At each scored position p is the reference's distribution over the next token and q the model's.
//! The Kullback-Leibler divergence is `sum p ln(p / q)`, in nats; its 99th percentile is the
//! smallest value that 99% of the positions do not exceed. Top-1 agreement is the fraction of
//! positions where both find the same token most probable; top-5 agreement, where the reference's
//! most probable token is among the model's five. With several models the same is measured from the
//! first to each other.
//!
//! Hidden states are compared after the embedding and after each block that the model kept, found
//! by its layer and kind: the mean over tokens of `|h - r| / |r|`, and of the cosine. Each token
//! counts alike, since a few (the first above all) are hundreds of times as long as the others and
//! would hide them in a common sum.
//!
//! # Invariants
//! - Windows go through the reference in groups, and each block's weights are read once for a
//!   group; a group's streams, the states kept and the logits in flight stay below about 256 MB
//!   (`windows`), with a window's logits for each peer. Of large models the states of the first
//!   tokens of each group are compared; [`Hidden::tokens`] says of how many.
//! - Sums run over windows in order, so the result does not depend on the number of threads.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod activations;
pub mod continued;
mod hidden;
pub mod record;
mod samples;
mod score;
pub mod size;
mod windows;

use std::sync::Mutex;

use kinglet::{Isa, Model};
use serde::{Deserialize, Serialize};

pub use self::samples::{Agreement, Nearness, Outputs, compare, cosine};
pub(crate) use self::samples::{Runner, begin};
use self::score::Score;
use self::windows::{Machine, Window};
use kinglet_model::{Mask, Operation, Parts};

use kinglet_import::checkpoint::Architecture;
use kinglet_reference::{Reference, ReferenceError};

/// What to evaluate on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocol {
    /// Tokens of a window.
    pub window: usize,
    /// The begin-of-sequence token.
    pub bos: Option<u32>,
    /// Whether the cache keeps values in four bits; keys have eight.
    #[serde(default)]
    pub int4_values: bool,
}

/// The distance of predictions from those of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Mean Kullback-Leibler divergence, nats.
    pub mean_kl: f64,
    /// The smallest that 99% of the positions do not exceed.
    pub p99_kl: f64,
    /// The largest.
    pub max_kl: f64,
    /// Fraction of positions at which both find the same token most probable.
    pub top1_agreement: f64,
    /// Fraction of positions at which the reference's most probable token is among the model's
    /// five.
    pub top5_agreement: f64,
    /// The reference's own perplexity.
    pub reference_perplexity: f64,
}

/// What a block is in its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Attention.
    Attention,
    /// Attention to the memory.
    CrossAttention,
    /// Feed-forward.
    FeedForward,
    /// One product.
    Projection,
}

impl<T: Parts> From<&Operation<T>> for Part {
    fn from(operation: &Operation<T>) -> Self {
        match operation {
            Operation::Attention(attention) if attention.mask == Mask::Cross => {
                Self::CrossAttention
            }
            Operation::Attention(_) => Self::Attention,
            Operation::FeedForward { .. } => Self::FeedForward,
            Operation::Projection => Self::Projection,
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Attention => "attention",
            Self::CrossAttention => "cross attention",
            Self::FeedForward => "feed-forward",
            Self::Projection => "projection",
        })
    }
}

/// A block, by where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The stack, from 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub stack: usize,
    /// Layer of the checkpoint, from 0 in each stack.
    pub layer: usize,
    /// Which part of it.
    pub part: Part,
}

fn is_first(stack: &usize) -> bool {
    *stack == 0
}

impl Place {
    /// Those of all blocks, in order.
    pub fn all(architecture: &Architecture) -> impl Iterator<Item = Self> {
        let stacks = architecture.stacks.iter().enumerate();
        stacks.flat_map(|(stack, of)| {
            of.blocks.iter().map(move |block| Self {
                stack,
                layer: block.layer,
                part: (&block.operation).into(),
            })
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.stack > 0 {
            write!(f, "stack {} ", self.stack)?;
        }
        write!(f, "layer {} {}", self.layer, self.part)
    }
}

/// How far one hidden state is from the reference's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateError {
    /// The block that it follows; nothing for the embedding.
    pub after: Option<Place>,
    /// Mean over tokens of `|h - r| / |r|`.
    pub relative_error: f64,
    /// Mean over tokens of the cosine of h and r.
    pub cosine: f64,
}

/// How far the hidden states are from the reference's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hidden {
    /// Tokens compared.
    pub tokens: usize,
    /// In the order of execution; blocks that were pruned have none.
    pub states: Vec<StateError>,
}

/// The result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Tokens scored.
    pub tokens: usize,
    /// Mean negative log-likelihood of a token, nats.
    pub mean_nll: f64,
    /// Its exponential.
    pub perplexity: f64,
    /// The distance from the reference, if there was one.
    #[serde(flatten)]
    pub divergence: Option<Divergence>,
    /// The distance from the first model, of each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_first: Option<Divergence>,
    /// The distance of hidden states, if there was a reference of the same width.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<Hidden>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// Too little to score.
    #[error("the text has {tokens} tokens; at least 2 are needed")]
    TooShort {
        /// Tokens.
        tokens: usize,
    },
    /// The window does not fit the model.
    #[error(
        "a window of {window} tokens does not fit the model's context of {context}; choose a \
         smaller --window"
    )]
    Window {
        /// Tokens of a window.
        window: usize,
        /// Positions of the model.
        context: usize,
    },
    /// A token that the model does not have.
    #[error(
        "token {token} is not one of the model's {vocab}: encode the text with the model's own \
         tokenizer"
    )]
    Token {
        /// The token.
        token: u32,
        /// Tokens of the model.
        vocab: usize,
    },
    /// The reference has another vocabulary.
    #[error(
        "the reference has {got} logits for a position, the model {want}: it is not the checkpoint \
         this file was made from"
    )]
    Vocabulary {
        /// Logits expected.
        want: usize,
        /// Logits found.
        got: usize,
    },
    /// Another model has another vocabulary.
    #[error(
        "the other model has {got} logits for a position, the first {want}: they predict different \
         tokens"
    )]
    OtherVocabulary {
        /// Logits of the first.
        want: usize,
        /// Logits found.
        got: usize,
    },
    /// The reference does not continue texts.
    #[error(
        "the reference does not predict the next token of a text, so a text says nothing of it: \
         give a decoder's checkpoint"
    )]
    Kind,
    /// The reference could not be run.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The model could not be run.
    #[error("{0}")]
    Run(String),
}

impl EvaluateError {
    pub(crate) fn run(error: impl std::fmt::Display) -> Self {
        Self::Run(error.to_string())
    }
}

/// Something else that predicts the next token, such as another program, to be measured beside the
/// models on the same tokens.
pub trait Peer: Send {
    /// The logits after each token of a sequence, `vocab` numbers for each, one after the other.
    ///
    /// # Errors
    /// What went wrong, with the name of the peer.
    fn logits(&mut self, tokens: &[u32], vocab: usize) -> std::io::Result<Vec<f32>>;
}

/// Evaluates `model` on `tokens`. `progress` is called with tokens done, which add up to those of
/// the text.
pub fn evaluate(
    model: &Model<'_>,
    isa: Isa,
    tokens: &[u32],
    protocol: Protocol,
    reference: Option<&Reference<'_>>,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Evaluation, EvaluateError> {
    let mut all = evaluate_all(&[*model], isa, tokens, protocol, reference, progress)?;
    Ok(all.remove(0))
}

/// Evaluates several models on the same tokens, in one run, and measures the distance of each from
/// the first.
///
/// # Panics
/// Without a model.
pub fn evaluate_all(
    models: &[Model<'_>],
    isa: Isa,
    tokens: &[u32],
    protocol: Protocol,
    reference: Option<&Reference<'_>>,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Evaluation>, EvaluateError> {
    evaluate_beside(models, vec![], isa, tokens, protocol, reference, progress)
}

/// The same with peers, whose results follow those of the models and have no hidden states.
///
/// # Panics
/// Without a model.
pub fn evaluate_beside(
    models: &[Model<'_>],
    peers: Vec<Box<dyn Peer>>,
    isa: Isa,
    tokens: &[u32],
    protocol: Protocol,
    reference: Option<&Reference<'_>>,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Evaluation>, EvaluateError> {
    if tokens.len() < 2 {
        return Err(EvaluateError::TooShort { tokens: tokens.len() });
    }
    let want = models[0].outputs();
    if let Some(got) = models.iter().map(Model::outputs).find(|&got| got != want) {
        return Err(EvaluateError::OtherVocabulary { want, got });
    }
    let causal =
        |r: &Reference<'_>| r.architecture().stacks.len() == 1 && r.architecture().is_causal();
    if !reference.is_none_or(causal) {
        return Err(EvaluateError::Kind);
    }
    if let Some(got) = reference.map(|r| r.architecture().outputs()).filter(|&got| got != want) {
        return Err(EvaluateError::Vocabulary { want, got });
    }
    if let Some(&token) = tokens.iter().chain(&protocol.bos).find(|&&token| token as usize >= want)
    {
        return Err(EvaluateError::Token { token, vocab: want });
    }
    let window = protocol.window.min(tokens.len());
    if let Some(context) =
        models.iter().map(Model::context).find(|&context| window == 0 || window > context)
    {
        return Err(EvaluateError::Window { window, context });
    }
    let windows: Vec<Window<'_>> =
        tokens.chunks(window).map(|chunk| Window::new(chunk, protocol.bos)).collect();
    let peers: Vec<_> = peers.into_iter().map(Mutex::new).collect();
    let machine =
        Machine::new(models, &peers, isa, (window, protocol.int4_values), reference, progress)?;
    let mut totals = vec![Score::default(); models.len() + peers.len()];
    for scores in machine.run(&windows)? {
        totals.iter_mut().zip(scores).for_each(|(total, score)| total.add(score));
    }
    Ok(totals.into_iter().map(|total| total.finish()).collect())
}
