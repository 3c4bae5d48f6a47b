//! What the programs of this crate share: everything a Cortex-M board needs to run a Kinglet model.
//!
//! ```text
//! bin/self-test  bench  count  story  translate  caption   the programs
//!        target                    answers to a source, and what they took
//!        engine                    the model and its sessions
//! arena  model                     the two memories a model needs: working memory and its own bytes
//! stack  statics  ticks  marks     measuring: deepest stack, other memory, time, instructions
//! memory                           what kernels are called with when there is no model
//! registers                        what they must keep
//! host   faults                    words to the host, and what happens when something goes wrong
//! ```
//!
//! Which board it is shows nowhere in the program text: the memory map and the few constants of
//! [`board`] come from `boards/<board>.x` and `boards/<board>.conf` by way of build.rs.

#![no_std]

// The logger and the critical section are linked for their symbols alone.
use cortex_m as _;
use defmt_semihosting as _;

pub mod arena;
pub mod engine;
pub mod faults;
pub mod host;
pub mod marks;
pub mod memory;
pub mod model;
pub mod registers;
pub mod stack;
pub mod statics;
pub mod target;
pub mod ticks;

/// The board this program was built for.
pub mod board {
    include!(concat!(env!("OUT_DIR"), "/board.rs"));
}
