//! What a checkpoint computes, by the names of its tensors.
//!
//! The description is that of `kinglet_model`; its tensors here are [`Named`]. Nothing says which
//! family a model came from, except a name to show. The numbers stay in the checkpoint's files
//! until [`Checkpoint::read_rows`](super::Checkpoint::read_rows).
//!
//! Invariants of every value made by this crate: there is a stack, all sizes are at least 1, each
//! tensor exists with the shape given, the shapes of a block agree with each other and with the
//! width that the blocks before it leave, `kv_heads` divides `heads`, rotated pairs fit a head,
//! cross attention and [`Input::States`] have a stack before them, only blocks that replace the
//! stream change its width, and only they, and the first block of a stack whose norms follow its
//! branches, are without a norm.

use std::sync::Arc;

use kinglet_model::{Parts, Pooling};

/// Tensors of a checkpoint, by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named;

impl Parts for Named {
    type Linear = Linear;
    type Vector = Values;
    /// Radians for each position, pair by pair.
    type Frequencies = Vec<f64>;
    type Relative = Relative;
    type Table = Values;
    type Blocks = Vec<Block>;
}

/// A stack of a checkpoint.
pub type Stack = kinglet_model::Stack<Named>;
/// Where its rows come from.
pub type Input = kinglet_model::Input<Named>;
/// What becomes of the states of the last.
pub type Output = kinglet_model::Output<Named>;
/// A block of a checkpoint.
pub type Block = kinglet_model::Block<Named>;
/// A norm of a checkpoint.
pub type Norm = kinglet_model::Norm<Values>;
/// Rotary positions of a checkpoint.
pub type Rope = kinglet_model::Rope<Vec<f64>>;

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
        embedding(self.last()).map_or(0, TensorRef::rows)
    }

    /// Numbers of an output: logits of a position, or of what is pooled.
    pub fn outputs(&self) -> usize {
        let dense = self.output.dense.as_ref().map(|(linear, _)| linear);
        self.output.head.as_ref().or(dense).map_or(end_width(self.last()), Linear::rows)
    }

    /// Whether each position of the last stack predicts a token.
    pub fn is_language_model(&self) -> bool {
        self.output.pooling == Pooling::None && self.output.head.is_some() && self.vocab() > 0
    }

    /// Whether it is the token after each position, since none sees later ones.
    pub fn is_causal(&self) -> bool {
        let causal = |block: &Block| block.attention().is_some_and(|a| a.mask.is_causal());
        self.is_language_model() && self.last().blocks.iter().any(causal)
    }

    /// Whether the head is the embedding of the last stack.
    pub fn tied(&self) -> bool {
        let head = self.output.head.as_ref().and_then(Linear::alone);
        head.is_some() && embedding(self.last()) == head
    }

    /// All tables and matrices that blocks do not have: those of inputs and output. A tied head is
    /// listed once.
    pub fn tables(&self) -> Vec<&TensorRef> {
        let mut tables: Vec<&TensorRef> = vec![];
        for stack in &self.stacks {
            match &stack.input {
                Input::Tokens { embedding, .. } => tables.extend(embedding.tensor()),
                Input::Features { linear, .. } => tables.extend(linear.tensors()),
                Input::Queries(_) | Input::States => {}
            }
        }
        let dense = self.output.dense.as_ref().map(|(linear, _)| linear);
        tables.extend(dense.into_iter().chain(&self.output.head).flat_map(Linear::tensors));
        let mut all: Vec<&TensorRef> = vec![];
        for table in tables {
            if !all.contains(&table) {
                all.push(table);
            }
        }
        all
    }
}

/// Numbers in a row after the last block: that of replacing blocks may differ from the first.
pub fn end_width(stack: &Stack) -> usize {
    let changed = stack.blocks.iter().rev().find(|block| block.replaces());
    changed.map_or(stack.width, |block| block.output.rows())
}

/// The table of a stack's tokens, if it reads those.
pub fn embedding(stack: &Stack) -> Option<&TensorRef> {
    match &stack.input {
        Input::Tokens { embedding, .. } => embedding.tensor(),
        _ => None,
    }
}

/// Numbers in the matrices of a block.
pub fn weights(block: &Block) -> usize {
    block.products().map(|(_, linear)| linear.len()).sum()
}

/// A product: matrices with the same inputs, whose outputs follow each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    pub(super) parts: Vec<Product>,
}

/// A matrix with an optional bias: `weight * x + bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    /// One row for each output, one column for each input.
    pub weight: TensorRef,
    /// One number for each output.
    pub bias: Option<TensorRef>,
}

impl Product {
    /// Outputs.
    pub fn rows(&self) -> usize {
        self.weight.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.weight.cols
    }
}

impl From<Product> for Linear {
    fn from(product: Product) -> Self {
        Self { parts: vec![product] }
    }
}

impl Linear {
    /// Its matrices, in the order of their outputs.
    pub fn parts(&self) -> &[Product] {
        &self.parts
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(Product::rows).sum()
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.parts.first().map_or(0, Product::cols)
    }

    /// Numbers of its matrices.
    pub fn len(&self) -> usize {
        self.tensors().map(TensorRef::len).sum()
    }

    /// Never: sizes are at least 1.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tensors of its matrices.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorRef> {
        self.parts.iter().map(|part| &part.weight)
    }

    /// The tensor of its matrix, if there is but one.
    pub fn alone(&self) -> Option<&TensorRef> {
        match self.parts.as_slice() {
            [part] => Some(&part.weight),
            _ => None,
        }
    }

    /// Whether any of its outputs has a bias.
    pub fn has_bias(&self) -> bool {
        self.parts.iter().any(|part| part.bias.is_some())
    }
}

/// Numbers of a checkpoint: a vector, or the rows of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// A tensor.
    Tensor(TensorRef),
    /// Computed at import: rows of so many numbers, one after the other.
    Computed(Arc<Vec<f32>>, usize),
}

impl Values {
    /// Rows; 1 for a vector.
    pub fn rows(&self) -> usize {
        match self {
            Self::Tensor(tensor) => tensor.rows,
            Self::Computed(numbers, cols) => numbers.len() / cols,
        }
    }

    /// Numbers in a row.
    pub fn cols(&self) -> usize {
        match self {
            Self::Tensor(tensor) => tensor.cols,
            Self::Computed(_, cols) => *cols,
        }
    }

    /// The tensor, if it is one.
    pub fn tensor(&self) -> Option<&TensorRef> {
        match self {
            Self::Tensor(tensor) => Some(tensor),
            Self::Computed(..) => None,
        }
    }

    /// The same, to be changed.
    pub(super) fn tensor_mut(&mut self) -> Option<&mut TensorRef> {
        match self {
            Self::Tensor(tensor) => Some(tensor),
            Self::Computed(..) => None,
        }
    }
}

impl From<TensorRef> for Values {
    fn from(tensor: TensorRef) -> Self {
        Self::Tensor(tensor)
    }
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
    pub fn stored(name: &str, rows: usize, cols: usize) -> Self {
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
