//! Checkpoints: a Hugging Face directory of the Llama class, described as a stack of blocks.
//!
//! config.json says what is computed, safetensors (f32, f16, bf16; one file or sharded) hold the numbers. Opening checks that the two
//! agree: each tensor is there once, with the right shape and type, and none is left over. Numbers are read by row ranges and
//! never kept, so a checkpoint may be larger than memory; each is checked to be finite when it is read.
//!
//! Families live in one table, `family.rs`; nothing else knows their names.

mod architecture;
mod config;
mod error;
mod family;
mod fields;
mod file;
mod rope;
mod store;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

pub use architecture::{Activation, Architecture, Attention, Block, FeedForward, Linear, Norm, Rope, TensorRef};
pub use error::CheckpointError;

use store::Store;

/// The longest config.json accepted.
const MAX_CONFIG: u64 = 10_000_000;

/// An opened checkpoint. Rows can be read from several threads at once.
#[derive(Debug)]
pub struct Checkpoint {
    architecture: Architecture,
    store: Store,
}

impl Checkpoint {
    /// Opens a directory. The context is the longest the model was made for (see `rope.rs` for the kinds of rotation that limit it).
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        Self::with_context(dir, None)
    }

    /// Opens a directory for a given context.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn with_context(dir: &Path, context: Option<usize>) -> Result<Self, CheckpointError> {
        let config = fields::read_object(&dir.join("config.json"), MAX_CONFIG)?;
        let architecture = config::read(&config, context)?;
        let store = Store::open(dir)?;
        let checkpoint = Self { architecture, store };
        checkpoint.check_tensors()?;
        Ok(checkpoint)
    }

    /// What it computes.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Reads rows of a tensor as f32 into `out`, which has as many numbers.
    ///
    /// # Errors
    /// A number that is not finite, or what the operating system reports.
    pub fn read_rows(&self, tensor: &TensorRef, rows: Range<usize>, out: &mut [f32]) -> Result<(), CheckpointError> {
        self.store.read(tensor, rows, out)
    }

    /// Reads a whole tensor.
    ///
    /// # Errors
    /// As [`Self::read_rows`].
    pub fn read(&self, tensor: &TensorRef) -> Result<Vec<f32>, CheckpointError> {
        let mut values = vec![0.0; tensor.len()];
        self.read_rows(tensor, 0..tensor.rows(), &mut values)?;
        Ok(values)
    }

    fn check_tensors(&self) -> Result<(), CheckpointError> {
        let mut known = BTreeSet::new();
        for (tensor, vector) in tensors(&self.architecture) {
            self.store.check(tensor, vector)?;
            known.insert(tensor.name());
        }
        let extra: Vec<_> =
            self.store.names().filter(|name| !known.contains(name) && !self.is_harmless(name)).collect();
        if extra.is_empty() {
            return Ok(());
        }
        let names = extra.iter().take(5).map(|&name| name.to_owned()).collect();
        Err(CheckpointError::ExtraTensors { names, count: extra.len() })
    }

    /// Tensors that old exports carry along: the rotary table, which follows from config.json, and a second copy of a tied head.
    fn is_harmless(&self, name: &str) -> bool {
        name.ends_with("rotary_emb.inv_freq") || (self.architecture.tied() && name == "lm_head.weight")
    }
}

/// Every tensor of an architecture, and whether it is a vector.
fn tensors(architecture: &Architecture) -> Vec<(&TensorRef, bool)> {
    let mut all =
        vec![(&architecture.embed, false), (&architecture.final_norm.weight, true), (&architecture.head, false)];
    for block in &architecture.blocks {
        let (norms, linears) = match block {
            Block::Attention(a) => {
                let norms = [Some(&a.norm), a.query_norm.as_ref(), a.key_norm.as_ref()];
                (norms, vec![&a.query, &a.key, &a.value, &a.output])
            }
            Block::FeedForward(f) => ([Some(&f.norm), None, None], vec![&f.gate, &f.up, &f.down]),
        };
        all.extend(norms.into_iter().flatten().map(|norm| (&norm.weight, true)));
        for linear in linears {
            all.push((&linear.weight, false));
            all.extend(linear.bias.iter().map(|bias| (bias, true)));
        }
    }
    all
}
