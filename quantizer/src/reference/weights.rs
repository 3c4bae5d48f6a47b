//! Weights as f32, a block at a time.

use super::{ops, product};
use crate::checkpoint::{Architecture, Attention, Block, Checkpoint, CheckpointError, FeedForward, Linear, Norm};

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
}

/// The weights of one block.
#[derive(Debug, Clone, PartialEq)]
pub enum BlockWeights {
    /// Of attention.
    Attention(AttentionWeights),
    /// Of a feed-forward.
    FeedForward(FeedForwardWeights),
}

/// The weights of [`Attention`].
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are those of the block")]
pub struct AttentionWeights {
    pub norm: NormWeights,
    pub query: LinearWeights,
    pub key: LinearWeights,
    pub value: LinearWeights,
    pub output: LinearWeights,
    pub query_norm: Option<NormWeights>,
    pub key_norm: Option<NormWeights>,
}

/// The weights of [`FeedForward`].
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are those of the block")]
pub struct FeedForwardWeights {
    pub norm: NormWeights,
    pub gate: LinearWeights,
    pub up: LinearWeights,
    pub down: LinearWeights,
}

impl NormWeights {
    fn read(checkpoint: &Checkpoint, norm: &Norm) -> Result<Self, CheckpointError> {
        Ok(Self { weight: checkpoint.read(&norm.weight)?, eps: norm.eps })
    }

    fn maybe(checkpoint: &Checkpoint, norm: &Option<Norm>) -> Result<Option<Self>, CheckpointError> {
        norm.as_ref().map(|norm| Self::read(checkpoint, norm)).transpose()
    }

    /// Norms each run of as many numbers as there are weights.
    pub(super) fn apply(&self, x: &[f32]) -> Vec<f32> {
        ops::rms_norm(x, &self.weight, self.eps)
    }
}

impl LinearWeights {
    fn read(checkpoint: &Checkpoint, linear: &Linear) -> Result<Self, CheckpointError> {
        let bias = linear.bias.as_ref().map(|bias| checkpoint.read(bias)).transpose()?;
        Ok(Self { weight: checkpoint.read(&linear.weight)?, bias, cols: linear.cols() })
    }

    /// The outputs for each row of inputs.
    pub(super) fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut y = product::rows_by_rows(x, &self.weight, self.cols);
        if let Some(bias) = &self.bias {
            for row in y.chunks_exact_mut(bias.len()) {
                ops::add(row, bias);
            }
        }
        y
    }
}

impl BlockWeights {
    /// Reads the weights of a block.
    pub(super) fn read(checkpoint: &Checkpoint, block: &Block) -> Result<Self, CheckpointError> {
        match block {
            Block::Attention(attention) => Ok(Self::Attention(AttentionWeights::read(checkpoint, attention)?)),
            Block::FeedForward(feed_forward) => {
                Ok(Self::FeedForward(FeedForwardWeights::read(checkpoint, feed_forward)?))
            }
        }
    }
}

impl AttentionWeights {
    fn read(checkpoint: &Checkpoint, attention: &Attention) -> Result<Self, CheckpointError> {
        Ok(Self {
            norm: NormWeights::read(checkpoint, &attention.norm)?,
            query: LinearWeights::read(checkpoint, &attention.query)?,
            key: LinearWeights::read(checkpoint, &attention.key)?,
            value: LinearWeights::read(checkpoint, &attention.value)?,
            output: LinearWeights::read(checkpoint, &attention.output)?,
            query_norm: NormWeights::maybe(checkpoint, &attention.query_norm)?,
            key_norm: NormWeights::maybe(checkpoint, &attention.key_norm)?,
        })
    }
}

impl FeedForwardWeights {
    fn read(checkpoint: &Checkpoint, feed_forward: &FeedForward) -> Result<Self, CheckpointError> {
        Ok(Self {
            norm: NormWeights::read(checkpoint, &feed_forward.norm)?,
            gate: LinearWeights::read(checkpoint, &feed_forward.gate)?,
            up: LinearWeights::read(checkpoint, &feed_forward.up)?,
            down: LinearWeights::read(checkpoint, &feed_forward.down)?,
        })
    }
}

/// Bytes of all blocks and the head as f32, near enough: vectors are left out.
pub(super) fn bytes(architecture: &Architecture) -> usize {
    let blocks = architecture.blocks.iter().map(|block| match block {
        Block::Attention(a) => [&a.query, &a.key, &a.value, &a.output].map(|linear| linear.weight.len()).iter().sum(),
        Block::FeedForward(f) => [&f.gate, &f.up, &f.down].map(|linear| linear.weight.len()).iter().sum(),
    });
    let numbers = blocks.fold(architecture.head.len(), usize::saturating_add);
    numbers.saturating_mul(size_of::<f32>())
}
