//! x86-64: one file an instruction set.

use core::ops::Range;

use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::Matrix;

mod amx;
mod avx2;
mod avx512;
mod avx_vnni;
mod vnni;

use amx::Amx;
use avx_vnni::AvxVnni;
use avx2::Avx2;
use avx512::Avx512;

crate::vector::sets!(Avx2 = "avx2", AvxVnni = "avxvnni", Avx512 = "avx512", Amx = "amx");
