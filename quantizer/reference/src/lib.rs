//! The forward pass of a checkpoint in f32: what quantization is measured
//! against, and where calibration looks on.
//!
//! Many sequences go through one block together, so each block's weights are
//! needed once for all of them, and in memory one block at a time:
//!
//! ```text
//! embed -> Batch --advance(block 0)--> Batch --advance(block 1)--> ... --head--> logits, or what is pooled
//!                      ^ BlockWeights: resident, or read and dropped
//! ```
//!
//! Blocks are numbered over all stacks. The first block of a later stack finds the hand-over done:
//! the states of the stack before have become the memory, or its input.
//!
//! [`Reference::run`] and [`Reference::logits`] do all of it; a quantizer that
//! rounds block after block takes the steps itself, with weights of its own.
//!
//! Invariants:
//!
//! - Everything is f32 (sums of squares and positions in f64). Work is divided
//!   at fixed places whatever the number of threads, so the same machine gives
//!   the same bits with any number. Another instruction set may round elsewhere.
//! - Tokens and lengths are checked when a batch is made; after that only
//!   reading can fail.

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(clippy::missing_errors_doc)]

pub mod attention;
mod batch;
mod error;
mod forward;
mod head;
mod observer;
pub mod ops;
pub mod product;
pub mod random;
mod run;
pub mod tape;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod weights;

pub use batch::{Batch, Part, Sample, Sequences, Source};
pub use error::ReferenceError;
pub use forward::{Forward, base, joined, mix};
pub use kinglet_model::{Inputs, Operation, Site};
pub use observer::{Observation, Observer};
pub use run::{RESIDENT_BYTES, Reference};
pub use weights::{
    ApplyNorm, BlockWeights, Heads, LinearWeights, NormWeights, Numbers, Vectors, prepare,
    read_norm, relative_of,
};
