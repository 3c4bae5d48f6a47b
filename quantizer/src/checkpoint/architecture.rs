//! What a checkpoint computes, in terms of layers.
//!
//! A model is a chain of stacks. Each stack turns its input into a residual stream of its own
//! width, takes it through its blocks and perhaps a final norm; the next goes on from there, or
//! attends to those states (its *memory*). A decoder or an encoder is one stack, an encoder-decoder
//! two, and a model that reads pictures may have a third between them.
//!
//! ```text
//! input + positions -> block -> ... -> block -> norm = states --+--> head of each position, or pooling -> dense -> head
//!                                                               +--> memory of the next stack's cross attention, or its input
//! ```
//!
//! A block is one residual branch, so attention and feed-forward are two; nothing here says which
//! family they came from, except a name to show. Blocks name their tensors; the numbers stay in the
//! checkpoint's files until [`Checkpoint::read_rows`](super::Checkpoint::read_rows).
//!
//! Invariants of every value made by this crate: there is a stack, all sizes are at least 1, each
//! tensor exists with the shape given, the shapes of a block agree with each other and with the
//! width that the blocks before it leave, `kv_heads` divides `heads`, rotated pairs fit a head,
//! cross attention and [`Input::States`] have a stack before them, only blocks that replace the
//! stream change its width, and only they, and the first block of a stack whose norms follow its
//! branches, are without a norm.

use std::sync::Arc;

/// The model.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// The family it came from ("llama", "qwen3", ...), for people.
    pub family: String,
    /// One after the other; at least one.
    pub stacks: Vec<Stack>,
    /// What becomes of the states of the last.
    pub output: Output,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The tokens that end a text.
    pub eos: Vec<u32>,
    /// The token that begins an answer, of models with a source and a target.
    pub start: Option<u32>,
    /// What the outputs of a classifier stand for, one for each; empty where nothing says it.
    pub labels: Vec<String>,
}

impl Architecture {
    /// The stack that comes first.
    ///
    /// # Panics
    /// If there is none, which no importer gives.
    pub fn first(&self) -> &Stack {
        self.stacks.first().expect("a model has a stack")
    }

    /// The stack that comes last: its states make the output.
    ///
    /// # Panics
    /// If there is none, which no importer gives.
    pub fn last(&self) -> &Stack {
        self.stacks.last().expect("a model has a stack")
    }

    /// The blocks of all stacks, in order; their places in it are their numbers.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.stacks.iter().flat_map(|stack| &stack.blocks)
    }

    /// The block of a number.
    pub fn block(&self, number: usize) -> Option<&Block> {
        self.blocks().nth(number)
    }

    /// How many blocks there are.
    pub fn count(&self) -> usize {
        self.stacks.iter().map(|stack| stack.blocks.len()).sum()
    }

    /// The numbers of the blocks of a stack.
    pub fn numbers(&self, stack: usize) -> std::ops::Range<usize> {
        let before = self.stacks.iter().take(stack).map(|stack| stack.blocks.len()).sum();
        before..before + self.stacks.get(stack).map_or(0, |stack| stack.blocks.len())
    }

    /// The stack of a block.
    pub fn stack_of(&self, number: usize) -> usize {
        (0..self.stacks.len())
            .find(|&stack| self.numbers(stack).end > number)
            .unwrap_or(self.stacks.len())
    }

    /// Tokens that the last stack knows; 0 if it reads none.
    pub fn vocab(&self) -> usize {
        self.last().input.embedding().map_or(0, TensorRef::rows)
    }

    /// Numbers of an output: logits of a position, or of what is pooled.
    pub fn outputs(&self) -> usize {
        let dense = self.output.dense.as_ref().map(|(linear, _)| linear);
        self.output.head.as_ref().or(dense).map_or(self.last().end_width(), Linear::rows)
    }

    /// Whether each position of the last stack predicts a token.
    pub fn is_language_model(&self) -> bool {
        self.output.pooling == Pooling::None && self.output.head.is_some() && self.vocab() > 0
    }

    /// Whether it is the token behind each position, since none sees later ones.
    pub fn is_causal(&self) -> bool {
        let earlier = |block: &Block| matches!(&block.middle, Middle::Attention(a) if a.sight == Sight::Earlier);
        self.is_language_model() && self.last().blocks.iter().any(earlier)
    }

    /// Whether the head is the embedding of the last stack.
    pub fn tied(&self) -> bool {
        self.output
            .head
            .as_ref()
            .is_some_and(|head| self.last().input.embedding() == Some(&head.weight))
    }

    /// All tables and matrices that blocks do not have: those of inputs and output. A tied head is
    /// listed once.
    pub fn tables(&self) -> Vec<&TensorRef> {
        let mut tables: Vec<&TensorRef> = vec![];
        for stack in &self.stacks {
            tables.extend(match &stack.input {
                Input::Tokens { embed, .. } => Some(embed),
                Input::Features { linear, .. } | Input::Pixels { linear, .. } => {
                    Some(&linear.weight)
                }
                Input::Queries(_) | Input::States => None,
            });
        }
        tables.extend(self.output.dense.as_ref().map(|(linear, _)| &linear.weight));
        tables.extend(self.output.head.as_ref().map(|head| &head.weight));
        let mut all: Vec<&TensorRef> = vec![];
        for table in tables {
            if !all.contains(&table) {
                all.push(table);
            }
        }
        all
    }
}

/// Blocks that share a residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Stack {
    /// Numbers in a row of its input.
    pub width: usize,
    /// The most rows of a sequence, with those that it adds itself.
    pub context: usize,
    /// Where its rows come from.
    pub input: Input,
    /// What is added to them, by their position.
    pub positions: Option<Positions>,
    /// In order.
    pub blocks: Vec<Block>,
    /// The norm behind the last block.
    pub norm: Option<Norm>,
}

impl Stack {
    /// Numbers in a row behind the last block: that of replacing blocks may differ from the first.
    pub fn end_width(&self) -> usize {
        let changed = self.blocks.iter().rev().find(|block| block.join == Join::Replace);
        changed
            .and_then(|block| block.products().last().map(|linear| linear.rows()))
            .unwrap_or(self.width)
    }
}

/// Where the rows of a stack come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Tokens: a row of a table each.
    Tokens {
        /// One row of the stack's width for each token.
        embed: TensorRef,
        /// Factor of those rows.
        scale: f32,
        /// One row of the stack's width for each type of token, added.
        types: Option<TensorRef>,
    },
    /// Rows of numbers, such as frames of sound: a product each.
    Features {
        /// From their size to the stack's width.
        linear: Linear,
        /// A row of the stack's width in front of them.
        class: Option<TensorRef>,
    },
    /// A picture of red, green and blue bytes, cut into square patches: a product each.
    Pixels {
        /// From `patch * patch * channels` numbers in the order (y, x, channel) to the stack's
        /// width.
        linear: Linear,
        /// A row of the stack's width in front of them.
        class: Option<TensorRef>,
        /// What pictures look like.
        picture: Picture,
    },
    /// Learned rows, always the same, which ask the memory: the stack before.
    Queries(TensorRef),
    /// The states of the stack before.
    States,
}

impl Input {
    /// The table of tokens.
    pub fn embedding(&self) -> Option<&TensorRef> {
        match self {
            Self::Tokens { embed, .. } => Some(embed),
            _ => None,
        }
    }
}

/// The pictures that a model reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Rows of pixels, a multiple of `patch`.
    pub height: usize,
    /// Pixels in a row, a multiple of `patch`.
    pub width: usize,
    /// Pixels on a side of a patch.
    pub patch: usize,
    /// Bytes in a pixel.
    pub channels: usize,
    /// Factor of a byte, channel by channel.
    pub scale: Vec<f32>,
    /// What is added to it then.
    pub offset: Vec<f32>,
}

impl Picture {
    /// Patches of a picture, row by row.
    pub fn patches(&self) -> usize {
        (self.height / self.patch) * (self.width / self.patch)
    }

    /// Bytes of a picture.
    pub fn bytes(&self) -> usize {
        self.height * self.width * self.channels
    }
}

/// What is added to the rows of a stack, by their position: `context` rows of the stack's width.
#[derive(Debug, Clone, PartialEq)]
pub enum Positions {
    /// A tensor.
    Learned(TensorRef),
    /// Computed at import (sinusoids), row after row.
    Table(Arc<Vec<f32>>),
}

/// What becomes of the states of the last stack: pooling, then a dense layer, then the head, then a
/// length of 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// What is taken from them.
    pub pooling: Pooling,
    /// A layer in front of the head.
    pub dense: Option<(Linear, Activation)>,
    /// To logits; its weight equals the embedding where they are tied.
    pub head: Option<Linear>,
    /// Whether results are divided by their length.
    pub normalize: bool,
}

/// What is taken from the states of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Each of them: a result for each position.
    None,
    /// The first.
    First,
    /// Their mean.
    Mean,
    /// The largest number in each channel.
    Max,
}

/// A tensor of a checkpoint: a matrix, or a vector as a matrix of one row.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorRef {
    pub(super) name: String,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) order: Order,
    /// Factor of all numbers.
    pub(super) factor: f32,
}

/// Where the rows of the tensor are in the file, whose dimensions of 1 do not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// All, as they lie.
    Stored,
    /// All. The file has them in the order of the interleaved pairing, for heads
    /// of so many; they are read in that of [`Rope`].
    Interleaved(usize),
    /// These, ascending; of a vector these numbers.
    Chosen(Arc<[u32]>),
    /// From this number of the file on, as they lie.
    From(usize),
    /// Columns of the file, from this one on: it has a row for each input.
    Transposed(usize),
    /// All, of a convolution (outputs, channels, side, side) with so many channels; columns are
    /// read in the order (y, x, channel).
    Patches(usize),
}

impl TensorRef {
    /// A tensor as it lies.
    pub(crate) fn stored(name: &str, rows: usize, cols: usize) -> Self {
        Self { name: name.to_owned(), rows, cols, order: Order::Stored, factor: 1.0 }
    }

    /// So many rows of a stored matrix, from one on; for a vector, which has one row, numbers.
    #[must_use]
    pub fn part(mut self, first: usize, count: usize) -> Self {
        if self.rows == 1 {
            self.order = Order::From(first);
            self.cols = count;
        } else {
            self.order = Order::From(first.saturating_mul(self.cols));
            self.rows = count;
        }
        self
    }

    /// So many columns of a stored matrix, from one on, as rows.
    #[must_use]
    pub fn transposed(mut self, first: usize, count: usize) -> Self {
        (self.rows, self.cols) = (count, self.rows);
        self.order = Order::Transposed(first);
        self
    }

    /// The weights of a convolution over patches that do not overlap.
    #[must_use]
    pub fn patches(mut self, channels: usize) -> Self {
        self.order = Order::Patches(channels);
        self
    }

    /// The same with all numbers multiplied.
    #[must_use]
    pub fn times(mut self, factor: f32) -> Self {
        self.factor *= factor;
        self
    }

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

/// The kinds of norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps)`.
    Rms,
    /// `(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps)`.
    Layer,
}

/// A norm: what its kind says, times a weight, plus a bias.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// What is divided by what.
    pub kind: NormKind,
    /// One number for each of the inputs.
    pub weight: TensorRef,
    /// One number for each of the inputs.
    pub bias: Option<TensorRef>,
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

/// One branch, and how it joins the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// The layer of the checkpoint it belongs to, counted from 0 in each stack.
    pub layer: usize,
    /// The norm before it. Without one are some blocks that replace the stream, and the first of a
    /// stack whose norms follow its branches and whose input has none: it joins as [`Join::Pre`],
    /// `x + f(x)`.
    pub norm: Option<Norm>,
    /// How its result joins the stream.
    pub join: Join,
    /// What it computes.
    pub middle: Middle,
}

impl Block {
    /// Its matrix products: those of the stream first, then those of the memory, the one back to
    /// the stream last.
    pub fn products(&self) -> Vec<&Linear> {
        match &self.middle {
            Middle::Attention(a) => vec![&a.query, &a.key, &a.value, &a.output],
            Middle::FeedForward(f) => f.gate.iter().chain([&f.up, &f.down]).collect(),
            Middle::Projection(linear) => vec![linear],
        }
    }

    /// Whether it reads the memory.
    pub fn is_cross(&self) -> bool {
        matches!(&self.middle, Middle::Attention(a) if a.sight == Sight::Cross)
    }
}

/// How the result of a branch f joins the stream x.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Join {
    /// `x + f(norm(x))`.
    Pre,
    /// `norm(x) + f(norm(x))`. A model whose norms follow its branches has each norm in the block
    /// after, and the last as the stack's.
    Post,
    /// `f(norm(x))`, whose width may be another.
    Replace,
}

/// What a block computes.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "half of all blocks are of the larger kind, and there are few"
)]
pub enum Middle {
    /// Attention.
    Attention(Attention),
    /// A feed-forward.
    FeedForward(FeedForward),
    /// One product.
    Projection(Linear),
}

/// What a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Sight {
    /// Keys of its own position and earlier ones.
    Earlier,
    /// All keys of its sequence.
    All,
    /// All keys of the memory: keys and values are made from the states of the stack before.
    Cross,
}

/// Attention with grouped heads.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// `heads * head_dim` rows.
    pub query: Linear,
    /// `kv_heads * head_dim` rows; its columns are the memory's where that is read.
    pub key: Linear,
    /// As `key`.
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
    pub rope: Option<Rope>,
    /// What queries see.
    pub sight: Sight,
    /// What is added to the scaled scores.
    pub relative: Option<Relative>,
}

/// Numbers added to scores by the distance of key and query, in buckets that widen with it (T5:
/// Raffel et al., arXiv 1910.10683).
#[derive(Debug, Clone, PartialEq)]
pub struct Relative {
    /// A row for each bucket, a column for each query head.
    pub table: TensorRef,
    /// From this distance on all are in the last bucket; at least 2, and more than half of a side's
    /// buckets.
    pub max_distance: usize,
    /// Whether half of the buckets are of later keys; otherwise those count as none away.
    pub bidirectional: bool,
}

impl Relative {
    /// The bucket of a distance, key position less query position. Arithmetic is that of the
    /// reference, f32.
    pub fn bucket(&self, distance: isize) -> usize {
        let (side, away) = match self.bidirectional {
            true => (self.table.rows / 2, distance.unsigned_abs()),
            false => (self.table.rows, distance.min(0).unsigned_abs()),
        };
        let first = if self.bidirectional && distance > 0 { side } else { 0 };
        let exact = side / 2;
        if away < exact {
            return first + away;
        }
        let along =
            (away as f32 / exact as f32).ln() / (self.max_distance as f32 / exact as f32).ln();
        let wide = exact + (along * (side - exact) as f32) as usize;
        first + wide.min(side.saturating_sub(1))
    }
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

/// A feed-forward: `down * (activation(gate * x) .* (up * x))`, or without a gate `down *
/// activation(up * x)`.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedForward {
    /// Passes through the activation.
    pub gate: Option<Linear>,
    /// Is multiplied by it; passes through it where there is no gate.
    pub up: Linear,
    /// Back to the width of the stream.
    pub down: Linear,
    /// The activation.
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
    /// The hyperbolic tangent.
    Tanh,
    /// x itself.
    Identity,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `T5Attention._relative_position_bucket` of `transformers` has them.
    #[test]
    fn buckets_are_those_of_t5() {
        let buckets = |bidirectional, distances: &[isize]| {
            let table = TensorRef::stored("table", 32, 8);
            let relative = Relative { table, max_distance: 128, bidirectional };
            distances.iter().map(|&d| relative.bucket(d)).collect::<Vec<_>>()
        };
        let distances =
            [-300, -128, -127, -64, -20, -16, -8, -7, -1, 0, 1, 7, 8, 11, 12, 16, 32, 91, 128, 300];
        let both = [15, 15, 15, 14, 10, 10, 8, 7, 1, 0, 17, 23, 24, 24, 25, 26, 28, 31, 31, 31];
        assert_eq!(buckets(true, &distances), both);
        let earlier = [31, 31, 31, 26, 17, 16, 8, 7, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(buckets(false, &distances), earlier);
    }
}
