//! Text to tokens on a host, where memory can be had.

use kinglet::tokenizer::{EncodeError, Tokenizer};
use unicode_normalization::UnicodeNormalization;

/// Tokens of `text`; `special` adds what the model expects around a text. Normalizes first where the tokenizer
/// expects it.
pub fn encode(tokenizer: &Tokenizer<'_>, text: &str, special: bool) -> Result<Vec<u32>, EncodeError> {
    let normalized: String;
    let text = if tokenizer.expects_nfc() {
        normalized = text.nfc().collect();
        &normalized
    } else {
        text
    };
    let mut scratch = vec![0; kinglet::tokenizer::scratch_words(text.len())];
    // A token for each byte, and a few around them.
    let mut tokens = vec![0; text.len() + 16];
    let n = tokenizer.encode(text, special, &mut scratch, &mut tokens)?;
    tokens.truncate(n);
    Ok(tokens)
}
