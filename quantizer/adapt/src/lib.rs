//! Teaching what stands between an encoder and a decoder to fit them together, on pairs of a source
//! and its text.
//!
//! ```text
//! source -> encoder (the runtime) -> states --interface (f32, learns)--> memory -> decoder (frozen) -> cross-entropy of the text
//! ```
//!
//! Encoder and decoder stay as they are in the file, rounded, and every byte of their tensors is
//! kept. The encoder runs once for each source, and its states stay in memory. The interface is
//! trained in f32 from the file's own weights or from random ones, scored as it would be written,
//! and rounded at the end.
//!
//! The same file, pairs and options give the same file on the same kind of machine, whatever the
//! number of threads: work is divided at fixed places.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod inference;
mod initialization;
mod pairs;
mod student;
mod train;
mod write;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use kinglet::tokenizer::TokenizerError;
use kinglet::{Map, Model, OpenError, PlanError, RunError, SessionError};

use self::pairs::Pairs;
use self::student::{Decoder, Interface};
use kinglet_media::MediaError;
use kinglet_model::write::WriteError;
use kinglet_quantize::QuantizeError;
use kinglet_quantize::rounding::HessianError;
use kinglet_reference::random::{Random, mixed};

/// Kinds of new interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One matrix.
    Linear,
    /// Two, with GELU between them.
    TwoLayer,
    /// Learned queries that look at the encoder's states, so that the decoder looks at a fixed
    /// number of rows.
    Resampler,
}

/// An interface that has learned nothing yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fresh {
    /// Its kind.
    pub shape: Shape,
    /// Queries of a resampler; by default 32.
    pub queries: Option<usize>,
    /// Width of the hidden layer of two, or of a resampler; by default the wider of what meets, or
    /// what the decoder looks at.
    pub width: Option<usize>,
}

/// How to adapt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// A new interface; nothing to go on with the file's.
    pub fresh: Option<Fresh>,
    /// Whether the norms of the decoder's attention across learn, too.
    pub norms: bool,
    /// How often each pair is seen.
    pub passes: usize,
    /// Pairs of a step.
    pub batch: usize,
    /// The largest step of a number.
    pub rate: f32,
    /// Part of the sources that is held out.
    pub held_out: f64,
    /// Of random weights, of the order of pairs and of those held out.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fresh: None,
            norms: false,
            passes: 20,
            batch: 32,
            rate: 2e-3,
            held_out: 0.1,
            seed: 1,
        }
    }
}

/// How well a file does on pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Score {
    /// How many there are.
    pub pairs: usize,
    /// Tokens of their texts, ends included.
    pub tokens: usize,
    /// Mean cross-entropy of a token, in nats.
    pub cross_entropy: f64,
    /// Part of the pairs whose greedy answer is the text.
    pub exact: f64,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Outcome {
    /// Pairs that were learned from.
    pub learned_from: usize,
    /// Numbers that learned.
    pub parameters: usize,
    /// Steps.
    pub steps: usize,
    /// The pass whose interface was kept; 0 for the one before the first.
    pub best_pass: usize,
    /// Mean cross-entropy of the held-out tokens before the first pass and after each, with the
    /// interface rounded.
    pub curve: Vec<f64>,
    /// The given file on the pairs held out, as the runtime runs it.
    pub file: Score,
    /// The interface as it was before training; the same as `file` unless it is new.
    pub before: Score,
    /// The written file.
    pub after: Score,
    /// Tensors that are those of the given file, byte for byte.
    pub kept_tensors: usize,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Why nothing was adapted. The target is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdaptError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The model cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// One stack alone.
    #[error(
        "the file has one stack only: there is nothing between an encoder and a decoder to adapt"
    )]
    Alone,
    /// The last stack writes no text.
    #[error(
        "the last stack is no decoder that writes tokens: only what stands between an encoder and \
         a decoder is adapted"
    )]
    NoDecoder,
    /// The first stack reads nothing.
    #[error("the first stack is no encoder")]
    NoEncoder,
    /// The decoder looks at no encoder.
    #[error(
        "the decoder has no attention across to the encoder's states, so nothing between them \
         would count"
    )]
    NotAcross,
    /// Nothing between the two.
    #[error(
        "the decoder looks at the encoder's states themselves: put an interface between them with \
         --interface linear, two-layer or resampler"
    )]
    NoInterface,
    /// An interface of another kind.
    #[error(
        "the interface {what}, which cannot be trained: put another in its place with --interface \
         linear, two-layer or resampler"
    )]
    Interface {
        /// What it does.
        what: &'static str,
    },
    /// A new interface that cannot be.
    #[error("{what}")]
    Fresh {
        /// Why not.
        what: String,
    },
    /// The encoder reads neither pictures nor text.
    #[error(
        "the encoder reads neither pictures of red, green and blue nor text, which is what pairs \
         are made of"
    )]
    Reads,
    /// No tokenizer.
    #[error(
        "the file carries no tokenizer for the texts of the pairs; quantize a directory that has \
         tokenizer.json"
    )]
    NoTokenizer,
    /// A tokenizer that contradicts itself.
    #[error("cannot read the file's tokenizer: {0}")]
    Tokenizer(TokenizerError),
    /// Pairs that are no text.
    #[error("{} is not UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// A line that is no pair.
    #[error("{}: line {line} {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// Too few pairs.
    #[error("{} has fewer than two sources: some are learned from and some held out, so give it \
             lines of a source, a tab and its text", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Settings of pictures that make no sense.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// There is no plan for the model.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// There is no session for the model.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A source cannot be run.
    #[error(transparent)]
    Run(RunError),
    /// The interface cannot be rounded.
    #[error("the interface cannot be rounded ({0}): try a smaller --rate")]
    Hessian(#[from] HessianError),
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The written file is not what it should be.
    #[error(transparent)]
    Golden(#[from] QuantizeError),
}

/// Adapts the interface of `file` to the pairs in `pairs`, and writes `target`, which may be the
/// same file. `progress` is called with what is being done, how much of it is done, and how much
/// there is.
///
/// # Errors
///
/// Files that cannot be read or have nothing to adapt, pairs that do not fit the model, a target
/// that cannot be written.
pub fn adapt(
    file: &Path,
    pairs: &Path,
    target: &Path,
    options: &Options,
    progress: &(dyn Fn(&str, u64, u64) + Sync),
) -> Result<Outcome, AdaptError> {
    let map = Map::open(file).map_err(|source| AdaptError::Io { path: file.into(), source })?;
    let model = Model::open(&map)?;
    let mut decoder = read_decoder(&model)?;
    let mut interface = match &options.fresh {
        None if model.stacks() == 2 => return Err(AdaptError::NoInterface),
        None => Interface::read(&model)?,
        Some(fresh) => {
            let context = model.stack(0)?.context as u32;
            let mut random = Random(mixed(options.seed));
            initialization::interface(
                fresh,
                model.end_width(0),
                decoder.memory(),
                context,
                &mut random,
            )?
        }
    };
    if options.norms {
        interface.norms = decoder.norms();
    }
    let pairs = Pairs::read(&model, pairs)?;
    let split = pairs.split(options.held_out, options.seed)?;
    let done = AtomicU64::new(0);
    let states = inference::states(&model, &pairs, &|more| {
        let before = done.fetch_add(more as u64, Ordering::Relaxed);
        progress("encoding", before + more as u64, pairs.sources.len() as u64);
    })?;
    let score = |path: &Path| -> Result<Score, AdaptError> {
        let map = Map::open(path).map_err(|source| AdaptError::Io { path: path.into(), source })?;
        inference::score(&Model::open(&map)?, &pairs, &split.held)
    };
    let given = score(file)?;
    let before = match options.fresh {
        None => given,
        Some(_) => score(write::write(&model, &interface, target)?.0.path())?,
    };
    let parameters = interface.parameters().iter().map(|numbers| numbers.len()).sum();
    let trained =
        train::train(interface, &mut decoder, &pairs, &states, &split, options, progress)?;
    let (finished, kept_tensors) = write::write(&model, &trained.best, target)?;
    let after = score(finished.path())?;
    let bytes = std::fs::metadata(finished.path()).map_or(0, |of| of.len());
    // A file that is mapped cannot be replaced everywhere.
    drop(map);
    finished.persist()?;
    Ok(Outcome {
        learned_from: split.seen.len(),
        parameters,
        steps: trained.steps,
        best_pass: trained.pass,
        curve: trained.curve,
        file: given,
        before,
        after,
        kept_tensors,
        bytes,
    })
}

/// The decoder of a model that has something to adapt.
fn read_decoder(model: &Model<'_>) -> Result<Decoder, AdaptError> {
    if model.stacks() == 1 {
        return Err(AdaptError::Alone);
    }
    if !model.is_decoder() {
        return Err(AdaptError::NoDecoder);
    }
    let decoder = Decoder::read(model)?;
    if decoder.memory() == 0 { Err(AdaptError::NotAcross) } else { Ok(decoder) }
}
