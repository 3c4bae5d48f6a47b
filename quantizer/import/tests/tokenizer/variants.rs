//! All tokenizers the tests run over: the files, and variants of them that use one more setting
//! each.

use serde_json::{Value, json};

use super::support::{Both, file, fixtures, shared};

/// A variant of a fixture.
fn variant(base: &str, name: &str, change: impl FnOnce(&mut Value)) -> Both {
    let mut json = file(base);
    change(&mut json);
    Both::from_json(format!("{base}, {name}"), &json)
}

/// Adds a token with flags; those of `added_tokens` are all off but `special`.
fn add_token(json: &mut Value, content: &str, flags: &[&str]) {
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let list = json["added_tokens"].as_array().unwrap();
    let in_vocab = |token: &&Value| vocab.contains_key(token["content"].as_str().unwrap());
    let next = vocab.len() + list.len() - list.iter().filter(in_vocab).count();
    let id = vocab.get(content).cloned().unwrap_or(json!(next));
    let has = |flag: &str| flags.contains(&flag);
    let token = json!({"id": id, "content": content, "single_word": has("single_word"), "lstrip": has("lstrip"),
        "rstrip": has("rstrip"), "normalized": has("normalized"), "special": has("special")});
    json["added_tokens"].as_array_mut().unwrap().push(token);
}

/// Added tokens with every flag, some of them overlapping and some of whitespace.
fn many_added(json: &mut Value) {
    add_token(json, "<a>", &["lstrip"]);
    add_token(json, "<b>", &["rstrip", "special"]);
    add_token(json, "<c>", &["lstrip", "rstrip"]);
    add_token(json, "<<", &[]);
    add_token(json, "<|", &["single_word"]);
    add_token(json, "the", &["single_word", "normalized"]);
    add_token(json, "extra", &["normalized"]);
    add_token(json, "extraordinary", &["normalized", "lstrip"]);
    add_token(json, "\u{9e1f}", &["normalized", "rstrip"]);
    add_token(json, "\n\n", &["rstrip"]);
    add_token(json, "\t", &["lstrip", "rstrip"]);
    add_token(json, "\u{c}", &[]);
    add_token(json, " word", &["normalized", "special"]);
    add_token(json, "1", &["single_word", "lstrip", "rstrip"]);
    add_token(json, "\u{2581}", &["normalized"]);
    add_token(json, "\u{212a}", &["normalized"]);
}

fn metaspace(json: &mut Value, scheme: &str, split: bool, decoder: bool) {
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": split});
    json["normalizer"] = Value::Null;
    json["pre_tokenizer"] = metaspace.clone();
    if decoder {
        json["decoder"] = json!({"type": "Sequence", "decoders": [metaspace, {"type": "ByteFallback"}, {"type": "Fuse"}]});
    }
}

fn replace_only(json: &mut Value) {
    json["normalizer"] =
        json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    json["pre_tokenizer"] = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
        "invert": false});
    json["decoder"]["decoders"].as_array_mut().unwrap().pop();
}

/// Without its bytes the vocabulary has unknown characters.
fn no_bytes(json: &mut Value, from: u8, fuse: bool) {
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    for byte in from..=255 {
        let id = vocab.remove(&format!("<0x{byte:02X}>")).unwrap();
        vocab.insert(format!("(unused {byte})"), id);
    }
    json["model"]["fuse_unk"] = json!(fuse);
}

/// A merge across a word boundary, which forbids cutting into words.
fn merge_across_words(json: &mut Value) {
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    let next = vocab.len();
    vocab.insert("e\u{2581}".into(), json!(next));
    vocab.insert("e\u{2581}\u{2581}".into(), json!(next + 1));
    let merges = json["model"]["merges"].as_array_mut().unwrap();
    merges.insert(3, json!(["e", "\u{2581}"]));
    merges.push(json!(["e\u{2581}", "\u{2581}"]));
}

fn byte_level_options(json: &mut Value, add_prefix_space: bool, use_regex: bool) {
    json["pre_tokenizer"] = json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true,
        "use_regex": use_regex});
}

fn sentencepiece() -> Vec<Both> {
    let mut all = vec![
        variant("llama2", "as it is", |_| {}),
        variant("llama2", "added tokens", many_added),
        variant("llama2", "replace only", replace_only),
        variant("llama2", "replace only, added tokens", |json| {
            replace_only(json);
            many_added(json);
        }),
        variant("llama2", "merge across words", merge_across_words),
        variant("llama2", "prepend only", |json| {
            json["normalizer"] = json!({"type": "Prepend", "prepend": "\u{2581}"});
        }),
        variant("llama2", "NFC first", |json| {
            let mut steps = vec![json!({"type": "NFC"})];
            steps.extend(json["normalizer"]["normalizers"].as_array().unwrap().clone());
            json["normalizer"]["normalizers"] = json!(steps);
            many_added(json);
        }),
        variant("llama2", "unknown characters", |json| no_bytes(json, 0, false)),
        variant("llama2", "unknown characters, fused", |json| no_bytes(json, 0, true)),
        variant("llama2", "some bytes", |json| no_bytes(json, 0xe0, true)),
        variant("llama2", "some bytes, added tokens", |json| {
            no_bytes(json, 0xc4, false);
            many_added(json);
        }),
        variant("llama2", "no fallback", |json| json["model"]["byte_fallback"] = json!(false)),
    ];
    for scheme in ["always", "first", "never"] {
        for split in [true, false] {
            all.push(variant("llama2", &format!("Metaspace {scheme} {split}"), |json| {
                metaspace(json, scheme, split, split);
            }));
            all.push(variant(
                "llama2",
                &format!("Metaspace {scheme} {split}, added tokens"),
                |json| {
                    metaspace(json, scheme, split, false);
                    many_added(json);
                },
            ));
        }
    }
    all
}

fn byte_level() -> Vec<Both> {
    let mut all: Vec<_> = ["gpt2", "llama3", "qwen2", "smollm"]
        .into_iter()
        .map(|name| variant(name, "as it is", |_| {}))
        .collect();
    for name in ["gpt2", "llama3", "qwen2", "smollm"] {
        all.push(variant(name, "added tokens", many_added));
    }
    all.push(variant("gpt2", "prefix space", |json| byte_level_options(json, true, true)));
    all.push(variant("gpt2", "prefix space, added tokens", |json| {
        byte_level_options(json, true, true);
        many_added(json);
    }));
    all.push(variant("gpt2", "no regex", |json| byte_level_options(json, false, false)));
    all.push(variant("gpt2", "ignore_merges", |json| json["model"]["ignore_merges"] = json!(true)));
    all.push(variant("gpt2", "ignore_merges, prefix space", |json| {
        json["model"]["ignore_merges"] = json!(true);
        byte_level_options(json, true, false);
    }));
    all.push(variant("llama3", "with merges", |json| {
        json["model"]["ignore_merges"] = json!(false)
    }));
    all.push(variant("smollm", "runs of digits", |json| {
        json["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = json!(false);
    }));
    all.push(variant("qwen2", "RoBERTa's processor", |json| {
        json["post_processor"] = json!({"type": "RobertaProcessing", "sep": ["<|im_end|>", 651], "cls": ["<|im_start|>", 650],
            "trim_offsets": true, "add_prefix_space": false});
    }));
    all.push(variant("gpt2", "unknown bytes", |json| {
        let vocab = json["model"]["vocab"].as_object_mut().unwrap();
        for c in ['\u{e2}', '\u{f0}', '\u{10a}'] {
            let id = vocab.remove(&c.to_string()).unwrap();
            vocab.insert(format!("(unused {c})"), id);
        }
        json["model"]["merges"]
            .as_array_mut()
            .unwrap()
            .retain(|merge| !merge.as_str().unwrap().contains(['\u{e2}', '\u{f0}', '\u{10a}']));
        json["model"]["unk_token"] = json!("<|endoftext|>");
    }));
    all
}

fn bert_normalizer(json: &mut Value, key: &str, value: Value) {
    json["normalizer"][key] = value;
}

fn word_piece() -> Vec<Both> {
    vec![
        variant("bert", "as it is", |_| {}),
        variant("bert", "cased", |json| bert_normalizer(json, "lowercase", json!(false))),
        variant("bert", "accents", |json| bert_normalizer(json, "strip_accents", json!(false))),
        variant("bert", "accents only", |json| {
            bert_normalizer(json, "lowercase", json!(false));
            bert_normalizer(json, "strip_accents", json!(true));
        }),
        variant("bert", "unclean", |json| bert_normalizer(json, "clean_text", json!(false))),
        variant("bert", "no Chinese", |json| {
            bert_normalizer(json, "handle_chinese_chars", json!(false))
        }),
        variant("bert", "no normalizer", |json| json["normalizer"] = Value::Null),
        variant("bert", "short words, no clean-up, BERT's processor", |json| {
            json["model"]["max_input_chars_per_word"] = json!(7);
            json["decoder"]["cleanup"] = json!(false);
            json["post_processor"] =
                json!({"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]});
        }),
        variant("bert", "added tokens", |json| {
            add_token(json, "<a>", &["lstrip"]);
            add_token(json, "<b>", &["rstrip", "special"]);
            add_token(json, "<c>", &["lstrip", "rstrip"]);
            add_token(json, "the", &["single_word"]);
            add_token(json, "\u{9e1f}", &["rstrip"]);
            add_token(json, "\u{1f426}!", &[]);
            add_token(json, "\t", &["lstrip", "rstrip"]);
        }),
    ]
}

/// Every tokenizer there is.
pub(crate) fn all() -> Vec<Both> {
    let mut all = sentencepiece();
    all.extend(byte_level());
    all.extend(word_piece());
    all.push(Both::from_dir("storyteller", &fixtures().join("storyteller")));
    all.extend(shared("models/stories260K").map(|dir| Both::from_dir("stories260K", &dir)));
    all.extend(minilm());
    all
}

/// The tokenizer of MiniLM, without its truncation and padding.
pub(crate) fn minilm() -> Option<Both> {
    shared("models/minilm").map(|dir| {
        let mut both = Both::from_dir("minilm", &dir);
        both.theirs.with_truncation(None).unwrap();
        both.theirs.with_padding(None);
        both
    })
}
