//! Products that are sums of others: of two planes of activations, and of weights with offsets.
//!
//! A row in two planes is two rows of int8, each with its own scale and sums: the high one is what
//! one plane would be, the low one is what that leaves out. A matrix with offsets is an int4 matrix
//! and a correction that needs no more of the activations than the sum of each group:
//!
//! ```text
//! y[plane] = int4 product + ((sum over groups of offset * sums[group]) as f32) * (offset_scale * token_scale)
//! y        = y[high] + y[low]
//! ```
//!
//! Both are made of the products that every instruction set has, so there are no kernels here. The
//! correction is an integer sum that wraps in 32 bits, its order does not matter; each of the two
//! f32 additions stands alone. The weights of a panel are read once for a block of rows: their
//! results lie in [`ROOM`] on the stack until pairs of planes are added.

use core::ops::Range;

use crate::activations::{Activations, ActivationsMut};
use crate::layout::{Matrix, PANEL};

/// Results that lie on the stack: of 16 rows with one panel, or of two rows with eight panels.
/// Machines with an operating system have room for the 64 rows that their kernels walk over at
/// once.
const ROOM: usize = if cfg!(target_os = "none") { 256 } else { 1024 };

/// A product of rows of one plane: rows, panels, results and their stride.
type Product<'p> = dyn Fn(&Activations<'_>, Range<usize>, &mut [f32], usize) + 'p;
/// Quantizes numbers to codes and their sums, and returns the scale.
type Quantize<'q> = dyn Fn(&[f32], &mut [i8], &mut [i16]) -> f32 + 'q;

/// Whether a product is one of these.
#[inline]
pub(crate) fn is_sum(w: &Matrix<'_>, x: &Activations<'_>) -> bool {
    x.planes() > 1 || w.format().has_offsets()
}

/// [`Isa::matmul`](crate::Isa::matmul) of such a product, by way of `product`, which multiplies
/// rows of one plane with panels of [`Matrix::without_offsets`].
#[inline(never)]
pub(crate) fn matmul(
    w: &Matrix<'_>,
    x: &Activations<'_>,
    panels: Range<usize>,
    out: &mut [f32],
    stride: usize,
    product: &Product<'_>,
) {
    if x.planes() == 1 {
        product(x, panels.clone(), out, stride);
        return add_offsets(w, x, panels, out, stride);
    }
    let x = x.in_one_plane();
    let mut room = [0.0; ROOM];
    let rows = x.rows().min(ROOM / PANEL);
    let together = ROOM / PANEL / rows;
    for first in panels.clone().step_by(together) {
        let some = first..panels.end.min(first + together);
        let across = some.len() * PANEL;
        let width = w.rows().min(some.end * PANEL) - first * PANEL;
        for row in (0..x.rows()).step_by(rows) {
            let x = x.slice(row, rows.min(x.rows() - row));
            let y = &mut room[..x.rows() * across];
            product(&x, some.clone(), y, across);
            add_offsets(w, &x, some.clone(), y, across);
            for (m, pair) in (row / 2..).zip(y.chunks_exact(2 * across)) {
                let (high, low) = pair.split_at(across);
                let out = &mut out[m * stride + (first - panels.start) * PANEL..][..width];
                for ((out, high), low) in out.iter_mut().zip(high).zip(low) {
                    *out = high + low;
                }
            }
        }
    }
}

/// Adds the offsets' part of a product to the others' sum.
fn add_offsets(
    w: &Matrix<'_>,
    x: &Activations<'_>,
    panels: Range<usize>,
    out: &mut [f32],
    stride: usize,
) {
    for p in panels.clone() {
        let Some((offsets, scales)) = w.panel_offsets(p) else { return };
        let width = w.panel_rows(p);
        for m in 0..x.rows() {
            let sums = weighted(offsets, x.sums(m));
            let scale = x.scale(m);
            let out = &mut out[m * stride + (p - panels.start) * PANEL..][..width];
            for ((out, &sum), row) in out.iter_mut().zip(&sums).zip(scales) {
                *out += sum as f32 * (row * scale);
            }
        }
    }
}

/// The sum of each row's offsets, each times the sum of its group's activations, wrapping.
#[inline]
fn weighted(offsets: &[[i8; PANEL]], sums: &[i16]) -> [i32; PANEL] {
    let mut all = [0i32; PANEL];
    for (offsets, &sum) in offsets.iter().zip(sums) {
        for r in 0..PANEL {
            // 127 * 32 * 128 needs 20 bits: 16 by 16 give 32.
            all[r] = all[r].wrapping_add(i32::from(i16::from(offsets[r])) * i32::from(sum));
        }
    }
    all
}

/// Quantizes `x` into both planes of row `row` by way of `quantize`, which writes one. What is left
/// in `x` is the remainder that the low plane was made of.
pub(crate) fn quantize(
    x: &mut [f32],
    to: &mut ActivationsMut<'_>,
    row: usize,
    quantize: &Quantize<'_>,
) {
    for plane in 2 * row..2 * row + 2 {
        let (codes, sums, scale) = to.row_of_planes(plane);
        fit!(codes.len() == crate::activations::stride(x.len()));
        *scale = quantize(x, codes, sums);
        if plane % 2 == 0 {
            for (x, &code) in x.iter_mut().zip(&*codes) {
                *x -= f32::from(code) * *scale;
            }
        }
    }
}
