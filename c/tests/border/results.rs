//! The bits of sessions are those of the Rust interface.

use super::*;

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
