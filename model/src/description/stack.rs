//! Stacks: what they read, and what the last one's states become.

use kinglet_kernels::Activation;

use super::block::Norm;
use super::parts::Parts;

/// Blocks that share a residual stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Stack<T: Parts> {
    /// Width of the stream where it starts.
    pub width: usize,
    /// The most rows of a sequence, with those that the stack adds itself.
    pub context: usize,
    /// Where its rows come from.
    pub input: Input<T>,
    /// Added to them by their position: `context` rows of the stack's width.
    pub positions: Option<T::Table>,
    /// In order.
    pub blocks: T::Blocks,
    /// The norm after the last block.
    pub norm: Option<Norm<T::Vector>>,
}

/// Where the rows of a stack come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Input<T: Parts> {
    /// Tokens: a row of a table each.
    Tokens {
        /// One row of the stack's width for each token.
        embedding: T::Table,
        /// Factor of those rows.
        scale: f32,
        /// One row of the stack's width for each type of token, added.
        types: Option<T::Table>,
    },
    /// Rows of numbers, such as frames of sound or patches of a picture: a product each.
    Features {
        /// From their size to the stack's width. The numbers of a patch are in the order (y, x,
        /// channel).
        linear: T::Linear,
        /// A row of the stack's width before them.
        class: Option<T::Vector>,
        /// How a picture becomes rows.
        picture: Option<Picture<T::Vector>>,
    },
    /// Learned rows, always the same, which ask the states of the stack before.
    Queries(T::Table),
    /// The states of the stack before.
    States,
}

/// A picture of bytes, and how it is cut into patches, from left to right and top to bottom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Picture<V> {
    /// Rows of pixels, a multiple of `patch`.
    pub height: usize,
    /// Columns of pixels, a multiple of `patch`.
    pub width: usize,
    /// Rows and columns of a patch.
    pub patch: usize,
    /// Bytes of a pixel.
    pub channels: usize,
    /// A byte counts `byte * scale + offset`: the scales of the channels, then the offsets.
    pub pixel: V,
}

impl<V> Picture<V> {
    /// Bytes of the picture.
    pub fn bytes(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Patches of the picture.
    pub fn patches(&self) -> usize {
        (self.height / self.patch) * (self.width / self.patch)
    }

    /// Numbers of a patch.
    pub fn numbers(&self) -> usize {
        self.patch * self.patch * self.channels
    }
}

/// What becomes of the last stack's states: pooling, then a dense layer, then the head, then a
/// length of 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Output<T: Parts> {
    /// What is taken from the states.
    pub pooling: Pooling,
    /// A layer before the head, and its activation.
    pub dense: Option<(T::Linear, Activation)>,
    /// The head: a row for each output.
    pub head: Option<T::Linear>,
    /// Whether the result is divided by its Euclidean length.
    pub normalize: bool,
}

/// What is taken from the states of a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Pooling {
    /// Each of them: a result for each position.
    #[default]
    None,
    /// The first, of the class token.
    First,
    /// Their mean.
    Mean,
    /// The largest number of each column.
    Max,
}
