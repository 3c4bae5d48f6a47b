//! WebAssembly's 128-bit vectors: 16 bytes are four inner values of four rows.
//!
//! The same plan as NEON without the dot product, whose instructions these become there: `i16x8.extmul` of bytes, of which two
//! products fit into 16 bits (|w| <= 128, |x| <= 127: 32,512), or a group's eight of uniform nibbles (15 * 127 * 8 = 15,240), whose dot product
//! fits again once the zero of 8 is repaid (32 * 8 * 127 = 32,512); sums on the way may wrap. `i8x16.swizzle` looks levels up.

use core::arch::wasm32::*;
use core::ops::Range;

use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::{GROUP, GROUP_BYTES, INT4_ZERO, Matrix, PANEL, QUAD, TILE};
use crate::product::{self, Product, Row, Sums};
use crate::scalar;

crate::vector::token! {
    /// Proof of 128-bit vectors.
    Simd128, cfg!(target_feature = "simd128")
}

/// The operations, to be called only where the vectors exist.
mod on {
    use super::*;

    crate::vector::operations!(Simd128, "simd128", panels: 1, rows: 2, queries: 1);
}

crate::vector::products!(Simd128);

/// 16 bytes.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn load(bytes: &[u8; 16]) -> v128 {
    // SAFETY: `bytes` has 16 bytes; loads need no alignment.
    unsafe { v128_load(bytes.as_ptr().cast()) }
}

/// 16 signed bytes.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn load_signed(bytes: &[i8; 16]) -> v128 {
    // SAFETY: `bytes` has 16 bytes; loads need no alignment.
    unsafe { v128_load(bytes.as_ptr().cast()) }
}

/// A quad of activations in every lane.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn broadcast(x: &[i8; QUAD]) -> v128 {
    // SAFETY: `x` has four bytes; loads need no alignment.
    unsafe { v128_load32_splat(x.as_ptr().cast()) }
}

/// Sums of a panel's 16 rows as they are returned.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn to_array(acc: [v128; 4]) -> [i32; PANEL] {
    let mut out = [0; PANEL];
    for (out, acc) in out.as_chunks_mut::<4>().0.iter_mut().zip(acc) {
        // SAFETY: `out` has 16 bytes; stores need no alignment.
        unsafe { v128_store(out.as_mut_ptr().cast(), acc) };
    }
    out
}

/// Low and high nibbles.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn nibbles(bytes: v128) -> [v128; 2] {
    [v128_and(bytes, u8x16_splat(15)), u8x16_shr(bytes, 4)]
}

/// Sub-scales of 16 rows in 16 bits.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn load_subs(subs: &[i8; PANEL]) -> [v128; 2] {
    let bytes = load_signed(subs);
    [i16x8_extend_low_i8x16(bytes), i16x8_extend_high_i8x16(bytes)]
}

/// `acc + dots * subs` of a group, where the dot products of its uniform nibbles fit into 16 bits.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn scale_narrow(acc: &mut [v128; 4], dots: [v128; 2], subs: [v128; 2]) {
    for i in 0..2 {
        acc[2 * i] = i32x4_add(acc[2 * i], i32x4_extmul_low_i16x8(dots[i], subs[i]));
        acc[2 * i + 1] = i32x4_add(acc[2 * i + 1], i32x4_extmul_high_i16x8(dots[i], subs[i]));
    }
}

/// `acc + dots * subs` of a group of a codebook's levels.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn scale_wide(acc: &mut [v128; 4], dots: [v128; 4], subs: [v128; 2]) {
    for i in 0..2 {
        let (low, high) = (i32x4_extend_low_i16x8(subs[i]), i32x4_extend_high_i16x8(subs[i]));
        acc[2 * i] = i32x4_add(acc[2 * i], i32x4_mul(dots[2 * i], low));
        acc[2 * i + 1] = i32x4_add(acc[2 * i + 1], i32x4_mul(dots[2 * i + 1], high));
    }
}

/// 16-bit sums of the halves of four rows' quads.
type Pairs = [v128; 2];

#[inline]
#[target_feature(enable = "simd128")]
fn multiply(w: v128, x: v128) -> Pairs {
    [i16x8_extmul_low_i8x16(w, x), i16x8_extmul_high_i8x16(w, x)]
}

#[inline]
#[target_feature(enable = "simd128")]
fn multiply_add(pairs: Pairs, w: v128, x: v128) -> Pairs {
    let [a, b] = multiply(w, x);
    [i16x8_add(pairs[0], a), i16x8_add(pairs[1], b)]
}

/// 32-bit sums of halves of quads: register `2 i` rows `4 i` and `4 i + 1`, register `2 i + 1` the next two.
type Halves = [v128; 8];

#[inline]
#[target_feature(enable = "simd128")]
fn widen(acc: &mut Halves, i: usize, pairs: Pairs) {
    acc[2 * i] = i32x4_add(acc[2 * i], i32x4_extadd_pairwise_i16x8(pairs[0]));
    acc[2 * i + 1] = i32x4_add(acc[2 * i + 1], i32x4_extadd_pairwise_i16x8(pairs[1]));
}

/// Neighbouring lanes added.
#[inline]
#[target_feature(enable = "simd128")]
fn join(acc: Halves) -> [v128; 4] {
    let mut out = [i32x4_splat(0); 4];
    for i in 0..4 {
        let (a, b) = (acc[2 * i], acc[2 * i + 1]);
        out[i] = i32x4_add(i32x4_shuffle::<0, 2, 4, 6>(a, b), i32x4_shuffle::<1, 3, 5, 7>(a, b));
    }
    out
}

/// Neighbouring lanes of 16 bits added, wrapping.
#[inline]
#[target_feature(enable = "simd128")]
fn join_narrow(a: v128, b: v128) -> v128 {
    let even = i16x8_shuffle::<0, 2, 4, 6, 8, 10, 12, 14>(a, b);
    i16x8_add(even, i16x8_shuffle::<1, 3, 5, 7, 9, 11, 13, 15>(a, b))
}

#[inline]
#[target_feature(enable = "simd128")]
fn int8<const P: usize, const M: usize>(codes: [&[u8]; P], rows: [Row<'_>; M]) -> Sums<P, M> {
    let n = codes[0].len() / TILE;
    let mut out = [[[0; PANEL]; M]; P];
    for p in 0..P {
        let two = &codes[p].as_chunks::<{ 2 * TILE }>().0[..n / 2];
        let quads = rows.map(|row| &row.codes.as_chunks::<{ 2 * QUAD }>().0[..n / 2]);
        let mut acc = [[i32x4_splat(0); 8]; M];
        for q in 0..n / 2 {
            let w = two[q].as_chunks().0;
            for m in 0..M {
                let [x, y] = quads[m][q].as_chunks().0 else { unreachable!() };
                let (x, y) = (broadcast(x), broadcast(y));
                for i in 0..4 {
                    let pairs = multiply(load(&w[i]), x);
                    widen(&mut acc[m], i, multiply_add(pairs, load(&w[4 + i]), y));
                }
            }
        }
        if n % 2 == 1 {
            let w = codes[p].as_chunks::<TILE>().0[n - 1].as_chunks().0;
            for m in 0..M {
                let x = broadcast(&rows[m].codes.as_chunks().0[n - 1]);
                for i in 0..4 {
                    widen(&mut acc[m], i, multiply(load(&w[i]), x));
                }
            }
        }
        for m in 0..M {
            out[p][m] = to_array(join(acc[m]));
        }
    }
    out
}

#[inline]
#[target_feature(enable = "simd128")]
fn int4<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    let n = codes[0].len() / GROUP_BYTES;
    let x = rows.map(|row| &row.codes.as_chunks::<GROUP>().0[..n]);
    let sums = rows.map(|row| &row.sums[..n]);
    let mut out = [[[0; PANEL]; M]; P];
    for p in 0..P {
        let groups = &codes[p].as_chunks::<GROUP_BYTES>().0[..n];
        let subs = &subs[p][..n];
        let mut acc = [[i32x4_splat(0); 4]; M];
        for g in 0..n {
            let mut pairs = [[[i16x8_splat(0); 2]; 4]; M];
            let tiles = groups[g].as_chunks::<TILE>().0;
            for v in 0..GROUP_BYTES / TILE {
                for i in 0..4 {
                    let [low, high] = nibbles(load(&tiles[v].as_chunks().0[i]));
                    for m in 0..M {
                        let quads = x[m][g].as_chunks().0;
                        let (x, y) = (broadcast(&quads[2 * v]), broadcast(&quads[2 * v + 1]));
                        pairs[m][i] = multiply_add(multiply_add(pairs[m][i], low, x), high, y);
                    }
                }
            }
            let subs = load_subs(&subs[g]);
            for m in 0..M {
                let zero = i16x8_splat(INT4_ZERO as i16 * sums[m][g]);
                let [[a, b], [c, d], [e, f], [g, h]] = pairs[m];
                let low = join_narrow(join_narrow(a, b), join_narrow(c, d));
                let high = join_narrow(join_narrow(e, f), join_narrow(g, h));
                scale_narrow(&mut acc[m], [i16x8_sub(low, zero), i16x8_sub(high, zero)], subs);
            }
        }
        for m in 0..M {
            out[p][m] = to_array(acc[m]);
        }
    }
    out
}

#[inline]
#[target_feature(enable = "simd128")]
fn codebook<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    levels: &[i8; 16],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    let levels = load_signed(levels);
    let n = codes[0].len() / GROUP_BYTES;
    let x = rows.map(|row| &row.codes.as_chunks::<GROUP>().0[..n]);
    let mut out = [[[0; PANEL]; M]; P];
    for p in 0..P {
        let groups = &codes[p].as_chunks::<GROUP_BYTES>().0[..n];
        let subs = &subs[p][..n];
        let mut acc = [[i32x4_splat(0); 4]; M];
        for g in 0..n {
            let mut halves = [[i32x4_splat(0); 8]; M];
            let tiles = groups[g].as_chunks::<TILE>().0;
            for v in 0..GROUP_BYTES / TILE {
                for i in 0..4 {
                    let [low, high] = nibbles(load(&tiles[v].as_chunks().0[i]));
                    let (low, high) = (i8x16_swizzle(levels, low), i8x16_swizzle(levels, high));
                    for m in 0..M {
                        let quads = x[m][g].as_chunks().0;
                        let (x, y) = (broadcast(&quads[2 * v]), broadcast(&quads[2 * v + 1]));
                        widen(&mut halves[m], i, multiply_add(multiply(low, x), high, y));
                    }
                }
            }
            let subs = load_subs(&subs[g]);
            for m in 0..M {
                scale_wide(&mut acc[m], join(halves[m]), subs);
            }
        }
        for m in 0..M {
            out[p][m] = to_array(acc[m]);
        }
    }
    out
}
