//! Why an interface was not trained.

use std::path::PathBuf;

use kinglet::tokenizer::TokenizerError;
use kinglet::{MemoryError, OpenError, PlanError, RunError, SessionError};
use kinglet_media::MediaError;
use kinglet_model::write::WriteError;
use kinglet_quantize::QuantizeError;
use kinglet_quantize::rounding::HessianError;

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
    /// There is no memory for the model.
    #[error(transparent)]
    Memory(#[from] MemoryError),
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
