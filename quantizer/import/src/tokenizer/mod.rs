//! Imports the tokenizer of a checkpoint into the section that the runtime executes in place.
//!
//! What is accepted gives the ids that the `tokenizers` crate gives; what the runtime cannot follow
//! exactly is refused by the name of the field. `docs/tokenizer.md` lists both. A `truncation` or
//! `padding` setting is passed over: they are for whoever calls, and transformers replaces them on
//! each call as well.
//!
//! | module | what it knows |
//! |---|---|
//! | `json` | the files' form |
//! | `pipeline` | normalizer, pre-tokenizer, decoder and post-processor |
//! | `vocab` | tokens and their ids |
//! | `gguf` | the other form, in which GGUF files have all of this |
//! | `words` | vocabularies that are only lists |
//! | `special` | the files beside `tokenizer.json` |
//! | `classes` | Unicode classes |
//! | `wordpiece`, `pieces`, `fold` | WordPiece, and what BERT's normalizer makes of characters |
//! | `write` | filling the runtime's layout |
//! | `keep` | the same section with fewer tokens |

mod classes;
mod error;
mod fold;
pub(crate) mod gguf;
mod json;
mod modes;
mod pieces;
mod pipeline;
mod special;
mod subset;
mod tables;
mod vocab;
mod wordpiece;
pub(crate) mod words;
mod write;

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use crate::regular;
use kinglet_tokenizer::Tokenizer;
use kinglet_tokenizer::layout::Kind;
use serde_json::Value;
use unicode_normalization::{UnicodeNormalization, is_nfc};

pub use error::TokenizerImportError;
pub use subset::{closure, restricted};

use TokenizerImportError as Error;

/// Imports `dir/tokenizer.json` and, where they exist, `tokenizer_config.json`,
/// `special_tokens_map.json`, `generation_config.json` and `config.json` beside it. Returns the
/// tokenizer section.
///
/// # Errors
/// [`TokenizerImportError`] names the file and the field that cannot be read or followed.
pub fn import(dir: &Path) -> Result<Vec<u8>, Error> {
    let beside = |name: &str| -> Result<Value, Error> {
        let path = dir.join(name);
        if !path.exists() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&read(&path, regular::Kind::Settings)?)
            .map_err(|source| Error::Json { file: name.into(), source })
    };
    let companions = special::Companions {
        config: beside("config.json")?,
        generation_config: beside("generation_config.json")?,
        tokenizer_config: beside("tokenizer_config.json")?,
        special_tokens_map: beside("special_tokens_map.json")?,
    };
    convert(&read(&dir.join("tokenizer.json"), regular::Kind::Tokenizer)?, &companions)
}

/// Imports the text of a `tokenizer.json` alone: the result has no bos, eos and pad.
///
/// # Errors
/// As [`import`].
pub fn import_json(tokenizer_json: &str) -> Result<Vec<u8>, Error> {
    convert(tokenizer_json, &special::Companions::default())
}

/// `text` as the tokenizer wants it: in Unicode normal form C if it says so.
pub fn normalized<'t>(tokenizer: &Tokenizer<'_>, text: &'t str) -> Cow<'t, str> {
    if tokenizer.expects_nfc() && !is_nfc(text) {
        Cow::Owned(text.nfc().collect())
    } else {
        Cow::Borrowed(text)
    }
}

fn read(path: &Path, kind: regular::Kind) -> Result<String, Error> {
    let io = |source| Error::Io { path: path.into(), source };
    let bytes = fs::metadata(path).map_err(io)?.len();
    if bytes > kind.limit() {
        return Err(Error::TooLong { path: path.into(), bytes, limit: kind.limit() });
    }
    regular::read_to_string(path, kind).map_err(io)
}

fn convert(tokenizer_json: &str, companions: &special::Companions) -> Result<Vec<u8>, Error> {
    let in_file = |source| Error::Json { file: "tokenizer.json".into(), source };
    let mut file: json::TokenizerJson = serde_json::from_str(tokenizer_json).map_err(in_file)?;
    if let Some(version) = file.version.as_ref().filter(|version| version.as_str() != Some("1.0")) {
        return Err(Error::unsupported("tokenizer.json: version", version.to_string(), "\"1.0\""));
    }
    if wordpiece::is(&file.model) {
        return finished(wordpiece::section(file, companions)?);
    }
    let model = model(&file.model)?;
    let pipeline = pipeline::read(&mut file)?;
    if model.ignore_merges == Some(true) && pipeline.kind == Kind::SentencePiece {
        let supported = "true for byte-level models, false";
        return Err(Error::unsupported("tokenizer.json: model.ignore_merges", "true", supported));
    }
    let vocab =
        vocab::Vocabulary::new(json::vocab(&file.model)?, std::mem::take(&mut file.added_tokens))?;
    let special = special::read(companions, &vocab)?;
    let merges = json::merges(&file.model)?;
    let section = write::section(&write::Source {
        pipeline,
        model,
        vocab,
        merges,
        ranks: write::Ranks::OfMerges,
        special,
    })?;
    finished(section)
}

/// The section, checked as the runtime would.
fn finished(section: Vec<u8>) -> Result<Vec<u8>, Error> {
    Tokenizer::parse(&section)?.validate()?;
    Ok(section)
}

/// The model's settings, all of a kind that the runtime follows.
fn model(value: &Value) -> Result<json::Model, Error> {
    // Files from before the field existed are told by their merges.
    let kind = match value.get("type") {
        None if value.get("merges").is_some() => "BPE",
        kind => kind.and_then(Value::as_str).unwrap_or("(no type)"),
    };
    if kind != "BPE" {
        return Err(Error::unsupported(
            "tokenizer.json: model.type",
            format!("`{kind}`"),
            "BPE, WordPiece",
        ));
    }
    let model: json::Model = serde::Deserialize::deserialize(value)
        .map_err(|e: serde_json::Error| Error::bad("tokenizer.json: model", e.to_string()))?;
    let affixes = [
        ("tokenizer.json: model.continuing_subword_prefix", &model.continuing_subword_prefix),
        ("tokenizer.json: model.end_of_word_suffix", &model.end_of_word_suffix),
    ];
    for (field, affix) in affixes {
        if let Some(affix) = affix.as_ref().filter(|affix| !affix.is_empty()) {
            return Err(Error::unsupported(field, format!("{affix:?}"), "none"));
        }
    }
    if let Some(dropout) = model.dropout.filter(|&dropout| dropout != 0.0) {
        return Err(Error::unsupported(
            "tokenizer.json: model.dropout",
            dropout.to_string(),
            "none: set it to null",
        ));
    }
    Ok(model)
}
