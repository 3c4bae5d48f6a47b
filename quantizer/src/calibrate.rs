//! Calibration: the token sequences that rounding, pruning and fitting look at.
//!
//! A text is cut into passages of equal length, each behind a begin-of-sequence token; when there are more than asked for, as many as
//! needed are chosen by a seeded shuffle and kept in the order of the text. So the same file, count and seed give the same sequences.

use std::path::{Path, PathBuf};

use kinglet::tokenizer::Tokenizer;

use crate::checkpoint::Checkpoint;
use crate::tokenizer::TokenizerImportError;

/// Tokens of a passage, unless the model's context is shorter.
const PASSAGE: usize = 256;
/// The least number of tokens that is of any use.
const LEAST: usize = 256;

/// Which passages.
#[derive(Clone, Copy, Debug)]
pub struct Passages {
    /// Tokens in all, at most.
    pub tokens: usize,
    /// Chooses among more.
    pub seed: u64,
}

/// Why there is nothing to calibrate on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// The file cannot be read.
    #[error("cannot read it: {0}")]
    Io(#[from] std::io::Error),
    /// Not a text.
    #[error("it is not UTF-8 (byte {at}): give a text, or a .json file with lists of token ids")]
    NotUtf8 {
        /// The first byte that is not.
        at: usize,
    },
    /// Not lists of token ids.
    #[error("a .json file holds a list of sequences, each a list of token ids: {0}")]
    Json(#[from] serde_json::Error),
    /// A token that the model does not have.
    #[error("token {token} of sequence {sequence} is not one of the model's {vocab}")]
    Token {
        /// The sequence.
        sequence: usize,
        /// The token.
        token: u32,
        /// Tokens of the model.
        vocab: usize,
    },
    /// The checkpoint cannot encode a text.
    #[error("the checkpoint {} has no tokenizer: give token ids in a .json file", .0.display())]
    NoTokenizer(PathBuf),
    /// The tokenizer cannot be imported.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerImportError),
    /// The text cannot be encoded.
    #[error("{0}")]
    Encode(String),
    /// Too little to learn from.
    #[error("it has {tokens} tokens; at least {LEAST} are needed, and 32768 do well")]
    TooShort {
        /// Tokens found.
        tokens: usize,
    },
}

/// Sequences for a checkpoint from a text, or from token ids.
pub fn sequences(checkpoint: &Checkpoint, path: &Path, passages: Passages) -> Result<Vec<Vec<u32>>, CalibrateError> {
    let architecture = checkpoint.architecture();
    let bytes = std::fs::read(path)?;
    let length = PASSAGE.min(architecture.last().context);
    let found: Vec<Vec<u32>> = if path.extension().is_some_and(|e| e == "json") {
        let given: Vec<Vec<u32>> = serde_json::from_slice(&bytes)?;
        given.iter().flat_map(|sequence| sequence.chunks(length).map(<[u32]>::to_vec)).collect()
    } else {
        let text = std::str::from_utf8(&bytes).map_err(|e| CalibrateError::NotUtf8 { at: e.valid_up_to() })?;
        let section = checkpoint.tokenizer()?;
        if section.is_empty() {
            return Err(CalibrateError::NoTokenizer(checkpoint.path().to_path_buf()));
        }
        let tokenizer = Tokenizer::parse(&section).map_err(|e| CalibrateError::Encode(e.to_string()))?;
        let tokens = crate::text::encode(&tokenizer, text, false).map_err(|e| CalibrateError::Encode(e.to_string()))?;
        let bos = tokenizer.bos().filter(|_| length > 1);
        let chunks = tokens.chunks(length - usize::from(bos.is_some()));
        chunks.map(|chunk| bos.into_iter().chain(chunk.iter().copied()).collect()).collect()
    };
    let vocab = architecture.vocab();
    for (sequence, tokens) in found.iter().enumerate() {
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(CalibrateError::Token { sequence, token, vocab });
        }
    }
    let chosen = choose(found, passages);
    let tokens = chosen.iter().map(Vec::len).sum();
    if tokens < LEAST { Err(CalibrateError::TooShort { tokens }) } else { Ok(chosen) }
}

/// As many of the sequences as have so many tokens, in their order.
fn choose(sequences: Vec<Vec<u32>>, Passages { tokens, seed }: Passages) -> Vec<Vec<u32>> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    if sequences.iter().map(Vec::len).sum::<usize>() > tokens {
        let mut random = SplitMix(seed);
        for i in (1..order.len()).rev() {
            order.swap(i, (random.next() % (i as u64 + 1)) as usize);
        }
    }
    let mut left = tokens;
    order.retain(|&i| {
        let fits = sequences[i].len() <= left;
        left -= if fits { sequences[i].len() } else { 0 };
        fits
    });
    order.sort_unstable();
    order.into_iter().map(|i| sequences[i].clone()).collect()
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
