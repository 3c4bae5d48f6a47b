//! What a caller gets wrong is an error with a code.

use super::*;

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
