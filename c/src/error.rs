//! Errors with the place and the numbers, and the status code of each.

use core::fmt;

use kinglet::tokenizer::{EncodeError, TokenizerError};
use kinglet::{ArenaError, GoldenError, OpenError, PlanError, RunError, SessionError, VerifyError};

use crate::status::kinglet_status;
use crate::status::kinglet_status::*;

/// Everything that goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Error {
    Null(&'static str),
    Unaligned { what: &'static str, align: usize },
    NotOpen(&'static str),
    TooSmall { what: &'static str, needed: usize, found: usize },
    TooLong(&'static str),
    Overlap(&'static str),
    Utf8 { at: usize },
    Value { what: &'static str, found: i32 },
    Missing(&'static str),
    Open(OpenError),
    Verify(VerifyError),
    Plan(PlanError),
    Session(SessionError),
    Run(RunError),
    Golden(GoldenError),
    Tokenizer(TokenizerError),
    Encode(EncodeError),
}

macro_rules! from {
    ($($variant:ident: $error:ty),+ $(,)?) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        }
    )+};
}
from! {
    Open: OpenError, Verify: VerifyError, Plan: PlanError, Session: SessionError, Run: RunError,
    Golden: GoldenError, Tokenizer: TokenizerError, Encode: EncodeError,
}

impl Error {
    pub(crate) fn status(&self) -> kinglet_status {
        match self {
            Self::Null(_) => KINGLET_ERROR_NULL,
            Self::Unaligned { .. } => KINGLET_ERROR_UNALIGNED,
            Self::NotOpen(_) => KINGLET_ERROR_NOT_OPEN,
            Self::TooSmall { .. } => KINGLET_ERROR_TOO_SMALL,
            Self::TooLong(_) => KINGLET_ERROR_TOO_LONG,
            Self::Overlap(_) => KINGLET_ERROR_OVERLAP,
            Self::Utf8 { .. } => KINGLET_ERROR_UTF8,
            Self::Value { .. } => KINGLET_ERROR_VALUE,
            Self::Missing(_) => KINGLET_ERROR_MISSING,
            Self::Open(error) => open(error),
            Self::Verify(error) => verify(error),
            Self::Plan(error) => plan(error),
            Self::Session(error) => session(error),
            Self::Run(error) => run(error),
            Self::Golden(error) => golden(error),
            Self::Tokenizer(_) => KINGLET_ERROR_TOKENIZER,
            Self::Encode(error) => encode(error),
        }
    }
}

fn open(error: &OpenError) -> kinglet_status {
    match error {
        OpenError::NotKinglet => KINGLET_ERROR_NOT_KINGLET,
        OpenError::Version { .. } => KINGLET_ERROR_VERSION,
        OpenError::Truncated { .. } => KINGLET_ERROR_TRUNCATED,
        OpenError::Unaligned => KINGLET_ERROR_UNALIGNED,
        OpenError::HeadChecksum => KINGLET_ERROR_CHECKSUM,
        _ => KINGLET_ERROR_FILE,
    }
}

fn verify(error: &VerifyError) -> kinglet_status {
    match error {
        VerifyError::Section { .. } | VerifyError::Tensor { .. } => KINGLET_ERROR_CHECKSUM,
        VerifyError::Tokenizer(_) => KINGLET_ERROR_TOKENIZER,
        VerifyError::Open(error) => open(error),
        _ => KINGLET_ERROR_FILE,
    }
}

fn plan(error: &PlanError) -> kinglet_status {
    match error {
        PlanError::Options => KINGLET_ERROR_OPTIONS,
        PlanError::Context { .. } => KINGLET_ERROR_CONTEXT,
        PlanError::Source { .. } => KINGLET_ERROR_PLAN_SOURCE,
        PlanError::TooLarge => KINGLET_ERROR_TOO_LARGE,
        PlanError::Model(error) => open(error),
        _ => KINGLET_ERROR_OTHER,
    }
}

fn session(error: &SessionError) -> kinglet_status {
    match error {
        SessionError::Plan(error) => plan(error),
        SessionError::Arena(ArenaError::TooSmall { .. }) => KINGLET_ERROR_TOO_SMALL,
        SessionError::Arena(ArenaError::Unaligned) => KINGLET_ERROR_UNALIGNED,
        _ => KINGLET_ERROR_OTHER,
    }
}

fn run(error: &RunError) -> kinglet_status {
    match error {
        RunError::Empty => KINGLET_ERROR_EMPTY,
        RunError::TooMany { .. } => KINGLET_ERROR_TOO_MANY,
        RunError::ContextFull { .. } => KINGLET_ERROR_CONTEXT_FULL,
        RunError::Token { .. } => KINGLET_ERROR_TOKEN,
        RunError::Source { .. } => KINGLET_ERROR_SOURCE,
        RunError::Reads { .. } => KINGLET_ERROR_READS,
        RunError::NoSource => KINGLET_ERROR_NO_SOURCE,
        RunError::Position { .. } => KINGLET_ERROR_POSITION,
        RunError::Unfinished => KINGLET_ERROR_UNFINISHED,
        RunError::Idle => KINGLET_ERROR_IDLE,
        RunError::Model(error) => open(error),
        _ => KINGLET_ERROR_OTHER,
    }
}

fn golden(error: &GoldenError) -> kinglet_status {
    match error {
        GoldenError::Run(error) => run(error),
        GoldenError::Token { .. } => KINGLET_ERROR_GOLDEN_TOKEN,
        GoldenError::Hash { .. } => KINGLET_ERROR_GOLDEN_HASH,
        _ => KINGLET_ERROR_OTHER,
    }
}

fn encode(error: &EncodeError) -> kinglet_status {
    match error {
        EncodeError::ScratchTooSmall { .. } => KINGLET_ERROR_SCRATCH,
        EncodeError::OutputTooSmall { .. } => KINGLET_ERROR_TOO_SMALL,
        EncodeError::Unknown { .. } => KINGLET_ERROR_UNKNOWN,
        _ => KINGLET_ERROR_OTHER,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null(what) => write!(f, "{what}: the pointer is null"),
            Self::Unaligned { what, align } => {
                write!(f, "{what}: the pointer is not a multiple of {align}")
            }
            Self::NotOpen(what) => write!(f, "the {what} was not opened, or was copied since"),
            Self::TooSmall { what, needed, found } => {
                write!(f, "{what}: the buffer has {found} bytes, {needed} are needed")
            }
            Self::TooLong(what) => write!(f, "{what}: longer than the address space"),
            Self::Overlap(what) => write!(f, "{what}: shares memory with another argument"),
            Self::Utf8 { at } => write!(f, "the text is not UTF-8 at byte {at}"),
            Self::Value { what, found } => {
                // As a number of the machine, of which the formatting is linked anyway.
                let (sign, value) =
                    if *found < 0 { ("-", found.wrapping_neg()) } else { ("", *found) };
                write!(f, "{what}: there is no {sign}{}", value as u32 as usize)
            }
            Self::Missing(what) => write!(f, "the model has no {what}"),
            Self::Open(error) => error.fmt(f),
            Self::Verify(error) => error.fmt(f),
            Self::Plan(error) => error.fmt(f),
            Self::Session(error) => error.fmt(f),
            Self::Run(error) => error.fmt(f),
            Self::Golden(error) => error.fmt(f),
            Self::Tokenizer(error) => error.fmt(f),
            Self::Encode(error) => error.fmt(f),
        }
    }
}
