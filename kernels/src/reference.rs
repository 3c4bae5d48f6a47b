//! The reference's integer products, spelled out, and its attention: with [`scalar`](crate::scalar),
//! which has all other operations, the specification.

use core::ops::Range;

use crate::activations::{Activations, Row};
use crate::attention::{Part, Scratch, attend_with};
use crate::cache::Head;
use crate::gemm::{Product, Sums, store_each};
use crate::layout::{Format, GROUP, GROUP_BYTES, Matrix, PANEL, QUAD, TILE};
use crate::mask::Mask;
#[cfg(feature = "families")]
pub(crate) use crate::scalar::{activate, layer_norm, mul};
pub(crate) use crate::scalar::{add, quantize, rms_norm, rope, silu_mul, softmax, transform};

/// The reference's integer products.
#[derive(Clone, Copy)]
struct Reference;

impl Product for Reference {
    #[inline(always)]
    fn int8<const P: usize, const M: usize>(
        self,
        codes: [&[u8]; P],
        rows: [Row<'_>; M],
    ) -> Sums<P, M> {
        codes.map(|codes| {
            rows.map(|row| {
                let mut acc = [0; PANEL];
                int8(codes, row, &mut acc);
                acc
            })
        })
    }

    #[inline(always)]
    fn int4<const P: usize, const M: usize>(
        self,
        codes: [&[u8]; P],
        subs: [&[[i8; PANEL]]; P],
        levels: Option<&[i8; 16]>,
        rows: [Row<'_>; M],
    ) -> Sums<P, M> {
        const UNIFORM: [i8; 16] = [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7];
        let levels = levels.unwrap_or(&UNIFORM);
        core::array::from_fn(|p| {
            rows.map(|row| {
                let mut acc = [0; PANEL];
                int4(codes[p], subs[p], levels, row, &mut acc);
                acc
            })
        })
    }
}

/// Adds the products of tiles.
#[inline(never)]
fn int8(codes: &[u8], row: Row<'_>, acc: &mut [i32; PANEL]) {
    for (tile, x) in codes.as_chunks::<TILE>().0.iter().zip(row.codes.as_chunks::<QUAD>().0) {
        for (acc, w) in acc.iter_mut().zip(tile.as_chunks::<QUAD>().0) {
            for (&w, &x) in w.iter().zip(x) {
                *acc = acc.wrapping_add(i32::from(w as i8) * i32::from(x));
            }
        }
    }
}

/// For each group, adds sub-scale times the group's dot product.
fn int8_grouped(codes: &[u8], subs: &[[i8; PANEL]], row: Row<'_>, acc: &mut [i32; PANEL]) {
    let blocks = codes.as_chunks::<{ PANEL * GROUP }>().0;
    for ((block, subs), x) in blocks.iter().zip(subs).zip(row.codes.as_chunks::<GROUP>().0) {
        let mut dots = [0; PANEL];
        int8(block, Row { codes: x, sums: &[] }, &mut dots);
        for ((acc, dot), &sub) in acc.iter_mut().zip(dots).zip(subs) {
            *acc = acc.wrapping_add(dot * i32::from(sub));
        }
    }
}

/// The same of nibbles.
fn int4(
    codes: &[u8],
    subs: &[[i8; PANEL]],
    levels: &[i8; 16],
    row: Row<'_>,
    acc: &mut [i32; PANEL],
) {
    let groups = row.codes.as_chunks::<GROUP>().0;
    for ((codes, subs), x) in codes.as_chunks::<GROUP_BYTES>().0.iter().zip(subs).zip(groups) {
        let mut dots = [0i32; PANEL];
        let pairs = x.as_chunks::<{ 2 * QUAD }>().0;
        for (tile, x) in codes.as_chunks::<TILE>().0.iter().zip(pairs) {
            for (dot, bytes) in dots.iter_mut().zip(tile.as_chunks::<QUAD>().0) {
                for (j, &byte) in bytes.iter().enumerate() {
                    let (low, high) =
                        (levels[usize::from(byte & 15)], levels[usize::from(byte >> 4)]);
                    *dot +=
                        i32::from(low) * i32::from(x[j]) + i32::from(high) * i32::from(x[QUAD + j]);
                }
            }
        }
        for ((acc, dot), &sub) in acc.iter_mut().zip(dots).zip(subs) {
            *acc = acc.wrapping_add(dot * i32::from(sub));
        }
    }
}

/// Rows of `x` times panels of `w`: all of a dense panel at once, of a sparse one each block that
/// there is with its group of activations. Row `m` goes to `out[m * stride..]`, the first of
/// `panels` at its start.
pub(crate) fn matmul(
    w: &Matrix<'_>,
    x: &Activations<'_>,
    panels: Range<usize>,
    out: &mut [f32],
    stride: usize,
) {
    let levels = w.levels();
    for m in 0..x.rows() {
        for p in panels.clone() {
            let mut sums = [0i32; PANEL];
            // A dense panel has one piece.
            let (pieces, mut block) =
                if w.is_sparse() { (w.groups(), w.first_block(p)) } else { (1, 0) };
            for g in 0..pieces {
                let ((codes, subs), row) = if !w.is_sparse() {
                    ((w.panel_codes(p), w.panel_sub_scales(p)), x.row(m))
                } else if w.there(p, g, 1) != 0 {
                    // Where the index is sound there is a block for each of its bits.
                    let Some(stored) = w.stored(block, 1) else { break };
                    block += 1;
                    (stored, Row { codes: x.group(m, g), sums: &[] })
                } else {
                    continue;
                };
                match w.format() {
                    Format::Int8 => int8(codes, row, &mut sums),
                    Format::Int8Grouped => int8_grouped(codes, subs, row, &mut sums),
                    _ => int4(codes, subs, &levels, row, &mut sums),
                }
            }
            let out = &mut out[m * stride + (p - panels.start) * PANEL..][..w.panel_rows(p)];
            store_each(&sums, w.panel_row_scales(p), x.scale(m), out);
        }
    }
}

/// Attention with the reference's products.
pub(crate) fn attend(
    over: (&Head<'_>, Mask<'_>, f32),
    queries: (&mut [f32], usize, usize),
    part: Option<Part>,
    scratch: &mut Scratch,
) {
    attend_with::<1, 1, 2>(Reference, over, queries, part, scratch);
}
