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
#![warn(clippy::missing_errors_doc)]

mod decoder;
mod error;
mod inference;
mod initialization;
mod interface;
mod options;
mod pairs;
mod run;
mod streams;
mod student;
mod train;
mod write;

pub use error::AdaptError;
pub use options::{Fresh, Options, Outcome, Score, Shape};
pub use run::adapt;
