//! Weights as f32, a block at a time, in the shape in which the runtime has them: `f(x) =
//! output(middle(input(norm(x)), memory))`, and x joins the result as the block says.
//!
//! A block says all that is needed to run it, so a pruned or rounded one runs as any other.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use kinglet::format::layout::inputs;
use serde::{Deserialize, Serialize};

use super::batch::Sequences;
use super::{Site, attention, ops, product};
use crate::checkpoint::{
    self, Activation, Architecture, Block, Checkpoint, CheckpointError, Join, Linear, Norm,
    NormKind, Relative, Rope, Sight,
};

/// A norm.
#[derive(Debug, Clone, PartialEq)]
pub struct NormWeights {
    /// What is divided by what.
    pub kind: NormKind,
    /// One number for each of the inputs.
    pub weight: Vec<f32>,
    /// One number for each of the inputs.
    pub bias: Option<Vec<f32>>,
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
    /// What inputs go through first.
    pub inputs: Inputs,
}

/// What the inputs of a product go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inputs {
    /// Nothing.
    Exact,
    /// They are rounded to int8 with one scale a token, as the runtime does.
    Rounded,
    /// They are transformed ([`kinglet_kernels::scalar::transforms`]), then rounded. The rows of
    /// the weights are transformed, too.
    Transformed,
    /// They are rounded to two planes of int8: the second has what the first leaves out.
    Planes,
}

impl Inputs {
    /// What files call it.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Exact | Self::Rounded => inputs::PLAIN,
            Self::Transformed => inputs::TRANSFORMED,
            Self::Planes => inputs::PLANES,
        }
    }

    /// Rows of `cols` numbers behind all that.
    pub(crate) fn prepare<'x>(self, x: &'x [f32], cols: usize) -> Cow<'x, [f32]> {
        match self {
            Self::Exact => Cow::Borrowed(x),
            Self::Rounded => Cow::Owned(ops::rounded(x, cols)),
            Self::Transformed => Cow::Owned(ops::rounded(&ops::transformed(x, cols), cols)),
            Self::Planes => {
                let mut high = ops::rounded(x, cols);
                let left: Vec<f32> = x.iter().zip(&high).map(|(x, high)| x - high).collect();
                ops::add(&mut high, &ops::rounded(&left, cols));
                Cow::Owned(high)
            }
        }
    }
}

/// The weights of one block.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockWeights {
    /// The norm before the branch.
    pub norm: Option<NormWeights>,
    /// How the branch joins the stream.
    pub join: Join,
    /// With [`Join::Post`] the norm of the stream itself: in a checkpoint it is that of the branch,
    /// until that takes in factors or offsets.
    pub stream_norm: Option<NormWeights>,
    /// From the stream. Attention: rows of all query heads, then (unless they are the memory's) key
    /// heads, then value heads. Feed-forward: gate, if there is one, then up. A projection has
    /// none.
    pub input: Option<LinearWeights>,
    /// From the states of the stack before: rows of all key heads, then value heads.
    pub memory: Option<LinearWeights>,
    /// What happens between the products.
    pub middle: Middle,
    /// Back to the stream.
    pub output: LinearWeights,
}

/// What a block does between its two products.
#[derive(Debug, Clone, PartialEq)]
pub enum Middle {
    /// Attention.
    Attention(Heads),
    /// `activation(gate) .* up`, or `activation(up)`.
    FeedForward {
        /// The activation.
        activation: Activation,
        /// Whether there is a gate.
        gated: bool,
    },
    /// Nothing: there is one product only.
    Projection,
}

impl Middle {
    /// What the last product sees: from the outputs of the first, and of the memory's.
    pub fn mix(
        &self,
        sequences: Sequences<'_>,
        mut projected: Vec<f32>,
        memory: Vec<f32>,
    ) -> Vec<f32> {
        match self {
            Self::Attention(heads) if heads.sight == Sight::Cross => {
                let mut memory = memory;
                attention::turn_queries(heads, sequences.lengths, &mut projected);
                attention::turn_keys(heads, sequences.memory_lengths, &mut memory);
                attention::attend(heads, sequences, &projected, &memory)
            }
            Self::Attention(heads) => {
                attention::turn(heads, sequences.lengths, &mut projected);
                attention::attend(heads, sequences, &projected, &projected)
            }
            Self::FeedForward { activation, gated: true } => {
                let both = projected.len() / sequences.lengths.iter().sum::<usize>().max(1);
                ops::gate(*activation, &projected, both / 2)
            }
            Self::FeedForward { activation, gated: false } => {
                ops::activate_all(*activation, &mut projected);
                projected
            }
            Self::Projection => projected,
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
    /// What queries see.
    pub sight: Sight,
    /// What is added to the scaled scores: for each query head `2 * reach + 1` numbers, that of a
    /// key at its query's own position in the middle, later keys behind it; keys further away than
    /// the reach have the outermost.
    pub relative: Option<Arc<Vec<f32>>>,
    /// Whether the runtime transforms queries and keys of each head behind the rotation. No score
    /// changes but for rounding.
    pub transforms: bool,
}

impl Heads {
    /// Columns of queries among the outputs of the first product; they are also those of the
    /// result.
    pub fn queries(&self) -> Range<usize> {
        0..self.heads * self.dim
    }

    /// Columns of keys, among the outputs of the first product or of the memory's.
    pub fn keys(&self) -> Range<usize> {
        let start = if self.sight == Sight::Cross { 0 } else { self.heads * self.dim };
        start..start + self.kv_heads * self.dim
    }

    /// Columns of values, behind those of keys.
    pub fn values(&self) -> Range<usize> {
        let start = self.keys().end;
        start..start + self.kv_heads * self.dim
    }

    /// Query heads that share a key and value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The relative numbers of a query head.
    pub(crate) fn relative_of(&self, head: usize) -> Option<&[f32]> {
        let table = self.relative.as_ref()?;
        table.chunks(table.len() / self.heads).nth(head)
    }
}

/// The numbers of a table in buckets at each distance, a row for each head.
fn expanded(
    checkpoint: &Checkpoint,
    relative: &Relative,
) -> Result<Arc<Vec<f32>>, CheckpointError> {
    let (table, heads) = (checkpoint.read(&relative.table)?, relative.table.cols());
    let reach = relative.max_distance as isize;
    let of_head = |head: usize| {
        let (table, relative) = (&table, relative);
        (-reach..=reach).map(move |distance| table[relative.bucket(distance) * heads + head])
    };
    Ok(Arc::new((0..heads).flat_map(of_head).collect()))
}

impl NormWeights {
    pub(super) fn read(checkpoint: &Checkpoint, norm: &Norm) -> Result<Self, CheckpointError> {
        let bias = norm.bias.as_ref().map(|bias| checkpoint.read(bias)).transpose()?;
        Ok(Self { kind: norm.kind, weight: checkpoint.read(&norm.weight)?, bias, eps: norm.eps })
    }

    pub(crate) fn maybe(
        checkpoint: &Checkpoint,
        norm: &Option<Norm>,
    ) -> Result<Option<Self>, CheckpointError> {
        norm.as_ref().map(|norm| Self::read(checkpoint, norm)).transpose()
    }

    /// Its bias as files have it: a layer norm always has one there.
    pub(crate) fn stored_bias(&self) -> Option<Cow<'_, [f32]>> {
        match (&self.bias, self.kind) {
            (Some(bias), _) => Some(Cow::Borrowed(bias)),
            (None, NormKind::Layer) => Some(Cow::Owned(vec![0.0; self.weight.len()])),
            (None, NormKind::Rms) => None,
        }
    }

    /// Norms each run of as many numbers as there are weights.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut out = match self.kind {
            NormKind::Rms => ops::rms_norm(x, &self.weight, self.eps),
            NormKind::Layer => ops::layer_norm(x, &self.weight, self.eps),
        };
        if let Some(bias) = &self.bias {
            out.chunks_mut(bias.len()).for_each(|row| ops::add(row, bias));
        }
        out
    }
}

impl LinearWeights {
    /// Reads matrices that lie one below the other. Where only some have a bias, that of the others
    /// is zero.
    pub(super) fn read(
        checkpoint: &Checkpoint,
        parts: &[&Linear],
    ) -> Result<Self, CheckpointError> {
        let (mut weight, mut bias) = (vec![], vec![]);
        for part in parts {
            weight.append(&mut checkpoint.read(&part.weight)?);
            match &part.bias {
                Some(part) => bias.append(&mut checkpoint.read(part)?),
                None => bias.resize(bias.len() + part.rows(), 0.0),
            }
        }
        let bias = parts.iter().any(|part| part.bias.is_some()).then_some(bias);
        Ok(Self {
            weight,
            bias,
            cols: parts.first().map_or(1, |part| part.cols()),
            inputs: Inputs::Exact,
        })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.weight.len() / self.cols
    }

    /// The outputs for each row of inputs.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        self.outputs(&self.inputs.prepare(x, self.cols))
    }

    /// The outputs for inputs that went through all that they go through.
    pub(crate) fn outputs(&self, prepared: &[f32]) -> Vec<f32> {
        let mut y = product::rows_by_rows(prepared, &self.weight, self.cols);
        if let Some(bias) = &self.bias {
            for row in y.chunks_exact_mut(bias.len()) {
                ops::add(row, bias);
            }
        }
        y
    }
}

impl LinearWeights {
    /// The same product with transformed inputs.
    pub(crate) fn transformed(&self) -> Self {
        let weight = ops::transformed(&self.weight, self.cols);
        Self { weight, bias: self.bias.clone(), cols: self.cols, inputs: Inputs::Transformed }
    }

    /// The gradient of the inputs from that of the outputs.
    pub(crate) fn back(&self, gradient: &[f32]) -> Vec<f32> {
        let (rows, tokens) = (self.rows(), gradient.len() / self.rows());
        let mut inputs = vec![0.0; tokens * self.cols];
        let (gradient, weight) =
            (product::view(gradient, tokens, rows), product::view(&self.weight, rows, self.cols));
        product::multiply(gradient, weight, product::view_mut(&mut inputs, tokens, self.cols));
        // The transform is its own transpose.
        if self.inputs == Inputs::Transformed {
            ops::transformed(&inputs, self.cols)
        } else {
            inputs
        }
    }
}

impl BlockWeights {
    /// Reads the weights of a block.
    pub(super) fn read(checkpoint: &Checkpoint, block: &Block) -> Result<Self, CheckpointError> {
        let norm = NormWeights::maybe(checkpoint, &block.norm)?;
        let read = |parts: &[&Linear]| LinearWeights::read(checkpoint, parts);
        let (input, memory, middle, output) = match &block.middle {
            checkpoint::Middle::Attention(a) => {
                let (input, memory) = match a.sight {
                    Sight::Cross => (read(&[&a.query])?, Some(read(&[&a.key, &a.value])?)),
                    Sight::Earlier | Sight::All => (read(&[&a.query, &a.key, &a.value])?, None),
                };
                let heads = Heads {
                    heads: a.heads,
                    kv_heads: a.kv_heads,
                    dim: a.head_dim,
                    scale: a.scale,
                    query_norm: NormWeights::maybe(checkpoint, &a.query_norm)?,
                    key_norm: NormWeights::maybe(checkpoint, &a.key_norm)?,
                    rope: a.rope.clone(),
                    sight: a.sight,
                    relative: a
                        .relative
                        .as_ref()
                        .map(|relative| expanded(checkpoint, relative))
                        .transpose()?,
                    transforms: false,
                };
                (Some(input), memory, Middle::Attention(heads), read(&[&a.output])?)
            }
            checkpoint::Middle::FeedForward(f) => {
                let parts: Vec<&Linear> = f.gate.iter().chain([&f.up]).collect();
                let middle =
                    Middle::FeedForward { activation: f.activation, gated: f.gate.is_some() };
                (Some(read(&parts)?), None, middle, read(&[&f.down])?)
            }
            checkpoint::Middle::Projection(linear) => {
                (None, None, Middle::Projection, read(&[linear])?)
            }
        };
        let stream_norm = norm.clone().filter(|_| block.join == Join::Post);
        Ok(Self { norm, join: block.join, stream_norm, input, memory, middle, output })
    }

    /// What the first product sees.
    pub fn normed(&self, stream: &[f32]) -> Vec<f32> {
        self.norm.as_ref().map_or_else(|| stream.to_vec(), |norm| norm.apply(stream))
    }

    /// What the last product sees, from what the first does.
    pub fn mixed(&self, sequences: Sequences<'_>, normed: Vec<f32>) -> Vec<f32> {
        let projected = match &self.input {
            Some(input) => input.apply(&normed),
            None => normed,
        };
        let memory = self.memory.as_ref().map_or_else(Vec::new, |of| of.apply(sequences.memory));
        self.middle.mix(sequences, projected, memory)
    }

    /// The result of the branch.
    pub fn branch(&self, sequences: Sequences<'_>, stream: &[f32]) -> Vec<f32> {
        self.output.apply(&self.mixed(sequences, self.normed(stream)))
    }

    /// What the result of the branch is added to.
    pub fn base(&self, stream: &[f32]) -> Option<Vec<f32>> {
        base(self.join, self.stream_norm.as_ref(), stream)
    }

    /// The stream behind the block.
    pub fn advance(&self, sequences: Sequences<'_>, stream: &[f32]) -> Vec<f32> {
        joined(self.base(stream), self.branch(sequences, stream))
    }

    /// One of its products, if it has that.
    pub fn product(&self, site: Site) -> Option<&LinearWeights> {
        match site {
            Site::Input => self.input.as_ref(),
            Site::Memory => self.memory.as_ref(),
            Site::Output => Some(&self.output),
            Site::Head => None,
        }
    }

    /// The same, to be changed.
    pub fn product_mut(&mut self, site: Site) -> Option<&mut LinearWeights> {
        match site {
            Site::Input => self.input.as_mut(),
            Site::Memory => self.memory.as_mut(),
            Site::Output => Some(&mut self.output),
            Site::Head => None,
        }
    }

    /// The product that reads what the norm gives.
    pub fn reader(&self) -> Site {
        if self.input.is_some() { Site::Input } else { Site::Output }
    }
}

/// What a branch's result is added to; nothing where it replaces the stream.
pub(crate) fn base(
    join: Join,
    stream_norm: Option<&NormWeights>,
    stream: &[f32],
) -> Option<Vec<f32>> {
    match (join, stream_norm) {
        (Join::Replace, _) => None,
        (Join::Post, Some(norm)) => Some(norm.apply(stream)),
        (Join::Pre | Join::Post, _) => Some(stream.to_vec()),
    }
}

/// A branch's result added to that.
pub(crate) fn joined(base: Option<Vec<f32>>, branch: Vec<f32>) -> Vec<f32> {
    match base {
        None => branch,
        Some(mut base) => {
            ops::add(&mut base, &branch);
            base
        }
    }
}

/// Bytes of all blocks and the head as f32, near enough: vectors are left out.
pub(super) fn bytes(architecture: &Architecture) -> usize {
    let blocks = architecture.blocks().flat_map(Block::products).map(|linear| linear.weight.len());
    let head = architecture.output.head.as_ref().map_or(0, |head| head.weight.len());
    let numbers = blocks.fold(head, usize::saturating_add);
    numbers.saturating_mul(size_of::<f32>())
}
