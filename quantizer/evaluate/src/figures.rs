//! What is measured, and on what.

use kinglet_import::checkpoint::Architecture;
use kinglet_model::{Mask, Operation, Parts};
use serde::{Deserialize, Serialize};

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
