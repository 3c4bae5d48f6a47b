//! 32-bit Arm, the Cortex-M cores: one file an instruction set.
//!
//! What a core has is known when a program is compiled (`build.rs`), so there is one set at the most: a Cortex-M55 has no use for
//! the words of DSP beside its vectors.

use core::ops::Range;

use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::Matrix;

#[cfg(kinglet_dsp)]
mod dsp;
#[cfg(kinglet_mve)]
mod helium;

#[cfg(kinglet_dsp)]
crate::vector::sets!(Dsp = "dsp");
#[cfg(kinglet_mve)]
crate::vector::sets!(Helium = "helium");
#[cfg(not(any(kinglet_dsp, kinglet_mve)))]
crate::vector::sets!();

#[cfg(kinglet_dsp)]
use dsp::Dsp;
#[cfg(kinglet_mve)]
use helium::Helium;
