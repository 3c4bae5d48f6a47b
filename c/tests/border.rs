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

#[test]
fn null_is_an_error() {
    let mut c = C::with(file());
    let (mut size, mut token) = (0usize, 0u32);
    let nothing = null_mut::<c_void>();
    let model = &raw const c.model;
    let options = &raw const c.options;
    let results = [
        c!(kinglet_model_open(null_mut(), file().as_ptr(), 64, null_mut())),
        c!(kinglet_model_verify(null(), None, nothing, null_mut())),
        c!(kinglet_model_info(model, null_mut(), null_mut())),
        c!(kinglet_model_info(null(), null_mut(), null_mut())),
        c!(kinglet_model_golden(model, 0, null_mut(), null_mut())),
        c!(kinglet_options_of(model, null_mut(), null_mut())),
        c!(kinglet_plan_make(model, null(), &mut c.plan, null_mut())),
        c!(kinglet_plan_make(model, options, null_mut(), null_mut())),
        c!(kinglet_session_open(&mut c.session, model, options, null_mut(), ARENA, null_mut())),
        c!(kinglet_session_open(&mut c.session, null(), options, null_mut(), ARENA, null_mut())),
        c!(kinglet_session_open(null_mut(), model, options, null_mut(), ARENA, null_mut())),
        c!(kinglet_session_feed(null_mut(), &token, 1, null_mut())),
        c!(kinglet_session_resume(null_mut(), 1, null_mut())),
        c!(kinglet_session_rewind(null_mut(), 0, null_mut())),
        c!(kinglet_session_info(null(), null_mut(), null_mut())),
        c!(kinglet_tokenizer_open(null_mut(), model, null_mut())),
        c!(kinglet_tokenizer_open(&mut c.tokenizer, null(), null_mut())),
        c!(kinglet_detokenizer_open(null_mut(), null(), null_mut())),
        c!(kinglet_sampler_open(&mut c.sampler, null(), 0, null_mut())),
        c!(kinglet_argmax(null(), 1, &mut token, null_mut())),
        c!(kinglet_argmax(&1.0, 1, null_mut(), null_mut())),
    ];
    assert_eq!(results, [KINGLET_ERROR_NULL; 21]);

    assert_eq!(c!(kinglet_model_open(&mut c.model, null(), 0, &mut c.error)), KINGLET_ERROR_NULL);
    assert_eq!(c.message(), "bytes: the pointer is null");
    let mut c = C::running(file(), 16, 4);
    let session = &raw mut c.session;
    assert_eq!(c!(kinglet_session_feed(session, null(), 1, null_mut())), KINGLET_ERROR_NULL);
    assert_eq!(c!(kinglet_session_feed(session, null(), 0, null_mut())), KINGLET_ERROR_EMPTY);
    assert_eq!(
        c!(kinglet_session_logits(session, null_mut(), &mut size, null_mut())),
        KINGLET_ERROR_NULL
    );
    assert_eq!(c!(kinglet_session_encode(session, null(), null_mut())), KINGLET_ERROR_NULL);
}

#[test]
fn misalignment_is_an_error() {
    let mut c = C::new();
    let copy = &mut bytes(&mut c.arena)[8..][..file().len()];
    copy.copy_from_slice(file());
    let start = copy.as_ptr();
    let status = c!(kinglet_model_open(&mut c.model, start, file().len(), &mut c.error));
    assert_eq!(status, KINGLET_ERROR_UNALIGNED);
    assert_eq!(c.message(), "the memory does not start at a multiple of 64 bytes");

    let mut c = C::with(file());
    let object = (&raw mut c.session).wrapping_byte_add(1);
    assert_eq!(c!(kinglet_session_resume(object, 1, &mut c.error)), KINGLET_ERROR_UNALIGNED);
    assert_eq!(c.message(), "session: the pointer is not a multiple of 8");
    // An error that cannot be written is left out.
    let error = (&raw mut c.error).wrapping_byte_add(1);
    assert_eq!(c!(kinglet_session_resume(object, 1, error)), KINGLET_ERROR_UNALIGNED);
    let arena = bytes(&mut c.arena)[8..].as_mut_ptr().cast();
    let C { session, model, options, error, .. } = &mut *c;
    assert_eq!(
        c!(kinglet_session_open(session, model, options, arena, ARENA - 8, error)),
        KINGLET_ERROR_UNALIGNED
    );

    let mut c = C::running(file(), 16, 4);
    let tokens = [0u32; 4].as_ptr().wrapping_byte_add(2);
    assert_eq!(
        c!(kinglet_session_feed(&mut c.session, tokens, 2, null_mut())),
        KINGLET_ERROR_UNALIGNED
    );
    let features = tokens.cast();
    assert_eq!(c.encode(KINGLET_SOURCE_FEATURES as i32, features, 2), KINGLET_ERROR_UNALIGNED);
}

#[test]
fn what_is_not_open_is_an_error() {
    let mut c = C::new();
    let mut token = 0;
    assert_eq!(c.resume(1), KINGLET_ERROR_NOT_OPEN);
    assert_eq!(c.message(), "the session was not opened, or was copied since");
    assert_eq!(c.start(ARENA), KINGLET_ERROR_NOT_OPEN);
    assert_eq!(c.message(), "the model was not opened, or was copied since");
    let (logits, recent) = (&mut 0.0, null());
    let C { sampler, error, .. } = &mut *c;
    assert_eq!(
        c!(kinglet_sampler_sample(sampler, logits, 1, recent, 0, &mut token, error)),
        KINGLET_ERROR_NOT_OPEN
    );

    // A copy: its tag has another address.
    let mut c = C::running(file(), 16, 4);
    let mut copy: kinglet_session = closed();
    // SAFETY: both are whole objects of this type, and apart.
    unsafe { (&raw const c.session).copy_to_nonoverlapping(&mut copy, 1) };
    assert_eq!(c!(kinglet_session_resume(&mut copy, 1, null_mut())), KINGLET_ERROR_NOT_OPEN);
    assert_eq!(c.resume(1), KINGLET_ERROR_IDLE);
    // An object of another type.
    let other = (&raw mut c.session).cast::<kinglet_model>();
    let information = &mut closed();
    assert_eq!(c!(kinglet_model_info(other, information, null_mut())), KINGLET_ERROR_NOT_OPEN);

    // Opening anew without success closes.
    assert_eq!(c.start(64), KINGLET_ERROR_TOO_SMALL);
    assert_eq!(c.resume(1), KINGLET_ERROR_NOT_OPEN);
    assert_eq!(c.open(&file()[..64]), KINGLET_ERROR_TRUNCATED);
    assert_eq!(c.start(ARENA), KINGLET_ERROR_NOT_OPEN);
}

#[test]
fn small_buffers_are_errors() {
    let mut c = C::with(file());
    c.options.context = 64;
    let plan = &mut c.plan;
    assert_eq!(c!(kinglet_plan_make(&c.model, &c.options, plan, null_mut())), KINGLET_OK);
    let options = Options { context: 64, ..Options::DECODE };
    let want = kinglet::Plan::new(&Model::open(file()).unwrap(), options).unwrap();
    assert_eq!(plan.bytes, want.bytes());
    assert_eq!(plan.bytes, plan.self_cache + plan.cross_cache + plan.scratch);
    let bytes = plan.bytes;
    assert_eq!(c.start(bytes), KINGLET_OK);
    assert_eq!(c.start(bytes - 1), KINGLET_ERROR_TOO_SMALL);
    let found = bytes - 1;
    assert_eq!(c.message(), format!("the arena has {found} bytes, the plan needs {bytes}"));
    assert_eq!(c.start(0), KINGLET_ERROR_TOO_SMALL);
    assert_eq!(c.start(usize::MAX - 63), KINGLET_ERROR_TOO_LONG);
}

#[test]
fn shared_memory_is_an_error() {
    let mut c = C::running(file(), 16, 4);
    let inside = c.arena.as_ptr();
    let C { session, error, .. } = &mut *c;
    assert_eq!(c!(kinglet_session_feed(session, inside.cast(), 1, error)), KINGLET_ERROR_OVERLAP);
    assert_eq!(message(error), "tokens: shares memory with another argument");
    assert_eq!(c.encode(KINGLET_SOURCE_PIXELS as i32, inside.cast(), 1), KINGLET_ERROR_OVERLAP);

    // The arena over the model's own bytes.
    let mut c = C::new();
    bytes(&mut c.arena)[..file().len()].copy_from_slice(file());
    let bytes = c.arena.as_ptr().cast();
    let status = c!(kinglet_model_open(&mut c.model, bytes, ARENA, null_mut()));
    assert_eq!(status, KINGLET_OK);
    assert_eq!(c!(kinglet_options_of(&c.model, &mut c.options, null_mut())), KINGLET_OK);
    assert_eq!(c.start(ARENA), KINGLET_ERROR_OVERLAP);

    let mut c = C::with(file());
    assert_eq!(c!(kinglet_tokenizer_open(&mut c.tokenizer, &c.model, null_mut())), KINGLET_OK);
    let (mut words, mut count) = ([0u32; 64], 0);
    let words = words.as_mut_ptr();
    let status = c!(kinglet_tokenizer_encode(
        &c.tokenizer,
        c"a".as_ptr(),
        1,
        0,
        words,
        64,
        words.wrapping_add(63),
        1,
        &mut count,
        null_mut(),
    ));
    assert_eq!(status, KINGLET_ERROR_OVERLAP);
}

#[test]
fn wrong_order_is_an_error() {
    let mut c = C::running(file(), 16, 4);
    assert_eq!(c.logits().len(), 0);
    assert_eq!(c.resume(1), KINGLET_ERROR_IDLE);
    assert_eq!(c.begin(&[1, 2, 3], 1), KINGLET_OK);
    assert_eq!(c.begin(&[1], 1), KINGLET_ERROR_UNFINISHED);
    assert_eq!(c.feed(&[1]), KINGLET_ERROR_UNFINISHED);
    assert_eq!(c.resume(1), KINGLET_PENDING);
    assert_eq!(c!(kinglet_session_rewind(&mut c.session, 1, null_mut())), KINGLET_ERROR_POSITION);
    assert_eq!(c!(kinglet_session_rewind(&mut c.session, 0, null_mut())), KINGLET_OK);
    assert_eq!(c.begin(&[1; 5], 1), KINGLET_ERROR_TOO_MANY);
    assert_eq!(c.begin(&[1], 2), KINGLET_ERROR_TOO_MANY);
    assert_eq!(c.feed(&[1; 17]), KINGLET_ERROR_CONTEXT_FULL);
    assert_eq!(c.feed(&[1, u32::MAX]), KINGLET_ERROR_TOKEN);
    assert!(c.message().contains("4294967295"), "{}", c.message());
    assert_eq!(c.encode(KINGLET_SOURCE_PATTERN as i32, null(), 1), KINGLET_ERROR_READS);
    assert_eq!(c.encode(4, null(), 1), KINGLET_ERROR_VALUE);
    assert_eq!(c.message(), "kind of source: there is no 4");
    let (each, from) = ([1u32, 2], [1usize]);
    let session = &raw mut c.session;
    assert_eq!(
        c!(kinglet_session_begin_each(session, each.as_ptr(), 2, null_mut())),
        KINGLET_ERROR_TOO_MANY
    );
    assert_eq!(
        c!(kinglet_session_reorder(session, from.as_ptr(), 1, null_mut())),
        KINGLET_ERROR_TOO_MANY
    );
    // Nothing of this left a trace.
    let information = &mut closed::<kinglet_session_information>();
    assert_eq!(c!(kinglet_session_info(&c.session, information, null_mut())), KINGLET_OK);
    assert_eq!((information.position, information.source), (0, 0));

    let mut c = C::running(&PRONOUNCER.0, 16, 1);
    assert_eq!(c.feed(&[0]), KINGLET_ERROR_NO_SOURCE);
}

#[test]
fn options_are_checked() {
    let mut c = C::with(file());
    let mut plan = |change: fn(&mut kinglet_options)| {
        let mut options = c.options;
        change(&mut options);
        c!(kinglet_plan_make(&c.model, &options, &mut c.plan, &mut c.error))
    };
    assert_eq!(plan(|_| ()), KINGLET_OK);
    assert_eq!(plan(|o| o.context = 0), KINGLET_ERROR_OPTIONS);
    assert_eq!(plan(|o| o.context = usize::MAX), KINGLET_ERROR_CONTEXT);
    assert_eq!(plan(|o| o.prefill = usize::MAX), KINGLET_ERROR_TOO_LARGE);
    assert_eq!(plan(|o| o.source = 1), KINGLET_ERROR_PLAN_SOURCE);
    assert_eq!(plan(|o| o.targets = 17), KINGLET_ERROR_OPTIONS);
    assert_eq!(plan(|o| o.values = kinglet_values::KINGLET_VALUES_INT4 as i32), KINGLET_OK);
    assert_eq!(plan(|o| o.values = -1), KINGLET_ERROR_VALUE);
    assert_eq!(c.message(), "values: there is no -1");
}

#[test]
fn hostile_bytes_are_errors() {
    let mut c = C::new();
    // Every shorter head, and every byte of head and tables changed.
    let mut bytes = Aligned([0u8; 8192]);
    for len in (0..512).step_by(if cfg!(miri) { 61 } else { 1 }) {
        bytes.0[..512].copy_from_slice(&file()[..512]);
        assert!((c.open(&bytes.0[..len]) as i32) < 0, "{len} bytes");
    }
    let mut whole = vec![0u8; file().len() + 64];
    let start = whole.as_ptr().align_offset(64);
    let whole = &mut whole[start..][..file().len()];
    whole.copy_from_slice(file());
    for at in (0..8192).step_by(if cfg!(miri) { 997 } else { 1 }) {
        for flip in [0x01, 0x80, 0xff] {
            whole[at] ^= flip;
            if c.open(whole) == KINGLET_OK {
                let information = &mut closed();
                let C { model, tokenizer, .. } = &mut *c;
                c!(kinglet_model_info(model, information, null_mut()));
                c!(kinglet_tokenizer_open(tokenizer, model, null_mut()));
            } else {
                assert!(!c.message().is_empty());
            }
            whole[at] ^= flip;
        }
    }
    let head = &Aligned([0x20u8; 4096]);
    assert_eq!(c.open(&head.0), KINGLET_ERROR_NOT_KINGLET);

    // A changed weight is found by reading everything.
    if cfg!(miri) {
        return;
    }
    let last = whole.len() - 1;
    assert_eq!(c.open(whole), KINGLET_OK);
    assert_eq!(c!(kinglet_model_verify(&c.model, None, null_mut(), null_mut())), KINGLET_OK);
    whole[last / 2] ^= 1;
    assert_eq!(c.open(whole), KINGLET_OK);
    extern "C" fn progress(context: *mut c_void, done: u64) {
        // SAFETY: the test gives a u64 as context.
        unsafe { *context.cast::<u64>() = done };
    }
    let mut done = 0u64;
    let context = (&raw mut done).cast();
    assert_eq!(
        c!(kinglet_model_verify(&c.model, Some(progress), context, &mut c.error)),
        KINGLET_ERROR_CHECKSUM
    );
    assert!(done > 0 && c.message().contains("checksum"), "{done}, {}", c.message());
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_story_has_the_tokens_and_bits_of_rust() {
    let prompt = [1u32, 403, 407, 261, 378];
    let model = Model::open(file()).unwrap();
    let mut memory = memory();
    let options = Options { context: 32, prefill: 4, ..Options::DECODE };
    let mut session = Session::new(&model, options, bytes(&mut memory)).unwrap();
    let sampling = Sampling { temperature: 0.8, top_p: 0.95, ..Sampling::GREEDY };
    let mut sampler = Sampler::new(sampling, 7);

    let mut c = C::running(file(), 32, 4);
    let settings = kinglet_sampling {
        temperature: 0.8,
        top_p: 0.95,
        min_p: 0.0,
        repetition_penalty: 1.0,
        top_k: 0,
    };
    assert_eq!(c!(kinglet_sampler_open(&mut c.sampler, &settings, 7, null_mut())), KINGLET_OK);

    session.feed(&prompt).unwrap();
    assert_eq!(c.feed(&prompt), KINGLET_OK);
    for _ in 0..24 {
        assert_eq!(bits(c.logits()), bits(session.logits()));
        let want = sampler.sample(session.logits(), &[]);
        let (logits, outputs) = (c.logits().as_mut_ptr(), c.logits().len());
        let mut token = 0;
        let C { sampler, error, .. } = &mut *c;
        assert_eq!(
            c!(kinglet_sampler_sample(sampler, logits, outputs, null(), 0, &mut token, error)),
            KINGLET_OK
        );
        assert_eq!(token, want);
        session.feed(&[token]).unwrap();
        assert_eq!(c.begin(&[token], 1), KINGLET_OK);
        let mut pieces = 1;
        while c.resume(1000) == KINGLET_PENDING {
            pieces += 1;
        }
        assert!(pieces > 10);
    }
}

#[test]
fn logits_may_be_changed() {
    let mut c = C::running(file(), 4, 1);
    assert_eq!(c.feed(&[1]), KINGLET_OK);
    let outputs = c.logits().len();
    c.logits()[7] = f32::INFINITY;
    let (logits, mut token) = (c.logits().as_mut_ptr(), 0);
    assert_eq!(c!(kinglet_argmax(logits, outputs, &mut token, null_mut())), KINGLET_OK);
    assert_eq!(token, 7);
    assert_eq!(c.begin(&[token], 1), KINGLET_OK);
    assert_eq!(c.logits().len(), 0);
    assert_eq!(c.resume(1), KINGLET_PENDING);
    assert_eq!(c!(kinglet_session_rewind(&mut c.session, 1, null_mut())), KINGLET_OK);
}

#[test]
#[cfg_attr(miri, ignore)]
fn golden_sequences_of_all_fixtures() {
    for file in [&STORYTELLER.0, &PRONOUNCER.0, &NAMER.0] {
        let mut c = C::running(file, 80, 3);
        let information = &mut closed::<kinglet_model_information>();
        assert_eq!(c!(kinglet_model_info(&c.model, information, null_mut())), KINGLET_OK);
        assert!(information.goldens > 0);
        for index in 0..information.goldens {
            let C { session, model, error, .. } = &mut *c;
            let status = c!(kinglet_session_check_golden(session, model, index, error));
            assert_eq!(status, KINGLET_OK, "{}", message(error));
        }
        let C { session, model, error, .. } = &mut *c;
        assert_eq!(
            c!(kinglet_session_check_golden(session, model, 99, error)),
            KINGLET_ERROR_MISSING
        );
    }
    // Of another model.
    let other = C::with(&NAMER.0);
    let mut c = C::running(file(), 80, 3);
    let status = c!(kinglet_session_check_golden(&mut c.session, &other.model, 0, &mut c.error));
    assert!((status as i32) < 0, "{status:?}");
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_source_is_read_as_by_rust() {
    let model = Model::open(&PRONOUNCER.0).unwrap();
    let golden = model.golden().next().unwrap();
    let mut memory = memory();
    let options = Options { prefill: 1, ..Options::of(&model).unwrap() };
    let mut session = Session::new(&model, options, bytes(&mut memory)).unwrap();
    session.encode(Source::Tokens(golden.source)).unwrap();
    let want = bits(session.feed(golden.prompt).unwrap());

    let mut c = C::running(&PRONOUNCER.0, usize::MAX, 1);
    let (tokens, count) = (golden.source.as_ptr(), golden.source.len());
    let types = vec![0u8; count];
    for types in [null(), types.as_ptr()] {
        let kind = KINGLET_SOURCE_TOKENS as i32;
        let source = kinglet_source { kind, data: tokens.cast(), count, types };
        let C { session, error, .. } = &mut *c;
        assert_eq!(c!(kinglet_session_begin_source(session, &source, error)), KINGLET_OK);
        while c.resume(100_000) == KINGLET_PENDING {}
        assert_eq!(c.feed(golden.prompt), KINGLET_OK);
        assert_eq!(bits(c.logits()), want);
        let information = &mut closed::<kinglet_session_information>();
        assert_eq!(c!(kinglet_session_info(&c.session, information, null_mut())), KINGLET_OK);
        assert_eq!((information.position, information.source), (golden.prompt.len(), count));
    }
    assert_eq!(c.encode(KINGLET_SOURCE_FEATURES as i32, tokens.cast(), 1), KINGLET_ERROR_READS);
    assert_eq!(c.encode(KINGLET_SOURCE_TOKENS as i32, null(), 0), KINGLET_ERROR_SOURCE);

    // A picture of the wrong size.
    let mut c = C::running(&NAMER.0, usize::MAX, 1);
    let pixels = [0u8; 100];
    let status = c.encode(KINGLET_SOURCE_PIXELS as i32, pixels.as_ptr().cast(), 100);
    assert_eq!(status, KINGLET_ERROR_SOURCE);
}

#[test]
fn texts_go_in_and_out() {
    let model = Model::open(file()).unwrap();
    let tokenizer = model.tokenizer().unwrap().unwrap();
    let text = "One day, a café opened. \u{1F600}";
    let mut want = [0; 64];
    let want_count = tokenizer.encode(text, true, &mut [0; 1280], &mut want).unwrap();

    let mut c = C::with(file());
    assert_eq!(c!(kinglet_tokenizer_open(&mut c.tokenizer, &c.model, null_mut())), KINGLET_OK);
    let (mut scratch, mut tokens, mut count) = ([0; 1280], [0; 64], 0);
    let mut encode = |text: &[u8], flags, words, capacity| {
        let status = c!(kinglet_tokenizer_encode(
            &c.tokenizer,
            text.as_ptr().cast(),
            text.len(),
            flags,
            scratch.as_mut_ptr(),
            words,
            tokens.as_mut_ptr(),
            capacity,
            &mut count,
            &mut c.error,
        ));
        (status, count)
    };
    let special = KINGLET_ADD_SPECIAL | KINGLET_MATCH_SPECIAL;
    assert_eq!(encode(text.as_bytes(), 4, 1280, 64).0, KINGLET_ERROR_VALUE);
    assert_eq!(encode(b"ab\xff", special, 1280, 64).0, KINGLET_ERROR_UTF8);
    let (status, words) = encode(text.as_bytes(), special, 0, 64);
    assert_eq!(status, KINGLET_ERROR_SCRATCH);
    assert!(words > 0 && words <= kinglet_scratch_words(text.len()));
    let small = encode(text.as_bytes(), special, words, want_count - 1);
    assert_eq!(small, (KINGLET_ERROR_TOO_SMALL, want_count));
    assert!(want_count <= kinglet_max_tokens(text.len()));
    let right = encode(text.as_bytes(), special, words, want_count);
    assert_eq!(right, (KINGLET_OK, want_count));
    assert_eq!(tokens[..count], want[..want_count]);

    // A buffer that is too small takes nothing away.
    let mut by_rust = Detokenizer::new(&tokenizer);
    let C { detokenizer, tokenizer: of_c, .. } = &mut *c;
    assert_eq!(c!(kinglet_detokenizer_open(detokenizer, of_c, null_mut())), KINGLET_OK);
    for &token in &tokens[..count] {
        let want: String = by_rust.push(&tokenizer, token).collect();
        let (mut buffer, mut length) = ([0x55 as c_char; 64], 0);
        let mut push = |capacity| {
            let text = buffer.as_mut_ptr();
            let to = &mut length;
            c!(kinglet_detokenizer_push(detokenizer, of_c, token, text, capacity, to, null_mut()))
        };
        assert_eq!(push(want.len()), KINGLET_ERROR_TOO_SMALL);
        assert_eq!(push(want.len() + 1), KINGLET_OK);
        assert_eq!(length, want.len());
        let got = buffer[..=length].iter().map(|&b| b as u8).collect::<Vec<_>>();
        assert_eq!(got, [want.as_bytes(), b"\0"].concat());
    }
    let (mut buffer, mut length) = ([0x55 as c_char; 8], 9);
    let text = buffer.as_mut_ptr();
    assert_eq!(
        c!(kinglet_detokenizer_finish(detokenizer, text, 8, &mut length, null_mut())),
        KINGLET_OK
    );
    assert_eq!((length, buffer[0]), (0, 0));

    let information = &mut closed::<kinglet_tokenizer_information>();
    assert_eq!(c!(kinglet_tokenizer_info(&c.tokenizer, information, null_mut())), KINGLET_OK);
    assert_eq!(information.vocab, tokenizer.vocab_len());
    assert_eq!(Some(information.bos), tokenizer.bos());
    let mut eos = false;
    for token in [0, 1, 2, 3, u32::MAX] {
        c!(kinglet_tokenizer_is_eos(&c.tokenizer, token, &mut eos, null_mut()));
        assert_eq!(eos, tokenizer.is_eos(token));
    }
    let mut token = 0;
    let name = c"<|no such token|>";
    let status = c!(kinglet_tokenizer_added_token(
        &c.tokenizer,
        name.as_ptr(),
        name.count_bytes(),
        &mut token,
        null_mut(),
    ));
    assert_eq!((status, token), (KINGLET_OK, KINGLET_NO_TOKEN));
}

#[test]
fn messages_are_cut_after_whole_characters() {
    let mut c = C::new();
    assert_eq!(c.message(), "");
    assert_eq!(c.resume(1), KINGLET_ERROR_NOT_OPEN);
    let whole = c.message();
    for capacity in 0..=whole.len() + 1 {
        let mut text = vec![0x55 as c_char; whole.len() + 2];
        let length = c!(kinglet_error_message(&c.error, text.as_mut_ptr(), capacity));
        assert_eq!(length, whole.len());
        let kept = capacity.saturating_sub(1).min(whole.len());
        let expected = [&whole.as_bytes()[..kept], if capacity > 0 { b"\0" } else { b"" }].concat();
        assert!(text.iter().map(|&b| b as u8).zip(&expected).all(|(got, &want)| got == want));
        assert!(text[expected.len()..].iter().all(|&b| b == 0x55), "wrote beyond {capacity}");
    }
    assert_eq!(c!(kinglet_error_message(&c.error, null_mut(), 0)), whole.len());
    assert_eq!(c!(kinglet_error_message(null(), null_mut(), 0)), 0);
}

#[test]
fn every_status_of_the_header_has_a_text() {
    let header = include_str!("../include/kinglet.h");
    let lines = header.lines().filter(|line| line.contains("KINGLET_") && line.contains(" = "));
    let numbers = lines.filter(|line| !line.contains("VALUES") && !line.contains("SOURCE_"));
    let mut seen = std::collections::HashSet::new();
    for line in numbers {
        let number =
            line.rsplit(' ').next().and_then(|word| word.trim_end_matches(',').parse().ok());
        let Some(number) = number else { continue };
        // SAFETY: the function returns a terminated constant.
        let text = unsafe { CStr::from_ptr(kinglet_status_text(number)) };
        assert!(text != c"no such status" && seen.insert(text), "{line}");
    }
    assert!(seen.len() > 30);
    // SAFETY: as above.
    assert_eq!(unsafe { CStr::from_ptr(kinglet_status_text(5)) }, c"no such status");
    // SAFETY: as above.
    let version = unsafe { CStr::from_ptr(kinglet_version()) };
    assert_eq!(version.to_str(), Ok(env!("CARGO_PKG_VERSION")));
    assert_eq!(kinglet_format_version(), kinglet::format::layout::VERSION.into());
}
