//! The tokenizer of a GGUF file: a vocabulary with types, and either scores
//! (SentencePiece) or merges and the name of a pre-tokenizer (byte level).
//!
//! What comes out follows llama.cpp, which defines these files. Where its names
//! stand for a tokenizer of the `tokenizers` crate, that one is followed: so the
//! ids are those of the `tokenizer.json` that the file was converted from.
//!
//! SentencePiece merges the pair whose token has the highest score, the leftmost
//! of equals. As merges: every way to put a token together from two others, in
//! the order of the token's score, all of one token with the same rank.

use std::collections::HashMap;

use kinglet_tokenizer::Tokenizer;
use kinglet_tokenizer::layout::{Digits, Kind, Pattern, Prefix, Spaces, Strip, Words};

use super::error::{TokenizerImportError as Error, short};
use super::json::{AddedToken, Model};
use super::modes::Pipeline;
use super::special::Special;
use super::vocab::Vocabulary;
use super::write::{self, Ranks};

/// The metadata under `tokenizer.ggml.`, as it is stored.
pub(crate) struct Parts {
    pub(crate) model: String,
    pub(crate) pre: Option<String>,
    pub(crate) tokens: Vec<String>,
    pub(crate) scores: Vec<f32>,
    /// None at all if every token is ordinary.
    pub(crate) types: Vec<i32>,
    pub(crate) merges: Vec<String>,
    pub(crate) bos: Option<u32>,
    /// Ends of text, of a turn, of a message.
    pub(crate) ends: Vec<Option<u32>>,
    pub(crate) unknown: Option<u32>,
    pub(crate) padding: Option<u32>,
    pub(crate) add_bos: Option<bool>,
    pub(crate) add_eos: Option<bool>,
    pub(crate) add_space_prefix: Option<bool>,
}

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// The types of tokens.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Longer than any token; bounds the ways to put one together.
const MAX_TOKEN_BYTES: usize = 1 << 10;

/// A pre-tokenizer that goes by a name.
struct Pre {
    names: &'static [&'static str],
    pattern: Pattern,
    max_digits: u8,
    digits: Digits,
    nfc: bool,
    /// Of llama.cpp: a piece that is a token stays one, and texts begin with bos.
    llama3: bool,
}

const GPT2: Pre = Pre {
    names: &["gpt-2", "phi-2", "mpt", "olmo"],
    pattern: Pattern::Gpt2,
    max_digits: 1,
    digits: Digits::Joined,
    nfc: false,
    llama3: false,
};

/// Those whose regexes the runtime has.
const PRES: &[Pre] = &[
    GPT2,
    Pre {
        names: &["smollm", "starcoder", "refact", "codeshell"],
        digits: Digits::Individual,
        ..GPT2
    },
    Pre {
        names: &["llama-bpe", "llama3", "llama-v3"],
        pattern: Pattern::Cl100k,
        max_digits: 3,
        llama3: true,
        ..GPT2
    },
    Pre { names: &["qwen2", "deepseek-r1-qwen"], pattern: Pattern::Cl100k, nfc: true, ..GPT2 },
];

/// The tokenizer section.
pub(crate) fn import(parts: &Parts) -> Result<Vec<u8>, Error> {
    let lists = [(SCORES, parts.scores.len()), (TYPES, parts.types.len())];
    for (field, length) in lists.into_iter().filter(|(_, length)| *length > 0) {
        if length != parts.tokens.len() {
            let problem = format!(
                "{length} entries for {} tokens; convert the model again",
                parts.tokens.len()
            );
            return Err(Error::bad(field, problem));
        }
    }
    let source = match parts.model.as_str() {
        "llama" => sentence_piece(parts)?,
        "gpt2" => byte_level(parts)?,
        other => {
            return Err(Error::unsupported(
                MODEL,
                format!("`{other}`"),
                "`llama` (SentencePiece), `gpt2`",
            ));
        }
    };
    let section = write::section(&source).map_err(in_own_words)?;
    Tokenizer::parse(&section)?.validate()?;
    Ok(section)
}

fn sentence_piece(parts: &Parts) -> Result<write::Source<'_>, Error> {
    let prefix = parts.add_space_prefix.unwrap_or(true);
    let bos = parts.bos.unwrap_or(1);
    let mut ends = parts.ends.clone();
    if let Some(end @ None) = ends.first_mut() {
        *end = Some(2);
    }
    let pipeline = Pipeline {
        kind: Kind::SentencePiece,
        pattern: Pattern::Whole,
        max_digits: 1,
        digits: Digits::Joined,
        spaces: Spaces::Normalizer,
        prefix: if prefix { Prefix::Normalizer } else { Prefix::Never },
        words: Words::Whole,
        strip: if prefix { Strip::OneSpace } else { Strip::Nothing },
        word_piece: None,
        nfc: false,
        marks_to_spaces: true,
        byte_tokens: true,
        before: optional(parts.add_bos.unwrap_or(true), Some(bos)),
        after: optional(parts.add_eos.unwrap_or(false), ends.first().copied().flatten()),
    };
    let unknown = parts.tokens.get(parts.unknown.unwrap_or(0) as usize);
    let model = Model {
        unk_token: unknown.cloned(),
        fuse_unk: Some(true),
        byte_fallback: Some(parts.types.contains(&BYTE)),
        ..plain_model()
    };
    let vocab = vocabulary(parts)?;
    let merges = merges_by_score(parts, &vocab.model)?;
    let special = special(parts, Some(bos), &ends)?;
    Ok(write::Source { pipeline, model, vocab, merges, ranks: Ranks::OfTokens, special })
}

fn byte_level(parts: &Parts) -> Result<write::Source<'_>, Error> {
    let name = parts.pre.as_deref().unwrap_or("(none)");
    let Some(pre) = PRES.iter().find(|pre| pre.names.contains(&name)) else {
        let names: Vec<&str> = PRES.iter().flat_map(|pre| pre.names).copied().collect();
        let supported = format!(
            "{}; import the Hugging Face directory instead, if there is one",
            names.join(", ")
        );
        return Err(Error::unsupported(PRE, format!("`{name}`"), &supported));
    };
    let pipeline = Pipeline {
        kind: Kind::ByteLevel,
        pattern: pre.pattern,
        max_digits: pre.max_digits,
        digits: pre.digits,
        spaces: Spaces::Keep,
        prefix: Prefix::Never,
        words: Words::Whole,
        strip: Strip::Nothing,
        word_piece: None,
        nfc: pre.nfc,
        marks_to_spaces: false,
        byte_tokens: false,
        before: optional(parts.add_bos.unwrap_or(pre.llama3), parts.bos),
        after: optional(parts.add_eos.unwrap_or(false), parts.ends.first().copied().flatten()),
    };
    let model = Model { ignore_merges: Some(pre.llama3), ..plain_model() };
    let merges = parts.merges.iter().enumerate().map(|(rank, line)| {
        let pair =
            line.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty());
        let problem = || {
            format!(
                "merge {rank} is not a pair of tokens: {:?}; convert the model again",
                short(line)
            )
        };
        pair.ok_or_else(|| Error::bad(MERGES, problem()))
    });
    let merges = merges.collect::<Result<_, _>>()?;
    let special = special(parts, parts.bos, &parts.ends)?;
    Ok(write::Source {
        pipeline,
        model,
        vocab: vocabulary(parts)?,
        merges,
        ranks: Ranks::OfMerges,
        special,
    })
}

fn plain_model() -> Model {
    Model {
        dropout: None,
        unk_token: None,
        continuing_subword_prefix: None,
        end_of_word_suffix: None,
        fuse_unk: None,
        byte_fallback: None,
        ignore_merges: None,
    }
}

fn optional(there: bool, id: Option<u32>) -> Vec<u32> {
    id.filter(|_| there).into_iter().collect()
}

/// Ordinary tokens, which merges make, and those that are found in the text as they are.
fn vocabulary(parts: &Parts) -> Result<Vocabulary, Error> {
    let mut model = HashMap::new();
    let mut added = Vec::new();
    for (id, token) in (0..).zip(&parts.tokens) {
        let kind = parts.types.get(id as usize).copied();
        if token.is_empty() || kind == Some(UNUSED) {
            continue;
        }
        if let Some(kind @ (UNKNOWN | CONTROL | USER_DEFINED)) = kind {
            added.push(AddedToken {
                id,
                content: token.clone(),
                single_word: false,
                lstrip: false,
                rstrip: false,
                normalized: false,
                special: kind != USER_DEFINED,
            });
        }
        // The unknown token is what unknown characters become, so merging knows it.
        if !matches!(kind, Some(CONTROL | USER_DEFINED))
            && let Some(first) = model.insert(token.clone(), id)
        {
            let problem = format!(
                "{:?} is both token {first} and token {id}; convert the model again",
                short(token)
            );
            return Err(Error::bad(TOKENS, problem));
        }
    }
    Vocabulary::with_ids(model, added).map_err(in_own_words)
}

/// Every way to make a token of two, the highest score first.
fn merges_by_score<'p>(
    parts: &'p Parts,
    ids: &HashMap<String, u32>,
) -> Result<Vec<(&'p str, &'p str)>, Error> {
    if parts.scores.is_empty() {
        return Err(Error::bad(
            SCORES,
            "missing, and merging goes by them; convert the model again",
        ));
    }
    let ordinary = |token: &str| {
        let kind = ids.get(token).map(|id| parts.types.get(*id as usize).copied());
        kind.is_some_and(|kind| !matches!(kind, Some(UNKNOWN | BYTE)))
    };
    let mut scored = Vec::new();
    for (token, score) in
        parts.tokens.iter().zip(&parts.scores).filter(|(token, _)| ordinary(token))
    {
        if token.len() > MAX_TOKEN_BYTES {
            let found = format!("a token of {} bytes", token.len());
            return Err(Error::unsupported(
                TOKENS,
                found,
                &format!("tokens of at most {MAX_TOKEN_BYTES}"),
            ));
        }
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let pairs: Vec<_> =
            cuts.filter(|(left, right)| ordinary(left) && ordinary(right)).collect();
        if !pairs.is_empty() {
            scored.push((*score, token, pairs));
        }
    }
    scored.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
    let tie = scored.iter().zip(scored.iter().skip(1)).find(|((a, ..), (b, ..))| a == b);
    if let Some(((score, first, _), (_, second, _))) = tie {
        let problem = format!(
            "{:?} and {:?} both have {score}, so that their order is not known; \
             convert the model again, from a directory that has tokenizer.model",
            short(first),
            short(second)
        );
        return Err(Error::bad(SCORES, problem));
    }
    Ok(scored.into_iter().flat_map(|(_, _, pairs)| pairs).collect())
}

fn special(parts: &Parts, bos: Option<u32>, ends: &[Option<u32>]) -> Result<Special, Error> {
    let known = |id: &u32| parts.tokens.get(*id as usize).is_some_and(|token| !token.is_empty());
    let mut eos: Vec<u32> = Vec::new();
    for end in ends.iter().flatten() {
        if !eos.contains(end) {
            eos.push(*end);
        }
    }
    if let Some(id) = eos.iter().chain(&bos).find(|id| !known(id)) {
        let problem =
            format!("token {id} begins or ends texts, but there is none; convert the model again");
        return Err(Error::bad(TOKENS, problem));
    }
    Ok(Special { bos, pad: parts.padding.filter(known), eos })
}

/// Errors of the parts that both kinds of file share name the fields of `tokenizer.json`.
fn in_own_words(error: Error) -> Error {
    const FIELDS: [(&str, &str); 3] = [
        ("tokenizer.json: model.merges", MERGES),
        ("tokenizer.json: model", TOKENS),
        ("tokenizer.json", TYPES),
    ];
    let own = |field: String| {
        let known = FIELDS.iter().find(|(json, _)| field.starts_with(json));
        known.map_or(field.clone(), |(_, own)| (*own).to_owned())
    };
    match error {
        Error::Unsupported { field, found, supported } => {
            Error::Unsupported { field: own(field), found, supported }
        }
        Error::Bad { field, problem } => Error::Bad { field: own(field), problem },
        other => other,
    }
}
