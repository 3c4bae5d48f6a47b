//! What quantization cost: perplexity on a text, and the distance of predictions and hidden states
//! from the f32 checkpoint's.
//!
//! # Protocol
//! The text is one sequence of tokens, without special ones. It is cut into windows of `window`
//! tokens that do not overlap. Each is run on its own, after a begin-of-sequence token, and all
//! its tokens are scored (without a begin token, all but the first). The last window may be short.
//! Perplexity is the exponential of the mean negative log-likelihood of a scored token.
//!
//! At each scored position p is the reference's distribution over the next token and q the model's.
//! The Kullback-Leibler divergence is `sum p ln(p / q)`, in nats; its 99th percentile is the
//! smallest value that 99% of the positions do not exceed. Top-1 agreement is the fraction of
//! positions where both find the same token most probable; top-5 agreement, where the reference's
//! most probable token is among the model's five. With several models the same is measured from the
//! first to each other.
//!
//! Hidden states are compared after the embedding and after each block that the model kept, found
//! by its layer and kind: the mean over tokens of `|h - r| / |r|`, and of the cosine. Each token
//! counts alike, since a few (the first above all) are hundreds of times as long as the others and
//! would hide them in a common sum.
//!
//! # Invariants
//! - Windows go through the reference in groups, and each block's weights are read once for a
//!   group; a group's streams, the states kept and the logits in flight stay below about 256 MB
//!   (`windows`), with a window's logits for each peer. Of large models the states of the first
//!   tokens of each group are compared; [`Hidden::tokens`] says of how many.
//! - Sums run over windows in order, so the result does not depend on the number of threads.

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(clippy::missing_errors_doc)]

pub mod activations;
pub mod continued;
mod error;
mod figures;
mod hidden;
mod logits;
mod peer;
pub mod record;
mod samples;
mod score;
pub mod size;
mod windows;

pub use error::EvaluateError;
pub use figures::{Divergence, Evaluation, Hidden, Part, Place, Protocol, StateError};
pub use logits::{evaluate, evaluate_all, evaluate_beside};
pub use peer::Peer;
pub use samples::{Agreement, Nearness, Outputs, compare, cosine};
