//! From a checkpoint to a `.kinglet` file.
//!
//! | module | what it does |
//! |---|---|
//! | [`calibrate`] | chooses the passages of a text that rounding and pruning look at |
//! | [`rounding`] | rounds matrices |
//! | [`prune`] | takes heads and channels out, and lets the rest make up for them |
//! | [`fit`] | moves a rounded model's codes, scales and norms towards the f32 model |
//! | [`sensitivity`] | what a changed block does to the predictions |
//! | [`quantize()`] | does all of it, and writes the file |
//! | [`verdict`] | whether a file is any good, in a sentence |
//! | [`cut`] | makes an embedding model of a model's first blocks |
//!
//! One block is in memory at a time, and so is a batch of calibration tokens, which goes through
//! the blocks as they are rounded. The same checkpoint and options give the same file, byte for
//! byte, whatever the number of threads.

#![deny(unsafe_code)]
#![warn(missing_docs)]
#![warn(clippy::missing_errors_doc)]

mod blocks;
mod budget;
pub mod calibrate;
mod convert;
pub mod cut;
mod error;
pub mod fit;
mod fold;
mod golden;
mod heads;
mod layer;
mod lowering;
#[cfg(test)]
mod models;
mod options;
mod overhead;
mod plan;
pub mod prune;
mod reach;
mod record;
mod resume;
pub mod rounding;
pub mod sensitivity;
mod taken;
mod tensors;
#[cfg(test)]
mod tests;
pub mod verdict;

pub use convert::quantize;
pub use error::QuantizeError;
pub use golden::{Question, add as add_golden};
pub use lowering::tensor_name;
pub use options::{LABELS, Options, Summary, Target};
pub use reach::reachable;
pub use record::{TAKEN, record_path};
pub use taken::could_be_kept;
