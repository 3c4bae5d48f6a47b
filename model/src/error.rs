//! Why bytes are not a model: small values that name the place.

use core::fmt;

use kinglet_kernels::LayoutError;

use super::families::FAMILIES;

/// Why a file could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum OpenError {
    /// The bytes end early: the file says `needed`, there are `found`.
    Truncated {
        /// Bytes that the file says it has.
        needed: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The first bytes are not those of a `.kinglet` file.
    NotKinglet,
    /// A version that this crate does not read.
    Version {
        /// The file's version.
        found: u16,
    },
    /// The memory does not start at a multiple of 64.
    Unaligned,
    /// The checksum of head and section table does not match.
    HeadChecksum,
    /// A section is wrong.
    Section {
        /// Its kind, one of [`super::layout::section`].
        kind: u32,
        /// What is wrong.
        problem: SectionProblem,
    },
    /// The model's record is wrong.
    Model(ModelProblem),
    /// A tensor is wrong.
    Tensor {
        /// Its index.
        index: u32,
        /// What is wrong.
        problem: TensorProblem,
    },
    /// A stack is wrong.
    Stack {
        /// Its index.
        index: u32,
        /// What is wrong.
        problem: StackProblem,
    },
    /// A block is wrong.
    Block {
        /// Its index.
        index: u32,
        /// What is wrong.
        problem: BlockProblem,
    },
}

/// What is wrong with a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum SectionProblem {
    /// It must be there and is not.
    Missing,
    /// There are two.
    Duplicate,
    /// It starts inside the head or the section before it, or ends beyond the file.
    Bounds,
    /// It does not start at a multiple of 64.
    Misaligned,
    /// Its length is not that of its records.
    Length,
    /// Its bytes do not match its checksum.
    Checksum,
    /// Bytes that must be zero are not: the file uses something that this version does not know.
    Reserved,
}

/// What is wrong with the model's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ModelProblem {
    /// An unknown way of pooling or activation.
    Kind,
    /// A count that is zero or too large, or another than that of all stacks.
    Dimension,
    /// Bytes that must be zero are not.
    Reserved,
    /// The dense layer or the head does not have the shape of the last stack, or a language model
    /// has no head.
    Shape,
    /// This build of the runtime leaves out what the model needs.
    NotBuilt,
}

/// What is wrong with a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum StackProblem {
    /// There is no such stack.
    Missing,
    /// An unknown kind of input or norm.
    Kind,
    /// A width or context that is zero or too large.
    Dimension,
    /// An epsilon or scale that is negative or not finite.
    Value,
    /// A picture that is empty, or not a whole number of patches.
    Picture,
    /// A tensor's shape does not fit the stack, or a table is sparse.
    Shape,
    /// It goes on with states or looks across, and is the first; or its width is not that of the
    /// states.
    Order,
    /// This build of the runtime leaves out what the stack needs.
    NotBuilt,
    /// Bytes that must be zero are not.
    Reserved,
}

/// What is wrong with a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum TensorProblem {
    /// There is no such tensor.
    Missing,
    /// An unknown format.
    Format(u8),
    /// A dimension is zero or too large.
    Shape,
    /// It overlaps the tensor before it, or ends beyond the weights.
    Bounds,
    /// It does not start at a multiple of 64.
    Misaligned,
    /// Its length is not that of its shape.
    Length,
    /// It is a matrix where a vector belongs, or the other way about, or has the wrong element.
    Kind,
    /// What its inputs go through is unknown, or not for these columns or this use.
    Inputs,
    /// This build of the runtime leaves out what the tensor needs.
    NotBuilt,
    /// Bytes that must be zero are not.
    Reserved,
}

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum BlockProblem {
    /// An unknown kind of block.
    Kind(u8),
    /// An unknown norm, residual join, attention or activation.
    Variant,
    /// Heads that are zero, too many, or not a multiple of the key/value heads; or a head too wide.
    Heads,
    /// The width of a feed-forward block is zero or too large.
    Inner,
    /// A tensor's shape does not fit the block.
    Shape,
    /// A rotary table with no pairs, or more than a head has.
    Rope,
    /// A table of distances that is not an odd number of values for each head.
    Relative,
    /// What heads or states go through is unknown, or not for their width, or not the same for all
    /// that look at the states.
    Inputs,
    /// An epsilon or scale that is negative or not finite.
    Value,
    /// This build of the runtime leaves out what the block needs.
    NotBuilt,
    /// Bytes that must be zero are not.
    Reserved,
}

impl From<LayoutError> for TensorProblem {
    fn from(error: LayoutError) -> Self {
        match error {
            LayoutError::Shape => Self::Shape,
            LayoutError::Length => Self::Length,
            LayoutError::Alignment => Self::Misaligned,
            LayoutError::NotBuilt => Self::NotBuilt,
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { needed, found } => {
                // As numbers of the machine: those of 64 bits would take others a KiB of flash to
                // print.
                let [needed, found] =
                    [needed, found].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
                write!(
                    f,
                    "the file ends early: it says {needed} bytes, there are {found}; copy it again"
                )
            }
            Self::NotKinglet => {
                f.write_str("not a .kinglet file; make one with `kinglet quantize`")
            }
            Self::Version { found } => {
                write!(
                    f,
                    "format version {}; this runtime reads {}: update it, or quantize again",
                    u32::from(found),
                    u32::from(super::layout::VERSION)
                )
            }
            Self::Unaligned => f.write_str("the memory does not start at a multiple of 64 bytes"),
            Self::HeadChecksum => {
                f.write_str("the head's checksum does not match; copy the file again")
            }
            Self::Section { kind, problem } => write!(f, "section {kind}: {problem}"),
            Self::Model(problem) => write!(f, "model record: {problem}"),
            Self::Tensor { index, problem } => write!(f, "tensor {index}: {problem}"),
            Self::Stack { index, problem } => write!(f, "stack {index}: {problem}"),
            Self::Block { index, problem } => write!(f, "block {index}: {problem}"),
        }
    }
}

impl core::error::Error for OpenError {}

const NOT_BUILT: &str = "this program's runtime was built without what it needs: turn on the \
                         feature `families` of kinglet";
const NEWER: &str = "bytes that must be zero are not; the file may come from a newer version";
const UNKNOWN: &str = "an unknown kind; the file may come from a newer version";
const SHAPE: &str = "a tensor's shape does not fit";

impl fmt::Display for SectionProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Duplicate => "present twice",
            Self::Bounds => "overlaps its neighbour or ends beyond the file",
            Self::Misaligned => "does not start at a multiple of 64",
            Self::Length => "its length does not fit its records",
            Self::Checksum => "its checksum does not match; copy the file again",
            Self::Reserved => NEWER,
        })
    }
}

impl fmt::Display for ModelProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => UNKNOWN,
            Self::Dimension => "a count is zero or too large, or not that of the stacks",
            Self::Reserved => NEWER,
            Self::Shape => "dense layer or head do not have the last stack's shape",
            Self::NotBuilt => NOT_BUILT,
        })
    }
}

impl fmt::Display for StackProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Kind => UNKNOWN,
            Self::Dimension => "a width or context is zero or too large",
            Self::Value => "an epsilon or scale is negative or not finite",
            Self::Picture if FAMILIES => {
                "the picture is too large, or not a whole number of patches"
            }
            Self::Shape => SHAPE,
            Self::Order if FAMILIES => "it needs the states of a stack before it, of its width",
            Self::NotBuilt | Self::Picture | Self::Order => NOT_BUILT,
            Self::Reserved => NEWER,
        })
    }
}

impl fmt::Display for TensorProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("named, but not in the table"),
            Self::Format(n) => write!(
                f,
                "unknown format {}; the file may come from a newer version",
                u32::from(*n)
            ),
            Self::Shape => f.write_str("a dimension is zero or too large"),
            Self::Bounds => f.write_str("overlaps its neighbour or ends beyond the weights"),
            Self::Misaligned => f.write_str("does not start at a multiple of 64"),
            Self::Length => f.write_str("its length does not fit its shape"),
            Self::Kind => {
                f.write_str("a matrix where a vector belongs, or a vector where a matrix does")
            }
            Self::Inputs => f.write_str(UNKNOWN),
            Self::NotBuilt => f.write_str(NOT_BUILT),
            Self::Reserved => f.write_str(NEWER),
        }
    }
}

impl fmt::Display for BlockProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(n) => {
                write!(f, "unknown kind {}; the file may come from a newer version", u32::from(*n))
            }
            Self::Variant => f.write_str(UNKNOWN),
            Self::Heads => f.write_str("heads do not divide, or a head is too wide"),
            Self::Inner => f.write_str("its width is zero or too large"),
            Self::Shape => f.write_str(SHAPE),
            Self::Rope => f.write_str("the rotary table does not fit the heads"),
            Self::Relative if FAMILIES => {
                f.write_str("the table of distances is not an odd number of values for each head")
            }
            Self::Value => f.write_str("an epsilon or scale is negative or not finite"),
            Self::NotBuilt | Self::Relative => f.write_str(NOT_BUILT),
            Self::Inputs => f.write_str(UNKNOWN),
            Self::Reserved => f.write_str(NEWER),
        }
    }
}
