//! Sessions.

use core::ffi::{c_char, c_void};
use core::ops::Range;

use kinglet::{Progress, Session, Source};

use crate::caller::{Caller, Object, Plain, apart, extent, extent_of, range_of};
use crate::error::Error;
use crate::message::kinglet_error;
use crate::model::{find_golden, kinglet_model, kinglet_options};
use crate::status::kinglet_status;
use kinglet_status::{KINGLET_OK, KINGLET_PENDING};

/// A source or a sequence of tokens or both, with caches, in an arena that the caller lends.
#[repr(C)]
#[derive(Debug)]
pub struct kinglet_session {
    tag: u64,
    opaque: [usize; 256],
}

impl Object for kinglet_session {
    type Value = Held;
    const NAME: &'static str = "session";
    const TAG: u64 = 0x4b4c_5345_27c4_9be5;
}

/// A session, and where its arena lies.
pub(crate) struct Held {
    session: Session<'static, 'static>,
    arena: Range<usize>,
}

impl Held {
    /// What a call reads, if it does not lie in the arena or the session, which the call writes.
    fn reads<'c, T: Plain>(
        &self,
        caller: Caller,
        start: *const T,
        len: usize,
        what: &'static str,
    ) -> Result<&'c [T], Error> {
        apart(&extent(start, len, what)?, what, &[&self.arena, &extent_of(self)])?;
        caller.slice(start, len, what)
    }

    fn source<'c>(&self, caller: Caller, source: kinglet_source) -> Result<Source<'c>, Error> {
        use kinglet_source_kind::*;
        const TOKENS: i32 = KINGLET_SOURCE_TOKENS as i32;
        const FEATURES: i32 = KINGLET_SOURCE_FEATURES as i32;
        const PIXELS: i32 = KINGLET_SOURCE_PIXELS as i32;
        const PATTERN: i32 = KINGLET_SOURCE_PATTERN as i32;
        let kinglet_source { kind, data, count, types } = source;
        Ok(match kind {
            TOKENS if types.is_null() => {
                Source::Tokens(self.reads(caller, data.cast(), count, "source")?)
            }
            TOKENS => Source::Typed(
                self.reads(caller, data.cast(), count, "source")?,
                self.reads(caller, types, count, "types")?,
            ),
            FEATURES => Source::Features(self.reads(caller, data.cast(), count, "source")?),
            PIXELS => Source::Pixels(self.reads(caller, data.cast(), count, "source")?),
            PATTERN => Source::Pattern(count),
            found => return Err(Error::Value { what: "kind of source", found }),
        })
    }
}

/// Opens a session with the fastest instructions of this machine.
///
/// `arena` starts at a multiple of 64 and has at least the bytes of kinglet_plan_make; only those
/// are used, and their contents do not matter. They belong to the session for as long as it is
/// used; afterwards nothing needs to be closed. The model's bytes must stay, the model object need
/// not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_session_open(
    session: *mut kinglet_session,
    model: *const kinglet_model,
    options: *const kinglet_options,
    arena: *mut c_void,
    size: usize,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let open = || {
        let place = caller.place(session)?;
        let model = *caller.shared(model)?;
        let options = caller.read(options, "options")?.checked()?;
        let extent = extent(arena.cast::<u8>(), size, "arena")?;
        apart(&extent, "arena", &[&extent_of(session), &range_of(model.bytes())])?;
        let memory = caller.lasting_mut(arena.cast(), size, "arena")?;
        let session = Session::new(&model, options, memory)?;
        place.put(Held { session, arena: extent });
        Ok(KINGLET_OK)
    };
    caller.status(open(), error)
}

/// How far a session is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kinglet_session_information {
    /// Tokens of each target in the cache.
    pub position: usize,
    /// Rows of the source that targets look at; 0 when there is none.
    pub source: usize,
    /// The terminated name of the instruction set in use, such as "dsp" or "helium".
    pub isa: [c_char; 16],
}

/// Says how far a session is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_session_info(
    session: *const kinglet_session,
    information: *mut kinglet_session_information,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let info = || {
        let session = &caller.shared(session)?.session;
        let mut isa = [0; 16];
        for (to, from) in isa.iter_mut().take(15).zip(session.isa().name().bytes()) {
            *to = from as c_char;
        }
        let (position, source) = (session.position(), session.source());
        let to = caller.out(information, "information")?;
        to.set(kinglet_session_information { position, source, isa });
        Ok(KINGLET_OK)
    };
    caller.status(info(), error)
}

/// Runs all of the tokens, in chunks of the planned prefill; kinglet_session_logits then has the
/// row that follows the last. When they cannot be run, none is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_session_feed(
    session: *mut kinglet_session,
    tokens: *const u32,
    count: usize,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let feed = || {
        let held = caller.exclusive(session)?;
        let tokens = held.reads(caller, tokens, count, "tokens")?;
        held.session.feed(tokens)?;
        Ok(KINGLET_OK)
    };
    caller.status(feed(), error)
}

/// Begins a run of at most the planned prefill of tokens of the first target. The logits of the
/// last `logits` of them are wanted. kinglet_session_resume does the work.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_session_begin(
    session: *mut kinglet_session,
    tokens: *const u32,
    count: usize,
    logits: usize,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let begin = || {
        let held = caller.exclusive(session)?;
        let tokens = held.reads(caller, tokens, count, "tokens")?;
        held.session.begin(tokens, logits)?;
        Ok(KINGLET_OK)
    };
    caller.status(begin(), error)
}

/// Begins a run of one token for each of several targets, at most as many as planned. The logits of
/// all are wanted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_session_begin_each(
    session: *mut kinglet_session,
    tokens: *const u32,
    count: usize,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let begin = || {
        let held = caller.exclusive(session)?;
        let tokens = held.reads(caller, tokens, count, "tokens")?;
        held.session.begin_each(tokens)?;
        Ok(KINGLET_OK)
    };
    caller.status(begin(), error)
}

/// Continues the run until `budget` is used up, at least one unit; it is counted in
/// multiply-accumulates of int8, and other work is charged at rates measured on a Cortex-M4.
/// Returns KINGLET_PENDING while there is more to do, and KINGLET_OK when the run is finished.
/// However the work is divided, the bits are the same.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_session_resume(
    session: *mut kinglet_session,
    budget: u64,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let resume = || {
        Ok(match caller.exclusive(session)?.session.resume(budget)? {
            Progress::Pending => KINGLET_PENDING,
            Progress::Done => KINGLET_OK,
        })
    };
    caller.status(resume(), error)
}

/// What kinglet_source.data points to.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kinglet_source_kind {
    /// Tokens, uint32_t.
    KINGLET_SOURCE_TOKENS = 0,
    /// Rows of numbers, float, one after the other.
    KINGLET_SOURCE_FEATURES = 1,
    /// The bytes of a picture: rows, pixels, channels.
    KINGLET_SOURCE_PIXELS = 2,
    /// Nothing: `count` rows follow from a formula, to check a device without a picture at hand.
    KINGLET_SOURCE_PATTERN = 3,
}

/// What an encoder reads.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kinglet_source {
    /// One of kinglet_source_kind.
    pub kind: i32,
    /// Elements as `kind` says.
    pub data: *const c_void,
    /// How many elements, or rows of the pattern.
    pub count: usize,
    /// The type of each token; null: all are of type 0.
    pub types: *const u8,
}

// SAFETY: a `repr(C)` struct of integers and raw pointers.
unsafe impl Plain for kinglet_source {}

/// Begins to read a source; kinglet_session_resume does the work. Any source before it, and its
/// targets, are forgotten.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_session_begin_source(
    session: *mut kinglet_session,
    source: *const kinglet_source,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let begin = || {
        let held = caller.exclusive(session)?;
        let source = held.source(caller, caller.read(source, "source")?)?;
        held.session.begin_source(source)?;
        Ok(KINGLET_OK)
    };
    caller.status(begin(), error)
}

/// Reads a source. The outputs of an encoder are then the logits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_session_encode(
    session: *mut kinglet_session,
    source: *const kinglet_source,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let encode = || {
        let held = caller.exclusive(session)?;
        let source = held.source(caller, caller.read(source, "source")?)?;
        held.session.encode(source)?;
        Ok(KINGLET_OK)
    };
    caller.status(encode(), error)
}

/// Gives the logits of the last run: a row for each position asked for, none before the first run
/// is finished. They lie in the arena, may be changed, and are valid until the next call with this
/// session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_session_logits(
    session: *mut kinglet_session,
    logits: *mut *mut f32,
    count: *mut usize,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let give = || {
        let (to, size) = (caller.out(logits, "logits")?, caller.out(count, "count")?);
        let row = caller.exclusive(session)?.session.logits();
        size.set(row.len());
        to.set(row.as_mut_ptr());
        Ok(KINGLET_OK)
    };
    caller.status(give(), error)
}

/// Forgets all tokens from `position` on, and any unfinished run. The source stays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_session_rewind(
    session: *mut kinglet_session,
    position: usize,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let rewind = || {
        caller.exclusive(session)?.session.rewind(position)?;
        Ok(KINGLET_OK)
    };
    caller.status(rewind(), error)
}

/// Target i continues from where target `from[i]` is. After a prompt that the first target was fed,
/// zeros give it to all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_session_reorder(
    session: *mut kinglet_session,
    from: *const usize,
    count: usize,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let reorder = || {
        let held = caller.exclusive(session)?;
        let from = held.reads(caller, from, count, "from")?;
        held.session.reorder(from)?;
        Ok(KINGLET_OK)
    };
    caller.status(reorder(), error)
}

/// Rewinds to the start and repeats golden sequence `index` of the model: tokens and bits must be
/// those of the file's maker.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_session_check_golden(
    session: *mut kinglet_session,
    model: *const kinglet_model,
    index: usize,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let check = || {
        let golden = find_golden(caller.shared(model)?, index)?;
        caller.exclusive(session)?.session.check_golden(&golden)?;
        Ok(KINGLET_OK)
    };
    caller.status(check(), error)
}
