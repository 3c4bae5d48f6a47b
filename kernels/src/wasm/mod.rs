//! WebAssembly: one file an instruction set.
//!
//! A module is checked as a whole before any of it runs, so nothing can be asked at run time: which
//! sets there are is settled by `-Ctarget-feature=+simd128` or `+relaxed-simd`, and without them no
//! instruction of theirs may be in the module.

use core::ops::Range;

use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::Matrix;

#[cfg(target_feature = "relaxed-simd")]
mod relaxed;
#[cfg(target_feature = "simd128")]
mod simd128;

#[cfg(target_feature = "relaxed-simd")]
use relaxed::Relaxed;
#[cfg(target_feature = "simd128")]
use simd128::Simd128;

#[cfg(not(target_feature = "simd128"))]
crate::vector::sets!();
#[cfg(all(target_feature = "simd128", not(target_feature = "relaxed-simd")))]
crate::vector::sets!(Simd128 = "simd128");
#[cfg(target_feature = "relaxed-simd")]
crate::vector::sets!(Simd128 = "simd128", Relaxed = "relaxed-simd");
