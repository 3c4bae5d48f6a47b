//! The same ids as the `tokenizers` crate.

use std::fs;
use std::time::Instant;

use kinglet_tokenizer::{EncodeError, EncodeOptions, scratch_words};

use super::support::{Both, file, fixtures, runner, shared};
use super::texts::{ATOMS, any_text, long};
use super::variants::all;

/// Whether a tokenizer is a file as it is, which the longest tests are for.
fn is_whole(both: &Both) -> bool {
    !both.name.contains(", ") || both.name.ends_with("as it is")
}

#[test]
fn stories() {
    let sample = fs::read_to_string(fixtures().join("tokenizers/sample.txt")).unwrap();
    let valid = shared("data/tinystories/valid.txt").map(|path| fs::read_to_string(path).unwrap());
    for both in all() {
        both.check(&sample);
        sample.lines().for_each(|line| both.check(line));
        let plain = both.theirs.encode_fast(sample.as_str(), false).unwrap();
        assert_eq!(
            both.encode(&sample, false),
            plain.get_ids(),
            "{} without special tokens",
            both.name
        );
        if let Some(valid) = &valid {
            let part =
                if is_whole(&both) { valid.len() } else { valid.floor_char_boundary(20_000) };
            both.check(&valid[..part]);
        }
    }
}

#[test]
fn hostile_texts() {
    let long = long();
    for both in all() {
        long.iter().for_each(|text| both.check(text));
        for (i, a) in ATOMS.iter().enumerate() {
            // All pairs in one text, and some of them as texts of their own, where a text's ends
            // count.
            both.check(&ATOMS.iter().map(|b| format!("{a}{b} x")).collect::<String>());
            let step = if is_whole(&both) { 4 } else { 12 };
            ATOMS.iter().skip(i % step).step_by(step).for_each(|b| both.check(&format!("{a}{b}")));
        }
    }
}

/// Every assigned part of Unicode, and some of the rest, in the places where the regexes look at
/// classes.
#[test]
fn every_class_of_characters() {
    let assigned =
        (0..0x3_2400).chain(0xe_0000..0xe_0200).chain((0x3_2400..=0x10_ffff).step_by(1009));
    let chars: Vec<char> = assigned.filter_map(char::from_u32).collect();
    let llama3 = Both::from_json("llama3", &file("llama3"));
    for some in chars.chunks(512) {
        llama3.check(&some.iter().map(|c| format!("{c}a 1{c}")).collect::<String>());
    }
    // `Digits` has a class of its own, the standard library's.
    let smollm = Both::from_json("smollm", &file("smollm"));
    let near_digits = |&&c: &&char| {
        (c as u32 - 1..=c as u32 + 1).filter_map(char::from_u32).any(char::is_numeric)
    };
    smollm.check(
        &chars[1..].iter().filter(near_digits).map(|c| format!("{c}a 1{c}")).collect::<String>(),
    );
}

#[test]
fn random_texts() {
    let all = all();
    let mut runner = runner(600);
    let checked = runner.run(&any_text(), |text| {
        all.iter().for_each(|both| both.check(&text));
        Ok(())
    });
    checked.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn special_names_may_be_plain_text() {
    for name in ["llama2", "qwen2"] {
        let mut both = Both::from_json(name, &file(name));
        let ours = both.section.clone();
        both.theirs.set_encode_special_tokens(true);
        for text in ["<s>a</s>", "<|im_start|>user<|im_end|>", "<think> <|im_end|>"] {
            let ours = kinglet_tokenizer::Tokenizer::parse(&ours).unwrap();
            let mut out = [0; 100];
            let options = EncodeOptions { add_special: false, match_special: false };
            let count = ours
                .encode_with(text, options, &mut vec![0; scratch_words(text.len())], &mut out)
                .unwrap();
            assert_eq!(
                &out[..count],
                both.theirs.encode(text, false).unwrap().get_ids(),
                "{name} {text}"
            );
        }
    }
}

/// The sizes that errors name are enough, and one less is not.
#[test]
fn sizes_in_errors_are_exact() {
    for both in all() {
        let ours = both.ours();
        for text in ["Once upon a time, extraordinary", "\u{2581}\u{1f426} aaaa'll <s>  x"] {
            let whole = both.encode(text, true);
            let mut out = vec![0; whole.len()];
            let Err(EncodeError::ScratchTooSmall { needed }) =
                ours.encode(text, true, &mut [], &mut out)
            else {
                panic!("{}: no scratch was enough", both.name);
            };
            assert!(needed <= scratch_words(text.len()));
            let mut scratch = vec![0; needed];
            assert_eq!(
                ours.encode(text, true, &mut scratch, &mut out),
                Ok(whole.len()),
                "{}",
                both.name
            );
            assert_eq!(out, whole);
            let short = ours.encode(text, true, &mut scratch[1..], &mut out);
            assert_eq!(short, Err(EncodeError::ScratchTooSmall { needed }));
            let cut = ours.encode(text, true, &mut scratch, &mut out[1..]);
            assert_eq!(cut, Err(EncodeError::OutputTooSmall { needed: whole.len() }));
        }
    }
}

/// Cutting into words makes the scratch small.
#[test]
fn words_need_little_scratch() {
    let both = Both::from_dir("storyteller", &fixtures().join("storyteller"));
    let text = "Once upon a time there was a little girl. ".repeat(1000);
    let mut out = vec![0; text.len()];
    assert!(both.ours().encode(&text, true, &mut [0; 64], &mut out).is_ok());
}

#[test]
fn long_texts_of_one_letter_are_fast() {
    for both in all() {
        for letter in ["a", " ", "\n", "'", "1", "\u{1f426}", "\u{2581}", "<", "<a>", "e "] {
            let text = letter.repeat(100_000 / letter.len());
            let start = Instant::now();
            let count = both.encode(&text, true).len();
            let time = start.elapsed();
            assert!(time.as_secs_f32() < 5.0, "{}: {letter:?} took {time:?}", both.name);
            if time.as_millis() > 20 {
                println!("{}: 100 kB of {letter:?}: {count} tokens in {time:?}", both.name);
            }
        }
    }
}

/// Prints the speed beside the crate's.
#[test]
fn speed() {
    let Some(path) = shared("data/tinystories/valid.txt") else { return };
    let text = fs::read_to_string(path).unwrap();
    for both in all().iter().filter(|both| is_whole(both)) {
        let start = Instant::now();
        let count = both.encode(&text, false).len();
        let ours = start.elapsed();
        let start = Instant::now();
        let theirs = both.theirs.encode_fast(text.as_str(), false).unwrap().len();
        println!(
            "{}: {} bytes, {count} tokens in {ours:?}; the crate in {:?}",
            both.name,
            text.len(),
            start.elapsed()
        );
        assert_eq!(count, theirs);
    }
}
