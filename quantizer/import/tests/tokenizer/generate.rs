//! Makes the small tokenizers in `fixtures/tokenizers`: trained on `sample.txt` there with the
//! crate's own trainer, then brought into the form of the models they stand for.

use std::fs;

use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

use super::support::fixtures;

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

#[test]
#[ignore = "rewrites the fixtures"]
fn regenerate() {
    let files = [
        ("bert", bert()),
        ("gpt2", gpt2()),
        ("llama2", llama2()),
        ("llama3", llama3()),
        ("qwen2", qwen2()),
        ("smollm", smollm()),
    ];
    for (name, file) in files {
        fs::write(fixtures().join(format!("tokenizers/{name}.json")), file.to_string() + "\n")
            .unwrap();
    }
}

/// Tokens in the order of their ids, and merges.
fn train(
    pre_tokenizer: Value,
    byte_level: bool,
    vocab_size: usize,
) -> (Vec<String>, Vec<(String, String)>) {
    let mut tokenizer = Tokenizer::new(BPE::default());
    let pre_tokenizer: PreTokenizerWrapper = serde_json::from_value(pre_tokenizer).unwrap();
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
    let mut trainer = BpeTrainer::builder().show_progress(false).vocab_size(vocab_size);
    if byte_level {
        trainer = trainer.initial_alphabet(ByteLevel::alphabet().into_iter().collect());
    }
    let sample = fs::read_to_string(fixtures().join("tokenizers/sample.txt")).unwrap();
    tokenizer
        .train(&mut TrainerWrapper::from(trainer.build()), sample.split_inclusive('\n'))
        .unwrap();
    let trained: Value = serde_json::from_str(&tokenizer.to_string(false).unwrap()).unwrap();
    let mut vocab: Vec<(u64, String)> = trained["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(token, id)| (id.as_u64().unwrap(), token.clone()))
        .collect();
    vocab.sort_unstable();
    (
        vocab.into_iter().map(|(_, token)| token).collect(),
        serde_json::from_value(trained["model"]["merges"].clone()).unwrap(),
    )
}

fn vocab(tokens: &[String]) -> Value {
    tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), json!(id)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn added(id: usize, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": special})
}

fn byte_level(add_prefix_space: bool, use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": use_regex})
}

fn split(regex: &str) -> Value {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
        byte_level(false, false)]})
}

/// The parts all byte-level files share.
fn byte_level_file(pre_tokenizer: Value, tokens: &[String], merges: Value) -> Value {
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": pre_tokenizer, "post_processor": byte_level(true, true), "decoder": byte_level(true, true),
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab(tokens), "merges": merges}})
}

/// The older form: merges as lines, no `type` in the model, the special token in the model's
/// vocabulary.
fn gpt2() -> Value {
    let (mut tokens, merges) = train(byte_level(false, true), true, 700);
    tokens.push("<|endoftext|>".into());
    let lines: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    let mut file = byte_level_file(byte_level(false, true), &tokens, json!(lines));
    file["added_tokens"] = json!([added(tokens.len() - 1, "<|endoftext|>", true)]);
    file["model"].as_object_mut().unwrap().remove("type");
    file["model"]["continuing_subword_prefix"] = json!("");
    file["model"]["end_of_word_suffix"] = json!("");
    file
}

/// Whole words that no merge reaches, which `ignore_merges` finds all the same.
fn llama3() -> Value {
    let (mut tokens, merges) = train(split(LLAMA3), true, 650);
    for word in ["Ġextraordinary", "kinglet", "ĠâĤ¬", "123", "âĢĻs", "ĠĠĠĠĠĠĠ"] {
        if !tokens.iter().any(|token| token == word) {
            tokens.push(word.into());
        }
    }
    let mut file = byte_level_file(split(LLAMA3), &tokens, json!(merges));
    let names = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ];
    let first = tokens.len();
    file["added_tokens"] = (first..).zip(names).map(|(id, name)| added(id, name, true)).collect();
    file["model"]["ignore_merges"] = json!(true);
    file["post_processor"] = json!({"type": "Sequence", "processors": [byte_level(true, true), {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": names[0], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"SpecialToken": {"id": names[0], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": names[0], "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {names[0]: {"id": names[0], "ids": [first], "tokens": [names[0]]}}}]});
    file
}

fn qwen2() -> Value {
    let (tokens, merges) = train(split(QWEN2), true, 650);
    let mut file = byte_level_file(split(QWEN2), &tokens, json!(merges));
    let names = [
        ("<|endoftext|>", true),
        ("<|im_start|>", true),
        ("<|im_end|>", true),
        ("<tool_call>", false),
        ("<think>", false),
    ];
    file["added_tokens"] =
        (tokens.len()..).zip(names).map(|(id, (name, special))| added(id, name, special)).collect();
    file["normalizer"] = json!({"type": "NFC"});
    file
}

/// WordPiece in BERT's form, tokens by their lengths.
fn bert() -> Value {
    let normalizer = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
        "lowercase": true});
    let mut tokenizer = Tokenizer::new(WordPiece::default());
    tokenizer.with_normalizer(Some(
        serde_json::from_value::<NormalizerWrapper>(normalizer.clone()).unwrap(),
    ));
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    let trainer = WordPieceTrainer::builder().show_progress(false).vocab_size(800).build();
    let sample = fs::read_to_string(fixtures().join("tokenizers/sample.txt")).unwrap();
    tokenizer.train(&mut TrainerWrapper::from(trainer), sample.split_inclusive('\n')).unwrap();
    // Of classes that the sample is without: punctuation, accents that are none, Chinese, parts of
    // Hangul, and whole words.
    let more = "# $ ^ _ ~ \u{2014} \u{3002} \u{f8} \u{131} \u{e6} \u{df} ##\u{df} \u{3c3} \
                ##\u{3c3} ##\u{3c2} \u{4e00} ##\u{4e00} \u{9e1f} \
        \u{5728} \u{1112} ##\u{1161} ##\u{11ab} \u{1100} ##\u{1173} ##\u{11af} \u{306b} ##\u{307b} \
        \u{20ac} \u{1f426} ##\u{bcd} \u{b95} ##\u{bc6} \
        ##\u{bbe} 's n't extraordinary kinglet ##glet";
    let mut tokens: Vec<String> = tokenizer.get_vocab(false).into_keys().collect();
    tokens.extend(more.split_whitespace().map(String::from));
    tokens.sort_by_key(|token| (token.chars().count(), token.clone()));
    tokens.dedup();
    let names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    tokens.splice(0..0, names.map(String::from));
    let special = |id: usize| json!({"id": names[id], "ids": [id], "tokens": [names[id]]});
    let piece = |id: usize| json!({"SpecialToken": {"id": names[id], "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    json!({"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": (0..).zip(names).map(|(id, name)| added(id, name, true)).collect::<Vec<_>>(),
        "normalizer": normalizer, "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": [piece(2), text, piece(3)],
            "pair": [piece(2), text, piece(3), {"Sequence": {"id": "B", "type_id": 1}}, piece(3)],
            "special_tokens": {names[2]: special(2), names[3]: special(3)}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab(&tokens)}})
}

fn smollm() -> Value {
    let pre_tokenizer = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": true}, byte_level(false, true)]});
    let (mut tokens, merges) = train(pre_tokenizer.clone(), true, 600);
    let names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"];
    let first = tokens.len();
    tokens.extend(names.map(String::from));
    let mut file = byte_level_file(pre_tokenizer, &tokens, json!(merges));
    file["added_tokens"] = (first..).zip(names).map(|(id, name)| added(id, name, true)).collect();
    file
}

/// SentencePiece in the legacy form: spaces and the prefix in the normalizer, byte fallback, runs
/// of marks.
fn llama2() -> Value {
    let metaspace =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let (trained, mut merges) = train(metaspace, false, 700);
    let mut tokens = vec!["<unk>".to_string(), "<s>".into(), "</s>".into()];
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(trained);
    for half in ["▁", "▁▁", "▁▁▁▁"] {
        merges.push((half.into(), half.into()));
        tokens.push(half.repeat(2));
    }
    let mut file = byte_level_file(Value::Null, &tokens, json!(merges));
    file["added_tokens"] =
        json!([added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true)]);
    file["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    file["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}});
    file["decoder"] = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    file["model"]["unk_token"] = json!("<unk>");
    file["model"]["fuse_unk"] = json!(true);
    file["model"]["byte_fallback"] = json!(true);
    file
}
