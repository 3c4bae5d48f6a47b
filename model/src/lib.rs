//! What a model is, and the `.kinglet` file.
//!
//! | module | what it knows |
//! |---|---|
//! | [`description`] | stacks, blocks and their parts, whatever their tensors are |
//! | [`lowering`] | which field of a record is which part of a block |
//! | [`layout`], `codes` | the records of a file, byte for byte, and what their fields may say |
//! | `model` | the tables of a file, in place |
//! | `view`, `validate` | records become stacks, blocks and tensors, with all checks |
//! | `open`, `verify` | checking a file: its structure, all of its bytes |
//! | `summary` | what follows from several records |
//! | `families` | what a build without the feature `families` leaves out |
//! | `write` | the writer, behind the feature `write` |

#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs, clippy::missing_errors_doc, clippy::missing_panics_doc)]

#[cfg(any(test, feature = "write"))]
extern crate std;

mod codes;
mod crc;
pub mod description;
mod error;
mod families;
mod golden;
pub mod layout;
pub mod lowering;
mod model;
mod open;
mod record;
#[cfg(feature = "write")]
mod replace;
mod sections;
mod summary;
mod validate;
mod verify;
mod view;
#[cfg(feature = "write")]
pub mod write;

pub use crc::Crc32;
pub use description::{
    Activation, Attention, Block, InPlace, Input, Inputs, Linear, Mask, Norm, NormKind, Operation,
    Output, Parts, Picture, Pooling, Residual, Rope, Site, Stack, Table,
};
pub use error::{
    BlockProblem, ModelProblem, OpenError, SectionProblem, StackProblem, TensorProblem,
};
pub use families::FAMILIES;
pub use golden::{Golden, LogitsHash};
pub use model::Model;
pub use verify::VerifyError;
pub use view::{Tensor, Values};
