//! Blocks as records and back: the one place that knows which field of a [`BlockRecord`] is which
//! part of a [`Block`].
//!
//! [`lower`] gives each tensor of a block to a [`Lower`], which keeps it somewhere and returns its
//! index; [`raise`] asks a [`Raise`] for them again. The writer of files, the reader and the
//! checkpoints of an interrupted quantization are such pairs.

use crate::description::{
    Activation, Attention, Block, Inputs, Mask, Norm, NormKind, Operation, Parts, Pooling,
    Residual, Rope,
};
use crate::families::FAMILIES;
use crate::layout::{BlockRecord, NONE, activation, block, inputs, join, mask, norm, pooling};

/// A tensor's place in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Weight of the norm before the branch.
    Norm,
    /// Its bias.
    NormBias,
    /// Weight of the norm of the stream.
    StreamNorm,
    /// Its bias.
    StreamNormBias,
    /// The first product, of the stream.
    Input,
    /// Its bias.
    InputBias,
    /// The product of the states of the stack before.
    States,
    /// Its bias.
    StatesBias,
    /// The last product.
    Output,
    /// Its bias.
    OutputBias,
    /// The norm of query heads.
    QueryNorm,
    /// The norm of key heads.
    KeyNorm,
    /// Frequencies of rotary positions.
    Frequencies,
    /// Numbers added to scores by distance.
    Relative,
}

impl Part {
    /// All, in the order in which a file has them.
    pub const ALL: [Self; 14] = [
        Self::Norm,
        Self::NormBias,
        Self::StreamNorm,
        Self::StreamNormBias,
        Self::Input,
        Self::InputBias,
        Self::States,
        Self::StatesBias,
        Self::Output,
        Self::OutputBias,
        Self::QueryNorm,
        Self::KeyNorm,
        Self::Frequencies,
        Self::Relative,
    ];
}

/// What a record has no place for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unstorable {
    /// So many heads.
    Heads(usize),
    /// A norm or a rotation of the keys of other states.
    CrossKeys,
}

/// Someone who keeps the tensors of a block, each under an index.
pub trait Lower<T: Parts> {
    /// Why one could not be kept.
    type Error: From<Unstorable>;
    /// Keeps a product, which is `part`. Returns the indices of its matrix and its bias, which may
    /// be [`NONE`].
    ///
    /// # Errors
    /// [`Lower::Error`], where it cannot be kept.
    fn linear(&mut self, part: Part, of: &T::Linear) -> Result<(u32, u32), Self::Error>;
    /// Keeps a vector.
    ///
    /// # Errors
    /// [`Lower::Error`], where it cannot be kept.
    fn vector(&mut self, part: Part, of: &T::Vector) -> Result<u32, Self::Error>;
    /// Keeps as many zeros as a vector has numbers.
    ///
    /// # Errors
    /// [`Lower::Error`], where it cannot be kept.
    fn zeros(&mut self, part: Part, like: &T::Vector) -> Result<u32, Self::Error>;
    /// Keeps frequencies; [`NONE`] where there are none.
    ///
    /// # Errors
    /// [`Lower::Error`], where it cannot be kept.
    fn frequencies(&mut self, of: &T::Frequencies) -> Result<u32, Self::Error>;
    /// Keeps numbers by distance.
    ///
    /// # Errors
    /// [`Lower::Error`], where it cannot be kept.
    fn relative(&mut self, of: &T::Relative) -> Result<u32, Self::Error>;
    /// Columns of a product.
    fn cols(&self, of: &T::Linear) -> usize;
}

/// Someone who has the tensors of a block.
pub trait Raise<T: Parts> {
    /// Why there is none.
    type Error;
    /// A product of a matrix and, unless [`NONE`], a bias.
    ///
    /// # Errors
    /// [`Raise::Error`], where there is none.
    fn linear(&self, matrix: u32, bias: u32) -> Result<T::Linear, Self::Error>;
    /// A vector.
    ///
    /// # Errors
    /// [`Raise::Error`], where there is none.
    fn vector(&self, index: u32) -> Result<T::Vector, Self::Error>;
    /// Frequencies.
    ///
    /// # Errors
    /// [`Raise::Error`], where there is none.
    fn frequencies(&self, index: u32) -> Result<T::Frequencies, Self::Error>;
    /// Numbers by distance.
    ///
    /// # Errors
    /// [`Raise::Error`], where there is none.
    fn relative(&self, index: u32) -> Result<T::Relative, Self::Error>;
    /// The error of a record that names no norm of the stream where there must be one.
    fn missing_norm(&self) -> Self::Error;
}

/// The record of a block whose tensors `to` keeps.
///
/// # Errors
/// Those of `to`, and what a record has no place for.
pub fn lower<T: Parts, L: Lower<T>>(of: &Block<T>, to: &mut L) -> Result<BlockRecord, L::Error> {
    let mut record = BlockRecord { layer: of.layer as u32, ..BlockRecord::EMPTY };
    if let Some(norm) = &of.norm {
        (record.norm_kind, record.norm_eps) = (norm_code(norm.kind), norm.eps);
        (record.norm, record.norm_bias) = lower_norm([Part::Norm, Part::NormBias], norm, to)?;
    }
    record.join = match &of.residual {
        Residual::Pre => join::PRE,
        Residual::Post(norm) => {
            let parts = [Part::StreamNorm, Part::StreamNormBias];
            (record.stream_norm, record.stream_norm_bias) = lower_norm(parts, norm, to)?;
            join::POST
        }
        Residual::Replace => join::REPLACE,
    };
    if let Some(input) = &of.input {
        (record.input, record.input_bias) = to.linear(Part::Input, input)?;
    }
    if let Some(states) = &of.states {
        (record.states, record.states_bias) = to.linear(Part::States, states)?;
    }
    (record.output, record.output_bias) = to.linear(Part::Output, &of.output)?;
    match &of.operation {
        Operation::Attention(attention) => lower_attention(attention, &mut record, to)?,
        Operation::FeedForward { activation, gated } => {
            let plain = if *gated { 0 } else { activation::PLAIN };
            (record.kind, record.variant) = (block::FEED_FORWARD, activation.code() | plain);
            record.inner = to.cols(&of.output) as u32;
        }
        Operation::Projection => record.kind = block::PROJECTION,
    }
    Ok(record)
}

/// A layer norm always has a bias in a record, if only of zeros.
fn lower_norm<T: Parts, L: Lower<T>>(
    [weight, bias]: [Part; 2],
    norm: &Norm<T::Vector>,
    to: &mut L,
) -> Result<(u32, u32), L::Error> {
    let index = to.vector(weight, &norm.weight)?;
    let bias = match (&norm.bias, norm.kind) {
        (Some(vector), _) => to.vector(bias, vector)?,
        (None, NormKind::Layer) => to.zeros(bias, &norm.weight)?,
        (None, NormKind::Rms) => NONE,
    };
    Ok((index, bias))
}

fn lower_attention<T: Parts, L: Lower<T>>(
    of: &Attention<T>,
    record: &mut BlockRecord,
    to: &mut L,
) -> Result<(), L::Error> {
    let count = |n: usize| u16::try_from(n).map_err(|_| Unstorable::Heads(n));
    if of.mask == Mask::Cross && (of.key_norm.is_some() || of.rope.is_some()) {
        return Err(Unstorable::CrossKeys.into());
    }
    (record.kind, (record.variant, record.window)) = (block::ATTENTION, mask_codes(of.mask));
    (record.heads, record.kv_heads) = (count(of.heads)?, count(of.kv_heads)?);
    (record.head_dim, record.score_scale) = (of.head_dim as u32, of.score_scale);
    for (part, norm) in [(Part::QueryNorm, &of.query_norm), (Part::KeyNorm, &of.key_norm)] {
        let Some(norm) = norm else { continue };
        record.head_norm_eps = record.head_norm_eps.max(norm.eps);
        let index = to.vector(part, &norm.weight)?;
        *if part == Part::QueryNorm { &mut record.query_norm } else { &mut record.key_norm } =
            index;
    }
    record.heads_inputs = inputs_code(of.head_inputs).into();
    if let Some(rope) = &of.rope {
        (record.rope, record.rope_magnitude) = (to.frequencies(&rope.frequencies)?, rope.magnitude);
    }
    if let Some(relative) = &of.relative {
        record.relative = to.relative(relative)?;
    }
    Ok(())
}

/// The block of a record whose fields were checked, with the tensors that `from` has.
///
/// # Errors
/// Those of `from`.
#[inline]
pub fn raise<T: Parts, R: Raise<T>>(record: &BlockRecord, from: &R) -> Result<Block<T>, R::Error> {
    let (kind, eps) = (norm_of(record.norm_kind), record.norm_eps);
    let norm = |weight, bias| raise_norm((weight, bias), kind, eps, |index| from.vector(index));
    let attends = record.kind == block::ATTENTION;
    Ok(Block {
        layer: record.layer as usize,
        norm: norm(record.norm, record.norm_bias)?,
        residual: match record.join {
            join::POST if FAMILIES => {
                let norm = norm(record.stream_norm, record.stream_norm_bias)?;
                Residual::Post(norm.ok_or_else(|| from.missing_norm())?)
            }
            join::REPLACE if FAMILIES => Residual::Replace,
            _ => Residual::Pre,
        },
        input: match record.kind {
            block::PROJECTION if FAMILIES => None,
            _ => Some(from.linear(record.input, record.input_bias)?),
        },
        states: if FAMILIES && attends && record.variant == mask::CROSS {
            Some(from.linear(record.states, record.states_bias)?)
        } else {
            None
        },
        output: from.linear(record.output, record.output_bias)?,
        operation: match record.kind {
            block::ATTENTION => Operation::Attention(raise_attention(record, from)?),
            block::PROJECTION if FAMILIES => Operation::Projection,
            _ => Operation::FeedForward {
                gated: !FAMILIES || record.variant & activation::PLAIN == 0,
                activation: activation_of(record.variant & !activation::PLAIN),
            },
        },
    })
}

/// A norm of a weight and, where the build has families, a bias.
pub(crate) fn raise_norm<V, E>(
    (weight, bias): (u32, u32),
    kind: NormKind,
    eps: f32,
    vector: impl Fn(u32) -> Result<V, E>,
) -> Result<Option<Norm<V>>, E> {
    let Some(weight) = optional(weight, &vector)? else { return Ok(None) };
    let bias = if FAMILIES { optional(bias, &vector)? } else { None };
    Ok(Some(Norm { kind, weight, bias, eps }))
}

fn raise_attention<T: Parts, R: Raise<T>>(
    record: &BlockRecord,
    from: &R,
) -> Result<Attention<T>, R::Error> {
    let norm = |index| {
        let weight = optional(index, |index| from.vector(index))?;
        let (kind, eps) = (NormKind::Rms, record.head_norm_eps);
        Ok(weight.map(|weight| Norm { kind, weight, bias: None, eps }))
    };
    let frequencies = optional(record.rope, |index| from.frequencies(index))?;
    Ok(Attention {
        heads: record.heads.into(),
        kv_heads: record.kv_heads.into(),
        head_dim: record.head_dim as usize,
        score_scale: record.score_scale,
        mask: mask_of(record).unwrap_or(Mask::Causal),
        query_norm: norm(record.query_norm)?,
        key_norm: norm(record.key_norm)?,
        rope: frequencies.map(|frequencies| Rope { frequencies, magnitude: record.rope_magnitude }),
        relative: if FAMILIES {
            optional(record.relative, |index| from.relative(index))?
        } else {
            None
        },
        head_inputs: inputs_of(record.heads_inputs as u8).unwrap_or_default(),
    })
}

/// A tensor, unless the index says that there is none.
pub(crate) fn optional<V, E>(
    index: u32,
    get: impl FnOnce(u32) -> Result<V, E>,
) -> Result<Option<V>, E> {
    if index == NONE { Ok(None) } else { get(index).map(Some) }
}

/// The code of a kind of norm.
pub fn norm_code(kind: NormKind) -> u8 {
    match kind {
        NormKind::Rms => norm::RMS,
        NormKind::Layer => norm::LAYER,
    }
}

/// The kind of norm of a code.
pub(crate) fn norm_of(code: u8) -> NormKind {
    if FAMILIES && code == norm::LAYER { NormKind::Layer } else { NormKind::Rms }
}

/// The code of a mask, and the window of a record.
fn mask_codes(of: Mask) -> (u8, u32) {
    match of {
        Mask::Causal => (mask::CAUSAL, 0),
        Mask::Full => (mask::FULL, 0),
        Mask::Cross => (mask::CROSS, 0),
        Mask::Window(count) => (mask::WINDOW, count),
    }
}

/// The mask of a record; nothing where it has none of this build's.
pub(crate) fn mask_of(record: &BlockRecord) -> Option<Mask> {
    match (record.variant, record.window) {
        (mask::CAUSAL, 0) => Some(Mask::Causal),
        (mask::FULL, 0) if FAMILIES => Some(Mask::Full),
        (mask::CROSS, 0) if FAMILIES => Some(Mask::Cross),
        (mask::WINDOW, 1..) if FAMILIES => Some(Mask::Window(record.window)),
        _ => None,
    }
}

/// The code of what inputs go through.
pub fn inputs_code(of: Inputs) -> u8 {
    match of {
        Inputs::Rounded => inputs::PLAIN,
        Inputs::Transformed => inputs::TRANSFORMED,
        Inputs::Planes => inputs::PLANES,
    }
}

/// What a code says; nothing where it is none of this build's.
pub fn inputs_of(code: u8) -> Option<Inputs> {
    match code {
        inputs::PLAIN => Some(Inputs::Rounded),
        inputs::TRANSFORMED => Some(Inputs::Transformed),
        inputs::PLANES if FAMILIES => Some(Inputs::Planes),
        _ => None,
    }
}

/// The activation of a code that was checked.
pub(crate) fn activation_of(code: u8) -> Activation {
    Activation::of_code(code).filter(|_| FAMILIES).unwrap_or(Activation::Silu)
}

/// The code of what is taken from a sequence's states.
pub fn pooling_code(of: Pooling) -> u8 {
    match of {
        Pooling::None => pooling::NONE,
        Pooling::First => pooling::FIRST,
        Pooling::Mean => pooling::MEAN,
        Pooling::Max => pooling::MAX,
    }
}

/// What is taken from a sequence's states, of a code that was checked.
pub(crate) fn pooling_of(code: u8) -> Pooling {
    match code {
        _ if !FAMILIES => Pooling::None,
        pooling::FIRST => Pooling::First,
        pooling::MEAN => Pooling::Mean,
        pooling::MAX => Pooling::Max,
        _ => Pooling::None,
    }
}
