//! The `.kinglet` file: its records ([`layout`]), checksums, and the checked view of a file, [`Model`].

mod crc;
mod error;
mod golden;
pub mod layout;
mod model;
mod record;
mod sections;
mod view;

pub use crc::Crc32;
pub use error::{BlockProblem, ModelProblem, OpenError, SectionProblem, TensorProblem};
pub use golden::{Golden, LogitsHash};
pub use model::{Model, VerifyError};
pub use view::{Attention, Block, Middle, Tensor, Values};
