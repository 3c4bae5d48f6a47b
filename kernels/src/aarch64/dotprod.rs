//! NEON with the dot product (Cortex-A55, A76 and later): `sdot` by element adds a quad of activations times four rows of a
//! register to four outputs; no horizontal sum anywhere.
//!
//! Uniform nibbles are signed numbers as they are (0..=15); the zero of 8 is repaid once a group by the sum of its activations.

use core::arch::aarch64::*;
use core::arch::asm;
use core::ops::Range;

use super::neon::{load_levels, load_subs, load_tile, nibbles, scale_group, to_array};
use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::{GROUP_BYTES, INT4_ZERO, Matrix, PANEL, QUAD, TILE};
use crate::product::{self, Product, Row, Sums, group};
use crate::scalar;

crate::vector::token! {
    /// Proof of NEON with the dot product. Miri has no `asm!`.
    DotProd, !cfg!(miri) && crate::vector::has!(is_aarch64_feature_detected, ["neon", "dotprod"])
}

/// The operations, to be called only where the features exist.
mod on {
    use super::*;

    crate::vector::operations!(DotProd, "neon,dotprod", panels: 1, rows: 4, queries: 2);
}

crate::vector::products!(DotProd);

/// Four quads of activations.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn load_quads(x: &[i8; 4 * QUAD]) -> int8x16_t {
    // SAFETY: `x` has 16 bytes.
    unsafe { vld1q_s8(x.as_ptr()) }
}

/// `acc + w . x[LANE]`, where `LANE` is one of four quads. The intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot<const LANE: u32>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: registers only; the instruction is there by the function's features. By-element operands of `sdot` may be any
    // of the 32 registers.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// The same with the quad given by number.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot_lane(acc: int32x4_t, w: int8x16_t, x: int8x16_t, lane: usize) -> int32x4_t {
    match lane {
        0 => dot::<0>(acc, w, x),
        1 => dot::<1>(acc, w, x),
        2 => dot::<2>(acc, w, x),
        _ => dot::<3>(acc, w, x),
    }
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn int8<const P: usize, const M: usize>(codes: [&[u8]; P], rows: [Row<'_>; M]) -> Sums<P, M> {
    codes.map(|codes| {
        let mut acc = [[vdupq_n_s32(0); 4]; M];
        let (fours, rest) = codes.as_chunks::<{ 4 * TILE }>();
        let x = rows.map(|row| row.codes.as_chunks::<{ 4 * QUAD }>());
        for (f, tiles) in fours.iter().enumerate() {
            let x = x.map(|(x, _)| load_quads(&x[f]));
            for (lane, tile) in tiles.as_chunks::<TILE>().0.iter().enumerate() {
                let w = load_tile(tile);
                for (acc, x) in acc.iter_mut().zip(x) {
                    for i in 0..4 {
                        acc[i] = dot_lane(acc[i], vreinterpretq_s8_u8(w[i]), x, lane);
                    }
                }
            }
        }
        for (q, tile) in rest.as_chunks::<TILE>().0.iter().enumerate() {
            let w = load_tile(tile);
            for (acc, (_, x)) in acc.iter_mut().zip(x) {
                let x = broadcast(&x.as_chunks::<QUAD>().0[q]);
                for i in 0..4 {
                    acc[i] = dot::<0>(acc[i], vreinterpretq_s8_u8(w[i]), x);
                }
            }
        }
        acc.map(|acc| to_array(acc))
    })
}

/// A quad of activations in every lane.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn broadcast(x: &[i8; QUAD]) -> int8x16_t {
    vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(x.map(|v| v as u8))))
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn int4<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    groups(codes, subs, None, INT4_ZERO, rows)
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn codebook<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    levels: &[i8; 16],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    groups(codes, subs, Some(load_levels(levels)), 0, rows)
}

/// Groups of nibbles, or of the levels they index, greater by `zero` than the weights.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn groups<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    levels: Option<int8x16_t>,
    zero: i32,
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    core::array::from_fn(|p| {
        let mut acc = [[vdupq_n_s32(0); 4]; M];
        for (g, (codes, subs)) in codes[p].as_chunks::<GROUP_BYTES>().0.iter().zip(subs[p]).enumerate() {
            let mut dots = rows.map(|row| [vdupq_n_s32(-zero * i32::from(row.sums[g])); 4]);
            let x = rows.map(|row| {
                let halves = group(&row, g).as_chunks::<{ 4 * QUAD }>().0;
                [load_quads(&halves[0]), load_quads(&halves[1])]
            });
            for (v, tile) in codes.as_chunks::<TILE>().0.iter().enumerate() {
                let tile = load_tile(tile).map(|bytes| nibbles(bytes, levels));
                for (dots, x) in dots.iter_mut().zip(x) {
                    for (dot, [low, high]) in dots.iter_mut().zip(tile) {
                        let lane = v % 2 * 2;
                        *dot = dot_lane(dot_lane(*dot, low, x[v / 2], lane), high, x[v / 2], lane + 1);
                    }
                }
            }
            let subs = load_subs(subs);
            for (acc, dots) in acc.iter_mut().zip(dots) {
                scale_group(acc, dots, subs);
            }
        }
        acc.map(|acc| to_array(acc))
    })
}
