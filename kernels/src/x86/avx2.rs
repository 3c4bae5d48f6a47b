//! AVX2: 16 rows of a tile are two 32-byte registers.
//!
//! `vpmaddubsw` wants one operand unsigned and saturates its 16-bit pairs. The weight's magnitude is the unsigned operand
//! and its sign is moved to the activation: |w| <= 128 and |x| <= 127 give pairs of at most 32,512, so nothing saturates
//! and the sums are exact. Uniform nibbles are unsigned as they are (0..=15): eight tiles of a group fit 16 bits
//! (15 * 127 * 2 * 8 = 30,480), and the zero of 8 is repaid once a group with the sum of its activations.

use core::arch::x86_64::*;
use core::ops::Range;

use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::{GROUP_BYTES, INT4_ZERO, Matrix, PANEL, QUAD, TILE};
use crate::product::{self, Product, Row, Sums, group};
use crate::scalar;

crate::vector::token! {
    /// Proof of AVX2.
    Avx2, crate::vector::has!(is_x86_feature_detected, ["avx2"])
}

/// The operations, to be called only where AVX2 exists.
mod on {
    use super::*;

    crate::vector::operations!(Avx2, "avx2", panels: 1, rows: 4, queries: 2);
}

crate::vector::products!(Avx2);

/// Both halves of a tile.
#[inline]
#[target_feature(enable = "avx2")]
fn load_tile(tile: &[u8; TILE]) -> [__m256i; 2] {
    let start = tile.as_ptr();
    // SAFETY: `tile` has 64 bytes; unaligned loads of its first and second 32.
    [0, 32].map(|offset| unsafe { _mm256_loadu_si256(start.wrapping_add(offset).cast()) })
}

/// Four activations in every lane.
#[inline]
#[target_feature(enable = "avx2")]
fn broadcast(x: &[i8; QUAD]) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes(x.map(|v| v as u8)))
}

/// Dot products of the four bytes in each lane; `w` may be -128, `x` not.
#[inline]
#[target_feature(enable = "avx2")]
fn dot(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn to_array(acc: [__m256i; 2]) -> [i32; PANEL] {
    let mut out = [0; PANEL];
    let start = out.as_mut_ptr();
    // SAFETY: `out` has 64 bytes: the first 32.
    unsafe { _mm256_storeu_si256(start.cast(), acc[0]) };
    // SAFETY: `out` has 64 bytes: the second 32.
    unsafe { _mm256_storeu_si256(start.wrapping_add(8).cast(), acc[1]) };
    out
}

#[inline]
#[target_feature(enable = "avx2")]
fn int8<const P: usize, const M: usize>(codes: [&[u8]; P], rows: [Row<'_>; M]) -> Sums<P, M> {
    let quads = rows.map(|row| row.codes.as_chunks::<QUAD>().0);
    codes.map(|codes| {
        let mut acc = [[_mm256_setzero_si256(); 2]; M];
        for (q, tile) in codes.as_chunks::<TILE>().0.iter().enumerate() {
            let w = load_tile(tile);
            for (acc, quads) in acc.iter_mut().zip(quads) {
                let x = broadcast(&quads[q]);
                *acc = [dot(acc[0], w[0], x), dot(acc[1], w[1], x)];
            }
        }
        acc.map(|acc| to_array(acc))
    })
}

/// `acc + group * sub_scale`, lane by lane.
#[inline]
#[target_feature(enable = "avx2")]
fn scale_group(acc: &mut [__m256i; 2], group: [__m256i; 2], subs: &[i8; PANEL]) {
    // SAFETY: `subs` has 16 bytes.
    let subs = unsafe { _mm_loadu_si128(subs.as_ptr().cast()) };
    let wide = [_mm256_cvtepi8_epi32(subs), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(subs))];
    for i in 0..2 {
        acc[i] = _mm256_add_epi32(acc[i], _mm256_mullo_epi32(group[i], wide[i]));
    }
}

/// The codes of 32 bytes: low nibbles, high nibbles.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles(bytes: __m256i) -> [__m256i; 2] {
    let mask = _mm256_set1_epi8(15);
    [_mm256_and_si256(bytes, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn int4<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    let ones = _mm256_set1_epi16(1);
    core::array::from_fn(|p| {
        let mut acc = [[_mm256_setzero_si256(); 2]; M];
        for (g, (codes, subs)) in codes[p].as_chunks::<GROUP_BYTES>().0.iter().zip(subs[p]).enumerate() {
            let mut pairs = [[_mm256_setzero_si256(); 2]; M];
            for (v, tile) in codes.as_chunks::<TILE>().0.iter().enumerate() {
                let halves = load_tile(tile).map(|bytes| nibbles(bytes));
                for (pairs, row) in pairs.iter_mut().zip(rows) {
                    let quads = group(&row, g).as_chunks::<QUAD>().0;
                    let x = [broadcast(&quads[2 * v]), broadcast(&quads[2 * v + 1])];
                    for (pairs, [low, high]) in pairs.iter_mut().zip(halves) {
                        let sum = _mm256_add_epi16(_mm256_maddubs_epi16(low, x[0]), _mm256_maddubs_epi16(high, x[1]));
                        *pairs = _mm256_add_epi16(*pairs, sum);
                    }
                }
            }
            for ((acc, pairs), row) in acc.iter_mut().zip(pairs).zip(rows) {
                let zero = _mm256_set1_epi32(INT4_ZERO * i32::from(row.sums[g]));
                scale_group(acc, pairs.map(|p| _mm256_sub_epi32(_mm256_madd_epi16(p, ones), zero)), subs);
            }
        }
        acc.map(|acc| to_array(acc))
    })
}

#[inline]
#[target_feature(enable = "avx2")]
fn codebook<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    levels: &[i8; 16],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    // SAFETY: `levels` has 16 bytes.
    let levels = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(levels.as_ptr().cast()) });
    core::array::from_fn(|p| {
        let mut acc = [[_mm256_setzero_si256(); 2]; M];
        for (g, (codes, subs)) in codes[p].as_chunks::<GROUP_BYTES>().0.iter().zip(subs[p]).enumerate() {
            let mut dots = [[_mm256_setzero_si256(); 2]; M];
            for (v, tile) in codes.as_chunks::<TILE>().0.iter().enumerate() {
                let halves = load_tile(tile).map(|bytes| nibbles(bytes).map(|n| _mm256_shuffle_epi8(levels, n)));
                for (dots, row) in dots.iter_mut().zip(rows) {
                    let quads = group(&row, g).as_chunks::<QUAD>().0;
                    let x = [broadcast(&quads[2 * v]), broadcast(&quads[2 * v + 1])];
                    for (acc, [low, high]) in dots.iter_mut().zip(halves) {
                        *acc = dot(dot(*acc, low, x[0]), high, x[1]);
                    }
                }
            }
            for (acc, dots) in acc.iter_mut().zip(dots) {
                scale_group(acc, dots, subs);
            }
        }
        acc.map(|acc| to_array(acc))
    })
}
