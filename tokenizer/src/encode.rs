//! From text to tokens: added tokens are cut out of the raw text, then out of the normalized text,
//! what is left is cut into pieces, and each piece is merged (or, in `wordpiece`, looked up).
//!
//! Invariants: nothing is copied but the ids of one piece at a time, in the caller's scratch. A
//! piece that needs more scratch than there is, or a token that finds the output full, does not
//! stop the walk: it goes on to learn how much would have been enough.

use super::added::{Part, Parts};
use super::layout::{Kind, MAX_LIST, NONE, Prefix, SPACE_MARK, Spaces, Words};
use super::split::Splitter;
use super::view::View;
use super::{EncodeError, Tokenizer, bpe};

/// What [`Tokenizer::encode_with`] is to do beside merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Put the model's special tokens before and after the text, as its template says.
    pub add_special: bool,
    /// Take the names of special tokens in the text for these tokens. Without it they are plain
    /// text, which is what a text from outside should be encoded with. Added tokens that are not
    /// special are found in any case.
    pub match_special: bool,
}

/// Symbols that the front character may add to a piece: three, when a space mark falls back to its
/// bytes.
const FRONT_SYMBOLS: usize = SPACE_MARK.len_utf8();

/// Words of scratch that are enough to encode any text of this many bytes, with any tokenizer.
/// Texts of ordinary words need much less: as much as for their longest piece, if the tokenizer
/// cuts texts into pieces.
pub const fn scratch_words(text_bytes: usize) -> usize {
    bpe::scratch_words(text_bytes.saturating_add(FRONT_SYMBOLS))
}

/// Tokens that any text of this many bytes has at most, with any tokenizer and with special tokens.
/// A byte is at most one token, but each segment between added tokens may get a front character of
/// its own; ordinary texts have a token for three or four bytes.
pub const fn max_tokens(text_bytes: usize) -> usize {
    text_bytes.saturating_mul(1 + FRONT_SYMBOLS).saturating_add(2 * MAX_LIST as usize)
}

impl Tokenizer<'_> {
    /// Writes the tokens of `text` into `out` and returns how many they are. Special tokens in the
    /// text are found; `add_special` puts those of the model's template around it. The text must be
    /// in normal form C if [`Self::expects_nfc`] says so.
    ///
    /// The time is O(n log n) in the text's length for every text and every file, but for the
    /// search of added tokens, which may look at
    /// [`MAX_PATTERN_BYTES`](super::layout::MAX_PATTERN_BYTES) bytes at each place of the text.
    ///
    /// # Errors
    /// See [`EncodeError`]. The sizes it gives are exact for this text; the scratch is complained
    /// about first.
    pub fn encode(
        &self,
        text: &str,
        add_special: bool,
        scratch: &mut [u32],
        out: &mut [u32],
    ) -> Result<usize, EncodeError> {
        self.encode_with(text, EncodeOptions { add_special, match_special: true }, scratch, out)
    }

    /// [`Self::encode`] with all options.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_with(
        &self,
        text: &str,
        options: EncodeOptions,
        scratch: &mut [u32],
        out: &mut [u32],
    ) -> Result<usize, EncodeError> {
        let mut encoder = Encoder { tokenizer: self, scratch, out, count: 0, scratch_needed: 0 };
        if options.add_special {
            self.before.iter().for_each(|id| encoder.emit(id));
        }
        encoder.text(View::new(text), options.match_special)?;
        if options.add_special {
            self.after.iter().for_each(|id| encoder.emit(id));
        }
        if encoder.scratch_needed > 0 {
            return Err(EncodeError::ScratchTooSmall { needed: encoder.scratch_needed });
        }
        if encoder.count > encoder.out.len() {
            return Err(EncodeError::OutputTooSmall { needed: encoder.count });
        }
        Ok(encoder.count)
    }
}

/// The state of one call.
pub(super) struct Encoder<'e> {
    pub(super) tokenizer: &'e Tokenizer<'e>,
    pub(super) scratch: &'e mut [u32],
    out: &'e mut [u32],
    pub(super) count: usize,
    /// The most scratch a piece would have needed, if one needed more than there is.
    pub(super) scratch_needed: usize,
}

impl Encoder<'_> {
    pub(super) fn emit(&mut self, id: u32) {
        if let Some(slot) = self.out.get_mut(self.count) {
            *slot = id;
        }
        self.count += 1;
    }

    /// A whole text: finds the added tokens that match raw text.
    fn text(&mut self, view: View<'_>, match_special: bool) -> Result<(), EncodeError> {
        let tokenizer = self.tokenizer;
        for part in Parts::new(view, tokenizer.added[0], tokenizer.classes, match_special) {
            match part {
                Part::Token(id) => self.emit(id),
                Part::Text(range) => self.normalized(view.part(range), match_special)?,
            }
        }
        Ok(())
    }

    /// A part between those: normalizes it and finds the added tokens that match normalized text.
    fn normalized(&mut self, raw: View<'_>, match_special: bool) -> Result<(), EncodeError> {
        let tokenizer = self.tokenizer;
        let header = &tokenizer.header;
        let mut view = raw;
        if header.spaces == Spaces::Normalizer {
            view = view.with_marks();
        }
        if header.prefix == Prefix::Normalizer {
            view = view.with_front(self.front());
        }
        for part in Parts::new(view, tokenizer.added[1], tokenizer.classes, match_special) {
            match part {
                Part::Token(id) => self.emit(id),
                Part::Text(range) => self.segment(view.part(range))?,
            }
        }
        Ok(())
    }

    /// A part between all added tokens: pre-tokenizes it.
    fn segment(&mut self, part: View<'_>) -> Result<(), EncodeError> {
        let tokenizer = self.tokenizer;
        let header = &tokenizer.header;
        let mut view = part;
        if header.spaces == Spaces::PreTokenizer {
            view = view.with_marks();
        }
        let front = self.front();
        let in_place = match header.prefix {
            Prefix::Each => true,
            Prefix::First => view.origin() == 0,
            Prefix::Never | Prefix::Normalizer => false,
        };
        if in_place && view.char_at(0).is_some_and(|(c, _)| c != front) {
            view = view.with_front(front);
        }
        match header.kind {
            Kind::ByteLevel => {
                let splitter = Splitter {
                    classes: tokenizer.classes,
                    pattern: header.pattern,
                    digits: header.digits,
                    max_digits: header.max_digits,
                };
                splitter.split(view, |piece| self.byte_piece(piece))
            }
            kind if kind.is_word_piece() => self.folded_words(view),
            _ => self.words(view),
        }
    }

    fn front(&self) -> char {
        match self.tokenizer.header.kind {
            Kind::ByteLevel => ' ',
            _ => SPACE_MARK,
        }
    }

    /// A SentencePiece segment, cut before space marks as the header says.
    fn words(&mut self, view: View<'_>) -> Result<(), EncodeError> {
        let words = self.tokenizer.header.words;
        let mut from = 0;
        let mut last = None;
        for (at, c) in view.chars() {
            let cut = match words {
                Words::Whole => false,
                Words::EachMark => c == SPACE_MARK,
                Words::MarkRuns => c == SPACE_MARK && last != Some(SPACE_MARK),
            };
            if cut && at > from {
                self.char_piece(view.part(from..at))?;
                from = at;
            }
            last = Some(c);
        }
        if from < view.len() { self.char_piece(view.part(from..view.len())) } else { Ok(()) }
    }

    /// A byte-level piece.
    fn byte_piece(&mut self, piece: View<'_>) -> Result<(), EncodeError> {
        if let Some(id) = self.tokenizer.whole(piece) {
            self.emit(id);
            return Ok(());
        }
        let mut symbols = Symbols::new(self.tokenizer);
        for (at, byte) in piece.bytes().enumerate() {
            match self.tokenizer.byte_id(byte) {
                Some(id) => symbols.known(self.scratch, id),
                None => symbols.unknown(self.scratch, piece.offset(at))?,
            }
        }
        self.merge(symbols);
        Ok(())
    }

    /// A SentencePiece piece.
    fn char_piece(&mut self, piece: View<'_>) -> Result<(), EncodeError> {
        let tokenizer = self.tokenizer;
        let mut symbols = Symbols::new(tokenizer);
        let mut utf8 = [0; 4];
        // A space that became a mark is one byte of the text and must not become three symbols, or
        // `scratch_words` would not be enough. The importer sees to it that such marks have a
        // token.
        let marks = tokenizer.header.spaces != Spaces::Keep;
        let fallback = |c| tokenizer.byte_fallback() && !(marks && c == SPACE_MARK);
        for (at, c) in piece.chars() {
            let bytes = c.encode_utf8(&mut utf8).as_bytes();
            if let Some(id) = tokenizer.chars.find(c as u32) {
                symbols.known(self.scratch, id);
            } else if fallback(c) && bytes.iter().all(|&b| tokenizer.byte_id(b).is_some()) {
                // Bytes do not end a run of unknown characters: the crate puts the unknown token
                // after them.
                bytes
                    .iter()
                    .filter_map(|&b| tokenizer.byte_id(b))
                    .for_each(|id| symbols.push(self.scratch, id));
            } else {
                symbols.unknown(self.scratch, piece.offset(at))?;
            }
        }
        self.merge(symbols);
        Ok(())
    }

    fn merge(&mut self, mut symbols: Symbols) {
        symbols.flush(self.scratch);
        let needed = bpe::scratch_words(symbols.count);
        if needed > self.scratch.len() {
            self.scratch_needed = self.scratch_needed.max(needed);
            return;
        }
        // Once a piece was left out the output is lost: only the sizes of the rest matter.
        if self.scratch_needed > 0 {
            return;
        }
        let (out, count) = (&mut *self.out, &mut self.count);
        bpe::merge(self.tokenizer.merges, symbols.count, self.scratch, |id| {
            if let Some(slot) = out.get_mut(*count) {
                *slot = id;
            }
            *count += 1;
        });
    }
}

/// The initial symbols of a piece, written to the start of the scratch as far as it reaches.
struct Symbols {
    count: usize,
    /// The unknown token, or [`NONE`].
    unk: u32,
    fuse: bool,
    /// An unknown token that is not written yet, as the next unknown character may belong to it.
    pending: bool,
}

impl Symbols {
    fn new(tokenizer: &Tokenizer<'_>) -> Self {
        Self { count: 0, unk: tokenizer.header.unk, fuse: tokenizer.fuse_unk(), pending: false }
    }

    fn push(&mut self, scratch: &mut [u32], id: u32) {
        if let Some(slot) = scratch.get_mut(self.count) {
            *slot = id;
        }
        self.count += 1;
    }

    fn known(&mut self, scratch: &mut [u32], id: u32) {
        self.flush(scratch);
        self.push(scratch, id);
    }

    fn unknown(&mut self, scratch: &mut [u32], at: usize) -> Result<(), EncodeError> {
        if self.unk == NONE {
            return Err(EncodeError::Unknown { at });
        }
        if !self.fuse {
            self.flush(scratch);
        }
        self.pending = true;
        Ok(())
    }

    fn flush(&mut self, scratch: &mut [u32]) {
        if core::mem::take(&mut self.pending) {
            self.push(scratch, self.unk);
        }
    }
}
