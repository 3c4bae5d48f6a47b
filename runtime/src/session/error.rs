//! Why there is no session, and why tokens were not run.

use core::fmt;

use super::arena::ArenaError;
use crate::plan::PlanError;
use kinglet_model::{FAMILIES, OpenError};

/// Why there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum SessionError {
    /// There is no plan for these options.
    Plan(PlanError),
    /// The memory does not do.
    Arena(ArenaError),
}

/// Why tokens were not run. The session stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum RunError {
    /// No tokens.
    Empty,
    /// More tokens at once than the plan's `prefill` or `targets`, or more logits than its
    /// `logits`.
    TooMany {
        /// Asked for.
        asked: usize,
        /// Planned.
        most: usize,
    },
    /// The tokens do not fit the context that the plan left room for.
    ContextFull {
        /// Positions needed.
        needed: usize,
        /// Positions planned.
        context: usize,
    },
    /// A token that the vocabulary does not have.
    Token {
        /// Its place among the tokens given.
        index: usize,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// The source has no rows, more than were planned, or numbers that are no whole rows or another
    /// picture than the model's.
    Source {
        /// Tokens, numbers or bytes that the model reads, at most.
        most: usize,
        /// Given.
        found: usize,
    },
    /// The model does not read this: a source where it has none, tokens where it reads features or
    /// pictures, or the other way about.
    Reads {
        /// What it reads.
        what: &'static str,
    },
    /// A target was begun before there was a source.
    NoSource,
    /// A position to rewind to that was not reached.
    Position {
        /// Asked for.
        asked: usize,
        /// Reached.
        reached: usize,
    },
    /// A run was begun and is not finished: resume it, or rewind.
    Unfinished,
    /// Nothing was begun.
    Idle,
    /// The model changed since it was opened.
    Model(OpenError),
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(error) => error.fmt(f),
            Self::Arena(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SessionError {}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no tokens to run"),
            Self::TooMany { asked, most } => {
                write!(f, "{asked} at once is more than the {most} planned for")
            }
            Self::ContextFull { needed, context } => {
                write!(
                    f,
                    "{needed} positions are needed, the context has {context}: shorten the prompt \
                     or plan a larger context"
                )
            }
            Self::Source { .. } | Self::Reads { .. } | Self::NoSource if !FAMILIES => {
                f.write_str("the model reads tokens of a target and no source")
            }
            Self::Source { most, found: 0 } => {
                write!(f, "the source is empty; the model reads up to {most}")
            }
            Self::Source { most, found } => {
                write!(
                    f,
                    "the source has {found} tokens, numbers or bytes, the model reads {most} as it \
                     was planned"
                )
            }
            Self::Reads { what } => write!(f, "the model reads {what}"),
            Self::NoSource => f.write_str("the model looks at a source: read one first"),
            Self::Token { index, token, vocab } => {
                write!(f, "token {token} (number {index}) is not in the vocabulary of {vocab}")
            }
            Self::Position { asked, reached } => {
                write!(f, "cannot rewind to {asked}: {reached} tokens were run")
            }
            Self::Unfinished => f.write_str("a run is unfinished: resume it, or rewind"),
            Self::Idle => f.write_str("no run was begun"),
            Self::Model(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for RunError {}
