//! How a call ends: its status, the error that a caller may turn into a text, and the texts.

use core::ffi::{CStr, c_char};
use core::fmt::{self, Write as _};

use crate::caller::{Caller, Object};
use crate::error::Error;
use crate::status::kinglet_status;
use crate::status::kinglet_status::*;

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

impl Caller {
    /// Ends a call: the status of `result`, and its details for those who asked for them.
    pub(crate) fn status(
        self,
        result: Result<kinglet_status, Error>,
        to: *mut kinglet_error,
    ) -> kinglet_status {
        result.unwrap_or_else(|error| {
            if let Ok(place) = self.place(to) {
                place.put(error);
            }
            error.status()
        })
    }
}

/// Counts all bytes of a text, and keeps what fits with a NUL after it.
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
