//! Files that lie: sections with wrong bytes, and `tokenizer.json` with wrong values. Neither may
//! panic or hang.

use std::time::{Duration, Instant};

use kinglet_import::tokenizer::import_json;
use kinglet_tokenizer::layout::{HEADER_BYTES, MAX_PATTERN_BYTES, Table};
use kinglet_tokenizer::{EncodeError, Tokenizer, TokenizerError, max_tokens, scratch_words};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::support::{file, runner, stream};
use super::variants::all;

const TEXT: &str = "Once upon a time, <|im_start|> 1234 \u{2581}\u{1f426} <a>  we'll see\n\n \
                    extraordinary </s> [MASK]\u{130}\u{d55c} N\u{e4}he";

/// Uses everything a section offers.
fn exercise(section: &[u8]) {
    let Ok(tokenizer) = Tokenizer::parse(section) else { return };
    let _ = tokenizer.validate();
    let mut scratch = vec![0; scratch_words(TEXT.len())];
    let mut out = vec![0; max_tokens(TEXT.len())];
    for add_special in [false, true] {
        match tokenizer.encode(TEXT, add_special, &mut scratch, &mut out) {
            Ok(count) => drop(stream(&tokenizer, &out[..count])),
            Err(error @ EncodeError::Unknown { .. }) => drop(error.to_string()),
            Err(error) => panic!("the bounds are too low: {error}"),
        }
    }
    for id in [0, 1, 5, 260, 700, u32::MAX - 1, u32::MAX] {
        let _ = (tokenizer.token_bytes(id), tokenizer.kind_of(id), tokenizer.is_eos(id));
    }
    let _ = (tokenizer.added_token("<s>"), tokenizer.before().count(), tokenizer.after().count());
}

#[test]
fn mutated_sections_do_no_harm() {
    let sections: Vec<_> = all().into_iter().map(|both| both.section).collect();
    let byte = (any::<prop::sample::Index>(), any::<u8>());
    let bytes = prop::collection::vec(byte, 1..6);
    // Half of all changes go to the header, which decides how the rest is read.
    let input = (
        0..sections.len(),
        bytes,
        any::<bool>(),
        prop::option::weighted(0.1, any::<prop::sample::Index>()),
    );
    let mut runner = runner(20_000);
    let start = Instant::now();
    let done = runner.run(&input, |(which, bytes, in_header, cut)| {
        let mut section = sections[which].clone();
        let end = if in_header { HEADER_BYTES } else { section.len() };
        for (at, byte) in bytes {
            section[at.index(end)] = byte;
        }
        if let Some(cut) = cut {
            section.truncate(cut.index(end));
        }
        exercise(&section);
        Ok(())
    });
    done.unwrap_or_else(|e| panic!("{e}"));
    println!("20,000 mutated sections in {:?}", start.elapsed());
}

/// Every table in turn filled with a byte that makes extreme values.
#[test]
fn tables_of_nonsense_do_no_harm() {
    for both in all() {
        for table in Table::ALL {
            let extent = *both.ours().header();
            let extent = extent.extent(table);
            let start = extent.offset as usize;
            let range = start..start + extent.count as usize * table.entry_bytes();
            for fill in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut section = both.section.clone();
                section[range.clone()].fill(fill);
                exercise(&section);
            }
            let mut section = both.section.clone();
            section[range].reverse();
            exercise(&section);
        }
    }
}

/// Patterns that share all but their last byte with a long text: the work at each place is bounded.
#[test]
fn near_misses_of_long_patterns_are_bounded() {
    let mut json = file("gpt2");
    let miss = "a".repeat(MAX_PATTERN_BYTES - 1) + "b";
    json["added_tokens"]
        .as_array_mut()
        .unwrap()
        .push(json!({"id": 701, "content": miss, "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false, "special": false}));
    let section = import_json(&json.to_string()).unwrap();
    let text = "a".repeat(100_000);
    let (mut scratch, mut out) = (vec![0; scratch_words(text.len())], vec![0; text.len()]);
    let start = Instant::now();
    Tokenizer::parse(&section).unwrap().encode(&text, false, &mut scratch, &mut out).unwrap();
    println!("100 kB of near misses in {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(20));
}

/// Each entry of each table is checked: a section with one wrong value is refused by name.
#[test]
fn validation_names_the_entry() {
    let both = all()
        .into_iter()
        .find(|both| both.name == "llama2, Metaspace first true, added tokens")
        .unwrap();
    let section = &both.section;
    Tokenizer::parse(section).unwrap().validate().unwrap();
    for table in [
        Table::TokenOffsets,
        Table::MergeStarts,
        Table::Merges,
        Table::MergeResults,
        Table::ByteIds,
        Table::Chars,
        Table::AddedRaw,
        Table::AddedNormalized,
        Table::Classes,
        Table::Before,
    ] {
        let extent = both.ours().header().extent(table);
        let index = extent.count / 2;
        let mut wrong = section.clone();
        let at = extent.offset as usize + index as usize * table.entry_bytes();
        wrong[at..at + 4].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
        let found = Tokenizer::parse(&wrong).unwrap().validate();
        assert_eq!(found, Err(TokenizerError::Entry { table, index }), "{table:?}");
    }
}

/// Replaces the `n`th value of a tree.
fn replace(value: &mut Value, n: &mut usize, with: &Value) {
    if *n == 0 {
        *value = with.clone();
    }
    *n = n.wrapping_sub(1);
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| replace(value, n, with)),
        Value::Object(map) => map.values_mut().for_each(|value| replace(value, n, with)),
        _ => {}
    }
}

#[test]
fn mutated_json_gives_an_error_or_a_tokenizer() {
    let replacements = vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(3.5),
        json!(4_000_000_000u32),
        json!(1u64 << 40),
        json!(""),
        json!(" "),
        json!("\u{2581}"),
        json!("<0x\u{e9}>"),
        json!("<0x0A>"),
        json!([]),
        json!({}),
        json!(["a", "b"]),
        json!({"type": "Sequence"}),
        json!({"type": "NFC"}),
        json!({"type": "ByteLevel", "add_prefix_space": true}),
        json!({"type": "BPE", "vocab": {}, "merges": []}),
        json!({"type": "BPE", "vocab": {"a": 4194303}, "merges": []}),
    ];
    for name in ["bert", "gpt2", "llama2", "llama3", "qwen2", "smollm"] {
        // BERT's normalizer is tried on every character at each import.
        let mut runner = runner(if name == "bert" { 60 } else { 500 });
        let original = file(name);
        // The small parts of a file come often, and each entry of its long lists now and then.
        let place = prop_oneof![0usize..120, 0usize..2600];
        let done =
            runner.run(&(place, prop::sample::select(replacements.clone())), |(place, with)| {
                let mut json = original.clone();
                replace(&mut json, &mut { place }, &with);
                if let Ok(section) = import_json(&json.to_string()) {
                    exercise(&section);
                }
                Ok(())
            });
        done.unwrap_or_else(|e| panic!("{e}"));
    }
    for text in
        ["", "{", "null", "[]", "{}", "{\"model\": null}", "{\"model\": {\"type\": \"BPE\"}}"]
    {
        assert!(import_json(text).is_err());
    }
    let deep = "[".repeat(100_000);
    assert!(import_json(&deep).is_err());
}
