//! Why a file could not be evaluated.

use kinglet::MemoryError;
use kinglet_reference::ReferenceError;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// Too little to score.
    #[error("the text has {tokens} tokens; at least 2 are needed")]
    TooShort {
        /// Tokens.
        tokens: usize,
    },
    /// The window does not fit the model.
    #[error(
        "a window of {window} tokens does not fit the model's context of {context}; choose a \
         smaller --window"
    )]
    Window {
        /// Tokens of a window.
        window: usize,
        /// Positions of the model.
        context: usize,
    },
    /// A token that the model does not have.
    #[error(
        "token {token} is not one of the model's {vocab}: encode the text with the model's own \
         tokenizer"
    )]
    Token {
        /// The token.
        token: u32,
        /// Tokens of the model.
        vocab: usize,
    },
    /// The reference has another vocabulary.
    #[error(
        "the reference has {got} logits for a position, the model {want}: it is not the checkpoint \
         this file was made from"
    )]
    Vocabulary {
        /// Logits expected.
        want: usize,
        /// Logits found.
        got: usize,
    },
    /// Another model has another vocabulary.
    #[error(
        "the other model has {got} logits for a position, the first {want}: they predict different \
         tokens"
    )]
    OtherVocabulary {
        /// Logits of the first.
        want: usize,
        /// Logits found.
        got: usize,
    },
    /// The reference does not continue texts.
    #[error(
        "the reference does not predict the next token of a text, so a text says nothing of it: \
         give a decoder's checkpoint"
    )]
    Kind,
    /// The reference could not be run.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// There is no memory for the model.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The model could not be run.
    #[error("{0}")]
    Run(String),
}

impl EvaluateError {
    pub(crate) fn run(error: impl std::fmt::Display) -> Self {
        Self::Run(error.to_string())
    }
}
