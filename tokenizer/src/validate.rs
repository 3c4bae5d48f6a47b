//! The check of every entry of every table, for those who would rather refuse a bad file than
//! decode nonsense from it.
//!
//! Invariants: linear in the section, apart from a comparison of neighbours; finds everything the
//! accessors would answer with "none" or an empty slice, and every table that is not sorted as its
//! lookups assume.

use super::Tokenizer;
use super::layout::{
    ADDED_KNOWN, CLASS_KNOWN, CLASS_SHIFT, MAX_PATTERN_BYTES, NONE, Table, TokenKind,
};
use super::tables::{Added, WordTable};
use super::{TokenizerError, layout};

/// The first entry that fails, as an error.
fn all<T>(
    table: Table,
    mut entries: impl Iterator<Item = T>,
    good: impl FnMut(T) -> bool,
) -> Result<(), TokenizerError> {
    let mut good = good;
    match entries.position(|entry| !good(entry)) {
        Some(index) => Err(TokenizerError::Entry { table, index: index as u32 }),
        None => Ok(()),
    }
}

/// Whether this is larger than the last one; for sorted tables.
fn rises<T: PartialOrd>() -> impl FnMut(T) -> bool {
    let mut last = None;
    move |value| {
        let good = last.as_ref().is_none_or(|last| *last < value);
        last = Some(value);
        good
    }
}

/// The code point in the key of a run.
const CODE_POINT: u32 = (1 << CLASS_SHIFT) - 1;

impl Tokenizer<'_> {
    /// Checks every entry of every table. Reading is safe without; see `parse`.
    ///
    /// # Errors
    /// [`TokenizerError::Entry`] names the first wrong entry.
    pub fn validate(&self) -> Result<(), TokenizerError> {
        self.validate_tokens()?;
        self.validate_merges()?;
        self.validate_symbols()?;
        self.validate_added(Table::AddedRaw, self.added[0])?;
        self.validate_added(Table::AddedNormalized, self.added[1])?;
        self.validate_classes()?;
        for (table, ids) in
            [(Table::Before, self.before), (Table::After, self.after), (Table::Eos, self.eos)]
        {
            all(table, ids.iter(), |id| self.is_id(id))?;
        }
        Ok(())
    }

    fn is_id(&self, id: u32) -> bool {
        id < self.header.vocab
    }

    fn validate_tokens(&self) -> Result<(), TokenizerError> {
        offsets(Table::TokenOffsets, self.offsets, self.bytes.len())?;
        let word_piece = self.is_word_piece();
        all(Table::TokenKinds, self.kinds.iter(), |&kind| match TokenKind::from_byte(kind) {
            Some(TokenKind::Continuing | TokenKind::Joined) => word_piece,
            Some(TokenKind::Byte) => !word_piece,
            kind => kind.is_some(),
        })
    }

    fn validate_merges(&self) -> Result<(), TokenizerError> {
        let merges = self.merges;
        offsets(Table::MergeStarts, merges.starts, merges.pairs.len())?;
        // Within one left part the right parts rise; a new left part starts over.
        let (mut left, mut next, mut last) = (0, 0, None);
        all(Table::Merges, merges.pairs.iter().enumerate(), |(index, (right, rank))| {
            while index >= next && left < self.vocab_len() {
                next = merges.starts.get(left + 1).unwrap_or(0) as usize;
                left += 1;
                last = None;
            }
            let sorted = last.is_none_or(|last| last < right);
            last = Some(right);
            sorted && self.is_id(right) && (rank as usize) < merges.results.len()
        })?;
        all(Table::MergeResults, merges.results.iter(), |id| self.is_id(id))
    }

    fn validate_symbols(&self) -> Result<(), TokenizerError> {
        all(Table::ByteIds, self.byte_ids.iter(), |id| id == NONE || self.is_id(id))?;
        if self.is_word_piece() {
            return self.validate_words();
        }
        let mut sorted = rises();
        all(Table::Chars, self.chars.iter(), |(c, id)| {
            sorted(c) && char::from_u32(c).is_some() && self.is_id(id)
        })?;
        let mut sorted = rises();
        all(Table::SortedIds, self.sorted_ids.iter(), |id| {
            self.is_id(id) && sorted(self.token_bytes(id))
        })
    }

    /// The tables whose meaning is another in WordPiece.
    fn validate_words(&self) -> Result<(), TokenizerError> {
        let mut sorted = rises();
        all(Table::Chars, self.chars.iter(), |run| {
            sorted(run.0 & CODE_POINT) && self.folds().is_run(run)
        })?;
        let mut sorted = rises();
        let key = |id| (self.kind_of(id) == TokenKind::Continuing, self.token_bytes(id));
        all(Table::SortedIds, self.sorted_ids.iter(), |id| self.is_id(id) && sorted(key(id)))
    }

    fn validate_added(&self, table: Table, added: Added<'_>) -> Result<(), TokenizerError> {
        let mut sorted = rises();
        all(table, 0..added.entries.len(), |index| {
            added.get(index).is_some_and(|entry| {
                let text = core::str::from_utf8(entry.pattern).is_ok()
                    && entry.pattern.len() <= MAX_PATTERN_BYTES;
                let found = entry.pattern.first().is_some_and(|&byte| added.may_start(byte));
                text && found
                    && sorted(entry.pattern)
                    && self.is_id(entry.id)
                    && entry.flags() & !ADDED_KNOWN == 0
            })
        })
    }

    fn validate_classes(&self) -> Result<(), TokenizerError> {
        let mut sorted = rises();
        all(Table::Classes, self.classes.0.iter(), |run| {
            let code_point = run & CODE_POINT;
            let class = (run >> layout::CLASS_SHIFT) as u8;
            sorted(code_point) && code_point <= char::MAX as u32 && class & !CLASS_KNOWN == 0
        })
    }
}

/// Checks offsets that never fall, from 0 to `end`.
fn offsets(table: Table, offsets: WordTable<'_>, end: usize) -> Result<(), TokenizerError> {
    let last_index = offsets.len().saturating_sub(1);
    let mut last = 0;
    all(table, offsets.iter().enumerate(), |(index, offset)| {
        let offset = offset as usize;
        let good = last <= offset
            && offset <= end
            && (index > 0 || offset == 0)
            && (index < last_index || offset == end);
        last = offset;
        good
    })
}
