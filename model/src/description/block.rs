//! Blocks, and what is in them.

use core::ops::Range;

use kinglet_kernels::Activation;

use super::parts::{Inputs, Parts};

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
    ///
    /// # Errors
    /// The first of `vector`.
    pub fn convert<U, E>(&self, mut vector: impl FnMut(&V) -> Result<U, E>) -> Result<Norm<U>, E> {
        let bias = self.bias.as_ref().map(&mut vector).transpose()?;
        Ok(Norm { kind: self.kind, weight: vector(&self.weight)?, bias, eps: self.eps })
    }
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
        self.heads.checked_div(self.kv_heads).unwrap_or_default()
    }

    /// Columns of keys and values together.
    pub fn kv_rows(&self) -> usize {
        2 * self.kv_heads * self.head_dim
    }
}
