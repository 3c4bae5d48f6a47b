//! The tables of WordPiece: tokens in the order they are looked up in, and what characters become.

use std::collections::HashSet;

use kinglet_tokenizer::layout::Table;

use super::error::{TokenizerImportError as Error, short};
use super::fold;
use super::modes::{CLOSE, WordPiece};
use super::tables::Tables;
use super::vocab::Vocabulary;

const VOCAB: &str = "tokenizer.json: model.vocab";

/// The tokens in the order they are looked up in, and what characters become. Returns the
/// characters that are words of their own.
pub(super) fn tables(
    of: &WordPiece,
    vocab: &Vocabulary,
    tables: &mut Tables,
) -> Result<Vec<bool>, Error> {
    let mut ids = Vec::new();
    let mut alphabet = HashSet::new();
    for (token, &id) in &vocab.model {
        let rest = token.strip_prefix(&of.prefix);
        let text = rest.unwrap_or(token);
        alphabet.extend(text.chars());
        ids.push((rest.is_some(), text, id));
    }
    for token in vocab.strings.iter().flatten() {
        let changed = of.cleanup && token.contains(' ') && {
            let spaced = format!(" {token}");
            let kept =
                if CLOSE.iter().any(|close| token.starts_with(close)) { token } else { &spaced };
            cleanup(&spaced) != *kept || cleanup(token) != *token
        };
        if changed {
            let found = format!("{:?}, which decoder.cleanup changes", short(token));
            return Err(Error::unsupported(VOCAB, found, "tokens without spaces"));
        }
    }
    let special =
        vocab.added.iter().find(|token| token.special && token.content.starts_with(&of.prefix));
    if let Some(token) = special {
        let found = format!("the special {:?}", short(&token.content));
        return Err(Error::unsupported(
            "tokenizer.json: added_tokens",
            found,
            "special tokens without the prefix",
        ));
    }
    ids.sort_unstable();
    tables.put(Table::SortedIds, ids.into_iter().map(|(_, _, id)| id));
    let alone = of.bert.alone();
    let patterns = &mut tables.0[Table::AddedBytes as usize];
    let runs = fold::runs(of.bert, &alone, &alphabet, patterns.len()).ok_or_else(|| {
        Error::unsupported("tokenizer.json: added_tokens", "too long", "16 MB in all")
    })?;
    patterns.extend(runs.texts);
    tables.put(Table::Chars, runs.runs.into_iter().flat_map(|(key, value)| [key, value]));
    Ok(alone)
}

/// The crate's `cleanup` of one token.
fn cleanup(token: &str) -> String {
    let mut text = token.to_owned();
    for (from, to) in [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ] {
        text = text.replace(from, to);
    }
    text
}
