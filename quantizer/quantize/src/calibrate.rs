//! Calibration: the samples that rounding, pruning and fitting look at.
//!
//! For a decoder a text is cut into passages of equal length, each after a begin-of-sequence
//! token; when there are more than asked for, as many as needed are chosen by a seeded shuffle and
//! kept in the order of the text. So the same file, count and seed give the same samples. An
//! encoder takes the lines of a text, and a model with source and target pairs.

use std::path::{Path, PathBuf};

use kinglet::tokenizer::Tokenizer;
use kinglet_import::regular::{self, Kind};

use kinglet_import::checkpoint::{Architecture, Checkpoint, Input, TensorRef, embedding};
use kinglet_import::tokenizer::TokenizerImportError;
use kinglet_reference::random::Random;
use kinglet_reference::{Sample, Source};

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
    #[error(
        "a .json file holds a list of samples, each a list of token ids (or of numbers, as the \
         model reads them) or {{\"source\": [...], \"target\": [ids]}}: {0}"
    )]
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
    /// A line of a text without its target.
    #[error("line {line} has no target: write the source, a tab and the target on each line")]
    NoTarget {
        /// The line, from 1.
        line: usize,
    },
    /// The model reads something else.
    #[error("the model reads {reads}: a text says nothing of them")]
    Kind {
        /// What.
        reads: &'static str,
    },
    /// Too little to learn from.
    #[error("it has {tokens} tokens; at least {LEAST} are needed, and 32768 do well")]
    TooShort {
        /// Tokens found.
        tokens: usize,
    },
}

/// Samples for a checkpoint, from a text or from a .json file, as the model reads them:
///
/// - one causal stack of tokens: passages of a text, or lists of ids;
/// - one stack of tokens that sees all of them: the lines of a text, each with the special tokens
///   of its tokenizer, or lists of ids;
/// - tokens and a target: lines of a source, a tab and a target, or objects `{"source": [ids],
///   "target": [ids]}`, whose target is what the last stack reads, with the token that it begins
///   with;
/// - rows of numbers: lists of numbers, or such objects with numbers as their source.
///
/// # Errors
/// [`CalibrateError`]. Pictures have no such file: make [`Sample`]s of them.
pub fn sequences(
    checkpoint: &Checkpoint,
    path: &Path,
    passages: Passages,
) -> Result<Vec<Sample>, CalibrateError> {
    enough(all(checkpoint, path)?, checkpoint.architecture(), passages)
}

/// Samples to calibrate on, and others to judge the result by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Split {
    /// As [`sequences`] finds them, in all but the last tenth.
    pub calibration: Vec<Sample>,
    /// Of the last tenth, the last; none where too little would be left.
    pub held_out: Vec<Sample>,
}

/// As [`sequences`], without the last tenth of the samples, of which as many are held out as have
/// at most so many tokens.
///
/// # Errors
/// As [`sequences`].
pub fn split(
    checkpoint: &Checkpoint,
    path: &Path,
    passages: Passages,
    held_out: usize,
) -> Result<Split, CalibrateError> {
    let architecture = checkpoint.architecture();
    let mut found = all(checkpoint, path)?;
    let tokens =
        |samples: &[Sample]| samples.iter().map(|sample| sample.size(architecture)).sum::<usize>();
    let kept = found.len() - found.len() / 10;
    let mut last = if tokens(&found[..kept]) < LEAST { vec![] } else { found.split_off(kept) };
    let mut left = held_out;
    let fits = |sample: &&Sample| {
        let size = sample.size(architecture);
        let fits = size <= left;
        left = left.saturating_sub(size);
        fits
    };
    let fitting = last.iter().rev().take_while(fits).count();
    last.drain(..last.len() - fitting);
    Ok(Split { calibration: enough(found, architecture, passages)?, held_out: last })
}

/// Chooses among samples, if there are enough.
fn enough(
    found: Vec<Sample>,
    architecture: &Architecture,
    passages: Passages,
) -> Result<Vec<Sample>, CalibrateError> {
    let chosen = choose(found, architecture, passages);
    let tokens = chosen.iter().map(|sample| sample.size(architecture)).sum();
    if tokens < LEAST { Err(CalibrateError::TooShort { tokens }) } else { Ok(chosen) }
}

/// All samples of a file, in order.
fn all(checkpoint: &Checkpoint, path: &Path) -> Result<Vec<Sample>, CalibrateError> {
    let architecture = checkpoint.architecture();
    let bytes = regular::read(path, Kind::Text)?;
    let json = path.extension().is_some_and(|e| e == "json");
    let found = match (&architecture.first().input, json) {
        (Input::Tokens { .. }, true) => ids(architecture, &bytes)?,
        (Input::Tokens { .. }, false) => texts(checkpoint, &bytes)?,
        (Input::Features { .. }, true) => {
            let given: Vec<Given<f32>> = serde_json::from_slice(&bytes)?;
            given.into_iter().map(|given| given.sample(Source::Features)).collect()
        }
        (Input::Features { .. }, false) => {
            return Err(CalibrateError::Kind { reads: "rows of numbers, in a .json file" });
        }
        _ => return Err(CalibrateError::Kind { reads: "pictures" }),
    };
    for (sequence, sample) in found.iter().enumerate() {
        let source = match &sample.source {
            Source::Tokens { tokens, .. } => tokens.as_slice(),
            Source::Features(_) | Source::Pixels(_) => &[],
        };
        let of = embedding(architecture.first()).map_or(0, TensorRef::rows);
        for (tokens, vocab) in [(source, of), (&sample.target, architecture.vocab())] {
            if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab) {
                return Err(CalibrateError::Token { sequence, token, vocab });
            }
        }
    }
    Ok(found)
}

/// An entry of a .json file.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Given<T> {
    Alone(Vec<T>),
    Pair { source: Vec<T>, target: Vec<u32> },
}

impl<T> Given<T> {
    fn sample(self, source: impl Fn(Vec<T>) -> Source) -> Sample {
        match self {
            Self::Alone(numbers) => Sample { source: source(numbers), target: vec![] },
            Self::Pair { source: numbers, target } => Sample { source: source(numbers), target },
        }
    }
}

fn of_tokens(tokens: Vec<u32>) -> Source {
    Source::Tokens { tokens, types: vec![] }
}

/// Token ids of a .json file; what is too long is cut into passages where a passage means as much
/// as the whole, and elsewhere short.
fn ids(architecture: &Architecture, bytes: &[u8]) -> Result<Vec<Sample>, CalibrateError> {
    let given: Vec<Given<u32>> = serde_json::from_slice(bytes)?;
    let context = architecture.first().context;
    let samples = given.into_iter().flat_map(|given| match given {
        Given::Alone(tokens) if architecture.is_causal() => tokens
            .chunks(PASSAGE.min(context))
            .map(|passage| Sample::from(passage.to_vec()))
            .collect(),
        given => vec![shortened(given.sample(of_tokens), architecture)],
    });
    Ok(samples.collect())
}

/// A sample that fits the model.
fn shortened(mut sample: Sample, architecture: &Architecture) -> Sample {
    if let Source::Tokens { tokens, .. } = &mut sample.source {
        tokens.truncate(architecture.first().context);
    }
    sample.target.truncate(architecture.last().context);
    sample
}

/// What a text gives.
fn texts(checkpoint: &Checkpoint, bytes: &[u8]) -> Result<Vec<Sample>, CalibrateError> {
    let architecture = checkpoint.architecture();
    let text =
        std::str::from_utf8(bytes).map_err(|e| CalibrateError::NotUtf8 { at: e.valid_up_to() })?;
    let section = checkpoint.tokenizer()?;
    if section.is_empty() {
        return Err(CalibrateError::NoTokenizer(checkpoint.path().to_path_buf()));
    }
    let failed = |e: &dyn std::fmt::Display| CalibrateError::Encode(e.to_string());
    let tokenizer = Tokenizer::parse(&section).map_err(|e| failed(&e))?;
    let encode = |text: &str, special| {
        kinglet_import::encode(&tokenizer, text, special).map_err(|e| failed(&e))
    };
    if architecture.stacks.len() == 1 && architecture.is_causal() {
        let length = PASSAGE.min(architecture.first().context);
        let tokens = encode(text, false)?;
        let bos = tokenizer.bos().filter(|_| length > 1);
        let chunks = tokens.chunks(length - usize::from(bos.is_some()));
        return Ok(chunks
            .map(|chunk| bos.into_iter().chain(chunk.iter().copied()).collect::<Vec<_>>().into())
            .collect());
    }
    let mut samples = vec![];
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (source, target) = match line.split_once('\t') {
            _ if architecture.stacks.len() == 1 => (line, None),
            Some((source, target)) => (source, Some(target)),
            None => return Err(CalibrateError::NoTarget { line: number + 1 }),
        };
        let mut sample = Sample::from(encode(source, true)?);
        if let Some(target) = target {
            let answer =
                encode(target, true)?.into_iter().filter(|token| !architecture.eos.contains(token));
            sample.target = architecture.start.into_iter().chain(answer).collect();
        }
        samples.push(shortened(sample, architecture));
    }
    Ok(samples)
}

/// As many of the samples as have so many tokens, in their order.
fn choose(
    samples: Vec<Sample>,
    architecture: &Architecture,
    Passages { tokens, seed }: Passages,
) -> Vec<Sample> {
    let sizes: Vec<usize> = samples.iter().map(|sample| sample.size(architecture)).collect();
    let mut order: Vec<usize> = (0..samples.len()).collect();
    if sizes.iter().sum::<usize>() > tokens {
        let mut random = Random(seed);
        for i in (1..order.len()).rev() {
            order.swap(i, (random.next_u64() % (i as u64 + 1)) as usize);
        }
    }
    let mut left = tokens;
    order.retain(|&i| {
        let fits = sizes[i] <= left;
        left -= if fits { sizes[i] } else { 0 };
        fits
    });
    order.sort_unstable();
    order.into_iter().map(|i| samples[i].clone()).collect()
}
