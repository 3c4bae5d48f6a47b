//! AVX2: 16 rows of a tile are two 32-byte registers.
//!
//! `vpmaddubsw` wants one operand unsigned and saturates its 16-bit pairs. The weight's magnitude
//! is the unsigned operand and its sign is moved to the activation: |w| <= 128 and |x| <= 127 give
//! pairs of at most 32,512, so nothing saturates and the sums are exact. Uniform nibbles are
//! unsigned as they are (0..=15): eight tiles of a group fit 16 bits (15 * 127 * 2 * 8 = 30,480),
//! and the zero point of 8 is corrected for once a group with the sum of its activations.

use core::arch::x86_64::*;
use core::ops::Range;

use crate::activations::{Activations, Row};
use crate::cache::Head;
use crate::gemm::{self, Product, Sums};
use crate::layout::{GROUP, INT4_ZERO, Matrix, PANEL, QUAD, TILE};
use crate::scalar;

crate::vector::token! {
    /// Proof of AVX2.
    Avx2, crate::vector::has!(is_x86_feature_detected, ["avx2"])
}

/// The operations, to be called only where AVX2 exists.
mod on {
    use super::*;

    crate::vector::operations!(Avx2, "avx2", panels: 2, rows: 4, queries: 2);
}

crate::vector::products!(Avx2, grouped: int8_grouped);

// Loops by index over slices of one length: they unroll, and sums stay in registers. Closures
// inside `map` would not be inlined, since `map` is compiled without the features.

/// Both halves of a tile.
type Tile = [__m256i; 2];

#[inline]
#[target_feature(enable = "avx2")]
fn load_tile(tile: &[u8; TILE]) -> Tile {
    let start = tile.as_ptr();
    // SAFETY: `tile` has 64 bytes: the first 32.
    let first = unsafe { _mm256_loadu_si256(start.cast()) };
    // SAFETY: the second 32.
    let second = unsafe { _mm256_loadu_si256(start.wrapping_add(32).cast()) };
    [first, second]
}

/// Four activations in every lane.
#[inline]
#[target_feature(enable = "avx2")]
fn broadcast(x: &[i8; QUAD]) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes([x[0] as u8, x[1] as u8, x[2] as u8, x[3] as u8]))
}

/// Adds the dot products of the four bytes in each lane; `w` may be -128, `x` not.
#[inline]
#[target_feature(enable = "avx2")]
fn dot(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn to_sums<const P: usize, const M: usize>(acc: [[Tile; M]; P]) -> Sums<P, M> {
    let mut out = [[[0; PANEL]; M]; P];
    for p in 0..P {
        for m in 0..M {
            let halves = out[p][m].as_chunks_mut::<8>().0;
            for h in 0..2 {
                // SAFETY: half a panel of sums has 32 bytes.
                unsafe { _mm256_storeu_si256(halves[h].as_mut_ptr().cast(), acc[p][m][h]) };
            }
        }
    }
    out
}

#[inline]
#[target_feature(enable = "avx2")]
fn int8<const P: usize, const M: usize>(codes: [&[u8]; P], rows: [Row<'_>; M]) -> Sums<P, M> {
    let n = codes[0].len() / TILE;
    let mut tiles: [&[[u8; TILE]]; P] = [&[]; P];
    for p in 0..P {
        tiles[p] = &codes[p].as_chunks().0[..n];
    }
    let mut quads: [&[[i8; QUAD]]; M] = [&[]; M];
    for m in 0..M {
        quads[m] = &rows[m].codes.as_chunks().0[..n];
    }
    let mut acc = [[[_mm256_setzero_si256(); 2]; M]; P];
    for q in 0..n {
        for p in 0..P {
            let w = load_tile(&tiles[p][q]);
            for m in 0..M {
                let x = broadcast(&quads[m][q]);
                for h in 0..2 {
                    acc[p][m][h] = dot(acc[p][m][h], w[h], x);
                }
            }
        }
    }
    to_sums(acc)
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
    groups::<P, M, 4, false>(codes, subs, _mm256_setzero_si256(), rows)
}

#[inline]
#[target_feature(enable = "avx2")]
fn int8_grouped<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    groups::<P, M, 8, false>(codes, subs, _mm256_setzero_si256(), rows)
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
    groups::<P, M, 4, true>(codes, subs, levels, rows)
}

// Longer than sixty lines: constants choose between three formats in one nest of loops, whose sums
// stay in registers because nothing in it is a call.
#[inline]
#[target_feature(enable = "avx2")]
fn groups<const P: usize, const M: usize, const TILES: usize, const CODEBOOK: bool>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    levels: __m256i,
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    let (bytes, uniform) = (TILES == GROUP / QUAD, TILES < GROUP / QUAD && !CODEBOOK);
    let n = codes[0].len() / (TILES * TILE);
    let mut groups: [&[[[u8; TILE]; TILES]]; P] = [&[]; P];
    let mut scales: [&[[i8; PANEL]]; P] = [&[]; P];
    for p in 0..P {
        groups[p] = &codes[p].as_chunks().0.as_chunks().0[..n];
        scales[p] = &subs[p][..n];
    }
    let mut x: [&[[i8; GROUP]]; M] = [&[]; M];
    let mut sums: [&[i16]; M] = [&[]; M];
    for m in 0..M {
        x[m] = &rows[m].codes.as_chunks().0[..n];
        sums[m] = &rows[m].sums[..n];
    }
    let mut acc = [[[_mm256_setzero_si256(); 2]; M]; P];
    for g in 0..n {
        for p in 0..P {
            let tiles = &groups[p][g];
            let subs = scales[p][g].as_chunks::<8>().0;
            for h in 0..2 {
                // Of uniform nibbles 16-bit sums of pairs; otherwise 32-bit sums.
                let mut dots = [_mm256_setzero_si256(); M];
                for v in 0..GROUP / QUAD / 2 {
                    let [mut low, mut high] = match bytes {
                        true => [load_tile(&tiles[2 * v])[h], load_tile(&tiles[2 * v + 1])[h]],
                        false => nibbles(load_tile(&tiles[v])[h]),
                    };
                    if CODEBOOK {
                        (low, high) =
                            (_mm256_shuffle_epi8(levels, low), _mm256_shuffle_epi8(levels, high));
                    }
                    for m in 0..M {
                        let quads = x[m][g].as_chunks::<QUAD>().0;
                        let (first, second) =
                            (broadcast(&quads[2 * v]), broadcast(&quads[2 * v + 1]));
                        if !uniform {
                            dots[m] = dot(dot(dots[m], low, first), high, second);
                        } else {
                            let pairs = _mm256_add_epi16(
                                _mm256_maddubs_epi16(low, first),
                                _mm256_maddubs_epi16(high, second),
                            );
                            dots[m] = _mm256_add_epi16(dots[m], pairs);
                        }
                    }
                }
                // SAFETY: half a panel of sub-scales has 8 bytes.
                let sub = _mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(subs[h].as_ptr().cast()) });
                for m in 0..M {
                    let mut dot = dots[m];
                    if uniform {
                        let zero = _mm256_set1_epi32(INT4_ZERO * i32::from(sums[m][g]));
                        dot = _mm256_sub_epi32(_mm256_madd_epi16(dot, _mm256_set1_epi16(1)), zero);
                    }
                    acc[p][m][h] = _mm256_add_epi32(acc[p][m][h], _mm256_mullo_epi32(dot, sub));
                }
            }
        }
    }
    to_sums(acc)
}
