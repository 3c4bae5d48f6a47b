//! AVX-512 with VNNI: a tile of 16 rows is one 64-byte register, and `vpdpbusd` adds its four products to each row.
//!
//! The instruction wants its first operand unsigned. Weights are: int8 as `w ^ 0x80 = w + 128`, nibbles as they are, levels of a
//! codebook as `level + 128`. What is added to every weight is repaid by the sum of the activations, which comes with them, as the
//! value that a sum starts from. Sums wrap, so the detour is exact.
//!
//! Decode walks 4 panels at once: one stream of memory reaches 11 to 12 GB/s on a core, several 17 to 20. Prompts take 8 rows
//! of activations for one reading of a panel.

use core::arch::x86_64::*;
use core::ops::Range;

use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::{GROUP, GROUP_BYTES, INT4_ZERO, Matrix, PANEL, QUAD, TILE};
use crate::product::{self, Product, Row, Sums};
use crate::scalar;

crate::vector::token! {
    /// Proof of AVX-512 F, BW, VL and VNNI.
    Avx512, crate::vector::has!(is_x86_feature_detected, ["avx512f", "avx512bw", "avx512vl", "avx512vnni"])
}

/// The operations, to be called only where the features exist.
mod on {
    use super::*;

    crate::vector::operations!(Avx512, "avx512f,avx512bw,avx512vl,avx512vnni", panels: 4, rows: 8, queries: 4);
}

crate::vector::products!(Avx512);

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn load(tile: &[u8; TILE]) -> __m512i {
    // SAFETY: `tile` has 64 bytes.
    unsafe { _mm512_loadu_si512(tile.as_ptr().cast()) }
}

/// Four activations in every lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn broadcast(x: &[i8; QUAD]) -> __m512i {
    _mm512_set1_epi32(i32::from_le_bytes(x.map(|v| v as u8)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn to_array(acc: __m512i) -> [i32; PANEL] {
    let mut out = [0; PANEL];
    // SAFETY: `out` has 64 bytes.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), acc) };
    out
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn int8<const P: usize, const M: usize>(codes: [&[u8]; P], rows: [Row<'_>; M]) -> Sums<P, M> {
    let sign = _mm512_set1_epi8(-128);
    let mut acc = [rows.map(|row| _mm512_set1_epi32(-128 * row.sum())); P];
    let n = codes[0].len() / TILE;
    // One length for all, so that one check serves all; indices, so that the loops unroll and the sums stay in registers.
    let tiles = codes.map(|codes| &codes.as_chunks::<TILE>().0[..n]);
    let quads = rows.map(|row| &row.codes.as_chunks::<QUAD>().0[..n]);
    for q in 0..n {
        for p in 0..P {
            let w = _mm512_xor_si512(load(&tiles[p][q]), sign);
            for m in 0..M {
                acc[p][m] = _mm512_dpbusd_epi32(acc[p][m], w, broadcast(&quads[m][q]));
            }
        }
    }
    acc.map(|acc| acc.map(|acc| to_array(acc)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn int4<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    unsigned_groups(codes, subs, None, INT4_ZERO, rows)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn codebook<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    levels: &[i8; 16],
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    // SAFETY: `levels` has 16 bytes.
    let levels = _mm_xor_si128(unsafe { _mm_loadu_si128(levels.as_ptr().cast()) }, _mm_set1_epi8(-128));
    unsigned_groups(codes, subs, Some(_mm512_broadcast_i32x4(levels)), 128, rows)
}

/// Groups of nibbles, or of the unsigned `levels` they index, all greater by `zero` than the weights.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn unsigned_groups<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    levels: Option<__m512i>,
    zero: i32,
    rows: [Row<'_>; M],
) -> Sums<P, M> {
    let mask = _mm512_set1_epi8(15);
    let n = codes[0].len() / GROUP_BYTES;
    let groups = codes.map(|codes| &codes.as_chunks::<GROUP_BYTES>().0[..n]);
    let subs = subs.map(|subs| &subs[..n]);
    let x = rows.map(|row| &row.codes.as_chunks::<GROUP>().0[..n]);
    let sums = rows.map(|row| &row.sums[..n]);
    let mut acc = [[_mm512_setzero_si512(); M]; P];
    for g in 0..n {
        for p in 0..P {
            let mut dots = sums.map(|sums| _mm512_set1_epi32(-zero * i32::from(sums[g])));
            let tiles = groups[p][g].as_chunks::<TILE>().0;
            for v in 0..GROUP_BYTES / TILE {
                let bytes = load(&tiles[v]);
                let mut low = _mm512_and_si512(bytes, mask);
                let mut high = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask);
                if let Some(levels) = levels {
                    (low, high) = (_mm512_shuffle_epi8(levels, low), _mm512_shuffle_epi8(levels, high));
                }
                for m in 0..M {
                    let quads = x[m][g].as_chunks::<QUAD>().0;
                    dots[m] = _mm512_dpbusd_epi32(dots[m], low, broadcast(&quads[2 * v]));
                    dots[m] = _mm512_dpbusd_epi32(dots[m], high, broadcast(&quads[2 * v + 1]));
                }
            }
            // SAFETY: a group's sub-scales are 16 bytes.
            let sub = _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(subs[p][g].as_ptr().cast()) });
            for m in 0..M {
                acc[p][m] = _mm512_add_epi32(acc[p][m], _mm512_mullo_epi32(dots[m], sub));
            }
        }
    }
    acc.map(|acc| acc.map(|acc| to_array(acc)))
}
