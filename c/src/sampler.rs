//! Choosing the next token.

use kinglet::{RunError, Sampler, Sampling, argmax};

use crate::caller::{Caller, Object, Plain, apart, extent};
use crate::message::kinglet_error;
use crate::status::kinglet_status;
use kinglet_status::KINGLET_OK;

/// How to choose.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kinglet_sampling {
    /// Logits are divided by it; 0 takes the most probable token.
    pub temperature: f32,
    /// Only the most probable tokens that together reach this probability; 1 means all.
    pub top_p: f32,
    /// Only tokens at least this fraction as probable as the most probable; 0 means all.
    pub min_p: f32,
    /// Logits of recent tokens are divided by it where positive, multiplied where negative; 1 means
    /// no penalty.
    pub repetition_penalty: f32,
    /// Only so many of the most probable tokens; 0 means all.
    pub top_k: usize,
}

// SAFETY: a `repr(C)` struct of numbers.
unsafe impl Plain for kinglet_sampling {}

/// Draws tokens.
#[repr(C)]
#[derive(Debug)]
pub struct kinglet_sampler {
    tag: u64,
    opaque: [usize; 416],
}

impl Object for kinglet_sampler {
    type Value = Sampler;
    const NAME: &'static str = "sampler";
    const TAG: u64 = 0x4b4c_5341_e60b_42f9;
}

/// Opens a sampler whose draws depend on `seed` alone, and are the same on every machine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_sampler_open(
    sampler: *mut kinglet_sampler,
    sampling: *const kinglet_sampling,
    seed: u64,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let open = || {
        let place = caller.place(sampler)?;
        let kinglet_sampling { temperature, top_p, min_p, repetition_penalty, top_k } =
            caller.read(sampling, "sampling")?;
        let sampling = Sampling { temperature, top_k, top_p, min_p, repetition_penalty };
        place.put(Sampler::new(sampling, seed));
        Ok(KINGLET_OK)
    };
    caller.status(open(), error)
}

/// Chooses a token from one row of logits, which are used up. `recent` are the tokens that the
/// repetition penalty looks at; there may be none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_sampler_sample(
    sampler: *mut kinglet_sampler,
    logits: *mut f32,
    count: usize,
    recent: *const u32,
    recent_count: usize,
    token: *mut u32,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let sample = || {
        let to = caller.out(token, "token")?;
        let apart_from = extent(recent, recent_count, "recent")?;
        apart(&extent(logits, count, "logits")?, "logits", &[&apart_from])?;
        let recent = caller.slice(recent, recent_count, "recent")?;
        let logits = caller.slice_mut(logits, count, "logits")?;
        if logits.is_empty() {
            return Err(RunError::Empty.into());
        }
        to.set(caller.exclusive(sampler)?.sample(logits, recent));
        Ok(KINGLET_OK)
    };
    caller.status(sample(), error)
}

/// The token with the largest logit, the first of equals. NaN is never chosen unless there is
/// nothing else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_argmax(
    logits: *const f32,
    count: usize,
    token: *mut u32,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let choose = || {
        let to = caller.out(token, "token")?;
        let logits = caller.slice(logits, count, "logits")?;
        if logits.is_empty() {
            return Err(RunError::Empty.into());
        }
        to.set(argmax(logits));
        Ok(KINGLET_OK)
    };
    caller.status(choose(), error)
}
