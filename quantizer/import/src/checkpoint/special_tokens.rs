//! The tokens that begin and end a text.
//!
//! generation_config.json speaks first, as in generation with `transformers`:
//! chat models list there the ends of a turn that config.json leaves out.

use serde_json::Value;

use super::CheckpointError;
use super::fields::Fields;

/// More ends than any model has.
const MAX_ENDS: usize = 64;

/// The token that begins a text.
pub(super) fn bos(
    config: Fields<'_>,
    generation: Option<Fields<'_>>,
    default: Option<u32>,
    vocab: usize,
) -> Result<Option<u32>, CheckpointError> {
    one("bos_token_id", config, generation, default, vocab)
}

/// The token that begins an answer, of models with a source and a target.
pub(super) fn start(
    config: Fields<'_>,
    generation: Option<Fields<'_>>,
    default: Option<u32>,
    vocab: usize,
) -> Result<Option<u32>, CheckpointError> {
    const KEY: &str = "decoder_start_token_id";
    // The library falls back on the beginning of a text.
    match one(KEY, config, generation, default, vocab)? {
        Some(start) => Ok(Some(start)),
        None => bos(config, generation, None, vocab),
    }
}

fn one(
    key: &str,
    config: Fields<'_>,
    generation: Option<Fields<'_>>,
    default: Option<u32>,
    vocab: usize,
) -> Result<Option<u32>, CheckpointError> {
    let Some((fields, value)) = first(key, config, generation) else {
        return Ok(default.filter(|token| in_vocab(*token, vocab) && !config.is_null(key)));
    };
    match token(value, vocab) {
        Some(token) => Ok(Some(token)),
        None if is_default(value, default) => Ok(None),
        None => Err(fields.bad(key, &format!("null or a token below {vocab}"))),
    }
}

/// Whether it says no more than the configuration's class: libraries write those out for any
/// vocabulary.
fn is_default(value: &Value, default: Option<u32>) -> bool {
    default.is_some() && value.as_u64() == default.map(u64::from)
}

/// The tokens that end a text.
pub(super) fn eos(
    config: Fields<'_>,
    generation: Option<Fields<'_>>,
    default: Option<u32>,
    vocab: usize,
) -> Result<Vec<u32>, CheckpointError> {
    const KEY: &str = "eos_token_id";
    let Some((fields, value)) = first(KEY, config, generation) else {
        let default = default.filter(|eos| in_vocab(*eos, vocab) && !config.is_null(KEY));
        return Ok(default.into_iter().collect());
    };
    let tokens = match value {
        Value::Array(values) if values.len() <= MAX_ENDS => {
            values.iter().map(|value| token(value, vocab)).collect()
        }
        value if is_default(value, default.filter(|eos| !in_vocab(*eos, vocab))) => Some(vec![]),
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

fn first<'a>(
    key: &str,
    config: Fields<'a>,
    generation: Option<Fields<'a>>,
) -> Option<(Fields<'a>, &'a Value)> {
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
