//! What a checkpoint computes, in terms of layers.
//!
//! A model is an embedding, a stack of blocks, a final norm and a head. Each
//! block is one residual branch, `x <- x + f(norm(x))`, so attention and
//! feed-forward are two blocks; nothing here says which family they came from,
//! except a name to show. Blocks name their tensors; the numbers stay in the
//! checkpoint's files until [`Checkpoint::read_rows`](super::Checkpoint::read_rows).
//!
//! Invariants of every value made by this crate: all sizes are at least 1,
//! each tensor exists with the shape given, the shapes of a block agree with
//! each other, `kv_heads` divides `heads`, and `head_dim` is even.

use std::sync::Arc;

/// The model.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// The family it came from ("llama", "qwen3", ...), for people.
    pub family: String,
    /// Numbers in the residual stream.
    pub width: usize,
    /// Rows of embedding and head.
    pub vocab: usize,
    /// The longest sequence.
    pub context: usize,
    /// One row of `width` numbers for each token.
    pub embed: TensorRef,
    /// The stack, in order.
    pub blocks: Vec<Block>,
    /// The norm before the head.
    pub final_norm: Norm,
    /// One row of `width` numbers for each token; equals `embed` when they are tied.
    pub head: TensorRef,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The tokens that end a text.
    pub eos: Vec<u32>,
}

impl Architecture {
    /// Whether embedding and head are the same tensor.
    pub fn tied(&self) -> bool {
        self.embed == self.head
    }
}

/// A tensor of a checkpoint: a matrix, or a vector as a matrix of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorRef {
    pub(super) name: String,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) order: Order,
}

/// Which rows of the file are those of the tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// All, as they lie.
    Stored,
    /// All. The file has them in the order of the interleaved pairing, for heads
    /// of so many; they are read in that of [`Rope`].
    Interleaved(usize),
    /// These, ascending.
    Chosen(Arc<[u32]>),
}

impl TensorRef {
    /// Its name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Rows; 1 for a vector.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Numbers in all.
    pub fn len(&self) -> usize {
        // Cannot saturate: the tensor lies within a file of the checkpoint.
        self.rows.saturating_mul(self.cols)
    }

    /// Never: sizes are at least 1.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A root-mean-square norm: `x / sqrt(mean(x^2) + eps) * weight`.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// One number for each of the inputs.
    pub weight: TensorRef,
    /// Keeps the division finite.
    pub eps: f32,
}

/// A matrix product with an optional bias: `weight * x + bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// One row for each output, one column for each input.
    pub weight: TensorRef,
    /// One number for each output.
    pub bias: Option<TensorRef>,
}

impl Linear {
    /// Outputs.
    pub fn rows(&self) -> usize {
        self.weight.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.weight.cols
    }
}

/// One residual branch.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "half of all blocks are of the larger kind, and there are few")]
pub enum Block {
    /// Causal self-attention.
    Attention(Attention),
    /// A gated feed-forward.
    FeedForward(FeedForward),
}

impl Block {
    /// The layer of the checkpoint it belongs to.
    pub fn layer(&self) -> usize {
        match self {
            Self::Attention(attention) => attention.layer,
            Self::FeedForward(feed_forward) => feed_forward.layer,
        }
    }

    /// Its matrix products: those of the stream first, the one back to it last.
    pub fn products(&self) -> Vec<&Linear> {
        match self {
            Self::Attention(a) => vec![&a.query, &a.key, &a.value, &a.output],
            Self::FeedForward(f) => vec![&f.gate, &f.up, &f.down],
        }
    }
}

/// Causal self-attention with grouped heads and rotary positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// The layer of the checkpoint it belongs to.
    pub layer: usize,
    /// The norm before it.
    pub norm: Norm,
    /// `heads * head_dim` rows.
    pub query: Linear,
    /// `kv_heads * head_dim` rows.
    pub key: Linear,
    /// `kv_heads * head_dim` rows.
    pub value: Linear,
    /// Back to the width of the stream.
    pub output: Linear,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; query head `h` reads number `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Numbers in a head.
    pub head_dim: usize,
    /// Factor of the scores before the softmax.
    pub scale: f32,
    /// Norm of each query head, before the rotation.
    pub query_norm: Option<Norm>,
    /// Norm of each key head, before the rotation.
    pub key_norm: Option<Norm>,
    /// Rotary positions.
    pub rope: Rope,
}

/// Rotary positions in the half-split pairing: of a head's first
/// `2 * inv_freq.len()` numbers, `i` and `i + inv_freq.len()` turn together.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Radians for each position, pair by pair.
    pub inv_freq: Vec<f64>,
    /// Factor of both sine and cosine.
    pub magnitude: f32,
}

/// A gated feed-forward: `down * (activation(gate * x) .* (up * x))`.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedForward {
    /// The layer of the checkpoint it belongs to.
    pub layer: usize,
    /// The norm before it.
    pub norm: Norm,
    /// Passes through the activation.
    pub gate: Linear,
    /// Is multiplied by it.
    pub up: Linear,
    /// Back to the width of the stream.
    pub down: Linear,
    /// The activation of the gate.
    pub activation: Activation,
}

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x * (1 + erf(x / sqrt(2))) / 2`.
    Gelu,
    /// GELU by the hyperbolic tangent of a cubic.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}
