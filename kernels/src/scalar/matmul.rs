//! The integer products: quantized rows with a matrix of weights, and what attention needs of them.

use core::ops::Range;

use super::attention::{Dot, attend_with};
use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::{Format, GROUP, GROUP_BYTES, Matrix, PANEL, QUAD, TILE};

/// The reference's integer dot products.
#[derive(Clone, Copy)]
struct Reference;

impl Dot for Reference {
    #[inline(always)]
    fn tiles(self, tiles: &[u8], x: &[i8]) -> [i32; PANEL] {
        let mut acc = [0i32; PANEL];
        for (tile, x) in tiles.as_chunks::<TILE>().0.iter().zip(x.as_chunks::<QUAD>().0) {
            for (acc, w) in acc.iter_mut().zip(tile.as_chunks::<QUAD>().0) {
                for (&w, &x) in w.iter().zip(x) {
                    *acc = acc.wrapping_add(i32::from(w as i8) * i32::from(x));
                }
            }
        }
        acc
    }
}

/// One panel of an int4 format: for each group, sub-scale times the group's dot product.
fn int4_panel(codes: &[u8], subs: &[[i8; PANEL]], levels: &[i8; 16], x: &[i8]) -> [i32; PANEL] {
    let mut acc = [0i32; PANEL];
    let groups = codes.as_chunks::<GROUP_BYTES>().0.iter().zip(x.as_chunks::<GROUP>().0);
    for ((codes, x), subs) in groups.zip(subs) {
        let mut dots = [0i32; PANEL];
        for (tile, x) in codes.as_chunks::<TILE>().0.iter().zip(x.as_chunks::<{ 2 * QUAD }>().0) {
            for (dot, bytes) in dots.iter_mut().zip(tile.as_chunks::<QUAD>().0) {
                for (j, &byte) in bytes.iter().enumerate() {
                    let (low, high) = (levels[usize::from(byte & 15)], levels[usize::from(byte >> 4)]);
                    *dot += i32::from(low) * i32::from(x[j]) + i32::from(high) * i32::from(x[QUAD + j]);
                }
            }
        }
        for ((acc, dot), &sub) in acc.iter_mut().zip(dots).zip(subs) {
            *acc = acc.wrapping_add(dot * i32::from(sub));
        }
    }
    acc
}

/// Writes a panel's sums as `(sum as f32) * (row_scale * token_scale)`; the last panel may be cut.
#[inline(always)]
pub(crate) fn store_panel(acc: &[i32; PANEL], row_scales: &[f32; PANEL], token_scale: f32, out: &mut [f32]) {
    for ((out, &acc), &scale) in out.iter_mut().zip(acc).zip(row_scales) {
        *out = acc as f32 * (scale * token_scale);
    }
}

/// Rows of `x` times panels of `w`. Row `m` goes to `out[m * stride..]`, the first of `panels` at its start.
pub(crate) fn matmul(w: &Matrix<'_>, x: &Activations<'_>, panels: Range<usize>, out: &mut [f32], stride: usize) {
    let levels = w.levels();
    let inner = w.padded_cols();
    for (p, column) in panels.zip((0..).step_by(PANEL)) {
        let width = PANEL.min(w.rows() - p * PANEL);
        for m in 0..x.rows() {
            let codes = &x.codes(m)[..inner];
            let acc = match w.format() {
                Format::Int8 => Reference.tiles(w.panel_codes(p), codes),
                Format::Int4 | Format::Int4Codebook => {
                    int4_panel(w.panel_codes(p), w.panel_sub_scales(p), &levels, codes)
                }
            };
            store_panel(&acc, w.panel_row_scales(p), x.scale(m), &mut out[m * stride + column..][..width]);
        }
    }
}

/// Attention with the reference's dot products.
pub(crate) fn attend(head: &Head<'_>, len: usize, scale: f32, q: &mut [f32]) {
    attend_with(Reference, head, len, scale, q);
}
