//! 32-bit Arm, the Cortex-M cores: one file an instruction set.
//!
//! What a core has is known when a program is compiled (`build.rs`), so there is one set at the most: a Cortex-M55 has no use for
//! the words of DSP beside its vectors.

use core::ops::Range;

use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::Matrix;

crate::vector::sets!();
