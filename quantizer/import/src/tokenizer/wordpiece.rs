//! WordPiece: the models of BERT.
//!
//! Invariant: as in `pipeline`, what is accepted gives the crate's ids. The prefix of continuing
//! tokens is punctuation, which words never start with unless it is all they have, so a token that
//! starts with the prefix is no start of a word.

use std::collections::HashSet;

use kinglet_tokenizer::layout::{Kind, Strip, Table, TokenKind};
use serde::Deserialize;
use serde_json::Value;

use super::error::{TokenizerImportError as Error, short};
use super::fold::{self, Bert};
use super::json::{self, Model, TokenizerJson, WordPieceModel, steps};
use super::pipeline::{self, DECODER, NORMALIZER, PRE_TOKENIZER, Pipeline};
use super::special::{self, Companions};
use super::vocab::Vocabulary;
use super::write::{self, Ranks, Source, Tables};

const VOCAB: &str = "tokenizer.json: model.vocab";

/// What the section depends on beside the vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WordPiece {
    bert: Bert,
    prefix: String,
    /// Whether decoding takes spaces before punctuation away.
    cleanup: bool,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Normalizer {
    #[serde(rename = "BertNormalizer")]
    Bert(Bert),
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PreTokenizer {
    #[serde(rename = "BertPreTokenizer")]
    Bert {},
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Decoder {
    WordPiece { prefix: String, cleanup: bool },
}

/// Whether a model is WordPiece.
pub(super) fn is(model: &Value) -> bool {
    model.get("type").and_then(Value::as_str) == Some("WordPiece")
}

/// The section of a file whose model is WordPiece.
pub(super) fn section(mut file: TokenizerJson, companions: &Companions) -> Result<Vec<u8>, Error> {
    let model: WordPieceModel = Deserialize::deserialize(&file.model)
        .map_err(|e: serde_json::Error| Error::bad("tokenizer.json: model", e.to_string()))?;
    let Some(longest) =
        u8::try_from(model.max_input_chars_per_word).ok().filter(|&longest| longest > 0)
    else {
        let found = model.max_input_chars_per_word.to_string();
        return Err(Error::unsupported(
            "tokenizer.json: model.max_input_chars_per_word",
            found,
            "1 to 255",
        ));
    };
    let mut pipeline = Pipeline::plain(Kind::WordPiece);
    pipeline.max_digits = longest;
    pipeline.strip = Strip::OneSpace;
    pipeline.word_piece = Some(components(&mut file, model.continuing_subword_prefix)?);
    pipeline::post_processor(&mut file, &mut pipeline)?;
    if let Some(token) = file.added_tokens.iter().find(|token| token.normalized) {
        let found = format!("{:?} with normalized true", short(&token.content));
        return Err(Error::unsupported(
            "tokenizer.json: added_tokens",
            found,
            "normalized false with WordPiece",
        ));
    }
    let vocab = Vocabulary::new(json::vocab(&file.model)?, std::mem::take(&mut file.added_tokens))?;
    if !vocab.model.contains_key(&model.unk_token) {
        let problem = format!("{:?} is not in model.vocab; add it", short(&model.unk_token));
        return Err(Error::bad("tokenizer.json: model.unk_token", problem));
    }
    let special = special::read(companions, &vocab)?;
    let model = Model { unk_token: Some(model.unk_token), ..Model::default() };
    write::section(&Source {
        pipeline,
        model,
        vocab,
        merges: Vec::new(),
        ranks: Ranks::OfMerges,
        special,
    })
}

/// Normalizer, pre-tokenizer and decoder.
fn components(file: &mut TokenizerJson, prefix: String) -> Result<WordPiece, Error> {
    let found: Vec<Normalizer> =
        steps(file.normalizer.take(), NORMALIZER, "normalizers", &["BertNormalizer"])?;
    let bert = match found.as_slice() {
        [] => Bert::default(),
        [Normalizer::Bert(bert)] => *bert,
        _ => {
            return Err(Error::unsupported(
                NORMALIZER,
                "several steps",
                "one BertNormalizer with WordPiece",
            ));
        }
    };
    let found: Vec<PreTokenizer> =
        steps(file.pre_tokenizer.take(), PRE_TOKENIZER, "pretokenizers", &["BertPreTokenizer"])?;
    if found.is_empty() {
        return Err(Error::unsupported(
            PRE_TOKENIZER,
            "missing",
            "BertPreTokenizer with WordPiece",
        ));
    }
    if prefix.len() < 2 || !prefix.bytes().all(|byte| byte.is_ascii_punctuation()) {
        let field = "tokenizer.json: model.continuing_subword_prefix";
        return Err(Error::unsupported(
            field,
            format!("{prefix:?}"),
            "two or more ASCII punctuation characters",
        ));
    }
    let found: Vec<Decoder> = steps(file.decoder.take(), DECODER, "decoders", &["WordPiece"])?;
    match found.as_slice() {
        [Decoder::WordPiece { prefix: removed, cleanup }] if *removed == prefix => {
            Ok(WordPiece { bert, cleanup: *cleanup, prefix })
        }
        _ => Err(Error::unsupported(
            DECODER,
            "missing, several, or of another prefix",
            "WordPiece with the model's prefix",
        )),
    }
}

impl WordPiece {
    /// What a token decodes to, and how it stands to the one before it.
    pub(super) fn decoded(&self, token: &str, kind: TokenKind) -> (TokenKind, Vec<u8>) {
        if kind == TokenKind::Special {
            return (kind, token.into());
        }
        match token.strip_prefix(&self.prefix) {
            Some(rest) => (TokenKind::Continuing, rest.into()),
            None if self.cleanup && CLOSE.iter().any(|close| token.starts_with(close)) => {
                (TokenKind::Joined, token.into())
            }
            None => (kind, token.into()),
        }
    }

    /// The tokens in the order they are looked up in, and what characters become. Returns the
    /// characters that are words of their own.
    pub(super) fn tables(
        &self,
        vocab: &Vocabulary,
        tables: &mut Tables,
    ) -> Result<Vec<bool>, Error> {
        let mut ids = Vec::new();
        let mut alphabet = HashSet::new();
        for (token, &id) in &vocab.model {
            let rest = token.strip_prefix(&self.prefix);
            let text = rest.unwrap_or(token);
            alphabet.extend(text.chars());
            ids.push((rest.is_some(), text, id));
        }
        for token in vocab.strings.iter().flatten() {
            let changed = self.cleanup && token.contains(' ') && {
                let spaced = format!(" {token}");
                let kept = if CLOSE.iter().any(|close| token.starts_with(close)) {
                    token
                } else {
                    &spaced
                };
                cleanup(&spaced) != *kept || cleanup(token) != *token
            };
            if changed {
                let found = format!("{:?}, which decoder.cleanup changes", short(token));
                return Err(Error::unsupported(VOCAB, found, "tokens without spaces"));
            }
        }
        let special = vocab
            .added
            .iter()
            .find(|token| token.special && token.content.starts_with(&self.prefix));
        if let Some(token) = special {
            let found = format!("the special {:?}", short(&token.content));
            return Err(Error::unsupported(
                "tokenizer.json: added_tokens",
                found,
                "special tokens without the prefix",
            ));
        }
        ids.sort_unstable();
        tables.put(Table::SortedIds, ids.into_iter().map(|(_, _, id)| id));
        let alone = self.bert.alone();
        let patterns = &mut tables.0[Table::AddedBytes as usize];
        let runs = fold::runs(self.bert, &alone, &alphabet, patterns.len()).ok_or_else(|| {
            Error::unsupported("tokenizer.json: added_tokens", "too long", "16 MB in all")
        })?;
        patterns.extend(runs.texts);
        tables.put(Table::Chars, runs.runs.into_iter().flat_map(|(key, value)| [key, value]));
        Ok(alone)
    }
}

/// What stands right after the token before it when decoding cleans up.
const CLOSE: [&str; 9] = [".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"];

/// The crate's `cleanup` of one token.
fn cleanup(token: &str) -> String {
    let mut text = token.to_owned();
    for (from, to) in [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ] {
        text = text.replace(from, to);
    }
    text
}
