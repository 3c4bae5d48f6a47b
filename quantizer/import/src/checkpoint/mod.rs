//! Checkpoints: Hugging Face directories, and GGUF files of the Llama class.
//!
//! ```text
//! config.json of other families ---> families --\
//! config.json ---------------\                   \
//! GGUF's metadata ----------> Config --\          \
//!                                       > Architecture: blocks that name tensors
//! *.safetensors headers ----> Tensors -/          |
//! GGUF's tensor infos ------/    \-- data ----------> read_rows: f32, a few rows at a time
//! ```
//!
//! Both are two sources of the same settings and tensors. The metadata of a GGUF
//! file is translated into the words of config.json, so one reader checks both;
//! tensors keep their own names, which one table for each source lists.
//!
//! This module is the only place that knows families. Those that are like Llama
//! (Mistral, Qwen2, Qwen3) are rows of one table, the others have a module each in
//! `families`. What comes out is an [`Architecture`]: stacks of blocks, each of which
//! says what it computes.
//!
//! Invariants:
//!
//! - Opening reads settings and headers only, in memory bounded by their length
//!   on disk. After it, settings and tensors agree: every tensor of the
//!   description exists, in its shape, and no other tensor is left over.
//! - Of a vocabulary that was cut down ([`Checkpoint::keep_tokens`]) nothing else
//!   is seen: rows, ids and tokenizer are those of the kept tokens.
//! - Numbers are read by rows, at positions, as f32, and are finite. Several
//!   threads may read at once.
//! - Whatever the files hold, the outcome is a checkpoint or a
//!   [`CheckpointError`] that says what to do.

mod architecture;
mod blocks;
mod branch;
mod coded;
mod config;
mod directory;
mod element;
mod error;
mod families;
mod family;
mod fields;
mod file;
mod finder;
mod gguf;
mod kept;
mod layers;
mod names;
mod rope;
mod rope_settings;
mod safetensors;
mod settings;
mod special_tokens;
mod tensors;
mod window;

use std::ops::Range;
use std::path::{Path, PathBuf};

pub use architecture::{
    Architecture, Block, Input, Linear, Named, Norm, Output, Product, Relative, Rope, Stack,
    TensorRef, Values, embedding, end_width, weights,
};
pub use coded::{Coded, Coding};
pub use error::CheckpointError;
pub use kept::Kept;

pub use kinglet_model::{Activation, Mask, NormKind, Picture, Pooling, Residual};

pub use branch::{AttentionBranch, Branch, FeedForwardBranch};
use families::PREPROCESSOR;
use file::PositionedFile;
use gguf::Gguf;
use tensors::Tensors;

use crate::tokenizer::words::{self, Side, Tokens};
use crate::tokenizer::{self, TokenizerImportError};

/// An open checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    architecture: Architecture,
    tensors: Tensors,
    /// None for a directory.
    gguf: Option<Gguf>,
    kept: Option<Kept>,
}

impl Checkpoint {
    /// Opens the checkpoint at `path`, a Hugging Face directory or a GGUF file, for
    /// the longest context at which it computes exactly what its reference does:
    /// `max_position_embeddings`, or the original context of a `longrope` model.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the files, or not supported.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        Self::open_at(path.as_ref(), None)
    }

    /// Opens the checkpoint at `path` for sequences of up to `context` tokens.
    ///
    /// A shorter context can make a sliding window irrelevant; a longer one than
    /// the original selects the long factors of a `longrope` model, at all positions.
    ///
    /// # Errors
    ///
    /// As [`Self::open`], and for a context beyond `max_position_embeddings`.
    pub fn with_context(path: impl AsRef<Path>, context: usize) -> Result<Self, CheckpointError> {
        Self::open_at(path.as_ref(), Some(context))
    }

    fn open_at(path: &Path, context: Option<usize>) -> Result<Self, CheckpointError> {
        let (architecture, tensors, gguf) = match path.is_file() {
            true => {
                let (architecture, tensors, gguf) = gguf::open(path, context)?;
                (architecture, tensors, Some(gguf))
            }
            false => {
                let (architecture, tensors) = directory::open(path, context)?;
                (architecture, tensors, None)
            }
        };
        Ok(Self { path: path.to_owned(), architecture, tensors, gguf, kept: None })
    }

    /// A directory whose tensors are read as a description says that no importer made.
    ///
    /// # Errors
    /// The tensors' files cannot be read.
    pub fn described(path: &Path, architecture: Architecture) -> Result<Self, CheckpointError> {
        Ok(Self {
            path: path.to_owned(),
            architecture,
            tensors: Tensors::open(path)?,
            gguf: None,
            kept: None,
        })
    }

    /// The directory or file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold its weights, in order.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.tensors.files.iter().map(PositionedFile::path)
    }

    /// The tokenizer section of its tokenizer; empty where there is none.
    ///
    /// # Errors
    ///
    /// What cannot be read, or not followed exactly.
    pub fn tokenizer(&self) -> Result<Vec<u8>, TokenizerImportError> {
        let section = match &self.gguf {
            Some(gguf) => gguf.tokenizer(&self.tensors)?,
            None if self.path.join("tokenizer.json").exists() => tokenizer::import(&self.path)?,
            None => self.listed(Side::Source, self.architecture.first())?,
        };
        match &self.kept {
            Some(kept) if !section.is_empty() => tokenizer::restricted(&section, kept.ids()),
            _ => Ok(section),
        }
    }

    /// The file that says how pictures are made ready (their size and the way to it), of models
    /// that read pictures. Scale and offset of their bytes are in [`Picture`] already.
    pub fn preparation(&self) -> Option<PathBuf> {
        let reads =
            matches!(self.architecture.first().input, Input::Features { picture: Some(_), .. });
        reads.then(|| self.path.join(PREPROCESSOR))
    }

    /// A tensor of the files, whether the model's description names it or not, by rows of its first
    /// dimension.
    pub fn stored(&self, name: &str) -> Option<TensorRef> {
        let stored = self.tensors.get(name)?;
        let (rows, cols) = match stored.shape.as_slice() {
            [first, rest @ ..] if !rest.is_empty() => (*first, rest.iter().product()),
            shape => (1, shape.iter().product()),
        };
        stored.element.is_ok().then(|| TensorRef::stored(name, rows, cols))
    }

    /// The tokenizer section for answers, of models whose answers have a vocabulary of their own;
    /// empty for others.
    ///
    /// # Errors
    ///
    /// As [`Self::tokenizer`].
    pub fn target_tokenizer(&self) -> Result<Vec<u8>, TokenizerImportError> {
        match self.path.join("tokenizer.json").exists() {
            true => Ok(Vec::new()),
            false => self.listed(Side::Target, self.architecture.last()),
        }
    }

    /// The section for a list of tokens, of a stack that reads them.
    fn listed(&self, side: Side, stack: &Stack) -> Result<Vec<u8>, TokenizerImportError> {
        let Some(embed) = embedding(stack) else { return Ok(Vec::new()) };
        let Architecture { bos, eos, .. } = &self.architecture;
        // Ends are those of answers.
        words::import(&self.path, side, Tokens { count: embed.rows(), bos: *bos, eos })
    }

    /// Cuts the vocabulary down to tokens whose ids ascend: what remains is described, read and
    /// tokenized as if there had never been others.
    ///
    /// # Errors
    ///
    /// A list without a token of the model or out of order, and a second one.
    pub fn keep_tokens(&mut self, ids: Vec<u32>) -> Result<(), CheckpointError> {
        if self.kept.is_some() {
            return Err(kept::refused("others were taken out before; open the checkpoint again"));
        }
        self.kept = Some(Kept::cut(&mut self.architecture, ids)?);
        Ok(())
    }

    /// The tokens that were kept; `None` if none were taken out.
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// What the model computes.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Reads some rows of a tensor into `out`, which holds exactly as many numbers.
    ///
    /// # Errors
    ///
    /// A number that is not finite, rows or a buffer that do not fit, or what the
    /// operating system says; then the content of `out` is unspecified.
    pub fn read_rows(
        &self,
        tensor: &TensorRef,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        self.tensors.read_rows(tensor, rows, out)
    }

    /// Numbers: those of a tensor, or what was computed.
    ///
    /// # Errors
    ///
    /// As [`Self::read_rows`].
    pub fn values(&self, of: &Values) -> Result<Vec<f32>, CheckpointError> {
        match of {
            Values::Tensor(tensor) => self.read(tensor),
            Values::Computed(numbers, _) => Ok(numbers.to_vec()),
        }
    }

    /// Reads a whole tensor.
    ///
    /// # Errors
    ///
    /// As [`Self::read_rows`].
    pub fn read(&self, tensor: &TensorRef) -> Result<Vec<f32>, CheckpointError> {
        // Shapes are those of stored tensors, so this is in proportion to the file.
        if self.tensors.get(&tensor.name).is_none() {
            return Err(tensors::unknown(tensor));
        }
        let mut numbers = vec![0.0; tensor.len()];
        self.read_rows(tensor, 0..tensor.rows, &mut numbers)?;
        Ok(numbers)
    }
}
