//! The tokens that begin and end a text.
//!
//! generation_config.json speaks first, as in generation with `transformers`:
//! chat models list there the ends of a turn that config.json leaves out.

use serde_json::Value;

use super::CheckpointError;
use super::family::Family;
use super::fields::Fields;

/// More ends than any model has.
const MAX_ENDS: usize = 64;

/// The token that begins a text.
pub(super) fn bos(
    config: Fields<'_>,
    generation: Option<Fields<'_>>,
    family: &Family,
    vocab: usize,
) -> Result<Option<u32>, CheckpointError> {
    const KEY: &str = "bos_token_id";
    let Some((fields, value)) = first(KEY, config, generation) else {
        return Ok(family.bos.filter(|bos| in_vocab(*bos, vocab) && !config.is_null(KEY)));
    };
    match token(value, vocab) {
        Some(bos) => Ok(Some(bos)),
        None => Err(fields.bad(KEY, &format!("null or a token below {vocab}"))),
    }
}

/// The tokens that end a text.
pub(super) fn eos(
    config: Fields<'_>,
    generation: Option<Fields<'_>>,
    family: &Family,
    vocab: usize,
) -> Result<Vec<u32>, CheckpointError> {
    const KEY: &str = "eos_token_id";
    let Some((fields, value)) = first(KEY, config, generation) else {
        let default = family.eos.filter(|eos| in_vocab(*eos, vocab) && !config.is_null(KEY));
        return Ok(default.into_iter().collect());
    };
    let tokens = match value {
        Value::Array(values) if values.len() <= MAX_ENDS => values.iter().map(|value| token(value, vocab)).collect(),
        value => token(value, vocab).map(|eos| vec![eos]),
    };
    let expected = || format!("null, a token below {vocab}, or a list of at most {MAX_ENDS}");
    let tokens: Vec<u32> = tokens.ok_or_else(|| fields.bad(KEY, &expected()))?;
    let mut unique = Vec::new();
    for token in tokens {
        if !unique.contains(&token) {
            unique.push(token);
        }
    }
    Ok(unique)
}

fn first<'a>(key: &str, config: Fields<'a>, generation: Option<Fields<'a>>) -> Option<(Fields<'a>, &'a Value)> {
    let sources = [generation, Some(config)];
    sources.into_iter().flatten().find_map(|fields| Some((fields, fields.get(key)?)))
}

fn token(value: &Value, vocab: usize) -> Option<u32> {
    let token = u32::try_from(value.as_u64()?).ok()?;
    in_vocab(token, vocab).then_some(token)
}

fn in_vocab(token: u32, vocab: usize) -> bool {
    usize::try_from(token).is_ok_and(|token| token < vocab)
}
