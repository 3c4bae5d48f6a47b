//! Status codes, and errors with the place and the numbers.

use core::ffi::{CStr, c_char};
use core::fmt::{self, Write as _};

use kinglet::tokenizer::{EncodeError, TokenizerError};
use kinglet::{ArenaError, GoldenError, OpenError, PlanError, RunError, SessionError, VerifyError};

use crate::caller::{Caller, Object};

/// What a function returns. Errors are negative, and their numbers do not change.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kinglet_status {
    /// Everything was done.
    KINGLET_OK = 0,
    /// The budget is used up: call kinglet_session_resume again when convenient.
    KINGLET_PENDING = 1,

    /// A pointer is null.
    KINGLET_ERROR_NULL = -1,
    /// A pointer is not aligned as it must be.
    KINGLET_ERROR_UNALIGNED = -2,
    /// An object was not opened, was opened without success, or was copied.
    KINGLET_ERROR_NOT_OPEN = -3,
    /// A lent buffer is too small.
    KINGLET_ERROR_TOO_SMALL = -4,
    /// A length is more than the address space has.
    KINGLET_ERROR_TOO_LONG = -5,
    /// Two arguments share memory that must not.
    KINGLET_ERROR_OVERLAP = -6,
    /// A text is not UTF-8.
    KINGLET_ERROR_UTF8 = -7,
    /// An option has a value that does not exist.
    KINGLET_ERROR_VALUE = -8,
    /// The model does not have what was asked for.
    KINGLET_ERROR_MISSING = -9,

    /// The bytes are not a .kinglet file.
    KINGLET_ERROR_NOT_KINGLET = -20,
    /// The file has a format version that this library does not read.
    KINGLET_ERROR_VERSION = -21,
    /// The file ends early.
    KINGLET_ERROR_TRUNCATED = -22,
    /// The file's structure is wrong.
    KINGLET_ERROR_FILE = -23,
    /// A checksum does not match.
    KINGLET_ERROR_CHECKSUM = -24,
    /// The tokenizer's section is wrong.
    KINGLET_ERROR_TOKENIZER = -25,

    /// An option is zero or too large.
    KINGLET_ERROR_OPTIONS = -40,
    /// The model was made for a shorter context.
    KINGLET_ERROR_CONTEXT = -41,
    /// The model was made for a shorter source, or for none.
    KINGLET_ERROR_PLAN_SOURCE = -42,
    /// The plan does not fit the address space.
    KINGLET_ERROR_TOO_LARGE = -43,

    /// There are no tokens.
    KINGLET_ERROR_EMPTY = -60,
    /// More was asked for than was planned.
    KINGLET_ERROR_TOO_MANY = -61,
    /// The tokens do not fit the planned context.
    KINGLET_ERROR_CONTEXT_FULL = -62,
    /// The vocabulary has no such token.
    KINGLET_ERROR_TOKEN = -63,
    /// The source has a length that the model or the plan does not take.
    KINGLET_ERROR_SOURCE = -64,
    /// The model does not read what it was given.
    KINGLET_ERROR_READS = -65,
    /// A target was begun before there was a source.
    KINGLET_ERROR_NO_SOURCE = -66,
    /// The position to rewind to was not reached.
    KINGLET_ERROR_POSITION = -67,
    /// A run was begun and is not finished: resume it, or rewind.
    KINGLET_ERROR_UNFINISHED = -68,
    /// No run was begun.
    KINGLET_ERROR_IDLE = -69,

    /// A golden sequence gave another token.
    KINGLET_ERROR_GOLDEN_TOKEN = -80,
    /// A golden sequence gave the right tokens with other bits.
    KINGLET_ERROR_GOLDEN_HASH = -81,

    /// The tokenizer's scratch is too small for this text.
    KINGLET_ERROR_SCRATCH = -90,
    /// The text has a character that the vocabulary cannot express.
    KINGLET_ERROR_UNKNOWN = -91,

    /// An error that has no code of its own; the message says which.
    KINGLET_ERROR_OTHER = -127,
}

use kinglet_status::*;

/// What went wrong and where, for kinglet_error_message. A function that fails writes it if it is
/// given one; a function that succeeds leaves it as it was.
#[repr(C)]
#[derive(Debug)]
pub struct kinglet_error {
    tag: u64,
    opaque: [usize; 10],
}

impl Object for kinglet_error {
    type Value = Error;
    const NAME: &'static str = "error";
    const TAG: u64 = 0x4b4c_4552_5f9d_1c27;
}

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

/// Counts all bytes of a text, and keeps what fits with a NUL behind it.
struct Terminated<'t> {
    text: &'t mut [u8],
    kept: usize,
    all: usize,
}

impl fmt::Write for Terminated<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        // After the first character that did not fit nothing is kept.
        if self.kept == self.all {
            let room = self.text.len().saturating_sub(self.kept + 1);
            let part = &part.as_bytes()[..part.floor_char_boundary(room)];
            if let Some(to) = self.text.get_mut(self.kept..self.kept + part.len()) {
                to.copy_from_slice(part);
                self.kept += part.len();
            }
        }
        self.all += part.len();
        Ok(())
    }
}

/// Writes what went wrong, with the place and the numbers, as a terminated UTF-8 text; a text that
/// does not fit is cut after a whole character. Returns the bytes of the whole text without its
/// terminator, as snprintf does. If no function wrote to `error`, the text is empty.
///
/// `text` may be null when `capacity` is 0. A program that never calls this function does not
/// contain the texts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_error_message(
    error: *const kinglet_error,
    text: *mut c_char,
    capacity: usize,
) -> usize {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let value = caller.shared(error).ok().copied();
    let Ok(text) = caller.slice_mut(text.cast::<u8>(), capacity, "text") else { return 0 };
    let mut to = Terminated { text, kept: 0, all: 0 };
    if let Some(value) = value {
        // Neither this writer nor the errors' texts fail.
        let _ = write!(to, "{value}");
    }
    let kept = to.kept;
    if let Some(end) = to.text.get_mut(kept) {
        *end = 0;
    }
    to.all
}

/// A short text for a status code, without place and numbers. It is a constant.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_status_text(status: i32) -> *const c_char {
    text_of(status).as_ptr()
}

fn text_of(status: i32) -> &'static CStr {
    const TEXTS: [(kinglet_status, &CStr); 36] = [
        (KINGLET_OK, c"done"),
        (KINGLET_PENDING, c"the budget is used up"),
        (KINGLET_ERROR_NULL, c"a pointer is null"),
        (KINGLET_ERROR_UNALIGNED, c"a pointer is not aligned"),
        (KINGLET_ERROR_NOT_OPEN, c"an object was not opened, or was copied"),
        (KINGLET_ERROR_TOO_SMALL, c"a buffer is too small"),
        (KINGLET_ERROR_TOO_LONG, c"a length is too large"),
        (KINGLET_ERROR_OVERLAP, c"arguments share memory"),
        (KINGLET_ERROR_UTF8, c"a text is not UTF-8"),
        (KINGLET_ERROR_VALUE, c"an option has no such value"),
        (KINGLET_ERROR_MISSING, c"the model does not have it"),
        (KINGLET_ERROR_NOT_KINGLET, c"not a .kinglet file"),
        (KINGLET_ERROR_VERSION, c"an unknown format version"),
        (KINGLET_ERROR_TRUNCATED, c"the file ends early"),
        (KINGLET_ERROR_FILE, c"the file's structure is wrong"),
        (KINGLET_ERROR_CHECKSUM, c"a checksum does not match"),
        (KINGLET_ERROR_TOKENIZER, c"the tokenizer's section is wrong"),
        (KINGLET_ERROR_OPTIONS, c"an option is zero or too large"),
        (KINGLET_ERROR_CONTEXT, c"the context exceeds the model's"),
        (KINGLET_ERROR_PLAN_SOURCE, c"the planned source does not fit the model"),
        (KINGLET_ERROR_TOO_LARGE, c"the plan exceeds the address space"),
        (KINGLET_ERROR_EMPTY, c"nothing to run"),
        (KINGLET_ERROR_TOO_MANY, c"more than was planned"),
        (KINGLET_ERROR_CONTEXT_FULL, c"the context is full"),
        (KINGLET_ERROR_TOKEN, c"no such token"),
        (KINGLET_ERROR_SOURCE, c"the source has a wrong length"),
        (KINGLET_ERROR_READS, c"the model does not read this"),
        (KINGLET_ERROR_NO_SOURCE, c"there is no source yet"),
        (KINGLET_ERROR_POSITION, c"the position was not reached"),
        (KINGLET_ERROR_UNFINISHED, c"a run is not finished"),
        (KINGLET_ERROR_IDLE, c"no run was begun"),
        (KINGLET_ERROR_GOLDEN_TOKEN, c"golden sequence: another token"),
        (KINGLET_ERROR_GOLDEN_HASH, c"golden sequence: other bits"),
        (KINGLET_ERROR_SCRATCH, c"the scratch is too small"),
        (KINGLET_ERROR_UNKNOWN, c"a character is not in the vocabulary"),
        (KINGLET_ERROR_OTHER, c"another error"),
    ];
    let found = TEXTS.iter().find(|(known, _)| *known as i32 == status);
    found.map_or(c"no such status", |(_, text)| text)
}
