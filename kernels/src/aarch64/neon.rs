//! NEON without the dot product (Cortex-A53, A72): 16 bytes are four inner values of four rows.
//!
//! Products of bytes are 16 bits wide. |w| <= 128 and |x| <= 127, so two of them fit (32,512) before `sadalp` adds neighbours into 32
//! bits; of the uniform nibbles 0..=15 a group's eight fit (15,240). Lanes hold half of a row's quad, and meet in the end.

use core::arch::aarch64::*;
use core::ops::Range;

use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::{GROUP_BYTES, INT4_ZERO, Matrix, PANEL, QUAD, TILE};
use crate::product::{self, Product, Row, Sums, group};
use crate::scalar;

crate::vector::token! {
    /// Proof of NEON.
    Neon, crate::vector::has!(is_aarch64_feature_detected, ["neon"])
}

/// The operations, to be called only where NEON exists.
mod on {
    use super::*;

    crate::vector::operations!(Neon, "neon", panels: 1, rows: 2, queries: 1);
}

crate::vector::products!(Neon);

/// The four registers of a tile; register `i` holds rows `4 i..4 i + 4`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_tile(tile: &[u8; TILE]) -> [uint8x16_t; 4] {
    let start = tile.as_ptr();
    // SAFETY: `tile` has 64 bytes, and the four loads take 16 each.
    core::array::from_fn(|i| unsafe { vld1q_u8(start.wrapping_add(16 * i)) })
}

/// The signed codes of low and high nibbles: 0..=15, or what they index.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn nibbles(bytes: uint8x16_t, levels: Option<int8x16_t>) -> [int8x16_t; 2] {
    let codes = [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)];
    match levels {
        None => codes.map(|c| vreinterpretq_s8_u8(c)),
        Some(levels) => codes.map(|c| vqtbl1q_s8(levels, c)),
    }
}

/// The levels of a codebook in a register.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_levels(levels: &[i8; 16]) -> int8x16_t {
    // SAFETY: `levels` has 16 bytes.
    unsafe { vld1q_s8(levels.as_ptr()) }
}

/// Sub-scales of 16 rows, widened.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_subs(subs: &[i8; PANEL]) -> [int32x4_t; 4] {
    // SAFETY: `subs` has 16 bytes.
    let bytes = unsafe { vld1q_s8(subs.as_ptr()) };
    let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
    [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)]
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn to_array(acc: [int32x4_t; 4]) -> [i32; PANEL] {
    let mut out = [0; PANEL];
    for (out, acc) in out.as_chunks_mut::<4>().0.iter_mut().zip(acc) {
        // SAFETY: `out` has 16 bytes.
        unsafe { vst1q_s32(out.as_mut_ptr(), acc) };
    }
    out
}

/// A quad of activations, twice.
#[inline]
#[target_feature(enable = "neon")]
fn broadcast(x: &[i8; QUAD]) -> int8x8_t {
    vreinterpret_s8_s32(vdup_n_s32(i32::from_le_bytes(x.map(|v| v as u8))))
}

/// 16-bit sums of four rows' halves of a quad.
type Pairs = [int16x8_t; 2];

#[inline]
#[target_feature(enable = "neon")]
fn multiply(w: int8x16_t, x: int8x8_t) -> Pairs {
    [vmull_s8(vget_low_s8(w), x), vmull_s8(vget_high_s8(w), x)]
}

#[inline]
#[target_feature(enable = "neon")]
fn multiply_add(pairs: Pairs, w: int8x16_t, x: int8x8_t) -> Pairs {
    [vmlal_s8(pairs[0], vget_low_s8(w), x), vmlal_s8(pairs[1], vget_high_s8(w), x)]
}

/// 32-bit sums of halves of quads: register `2 i` rows `4 i` and `4 i + 1`, register `2 i + 1` the next two.
type Halves = [int32x4_t; 8];

#[inline]
#[target_feature(enable = "neon")]
fn widen(acc: &mut Halves, i: usize, pairs: Pairs) {
    acc[2 * i] = vpadalq_s16(acc[2 * i], pairs[0]);
    acc[2 * i + 1] = vpadalq_s16(acc[2 * i + 1], pairs[1]);
}

#[inline]
#[target_feature(enable = "neon")]
fn join(acc: Halves) -> [int32x4_t; 4] {
    core::array::from_fn(|i| vpaddq_s32(acc[2 * i], acc[2 * i + 1]))
}

#[inline]
#[target_feature(enable = "neon")]
fn int8<const P: usize, const M: usize>(codes: [&[u8]; P], rows: [Row<'_>; M]) -> Sums<P, M> {
    codes.map(|codes| {
        let mut acc = [[vdupq_n_s32(0); 8]; M];
        let (two, one) = codes.as_chunks::<{ 2 * TILE }>();
        for (q, tiles) in two.iter().enumerate() {
            let tiles = tiles.as_chunks::<TILE>().0;
            let (first, second) = (load_tile(&tiles[0]), load_tile(&tiles[1]));
            for (acc, row) in acc.iter_mut().zip(rows) {
                let quads = &row.codes.as_chunks::<QUAD>().0[2 * q..2 * q + 2];
                let (x, y) = (broadcast(&quads[0]), broadcast(&quads[1]));
                for i in 0..4 {
                    let pairs = multiply(vreinterpretq_s8_u8(first[i]), x);
                    widen(acc, i, multiply_add(pairs, vreinterpretq_s8_u8(second[i]), y));
                }
            }
        }
        if let Some(tile) = one.first_chunk() {
            let last = load_tile(tile);
            for (acc, row) in acc.iter_mut().zip(rows) {
                let x = broadcast(&row.codes.as_chunks::<QUAD>().0[2 * two.len()]);
                for i in 0..4 {
                    widen(acc, i, multiply(vreinterpretq_s8_u8(last[i]), x));
                }
            }
        }
        acc.map(|acc| to_array(join(acc)))
    })
}

/// `acc + dots * sub_scales`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn scale_group(acc: &mut [int32x4_t; 4], dots: [int32x4_t; 4], subs: [int32x4_t; 4]) {
    for i in 0..4 {
        acc[i] = vmlaq_s32(acc[i], dots[i], subs[i]);
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn int4<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    core::array::from_fn(|p| {
        let mut acc = [[vdupq_n_s32(0); 4]; M];
        for (g, (codes, subs)) in codes[p].as_chunks::<GROUP_BYTES>().0.iter().zip(subs[p]).enumerate() {
            let mut pairs = [[[vdupq_n_s16(0); 2]; 4]; M];
            for (v, tile) in codes.as_chunks::<TILE>().0.iter().enumerate() {
                let tile = load_tile(tile).map(|bytes| nibbles(bytes, None));
                for (pairs, row) in pairs.iter_mut().zip(rows) {
                    let quads = group(&row, g).as_chunks::<QUAD>().0;
                    let (x, y) = (broadcast(&quads[2 * v]), broadcast(&quads[2 * v + 1]));
                    for (pairs, [low, high]) in pairs.iter_mut().zip(tile) {
                        *pairs = multiply_add(multiply_add(*pairs, low, x), high, y);
                    }
                }
            }
            let subs = load_subs(subs);
            for ((acc, pairs), row) in acc.iter_mut().zip(pairs).zip(rows) {
                let zero = vdupq_n_s32(INT4_ZERO * i32::from(row.sums[g]));
                let dots = pairs.map(|[a, b]| vsubq_s32(vpaddq_s32(vpaddlq_s16(a), vpaddlq_s16(b)), zero));
                scale_group(acc, dots, subs);
            }
        }
        acc.map(|acc| to_array(acc))
    })
}

#[inline]
#[target_feature(enable = "neon")]
fn codebook<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    levels: &[i8; 16],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    let levels = load_levels(levels);
    core::array::from_fn(|p| {
        let mut acc = [[vdupq_n_s32(0); 4]; M];
        for (g, (codes, subs)) in codes[p].as_chunks::<GROUP_BYTES>().0.iter().zip(subs[p]).enumerate() {
            let mut halves = [[vdupq_n_s32(0); 8]; M];
            for (v, tile) in codes.as_chunks::<TILE>().0.iter().enumerate() {
                let tile = load_tile(tile).map(|bytes| nibbles(bytes, Some(levels)));
                for (halves, row) in halves.iter_mut().zip(rows) {
                    let quads = group(&row, g).as_chunks::<QUAD>().0;
                    let (x, y) = (broadcast(&quads[2 * v]), broadcast(&quads[2 * v + 1]));
                    for (i, [low, high]) in tile.into_iter().enumerate() {
                        widen(halves, i, multiply_add(multiply(low, x), high, y));
                    }
                }
            }
            let subs = load_subs(subs);
            for (acc, halves) in acc.iter_mut().zip(halves) {
                scale_group(acc, join(halves), subs);
            }
        }
        acc.map(|acc| to_array(acc))
    })
}
