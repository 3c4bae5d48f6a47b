//! What a caller in C can get wrong is an error with a code, and what it gets right are the bits of
//! the Rust interface.

use std::ffi::{CStr, c_char, c_void};
use std::mem::zeroed;
use std::ptr::{null, null_mut};

use kinglet::tokenizer::Detokenizer;
use kinglet::{Aligned, Model, Options, Sampler, Sampling, Session, Source};
use kinglet_c::kinglet_source_kind::*;
use kinglet_c::kinglet_status::{self, *};
use kinglet_c::*;
use kinglet_fixtures::{NAMER, PRONOUNCER, STORYTELLER};

const ARENA: usize = 1 << 21;

/// A caller of the interface: all objects, and memory for one session.
struct C {
    model: kinglet_model,
    options: kinglet_options,
    plan: kinglet_plan,
    session: kinglet_session,
    tokenizer: kinglet_tokenizer,
    detokenizer: kinglet_detokenizer,
    sampler: kinglet_sampler,
    error: kinglet_error,
    arena: Vec<Aligned<[u8; 64]>>,
}

/// As many bytes as [`ARENA`], aligned.
fn memory() -> Vec<Aligned<[u8; 64]>> {
    vec![Aligned([0xa5; 64]); ARENA / 64]
}

/// The same as bytes.
fn bytes(memory: &mut [Aligned<[u8; 64]>]) -> &mut [u8] {
    // SAFETY: `Aligned` is `repr(C)` and 64 bytes large, so the memory is as many bytes.
    unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), size_of_val(memory)) }
}

/// An object before it was opened.
fn closed<T>() -> T {
    // SAFETY: used for the objects and plain structs of the interface, which are integers and raw
    // pointers.
    unsafe { zeroed() }
}

/// Calls functions of the interface; each test keeps the contract, but for what it checks.
macro_rules! c {
    ($function:ident($($argument:expr),* $(,)?)) => {{
        // SAFETY: the arguments are valid pointers of the right types, or wrong in a way that the
        // function promises to detect.
        unsafe { $function($($argument),*) }
    }};
}

mod refused;
mod results;
mod texts;

impl C {
    fn new() -> Box<Self> {
        Box::new(Self {
            model: closed(),
            options: closed(),
            plan: closed(),
            session: closed(),
            tokenizer: closed(),
            detokenizer: closed(),
            sampler: closed(),
            error: closed(),
            arena: memory(),
        })
    }

    /// With the model open.
    fn with(file: &[u8]) -> Box<Self> {
        let mut c = Self::new();
        assert_eq!(c.open(file), KINGLET_OK, "{}", c.message());
        assert_eq!(c!(kinglet_options_of(&c.model, &mut c.options, &mut c.error)), KINGLET_OK);
        c
    }

    /// With model, tokenizer and a session open.
    fn running(file: &[u8], context: usize, prefill: usize) -> Box<Self> {
        let mut c = Self::with(file);
        c.options.context = context.min(c.options.context);
        c.options.prefill = prefill;
        assert_eq!(c.start(ARENA), KINGLET_OK, "{}", c.message());
        c
    }

    fn open(&mut self, file: &[u8]) -> kinglet_status {
        c!(kinglet_model_open(&mut self.model, file.as_ptr(), file.len(), &mut self.error))
    }

    fn start(&mut self, size: usize) -> kinglet_status {
        let arena = self.arena.as_mut_ptr().cast();
        let Self { session, model, options, error, .. } = self;
        c!(kinglet_session_open(session, model, options, arena, size, error))
    }

    fn feed(&mut self, tokens: &[u32]) -> kinglet_status {
        let Self { session, error, .. } = self;
        c!(kinglet_session_feed(session, tokens.as_ptr(), tokens.len(), error))
    }

    fn begin(&mut self, tokens: &[u32], logits: usize) -> kinglet_status {
        let Self { session, error, .. } = self;
        c!(kinglet_session_begin(session, tokens.as_ptr(), tokens.len(), logits, error))
    }

    fn resume(&mut self, budget: u64) -> kinglet_status {
        c!(kinglet_session_resume(&mut self.session, budget, &mut self.error))
    }

    fn encode(&mut self, kind: i32, data: *const c_void, count: usize) -> kinglet_status {
        let source = kinglet_source { kind, data, count, types: null() };
        c!(kinglet_session_encode(&mut self.session, &source, &mut self.error))
    }

    fn logits(&mut self) -> &mut [f32] {
        let (mut logits, mut count) = (null_mut(), 0);
        let Self { session, error, .. } = self;
        assert_eq!(c!(kinglet_session_logits(session, &mut logits, &mut count, error)), KINGLET_OK);
        // SAFETY: the function promises as many logits, until the next call with this session.
        unsafe { std::slice::from_raw_parts_mut(logits, count) }
    }

    fn message(&self) -> String {
        message(&self.error)
    }
}

fn message(error: &kinglet_error) -> String {
    let mut text = [0x55; 256];
    let length = c!(kinglet_error_message(error, text.as_mut_ptr(), text.len()));
    // SAFETY: the function promises a terminated text.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) }.to_str().unwrap();
    assert_eq!(text.len(), length);
    text.into()
}

fn file() -> &'static [u8] {
    &STORYTELLER.0
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}
