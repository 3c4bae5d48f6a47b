//! Models and plans.

use core::ffi::c_void;

use kinglet::{Golden, Model, Options, Plan, ValueFormat};

use crate::caller::{Caller, Object, Plain, pointer};
use crate::error::Error;
use crate::message::kinglet_error;
use crate::status::kinglet_status;
use kinglet_status::KINGLET_OK;

/// A model, read where its bytes lie.
#[repr(C)]
#[derive(Debug)]
pub struct kinglet_model {
    tag: u64,
    opaque: [usize; 28],
}

impl Object for kinglet_model {
    type Value = Model<'static>;
    const NAME: &'static str = "model";
    const TAG: u64 = 0x4b4c_4d4f_8a31_f7d3;
}

/// Checks the structure of a file. The cost grows with the number of its tensors, not with the
/// weights; kinglet_model_verify reads those.
///
/// `bytes` starts at a multiple of 64 and stays as it is for as long as the model or anything
/// opened from it is used. Bytes after the file's end are ignored, so a whole flash region may be
/// given. Any bytes at all are a model or an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_model_open(
    model: *mut kinglet_model,
    bytes: *const u8,
    size: usize,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let open = || {
        let place = caller.place(model)?;
        place.put(Model::open(caller.lasting(bytes, size, "bytes")?)?);
        Ok(KINGLET_OK)
    };
    caller.status(open(), error)
}

/// Called with the bytes done so far, and the context that was given with it.
pub type kinglet_progress = Option<unsafe extern "C" fn(context: *mut c_void, done: u64)>;

/// Compares every checksum, which reads the whole file once, and checks tokenizers and indices.
///
/// `progress` is called at least once every KiB, to feed a watchdog; it may be null, and it must
/// return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_model_verify(
    model: *const kinglet_model,
    progress: kinglet_progress,
    context: *mut c_void,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let verify = || {
        let model = *caller.shared(model)?;
        model.verify(|done| {
            if let Some(progress) = progress {
                // SAFETY: the caller passed a function of this type, to be called with `context`.
                // No reference to the caller's objects is held while it runs.
                unsafe { progress(context, done) }
            }
        })?;
        Ok(KINGLET_OK)
    };
    caller.status(verify(), error)
}

/// What a model is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kinglet_model_information {
    /// Whether it generates tokens; otherwise it is an encoder, and only sources are given to it.
    pub decoder: bool,
    /// Numbers in a row of logits: the vocabulary's size, classes, or the width of an embedding.
    pub outputs: usize,
    /// Positions that the last stack was made for.
    pub context: usize,
    /// Width of the last stack.
    pub width: usize,
    /// Golden sequences in the file.
    pub goldens: usize,
}

/// Says what a model is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_model_info(
    model: *const kinglet_model,
    information: *mut kinglet_model_information,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let info = || {
        let model = caller.shared(model)?;
        caller.out(information, "information")?.set(kinglet_model_information {
            decoder: model.is_decoder(),
            outputs: model.outputs(),
            context: model.context(),
            width: model.width(),
            goldens: model.golden().count(),
        });
        Ok(KINGLET_OK)
    };
    caller.status(info(), error)
}

/// An answer that travels with the file, for kinglet_session_check_golden. The pointers lead into
/// the file's bytes, and are null where the count is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kinglet_golden {
    /// Rows of the source.
    pub rows: usize,
    /// Tokens of the source. None, though there are rows, where the model reads something else.
    pub source: *const u32,
    /// How many.
    pub source_count: usize,
    /// Tokens given.
    pub prompt: *const u32,
    /// How many.
    pub prompt_count: usize,
    /// Most probable tokens that followed. Prompt and answer together are the context that is
    /// needed.
    pub answer: *const u32,
    /// How many.
    pub answer_count: usize,
    /// Hash of the bits of all logits that chose the answer.
    pub hash: u64,
}

/// Looks up golden sequence `index`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_model_golden(
    model: *const kinglet_model,
    index: usize,
    golden: *mut kinglet_golden,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let look_up = || {
        let Golden { rows, source, prompt, answer, hash, .. } =
            find_golden(caller.shared(model)?, index)?;
        caller.out(golden, "golden")?.set(kinglet_golden {
            rows,
            source: pointer(source),
            source_count: source.len(),
            prompt: pointer(prompt),
            prompt_count: prompt.len(),
            answer: pointer(answer),
            answer_count: answer.len(),
            hash,
        });
        Ok(KINGLET_OK)
    };
    caller.status(look_up(), error)
}

pub(crate) fn find_golden(model: &Model<'static>, index: usize) -> Result<Golden<'static>, Error> {
    model.golden().nth(index).ok_or(Error::Missing("golden sequence of this index"))
}

/// How values are kept in the cache; keys have 8 bits.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kinglet_values {
    /// 8 bits.
    KINGLET_VALUES_INT8 = 0,
    /// 4 bits, in a library with all families.
    KINGLET_VALUES_INT4 = 1,
}

/// Capacity limits of a session. kinglet_options_of gives values to start from.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kinglet_options {
    /// Positions in the key/value cache of a decoder: prompt and answer together.
    pub context: usize,
    /// The most tokens that a decoder runs together. More is faster for prompts and takes more
    /// memory.
    pub prefill: usize,
    /// The most positions of one run whose logits are kept.
    pub logits: usize,
    /// Positions of the source that an encoder reads, including a class token; 0 for a lone
    /// decoder.
    pub source: usize,
    /// Targets that are decoded side by side over one source or prompt, at most 16.
    pub targets: usize,
    /// One of kinglet_values.
    pub values: i32,
}

// SAFETY: a `repr(C)` struct of integers.
unsafe impl Plain for kinglet_options {}

impl kinglet_options {
    pub(crate) fn checked(self) -> Result<Options, Error> {
        const INT8: i32 = kinglet_values::KINGLET_VALUES_INT8 as i32;
        const INT4: i32 = kinglet_values::KINGLET_VALUES_INT4 as i32;
        let Self { context, prefill, logits, source, targets, values } = self;
        let values = match values {
            INT8 => ValueFormat::Int8,
            #[cfg(feature = "families")]
            INT4 => ValueFormat::Int4,
            found => return Err(Error::Value { what: "values", found }),
        };
        #[cfg(not(feature = "families"))]
        let _ = INT4;
        Ok(Options { context, prefill, logits, source, targets, values })
    }
}

/// The options for as much source and context as the model was made for, one token at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_options_of(
    model: *const kinglet_model,
    options: *mut kinglet_options,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let of = || {
        let Options { context, prefill, logits, source, targets, .. } =
            Options::of(caller.shared(model)?)?;
        let values = kinglet_values::KINGLET_VALUES_INT8 as i32;
        let to = caller.out(options, "options")?;
        to.set(kinglet_options { context, prefill, logits, source, targets, values });
        Ok(KINGLET_OK)
    };
    caller.status(of(), error)
}

/// How much memory a session needs.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kinglet_plan {
    /// Bytes of the arena: the three that follow. The session uses exactly these.
    pub bytes: usize,
    /// Of these, keys and values of the targets.
    pub self_cache: usize,
    /// Of these, keys and values of the source.
    pub cross_cache: usize,
    /// All others.
    pub scratch: usize,
}

/// Computes the exact bytes of a session's arena, the same on every machine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_plan_make(
    model: *const kinglet_model,
    options: *const kinglet_options,
    plan: *mut kinglet_plan,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let make = || {
        let options = caller.read(options, "options")?.checked()?;
        let made = Plan::new(caller.shared(model)?, options)?;
        caller.out(plan, "plan")?.set(kinglet_plan {
            bytes: made.bytes(),
            self_cache: made.self_cache(),
            cross_cache: made.cross_cache(),
            scratch: made.scratch(),
        });
        Ok(KINGLET_OK)
    };
    caller.status(make(), error)
}
