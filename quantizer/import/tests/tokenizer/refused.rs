//! What cannot be followed exactly is refused, by the name of its field.

use std::fs;
use std::path::PathBuf;

use kinglet_import::tokenizer::{import, import_json};
use kinglet_tokenizer::Tokenizer;
use serde_json::{Value, json};

use super::support::{file, fixtures};

/// Asserts that a changed fixture is refused with a message that has all of `words`.
fn refused(base: &str, words: &[&str], change: impl FnOnce(&mut Value)) {
    let mut json = file(base);
    change(&mut json);
    let message = import_json(&json.to_string()).unwrap_err().to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

#[test]
fn models() {
    refused("gpt2", &["model.type", "Unigram"], |json| {
        json["model"] = json!({"type": "Unigram", "vocab": [["a", 0.0]]})
    });
    refused("gpt2", &["model.dropout"], |json| json["model"]["dropout"] = json!(0.1));
    refused("gpt2", &["end_of_word_suffix", "</w>"], |json| {
        json["model"]["end_of_word_suffix"] = json!("</w>")
    });
    refused("gpt2", &["continuing_subword_prefix"], |json| {
        json["model"]["continuing_subword_prefix"] = json!("##")
    });
    refused("llama2", &["ignore_merges"], |json| json["model"]["ignore_merges"] = json!(true));
    refused("gpt2", &["version", "2.0"], |json| json["version"] = json!("2.0"));
    refused("gpt2", &["model.merges", "merge 7"], |json| {
        json["model"]["merges"][7] = json!("a b c")
    });
    refused("gpt2", &["model.merges", "zq"], |json| json["model"]["merges"][7] = json!("z q"));
    refused("gpt2", &["model.vocab", "5000000"], |json| {
        json["model"]["vocab"]["a"] = json!(5_000_000)
    });
    refused("llama2", &["model.vocab", "without", "\u{2581}"], |json| {
        json["model"]["vocab"].as_object_mut().unwrap().remove("\u{2581}");
        json["model"]["merges"] = json!([]);
    });
    refused("gpt2", &["model.vocab", "both have id"], |json| {
        json["model"]["vocab"]["a"] = json!(3)
    });
}

#[test]
fn pipelines() {
    refused("gpt2", &["normalizer", "Lowercase", "NFC"], |json| {
        json["normalizer"] = json!({"type": "Lowercase"})
    });
    refused("llama2", &["normalizer", "NFKC"], |json| {
        json["normalizer"]["normalizers"][0] = json!({"type": "NFKC"})
    });
    refused("llama2", &["normalizer", "Prepend"], |json| {
        json["normalizer"]["normalizers"][0]["prepend"] = json!("_")
    });
    refused("llama2", &["normalizer", "Replace"], |json| {
        json["normalizer"]["normalizers"][1]["pattern"] = json!({"Regex": " {2,}"});
    });
    refused("llama3", &["pre_tokenizer", "Split by"], |json| {
        json["pre_tokenizer"]["pretokenizers"][0]["pattern"] = json!({"Regex": "[A-Z]+"});
    });
    refused("llama3", &["pre_tokenizer", "Isolated"], |json| {
        json["pre_tokenizer"]["pretokenizers"][0]["behavior"] = json!("Removed");
    });
    refused("gpt2", &["pre_tokenizer", "Whitespace"], |json| {
        json["pre_tokenizer"] = json!({"type": "Whitespace"})
    });
    refused("gpt2", &["decoder"], |json| json["decoder"] = Value::Null);
    refused("llama2", &["decoder", "Strip"], |json| {
        json["decoder"]["decoders"][3]["start"] = json!(2)
    });
    refused("llama2", &["post_processor", "template"], |json| {
        json["post_processor"]["single"] = json!([])
    });
    refused("llama2", &["post_processor", "special_tokens"], |json| {
        json["post_processor"]["special_tokens"] = json!({})
    });
    refused("gpt2", &["prefix space"], |json| {
        json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true}, {"type": "ByteLevel", "add_prefix_space": true}]});
    });
}

#[test]
fn added_tokens() {
    refused("qwen2", &["added_tokens", "listed twice"], |json| {
        let first = json["added_tokens"][0].clone();
        json["added_tokens"].as_array_mut().unwrap().push(first);
    });
    refused("qwen2", &["added_tokens", "its place gives it"], |json| {
        json["added_tokens"][2]["id"] = json!(900)
    });
    refused("qwen2", &["added_tokens", "512 bytes"], |json| {
        json["added_tokens"][0]["content"] = json!("x".repeat(600))
    });
}

/// Ids from the files beside `tokenizer.json`.
#[test]
fn companions() {
    let dir = Folder::new("companions");
    fs::copy(fixtures().join("tokenizers/qwen2.json"), dir.0.join("tokenizer.json")).unwrap();
    let first = file("qwen2")["added_tokens"][0]["id"].as_u64().unwrap() as u32;
    dir.write(
        "tokenizer_config.json",
        &json!({"eos_token": {"content": "<|im_end|>"}, "pad_token": "<|endoftext|>"}),
    );
    dir.write(
        "generation_config.json",
        &json!({"eos_token_id": [first, first + 2], "pad_token_id": -1}),
    );
    let section = import(&dir.0).unwrap();
    let tokenizer = Tokenizer::parse(&section).unwrap();
    assert!(tokenizer.eos().eq([first, first + 2]));
    assert_eq!((tokenizer.bos(), tokenizer.pad()), (None, None));
    dir.write("generation_config.json", &json!({"bos_token_id": 100_000}));
    let message = import(&dir.0).unwrap_err().to_string();
    assert!(message.contains("generation_config.json: bos_token_id"), "{message}");
    dir.write("generation_config.json", &json!({}));
    dir.write("tokenizer_config.json", &json!({"eos_token": "<|nothing|>"}));
    let message = import(&dir.0).unwrap_err().to_string();
    assert!(
        message.contains("tokenizer_config.json: eos_token") && message.contains("<|nothing|>"),
        "{message}"
    );
    fs::remove_file(dir.0.join("tokenizer.json")).unwrap();
    assert!(import(&dir.0).unwrap_err().to_string().contains("tokenizer.json"));
}

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("kinglet-tokenizer-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, value: &Value) {
        fs::write(self.0.join(name), value.to_string()).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Parsed, a list of a hundred megabytes takes many times its bytes.
#[test]
fn files_beside_a_tokenizer_have_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), file("gpt2").to_string()).unwrap();
    import(dir.path()).unwrap();
    for (name, limit) in [
        ("tokenizer_config.json", "8388608"),
        ("special_tokens_map.json", "8388608"),
        ("tokenizer.json", "67108864"),
    ] {
        fs::File::create(dir.path().join(name)).unwrap().set_len(100_000_000).unwrap();
        let said = import(dir.path()).unwrap_err().to_string();
        assert!([name, "100000000", limit].iter().all(|word| said.contains(word)), "{said}");
        fs::remove_file(dir.path().join(name)).unwrap();
    }
}
