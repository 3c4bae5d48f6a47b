//! The vocabulary: the model's tokens and the added tokens, with the ids the `tokenizers` crate
//! gives them.

use std::collections::{HashMap, HashSet};

use kinglet_tokenizer::layout::{Kind, MAX_VOCAB, TokenKind};

use super::error::{TokenizerImportError as Error, short};
use super::json::AddedToken;
use super::modes::Pipeline;

const ADDED: &str = "tokenizer.json: added_tokens";

/// All tokens.
pub(super) struct Vocabulary {
    /// The model's own tokens.
    pub(super) model: HashMap<String, u32>,
    /// Added tokens in the order in which the crate prefers them: special ones first.
    pub(super) added: Vec<AddedToken>,
    /// Every token by id; `None` for ids that no token has.
    pub(super) strings: Vec<Option<String>>,
    special: HashSet<u32>,
}

impl Vocabulary {
    /// Joins the model's tokens with the added ones of `tokenizer.json`, which have the ids that
    /// their places give them.
    pub(super) fn new(model: HashMap<String, u32>, added: Vec<AddedToken>) -> Result<Self, Error> {
        let mut next = model.len() as u32;
        let mut seen = HashSet::new();
        for token in
            added.iter().filter(|token| !token.content.is_empty() && seen.insert(&token.content))
        {
            let id = model.get(&token.content).copied().unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            if id != token.id {
                let problem = format!(
                    "{:?} is listed with id {}, but its place gives it id {id}; save the tokenizer \
                     again with the tokenizers library",
                    short(&token.content),
                    token.id
                );
                return Err(Error::bad(ADDED, problem));
            }
        }
        Self::with_ids(model, added)
    }

    /// Joins the model's tokens with the added ones, by the ids they say.
    pub(super) fn with_ids(
        model: HashMap<String, u32>,
        added: Vec<AddedToken>,
    ) -> Result<Self, Error> {
        let mut this =
            Self { added: Vec::new(), strings: Vec::new(), special: HashSet::new(), model };
        for (token, &id) in &this.model {
            place(&mut this.strings, "tokenizer.json: model.vocab", id, token)?;
        }
        let mut seen = HashSet::new();
        for token in added.into_iter().filter(|token| !token.content.is_empty()) {
            if !seen.insert(token.content.clone()) {
                return Err(Error::bad(
                    ADDED,
                    format!("{:?} is listed twice; remove one", short(&token.content)),
                ));
            }
            place(&mut this.strings, ADDED, token.id, &token.content)?;
            if token.special {
                this.special.insert(token.id);
            }
            this.added.push(token);
        }
        this.added.sort_by_key(|token| !token.special);
        if this.strings.is_empty() {
            return Err(Error::bad("tokenizer.json: model.vocab", "the vocabulary is empty"));
        }
        Ok(this)
    }

    /// The id of a token by its string, added tokens included.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        let added = || self.added.iter().find(|added| added.content == token).map(|added| added.id);
        self.model.get(token).copied().or_else(added)
    }

    /// What an id is and what it decodes to.
    pub(super) fn decoded(&self, id: usize, pipeline: &Pipeline) -> (TokenKind, Vec<u8>) {
        let Some(Some(token)) = self.strings.get(id) else {
            return (TokenKind::Unused, Vec::new());
        };
        let special = self.special.contains(&(id as u32));
        let kind = if special { TokenKind::Special } else { TokenKind::Normal };
        if let Some(word_piece) = &pipeline.word_piece {
            return word_piece.decoded(token, kind);
        }
        if pipeline.kind == Kind::ByteLevel {
            return (kind, raw_bytes(token).unwrap_or_else(|| token.clone().into_bytes()));
        }
        match byte_token(token).filter(|_| pipeline.byte_tokens) {
            Some(byte) if !special => (TokenKind::Byte, vec![byte]),
            _ if pipeline.marks_to_spaces => (kind, token.replace('\u{2581}', " ").into_bytes()),
            _ => (kind, token.clone().into_bytes()),
        }
    }
}

/// Notes the string of an id.
fn place(
    strings: &mut Vec<Option<String>>,
    field: &str,
    id: u32,
    token: &str,
) -> Result<(), Error> {
    if id >= MAX_VOCAB {
        return Err(Error::unsupported(
            field,
            format!("{:?} with id {id}", short(token)),
            &format!("ids below {MAX_VOCAB}"),
        ));
    }
    let index = id as usize;
    if strings.len() <= index {
        strings.resize(index + 1, None);
    }
    match &strings[index] {
        Some(other) if other != token => {
            let problem = format!(
                "{:?} and {:?} both have id {id}; give each its own",
                short(other),
                short(token)
            );
            Err(Error::bad(field, problem))
        }
        _ => {
            strings[index] = Some(token.into());
            Ok(())
        }
    }
}

/// The byte that a token such as `<0x0A>` decodes to, read as the crate reads it.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>').filter(|_| token.len() == 6)?;
    u8::from_str_radix(digits, 16).ok()
}

/// The character that stands for a byte in byte-level vocabularies: printable Latin-1 stands for
/// itself, the other 68 bytes follow from U+0100 on, in order.
pub(super) fn byte_char(byte: u8) -> char {
    let from_100 =
        |n: u8| char::from_u32(0x100 + u32::from(n)).unwrap_or(char::REPLACEMENT_CHARACTER);
    match byte {
        0..=0x20 => from_100(byte),
        0x7f..=0xa0 => from_100(byte - 0x7f + 33),
        0xad => from_100(67),
        printable => char::from(printable),
    }
}

/// The byte that a character of that alphabet stands for.
fn char_byte(c: char) -> Option<u8> {
    match u32::from(c) {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(c).ok(),
        n @ 0x100..=0x120 => Some((n - 0x100) as u8),
        n @ 0x121..=0x142 => Some((n - 0x121) as u8 + 0x7f),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The bytes that a string of the byte-level alphabet stands for; `None` if a character is not of
/// that alphabet.
pub(super) fn raw_bytes(token: &str) -> Option<Vec<u8>> {
    token.chars().map(char_byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_gpt2s() {
        assert_eq!(byte_char(b' '), '\u{120}');
        assert_eq!(byte_char(b'\n'), '\u{10a}');
        assert_eq!(byte_char(0xad), '\u{143}');
        assert_eq!(raw_bytes("\u{120}a\u{e9}"), Some(vec![b' ', b'a', 0xe9]));
        assert_eq!(raw_bytes("a b"), None);
        for byte in 0..=255 {
            assert_eq!(char_byte(byte_char(byte)), Some(byte));
        }
        assert_eq!(char_byte('\u{144}'), None);
    }

    #[test]
    fn byte_tokens_are_six_characters() {
        assert_eq!(byte_token("<0x0A>"), Some(10));
        assert_eq!(byte_token("<0xff>"), Some(255));
        assert_eq!(byte_token("<0x0>"), None);
        assert_eq!(byte_token("<0x\u{e9}>"), None);
    }
}
