//! The `.kinglet` file: its records ([`layout`]), checksums, and the checked view of a file,
//! [`Model`].

#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(any(test, feature = "write"))]
extern crate std;

mod crc;
mod error;
mod golden;
pub mod layout;
mod model;
mod record;
mod sections;
mod view;
#[cfg(feature = "write")]
pub mod write;

pub use crc::Crc32;
pub use error::{
    BlockProblem, ModelProblem, OpenError, SectionProblem, StackProblem, TensorProblem,
};
pub use golden::{Golden, LogitsHash};
pub use model::{Model, VerifyError};
pub use view::FAMILIES;
pub use view::{
    Attention, Block, Input, Inputs, Join, Linear, Middle, Norm, Output, Picture, Sight, Stack,
    Tensor, Values,
};
