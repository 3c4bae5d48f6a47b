//! Which tables a section has, and where each lies. The constants that they name are in `layout`.

/// The tables, in the order of their extents in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum Table {
    /// `u32[vocab + 1]`: token `i` is bytes `offsets[i]..offsets[i + 1]` of [`Table::TokenBytes`].
    TokenOffsets,
    /// `u8[]`: the tokens as they are decoded.
    TokenBytes,
    /// `u8[vocab]`: a [`TokenKind`](super::modes::TokenKind) each.
    TokenKinds,
    /// `u32[vocab + 1]`: merges whose left part is `i` are entries `starts[i]..starts[i + 1]` of
    /// [`Table::Merges`].
    MergeStarts,
    /// `(right: u32, rank: u32)[merges]`, by left part, then by right part.
    Merges,
    /// `u32[merges]`: the token the merge of this rank makes.
    MergeResults,
    /// `u32[256]` or empty: the token of each byte, or `NONE`.
    ByteIds,
    /// `(code point: u32, id: u32)[]` by code point: the tokens of single characters. In
    /// `Kind::WordPiece` runs of characters that fold alike, up to the next run, by code point:
    /// `(first code point | Fold << CLASS_SHIFT, value)`.
    Chars,
    /// `u32[]`: ids by the bytes of their tokens, for `FLAG_IGNORE_MERGES`. In `Kind::WordPiece`
    /// those that start a word go before those that continue one.
    SortedIds,
    /// Added tokens found in the raw text: `(pattern offset: u32, id: u32, length: u16, flags:
    /// u16)[]` by pattern.
    AddedRaw,
    /// Added tokens found in the normalized text, alike.
    AddedNormalized,
    /// `u8[]`: the patterns of both, and the texts of [`Fold::Text`](super::modes::Fold::Text).
    AddedBytes,
    /// `u32[]`: runs of characters of one class, by code point; see `CLASS_SHIFT`.
    Classes,
    /// `u32[]`: ids put before a text when special tokens are asked for.
    Before,
    /// `u32[]`: ids put after it.
    After,
    /// `u32[]`: ids that end a generation.
    Eos,
}

impl Table {
    /// All tables in order.
    pub const ALL: [Self; 16] = [
        Self::TokenOffsets,
        Self::TokenBytes,
        Self::TokenKinds,
        Self::MergeStarts,
        Self::Merges,
        Self::MergeResults,
        Self::ByteIds,
        Self::Chars,
        Self::SortedIds,
        Self::AddedRaw,
        Self::AddedNormalized,
        Self::AddedBytes,
        Self::Classes,
        Self::Before,
        Self::After,
        Self::Eos,
    ];

    /// Bytes of one entry.
    pub const fn entry_bytes(self) -> usize {
        match self {
            Self::TokenBytes | Self::TokenKinds | Self::AddedBytes => 1,
            Self::Merges | Self::Chars => 8,
            Self::AddedRaw | Self::AddedNormalized => 12,
            _ => 4,
        }
    }
}

/// Where a table lies: its offset in bytes and its count of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// Bytes from the start of the section.
    pub offset: u32,
    /// Entries.
    pub count: u32,
}
