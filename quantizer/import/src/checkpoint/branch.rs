//! Branches as checkpoints have them, a tensor for each product, and the blocks that they become.

use kinglet_model::description::Attention;
use kinglet_model::{Activation, Inputs, Mask, Operation, Residual};

use super::architecture::{Block, Linear, Named, Norm, Product, Relative, Rope, Values};

/// What a block computes.
#[expect(clippy::large_enum_variant, reason = "half of all blocks are of the larger kind")]
pub enum Branch {
    /// Attention.
    Attention(AttentionBranch),
    /// A feed-forward.
    FeedForward(FeedForwardBranch),
    /// One product.
    Projection(Product),
}

/// Attention with grouped heads.
pub struct AttentionBranch {
    /// `heads * head_dim` rows.
    pub query: Product,
    /// `kv_heads * head_dim` rows; its columns are those of the states where these are read.
    pub key: Product,
    /// As `key`.
    pub value: Product,
    /// Back to the width of the stream.
    pub output: Product,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Numbers in a head.
    pub head_dim: usize,
    /// Factor of the scores before the softmax.
    pub score_scale: f32,
    /// Norm of each query head, before the rotation.
    pub query_norm: Option<Norm>,
    /// Norm of each key head, before the rotation.
    pub key_norm: Option<Norm>,
    /// Rotary positions.
    pub rope: Option<Rope>,
    /// What queries see.
    pub mask: Mask,
    /// What is added to the scaled scores.
    pub relative: Option<Relative>,
}

/// A feed-forward: `down * (activation(gate * x) .* (up * x))`, or without a gate `down *
/// activation(up * x)`.
pub struct FeedForwardBranch {
    /// Passes through the activation.
    pub gate: Option<Product>,
    /// Is multiplied by it; passes through it where there is no gate.
    pub up: Product,
    /// Back to the width of the stream.
    pub down: Product,
    /// The activation.
    pub activation: Activation,
}

impl Branch {
    /// The block of this branch.
    pub fn block(self, layer: usize, norm: Option<Norm>, residual: Residual<Values>) -> Block {
        let (input, states, operation, output) = match self {
            Self::Attention(a) => {
                let operation = Operation::Attention(Attention::<Named> {
                    heads: a.heads,
                    kv_heads: a.kv_heads,
                    head_dim: a.head_dim,
                    score_scale: a.score_scale,
                    mask: a.mask,
                    query_norm: a.query_norm,
                    key_norm: a.key_norm,
                    rope: a.rope,
                    relative: a.relative,
                    head_inputs: Inputs::Rounded,
                });
                let (input, states) = match a.mask {
                    Mask::Cross => (vec![a.query], Some(Linear { parts: vec![a.key, a.value] })),
                    _ => (vec![a.query, a.key, a.value], None),
                };
                (Some(Linear { parts: input }), states, operation, a.output)
            }
            Self::FeedForward(f) => {
                let (activation, gated) = (f.activation, f.gate.is_some());
                let parts = f.gate.into_iter().chain([f.up]).collect();
                let operation = Operation::FeedForward { activation, gated };
                (Some(Linear { parts }), None, operation, f.down)
            }
            Self::Projection(output) => (None, None, Operation::Projection, output),
        };
        let output = output.into();
        Block { layer, norm, residual, input, states, operation, output }
    }
}
