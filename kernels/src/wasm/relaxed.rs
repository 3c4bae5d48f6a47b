//! WebAssembly's relaxed vectors: `i32x4.relaxed_dot_i8x16_i7x16_add_s` becomes `vpdpbusd`,
//! `vpmaddubsw` or `sdot`, which differ where its second operand is negative or two products exceed
//! 16 bits. Neither happens here, so every machine gives the same bits:
//!
//! * a uniform nibble is 0..=15, and two products are within 2 * 15 * 127 = 3,810;
//! * a codebook's level is `(level & 127) - 128 * (level < 0)`: two dot products, with 0..=127 (2 *
//!   127 * 127 = 32,258) and with 0 or 1, each from a table of its own. `i8x16.relaxed_swizzle` is
//!   exact for indices below 16.
//!
//! Int8 weights are `simd128`'s: split like levels they took half as long again (V8 on x86-64).

use core::arch::wasm32::*;
use core::ops::Range;

use super::simd128::{
    broadcast, int8, load, load_signed, load_subs, nibbles, scale_narrow, scale_wide, to_array,
};
use crate::activations::{Activations, Row};
use crate::cache::Head;
use crate::gemm::{self, Product, Sums};
use crate::layout::{GROUP, GROUP_BYTES, INT4_ZERO, Matrix, PANEL, TILE};
use crate::scalar;

crate::vector::token! {
    /// Proof of relaxed vectors.
    Relaxed, cfg!(target_feature = "relaxed-simd")
}

/// The operations, to be called only where the vectors exist.
mod on {
    use super::*;

    crate::vector::operations!(Relaxed, "relaxed-simd", panels: 1, rows: 1, queries: 1);
}

crate::vector::products!(Relaxed);

/// `acc + w . x` of four quads, where no byte of `w` is negative.
#[inline]
#[target_feature(enable = "relaxed-simd")]
fn dot(acc: v128, w: v128, x: v128) -> v128 {
    i32x4_relaxed_dot_i8x16_i7x16_add(x, w, acc)
}

/// Lower seven bits, and the sign as 0 or 1.
#[inline]
#[target_feature(enable = "relaxed-simd")]
fn split(w: v128) -> [v128; 2] {
    [v128_and(w, u8x16_splat(127)), u8x16_shr(w, 7)]
}

/// Dot products from those of the lower bits and of the signs.
#[inline]
#[target_feature(enable = "relaxed-simd")]
fn join(dots: [[v128; 4]; 2]) -> [v128; 4] {
    let [mut out, signs] = dots;
    for i in 0..4 {
        out[i] = i32x4_sub(out[i], i32x4_shl(signs[i], 7));
    }
    out
}

#[inline]
#[target_feature(enable = "relaxed-simd")]
fn int4<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    core::array::from_fn(|p| rows.map(|row| int4_row(codes[p], subs[p], row)))
}

#[inline]
#[target_feature(enable = "relaxed-simd")]
fn int4_row(codes: &[u8], subs: &[[i8; PANEL]], row: Row<'_>) -> [i32; PANEL] {
    let n = codes.len() / GROUP_BYTES;
    let groups = &codes.as_chunks::<GROUP_BYTES>().0[..n];
    let (subs, sums) = (&subs[..n], &row.sums[..n]);
    let x = &row.codes.as_chunks::<GROUP>().0[..n];
    let mut acc = [i32x4_splat(0); 4];
    for g in 0..n {
        let mut dots = [i32x4_splat(-INT4_ZERO * i32::from(sums[g])); 4];
        let tiles = groups[g].as_chunks::<TILE>().0;
        let quads = x[g].as_chunks().0;
        for v in 0..GROUP_BYTES / TILE {
            let (x, y) = (broadcast(&quads[2 * v]), broadcast(&quads[2 * v + 1]));
            for i in 0..4 {
                let [low, high] = nibbles(load(&tiles[v].as_chunks().0[i]));
                dots[i] = dot(dot(dots[i], low, x), high, y);
            }
        }
        // 32 * 8 * 127 fits into 16 bits, so nothing saturates.
        let [a, b, c, d] = dots;
        let dots = [i16x8_narrow_i32x4(a, b), i16x8_narrow_i32x4(c, d)];
        scale_narrow(&mut acc, dots, load_subs(&subs[g]));
    }
    to_array(acc)
}

#[inline]
#[target_feature(enable = "relaxed-simd")]
fn codebook<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    levels: &[i8; 16],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    let tables = split(load_signed(levels));
    core::array::from_fn(|p| rows.map(|row| codebook_row(codes[p], subs[p], tables, row)))
}

#[inline]
#[target_feature(enable = "relaxed-simd")]
fn codebook_row(
    codes: &[u8],
    subs: &[[i8; PANEL]],
    tables: [v128; 2],
    row: Row<'_>,
) -> [i32; PANEL] {
    let n = codes.len() / GROUP_BYTES;
    let groups = &codes.as_chunks::<GROUP_BYTES>().0[..n];
    let subs = &subs[..n];
    let x = &row.codes.as_chunks::<GROUP>().0[..n];
    let mut acc = [i32x4_splat(0); 4];
    for g in 0..n {
        let mut dots = [[i32x4_splat(0); 4]; 2];
        let tiles = groups[g].as_chunks::<TILE>().0;
        let quads = x[g].as_chunks().0;
        for v in 0..GROUP_BYTES / TILE {
            let (x, y) = (broadcast(&quads[2 * v]), broadcast(&quads[2 * v + 1]));
            for i in 0..4 {
                let [low, high] = nibbles(load(&tiles[v].as_chunks().0[i]));
                for j in 0..2 {
                    let (low, high) = (
                        i8x16_relaxed_swizzle(tables[j], low),
                        i8x16_relaxed_swizzle(tables[j], high),
                    );
                    dots[j][i] = dot(dot(dots[j][i], low, x), high, y);
                }
            }
        }
        scale_wide(&mut acc, join(dots), load_subs(&subs[g]));
    }
    to_array(acc)
}
