//! What a model computes, in terms of layers, whatever its tensors are.
//!
//! A model is a chain of stacks. Each stack turns its input into a residual stream of its own
//! width, takes it through its blocks and perhaps a final norm; the next goes on from there, or
//! attends to those states. A decoder or an encoder is one stack, an encoder-decoder two, and a
//! model that reads pictures may have a third between them.
//!
//! ```text
//! input + positions -> block -> ... -> block -> norm = states --+--> head of each position,
//!                                                               |    or pooling -> dense -> head
//!                                                               +--> the next stack's cross
//!                                                                    attention, or its input
//! ```
//!
//! A block is one residual branch, so attention and feed-forward are two:
//!
//! ```text
//! x -> norm -> input -+-> operation -> output -> residual: x + ..., norm(x) + ..., or ... alone
//!    states of the ---+   (attention, activation)
//!    stack before
//! ```
//!
//! The types here are written once and used by all who deal with models: [`Parts`] says what the
//! tensors are. They are names in a checkpoint where a model is imported, numbers where it runs in
//! f32, codes where it was rounded, and views of the file where it runs in place ([`InPlace`]).
//! [`Block::convert`] turns one into another.
//!
//! A new activation or mask begins here; `docs/extending.md` names the files that follow.

mod block;
mod convert;
mod parts;
mod stack;

pub use block::{Attention, Block, Mask, Norm, NormKind, Operation, Residual, Rope, Site};
pub use convert::Convert;
pub use kinglet_kernels::Activation;
pub use parts::{InPlace, Inputs, Linear, Parts, Table};
pub use stack::{Input, Output, Picture, Pooling, Stack};
