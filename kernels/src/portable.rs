//! An architecture without vector kernels of its own.

use core::ops::Range;

use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::Matrix;

crate::vector::sets!();
