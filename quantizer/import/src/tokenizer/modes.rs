//! The modes of a section, and what decoding makes of the strings of tokens.

use kinglet_tokenizer::layout::{Digits, Kind, Pattern, Prefix, Spaces, Strip, TokenKind, Words};

use super::fold::Bert;

/// The modes of the section's header, and what decoding does to token strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pipeline {
    pub(super) kind: Kind,
    pub(super) pattern: Pattern,
    pub(super) max_digits: u8,
    pub(super) digits: Digits,
    pub(super) spaces: Spaces,
    pub(super) prefix: Prefix,
    pub(super) words: Words,
    pub(super) strip: Strip,
    pub(super) nfc: bool,
    /// What only WordPiece has.
    pub(super) word_piece: Option<WordPiece>,
    /// Decoding turns space marks into spaces.
    pub(super) marks_to_spaces: bool,
    /// Decoding turns `<0xXX>` tokens into bytes.
    pub(super) byte_tokens: bool,
    pub(super) before: Vec<u32>,
    pub(super) after: Vec<u32>,
}

impl Pipeline {
    /// One that changes nothing.
    pub(super) fn plain(kind: Kind) -> Self {
        Self {
            kind,
            pattern: Pattern::Whole,
            max_digits: 1,
            digits: Digits::Joined,
            spaces: Spaces::Keep,
            prefix: Prefix::Never,
            words: Words::Whole,
            strip: Strip::Nothing,
            nfc: false,
            word_piece: None,
            marks_to_spaces: false,
            byte_tokens: false,
            before: Vec::new(),
            after: Vec::new(),
        }
    }
}

/// What the section depends on beside the vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WordPiece {
    pub(super) bert: Bert,
    pub(super) prefix: String,
    /// Whether decoding takes spaces before punctuation away.
    pub(super) cleanup: bool,
}

/// What stands right after the token before it when decoding cleans up.
pub(super) const CLOSE: [&str; 9] = [".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"];

impl WordPiece {
    /// What a token decodes to, and how it stands to the one before it.
    pub(super) fn decoded(&self, token: &str, kind: TokenKind) -> (TokenKind, Vec<u8>) {
        if kind == TokenKind::Special {
            return (kind, token.into());
        }
        match token.strip_prefix(&self.prefix) {
            Some(rest) => (TokenKind::Continuing, rest.into()),
            None if self.cleanup && CLOSE.iter().any(|close| token.starts_with(close)) => {
                (TokenKind::Joined, token.into())
            }
            None => (kind, token.into()),
        }
    }
}
