//! From tokens to text, one token at a time, never a part of a character.
//!
//! Invariants: at most three bytes wait for the rest of their character; what is handed out is
//! always valid UTF-8, and the pieces of a whole stream, joined, are what `String::from_utf8_lossy`
//! makes of the joined bytes: each maximal incomplete or invalid part becomes one U+FFFD.

use super::Tokenizer;
use super::layout::{Strip, TokenKind};

/// The state between tokens of one text.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    /// The start of a character whose rest has not come.
    waiting: Bytes,
    /// The character that the last push completed, kept here for its caller to borrow.
    completed: Bytes,
    strip: Strip,
}

/// Up to four bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Bytes {
    bytes: [u8; 4],
    len: u8,
}

impl Bytes {
    fn of(bytes: &[u8]) -> Self {
        let mut all = Self::default();
        bytes.iter().for_each(|&byte| all.push(byte));
        all
    }

    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(usize::from(self.len)) {
            *slot = byte;
            self.len += 1;
        }
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

const REPLACEMENT: &str = "\u{fffd}";

impl Detokenizer {
    /// Decodes a text from its start: what the tokenizer puts before a text is taken away again.
    pub fn new(tokenizer: &Tokenizer<'_>) -> Self {
        Self { strip: tokenizer.header().strip, ..Self::continuing() }
    }

    /// Decodes tokens that continue a text, such as generated ones after a prompt: nothing is taken
    /// away.
    pub const fn continuing() -> Self {
        let none = Bytes { bytes: [0; 4], len: 0 };
        Self { waiting: none, completed: none, strip: Strip::Nothing }
    }

    /// The text that becomes certain with the next token. Special tokens, unused ids and ids
    /// outside the vocabulary have no text, and do not complete or break a character.
    pub fn push<'s>(&'s mut self, tokenizer: &Tokenizer<'s>, id: u32) -> Pieces<'s> {
        let kind = tokenizer.kind_of(id);
        if tokenizer.header().kind.is_word_piece() {
            return self.push_word(tokenizer.token_bytes(id), kind);
        }
        if kind != TokenKind::Normal && kind != TokenKind::Byte {
            return Pieces::default();
        }
        let bytes = tokenizer.token_bytes(id);
        match self.strip {
            Strip::FirstToken => {
                self.strip = Strip::Nothing;
                let mut pieces = self.push_bytes(bytes);
                pieces.without_spaces = kind == TokenKind::Normal;
                pieces
            }
            Strip::OneSpace if !bytes.is_empty() => {
                self.strip = Strip::Nothing;
                self.push_bytes(bytes.strip_prefix(b" ").unwrap_or(bytes))
            }
            Strip::OneSpace | Strip::Nothing => self.push_bytes(bytes),
        }
    }

    /// The next token of WordPiece: those that start a word bring their space, but for the first of
    /// a text.
    fn push_word<'s>(&'s mut self, bytes: &'s [u8], kind: TokenKind) -> Pieces<'s> {
        if matches!(kind, TokenKind::Special | TokenKind::Unused | TokenKind::Byte) {
            return Pieces::default();
        }
        let first = core::mem::replace(&mut self.strip, Strip::Nothing) != Strip::Nothing;
        let mut pieces = self.push_bytes(bytes);
        if kind == TokenKind::Normal && !first && pieces.completed.is_empty() {
            pieces.completed = " ";
        }
        pieces
    }

    /// The text that becomes certain with the next bytes, whatever token they are of.
    pub fn push_bytes<'s>(&'s mut self, bytes: &'s [u8]) -> Pieces<'s> {
        let mut rest = bytes;
        self.completed = Bytes::default();
        while let Some((&byte, after)) = rest.split_first().filter(|_| self.waiting.len > 0) {
            let mut longer = self.waiting;
            longer.push(byte);
            match core::str::from_utf8(longer.as_slice()) {
                Ok(_) => {
                    (self.completed, self.waiting) = (longer, Bytes::default());
                    rest = after;
                }
                Err(error) if error.error_len().is_none() => {
                    self.waiting = longer;
                    rest = after;
                }
                // The character breaks off before this byte, which begins anew.
                Err(_) => {
                    self.completed = Bytes::of(REPLACEMENT.as_bytes());
                    self.waiting = Bytes::default();
                }
            }
        }
        let (certain, open) = rest.split_at(rest.len() - open_end(rest));
        if !open.is_empty() {
            self.waiting = Bytes::of(open);
        }
        let completed = core::str::from_utf8(self.completed.as_slice()).unwrap_or(REPLACEMENT);
        Pieces { completed, text: "", broken: false, rest: certain, without_spaces: false }
    }

    /// Ends the text: U+FFFD if a character was left incomplete. The next token starts a new text,
    /// of which nothing is taken away.
    pub fn finish(&mut self) -> Option<&'static str> {
        let open = core::mem::take(&mut self.waiting);
        (open.len > 0).then_some(REPLACEMENT)
    }
}

/// Bytes at the end that begin a character without completing it: at most three.
fn open_end(bytes: &[u8]) -> usize {
    let open = |&len: &usize| {
        let end = bytes.len().checked_sub(len).and_then(|from| bytes.get(from..)).unwrap_or(&[]);
        matches!(core::str::from_utf8(end), Err(e) if e.valid_up_to() == 0 && e.error_len().is_none())
    };
    (1..=3).find(open).unwrap_or(0)
}

/// The pieces of text that one token makes certain, each a valid string.
#[derive(Debug, Clone, Default)]
pub struct Pieces<'s> {
    completed: &'s str,
    text: &'s str,
    broken: bool,
    rest: &'s [u8],
    without_spaces: bool,
}

impl<'s> Iterator for Pieces<'s> {
    type Item = &'s str;

    fn next(&mut self) -> Option<&'s str> {
        if !self.completed.is_empty() {
            return Some(core::mem::take(&mut self.completed));
        }
        loop {
            if !self.text.is_empty() {
                let whole = core::mem::take(&mut self.text);
                let (piece, rest) = match whole.split_once(' ').filter(|_| self.without_spaces) {
                    Some(split) => split,
                    None => (whole, ""),
                };
                self.text = rest;
                if !piece.is_empty() {
                    return Some(piece);
                }
                continue;
            }
            if core::mem::take(&mut self.broken) {
                return Some(REPLACEMENT);
            }
            let chunk = self.rest.utf8_chunks().next()?;
            let taken = chunk.valid().len() + chunk.invalid().len();
            self.text = chunk.valid();
            self.broken = !chunk.invalid().is_empty();
            self.rest = self.rest.get(taken..).unwrap_or(&[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;
    use std::vec::Vec;

    fn streamed(parts: &[&[u8]]) -> String {
        let mut detokenizer = Detokenizer::continuing();
        let mut text = String::new();
        for part in parts {
            detokenizer.push_bytes(part).for_each(|piece| text.push_str(piece));
        }
        text.push_str(detokenizer.finish().unwrap_or(""));
        text
    }

    #[test]
    fn any_cut_of_any_bytes_is_the_lossy_text() {
        let samples: [&[u8]; 6] = [
            "aé\u{20ac}\u{1F600}z".as_bytes(),
            b"\xf0\x9f\x98",
            b"\xe2\x82\xe2\x82\xac\xc3",
            b"\x80a\xff\xc0\xaf\xed\xa0\x80",
            b"\xf4\x90\x80\x80\xf0\x9f\xc3\xa9",
            b"",
        ];
        for bytes in samples {
            let whole = String::from_utf8_lossy(bytes);
            for step in 1..=bytes.len().max(1) {
                assert_eq!(streamed(&bytes.chunks(step).collect::<Vec<_>>()), whole);
            }
        }
    }

    #[test]
    fn a_character_is_never_split() {
        let mut detokenizer = Detokenizer::continuing();
        assert_eq!(detokenizer.push_bytes(b"a\xf0\x9f").next(), Some("a"));
        assert_eq!(detokenizer.push_bytes(b"\x98").next(), None);
        let mut pieces = detokenizer.push_bytes(b"\x80!");
        assert_eq!(pieces.next(), Some("\u{1F600}"));
        assert_eq!(pieces.next(), Some("!"));
        assert_eq!(pieces.next(), None);
        assert_eq!(detokenizer.finish(), None);
    }
}
