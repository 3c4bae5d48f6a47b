//! What a model computes, in terms of layers, whatever its tensors are.
//!
//! A model is a chain of stacks. Each stack turns its input into a residual stream of its own
//! width, takes it through its blocks and perhaps a final norm; the next goes on from there, or
//! attends to those states. A decoder or an encoder is one stack, an encoder-decoder two, and a
//! model that reads pictures may have a third between them.
//!
//! ```text
//! input + positions -> block -> ... -> block -> norm = states --+--> head of each position,
//!                                                               |    or pooling -> dense -> head
//!                                                               +--> the next stack's cross
//!                                                                    attention, or its input
//! ```
//!
//! A block is one residual branch, so attention and feed-forward are two:
//!
//! ```text
//! x -> norm -> input -+-> operation -> output -> residual: x + ..., norm(x) + ..., or ... alone
//!    states of the ---+   (attention, activation)
//!    stack before
//! ```
//!
//! The types here are written once and used by all who deal with models: [`Parts`] says what the
//! tensors are. They are names in a checkpoint where a model is imported, numbers where it runs in
//! f32, codes where it was rounded, and views of the file where it runs in place ([`InPlace`]).
//! [`Block::convert`] turns one into another.
//!
//! A new activation or mask begins here; `docs/extending.md` names the files that follow.

use core::fmt::Debug;
use core::ops::Range;

pub use kinglet_kernels::Activation;
use kinglet_kernels::Matrix;

/// What the tensors of a described model are.
pub trait Parts: Copy + Debug {
    /// A matrix product, its bias, and what its inputs go through.
    type Linear: Clone + Debug + PartialEq;
    /// A vector of numbers: the weight or the bias of a norm, or a row.
    type Vector: Clone + Debug + PartialEq;
    /// The frequencies of rotary positions.
    type Frequencies: Clone + Debug + PartialEq;
    /// Numbers added to scores by distance.
    type Relative: Clone + Debug + PartialEq;
    /// A table whose rows are looked up: embeddings, positions.
    type Table: Clone + Debug + PartialEq;
    /// The blocks of a stack.
    type Blocks: Clone + Debug + PartialEq;
}

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

/// One branch, and how it joins the residual stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Block<T: Parts> {
    /// The layer of the checkpoint it belongs to, counted from 0 in each stack.
    pub layer: usize,
    /// The norm before the branch. Some blocks that replace the stream have none, and so has the
    /// first of a stack whose norms follow its branches and whose input has none.
    pub norm: Option<Norm<T::Vector>>,
    /// How the branch joins the stream.
    pub residual: Residual<T::Vector>,
    /// From the stream. Attention: rows of all query heads, then (unless the mask is
    /// [`Mask::Cross`]) key heads, then value heads. Feed-forward: gate, if there is one, then up.
    /// A projection has none.
    pub input: Option<T::Linear>,
    /// From the states of the stack before ([`Mask::Cross`]): rows of key heads, then value heads.
    pub states: Option<T::Linear>,
    /// What happens between the products.
    pub operation: Operation<T>,
    /// Back to the stream.
    pub output: T::Linear,
}

/// How the result of a branch f joins the stream x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Residual<V> {
    /// `x + f(norm(x))`.
    Pre,
    /// `stream_norm(x) + f(norm(x))`, with this norm of the stream. Models whose norms follow
    /// their branches are this: each norm belongs to the block after it, and the last is the
    /// stack's.
    Post(Norm<V>),
    /// `f(norm(x))`, whose width may be another.
    Replace,
}

/// What a block computes between its products.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "there is no allocator to box it")]
pub enum Operation<T: Parts> {
    /// Softmax attention.
    Attention(Attention<T>),
    /// `activation(gate) * up`, or `activation(up)`.
    FeedForward {
        /// The activation.
        activation: Activation,
        /// Whether there is a gate, which passes through the activation in place of up.
        gated: bool,
    },
    /// Nothing: the block is one product, `output`.
    Projection,
}

/// What a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Keys of its own position and earlier ones.
    Causal,
    /// All keys of its sequence.
    Full,
    /// All keys of the states of the stack before.
    Cross,
    /// Keys of its own position and those just before it, so many in all; at least 1.
    Window(u32),
}

impl Mask {
    /// Whether no key is later than its query, so that a decoder can go on from token to token.
    pub fn is_causal(self) -> bool {
        matches!(self, Self::Causal | Self::Window(_))
    }

    /// Which of `keys` keys query `query` sees.
    pub fn seen(self, query: usize, keys: usize) -> Range<usize> {
        match self {
            Self::Causal => 0..query + 1,
            Self::Full | Self::Cross => 0..keys,
            Self::Window(count) => (query + 1).saturating_sub(count as usize)..query + 1,
        }
    }
}

/// The heads of attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention<T: Parts> {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`; query head `h` reads number `h / (heads /
    /// kv_heads)`.
    pub kv_heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
    /// Factor of the scores before the softmax.
    pub score_scale: f32,
    /// What queries see.
    pub mask: Mask,
    /// The norm of each query head, before the rotation.
    pub query_norm: Option<Norm<T::Vector>>,
    /// The norm of each key head, before the rotation.
    pub key_norm: Option<Norm<T::Vector>>,
    /// Rotary positions.
    pub rope: Option<Rope<T::Frequencies>>,
    /// Added to the scaled scores by the distance of key and query.
    pub relative: Option<T::Relative>,
    /// What queries and keys of each head go through after their rotation. No score changes but
    /// for rounding.
    pub head_inputs: Inputs,
}

/// Rotary positions in the half-split pairing: of a head's first `2 n` numbers, `i` and `i + n`
/// turn together (Su et al., arXiv 2104.09864).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope<F> {
    /// How far each of the `n` pairs turns from one position to the next.
    pub frequencies: F,
    /// Factor of both sine and cosine.
    pub magnitude: f32,
}

/// The kinds of norms. A word, as all small enums of views: bytes among words would be copied with
/// their padding, one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps)`.
    Rms,
    /// `(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps)`.
    Layer,
}

/// A norm: what its kind says, times a weight, plus a bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm<V> {
    /// What is divided by what.
    pub kind: NormKind,
    /// One number for each column.
    pub weight: V,
    /// One number for each column.
    pub bias: Option<V>,
    /// Keeps the division finite.
    pub eps: f32,
}

impl<V> Norm<V> {
    /// The same norm of other vectors.
    pub fn convert<U, E>(&self, mut vector: impl FnMut(&V) -> Result<U, E>) -> Result<Norm<U>, E> {
        let bias = self.bias.as_ref().map(&mut vector).transpose()?;
        Ok(Norm { kind: self.kind, weight: vector(&self.weight)?, bias, eps: self.eps })
    }
}

/// What the inputs of a product go through before they are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Inputs {
    /// They are rounded to int8, with one scale a token.
    #[default]
    Rounded,
    /// They are transformed ([`kinglet_kernels::Isa::transform`]) first; the columns of the matrix
    /// went through the same.
    Transformed,
    /// They are rounded to two planes of int8 ([`kinglet_kernels::Isa::quantize_planes`]): the
    /// second has what the first leaves out.
    Planes,
}

/// The products of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Site {
    /// The first, of the stream.
    Input,
    /// That of the states of the stack before, in blocks that attend to them.
    States,
    /// The last.
    Output,
    /// No block's: the head of the model.
    Head,
}

impl Site {
    /// Those of a block, in order: `site as usize` is the place of each.
    pub const OF_BLOCK: [Self; 3] = [Self::Input, Self::States, Self::Output];
}

impl<T: Parts> Block<T> {
    /// One of its products, if it has that.
    pub fn product(&self, site: Site) -> Option<&T::Linear> {
        match site {
            Site::Input => self.input.as_ref(),
            Site::States => self.states.as_ref(),
            Site::Output => Some(&self.output),
            Site::Head => None,
        }
    }

    /// The same, to be changed.
    pub fn product_mut(&mut self, site: Site) -> Option<&mut T::Linear> {
        match site {
            Site::Input => self.input.as_mut(),
            Site::States => self.states.as_mut(),
            Site::Output => Some(&mut self.output),
            Site::Head => None,
        }
    }

    /// All products, in order.
    pub fn products(&self) -> impl Iterator<Item = (Site, &T::Linear)> {
        Site::OF_BLOCK.into_iter().filter_map(|site| Some((site, self.product(site)?)))
    }

    /// The product that reads what the norm gives.
    pub fn reader(&self) -> Site {
        if self.input.is_some() { Site::Input } else { Site::Output }
    }

    /// Its heads, if it is attention.
    pub fn attention(&self) -> Option<&Attention<T>> {
        match &self.operation {
            Operation::Attention(attention) => Some(attention),
            _ => None,
        }
    }
}

impl<T: Parts> Attention<T> {
    /// Columns of queries among the outputs of the first product; they are also those of the
    /// result.
    pub fn queries(&self) -> Range<usize> {
        0..self.heads * self.head_dim
    }

    /// Columns of keys, among the outputs of the first product or of that of the states.
    pub fn keys(&self) -> Range<usize> {
        let start = if self.mask == Mask::Cross { 0 } else { self.queries().end };
        start..start + self.kv_heads * self.head_dim
    }

    /// Columns of values, after those of keys.
    pub fn values(&self) -> Range<usize> {
        let start = self.keys().end;
        start..start + self.kv_heads * self.head_dim
    }

    /// Query heads that share a key and value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Columns of keys and values together.
    pub fn kv_rows(&self) -> usize {
        2 * self.kv_heads * self.head_dim
    }
}

/// How tensors of one kind become those of another.
pub trait Convert<T: Parts, U: Parts> {
    /// Why one could not.
    type Error;
    /// A product.
    fn linear(&mut self, of: &T::Linear) -> Result<U::Linear, Self::Error>;
    /// A vector.
    fn vector(&mut self, of: &T::Vector) -> Result<U::Vector, Self::Error>;
    /// Frequencies.
    fn frequencies(&mut self, of: &T::Frequencies) -> Result<U::Frequencies, Self::Error>;
    /// Numbers by distance, of so many heads.
    fn relative(&mut self, of: &T::Relative) -> Result<U::Relative, Self::Error>;
}

impl<T: Parts> Block<T> {
    /// The same block of other tensors.
    ///
    /// # Errors
    /// The first of `by`.
    pub fn convert<U: Parts, C: Convert<T, U>>(&self, by: &mut C) -> Result<Block<U>, C::Error> {
        let operation = match &self.operation {
            Operation::Attention(a) => {
                let mut norm = |of: &Option<Norm<T::Vector>>| {
                    of.as_ref().map(|norm| norm.convert(|v| by.vector(v))).transpose()
                };
                let (query_norm, key_norm) = (norm(&a.query_norm)?, norm(&a.key_norm)?);
                let rope = a.rope.as_ref().map(|rope| {
                    let frequencies = by.frequencies(&rope.frequencies)?;
                    Ok(Rope { frequencies, magnitude: rope.magnitude })
                });
                let rope = rope.transpose()?;
                Operation::Attention(Attention {
                    heads: a.heads,
                    kv_heads: a.kv_heads,
                    head_dim: a.head_dim,
                    score_scale: a.score_scale,
                    mask: a.mask,
                    query_norm,
                    key_norm,
                    rope,
                    relative: a.relative.as_ref().map(|of| by.relative(of)).transpose()?,
                    head_inputs: a.head_inputs,
                })
            }
            Operation::FeedForward { activation, gated } => {
                Operation::FeedForward { activation: *activation, gated: *gated }
            }
            Operation::Projection => Operation::Projection,
        };
        let residual = match &self.residual {
            Residual::Pre => Residual::Pre,
            Residual::Post(norm) => Residual::Post(norm.convert(|v| by.vector(v))?),
            Residual::Replace => Residual::Replace,
        };
        Ok(Block {
            layer: self.layer,
            norm: self.norm.as_ref().map(|n| n.convert(|v| by.vector(v))).transpose()?,
            residual,
            input: self.input.as_ref().map(|of| by.linear(of)).transpose()?,
            states: self.states.as_ref().map(|of| by.linear(of)).transpose()?,
            operation,
            output: by.linear(&self.output)?,
        })
    }
}

/// Tensors of a file, read where they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InPlace<'a>(core::marker::PhantomData<&'a ()>);

impl<'a> Parts for InPlace<'a> {
    type Linear = Linear<'a>;
    type Vector = &'a [f32];
    /// Phases a position, in 2^-32 turns, of the pairs `(i, i + len)`.
    type Frequencies = &'a [u32];
    /// `2 r + 1` numbers for each query head, for keys `r` and more positions earlier to `r` and
    /// more later, in units of log 2.
    type Relative = &'a [f32];
    type Table = Table<'a>;
    /// Their numbers among those of all stacks.
    type Blocks = (u32, u32);
}

/// A table of a file: a matrix whose rows are looked up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Table<'a> {
    /// A row for each entry.
    pub matrix: Matrix<'a>,
    /// What its rows went through: the same again gives them back.
    pub inputs: Inputs,
}

/// A product of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear<'a> {
    /// A row for each result; where inputs are transformed, a row of the weights went through the
    /// same.
    pub matrix: Matrix<'a>,
    /// What its inputs go through before they are rounded.
    pub inputs: Inputs,
    /// Added to the results.
    pub bias: Option<&'a [f32]>,
}
