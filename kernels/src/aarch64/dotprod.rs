//! NEON with the dot product (Cortex-A55, A76 and later): `sdot` by element adds a quad of
//! activations times four rows of a register to four outputs; no horizontal sum anywhere.
//!
//! Uniform nibbles are signed numbers as they are (0..=15); the zero point of 8 is corrected for
//! once a group by the sum of its activations. What remains fits into 16 bits (32 * 8 * 127 =
//! 32,512), so sub-scales need widening to 16 bits only.
//!
//! A token takes two panels at once: they share the loads of activations, and their eight chains of
//! `sdot` hide its latency.

use core::arch::aarch64::*;
use core::arch::asm;
use core::ops::Range;

use super::neon::{
    Acc, load_levels, load_subs, load_tile, nibbles, scale_narrow, scale_wide, to_sums, widen_subs,
};
use crate::activations::{Activations, Row};
use crate::cache::Head;
use crate::gemm::{self, Product, Sums};
use crate::layout::{GROUP, GROUP_BYTES, INT4_ZERO, Matrix, PANEL, QUAD, TILE};
use crate::scalar;

crate::vector::token! {
    /// Proof of NEON with the dot product. Miri has no `asm!`.
    DotProd, !cfg!(miri) && crate::vector::has!(is_aarch64_feature_detected, ["neon", "dotprod"])
}

/// The operations, to be called only where the features exist.
mod on {
    use super::*;

    crate::vector::operations!(DotProd, "neon,dotprod", panels: 2, rows: 4, queries: 2);
}

crate::vector::products!(DotProd);

/// Four quads of activations.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn load_quads(x: &[i8; 4 * QUAD]) -> int8x16_t {
    // SAFETY: `x` has 16 bytes.
    unsafe { vld1q_s8(x.as_ptr()) }
}

/// A quad of activations in every lane.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn broadcast(x: &[i8; QUAD]) -> int8x16_t {
    vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(x.map(|v| v as u8))))
}

/// `acc + w . x[LANE]`, where `LANE` is one of four quads. The intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot<const LANE: u32>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: registers only; the instruction is there by the function's features. By-element
    // operands of `sdot` may be any of the 32 registers.
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

/// A tile times quad `LANE` of each row.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dots<const LANE: u32, const M: usize>(
    acc: &mut [[int32x4_t; 4]; M],
    w: [uint8x16_t; 4],
    x: [int8x16_t; M],
) {
    for m in 0..M {
        for i in 0..4 {
            acc[m][i] = dot::<LANE>(acc[m][i], vreinterpretq_s8_u8(w[i]), x[m]);
        }
    }
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn int8<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    let n = codes[0].len() / TILE;
    let fours = codes.map(|codes| &codes.as_chunks::<{ 4 * TILE }>().0[..n / 4]);
    let quads = rows.map(|row| &row.codes.as_chunks::<{ 4 * QUAD }>().0[..n / 4]);
    let mut acc = [[[vdupq_n_s32(0); 4]; M]; P];
    let mut x = [vdupq_n_s8(0); M];
    for f in 0..n / 4 {
        for m in 0..M {
            x[m] = load_quads(&quads[m][f]);
        }
        for p in 0..P {
            let [a, b, c, d] = fours[p][f].as_chunks::<TILE>().0 else { unreachable!() };
            dots::<0, M>(&mut acc[p], load_tile(a), x);
            dots::<1, M>(&mut acc[p], load_tile(b), x);
            dots::<2, M>(&mut acc[p], load_tile(c), x);
            dots::<3, M>(&mut acc[p], load_tile(d), x);
        }
    }
    for q in n / 4 * 4..n {
        for m in 0..M {
            x[m] = broadcast(&rows[m].codes.as_chunks().0[q]);
        }
        for p in 0..P {
            dots::<0, M>(&mut acc[p], load_tile(&codes[p].as_chunks().0[q]), x);
        }
    }
    to_sums(acc)
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn int4<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    // Not looked at.
    let levels = vdupq_n_s8(0);
    groups::<P, M, false>(codes, subs, levels, rows)
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn codebook<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    levels: &[i8; 16],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    groups::<P, M, true>(codes, subs, load_levels(levels), rows)
}

/// Two quads from number `LANE` of each row times the nibbles of a tile, or the levels they index.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn nibble_dots<const LOW: u32, const HIGH: u32, const M: usize>(
    acc: &mut [[int32x4_t; 4]; M],
    tile: &[u8; TILE],
    levels: Option<int8x16_t>,
    x: [int8x16_t; M],
) {
    let tile = load_tile(tile);
    for i in 0..4 {
        let [low, high] = nibbles(tile[i], levels);
        for m in 0..M {
            acc[m][i] = dot::<HIGH>(dot::<LOW>(acc[m][i], low, x[m]), high, x[m]);
        }
    }
}

/// Panels of groups of nibbles, or of the levels they index.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn groups<const P: usize, const M: usize, const BOOK: bool>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    levels: int8x16_t,
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    let mut acc = [[[vdupq_n_s32(0); 4]; M]; P];
    for p in 0..P {
        acc[p] = panel::<M, BOOK>(codes[p], subs[p], levels, rows);
    }
    to_sums(acc)
}

/// One panel: what unpacks nibbles keeps the processor busier than the loads of activations that
/// several could share.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn panel<const M: usize, const BOOK: bool>(
    codes: &[u8],
    subs: &[[i8; PANEL]],
    levels: int8x16_t,
    rows: [Row<'_>; M],
) -> [Acc; M] {
    let levels = BOOK.then_some(levels);
    let n = codes.len() / GROUP_BYTES;
    let groups = &codes.as_chunks::<GROUP_BYTES>().0[..n];
    let subs = &subs[..n];
    let x = rows.map(|row| &row.codes.as_chunks::<GROUP>().0[..n]);
    let sums = rows.map(|row| &row.sums[..n]);
    let mut acc = [[vdupq_n_s32(0); 4]; M];
    let (mut first, mut second) = ([vdupq_n_s8(0); M], [vdupq_n_s8(0); M]);
    for g in 0..n {
        let mut dots = [[vdupq_n_s32(0); 4]; M];
        for m in 0..M {
            let [a, b] = x[m][g].as_chunks().0 else { unreachable!() };
            (first[m], second[m]) = (load_quads(a), load_quads(b));
            if !BOOK {
                dots[m] = [vdupq_n_s32(-INT4_ZERO * i32::from(sums[m][g])); 4];
            }
        }
        let [a, b, c, d] = groups[g].as_chunks::<TILE>().0 else { unreachable!() };
        nibble_dots::<0, 1, M>(&mut dots, a, levels, first);
        nibble_dots::<2, 3, M>(&mut dots, b, levels, first);
        nibble_dots::<0, 1, M>(&mut dots, c, levels, second);
        nibble_dots::<2, 3, M>(&mut dots, d, levels, second);
        let subs = load_subs(&subs[g]);
        for m in 0..M {
            if BOOK {
                scale_wide(&mut acc[m], dots[m], widen_subs(subs));
            } else {
                scale_narrow(&mut acc[m], narrow(dots[m]), subs);
            }
        }
    }
    acc
}

/// Sums that fit into 16 bits.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn narrow(dots: [int32x4_t; 4]) -> [int16x8_t; 2] {
    let [a, b, c, d] = dots;
    let low = |x| vreinterpretq_s16_s32(x);
    [vuzp1q_s16(low(a), low(b)), vuzp1q_s16(low(c), low(d))]
}
