//! AArch64: one file an instruction set.

use core::ops::Range;

use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::Matrix;

mod dotprod;
mod i8mm;
mod neon;

use dotprod::DotProd;
use i8mm::I8mm;
use neon::Neon;

crate::vector::sets!(Neon = "neon", DotProd = "dotprod", I8mm = "i8mm");
