//! The ids of special tokens that `tokenizer.json` does not name: from the files beside it.

use kinglet_tokenizer::layout::MAX_LIST;
use serde_json::Value;

use super::error::{TokenizerImportError as Error, short};
use super::vocab::Vocabulary;

/// The ids that begin, end and pad.
#[derive(Default)]
pub(super) struct Special {
    pub(super) bos: Option<u32>,
    pub(super) pad: Option<u32>,
    pub(super) eos: Vec<u32>,
}

/// The files beside `tokenizer.json`, `null` where there is none.
#[derive(Default)]
pub(super) struct Companions {
    pub(super) config: Value,
    pub(super) generation_config: Value,
    pub(super) tokenizer_config: Value,
    pub(super) special_tokens_map: Value,
}

/// The ids of all three kinds. Numbers in `generation_config.json` go before those in
/// `config.json`, names in `tokenizer_config.json` before those in `special_tokens_map.json`, and
/// numbers before names; but every eos is kept, as chat models end a turn by another token than a
/// text.
pub(super) fn read(files: &Companions, vocab: &Vocabulary) -> Result<Special, Error> {
    let numbers =
        [("generation_config.json", &files.generation_config), ("config.json", &files.config)];
    let names = [
        ("tokenizer_config.json", &files.tokenizer_config),
        ("special_tokens_map.json", &files.special_tokens_map),
    ];
    let ids = |what: &str| -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        let number_key = format!("{what}_token_id");
        if let Some((file, value)) = present(&numbers, &number_key) {
            ids.extend(by_number(&format!("{file}: {number_key}"), value, vocab)?);
        }
        let name_key = format!("{what}_token");
        if let Some((file, value)) = present(&names, &name_key) {
            ids.push(by_name(&format!("{file}: {name_key}"), value, vocab)?);
        }
        Ok(ids)
    };
    let mut eos = Vec::new();
    for id in ids("eos")? {
        if !eos.contains(&id) {
            eos.push(id);
        }
    }
    if eos.len() > MAX_LIST as usize {
        let supported = format!("at most {MAX_LIST}");
        return Err(Error::unsupported(
            "generation_config.json: eos_token_id",
            format!("{} ids", eos.len()),
            &supported,
        ));
    }
    // Padding is not needed to run a model, and files that set it to -1 are common.
    let pad = ids("pad").unwrap_or_default().first().copied();
    Ok(Special { bos: ids("bos")?.first().copied(), pad, eos })
}

/// The first file that has a value other than `null`.
fn present<'f>(files: &[(&'f str, &'f Value)], key: &str) -> Option<(&'f str, &'f Value)> {
    let found = files.iter().filter_map(|(file, value)| Some((*file, value.get(key)?)));
    found.into_iter().find(|(_, value)| !value.is_null())
}

/// One id or a list of them.
fn by_number(field: &str, value: &Value, vocab: &Vocabulary) -> Result<Vec<u32>, Error> {
    let one = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        let known = id.filter(|&id| vocab.strings.get(id as usize).is_some_and(Option::is_some));
        let problem = || {
            format!("{} is not the id of a token; correct or remove it", short(&value.to_string()))
        };
        known.ok_or_else(|| Error::bad(field, problem()))
    };
    match value {
        Value::Array(list) => list.iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

/// A token by its string, or by an object with the string.
fn by_name(field: &str, value: &Value, vocab: &Vocabulary) -> Result<u32, Error> {
    let name = value.as_str().or_else(|| value.get("content").and_then(Value::as_str));
    let problem = || format!("{} is not a token; correct or remove it", short(&value.to_string()));
    name.and_then(|name| vocab.id(name)).ok_or_else(|| Error::bad(field, problem()))
}
