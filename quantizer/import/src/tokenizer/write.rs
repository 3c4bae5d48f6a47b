//! Writes the section. The layout is the runtime's; this only fills it.

use std::collections::HashMap;

use kinglet_tokenizer::layout::{
    ADDED_LSTRIP, ADDED_RSTRIP, ADDED_SINGLE_WORD, ADDED_SPECIAL, CLASS_LETTER, CLASS_NUMBER,
    CLASS_NUMERIC, CLASS_WORD, Digits, Extent, FLAG_BYTE_FALLBACK, FLAG_EXPECTS_NFC, FLAG_FUSE_UNK,
    FLAG_IGNORE_MERGES, HEADER_BYTES, Header, Kind, MAX_PATTERN_BYTES, NONE, Pattern, Prefix,
    SPACE_MARK, Spaces, Strip, Table, TokenKind, Words,
};
use unicode_normalization::UnicodeNormalization;

use super::classes;
use super::error::{TokenizerImportError as Error, short};
use super::json::{AddedToken, Model};
use super::modes::Pipeline;
use super::pieces;
use super::special::Special;
use super::tables::Tables;
use super::vocab::{Vocabulary, byte_char, raw_bytes};

/// Everything the section is made of.
pub(super) struct Source<'s> {
    pub(super) pipeline: Pipeline,
    pub(super) model: Model,
    pub(super) vocab: Vocabulary,
    /// In the order of their ranks.
    pub(super) merges: Vec<(&'s str, &'s str)>,
    pub(super) ranks: Ranks,
    pub(super) special: Special,
}

/// What has a rank of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ranks {
    /// Each merge.
    OfMerges,
    /// Each token that merges make: of several ways to it, which follow each other, the leftmost in
    /// the text goes first.
    OfTokens,
}

/// The whole section.
pub(super) fn section(source: &Source<'_>) -> Result<Vec<u8>, Error> {
    let mut tables = Tables::default();
    let (mut byte_ids, mut alone) = (false, Vec::new());
    tokens(source, &mut tables)?;
    if source.pipeline.word_piece.is_none() {
        merges(source, &mut tables)?;
        byte_ids = symbols(source, &mut tables)?;
    }
    let first_bytes = added(source, &mut tables)?;
    if let Some(word_piece) = &source.pipeline.word_piece {
        alone = pieces::tables(word_piece, &source.vocab, &mut tables)?;
    }
    tables.put(Table::Classes, classes::table(wanted_classes(source), &alone));
    tables.put(Table::Before, source.pipeline.before.iter().copied());
    tables.put(Table::After, source.pipeline.after.iter().copied());
    tables.put(Table::Eos, source.special.eos.iter().copied());
    finish(header(source, byte_ids, first_bytes), &tables)
}

/// The header, but for what the tables' places decide.
fn header(source: &Source<'_>, has_byte_ids: bool, first_bytes: [[u32; 8]; 2]) -> Header {
    let Source { pipeline, model, vocab, special, .. } = source;
    let mut flags = 0;
    for (flag, set) in [
        (FLAG_BYTE_FALLBACK, pipeline.kind == Kind::SentencePiece && has_byte_ids),
        (FLAG_FUSE_UNK, model.fuse_unk == Some(true)),
        (FLAG_IGNORE_MERGES, model.ignore_merges == Some(true)),
        (FLAG_EXPECTS_NFC, pipeline.nfc),
    ] {
        flags |= if set { flag } else { 0 };
    }
    let words = if pipeline.words == Words::Whole && marks_begin_words(source) {
        Words::MarkRuns
    } else {
        pipeline.words
    };
    Header {
        length: 0,
        vocab: vocab.strings.len() as u32,
        flags,
        kind: pipeline.kind,
        pattern: pipeline.pattern,
        max_digits: pipeline.max_digits,
        digits: pipeline.digits,
        spaces: pipeline.spaces,
        prefix: pipeline.prefix,
        words,
        strip: pipeline.strip,
        // The crate looks for the unknown token in the model's own vocabulary alone.
        unk: model
            .unk_token
            .as_ref()
            .and_then(|token| vocab.model.get(token))
            .copied()
            .unwrap_or(NONE),
        bos: special.bos.unwrap_or(NONE),
        pad: special.pad.unwrap_or(NONE),
        first_bytes,
        tables: Default::default(),
    }
}

/// Lays the tables one after the other.
pub(super) fn finish(mut header: Header, tables: &Tables) -> Result<Vec<u8>, Error> {
    let mut out = vec![0; HEADER_BYTES];
    for (table, bytes) in Table::ALL.iter().zip(&tables.0) {
        let too_long = |_| {
            Error::unsupported("tokenizer.json: model.vocab", "too large", "sections below 4 GiB")
        };
        let offset = u32::try_from(out.len()).map_err(too_long)?;
        let count = u32::try_from(bytes.len() / table.entry_bytes()).map_err(too_long)?;
        header.tables[*table as usize] = Extent { offset, count };
        out.extend_from_slice(bytes);
        out.resize(out.len().next_multiple_of(4), 0);
        header.length = u32::try_from(out.len()).map_err(too_long)?;
    }
    out[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    Ok(out)
}

/// Token bytes, their offsets and kinds.
fn tokens(source: &Source<'_>, tables: &mut Tables) -> Result<(), Error> {
    let mut offset = 0;
    tables.put(Table::TokenOffsets, [0]);
    for id in 0..source.vocab.strings.len() {
        let (kind, bytes) = source.vocab.decoded(id, &source.pipeline);
        let literal_space =
            source.vocab.strings[id].as_ref().is_some_and(|token| token.contains(' '));
        if source.pipeline.strip == Strip::FirstToken && literal_space && kind != TokenKind::Special
        {
            // The Metaspace decoder takes marks from the first token but leaves spaces; both are
            // spaces by now.
            let supported = "tokens with \"\u{2581}\" alone when the decoder is Metaspace";
            return Err(Error::unsupported(
                "tokenizer.json: model.vocab",
                format!("token {id} with a space"),
                supported,
            ));
        }
        offset += bytes.len() as u32;
        tables.put(Table::TokenOffsets, [offset]);
        tables.0[Table::TokenBytes as usize].extend(bytes);
        tables.0[Table::TokenKinds as usize].push(kind as u8);
    }
    Ok(())
}

/// Merges by left and right part, and their results by rank.
fn merges(source: &Source<'_>, tables: &mut Tables) -> Result<(), Error> {
    let id = |token: &str| {
        let problem =
            || format!("a merge needs {:?}, which model.vocab does not have", short(token));
        source
            .vocab
            .model
            .get(token)
            .copied()
            .ok_or_else(|| Error::bad("tokenizer.json: model.merges", problem()))
    };
    // Of a pair that is listed twice the last one counts, as in the crate.
    let mut last = HashMap::new();
    for (rank, (left, right)) in source.merges.iter().enumerate() {
        last.insert((id(left)?, id(right)?), (rank, id(&format!("{left}{right}"))?));
    }
    let mut by_rank: Vec<_> =
        last.into_iter().map(|(pair, (rank, result))| (rank, pair, result)).collect();
    by_rank.sort_unstable();
    tables.put(Table::MergeResults, by_rank.iter().map(|&(_, _, result)| result));
    let mut by_pair = Vec::with_capacity(by_rank.len());
    let mut before = None;
    for (own, &(_, pair, result)) in (0u32..).zip(&by_rank) {
        let shared = before.filter(|&(_, made)| source.ranks == Ranks::OfTokens && made == result);
        let rank = shared.map_or(own, |(rank, _)| rank);
        by_pair.push((pair, rank));
        before = Some((rank, result));
    }
    by_pair.sort_unstable();
    for left in 0..=source.vocab.strings.len() as u32 {
        tables.put(Table::MergeStarts, [by_pair.partition_point(|&((l, _), _)| l < left) as u32]);
    }
    tables.put(Table::Merges, by_pair.iter().flat_map(|&((_, right), rank)| [right, rank]));
    Ok(())
}

/// The symbols merging starts from, and the whole pieces that go before merging. True if bytes have
/// tokens.
fn symbols(source: &Source<'_>, tables: &mut Tables) -> Result<bool, Error> {
    let Source { pipeline, model, vocab, .. } = source;
    let byte_level = pipeline.kind == Kind::ByteLevel;
    let fallback = model.byte_fallback == Some(true);
    let id = |token: &str| vocab.model.get(token).copied();
    let byte_ids: Vec<Option<u32>> = (0..=255u8)
        .map(|byte| {
            if byte_level {
                id(&byte_char(byte).to_string())
            } else {
                id(&format!("<0x{byte:02X}>"))
            }
        })
        .collect();
    let has_byte_ids = (byte_level || fallback) && byte_ids.iter().any(Option::is_some);
    if byte_level && fallback && byte_ids.iter().any(Option::is_none) {
        let supported = "false, or a vocabulary with all 256 bytes";
        return Err(Error::unsupported(
            "tokenizer.json: model.byte_fallback",
            "true for a byte-level model",
            supported,
        ));
    }
    if !byte_level && has_byte_ids && pipeline.spaces != Spaces::Keep && id("\u{2581}").is_none() {
        let supported = "a vocabulary with \"\u{2581}\" when spaces become it";
        return Err(Error::unsupported(
            "tokenizer.json: model.vocab",
            "without \"\u{2581}\"",
            supported,
        ));
    }
    if has_byte_ids {
        tables.put(Table::ByteIds, byte_ids.into_iter().map(|id| id.unwrap_or(NONE)));
    }
    if byte_level && model.ignore_merges == Some(true) {
        let mut whole: Vec<_> =
            vocab.model.iter().filter_map(|(token, &id)| Some((raw_bytes(token)?, id))).collect();
        whole.sort_unstable();
        tables.put(Table::SortedIds, whole.into_iter().map(|(_, id)| id));
    }
    if !byte_level {
        let single = |token: &String| {
            let mut chars = token.chars();
            chars.next().filter(|_| chars.next().is_none())
        };
        let mut chars: Vec<_> =
            vocab.model.iter().filter_map(|(token, &id)| Some((single(token)?, id))).collect();
        chars.sort_unstable();
        tables.put(Table::Chars, chars.into_iter().flat_map(|(c, id)| [c as u32, id]));
    }
    Ok(has_byte_ids)
}

/// Whether cutting before a space mark that follows something else changes nothing: no merge makes
/// a token with a mark after something else, and the mark is known, so that no run of unknown
/// characters crosses it either.
fn marks_begin_words(source: &Source<'_>) -> bool {
    let inner_mark = |left: &str, right: &str| {
        let text = format!("{left}{right}");
        text.chars()
            .zip(text.chars().skip(1))
            .any(|(before, c)| before != SPACE_MARK && c == SPACE_MARK)
    };
    // An unknown character is an unknown token to the merges, so that token must not look like a
    // mark.
    let unk_is_no_mark =
        source.model.unk_token.as_ref().is_none_or(|token| !token.ends_with(SPACE_MARK));
    source.pipeline.kind == Kind::SentencePiece
        && source.vocab.model.contains_key(&SPACE_MARK.to_string())
        && unk_is_no_mark
        && !source.merges.iter().any(|(left, right)| inner_mark(left, right))
}

/// Both sets of added tokens and the bytes their patterns start with.
fn added(source: &Source<'_>, tables: &mut Tables) -> Result<[[u32; 8]; 2], Error> {
    let mut first_bytes = [[0; 8]; 2];
    for (set, table) in [Table::AddedRaw, Table::AddedNormalized].into_iter().enumerate() {
        let tokens = source.vocab.added.iter().filter(|token| token.normalized == (set == 1));
        let mut patterns: Vec<_> =
            tokens.map(|token| (pattern(token, &source.pipeline), token)).collect();
        // Of equal patterns the first one counts: the sort is stable.
        patterns.sort_by(|a, b| a.0.cmp(&b.0));
        patterns.dedup_by(|later, first| later.0 == first.0);
        for (pattern, token) in patterns {
            if pattern.len() > MAX_PATTERN_BYTES {
                let found = format!("{:?} of {} bytes", short(&token.content), pattern.len());
                let supported = format!("added tokens of at most {MAX_PATTERN_BYTES} bytes");
                return Err(Error::unsupported("tokenizer.json: added_tokens", found, &supported));
            }
            let first = pattern.as_bytes()[0];
            first_bytes[set][usize::from(first >> 5)] |= 1 << (first & 31);
            let offset = tables.0[Table::AddedBytes as usize].len() as u32;
            let last = pattern.len() as u32 | added_flags(token) << 16;
            tables.0[Table::AddedBytes as usize].extend(pattern.as_bytes());
            tables.put(table, [offset, token.id, last]);
        }
    }
    Ok(first_bytes)
}

/// What an added token looks like where it is searched for.
fn pattern(token: &AddedToken, pipeline: &Pipeline) -> String {
    if !token.normalized {
        return token.content.clone();
    }
    let mut text = if pipeline.nfc { token.content.nfc().collect() } else { token.content.clone() };
    if pipeline.prefix == Prefix::Normalizer {
        text.insert(0, SPACE_MARK);
    }
    if pipeline.spaces == Spaces::Normalizer {
        text = text.replace(' ', "\u{2581}");
    }
    text
}

fn added_flags(token: &AddedToken) -> u32 {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    flag(token.single_word, ADDED_SINGLE_WORD)
        | flag(token.lstrip, ADDED_LSTRIP)
        | flag(token.rstrip, ADDED_RSTRIP)
        | flag(token.special, ADDED_SPECIAL)
}

/// The classes that this tokenizer asks for.
fn wanted_classes(source: &Source<'_>) -> u8 {
    let pipeline = &source.pipeline;
    let mut wanted = 0;
    if pipeline.pattern != Pattern::Whole {
        wanted |= CLASS_LETTER | CLASS_NUMBER;
    }
    if pipeline.digits != Digits::Joined {
        wanted |= CLASS_NUMERIC;
    }
    if source.vocab.added.iter().any(|token| token.single_word) {
        wanted |= CLASS_WORD;
    }
    wanted
}
