//! Status codes.

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
