//! Tokenizers that are executed in place: the section of the model's file is read where it lies,
//! and nothing is allocated.
//!
//! [`Tokenizer::parse`] checks the header and the extents of the tables, in time that does not
//! depend on the section's size. Every accessor then checks what it reads: hostile bytes give
//! nonsense tokens, never a panic and never more work than the text and the tables' lengths allow.
//! [`Tokenizer::validate`] checks every entry.
//!
//! | module | what it knows |
//! |---|---|
//! | `layout`, `modes`, `extent` | the section byte for byte, shared with the writer |
//! | `tables` | checked access to the tables |
//! | `view` | a text with a character in front and spaces as marks, without a copy |
//! | `added` | finding added tokens |
//! | `split` | cutting byte-level text into pieces |
//! | `bpe` | merging |
//! | `wordpiece` | words of WordPiece, folded and looked up |
//! | `encode`, `detokenize` | the two directions, built from these |

#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs, clippy::missing_errors_doc, clippy::missing_panics_doc)]

#[cfg(test)]
extern crate std;

mod added;
mod bpe;
mod detokenize;
mod encode;
mod error;
mod extent;
pub mod layout;
mod modes;
mod split;
mod tables;
mod validate;
mod view;
mod wordpiece;

pub use detokenize::{Detokenizer, Pieces};
pub use encode::{EncodeOptions, max_tokens, scratch_words};
pub use error::{EncodeError, Field, TokenizerError};
pub use layout::TokenKind;

use layout::{
    FLAG_BYTE_FALLBACK, FLAG_EXPECTS_NFC, FLAG_FUSE_UNK, FLAG_IGNORE_MERGES, Header, Kind, NONE,
    Table,
};
use tables::{Added, Classes, Merges, PairTable, WordTable, bytes_of};

/// A tokenizer in the bytes of a file.
///
/// ```
/// use kinglet_tokenizer::{Detokenizer, Tokenizer, max_tokens, scratch_words};
///
/// # let model = kinglet::Model::open(&kinglet_fixtures::STORYTELLER.0)?;
/// # let section = model.section(kinglet::format::layout::section::TOKENIZER);
/// let tokenizer = Tokenizer::parse(section)?;
/// let text = "Once upon a time";
/// // Firmware has fixed arrays, for the longest text that it takes.
/// let mut scratch = vec![0; scratch_words(text.len())];
/// let mut tokens = vec![0; max_tokens(text.len())];
/// let count = tokenizer.encode(text, true, &mut scratch, &mut tokens)?;
///
/// let mut detokenizer = Detokenizer::new(&tokenizer);
/// let mut decoded = String::new();
/// for &token in &tokens[..count] {
///     detokenizer.push(&tokenizer, token).for_each(|piece| decoded.push_str(piece));
/// }
/// decoded.push_str(detokenizer.finish().unwrap_or(""));
/// assert_eq!(decoded, text);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer<'a> {
    header: Header,
    offsets: WordTable<'a>,
    bytes: &'a [u8],
    kinds: &'a [u8],
    merges: Merges<'a>,
    byte_ids: WordTable<'a>,
    chars: PairTable<'a>,
    sorted_ids: WordTable<'a>,
    /// Matched in the raw and in the normalized text.
    added: [Added<'a>; 2],
    classes: Classes<'a>,
    before: WordTable<'a>,
    after: WordTable<'a>,
    eos: WordTable<'a>,
}

impl core::fmt::Debug for Tokenizer<'_> {
    /// The header alone: the tables may be megabytes.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Tokenizer").field("header", &self.header).finish_non_exhaustive()
    }
}

impl<'a> Tokenizer<'a> {
    /// Reads a tokenizer section, at any alignment. Bytes after the section's end are ignored.
    ///
    /// # Errors
    /// [`TokenizerError`] if the header is not one or a table lies outside the section. Table
    /// contents are not looked at: a wrong one makes wrong tokens, or is found by
    /// [`Self::validate`].
    pub fn parse(section: &'a [u8]) -> Result<Self, TokenizerError> {
        let header = Header::parse(section)?;
        let table = |table| bytes_of(section, &header, table);
        let words = |which| WordTable::new(table(which));
        let added = |which, set: usize| Added {
            first_bytes: header.first_bytes.get(set).copied().unwrap_or_default(),
            entries: table(which).as_chunks().0,
            bytes: table(Table::AddedBytes),
        };
        Ok(Self {
            header,
            offsets: words(Table::TokenOffsets),
            bytes: table(Table::TokenBytes),
            kinds: table(Table::TokenKinds),
            merges: Merges {
                starts: words(Table::MergeStarts),
                pairs: PairTable::new(table(Table::Merges)),
                results: words(Table::MergeResults),
            },
            byte_ids: words(Table::ByteIds),
            chars: PairTable::new(table(Table::Chars)),
            sorted_ids: words(Table::SortedIds),
            added: [added(Table::AddedRaw, 0), added(Table::AddedNormalized, 1)],
            classes: Classes(words(Table::Classes)),
            before: words(Table::Before),
            after: words(Table::After),
            eos: words(Table::Eos),
        })
    }

    /// The header as stored.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Ids are below this number.
    pub const fn vocab_len(&self) -> usize {
        self.header.vocab as usize
    }

    /// What a token decodes to: not always valid UTF-8 by itself. Empty for ids without a token.
    pub fn token_bytes(&self, id: u32) -> &'a [u8] {
        let range = self.offsets.bounds(id as usize);
        range.and_then(|(from, to)| self.bytes.get(from..to)).unwrap_or(&[])
    }

    /// What a token is; [`TokenKind::Unused`] for ids outside the vocabulary.
    pub fn kind_of(&self, id: u32) -> TokenKind {
        let kind = self.kinds.get(id as usize).and_then(|&byte| TokenKind::from_byte(byte));
        kind.unwrap_or(TokenKind::Unused)
    }

    /// Whether a token is a control token.
    pub fn is_special(&self, id: u32) -> bool {
        self.kind_of(id) == TokenKind::Special
    }

    /// The token that begins a text, if there is one. Whether [`Self::encode`] adds it is up to
    /// [`Self::before`].
    pub fn bos(&self) -> Option<u32> {
        Some(self.header.bos).filter(|&id| id != NONE)
    }

    /// The token for unknown characters.
    pub fn unk(&self) -> Option<u32> {
        Some(self.header.unk).filter(|&id| id != NONE)
    }

    /// The token that pads a batch.
    pub fn pad(&self) -> Option<u32> {
        Some(self.header.pad).filter(|&id| id != NONE)
    }

    /// The tokens that end a generation.
    pub fn eos(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        self.eos.iter()
    }

    /// Whether a token ends a generation.
    pub fn is_eos(&self, id: u32) -> bool {
        self.eos.iter().any(|eos| eos == id)
    }

    /// The tokens that special encoding puts before a text.
    pub fn before(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        self.before.iter()
    }

    /// The tokens that special encoding puts after a text.
    pub fn after(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        self.after.iter()
    }

    /// Whether texts must be brought into Unicode normal form C before they are encoded.
    pub const fn expects_nfc(&self) -> bool {
        self.header.flags & FLAG_EXPECTS_NFC != 0
    }

    /// The id of an added token, by its name as it stands in a text, such as `<|im_end|>`.
    pub fn added_token(&self, name: &str) -> Option<u32> {
        let found = self.added.iter().find_map(|set| added::exact(*set, name.as_bytes()));
        found.map(|entry| entry.id)
    }

    const fn byte_fallback(&self) -> bool {
        self.header.flags & FLAG_BYTE_FALLBACK != 0
    }

    const fn fuse_unk(&self) -> bool {
        self.header.flags & FLAG_FUSE_UNK != 0
    }

    /// The token of a single byte.
    fn byte_id(&self, byte: u8) -> Option<u32> {
        self.byte_ids.get(usize::from(byte)).filter(|&id| id != NONE)
    }

    /// The token that is a whole piece, if such tokens go before merges.
    fn whole(&self, piece: view::View<'_>) -> Option<u32> {
        if self.header.flags & FLAG_IGNORE_MERGES == 0 || self.header.kind != Kind::ByteLevel {
            return None;
        }
        let (mut lo, mut hi) = (0, self.sorted_ids.len());
        while lo < hi {
            let middle = lo + (hi - lo) / 2;
            let id = self.sorted_ids.get(middle)?;
            match self.token_bytes(id).iter().copied().cmp(piece.bytes()) {
                core::cmp::Ordering::Less => lo = middle + 1,
                core::cmp::Ordering::Greater => hi = middle,
                core::cmp::Ordering::Equal => return Some(id),
            }
        }
        None
    }
}
