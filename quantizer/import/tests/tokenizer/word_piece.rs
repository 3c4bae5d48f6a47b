//! WordPiece: its folds, its sentences, and what only it refuses.

use std::fs;

use kinglet_import::tokenizer::{closure, import_json, restricted};
use kinglet_tokenizer::layout::{HEADER_BYTES, Table};
use kinglet_tokenizer::{Tokenizer, TokenizerError};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::support::{Both, file, runner, shared, stream};
use super::variants::{all, minilm};

/// Every character of Unicode by itself, inside a word and beside its neighbours.
#[test]
fn every_character() {
    let chars: Vec<char> = ('\0'..=char::MAX).collect();
    for both in all().iter().filter(|both| both.name == "bert, as it is" || both.name == "minilm") {
        for some in chars.chunks(1024) {
            both.check(&some.iter().map(|c| format!("{c} a{c}b {c}{c} ")).collect::<String>());
            both.check(&some.iter().collect::<String>());
        }
    }
}

/// Characters of the scripts that fold, and some of each of the others: all of them take minutes.
fn folding() -> impl Iterator<Item = char> {
    let scripts =
        |c: u32| c < 0x3400 || (0xA640..0xB000).contains(&c) || (0xF900..0x1_1000).contains(&c);
    ('\0'..=char::MAX).filter(move |&c| scripts(c as u32) || (c as u32).is_multiple_of(97))
}

/// A vocabulary of these characters, so that no difference hides behind an unknown token.
#[test]
fn every_fold() {
    let mut json = file("bert");
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    for c in folding().filter(|c| *c as u32 % 7 < 4 || (*c as u32) < 0x3000) {
        for token in [c.to_string(), format!("##{c}")] {
            let next = vocab.len();
            vocab.entry(token).or_insert(json!(next));
        }
    }
    for (lowercase, accents) in [(true, Value::Null), (true, json!(false)), (false, json!(true))] {
        json["normalizer"]["lowercase"] = json!(lowercase);
        json["normalizer"]["strip_accents"] = accents;
        let both = Both::from_json("bert of many characters", &json);
        let runs = both.ours().header().extent(Table::Chars).count;
        println!(
            "{runs} runs, {} bytes of texts",
            both.ours().header().extent(Table::AddedBytes).count
        );
        for some in folding().collect::<Vec<_>>().chunks(1024) {
            both.check(&some.iter().map(|c| format!("{c} a{c}b ")).collect::<String>());
        }
    }
}

/// The sentences of the benchmark of semantic similarity.
#[test]
fn sentences() {
    let Some(both) = minilm() else { return };
    let mut checked = 0;
    // All of the one part, some of the other.
    for (name, step) in [("dev", 1), ("train", 9)] {
        let Some(path) = shared(&format!("data/stsbenchmark/sts-{name}.csv")) else { return };
        for line in fs::read_to_string(path).unwrap().lines().step_by(step) {
            for sentence in line.split('\t').skip(5).take(2) {
                both.check(sentence);
                checked += 1;
            }
            both.check(line);
        }
    }
    let header = *both.ours().header();
    let bytes = |table: Table| header.extent(table).count as usize * table.entry_bytes();
    println!(
        "{checked} sentences; a section of {} bytes: {} of folds, {} of texts, {} of classes",
        both.section.len(),
        bytes(Table::Chars),
        bytes(Table::AddedBytes),
        bytes(Table::Classes)
    );
}

#[test]
fn odd_texts() {
    let texts = [
        "H\u{e9}llo W\u{d6}RLD, na\u{ef}ve fa\u{e7}ade!",
        "\u{130}stanbul I\u{307} \u{131} Stra\u{df}e STRA\u{1e9e}E",
        "\u{39f}\u{394}\u{3a5}\u{3a3}\u{3a3}\u{395}\u{3a5}\u{3a3} \u{3c2}",
        "\u{d55c}\u{ad6d}\u{c5b4} \u{1112}\u{1161}\u{11ab} \
         \u{65e5}\u{672c}\u{8a9e}\u{306b}\u{307b}\u{3093}\u{3054} \u{ff76}\u{ff9e}",
        "\u{1f468}\u{200d}\u{1f469} \u{1f44d}\u{1f3fd} \u{2764}\u{fe0f} \u{1f1e9}\u{1f1ea}",
        "a\u{0}b\u{1}c\u{7f}d\u{ad}e\u{fffd}f\u{feff}g\u{85}h\u{2028}i\u{e000}j",
        "don't can't we've I'm he's they're ... ?! -- (x) [y] {z} <w> \u{201c}q\u{201d} \
         \u{ab}r\u{bb} $5 50% a_b c^d",
        "[CLS] [SEP] [MASK] [UNK] [cls] [ MASK ] ##ing # # ##",
    ];
    let all = all();
    for both in all.iter().filter(|both| both.name.starts_with("bert") || both.name == "minilm") {
        texts.iter().for_each(|text| both.check(text));
        for n in [6, 7, 8, 99, 100, 101, 254, 255, 256, 5000] {
            for part in ["a", "\u{e9}", "\u{d55c}", "e\u{301}", "\u{bca}"] {
                both.check(&format!("x {} y", part.repeat(n)));
            }
        }
    }
}

/// Any ids decode as the crate decodes them, if the first one starts a word.
#[test]
fn any_ids() {
    let both = Both::from_json("bert", &file("bert"));
    let ids = prop::collection::vec(0..both.ours().vocab_len() as u32 + 3, 0..40);
    let the = both.theirs.token_to_id("the").unwrap();
    let done = runner(2000).run(&ids, |mut ids| {
        ids.insert(0, the);
        prop_assert_eq!(stream(&both.ours(), &ids), both.theirs.decode(&ids, true).unwrap());
        Ok(())
    });
    done.unwrap_or_else(|e| panic!("{e}"));
}

/// Changes of the tables that fold and look up, which are a small part of the section.
#[test]
fn mutated_words_do_no_harm() {
    let both = Both::from_json("bert", &file("bert"));
    let header = *both.ours().header();
    let text = "The kinglet, \u{d55c}\u{130}\u{bca} N\u{c4}HE \u{9e1f}[MASK] extraordinarily!";
    let tables = vec![
        Table::Chars,
        Table::Classes,
        Table::SortedIds,
        Table::TokenOffsets,
        Table::TokenKinds,
    ];
    let change = (prop::sample::select(tables), any::<prop::sample::Index>(), any::<u8>());
    let done = runner(20_000).run(&prop::collection::vec(change, 1..8), |changes| {
        let mut section = both.section.clone();
        for (table, at, byte) in changes {
            let extent = header.extent(table);
            section
                [extent.offset as usize + at.index(extent.count as usize * table.entry_bytes())] =
                byte;
        }
        let ours = Tokenizer::parse(&section).unwrap();
        let _ = ours.validate();
        let (mut scratch, mut out) = (vec![0; text.len()], vec![0; 2 * text.len()]);
        let count = ours.encode(text, true, &mut scratch, &mut out).unwrap();
        stream(&ours, &out[..count]);
        Ok(())
    });
    done.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn validation_names_the_entry() {
    let both = Both::from_json("bert", &file("bert"));
    for table in [Table::Chars, Table::SortedIds, Table::TokenKinds] {
        let extent = both.ours().header().extent(table);
        let index = extent.count / 2;
        let mut wrong = both.section.clone();
        let at = extent.offset as usize + index as usize * table.entry_bytes();
        wrong[at..at + table.entry_bytes().min(4)].fill(0x7f);
        assert!(at >= HEADER_BYTES);
        let found = Tokenizer::parse(&wrong).unwrap().validate();
        assert_eq!(found, Err(TokenizerError::Entry { table, index }), "{table:?}");
    }
}

/// A part of the vocabulary encodes its text as the whole does.
#[test]
fn a_part_of_the_vocabulary() {
    let both = Both::from_json("bert", &file("bert"));
    let text = "The extraordinary kinglet sings, and everyone listens.";
    let ids = both.encode(text, true);
    let kept = closure(&both.section, &ids).unwrap();
    assert!(kept.len() < both.ours().vocab_len());
    let section = restricted(&both.section, &kept).unwrap();
    let ours = Tokenizer::parse(&section).unwrap();
    let (mut scratch, mut out) = ([0; 100], [0; 100]);
    let count = ours.encode(text, true, &mut scratch, &mut out).unwrap();
    let back: Vec<u32> = out[..count].iter().map(|&id| kept[id as usize]).collect();
    assert_eq!(back, ids);
}

#[test]
fn what_is_not_followed_is_refused() {
    let refused = |words: &[&str], change: fn(&mut Value)| {
        let mut json = file("bert");
        change(&mut json);
        let message = import_json(&json.to_string()).unwrap_err().to_string();
        words
            .iter()
            .for_each(|word| assert!(message.contains(word), "{word:?} is not in: {message}"));
    };
    refused(&["model.unk_token"], |json| json["model"]["unk_token"] = json!("[none]"));
    refused(&["max_input_chars_per_word", "255"], |json| {
        json["model"]["max_input_chars_per_word"] = json!(256)
    });
    refused(&["continuing_subword_prefix"], |json| {
        json["model"]["continuing_subword_prefix"] = json!("#")
    });
    refused(&["decoder"], |json| json["decoder"]["prefix"] = json!("@@"));
    refused(&["decoder"], |json| json["decoder"] = Value::Null);
    refused(&["normalizer", "Lowercase"], |json| json["normalizer"] = json!({"type": "Lowercase"}));
    refused(&["pre_tokenizer", "missing"], |json| json["pre_tokenizer"] = Value::Null);
    refused(&["pre_tokenizer", "Whitespace"], |json| {
        json["pre_tokenizer"] = json!({"type": "Whitespace"})
    });
    refused(&["added_tokens", "normalized"], |json| {
        json["added_tokens"][4]["normalized"] = json!(true)
    });
}
