//! Vocabularies that are only lists, of models whose texts come in pieces already.
//!
//! | file | tokens | texts |
//! |---|---|---|
//! | `vocab.json` with `source` and `target` (OpenNMT) | characters, and special ones in angle brackets | as they are |
//! | `token_mappings.json` with `token2id` | words, which may have spaces in them | words with spaces between them; the longest fits |
//!
//! A list of pieces that are neither has no tokenizer here: which pieces a text falls into is not
//! said.

use crate::regular::Kind;
use std::collections::HashMap;
use std::path::Path;

use kinglet_tokenizer::Tokenizer;
use kinglet_tokenizer::layout::{MAX_VOCAB, SPACE_MARK};
use serde_json::{Value, json};

use super::error::{TokenizerImportError as Error, short};
use super::json::AddedToken;
use super::{json, pipeline, read, special, vocab, write};

const LISTS: &str = "vocab.json";
const WORDS: &str = "token_mappings.json";

/// Whose tokens are listed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// What is read.
    Source,
    /// What is written.
    Target,
}

/// What the model says of its tokens.
#[derive(Clone, Copy)]
pub(crate) struct Tokens<'a> {
    /// How many it has.
    pub(crate) count: usize,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: &'a [u32],
}

/// The section for the lists of a directory, if there are any.
pub(crate) fn import(dir: &Path, side: Side, tokens: Tokens<'_>) -> Result<Vec<u8>, Error> {
    if dir.join(LISTS).exists() {
        let lists = object(dir, LISTS)?;
        let key = if side == Side::Source { "source" } else { "target" };
        // The vocabularies of other families are objects of one level.
        return match lists.get(key).and_then(Value::as_array) {
            Some(list) => characters(&format!("{LISTS}: {key}"), list, tokens),
            None => Ok(vec![]),
        };
    }
    if dir.join(WORDS).exists() && side == Side::Source {
        return words(&object(dir, WORDS)?, tokens);
    }
    Ok(vec![])
}

fn object(dir: &Path, name: &str) -> Result<Value, Error> {
    serde_json::from_str(&read(&dir.join(name), Kind::Tokenizer)?)
        .map_err(|source| Error::Json { file: name.into(), source })
}

/// Whether a token is named and not written.
fn is_special(token: &str) -> bool {
    token.len() > 2 && token.starts_with('<') && token.ends_with('>')
}

/// Each character is a token. A row that the list does not have is that of all unknown ones.
fn characters(field: &str, list: &[Value], tokens: Tokens<'_>) -> Result<Vec<u8>, Error> {
    const UNKNOWN: &str = "<unk>";
    let mut vocab = serde_json::Map::new();
    for (id, token) in list.iter().enumerate() {
        let token = token
            .as_str()
            .ok_or_else(|| Error::bad(field, format!("entry {id} is not a string")))?;
        if !is_special(token) && token.chars().count() != 1 {
            return Ok(vec![]);
        }
        if vocab.insert(token.to_owned(), json!(id)).is_some() {
            return Err(Error::bad(
                field,
                format!("{:?} is listed twice; remove one", short(token)),
            ));
        }
    }
    if tokens.count == list.len() + 1 {
        vocab.entry(UNKNOWN).or_insert(json!(list.len()));
    }
    let unknown = vocab.contains_key(UNKNOWN).then_some(UNKNOWN);
    let mut special: Vec<(&String, &Value)> =
        vocab.iter().filter(|(token, _)| is_special(token)).collect();
    special.sort_by_key(|(_, id)| id.as_u64());
    let added: Vec<Value> = special
        .iter()
        .map(|(token, id)| {
            json!({
                "id": id, "content": token, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let file = json!({
        "version": "1.0",
        "added_tokens": added,
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": unknown},
    });
    let config = json!({"bos_token_id": tokens.bos, "eos_token_id": tokens.eos});
    super::convert(
        &file.to_string(),
        &special::Companions { config, ..special::Companions::default() },
    )
}

/// A tokenizer that only puts words together again, with a space between them.
fn joining_with_spaces() -> json::TokenizerJson {
    let spaces = json!({
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    });
    json::TokenizerJson {
        version: None,
        added_tokens: vec![],
        normalizer: None,
        pre_tokenizer: None,
        post_processor: None,
        decoder: Some(spaces),
        model: Value::Null,
    }
}

/// Each word is a token.
fn words(mappings: &Value, tokens: Tokens<'_>) -> Result<Vec<u8>, Error> {
    const FIELD: &str = "token_mappings.json: token2id";
    let Some(ids) = mappings.get("token2id").and_then(Value::as_object) else {
        return Err(Error::bad(FIELD, "expected an object of tokens and their ids"));
    };
    let (mut model, mut added, mut ends) = (HashMap::new(), vec![], vec![]);
    for (word, id) in ids {
        let id = id
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .filter(|id| *id < MAX_VOCAB && !word.is_empty());
        let id = id.ok_or_else(|| {
            Error::bad(FIELD, format!("`{}` has no id below {MAX_VOCAB}", short(word)))
        })?;
        let special = tokens.bos == Some(id) || tokens.eos.contains(&id);
        let found = AddedToken {
            id,
            content: word.clone(),
            single_word: false,
            lstrip: true,
            rstrip: true,
            normalized: false,
            special,
        };
        if special {
            ends.push(found);
        } else {
            // A mark becomes the space in front when words are put together again.
            model.insert(format!("{SPACE_MARK}{word}"), id);
            added.push(found);
        }
    }
    let pipeline = pipeline::read(&mut joining_with_spaces())?;
    let mut vocab = vocab::Vocabulary::with_ids(model, ends)?;
    // Found as they are, and put together with spaces.
    vocab.added.append(&mut added);
    let special = special::Special { bos: tokens.bos, pad: None, eos: tokens.eos.to_vec() };
    let model = super::model(&json!({"type": "BPE"}))?;
    let (merges, ranks) = (vec![], write::Ranks::OfMerges);
    let section =
        write::section(&write::Source { pipeline, model, vocab, merges, ranks, special })?;
    Tokenizer::parse(&section)?.validate()?;
    Ok(section)
}
