//! Checkpoints of the Llama class, as Hugging Face directories.
//!
//! ```text
//! config.json ----------> Config ------\
//!                                       > Architecture: blocks that name tensors
//! *.safetensors headers -> Tensors ----/          |
//!        \-- data ------------------------> read_rows: f32, a few rows at a time
//! ```
//!
//! This module is the only place that knows families (Llama, Mistral, Qwen2,
//! Qwen3), and knows them as the rows of one table. What comes out is an
//! [`Architecture`]: blocks, each of which says what it computes.
//!
//! Invariants:
//!
//! - Opening reads settings and headers only, in memory bounded by their length
//!   on disk. After it, settings and tensors agree: every tensor of the
//!   description exists, in its shape, and no other tensor is left over.
//! - Numbers are read by rows, at positions, as f32, and are finite. Several
//!   threads may read at once.
//! - Whatever the files hold, the outcome is a checkpoint or a
//!   [`CheckpointError`] that says what to do.

mod architecture;
mod config;
mod convert;
mod error;
mod family;
mod fields;
mod file;
mod layers;
mod rope;
mod rope_settings;
mod special_tokens;
mod tensors;
mod window;

use std::ops::Range;
use std::path::{Path, PathBuf};

pub use architecture::{Activation, Architecture, Attention, Block, FeedForward, Linear, Norm, Rope, TensorRef};
pub use error::CheckpointError;

use config::Config;
use convert::Element;
use fields::{Fields, read_object};
use tensors::{Stored, Tensors};

/// Bytes of config.json and of generation_config.json.
const CONFIG_LIMIT: u64 = 1 << 20;
/// Bytes read from a file at once.
const READ_AT_ONCE: usize = 1 << 18;

/// An open checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    architecture: Architecture,
    tensors: Tensors,
}

impl Checkpoint {
    /// Opens the checkpoint in `dir` for the longest context at which it computes
    /// exactly what its reference does: `max_position_embeddings`, or the
    /// original context of a `longrope` model.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the files, or not supported.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        Self::open_at(dir.as_ref(), None)
    }

    /// Opens the checkpoint in `dir` for sequences of up to `context` tokens.
    ///
    /// A shorter context can make a sliding window irrelevant; a longer one than
    /// the original selects the long factors of a `longrope` model, at all positions.
    ///
    /// # Errors
    ///
    /// As [`Self::open`], and for a context beyond `max_position_embeddings`.
    pub fn with_context(dir: impl AsRef<Path>, context: usize) -> Result<Self, CheckpointError> {
        Self::open_at(dir.as_ref(), Some(context))
    }

    fn open_at(dir: &Path, context: Option<usize>) -> Result<Self, CheckpointError> {
        const CONFIG: &str = "config.json";
        const GENERATION: &str = "generation_config.json";
        let config = read_object(&dir.join(CONFIG), CONFIG_LIMIT)?;
        let generation = dir.join(GENERATION);
        let generation = match generation.exists() {
            true => Some(read_object(&generation, CONFIG_LIMIT)?),
            false => None,
        };
        let generation = generation.as_ref().map(|map| Fields::new(map, GENERATION));
        let config = Config::read(Fields::new(&config, CONFIG), generation, context)?;
        let tensors = Tensors::open(dir)?;
        Ok(Self { dir: dir.to_owned(), architecture: layers::describe(config, &tensors)?, tensors })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
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
    pub fn read_rows(&self, tensor: &TensorRef, rows: Range<usize>, out: &mut [f32]) -> Result<(), CheckpointError> {
        let stored = self.tensors.get(&tensor.name);
        let Some((stored, element)) = stored.and_then(|s| Some((s, Element::of(s.dtype)?))) else {
            return Err(unknown(tensor));
        };
        let fits = rows.start <= rows.end && rows.end <= tensor.rows;
        if !fits || rows.len().checked_mul(tensor.cols) != Some(out.len()) {
            return Err(CheckpointError::RowRange {
                tensor: tensor.name.clone(),
                start: rows.start,
                end: rows.end,
                rows: tensor.rows,
                cols: tensor.cols,
                buffer: out.len(),
            });
        }
        let skipped = rows.start.saturating_mul(tensor.cols);
        self.read_numbers(tensor, stored, element, skipped, out)
    }

    /// Reads a whole tensor.
    ///
    /// # Errors
    ///
    /// As [`Self::read_rows`].
    pub fn read(&self, tensor: &TensorRef) -> Result<Vec<f32>, CheckpointError> {
        if self.tensors.get(&tensor.name).is_none() {
            return Err(unknown(tensor));
        }
        // As much as the file holds, at most.
        let mut numbers = vec![0.0; tensor.len()];
        self.read_rows(tensor, 0..tensor.rows, &mut numbers)?;
        Ok(numbers)
    }

    /// Reads numbers from the `skipped`th on.
    fn read_numbers(
        &self,
        tensor: &TensorRef,
        stored: &Stored,
        element: Element,
        skipped: usize,
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let file = self.tensors.file(stored).ok_or_else(|| unknown(tensor))?;
        let per_read = READ_AT_ONCE / element.size();
        let mut bytes = vec![0; out.len().min(per_read).saturating_mul(element.size())];
        let mut done = skipped;
        for out in out.chunks_mut(per_read) {
            let bytes = &mut bytes[..out.len() * element.size()];
            // A reference to a tensor of another checkpoint may be larger than the
            // one here; then this passes the end of the data, or of the file.
            let offset = (done as u64).saturating_mul(element.size() as u64);
            file.read_exact_at(bytes, stored.offset.saturating_add(offset))?;
            element.convert(bytes, out);
            if let Some((at, value)) = convert::first_not_finite(out) {
                return Err(CheckpointError::NotFinite {
                    tensor: tensor.name.clone(),
                    row: (done + at) / tensor.cols,
                    col: (done + at) % tensor.cols,
                    value,
                });
            }
            done += out.len();
        }
        Ok(())
    }
}

fn unknown(tensor: &TensorRef) -> CheckpointError {
    CheckpointError::UnknownTensor { tensor: tensor.name.clone() }
}
