//! Text to tokens on a host, where memory can be had.

use kinglet_tokenizer::{EncodeError, Tokenizer, max_tokens, scratch_words};

use crate::tokenizer::normalized;

/// Tokens of `text`; `special` adds what the model expects around a text. Normalizes first where
/// the tokenizer expects it.
///
/// # Errors
///
/// When the vocabulary has no token for a part of the text.
pub fn encode(
    tokenizer: &Tokenizer<'_>,
    text: &str,
    special: bool,
) -> Result<Vec<u32>, EncodeError> {
    let text = normalized(tokenizer, text);
    let mut scratch = vec![0; scratch_words(text.len())];
    let mut tokens = vec![0; max_tokens(text.len())];
    let n = tokenizer.encode(&text, special, &mut scratch, &mut tokens)?;
    tokens.truncate(n);
    Ok(tokens)
}
