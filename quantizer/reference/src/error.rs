//! Why a reference could not run.

use kinglet_import::checkpoint::CheckpointError;

/// Why a reference could not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// The weights could not be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A token that the model does not have.
    #[error(
        "token {token} at position {position} of sequence {sequence} is not one of the model's \
         {vocab}: encode the text with the model's own tokenizer"
    )]
    Token {
        /// The sequence.
        sequence: usize,
        /// The position in it.
        position: usize,
        /// The token.
        token: u32,
        /// Tokens of the model.
        vocab: usize,
    },
    /// A sequence longer than the model's context.
    #[error(
        "sequence {sequence} has {length} tokens, the model's context is {context}: cut it, or \
         open the checkpoint for a longer context"
    )]
    Length {
        /// The sequence.
        sequence: usize,
        /// Its length.
        length: usize,
        /// The longest possible.
        context: usize,
    },
    /// A sample of another kind than the model reads.
    #[error("sample {sequence} is nothing that the model reads: give it {reads}")]
    Source {
        /// The sample.
        sequence: usize,
        /// What the model reads.
        reads: &'static str,
    },
    /// Numbers that make no whole rows, or a picture of another size.
    #[error("sample {sequence} has {found} numbers, which is not a multiple of {of}")]
    Size {
        /// The sample.
        sequence: usize,
        /// Numbers of it.
        found: usize,
        /// Numbers of a row, or of a picture.
        of: usize,
    },
    /// A chain that no importer makes.
    #[error(
        "the model's stacks do not follow from each other; this is a defect of the importer, \
         please report it"
    )]
    Chain,
}
