//! Kinglet: a transformer runtime for the smallest machine that can hold the model.
//!
//! A `.kinglet` file is executed where it lies (a memory map, flash, a static), in memory that the
//! caller lends and whose exact size [`Plan`] tells beforehand. The crate allocates nothing, and
//! gives the same bits on every machine.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let file = &kinglet_fixtures::STORYTELLER.0;
//! use kinglet::{Model, Options, Plan, Session, argmax};
//!
//! let model = Model::open(file)?;
//! let options = Options { context: 128, prefill: 16, ..Options::DECODE };
//! let mut memory = vec![0u8; Plan::new(&model, options)?.bytes() + 64];
//! let start = memory.as_ptr().align_offset(64);
//! let mut session = Session::new(&model, options, &mut memory[start..])?;
//! let mut token = argmax(session.feed(&[1, 403, 407])?);
//! for _ in 0..64 {
//!     token = argmax(session.feed(&[token])?);
//! }
//! # Ok(()) }
//! ```
//!
//! Features: `std` adds opening by memory map, threads and the detection of instruction sets.

#![no_std]
#![deny(unsafe_code)]
#![warn(missing_docs, clippy::missing_errors_doc, clippy::missing_panics_doc)]

#[cfg(any(test, feature = "std"))]
extern crate std;

mod beam;
#[cfg(feature = "std")]
mod map;
#[cfg(feature = "std")]
mod memory;
mod options;
mod parallel;
mod plan;
mod sampler;
mod session;

pub use beam::BeamSearch;
pub use kinglet_kernels::{Activation, Format, Isa, Matrix, ValueFormat};
pub use kinglet_model as format;
pub use kinglet_model::{Golden, LogitsHash, Model, OpenError, VerifyError};
pub use kinglet_tokenizer as tokenizer;
#[cfg(feature = "std")]
pub use map::Map;
#[cfg(feature = "std")]
pub use memory::{Memory, MemoryError};
pub use options::{MAX_TARGETS, Options};
#[cfg(feature = "std")]
pub use parallel::Threads;
pub use parallel::{Parallel, Serial};
pub use plan::{Plan, PlanError};
pub use sampler::{Sampler, Sampling, argmax};
pub use session::{
    Aligned, ArenaError, GoldenError, Progress, RunError, Session, SessionError, Source, TapError,
};
