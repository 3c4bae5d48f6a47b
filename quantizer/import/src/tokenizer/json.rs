//! The parts of `tokenizer.json` and its companions as they are stored, with their types checked
//! but not their meaning.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::{TokenizerImportError as Error, short};

/// `tokenizer.json`.
#[derive(Deserialize)]
pub(super) struct TokenizerJson {
    pub(super) version: Option<Value>,
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    pub(super) normalizer: Option<Value>,
    pub(super) pre_tokenizer: Option<Value>,
    pub(super) post_processor: Option<Value>,
    pub(super) decoder: Option<Value>,
    pub(super) model: Value,
}

/// An entry of `added_tokens`.
#[derive(Deserialize, Clone)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) normalized: bool,
    pub(super) special: bool,
}

/// The settings of a BPE `model`; its vocabulary and merges are read by [`vocab`] and [`merges`].
#[derive(Deserialize, Default)]
pub(super) struct Model {
    pub(super) dropout: Option<f64>,
    pub(super) unk_token: Option<String>,
    pub(super) continuing_subword_prefix: Option<String>,
    pub(super) end_of_word_suffix: Option<String>,
    pub(super) fuse_unk: Option<bool>,
    pub(super) byte_fallback: Option<bool>,
    pub(super) ignore_merges: Option<bool>,
}

/// The settings of a WordPiece `model`, beside its vocabulary.
#[derive(Deserialize)]
pub(super) struct WordPieceModel {
    pub(super) unk_token: String,
    pub(super) continuing_subword_prefix: String,
    pub(super) max_input_chars_per_word: u64,
}

/// The pattern of `Split` and `Replace`.
#[derive(Deserialize)]
pub(super) enum Pattern {
    String(String),
    Regex(String),
}

/// The steps of `normalizer`.
#[derive(Deserialize)]
#[serde(tag = "type")]
pub(super) enum Normalizer {
    #[serde(rename = "NFC")]
    Nfc,
    Prepend {
        prepend: String,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
}

/// The steps of `pre_tokenizer`.
#[derive(Deserialize)]
#[serde(tag = "type")]
pub(super) enum PreTokenizer {
    ByteLevel {
        add_prefix_space: bool,
        use_regex: Option<bool>,
    },
    Digits {
        individual_digits: bool,
    },
    Split {
        pattern: Pattern,
        behavior: String,
        invert: bool,
    },
    Metaspace {
        replacement: char,
        add_prefix_space: Option<bool>,
        prepend_scheme: Option<String>,
        split: Option<bool>,
    },
}

/// The steps of `decoder`.
#[derive(Deserialize)]
#[serde(tag = "type")]
pub(super) enum Decoder {
    ByteLevel {},
    Replace { pattern: Pattern, content: String },
    ByteFallback {},
    Fuse {},
    Strip { content: char, start: usize, stop: usize },
    Metaspace { replacement: char, add_prefix_space: Option<bool>, prepend_scheme: Option<String> },
}

/// The steps of `post_processor`.
#[derive(Deserialize)]
#[serde(tag = "type")]
pub(super) enum PostProcessor {
    ByteLevel {},
    TemplateProcessing { single: Vec<Piece>, special_tokens: HashMap<String, SpecialToken> },
    BertProcessing { sep: (String, u32), cls: (String, u32) },
    RobertaProcessing { sep: (String, u32), cls: (String, u32) },
}

/// A piece of a template.
#[derive(Deserialize)]
pub(super) enum Piece {
    Sequence { id: String },
    SpecialToken { id: String },
}

/// What a template's special token stands for.
#[derive(Deserialize)]
pub(super) struct SpecialToken {
    pub(super) ids: Vec<u32>,
}

/// The steps of a pipeline component: those of a `Sequence`, in order, or the component itself;
/// none for `null`.
pub(super) fn steps<T: DeserializeOwned>(
    component: Option<Value>,
    field: &str,
    children: &str,
    supported: &[&str],
) -> Result<Vec<T>, Error> {
    let mut found = Vec::new();
    let mut todo = Vec::from_iter(component.filter(|value| !value.is_null()));
    while let Some(mut value) = todo.pop() {
        let kind = value.get("type").and_then(Value::as_str).unwrap_or("(no type)").to_owned();
        if kind == "Sequence" {
            let Some(Value::Array(inner)) = value.get_mut(children).map(Value::take) else {
                return Err(Error::bad(field, format!("a Sequence without the list `{children}`")));
            };
            todo.extend(inner.into_iter().rev());
        } else if supported.contains(&kind.as_str()) {
            found.push(
                serde_json::from_value(value)
                    .map_err(|e| Error::bad(field, format!("{kind}: {e}")))?,
            );
        } else {
            return Err(Error::unsupported(
                field,
                format!("`{kind}`"),
                &format!("{}, Sequence", supported.join(", ")),
            ));
        }
    }
    Ok(found)
}

/// Reads `model.vocab`.
pub(super) fn vocab(model: &Value) -> Result<HashMap<String, u32>, Error> {
    let field = "tokenizer.json: model.vocab";
    let Some(entries) = model.get("vocab").and_then(Value::as_object) else {
        return Err(Error::bad(field, "expected an object of tokens and their ids"));
    };
    let id = |token: &String, value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| {
            Error::bad(
                field,
                format!("`{}` has the id {}", short(token), short(&value.to_string())),
            )
        })
    };
    entries.iter().map(|(token, value)| Ok((token.clone(), id(token, value)?))).collect()
}

/// Reads `model.merges`: pairs, or lines of two parts as older files have them.
pub(super) fn merges(model: &Value) -> Result<Vec<(&str, &str)>, Error> {
    let field = "tokenizer.json: model.merges";
    let Some(entries) = model.get("merges").and_then(Value::as_array) else {
        return Err(Error::bad(field, "expected a list"));
    };
    let comment = |entry: &&Value| !entry.as_str().is_some_and(|line| line.starts_with("#version"));
    let pairs = entries.iter().filter(comment).enumerate().map(|(rank, entry)| {
        let pair = parts(entry).filter(|(left, right)| !left.is_empty() && !right.is_empty());
        pair.ok_or_else(|| {
            Error::bad(
                field,
                format!("merge {rank} is not a pair of tokens: {}", short(&entry.to_string())),
            )
        })
    });
    pairs.collect()
}

/// Both forms of a merge. The crate takes files of one form only, which this does not ask for.
fn parts(entry: &Value) -> Option<(&str, &str)> {
    match entry {
        Value::String(line) => line.split_once(' ').filter(|(_, right)| !right.contains(' ')),
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(left), Value::String(right)] => Some((left, right)),
            _ => None,
        },
        _ => None,
    }
}
