//! A tokenizer with a part of its tokens.
//!
//! Works on finished sections, so it is the same for every kind of tokenizer and file.
//!
//! A set of tokens is *closed* if it has what merging passes through on its way to each of them,
//! and what any text may need beside merges: special and added tokens, those around texts, the
//! unknown token, those of single bytes, and those of single characters unless bytes stand in for
//! them. A text whose tokens are in a closed set is encoded to the same tokens by what is left: at
//! each step the merge that used to be the best is still there, and no other was added. Any other
//! text still encodes, to more tokens.

use std::collections::{BTreeSet, HashMap};

use kinglet_tokenizer::Tokenizer;
use kinglet_tokenizer::layout::{
    FLAG_BYTE_FALLBACK, Header, Kind, NONE, SPACE_MARK, Table, TokenKind,
};

use super::TokenizerImportError as Error;
use super::tables::Tables;
use super::write::finish;

/// Symbols up to which a token is put together as encoding would; of longer ones all ways are kept.
const LONG: usize = 64;

/// The tables of a section.
struct Section<'s> {
    bytes: &'s [u8],
    header: Header,
}

/// A merge.
struct Merge {
    left: u32,
    right: u32,
    rank: u32,
    result: u32,
}

impl<'s> Section<'s> {
    fn parse(bytes: &'s [u8]) -> Result<Self, Error> {
        Ok(Self { bytes, header: Header::parse(bytes)? })
    }

    /// The table's bytes, which the header was checked for.
    fn table(&self, table: Table) -> &'s [u8] {
        let extent = self.header.extent(table);
        let rest = self.bytes.get(extent.offset as usize..).unwrap_or_default();
        rest.get(..extent.count as usize * table.entry_bytes()).unwrap_or_default()
    }

    fn words(&self, table: Table) -> Vec<u32> {
        self.table(table).as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
    }

    /// By left part, then by right part.
    fn merges(&self) -> Vec<Merge> {
        let (starts, results) = (self.words(Table::MergeStarts), self.words(Table::MergeResults));
        let entries = self.words(Table::Merges);
        let merges = entries.as_chunks::<2>().0.iter().enumerate().map(|(at, &[right, rank])| {
            let left =
                starts.partition_point(|&start| start as usize <= at).saturating_sub(1) as u32;
            Merge { left, right, rank, result: results.get(rank as usize).copied().unwrap_or(NONE) }
        });
        merges.collect()
    }

    /// The tokens that are kept whatever texts hold.
    fn needed(&self, tokenizer: &Tokenizer<'_>) -> BTreeSet<u32> {
        let header = &self.header;
        let mut needed: BTreeSet<u32> = [header.unk, header.bos, header.pad].into();
        for table in [Table::Before, Table::After, Table::Eos, Table::ByteIds] {
            needed.extend(self.words(table));
        }
        for table in [Table::AddedRaw, Table::AddedNormalized] {
            needed.extend(self.words(table).as_chunks::<3>().0.iter().map(|&[_, id, _]| id));
        }
        needed.extend((0..header.vocab).filter(|&id| tokenizer.kind_of(id) == TokenKind::Special));
        if header.kind == Kind::WordPiece {
            let single = |id: &u32| {
                std::str::from_utf8(tokenizer.token_bytes(*id))
                    .is_ok_and(|text| text.chars().count() == 1)
            };
            needed.extend((0..header.vocab).filter(single));
        }
        let bytes = self.words(Table::ByteIds);
        let stand_in =
            header.flags & FLAG_BYTE_FALLBACK != 0 && !bytes.is_empty() && !bytes.contains(&NONE);
        let chars =
            if header.kind == Kind::WordPiece { Vec::new() } else { self.words(Table::Chars) };
        // A space that became a mark stays one symbol: the sizes of buffers rest on it.
        let chars = chars
            .as_chunks::<2>()
            .0
            .iter()
            .filter(|&&[c, _]| !stand_in || c == u32::from(SPACE_MARK));
        needed.extend(chars.map(|&[_, id]| id));
        needed.remove(&NONE);
        needed
    }
}

/// How tokens are put together.
struct Ways {
    /// Of each token that merges make, the parts of each such merge, the one of the lowest rank
    /// first.
    parts: HashMap<u32, Vec<(u32, u32)>>,
    /// Rank and result of each pair.
    merged: HashMap<(u32, u32), (u32, u32)>,
}

impl Ways {
    fn new(mut merges: Vec<Merge>) -> Self {
        merges.sort_by_key(|merge| merge.rank);
        let mut this = Self { parts: HashMap::new(), merged: HashMap::new() };
        for Merge { left, right, rank, result } in merges {
            this.parts.entry(result).or_default().push((left, right));
            this.merged.insert((left, right), (rank, result));
        }
        this
    }

    /// What the last merge on the way to `token` is made of. Nothing outside of a token has a part
    /// in how it came about, so it is the same in every text.
    fn of(&self, token: u32) -> &[(u32, u32)] {
        let all = self.parts.get(&token).map_or(&[][..], Vec::as_slice);
        match (all, self.last(token)) {
            ([_, _, ..], Some(last)) => {
                all.iter().position(|&pair| pair == last).map_or(all, |at| &all[at..=at])
            }
            _ => all,
        }
    }

    /// The last merge when the token's symbols are encoded; `None` if that does not lead to the
    /// token, or is long.
    fn last(&self, token: u32) -> Option<(u32, u32)> {
        let mut symbols = self.symbols(token)?;
        loop {
            let pairs = symbols.iter().zip(symbols.iter().skip(1)).enumerate();
            let known = pairs
                .filter_map(|(at, (&left, &right))| Some((*self.merged.get(&(left, right))?, at)));
            let ((_, result), at) = known.min_by_key(|&((rank, _), at)| (rank, at))?;
            let pair = (symbols[at], symbols.remove(at + 1));
            symbols[at] = result;
            if symbols == [token] {
                return Some(pair);
            }
        }
    }

    /// What the token is made of in the end; `None` if that is long.
    fn symbols(&self, token: u32) -> Option<Vec<u32>> {
        let (mut symbols, mut rest) = (vec![], vec![token]);
        while let Some(next) = rest.pop() {
            match self.parts.get(&next).and_then(|ways| ways.first()) {
                Some(&(left, right)) => rest.extend([right, left]),
                None => symbols.push(next),
            }
            if symbols.len() + rest.len() > LONG {
                return None;
            }
        }
        Some(symbols)
    }
}

/// The smallest closed set with these tokens of the section, ascending.
///
/// # Errors
/// A section that is not one.
pub fn closure(section: &[u8], tokens: &[u32]) -> Result<Vec<u32>, Error> {
    let tokenizer = Tokenizer::parse(section)?;
    let section = Section::parse(section)?;
    let ways = Ways::new(section.merges());
    let mut kept = section.needed(&tokenizer);
    kept.extend(tokens.iter().filter(|&&id| id < section.header.vocab));
    let mut rest: Vec<u32> = kept.iter().copied().collect();
    while let Some(token) = rest.pop() {
        for &(left, right) in ways.of(token) {
            rest.extend([left, right].into_iter().filter(|&part| kept.insert(part)));
        }
    }
    Ok(kept.into_iter().collect())
}

/// The section with these tokens only, whose ids ascend; the new id of each is its place. Of the
/// merges those are left whose parts and result are. Ids that the section does not have are passed
/// over.
///
/// # Errors
/// A section that is not one, or no token of it.
pub fn restricted(section: &[u8], kept: &[u32]) -> Result<Vec<u8>, Error> {
    let old = Tokenizer::parse(section)?;
    let section = Section::parse(section)?;
    let kept = &kept[..kept.partition_point(|&id| id < section.header.vocab)];
    let new = |id: u32| kept.binary_search(&id).ok().map(|at| at as u32);
    let word_piece = section.header.kind == Kind::WordPiece;
    let mut tables = Tables::default();

    let mut offset = 0;
    tables.put(Table::TokenOffsets, [0]);
    for &id in kept {
        let bytes = old.token_bytes(id);
        offset += bytes.len() as u32;
        tables.put(Table::TokenOffsets, [offset]);
        tables.0[Table::TokenBytes as usize].extend(bytes);
        tables.0[Table::TokenKinds as usize].push(old.kind_of(id) as u8);
    }
    let merges = section.merges().into_iter().filter_map(|merge| {
        let (left, right, result) = (new(merge.left)?, new(merge.right)?, new(merge.result)?);
        Some(Merge { left, right, result, ..merge })
    });
    if !word_piece {
        put_merges(&merges.collect::<Vec<_>>(), kept.len() as u32, &mut tables);
    }

    tables.put(
        Table::ByteIds,
        section.words(Table::ByteIds).into_iter().map(|id| new(id).unwrap_or(NONE)),
    );
    let chars = section.words(Table::Chars);
    if word_piece {
        // What characters become, not tokens.
        tables.put(Table::Chars, chars.iter().copied());
    }
    for &[c, id] in chars.as_chunks::<2>().0.iter().filter(|_| !word_piece) {
        tables.put(Table::Chars, new(id).into_iter().flat_map(|id| [c, id]));
    }
    for table in [Table::AddedRaw, Table::AddedNormalized] {
        for &[pattern, id, last] in section.words(table).as_chunks::<3>().0 {
            tables.put(table, new(id).into_iter().flat_map(|id| [pattern, id, last]));
        }
    }
    for table in [Table::SortedIds, Table::Before, Table::After, Table::Eos] {
        tables.put(table, section.words(table).into_iter().filter_map(new));
    }
    for table in [Table::AddedBytes, Table::Classes] {
        tables.0[table as usize].extend(section.table(table));
    }
    let [unk, bos, pad] = [section.header.unk, section.header.bos, section.header.pad]
        .map(|id| new(id).unwrap_or(NONE));
    let section =
        finish(Header { vocab: kept.len() as u32, unk, bos, pad, ..section.header }, &tables)?;
    Tokenizer::parse(&section)?.validate()?;
    Ok(section)
}

/// Merges by left and right part, which ascend; their ranks close up, and equal ones stay equal.
fn put_merges(merges: &[Merge], vocab: u32, tables: &mut Tables) {
    let mut ranks: Vec<(u32, u32)> =
        merges.iter().map(|merge| (merge.rank, merge.result)).collect();
    ranks.sort_unstable();
    tables.put(Table::MergeResults, ranks.iter().map(|&(_, result)| result));
    let rank = |old: u32| ranks.partition_point(|&(rank, _)| rank < old) as u32;
    tables.put(Table::Merges, merges.iter().flat_map(|merge| [merge.right, rank(merge.rank)]));
    let start = |left: u32| merges.partition_point(|merge| merge.left < left) as u32;
    tables.put(Table::MergeStarts, (0..=vocab).map(start));
}
