//! NEON with 8-bit matrix products (Neoverse V1, Cortex-A510 and later): for several rows of
//! activations `smmla` multiplies two of them by two rows of weights, eight inner values at a time,
//! twice the work of `sdot`. A single row is `dotprod`'s.
//!
//! Its operands are 2 x 8 bytes. `zip` of the same four rows of two tiles makes two such of
//! weights: with int8 of neighbouring quads, with int4 before unpacking, so that low nibbles are
//! quads 0 and 2 of four and high nibbles 1 and 3; of activations, `zip` or `uzp` of 16 bytes of
//! two rows pick the same quads. A register of sums holds rows of weights `r` and `r + 1` with the
//! first row of activations, then with the second; sums stay so to the end, and sub-scales are
//! spread the same way.
//!
//! Rows of activations come in fours, which is what the registers hold; pairs (attention) work
//! alike.

use core::arch::aarch64::*;
use core::arch::asm;
use core::ops::Range;

use super::dotprod;
use super::neon::{load_levels, load_subs, load_tile, nibbles, to_array};
use crate::activations::{Activations, Row};
use crate::cache::Head;
use crate::gemm::{self, Product, Sums};
use crate::layout::{GROUP, GROUP_BYTES, INT4_ZERO, Matrix, PANEL, QUAD, TILE};
use crate::scalar;

crate::vector::token! {
    /// Proof of NEON with the dot product and 8-bit matrix products.
    I8mm, crate::vector::has!(is_aarch64_feature_detected, ["neon", "dotprod", "i8mm"])
}

/// The operations, to be called only where the features exist.
mod on {
    use super::*;

    crate::vector::operations!(I8mm, "neon,dotprod,i8mm", panels: 2, rows: 4, queries: 2);
}

crate::vector::products!(I8mm);

/// Sums of a panel with two rows of activations: register `[i][j]` holds rows `4 i + 2 j` and the
/// next.
type Acc = [[int32x4_t; 2]; 4];

/// `acc` + two rows of activations times two of weights. The intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn mmla(acc: &mut int32x4_t, x: int8x16_t, w: int8x16_t) {
    // SAFETY: registers only; the instruction is there by the function's features.
    unsafe {
        asm!(
            "smmla {acc:v}.4s, {x:v}.16b, {w:v}.16b",
            acc = inout(vreg) *acc,
            x = in(vreg) x,
            w = in(vreg) w,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
}

/// The same four rows of two tiles as 2 x 8 operands: the first two rows, and the others.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn zip(a: uint8x16_t, b: uint8x16_t) -> [uint8x16_t; 2] {
    let (a, b) = (vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b));
    [vreinterpretq_u8_u32(vzip1q_u32(a, b)), vreinterpretq_u8_u32(vzip2q_u32(a, b))]
}

/// Four rows of a tile.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn load(rows: &[u8; 16]) -> uint8x16_t {
    // SAFETY: `rows` has 16 bytes.
    unsafe { vld1q_u8(rows.as_ptr()) }
}

/// 16 bytes of two rows of activations.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn load_two(a: &[i8; 4 * QUAD], b: &[i8; 4 * QUAD]) -> [int32x4_t; 2] {
    // SAFETY: `a` has 16 bytes.
    let a = unsafe { vld1q_s8(a.as_ptr()) };
    // SAFETY: `b` has 16 bytes.
    let b = unsafe { vld1q_s8(b.as_ptr()) };
    [vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)]
}

/// Sums as they are returned.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn to_rows<const M: usize>(acc: &[Acc; M]) -> [[i32; PANEL]; M] {
    let mut out = [[0; PANEL]; M];
    for m in 0..M / 2 {
        let (mut even, mut odd) = ([vdupq_n_s32(0); 4], [vdupq_n_s32(0); 4]);
        for i in 0..4 {
            let [a, b] = acc[m][i].map(|v| vreinterpretq_s64_s32(v));
            even[i] = vreinterpretq_s32_s64(vzip1q_s64(a, b));
            odd[i] = vreinterpretq_s32_s64(vzip2q_s64(a, b));
        }
        (out[2 * m], out[2 * m + 1]) = (to_array(even), to_array(odd));
    }
    out
}

/// Two tiles times two quads of each pair of rows.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn two_quads<const M: usize>(acc: &mut [Acc; M], tiles: [&[u8; TILE]; 2], x: [int8x16_t; M]) {
    let (first, second) = (load_tile(tiles[0]), load_tile(tiles[1]));
    for i in 0..4 {
        let [a, b] = zip(first[i], second[i]);
        for m in 0..M / 2 {
            mmla(&mut acc[m][i][0], x[m], vreinterpretq_s8_u8(a));
            mmla(&mut acc[m][i][1], x[m], vreinterpretq_s8_u8(b));
        }
    }
}

#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn int8<const P: usize, const M: usize>(codes: [&[u8]; P], rows: [Row<'_>; M]) -> Sums<P, M> {
    if M % 2 == 1 {
        return dotprod::int8(codes, rows);
    }
    let n = codes[0].len() / TILE;
    let quads = rows.map(|row| &row.codes.as_chunks::<{ 4 * QUAD }>().0[..n / 4]);
    let mut out = [[[0; PANEL]; M]; P];
    for p in 0..P {
        let fours = &codes[p].as_chunks::<{ 4 * TILE }>().0[..n / 4];
        // Half of these arrays of `M` is used: one element a pair of rows.
        let mut acc = [[[vdupq_n_s32(0); 2]; 4]; M];
        let (mut x, mut y) = ([vdupq_n_s8(0); M], [vdupq_n_s8(0); M]);
        for f in 0..n / 4 {
            for m in 0..M / 2 {
                let [a, b] = load_two(&quads[2 * m][f], &quads[2 * m + 1][f])
                    .map(|v| vreinterpretq_s64_s32(v));
                x[m] = vreinterpretq_s8_s64(vzip1q_s64(a, b));
                y[m] = vreinterpretq_s8_s64(vzip2q_s64(a, b));
            }
            let [a, b, c, d] = fours[f].as_chunks::<TILE>().0 else { unreachable!() };
            two_quads(&mut acc, [a, b], x);
            two_quads(&mut acc, [c, d], y);
        }
        for q in n / 4 * 4..n {
            for m in 0..M / 2 {
                let two = [2 * m, 2 * m + 1].map(|m| {
                    let quad = rows[m].codes.as_chunks::<QUAD>().0[q];
                    i64::from(u32::from_le_bytes(quad.map(|v| v as u8)))
                });
                x[m] = vreinterpretq_s8_s64(vcombine_s64(
                    vcreate_s64(two[0] as u64),
                    vcreate_s64(two[1] as u64),
                ));
            }
            // The second quad is zero, whatever the weights.
            let tile = &codes[p].as_chunks().0[q];
            two_quads(&mut acc, [tile, tile], x);
        }
        out[p] = to_rows(&acc);
    }
    out
}

#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn int4<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    if M % 2 == 1 {
        return dotprod::int4(codes, subs, rows);
    }
    // Not looked at.
    groups::<P, M, false>(codes, subs, vdupq_n_s8(0), rows)
}

#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn codebook<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    levels: &[i8; 16],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    if M % 2 == 1 {
        return dotprod::codebook(codes, subs, levels, rows);
    }
    groups::<P, M, true>(codes, subs, load_levels(levels), rows)
}

/// Rows `4 i..4 i + 4` of two tiles of nibbles times four quads of each pair of rows, of which
/// `even` are 0 and 2, `odd` 1 and 3.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn four_quads<const M: usize>(
    dots: &mut [[int32x4_t; 2]; M],
    tiles: &[[u8; TILE]; 2],
    i: usize,
    levels: Option<int8x16_t>,
    even: [int8x16_t; M],
    odd: [int8x16_t; M],
) {
    let [a, b] = zip(load(&tiles[0].as_chunks().0[i]), load(&tiles[1].as_chunks().0[i]));
    let ([a, b], [c, d]) = (nibbles(a, levels), nibbles(b, levels));
    for m in 0..M / 2 {
        mmla(&mut dots[m][0], even[m], a);
        mmla(&mut dots[m][1], even[m], c);
        mmla(&mut dots[m][0], odd[m], b);
        mmla(&mut dots[m][1], odd[m], d);
    }
}

/// Rows `4 I..4 I + 4` of a group: the sums of all 16 would leave no registers for the activations.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn four_rows<const I: usize, const M: usize, const BOOK: bool>(
    acc: &mut [Acc; M],
    halves: &[[[u8; TILE]; 2]],
    levels: Option<int8x16_t>,
    quads: &[[[int8x16_t; M]; 2]; 2],
    zero: [int32x4_t; M],
    subs: [int16x8_t; 2],
) {
    let mut dots = [[vdupq_n_s32(0); 2]; M];
    for m in 0..M / 2 {
        dots[m] = [zero[m]; 2];
    }
    four_quads(&mut dots, &halves[0], I, levels, quads[0][0], quads[0][1]);
    four_quads(&mut dots, &halves[1], I, levels, quads[1][0], quads[1][1]);
    let four =
        if I.is_multiple_of(2) { vget_low_s16(subs[I / 2]) } else { vget_high_s16(subs[I / 2]) };
    for m in 0..M / 2 {
        if BOOK {
            scale_wide(&mut acc[m][I], dots[m], four);
        } else {
            scale_narrow(&mut acc[m][I], dots[m], four);
        }
    }
}

/// Panels of groups of nibbles, or of the levels they index.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn groups<const P: usize, const M: usize, const BOOK: bool>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    levels: int8x16_t,
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    let levels = BOOK.then_some(levels);
    let n = codes[0].len() / GROUP_BYTES;
    let x = rows.map(|row| &row.codes.as_chunks::<GROUP>().0[..n]);
    let sums = rows.map(|row| &row.sums[..n]);
    let mut out = [[[0; PANEL]; M]; P];
    for p in 0..P {
        let groups = &codes[p].as_chunks::<GROUP_BYTES>().0[..n];
        let subs = &subs[p][..n];
        // Half of these arrays of `M` is used: one element a pair of rows.
        let mut acc = [[[vdupq_n_s32(0); 2]; 4]; M];
        let mut quads = [[[vdupq_n_s8(0); M]; 2]; 2];
        let mut zero = [vdupq_n_s32(0); M];
        for g in 0..n {
            for m in 0..M / 2 {
                let (a, b) = (x[2 * m][g].as_chunks().0, x[2 * m + 1][g].as_chunks().0);
                for half in 0..2 {
                    let [a, b] = load_two(&a[half], &b[half]);
                    quads[half][0][m] = vreinterpretq_s8_s32(vuzp1q_s32(a, b));
                    quads[half][1][m] = vreinterpretq_s8_s32(vuzp2q_s32(a, b));
                }
                if !BOOK {
                    let start = |m: usize| vdup_n_s32(-INT4_ZERO * i32::from(sums[m][g]));
                    zero[m] = vcombine_s32(start(2 * m), start(2 * m + 1));
                }
            }
            let halves: &[[[u8; TILE]; 2]] = groups[g].as_chunks().0.as_chunks().0;
            let subs = load_subs(&subs[g]);
            four_rows::<0, M, BOOK>(&mut acc, halves, levels, &quads, zero, subs);
            four_rows::<1, M, BOOK>(&mut acc, halves, levels, &quads, zero, subs);
            four_rows::<2, M, BOOK>(&mut acc, halves, levels, &quads, zero, subs);
            four_rows::<3, M, BOOK>(&mut acc, halves, levels, &quads, zero, subs);
        }
        out[p] = to_rows(&acc);
    }
    out
}

/// `acc + dots * subs` of four rows.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn scale_wide(acc: &mut [int32x4_t; 2], dots: [int32x4_t; 2], subs: int16x4_t) {
    let subs = vreinterpretq_s64_s32(vmovl_s16(subs));
    acc[0] = vmlaq_s32(acc[0], dots[0], vreinterpretq_s32_s64(vzip1q_s64(subs, subs)));
    acc[1] = vmlaq_s32(acc[1], dots[1], vreinterpretq_s32_s64(vzip2q_s64(subs, subs)));
}

/// `acc + dots * subs` of four rows, where the dot products fit into 16 bits.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn scale_narrow(acc: &mut [int32x4_t; 2], dots: [int32x4_t; 2], subs: int16x4_t) {
    let dots = vuzp1q_s16(vreinterpretq_s16_s32(dots[0]), vreinterpretq_s16_s32(dots[1]));
    // Each two sub-scales twice.
    let subs = vreinterpret_s32_s16(subs);
    let subs = vreinterpretq_s16_s32(vcombine_s32(vzip1_s32(subs, subs), vzip2_s32(subs, subs)));
    acc[0] = vmlal_s16(acc[0], vget_low_s16(dots), vget_low_s16(subs));
    acc[1] = vmlal_high_s16(acc[1], dots, subs);
}
