//! Golden sequences: does this machine give the bits of the file's maker?

use core::fmt;

use super::{RunError, Session, Source};
use crate::parallel::Parallel;
use crate::sampler::argmax;
use kinglet_model::{FAMILIES, Golden, LogitsHash};

/// How a golden sequence was not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum GoldenError {
    /// It could not be run.
    Run(RunError),
    /// Another token was the most probable.
    Token {
        /// Its place in the answer.
        index: usize,
        /// The maker's token.
        want: u32,
        /// The one found.
        got: u32,
    },
    /// The tokens are right, the bits of their logits are not.
    Hash {
        /// The maker's hash.
        want: u64,
        /// The one found.
        got: u64,
    },
}

impl<P: Parallel> Session<'_, '_, P> {
    /// Rewinds to the start and repeats a golden sequence: tokens and bits must be those of the
    /// file's maker.
    ///
    /// # Errors
    /// [`GoldenError`] names the first token that differs, or the hash where only bits do.
    pub fn check_golden(&mut self, golden: &Golden<'_>) -> Result<(), GoldenError> {
        self.rewind(0).map_err(GoldenError::Run)?;
        let mut hash = LogitsHash::default();
        if FAMILIES && golden.rows > 0 {
            let source = match golden.source {
                [] => Source::Pattern(golden.rows),
                tokens => Source::Tokens(tokens),
            };
            hash.update(self.encode(source).map_err(GoldenError::Run)?);
        }
        if golden.prompt.is_empty() {
            let (want, got) = (golden.hash, hash.value());
            return if got == want { Ok(()) } else { Err(GoldenError::Hash { want, got }) };
        }
        let mut logits = self.feed(golden.prompt).map_err(GoldenError::Run)?;
        for (index, &want) in golden.answer.iter().enumerate() {
            hash.update(logits);
            let got = argmax(logits);
            if got != want {
                return Err(GoldenError::Token { index, want, got });
            }
            if index + 1 < golden.answer.len() {
                logits = self.feed(&[want]).map_err(GoldenError::Run)?;
            }
        }
        let (want, got) = (golden.hash, hash.value());
        if got == want { Ok(()) } else { Err(GoldenError::Hash { want, got }) }
    }
}

impl fmt::Display for GoldenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(error) => error.fmt(f),
            Self::Token { index, want, got } => {
                write!(f, "token {index} of the answer is {got}, should be {want}")
            }
            Self::Hash { want, got } => {
                write!(f, "the logits' hash is {got:016x}, should be {want:016x}")
            }
        }
    }
}

impl core::error::Error for GoldenError {}
