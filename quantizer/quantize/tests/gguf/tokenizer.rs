//! The tokenizer of a file against `tokenizer.json`, from which it was made.

use kinglet::tokenizer::{Tokenizer, max_tokens, scratch_words};
use kinglet_import::checkpoint::Checkpoint;
use kinglet_import::tokenizer::{TokenizerImportError, import_json, normalized};

use super::support::{File, Value, fixture, fixtures, string};

fn encode(tokenizer: &Tokenizer<'_>, text: &str, add_special: bool) -> Vec<u32> {
    let text = normalized(tokenizer, text);
    let mut scratch = vec![0; scratch_words(text.len())];
    let mut out = vec![0; max_tokens(text.len())];
    let count = tokenizer.encode(&text, add_special, &mut scratch, &mut out).unwrap();
    out.truncate(count);
    out
}

fn decode(tokenizer: &Tokenizer<'_>, ids: &[u32]) -> String {
    let mut detokenizer = kinglet::tokenizer::Detokenizer::new(tokenizer);
    let mut text = String::new();
    for &id in ids {
        detokenizer.push(tokenizer, id).for_each(|piece| text.push_str(piece));
    }
    text + detokenizer.finish().unwrap_or("")
}

/// Texts of everything that tokenizers get wrong.
fn texts() -> Vec<String> {
    let sample = std::fs::read_to_string(fixtures().join("tokenizers/sample.txt")).unwrap();
    let mut texts: Vec<String> = sample.lines().map(str::to_owned).collect();
    let hard = [
        "",
        " ",
        "  two  spaces ",
        "   \t\n\n tabs\r\n",
        "it's I'll we'VE 'tis 12345 1 22 333 4444",
        "caf\u{e9} e\u{301} \u{4e00}\u{3007} \u{1f469}\u{200d}\u{1f467} \u{ac00} \u{0} \u{fffd}",
        "<s>a</s> <unk> <0x0A> <|im_start|>user<|im_end|> <think> <|eot_id|><|begin_of_text|>x",
        "\u{2581}the \u{2581}\u{2581} kinglet extraordinary",
        "aaaaaaaaaaaaaaaaaaaaaaaa the the thethethe hehehe",
    ];
    texts.extend(hard.map(str::to_owned));
    texts.push(sample);
    texts
}

#[test]
fn ids_and_texts_are_those_of_the_json() {
    for name in ["llama2", "llama3", "qwen2"] {
        let json =
            std::fs::read_to_string(fixtures().join(format!("tokenizers/{name}.json"))).unwrap();
        let (json, file) = (
            import_json(&json).unwrap(),
            Checkpoint::open(fixture(&format!("tokenizer-{name}"))).unwrap(),
        );
        let file = file.tokenizer().unwrap();
        let (theirs, ours) = (Tokenizer::parse(&json).unwrap(), Tokenizer::parse(&file).unwrap());
        assert_eq!(theirs.expects_nfc(), ours.expects_nfc(), "{name}");
        for text in texts() {
            for add_special in [true, false] {
                let ids = encode(&ours, &text, add_special);
                assert_eq!(ids, encode(&theirs, &text, add_special), "{name}: {text:?}");
                assert_eq!(decode(&ours, &ids), decode(&theirs, &ids), "{name}: {text:?}");
            }
        }
    }
}

#[test]
fn special_tokens_are_read() {
    let section = |name: &str| Checkpoint::open(fixture(name)).unwrap().tokenizer().unwrap();
    let llama2 = section("tokenizer-llama2");
    let llama2 = Tokenizer::parse(&llama2).unwrap();
    assert_eq!((llama2.bos(), llama2.eos().collect::<Vec<_>>()), (Some(1), vec![2]));
    let llama3 = section("tokenizer-llama3");
    let llama3 = Tokenizer::parse(&llama3).unwrap();
    assert_eq!(llama3.eos().count(), 2, "the ends of texts and of turns");
    let qwen2 = section("tokenizer-qwen2");
    assert_eq!(Tokenizer::parse(&qwen2).unwrap().bos(), None);
}

fn list(item: u32, count: usize, items: Vec<u8>) -> Value {
    Value::Raw(9, [&item.to_le_bytes()[..], &(count as u64).to_le_bytes(), &items].concat())
}

fn strings(texts: &[&str]) -> Value {
    list(8, texts.len(), texts.iter().flat_map(|text| string(text.as_bytes())).collect())
}

fn scores(scores: &[f32]) -> Value {
    list(6, scores.len(), scores.iter().flat_map(|score| score.to_le_bytes()).collect())
}

/// SentencePiece of a handful of tokens.
fn pieces() -> File {
    File::new()
        .with("tokenizer.ggml.model", Value::Text("llama"))
        .with(
            "tokenizer.ggml.tokens",
            strings(&["<unk>", "<s>", "</s>", "\u{2581}", "a", "aa", "aaa", "b", "ab"]),
        )
        .with("tokenizer.ggml.scores", scores(&[0.0, 0.0, 0.0, -9.0, -9.0, -1.0, -2.0, -9.0, -3.0]))
        .with(
            "tokenizer.ggml.token_type",
            list(5, 9, [2, 3, 3, 1, 1, 1, 1, 1, 1].map(i32::to_le_bytes).concat()),
        )
}

fn error(file: &File) -> TokenizerImportError {
    file.open().unwrap().tokenizer().expect_err("a tokenizer that is refused")
}

#[test]
fn scores_decide_and_the_leftmost_goes_first() {
    let section = pieces().open().unwrap().tokenizer().unwrap();
    let tokenizer = Tokenizer::parse(&section).unwrap();
    for (text, ids) in [
        ("a", vec![1, 3, 4]),
        // One way to `aaa` is `a` before `aa`, the other `a` after it.
        ("aaa", vec![1, 3, 6]),
        ("aaaa", vec![1, 3, 5, 5]),
        ("aaaaa", vec![1, 3, 5, 6]),
        ("aab", vec![1, 3, 5, 7]),
        ("<s>ab", vec![1, 1, 3, 8]),
        ("c", vec![1, 3, 0]),
    ] {
        assert_eq!(encode(&tokenizer, text, true), ids, "{text:?}");
    }
    let bare = pieces().with("tokenizer.ggml.add_space_prefix", Value::Raw(7, vec![0]));
    let bare = bare.with("tokenizer.ggml.add_bos_token", Value::Raw(7, vec![0]));
    let section = bare
        .with("tokenizer.ggml.add_eos_token", Value::Raw(7, vec![1]))
        .open()
        .unwrap()
        .tokenizer()
        .unwrap();
    assert_eq!(encode(&Tokenizer::parse(&section).unwrap(), "ab", true), [8, 2]);
}

#[test]
fn what_cannot_be_followed_is_named() {
    let cases = [
        (
            pieces().with("tokenizer.ggml.model", Value::Text("t5")),
            vec!["tokenizer.ggml.model", "t5"],
        ),
        (
            pieces().with("tokenizer.ggml.model", Value::U32(1)),
            vec!["tokenizer.ggml.model", "string"],
        ),
        (pieces().without("tokenizer.ggml.scores"), vec!["tokenizer.ggml.scores", "missing"]),
        (
            pieces().with("tokenizer.ggml.scores", scores(&[-1000.0; 9])),
            vec!["tokenizer.ggml.scores", "-1000"],
        ),
        (
            pieces().with("tokenizer.ggml.scores", scores(&[0.0; 4])),
            vec!["tokenizer.ggml.scores", "4 entries"],
        ),
        (
            pieces().with("tokenizer.ggml.scores", strings(&["a"; 9])),
            vec!["tokenizer.ggml.scores", "list"],
        ),
        (
            pieces().with("tokenizer.ggml.tokens", strings(&["a"; 9])),
            vec!["tokenizer.ggml.tokens", "both token"],
        ),
        (pieces().with("tokenizer.ggml.tokens", list(8, 1, string(b"\xff"))), vec!["UTF-8"]),
        (pieces().without("tokenizer.ggml.tokens"), vec!["tokenizer.ggml.scores", "0 tokens"]),
        (
            pieces().with("tokenizer.ggml.eos_token_id", Value::U32(9)),
            vec!["tokenizer.ggml.tokens", "token 9"],
        ),
        (
            pieces().with("tokenizer.ggml.model", Value::Text("gpt2")),
            vec!["tokenizer.ggml.pre", "(none)", "llama-bpe"],
        ),
    ];
    for (file, words) in cases {
        let message = error(&file).to_string();
        assert!(
            words.iter().all(|word| message.contains(word)),
            "{words:?} are not in {message:?}"
        );
    }
    let bytes = pieces().with("tokenizer.ggml.model", Value::Text("gpt2"));
    let default = bytes.clone().with("tokenizer.ggml.pre", Value::Text("default"));
    assert!(error(&default).to_string().contains("`default`"));
    let qwen = bytes.with("tokenizer.ggml.pre", Value::Text("qwen2"));
    let merges = qwen.clone().with("tokenizer.ggml.merges", strings(&["ab"]));
    assert!(error(&merges).to_string().contains("merge 0"));
    let unknown = qwen.with("tokenizer.ggml.merges", strings(&["a z"]));
    assert!(error(&unknown).to_string().contains("tokenizer.ggml.merges"));
    for model in ["no_vocab", "none"] {
        let file = pieces().with("tokenizer.ggml.model", Value::Text(model));
        assert!(file.open().unwrap().tokenizer().unwrap().is_empty());
    }
}
