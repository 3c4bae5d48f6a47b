//! What tensors are: the trait, and tensors of a file in place.

use core::fmt::Debug;

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
