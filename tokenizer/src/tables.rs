//! Views of the section's tables: each accessor checks what it reads, so hostile bytes give `None`
//! or an empty slice.
//!
//! Invariants: no accessor panics; every lookup is a binary search bounded by a table's length,
//! whether or not the table is really sorted.

use super::layout::{
    ADDED_LSTRIP, ADDED_RSTRIP, ADDED_SINGLE_WORD, ADDED_SPECIAL, CLASS_SHIFT, Header,
    MAX_PATTERN_BYTES, NONE, Table,
};

/// The bytes of a table; empty if the header lies.
pub(super) fn bytes_of<'a>(section: &'a [u8], header: &Header, table: Table) -> &'a [u8] {
    let extent = header.extent(table);
    let length = (extent.count as usize).checked_mul(table.entry_bytes());
    let rest = section.get(extent.offset as usize..).unwrap_or(&[]);
    length.and_then(|length| rest.get(..length)).unwrap_or(&[])
}

/// A table of `u32`, at any alignment.
#[derive(Debug, Clone, Copy)]
pub(super) struct WordTable<'a>(&'a [[u8; 4]]);

impl<'a> WordTable<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.as_chunks().0)
    }

    pub(super) fn len(self) -> usize {
        self.0.len()
    }

    pub(super) fn get(self, index: usize) -> Option<u32> {
        self.0.get(index).map(|b| u32::from_le_bytes(*b))
    }

    pub(super) fn iter(self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        self.0.iter().map(|b| u32::from_le_bytes(*b))
    }

    /// Entries `i` and `i + 1`, as the bounds of a range.
    pub(super) fn bounds(self, index: usize) -> Option<(usize, usize)> {
        Some((self.get(index)? as usize, self.get(index.checked_add(1)?)? as usize))
    }
}

/// A table of `(u32, u32)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct PairTable<'a>(&'a [[u8; 8]]);

impl<'a> PairTable<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.as_chunks().0)
    }

    pub(super) fn len(self) -> usize {
        self.0.len()
    }

    pub(super) fn range(self, from: usize, to: usize) -> Option<Self> {
        self.0.get(from..to).map(Self)
    }

    pub(super) fn iter(self) -> impl ExactSizeIterator<Item = (u32, u32)> + use<'a> {
        self.0.iter().map(split_pair)
    }

    /// The value that belongs to `key` in a table sorted by keys.
    pub(super) fn find(self, key: u32) -> Option<u32> {
        let at = self.0.binary_search_by_key(&key, |pair| split_pair(pair).0).ok()?;
        self.0.get(at).map(|pair| split_pair(pair).1)
    }

    /// The last pair whose key is at most `key`, in a table sorted by keys; their bits from `bits`
    /// on do not count.
    pub(super) fn last_up_to(self, key: u32, bits: u32) -> Option<(u32, u32)> {
        let mask = (1 << bits) - 1;
        let after = self.0.partition_point(|pair| split_pair(pair).0 & mask <= key);
        after.checked_sub(1).and_then(|at| self.0.get(at)).map(split_pair)
    }
}

fn split_pair(pair: &[u8; 8]) -> (u32, u32) {
    let both = u64::from_le_bytes(*pair);
    (both as u32, (both >> 32) as u32)
}

/// The merges: by left part through an index, then by right part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Merges<'a> {
    pub(super) starts: WordTable<'a>,
    pub(super) pairs: PairTable<'a>,
    pub(super) results: WordTable<'a>,
}

impl Merges<'_> {
    /// The rank of the merge of two neighbours, [`NONE`] if they do not merge. [`Self::result`] of
    /// a rank that is not `NONE` is never `None`.
    pub(super) fn rank(self, left: u32, right: u32) -> u32 {
        let found =
            self.starts.bounds(left as usize).and_then(|(from, to)| self.pairs.range(from, to));
        let rank = found.and_then(|pairs| pairs.find(right)).unwrap_or(NONE);
        if (rank as usize) < self.results.len() { rank } else { NONE }
    }

    /// The token that the merge of this rank makes.
    pub(super) fn result(self, rank: u32) -> Option<u32> {
        self.results.get(rank as usize)
    }
}

/// The classes of characters: runs sorted by their first code point.
#[derive(Debug, Clone, Copy)]
pub(super) struct Classes<'a>(pub(super) WordTable<'a>);

impl Classes<'_> {
    /// The class bits of a character. ASCII is known without looking, as every Unicode version
    /// agrees on it.
    pub(super) fn of(self, c: char) -> u8 {
        use super::layout::{CLASS_LETTER, CLASS_NUMBER, CLASS_NUMERIC, CLASS_WORD};
        match c {
            'a'..='z' | 'A'..='Z' => CLASS_LETTER | CLASS_WORD,
            '0'..='9' => CLASS_NUMBER | CLASS_NUMERIC | CLASS_WORD,
            '_' => CLASS_WORD,
            '\0'..='\x7f' => 0,
            _ => self.search(c as u32),
        }
    }

    fn search(self, c: u32) -> u8 {
        let runs = self.0.0;
        let after = runs.partition_point(|run| {
            u32::from_le_bytes(*run) << (32 - CLASS_SHIFT) <= c << (32 - CLASS_SHIFT)
        });
        let run = after.checked_sub(1).and_then(|at| self.0.get(at));
        run.map_or(0, |run| (run >> CLASS_SHIFT) as u8)
    }
}

/// One set of added tokens, sorted by pattern.
#[derive(Debug, Clone, Copy)]
pub(super) struct Added<'a> {
    pub(super) first_bytes: [u32; 8],
    pub(super) entries: &'a [[u8; 12]],
    pub(super) bytes: &'a [u8],
}

/// An entry of [`Added`].
#[derive(Debug, Clone, Copy)]
pub(super) struct AddedEntry<'a> {
    pub(super) pattern: &'a [u8],
    pub(super) id: u32,
    flags: u32,
}

impl AddedEntry<'_> {
    pub(super) fn single_word(self) -> bool {
        self.flags & ADDED_SINGLE_WORD != 0
    }
    pub(super) fn lstrip(self) -> bool {
        self.flags & ADDED_LSTRIP != 0
    }
    pub(super) fn rstrip(self) -> bool {
        self.flags & ADDED_RSTRIP != 0
    }
    pub(super) fn special(self) -> bool {
        self.flags & ADDED_SPECIAL != 0
    }
    pub(super) fn flags(self) -> u32 {
        self.flags
    }
}

impl<'a> Added<'a> {
    /// Entry `index`; one that lies outside the patterns has an empty pattern, which nothing
    /// matches.
    pub(super) fn get(self, index: usize) -> Option<AddedEntry<'a>> {
        let entry = self.entries.get(index)?;
        let [a, b, c, d, e, f, g, h, rest @ ..] = *entry;
        let offset = u32::from_le_bytes([a, b, c, d]) as usize;
        let last = u32::from_le_bytes(rest);
        let length = (last & 0xffff) as usize;
        let pattern = match self.bytes.get(offset..).and_then(|rest| rest.get(..length)) {
            Some(pattern) if length <= MAX_PATTERN_BYTES => pattern,
            _ => &[],
        };
        Some(AddedEntry { pattern, id: u32::from_le_bytes([e, f, g, h]), flags: last >> 16 })
    }

    /// Whether a pattern may start with this byte.
    pub(super) fn may_start(self, byte: u8) -> bool {
        let word = self.first_bytes.get(usize::from(byte >> 5)).copied().unwrap_or(0);
        word >> (byte & 31) & 1 == 1
    }

    /// The first entry in `lo..hi` for which `before` is false, where it is true for a prefix of
    /// them.
    pub(super) fn partition(
        self,
        lo: usize,
        hi: usize,
        before: impl Fn(AddedEntry<'a>) -> bool,
    ) -> usize {
        let (mut lo, mut hi) = (lo, hi);
        while lo < hi {
            let middle = lo + (hi - lo) / 2;
            if self.get(middle).is_some_and(&before) { lo = middle + 1 } else { hi = middle }
        }
        lo
    }
}
