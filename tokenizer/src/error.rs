//! The typed errors of opening, checking and encoding. Small and `Copy`, with no text: the host
//! command explains them.

use super::extent::Table;

/// A field of the section's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Field {
    /// The section's length.
    Length,
    /// The vocabulary's length.
    Vocab,
    /// The flags.
    Flags,
    /// The kind of symbols.
    Kind,
    /// The pre-tokenizing pattern.
    Pattern,
    /// The longest number.
    MaxDigits,
    /// The cutting of digits.
    Digits,
    /// The treatment of spaces.
    Spaces,
    /// The space in front.
    Prefix,
    /// The cutting into words.
    Words,
    /// The stripping on decoding.
    Strip,
    /// The unknown token.
    Unk,
    /// The beginning token.
    Bos,
    /// The padding token.
    Pad,
}

/// Why bytes are not a tokenizer section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum TokenizerError {
    /// Fewer bytes than a header.
    TooShort,
    /// The first bytes are not the section's.
    NotATokenizer,
    /// A version this runtime does not read.
    Version {
        /// The version found.
        found: u32,
    },
    /// A header field has no valid value, or one that needs the feature `families`, which this
    /// build is without.
    Field(Field),
    /// A table lies outside the section, is not aligned, or has the wrong count of entries.
    Extent(Table),
    /// An entry of a table is wrong; found only by `Tokenizer::validate`.
    Entry {
        /// The table.
        table: Table,
        /// The first wrong entry.
        index: u32,
    },
}

impl core::fmt::Display for TokenizerError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooShort => f.write_str("tokenizer section is too short"),
            Self::NotATokenizer => f.write_str("not a tokenizer section"),
            Self::Version { found } => {
                write!(f, "tokenizer section: version {found} is not supported")
            }
            Self::Field(field) => {
                write!(f, "tokenizer header: field {field:?} is bad or not in this build")
            }
            Self::Extent(table) => write!(f, "tokenizer table {table:?} does not fit"),
            Self::Entry { table, index } => {
                write!(f, "tokenizer table {table:?}: bad entry {index}")
            }
        }
    }
}

impl core::error::Error for TokenizerError {}

/// Why a text was not encoded. Nothing in the output may be used after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum EncodeError {
    /// The scratch is too small for this text.
    ScratchTooSmall {
        /// Words that would have been enough.
        needed: usize,
    },
    /// The output is too small for this text.
    OutputTooSmall {
        /// Tokens the text has.
        needed: usize,
    },
    /// A character or word has no token, and the vocabulary has neither bytes nor an unknown token
    /// to stand for it.
    Unknown {
        /// Its offset in the text.
        at: usize,
    },
}

impl core::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::ScratchTooSmall { needed } => {
                write!(f, "encoding this text needs {needed} words of scratch")
            }
            Self::OutputTooSmall { needed } => {
                write!(f, "this text has {needed} tokens, more than the output holds")
            }
            Self::Unknown { at } => {
                write!(f, "the character at byte {at} is not in the vocabulary")
            }
        }
    }
}

impl core::error::Error for EncodeError {}
