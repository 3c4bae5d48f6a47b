//! Text from tokens: what the crate decodes, piece by piece.

use std::fs;

use kinglet_tokenizer::{Detokenizer, TokenKind, Tokenizer};
use proptest::prelude::*;

use super::support::{Both, file, fixtures, runner, stream};

/// Any ids at all, not only those a text has: byte-level vocabularies decode alike, invalid bytes
/// included.
#[test]
fn any_ids_of_byte_level_vocabularies() {
    for name in ["gpt2", "llama3", "qwen2", "smollm"] {
        let both = Both::from_json(name, &file(name));
        let ids = prop::collection::vec(0..both.ours().vocab_len() as u32 + 3, 0..40);
        let mut runner = runner(2000);
        let checked = runner.run(&ids, |ids| {
            prop_assert_eq!(stream(&both.ours(), &ids), both.theirs.decode(&ids, true).unwrap());
            Ok(())
        });
        checked.unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

/// SentencePiece vocabularies decode alike as long as the bytes make characters; where they do not,
/// the crate writes one U+FFFD a byte, and this one a maximal part.
#[test]
fn any_ids_of_sentencepiece_vocabularies() {
    let mut never = file("llama2");
    never["decoder"] = serde_json::json!({"type": "Sequence", "decoders": [
        {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always"}, {"type": "ByteFallback"}]});
    for both in
        [Both::from_json("llama2", &file("llama2")), Both::from_json("llama2, Metaspace", &never)]
    {
        let ours = both.ours();
        let id = 0..ours.vocab_len() as u32;
        let mut runner = runner(4000);
        let mut compared = 0;
        let checked = runner.run(
            &prop::collection::vec(prop_oneof![3 => id, 1 => 3u32..131], 0..12),
            |ids| {
                let theirs = both.theirs.decode(&ids, true).unwrap();
                let text = stream(&ours, &ids);
                if !text.contains('\u{fffd}') {
                    prop_assert_eq!(text, theirs);
                }
                Ok(())
            },
        );
        checked.unwrap_or_else(|e| panic!("{e}"));
        for id in 0..ours.vocab_len() as u32 {
            let text = stream(&ours, &[id, id]);
            compared += usize::from(!text.contains('\u{fffd}'));
            assert!(
                text.contains('\u{fffd}') || text == both.theirs.decode(&[id, id], true).unwrap(),
                "{id}"
            );
        }
        assert!(compared > 500);
    }
}

/// What is certain comes at once: never more than an incomplete character is held back.
#[test]
fn nothing_waits_but_an_incomplete_character() {
    let both = Both::from_json("gpt2", &file("gpt2"));
    let ours = both.ours();
    let sample = fs::read_to_string(fixtures().join("tokenizers/sample.txt")).unwrap();
    let mut detokenizer = Detokenizer::new(&ours);
    let (mut text, mut bytes) = (String::new(), Vec::new());
    for id in both.encode(&sample, false) {
        bytes.extend_from_slice(ours.token_bytes(id));
        detokenizer.push(&ours, id).for_each(|piece| text.push_str(piece));
        let whole = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        assert_eq!(text, whole);
    }
    assert_eq!(detokenizer.finish(), None);
    assert_eq!(text, sample);
}

#[test]
fn a_continued_text_keeps_its_space() {
    let both = Both::from_json("llama2", &file("llama2"));
    let ours = both.ours();
    let ids = both.encode("the frog", false);
    assert_eq!(stream(&ours, &ids), "the frog");
    let mut detokenizer = Detokenizer::continuing();
    let text: String =
        ids.iter().map(|&id| detokenizer.push(&ours, id).collect::<String>()).collect();
    assert_eq!(text, " the frog");
}

#[test]
fn tokens_say_what_they_are() {
    let both = Both::from_dir("storyteller", &fixtures().join("storyteller"));
    let ours = both.ours();
    assert_eq!((ours.bos(), ours.unk(), ours.pad()), (Some(1), Some(0), None));
    assert!(ours.eos().eq([2]) && ours.is_eos(2) && !ours.is_eos(1));
    assert!(ours.before().eq([1]) && ours.after().len() == 0);
    assert!(ours.is_special(1) && !ours.is_special(300));
    assert_eq!(ours.kind_of(3), TokenKind::Byte);
    assert_eq!(ours.kind_of(1 << 20), TokenKind::Unused);
    assert_eq!(ours.token_bytes(13), b"\n");
    assert_eq!(ours.added_token("</s>"), Some(2));
    assert_eq!(ours.added_token("</s"), None);
    assert!(!ours.expects_nfc());
    let qwen2 = Both::from_json("qwen2", &file("qwen2"));
    assert!(qwen2.ours().expects_nfc());
    assert_eq!(qwen2.ours().added_token("<|im_start|>"), qwen2.theirs.token_to_id("<|im_start|>"));
}

/// The section is read at any alignment, and bytes after it do not matter.
#[test]
fn the_section_may_lie_anywhere() {
    let both = Both::from_json("llama3", &file("llama3"));
    let text = "Once upon 12345 extraordinary kinglets \u{1f426}";
    for shift in 0..8 {
        let mut moved = vec![0xff; shift];
        moved.extend_from_slice(&both.section);
        moved.extend_from_slice(&[0xff; 9]);
        let ours = Tokenizer::parse(&moved[shift..]).unwrap();
        ours.validate().unwrap();
        let mut out = [0; 100];
        let count = ours.encode(text, true, &mut [0; 400], &mut out).unwrap();
        assert_eq!(&out[..count], both.encode(text, true));
        assert_eq!(stream(&ours, &out[..count]), text);
    }
}
