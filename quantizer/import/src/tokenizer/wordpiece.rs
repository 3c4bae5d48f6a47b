//! WordPiece: the models of BERT.
//!
//! Invariant: as in `pipeline`, what is accepted gives the crate's ids. The prefix of continuing
//! tokens is punctuation, which words never start with unless it is all they have, so a token that
//! starts with the prefix is no start of a word.

use kinglet_tokenizer::layout::{Kind, Strip};
use serde::Deserialize;
use serde_json::Value;

use super::error::{TokenizerImportError as Error, short};
use super::fold::Bert;
use super::json::{self, Model, TokenizerJson, WordPieceModel, steps};
use super::modes::{Pipeline, WordPiece};
use super::pipeline::{self, DECODER, NORMALIZER, PRE_TOKENIZER};
use super::special::{self, Companions};
use super::vocab::Vocabulary;
use super::write::{self, Ranks, Source};

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
