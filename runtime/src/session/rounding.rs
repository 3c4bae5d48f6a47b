//! Rows of activations as products read them: rounded, transformed first, or in two planes.

use core::ops::Range;

use kinglet_kernels::{Activations, ActivationsMut, Isa};
use kinglet_model::Inputs;

use super::families;

/// Quantizes a row for a product with such inputs; it is transformed in place, or left as what the
/// first plane leaves out.
pub(super) fn quantize_row(
    isa: Isa,
    x: &mut [f32],
    inputs: Inputs,
    to: &mut ActivationsMut<'_>,
    row: usize,
) {
    if inputs == Inputs::Transformed {
        isa.transform(x);
    }
    if inputs.planes() > 1 {
        families::quantize_planes(isa, x, to, row);
    } else {
        isa.quantize(x, to, row);
    }
}

/// All `rows` rows of activations of `cols` values, as a product with such inputs reads them.
pub(super) fn activations<'a>(
    (codes, sums, scales): (&'a [i8], &'a [i16], &'a [f32]),
    inputs: Inputs,
    cols: usize,
    rows: usize,
) -> Activations<'a> {
    families::planes(Activations::new(codes, sums, &scales[..rows * inputs.planes()], cols), inputs)
}

/// Memory for some of the `all` rows of activations of `cols` values, for a product with such
/// inputs.
pub(super) fn rows_of<'a>(
    (codes, sums, scales): (&'a mut [i8], &'a mut [i16], &'a mut [f32]),
    inputs: Inputs,
    cols: usize,
    all: usize,
    rows: Range<usize>,
) -> ActivationsMut<'a> {
    let all = ActivationsMut::new(codes, sums, &mut scales[..all * inputs.planes()], cols);
    families::planes_mut(all, inputs).split_at(rows.end).0.split_at(rows.start).1
}
