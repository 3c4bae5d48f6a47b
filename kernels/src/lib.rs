//! Weight tiles and the kernels that read them.
//!
//! This crate defines how weights, activations and key/value caches lie in memory ([`layout`],
//! [`activations`], [`cache`]) and every operation of the forward pass. [`scalar`], with the
//! products of `reference` and the walk of `attention`, is the specification: safe, portable code
//! whose results every other instruction set repeats bit for bit. [`Isa`] is the dispatch: a value
//! that can only be made where its instructions exist, with one method an operation.
//!
//! # The numbers
//!
//! * Matrix products are integer sums, wrapping in 32 bits, then `(sum as f32) * (row_scale *
//!   token_scale)`. Integer sums have no order, so tiling and threads cannot change a bit.
//! * The f32 work uses only IEEE addition, subtraction, multiplication, division, square root,
//!   comparison and conversion, each rounded to nearest even. There is no fused multiply-add
//!   anywhere: WebAssembly and small Cortex-M cores have none, and emulating one would cost more
//!   than it gains.
//! * Sums of f32 run in [`scalar::LANES`] lanes (element `i` into lane `i % LANES`), then a fixed
//!   tree.
//! * A NaN has no defined sign or payload. Where a NaN meets a decision (a maximum, a clamp, a
//!   rounding), the reference says which way it goes, so one NaN never makes two machines differ in
//!   anything but its bits.

#![no_std]
#![warn(missing_docs, clippy::missing_errors_doc, clippy::missing_panics_doc)]
#![allow(
    clippy::needless_range_loop,
    reason = "loops by index unroll, and their sums stay in registers"
)]
#![cfg_attr(
    not(target_arch = "x86_64"),
    allow(
        dead_code,
        unused_imports,
        unused_macros,
        reason = "no other architecture uses all that they share"
    )
)]
#![cfg_attr(
    target_arch = "wasm32",
    allow(unused_unsafe, reason = "a WebAssembly module has its features or is none")
)]

#[cfg(any(test, feature = "std"))]
extern crate std;

#[cfg(target_endian = "big")]
compile_error!("kinglet executes little-endian weights in place");

/// Panics unless operands fit each other. All say the same: texts of conditions would take 2 KB of
/// a board's flash.
macro_rules! fit {
    ($($condition:tt)*) => {
        assert!($($condition)*, "operands do not fit each other")
    };
}

mod activation;
pub mod activations;
mod attention;
pub mod cache;
mod gemm;
mod isa;
pub mod layout;
mod mask;
#[cfg(feature = "families")]
mod planes;
mod reference;
pub mod scalar;
mod vector;

/// The vector instruction sets of this architecture: the one place that knows which there are.
#[cfg_attr(target_arch = "aarch64", path = "aarch64/mod.rs")]
#[cfg_attr(target_arch = "x86_64", path = "x86/mod.rs")]
#[cfg_attr(target_arch = "arm", path = "arm/mod.rs")]
#[cfg_attr(target_arch = "wasm32", path = "wasm/mod.rs")]
#[cfg_attr(
    not(any(
        target_arch = "aarch64",
        target_arch = "x86_64",
        target_arch = "arm",
        target_arch = "wasm32"
    )),
    path = "portable.rs"
)]
mod arch;

pub use activation::Activation;
pub use activations::{Activations, ActivationsMut};
pub use attention::{Part, Scratch};
pub use cache::ValueFormat;
pub use isa::Isa;
pub use layout::{Format, LayoutError, Matrix};
#[cfg(feature = "families")]
pub use mask::Bias;
pub use mask::Mask;
