//! The f32 forward pass of a checkpoint: what quantization is measured against.
//!
//! A whole sequence at once, in plain f32 arithmetic. All weights are held as f32. The result does not depend on
//! the number of threads: one sequence is computed by one thread, and callers run several sequences side by side.

mod layers;

use crate::checkpoint::{Block, Checkpoint, CheckpointError, Linear, Norm, TensorRef};
use layers::{Matrix, attend, gate, rms_norm, rotate};

/// A checkpoint with its weights in memory.
#[derive(Debug)]
pub struct Reference<'c> {
    checkpoint: &'c Checkpoint,
    embed: Matrix,
    /// `None` where it is the embedding.
    head: Option<Matrix>,
    norm: NormWeights,
    blocks: Vec<BlockWeights>,
}

#[derive(Debug)]
struct NormWeights {
    weight: Vec<f32>,
    eps: f32,
}

#[derive(Debug)]
struct LinearWeights {
    weight: Matrix,
    bias: Option<Vec<f32>>,
}

/// The weights of a block, in the order of its description.
#[derive(Debug)]
struct BlockWeights {
    norm: NormWeights,
    linears: Vec<LinearWeights>,
    head_norms: [Option<NormWeights>; 2],
}

impl<'c> Reference<'c> {
    /// Reads all weights.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn new(checkpoint: &'c Checkpoint) -> Result<Self, CheckpointError> {
        let architecture = checkpoint.architecture();
        let head = (!architecture.tied()).then(|| matrix(checkpoint, &architecture.head)).transpose()?;
        Ok(Self {
            checkpoint,
            embed: matrix(checkpoint, &architecture.embed)?,
            head,
            norm: norm(checkpoint, &architecture.final_norm)?,
            blocks: architecture.blocks.iter().map(|b| block(checkpoint, b)).collect::<Result<_, _>>()?,
        })
    }

    /// Logits of every position of a sequence, one row of the vocabulary after the other.
    ///
    /// # Panics
    /// When a token is not in the vocabulary.
    pub fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let architecture = self.checkpoint.architecture();
        let width = architecture.width;
        let mut x: Vec<f32> = tokens.iter().flat_map(|&t| self.embed.row(t as usize)).copied().collect();
        for (block, weights) in architecture.blocks.iter().zip(&self.blocks) {
            let normed = weights.norm.apply(&x, width);
            let y = match block {
                Block::Attention(a) => {
                    let [q, k, v, o] = &weights.linears[..] else { unreachable!("attention has four matrices") };
                    let (mut q, mut k, v) = (q.apply(&normed), k.apply(&normed), v.apply(&normed));
                    for (heads, norm) in [(&mut q, &weights.head_norms[0]), (&mut k, &weights.head_norms[1])] {
                        if let Some(norm) = norm {
                            *heads = norm.apply(heads, a.head_dim);
                        }
                    }
                    rotate(&mut q, a.heads, a.head_dim, &a.rope);
                    rotate(&mut k, a.kv_heads, a.head_dim, &a.rope);
                    o.apply(&attend(a, &q, &k, &v))
                }
                Block::FeedForward(f) => {
                    let [g, u, d] = &weights.linears[..] else { unreachable!("feed-forward has three matrices") };
                    let mut gated = g.apply(&normed);
                    gate(f.activation, &mut gated, &u.apply(&normed));
                    d.apply(&gated)
                }
            };
            x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
        }
        self.head.as_ref().unwrap_or(&self.embed).apply(&self.norm.apply(&x, width))
    }
}

impl NormWeights {
    fn apply(&self, x: &[f32], width: usize) -> Vec<f32> {
        rms_norm(x, width, &self.weight, self.eps)
    }
}

impl LinearWeights {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut y = self.weight.apply(x);
        if let Some(bias) = &self.bias {
            for row in y.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
        y
    }
}

fn matrix(checkpoint: &Checkpoint, tensor: &TensorRef) -> Result<Matrix, CheckpointError> {
    Ok(Matrix::new(tensor.cols(), checkpoint.read(tensor)?))
}

fn norm(checkpoint: &Checkpoint, norm: &Norm) -> Result<NormWeights, CheckpointError> {
    Ok(NormWeights { weight: checkpoint.read(&norm.weight)?, eps: norm.eps })
}

fn linear(checkpoint: &Checkpoint, linear: &Linear) -> Result<LinearWeights, CheckpointError> {
    let bias = linear.bias.as_ref().map(|bias| checkpoint.read(bias)).transpose()?;
    Ok(LinearWeights { weight: matrix(checkpoint, &linear.weight)?, bias })
}

fn block(checkpoint: &Checkpoint, block: &Block) -> Result<BlockWeights, CheckpointError> {
    let optional = |n: &Option<Norm>| n.as_ref().map(|n| norm(checkpoint, n)).transpose();
    let (first, linears, head_norms) = match block {
        Block::Attention(a) => {
            let head_norms = [optional(&a.query_norm)?, optional(&a.key_norm)?];
            (&a.norm, vec![&a.query, &a.key, &a.value, &a.output], head_norms)
        }
        Block::FeedForward(f) => (&f.norm, vec![&f.gate, &f.up, &f.down], [None, None]),
    };
    let linears = linears.into_iter().map(|l| linear(checkpoint, l)).collect::<Result<_, _>>()?;
    Ok(BlockWeights { norm: norm(checkpoint, first)?, linears, head_norms })
}
