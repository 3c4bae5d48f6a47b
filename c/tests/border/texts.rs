//! Texts become tokens and tokens texts, and errors messages.

use super::*;

const TEXT: &str = "One day, a café opened. \u{1F600}";

fn with_tokenizer() -> Box<C> {
    let mut c = C::with(file());
    assert_eq!(c!(kinglet_tokenizer_open(&mut c.tokenizer, &c.model, null_mut())), KINGLET_OK);
    c
}

#[test]
fn texts_go_in() {
    let model = Model::open(file()).unwrap();
    let tokenizer = model.tokenizer().unwrap().unwrap();
    let text = TEXT;
    let mut want = [0; 64];
    let want_count = tokenizer.encode(text, true, &mut [0; 1280], &mut want).unwrap();

    let mut c = with_tokenizer();
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
}

#[test]
fn texts_come_out() {
    let model = Model::open(file()).unwrap();
    let tokenizer = model.tokenizer().unwrap().unwrap();
    let mut tokens = [0; 64];
    let count = tokenizer.encode(TEXT, true, &mut [0; 1280], &mut tokens).unwrap();

    let mut c = with_tokenizer();
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
}

#[test]
fn a_tokenizer_tells_what_it_has() {
    let model = Model::open(file()).unwrap();
    let tokenizer = model.tokenizer().unwrap().unwrap();
    let c = with_tokenizer();
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
    let header = include_str!("../../include/kinglet.h");
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
