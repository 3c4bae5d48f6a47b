//! The tokenizer section, byte for byte: the one definition that the reader (here) and the writer
//! (the quantizer) share.
//!
//! ```text
//! 0    header, HEADER_BYTES long: fixed fields, then one (offset, count) pair a table
//! ...  tables, in any order, each starting at a multiple of 4 from the start of the section
//! ```
//!
//! Invariants: all integers are little-endian; offsets count bytes from the start of the section;
//! ids are below the vocabulary's length, or [`NONE`]. [`Header::parse`] proves every table lies
//! inside the section and that tables which go together have the same length. It looks at no
//! table's content, so its cost does not grow with the section.

use super::error::{Field, TokenizerError};
pub use super::extent::{Extent, Table};
pub use super::modes::{Digits, Fold, Kind, Pattern, Prefix, Spaces, Strip, TokenKind, Words};

/// The section's first four bytes.
pub const MAGIC: [u8; 4] = *b"KTOK";
/// The layout's version.
pub const VERSION: u32 = 1;
/// Bytes of the header; what follows its last field is zero.
pub const HEADER_BYTES: usize = 256;
/// The id that stands for "there is none".
pub const NONE: u32 = u32::MAX;
/// The longest vocabulary.
pub const MAX_VOCAB: u32 = 1 << 22;
/// The longest pattern of an added token in bytes: it bounds the work done at each position of a
/// text.
pub const MAX_PATTERN_BYTES: usize = 512;
/// The most ids in the lists [`Table::Before`], [`Table::After`] and [`Table::Eos`].
pub const MAX_LIST: u32 = 16;
/// The character that stands for a space in SentencePiece vocabularies.
pub const SPACE_MARK: char = '\u{2581}';

/// Characters without an id become byte tokens where all of their bytes have one.
pub const FLAG_BYTE_FALLBACK: u32 = 1;
/// Neighbouring unknown characters become one unknown token.
pub const FLAG_FUSE_UNK: u32 = 1 << 1;
/// A piece that is a token as a whole becomes that token, whatever the merges say.
pub const FLAG_IGNORE_MERGES: u32 = 1 << 2;
/// The text must be in Unicode normal form C before it is encoded; the runtime does not normalise.
pub const FLAG_EXPECTS_NFC: u32 = 1 << 3;
/// All flags of this version.
pub const FLAGS_KNOWN: u32 =
    FLAG_BYTE_FALLBACK | FLAG_FUSE_UNK | FLAG_IGNORE_MERGES | FLAG_EXPECTS_NFC;

/// An added token matches only where no word character touches it.
pub const ADDED_SINGLE_WORD: u32 = 1;
/// An added token takes the whitespace on its left.
pub const ADDED_LSTRIP: u32 = 1 << 1;
/// An added token takes the whitespace on its right.
pub const ADDED_RSTRIP: u32 = 1 << 2;
/// An added token is special.
pub const ADDED_SPECIAL: u32 = 1 << 3;
/// All flags of an added token.
pub const ADDED_KNOWN: u32 = ADDED_SINGLE_WORD | ADDED_LSTRIP | ADDED_RSTRIP | ADDED_SPECIAL;

/// `\p{L}` of the pre-tokenizing regexes.
pub const CLASS_LETTER: u8 = 1;
/// `\p{N}` of the pre-tokenizing regexes.
pub const CLASS_NUMBER: u8 = 1 << 1;
/// A digit for [`Digits`]: numeric by the standard library's table.
pub const CLASS_NUMERIC: u8 = 1 << 2;
/// `\w`, asked by [`ADDED_SINGLE_WORD`].
pub const CLASS_WORD: u8 = 1 << 3;
/// A word of its own for `Kind::WordPiece`: punctuation and Chinese characters.
pub const CLASS_ALONE: u8 = 1 << 4;
/// All class bits.
pub const CLASS_KNOWN: u8 = CLASS_LETTER | CLASS_NUMBER | CLASS_NUMERIC | CLASS_WORD | CLASS_ALONE;
/// A run of [`Table::Classes`] is `first code point | class bits << CLASS_SHIFT`; the key of one of
/// folds has a [`Fold`] there.
pub const CLASS_SHIFT: u32 = 24;

/// The header's fields, in the order they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the whole section.
    pub length: u32,
    /// Tokens, including unused ids.
    pub vocab: u32,
    /// `FLAG_*` bits.
    pub flags: u32,
    /// What the merges start from.
    pub kind: Kind,
    /// How byte-level segments are cut.
    pub pattern: Pattern,
    /// The longest run of `\p{N}` in one piece of [`Pattern::Cl100k`]; the longest word of
    /// `Kind::WordPiece`.
    pub max_digits: u8,
    /// Whether digits are cut out first.
    pub digits: Digits,
    /// Where spaces become marks.
    pub spaces: Spaces,
    /// Where a space is put in front.
    pub prefix: Prefix,
    /// How SentencePiece segments are cut.
    pub words: Words,
    /// What decoding strips.
    pub strip: Strip,
    /// The unknown token or [`NONE`].
    pub unk: u32,
    /// The token that begins a text, or [`NONE`].
    pub bos: u32,
    /// The token that pads a batch, or [`NONE`].
    pub pad: u32,
    /// Bit `b` is set when a pattern of [`Table::AddedRaw`] (first array) or
    /// [`Table::AddedNormalized`] (second) starts with byte `b`: most positions of a text are
    /// passed over by this one test.
    pub first_bytes: [[u32; 8]; 2],
    /// Where the tables lie.
    pub tables: [Extent; Table::ALL.len()],
}

/// Byte offsets of the header's fields.
mod at {
    pub(super) const VERSION: usize = 4;
    pub(super) const LENGTH: usize = 8;
    pub(super) const VOCAB: usize = 12;
    pub(super) const FLAGS: usize = 16;
    pub(super) const MODES: usize = 20;
    pub(super) const UNK: usize = 28;
    pub(super) const BOS: usize = 32;
    pub(super) const PAD: usize = 36;
    pub(super) const FIRST_BYTES: usize = 40;
    pub(super) const TABLES: usize = 104;
}

const _: () = assert!(at::TABLES + 8 * Table::ALL.len() <= HEADER_BYTES);

impl Header {
    /// The extent of a table.
    pub const fn extent(&self, table: Table) -> Extent {
        self.tables[table as usize]
    }

    /// Reads and checks the header of `section`, and that its tables lie inside.
    ///
    /// # Errors
    /// [`TokenizerError`] names the field or the table that is wrong. Contents of tables are not
    /// looked at.
    pub fn parse(section: &[u8]) -> Result<Self, TokenizerError> {
        let header: &[u8; HEADER_BYTES] = section.first_chunk().ok_or(TokenizerError::TooShort)?;
        let word = |at: usize| word_at(header, at);
        let byte = |at: usize| header.get(at).copied().unwrap_or(u8::MAX);
        if header.first_chunk() != Some(&MAGIC) {
            return Err(TokenizerError::NotATokenizer);
        }
        if word(at::VERSION) != VERSION {
            return Err(TokenizerError::Version { found: word(at::VERSION) });
        }
        let bad = TokenizerError::Field;
        let modes = at::MODES;
        let mut parsed = Self {
            length: word(at::LENGTH),
            vocab: word(at::VOCAB),
            flags: word(at::FLAGS),
            kind: Kind::from_byte(byte(modes)).ok_or(bad(Field::Kind))?,
            pattern: Pattern::from_byte(byte(modes + 1)).ok_or(bad(Field::Pattern))?,
            max_digits: byte(modes + 2),
            digits: Digits::from_byte(byte(modes + 3)).ok_or(bad(Field::Digits))?,
            spaces: Spaces::from_byte(byte(modes + 4)).ok_or(bad(Field::Spaces))?,
            prefix: Prefix::from_byte(byte(modes + 5)).ok_or(bad(Field::Prefix))?,
            words: Words::from_byte(byte(modes + 6)).ok_or(bad(Field::Words))?,
            strip: Strip::from_byte(byte(modes + 7)).ok_or(bad(Field::Strip))?,
            unk: word(at::UNK),
            bos: word(at::BOS),
            pad: word(at::PAD),
            first_bytes: [[0; 8]; 2],
            tables: [Extent::default(); Table::ALL.len()],
        };
        for (i, bits) in parsed.first_bytes.as_flattened_mut().iter_mut().enumerate() {
            *bits = word(at::FIRST_BYTES + 4 * i);
        }
        for (i, extent) in parsed.tables.iter_mut().enumerate() {
            let at = at::TABLES + 8 * i;
            *extent = Extent { offset: word(at), count: word(at + 4) };
        }
        parsed.check(section.len())?;
        Ok(parsed)
    }

    /// The header's bytes, for the writer. [`Header::parse`] of a section that starts with them
    /// gives `self` again.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| {
            for (to, from) in out.iter_mut().skip(at).zip(bytes) {
                *to = *from;
            }
        };
        put(0, &MAGIC);
        let words = [VERSION, self.length, self.vocab, self.flags];
        words.iter().enumerate().for_each(|(i, w)| put(at::VERSION + 4 * i, &w.to_le_bytes()));
        let modes = [
            self.kind as u8,
            self.pattern as u8,
            self.max_digits,
            self.digits as u8,
            self.spaces as u8,
            self.prefix as u8,
            self.words as u8,
            self.strip as u8,
        ];
        put(at::MODES, &modes);
        let ids = [self.unk, self.bos, self.pad];
        ids.iter().enumerate().for_each(|(i, w)| put(at::UNK + 4 * i, &w.to_le_bytes()));
        for (i, bits) in self.first_bytes.as_flattened().iter().enumerate() {
            put(at::FIRST_BYTES + 4 * i, &bits.to_le_bytes());
        }
        for (i, extent) in self.tables.iter().enumerate() {
            put(at::TABLES + 8 * i, &extent.offset.to_le_bytes());
            put(at::TABLES + 8 * i + 4, &extent.count.to_le_bytes());
        }
        out
    }

    /// The checks of [`Header::parse`] that concern several fields.
    fn check(&self, available: usize) -> Result<(), TokenizerError> {
        if self.length as usize > available || (self.length as usize) < HEADER_BYTES {
            return Err(TokenizerError::Field(Field::Length));
        }
        if self.vocab == 0 || self.vocab > MAX_VOCAB {
            return Err(TokenizerError::Field(Field::Vocab));
        }
        if self.flags & !FLAGS_KNOWN != 0 {
            return Err(TokenizerError::Field(Field::Flags));
        }
        if self.max_digits == 0 {
            return Err(TokenizerError::Field(Field::MaxDigits));
        }
        for id in [(self.unk, Field::Unk), (self.bos, Field::Bos), (self.pad, Field::Pad)] {
            if id.0 != NONE && id.0 >= self.vocab {
                return Err(TokenizerError::Field(id.1));
            }
        }
        for table in Table::ALL {
            if !self.fits(table) {
                return Err(TokenizerError::Extent(table));
            }
        }
        Ok(())
    }

    /// Whether a table is aligned, lies between the header and the section's end, and has a count
    /// that agrees with the vocabulary and with the tables it goes with.
    fn fits(&self, table: Table) -> bool {
        let extent = self.extent(table);
        let end = u64::from(extent.offset) + u64::from(extent.count) * table.entry_bytes() as u64;
        let inside = extent.offset.is_multiple_of(4) && end <= u64::from(self.length);
        let right_count = match table {
            Table::TokenOffsets => extent.count == self.vocab + 1,
            Table::TokenKinds => extent.count == self.vocab,
            Table::MergeStarts if self.kind.is_word_piece() => extent.count == 0,
            Table::MergeStarts => extent.count == self.vocab + 1,
            Table::MergeResults => extent.count == self.extent(Table::Merges).count,
            Table::ByteIds => extent.count == 0 || extent.count == 256,
            Table::Before | Table::After | Table::Eos => extent.count <= MAX_LIST,
            _ => true,
        };
        inside && right_count && extent.offset as usize >= HEADER_BYTES
    }
}

/// The little-endian word at `at`; all ones outside, which no field takes for a valid value.
fn word_at(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    let bytes = header.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map_or(u32::MAX, |b| u32::from_le_bytes(*b))
}
