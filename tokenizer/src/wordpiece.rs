//! WordPiece: a text is folded character by character (small letters without accents, nothing
//! unprintable), cut into words at whitespace and around punctuation, and each word is covered from
//! its front by the longest tokens there are.
//!
//! The folds are runs of characters that change alike, made by the importer, so no Unicode table is
//! part of the code.
//!
//! Invariants: the scratch holds the characters of one word, never more than the longest word the
//! header allows (a longer one is unknown); a character folds to at most as many characters as it
//! has bytes, so a text's bytes are enough scratch; a word of n characters takes at most n tokens,
//! whether or not it turns out to be unknown.

use super::encode::Encoder;
use super::layout::{CLASS_ALONE, CLASS_SHIFT, Fold, NONE, TokenKind};
use super::tables::{Classes, PairTable};
use super::view::View;
use super::{EncodeError, Tokenizer};

/// First of the Hangul syllables, and how many there are.
const HANGUL: (u32, u32) = (0xac00, 11_172);

/// What characters become.
#[derive(Clone, Copy)]
pub(super) struct Folds<'a> {
    /// Runs by their first character.
    runs: PairTable<'a>,
    texts: &'a [u8],
    classes: Classes<'a>,
}

impl<'a> Folds<'a> {
    /// Calls `each` for what a character becomes, which may be nothing.
    fn fold<E>(self, c: char, mut each: impl FnMut(char) -> Result<(), E>) -> Result<(), E> {
        let Some((key, value)) = self.runs.last_up_to(c as u32, CLASS_SHIFT) else {
            return each(c);
        };
        let added = || char::from_u32((c as u32).wrapping_add(value)).unwrap_or(c);
        match Fold::from_byte((key >> CLASS_SHIFT) as u8) {
            Some(Fold::Add) => each(added()),
            Some(Fold::AddToEachSecond) if (key ^ c as u32) & 1 == 0 => each(added()),
            Some(Fold::Become) => each(char::from_u32(value).unwrap_or(c)),
            Some(Fold::Text) => {
                self.text(value).unwrap_or("").chars().take(c.len_utf8()).try_for_each(each)
            }
            Some(Fold::Hangul) => hangul(c).into_iter().flatten().try_for_each(each),
            Some(Fold::AddToEachSecond) | None => each(c),
        }
    }

    /// A text among those that the runs share with the patterns of added tokens.
    fn text(self, value: u32) -> Option<&'a str> {
        let at = (value & 0x00ff_ffff) as usize;
        let bytes = self.texts.get(at..)?.get(..(value >> 24) as usize)?;
        core::str::from_utf8(bytes).ok()
    }

    /// Whether a character is a word of its own, after folding.
    fn alone(self, c: char) -> bool {
        c.is_ascii_punctuation() || self.classes.of(c) & CLASS_ALONE != 0
    }

    /// Whether a run is one that [`Self::fold`] can follow.
    pub(super) fn is_run(self, (key, value): (u32, u32)) -> bool {
        let first = key & ((1 << CLASS_SHIFT) - 1);
        let value_is_good = match Fold::from_byte((key >> CLASS_SHIFT) as u8) {
            Some(Fold::Add | Fold::AddToEachSecond) => {
                char::from_u32(first.wrapping_add(value)).is_some()
            }
            Some(Fold::Become) => char::from_u32(value).is_some(),
            Some(Fold::Text) => self.text(value).is_some(),
            Some(Fold::Hangul) => first == HANGUL.0,
            None => false,
        };
        first <= char::MAX as u32 && value_is_good
    }
}

/// The letters of a Hangul syllable; any other character by itself.
fn hangul(c: char) -> [Option<char>; 3] {
    let Some(at) = (c as u32).checked_sub(HANGUL.0).filter(|&at| at < HANGUL.1) else {
        return [Some(c), None, None];
    };
    let last = Some(at % 28).filter(|&last| last > 0);
    [Some(0x1100 + at / 588), Some(0x1161 + at % 588 / 28), last.map(|last| 0x11a7 + last)]
        .map(|letter| letter.and_then(char::from_u32))
}

impl<'a> Tokenizer<'a> {
    pub(super) const fn is_word_piece(&self) -> bool {
        self.header.kind.is_word_piece()
    }

    pub(super) fn folds(&self) -> Folds<'a> {
        Folds { runs: self.chars, texts: self.added[0].bytes, classes: self.classes }
    }

    /// The longest token at the front of `word`, and how many characters it covers.
    fn longest(&self, word: &[u32], continuing: bool) -> Option<(u32, usize)> {
        let ids = self.sorted_ids;
        let partition = |lo, hi, before: &dyn Fn(u32) -> bool| {
            let (mut lo, mut hi): (usize, usize) = (lo, hi);
            while lo < hi {
                let middle = lo + (hi - lo) / 2;
                if ids.get(middle).is_some_and(before) { lo = middle + 1 } else { hi = middle }
            }
            lo
        };
        let starts = partition(0, ids.len(), &|id| self.kind_of(id) != TokenKind::Continuing);
        let (mut lo, mut hi) = if continuing { (starts, ids.len()) } else { (0, starts) };
        let (mut depth, mut best, mut utf8) = (0, None, [0; 4]);
        // Tokens lo..hi share the first `depth` bytes, which are those of the word.
        for (at, &c) in word.iter().enumerate() {
            let c = char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER);
            for &byte in c.encode_utf8(&mut utf8).as_bytes() {
                let byte_of = |id| self.token_bytes(id).get(depth).copied();
                lo = partition(lo, hi, &|id| byte_of(id).is_none_or(|b| b < byte));
                hi = partition(lo, hi, &|id| byte_of(id) == Some(byte));
                depth += 1;
            }
            if lo == hi {
                break;
            }
            // The shortest of the tokens that share a prefix comes first.
            if let Some(id) = ids.get(lo).filter(|&id| self.token_bytes(id).len() == depth) {
                best = Some((id, at + 1));
            }
        }
        best
    }
}

/// The characters of a word, of which the scratch has as many as it holds.
#[derive(Default)]
struct Word {
    count: usize,
    /// Where in the text it starts.
    at: usize,
}

impl Encoder<'_> {
    /// A segment: folds it and cuts it into words.
    pub(super) fn folded_words(&mut self, view: View<'_>) -> Result<(), EncodeError> {
        let folds = self.tokenizer.folds();
        let mut word = Word::default();
        for (at, c) in view.chars() {
            folds.fold(c, |folded| {
                let (space, alone) = (folded.is_whitespace(), folds.alone(folded));
                if space || alone {
                    self.end_word(&mut word)?;
                }
                if space {
                    return Ok(());
                }
                if word.count == 0 {
                    word.at = view.offset(at);
                }
                if let Some(slot) = self.scratch.get_mut(word.count) {
                    *slot = folded as u32;
                }
                word.count += 1;
                if alone { self.end_word(&mut word) } else { Ok(()) }
            })?;
        }
        self.end_word(&mut word)
    }

    /// The tokens of the word, or the unknown token; then there is no word.
    fn end_word(&mut self, word: &mut Word) -> Result<(), EncodeError> {
        let Word { count, at } = core::mem::take(word);
        if count > usize::from(self.tokenizer.header.max_digits) {
            return self.unknown_word(at);
        }
        if count > self.scratch.len() {
            self.scratch_needed = self.scratch_needed.max(count);
            return Ok(());
        }
        let (start, mut from) = (self.count, 0);
        while from < count {
            let rest = self.scratch.get(from..count).unwrap_or(&[]);
            let Some((id, taken)) = self.tokenizer.longest(rest, from > 0) else {
                self.count = start;
                return self.unknown_word(at);
            };
            self.emit(id);
            from += taken;
        }
        Ok(())
    }

    fn unknown_word(&mut self, at: usize) -> Result<(), EncodeError> {
        let unk = self.tokenizer.header.unk;
        if unk == NONE {
            return Err(EncodeError::Unknown { at });
        }
        self.emit(unk);
        Ok(())
    }
}
