//! Weights as f32, a block at a time, in the shape in which the runtime has them: `x += output(middle(input(norm(x))))`.
//!
//! A block says all that is needed to run it, so a pruned or rounded one runs as any other.

use std::ops::Range;

use super::{attention, ops, product};
use crate::checkpoint::{self, Activation, Architecture, Block, Checkpoint, CheckpointError, Linear, Norm, Rope};

/// A norm.
#[derive(Debug, Clone, PartialEq)]
pub struct NormWeights {
    /// One number for each of the inputs.
    pub weight: Vec<f32>,
    /// Keeps the division finite.
    pub eps: f32,
}

/// A matrix product with an optional bias.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearWeights {
    /// Row after row, a row for each output.
    pub weight: Vec<f32>,
    /// One number for each output.
    pub bias: Option<Vec<f32>>,
    /// Inputs.
    pub cols: usize,
    /// Whether inputs are rounded to int8 with one scale a token, as the runtime does.
    pub rounds: bool,
}

/// The weights of one block.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockWeights {
    /// The norm before the branch.
    pub norm: NormWeights,
    /// From the stream. Attention: rows of all query heads, then key heads, then value heads. Feed-forward: gate, then up.
    pub input: LinearWeights,
    /// What happens between the products.
    pub middle: Middle,
    /// Back to the stream.
    pub output: LinearWeights,
}

/// What a block does between its two products.
#[derive(Debug, Clone, PartialEq)]
pub enum Middle {
    /// Causal self-attention.
    Attention(Heads),
    /// `activation(gate) .* up`.
    FeedForward(Activation),
}

impl Middle {
    /// What the second product sees: from the outputs of the first, for sequences of these lengths.
    pub fn mix(&self, lengths: &[usize], mut projected: Vec<f32>) -> Vec<f32> {
        match self {
            Self::Attention(heads) => {
                attention::turn(heads, lengths, &mut projected);
                attention::attend(heads, lengths, &projected)
            }
            Self::FeedForward(activation) => {
                let both = projected.len() / lengths.iter().sum::<usize>().max(1);
                ops::gate(*activation, &projected, both / 2)
            }
        }
    }
}

/// Attention's heads.
#[derive(Debug, Clone, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; query head `h` reads number `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Numbers in a head.
    pub dim: usize,
    /// Factor of the scores before the softmax.
    pub scale: f32,
    /// Norm of each query head, before the rotation.
    pub query_norm: Option<NormWeights>,
    /// Norm of each key head, before the rotation.
    pub key_norm: Option<NormWeights>,
    /// Rotary positions.
    pub rope: Option<Rope>,
}

impl Heads {
    /// Columns of queries among the outputs of the first product; they are also those of the result.
    pub fn queries(&self) -> Range<usize> {
        0..self.heads * self.dim
    }

    /// Columns of keys.
    pub fn keys(&self) -> Range<usize> {
        self.heads * self.dim..(self.heads + self.kv_heads) * self.dim
    }

    /// Columns of values.
    pub fn values(&self) -> Range<usize> {
        (self.heads + self.kv_heads) * self.dim..(self.heads + 2 * self.kv_heads) * self.dim
    }

    /// Query heads that share a key and value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

impl NormWeights {
    pub(super) fn read(checkpoint: &Checkpoint, norm: &Norm) -> Result<Self, CheckpointError> {
        Ok(Self { weight: checkpoint.read(&norm.weight)?, eps: norm.eps })
    }

    pub(super) fn maybe(checkpoint: &Checkpoint, norm: &Option<Norm>) -> Result<Option<Self>, CheckpointError> {
        norm.as_ref().map(|norm| Self::read(checkpoint, norm)).transpose()
    }

    /// Norms each run of as many numbers as there are weights.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        ops::rms_norm(x, &self.weight, self.eps)
    }
}

impl LinearWeights {
    /// Reads matrices that lie one below the other. Where only some have a bias, that of the others is zero.
    fn read(checkpoint: &Checkpoint, parts: &[&Linear]) -> Result<Self, CheckpointError> {
        let (mut weight, mut bias) = (vec![], vec![]);
        for part in parts {
            weight.append(&mut checkpoint.read(&part.weight)?);
            match &part.bias {
                Some(part) => bias.append(&mut checkpoint.read(part)?),
                None => bias.resize(bias.len() + part.rows(), 0.0),
            }
        }
        let bias = parts.iter().any(|part| part.bias.is_some()).then_some(bias);
        Ok(Self { weight, bias, cols: parts.first().map_or(1, |part| part.cols()), rounds: false })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.weight.len() / self.cols
    }

    /// The outputs for each row of inputs.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut y = match self.rounds {
            true => product::rows_by_rows(&ops::rounded(x, self.cols), &self.weight, self.cols),
            false => product::rows_by_rows(x, &self.weight, self.cols),
        };
        if let Some(bias) = &self.bias {
            for row in y.chunks_exact_mut(bias.len()) {
                ops::add(row, bias);
            }
        }
        y
    }
}

impl LinearWeights {
    /// The gradient of the inputs from that of the outputs.
    pub(crate) fn back(&self, gradient: &[f32]) -> Vec<f32> {
        let (rows, tokens) = (self.rows(), gradient.len() / self.rows());
        let mut inputs = vec![0.0; tokens * self.cols];
        let (gradient, weight) = (product::view(gradient, tokens, rows), product::view(&self.weight, rows, self.cols));
        product::multiply(gradient, weight, product::view_mut(&mut inputs, tokens, self.cols));
        inputs
    }
}

impl BlockWeights {
    /// Reads the weights of a block.
    pub(super) fn read(checkpoint: &Checkpoint, block: &Block) -> Result<Self, CheckpointError> {
        let norm = NormWeights::maybe(checkpoint, &block.norm)?.expect("a norm");
        Ok(match &block.middle {
            checkpoint::Middle::Attention(a) => Self {
                norm,
                input: LinearWeights::read(checkpoint, &[&a.query, &a.key, &a.value])?,
                middle: Middle::Attention(Heads {
                    heads: a.heads,
                    kv_heads: a.kv_heads,
                    dim: a.head_dim,
                    scale: a.scale,
                    query_norm: NormWeights::maybe(checkpoint, &a.query_norm)?,
                    key_norm: NormWeights::maybe(checkpoint, &a.key_norm)?,
                    rope: a.rope.clone(),
                }),
                output: LinearWeights::read(checkpoint, &[&a.output])?,
            },
            checkpoint::Middle::FeedForward(f) => Self {
                norm,
                input: LinearWeights::read(checkpoint, &[f.gate.as_ref().expect("a gate"), &f.up])?,
                middle: Middle::FeedForward(f.activation),
                output: LinearWeights::read(checkpoint, &[&f.down])?,
            },
            checkpoint::Middle::Projection(_) => unimplemented!("no importer gives it yet"),
        })
    }

    /// What the branch adds to the stream.
    pub fn branch(&self, lengths: &[usize], stream: &[f32]) -> Vec<f32> {
        self.output.apply(&self.middle.mix(lengths, self.input.apply(&self.norm.apply(stream))))
    }
}

/// Bytes of all blocks and the head as f32, near enough: vectors are left out.
pub(super) fn bytes(architecture: &Architecture) -> usize {
    let blocks = architecture.blocks().flat_map(Block::products).map(|linear| linear.weight.len());
    let head = architecture.output.head.as_ref().map_or(0, |head| head.weight.len());
    let numbers = blocks.fold(head, usize::saturating_add);
    numbers.saturating_mul(size_of::<f32>())
}
