//! WebAssembly's 128-bit vectors: 16 bytes are four inner values of four rows.
//!
//! The same plan as NEON without the dot product, whose instructions these become there:
//! `i16x8.extmul` of bytes, of which two products fit into 16 bits (|w| <= 128, |x| <= 127:
//! 32,512), or a group's eight of uniform nibbles (15 * 127 * 8 = 15,240), whose dot product fits
//! again once the zero point of 8 is corrected for (32 * 8 * 127 = 32,512); sums on the way may
//! wrap. `i8x16.swizzle` looks levels up.
//!
//! On x86-64 `i32x4.dot_i16x8_s` of widened bytes would be fewer instructions, on Arm three times
//! as many. What has these vectors and not the relaxed ones is mostly Safari, on Arm.

use core::arch::wasm32::*;
use core::ops::Range;

use crate::activations::{Activations, Row};
use crate::cache::Head;
use crate::gemm::{self, Product, Sums};
use crate::layout::{GROUP, GROUP_BYTES, INT4_ZERO, Matrix, PANEL, QUAD, TILE};
use crate::scalar;

crate::vector::token! {
    /// Proof of 128-bit vectors.
    Simd128, cfg!(target_feature = "simd128")
}

/// The operations, to be called only where the vectors exist.
mod on {
    use super::*;

    crate::vector::operations!(Simd128, "simd128", panels: 1, rows: 1, queries: 1);
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

/// 32-bit sums of halves of quads: register `2 i` rows `4 i` and `4 i + 1`, register `2 i + 1` the
/// next two.
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

/// One row at a time: the 16 registers of many hosts hold the sums of no more, and unpacking again
/// is cheaper than moving them.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn int8<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    codes.map(|codes| rows.map(|row| int8_row(codes, row)))
}

#[inline]
#[target_feature(enable = "simd128")]
fn int8_row(codes: &[u8], row: Row<'_>) -> [i32; PANEL] {
    let n = codes.len() / TILE;
    let two = &codes.as_chunks::<{ 2 * TILE }>().0[..n / 2];
    let quads = &row.codes.as_chunks::<{ 2 * QUAD }>().0[..n / 2];
    let mut acc = [i32x4_splat(0); 8];
    for q in 0..n / 2 {
        let w = two[q].as_chunks().0;
        let [x, y] = quads[q].as_chunks().0 else { unreachable!() };
        let (x, y) = (broadcast(x), broadcast(y));
        for i in 0..4 {
            let pairs = multiply(load(&w[i]), x);
            widen(&mut acc, i, multiply_add(pairs, load(&w[4 + i]), y));
        }
    }
    if n % 2 == 1 {
        let w = codes.as_chunks::<TILE>().0[n - 1].as_chunks().0;
        let x = broadcast(&row.codes.as_chunks().0[n - 1]);
        for i in 0..4 {
            widen(&mut acc, i, multiply(load(&w[i]), x));
        }
    }
    to_array(join(acc))
}

#[inline]
#[target_feature(enable = "simd128")]
fn int4<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    core::array::from_fn(|p| rows.map(|row| int4_row(codes[p], subs[p], row)))
}

#[inline]
#[target_feature(enable = "simd128")]
fn int4_row(codes: &[u8], subs: &[[i8; PANEL]], row: Row<'_>) -> [i32; PANEL] {
    let n = codes.len() / GROUP_BYTES;
    let groups = &codes.as_chunks::<GROUP_BYTES>().0[..n];
    let (subs, sums) = (&subs[..n], &row.sums[..n]);
    let x = &row.codes.as_chunks::<GROUP>().0[..n];
    let mut acc = [i32x4_splat(0); 4];
    for g in 0..n {
        let mut pairs = [[i16x8_splat(0); 2]; 4];
        let tiles = groups[g].as_chunks::<TILE>().0;
        let quads = x[g].as_chunks().0;
        for v in 0..GROUP_BYTES / TILE {
            let (x, y) = (broadcast(&quads[2 * v]), broadcast(&quads[2 * v + 1]));
            for i in 0..4 {
                let [low, high] = nibbles(load(&tiles[v].as_chunks().0[i]));
                pairs[i] = multiply_add(multiply_add(pairs[i], low, x), high, y);
            }
        }
        let zero = i16x8_splat(INT4_ZERO as i16 * sums[g]);
        let [a, b, c, d] = pairs.map(|[a, b]| join_narrow(a, b));
        let dots = [i16x8_sub(join_narrow(a, b), zero), i16x8_sub(join_narrow(c, d), zero)];
        scale_narrow(&mut acc, dots, load_subs(&subs[g]));
    }
    to_array(acc)
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
    core::array::from_fn(|p| rows.map(|row| codebook_row(codes[p], subs[p], levels, row)))
}

#[inline]
#[target_feature(enable = "simd128")]
fn codebook_row(codes: &[u8], subs: &[[i8; PANEL]], levels: v128, row: Row<'_>) -> [i32; PANEL] {
    let n = codes.len() / GROUP_BYTES;
    let groups = &codes.as_chunks::<GROUP_BYTES>().0[..n];
    let subs = &subs[..n];
    let x = &row.codes.as_chunks::<GROUP>().0[..n];
    let mut acc = [i32x4_splat(0); 4];
    for g in 0..n {
        let mut halves = [i32x4_splat(0); 8];
        let tiles = groups[g].as_chunks::<TILE>().0;
        let quads = x[g].as_chunks().0;
        for v in 0..GROUP_BYTES / TILE {
            let (x, y) = (broadcast(&quads[2 * v]), broadcast(&quads[2 * v + 1]));
            for i in 0..4 {
                let [low, high] = nibbles(load(&tiles[v].as_chunks().0[i]));
                let (low, high) = (i8x16_swizzle(levels, low), i8x16_swizzle(levels, high));
                widen(&mut halves, i, multiply_add(multiply(low, x), high, y));
            }
        }
        scale_wide(&mut acc, join(halves), load_subs(&subs[g]));
    }
    to_array(acc)
}
