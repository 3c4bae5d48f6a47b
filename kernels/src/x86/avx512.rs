//! AVX-512 with VNNI: a tile of 16 rows is one 64-byte register, and `vpdpbusd` adds its four products to each row.
//!
//! The instruction wants its first operand unsigned. Weights are: int8 as `w ^ 0x80 = w + 128`, nibbles as they are, levels of a
//! codebook as `level + 128`. What is added to every weight is repaid by the sum of the activations, which comes with them, as the
//! value that a sum starts from. Sums wrap, so the detour is exact.
//!
//! Decode walks [`STREAMS`] panels at once: one stream of memory reaches 11 to 12 GB/s on a core, several 17 to 20. Prompts
//! take up to [`ROWS`] rows of activations for one reading of a panel.

use core::arch::x86_64::*;
use core::ops::Range;

use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::{Format, GROUP, GROUP_BYTES, INT4_ZERO, Matrix, PANEL, QUAD, TILE};
use crate::scalar::{self, Dot};

/// Panels that one row of activations meets at once.
const STREAMS: usize = 4;
/// Rows of activations that meet one panel at once.
const ROWS: usize = 8;

super::token! {
    /// Proof of AVX-512 F, BW, VL and VNNI.
    Avx512, ["avx512f", "avx512bw", "avx512vl", "avx512vnni"]
}

impl Dot for Avx512 {
    #[inline(always)]
    fn tiles(self, tiles: &[u8], x: &[i8]) -> [i32; PANEL] {
        // SAFETY: the token exists only where `new` found the features.
        unsafe { tiles_and_sum(tiles, x) }
    }
}

/// The operations, to be called only where the features exist.
mod on {
    use super::*;

    crate::x86::same_text!(Avx512, "avx512f,avx512bw,avx512vl,avx512vnni");

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) fn matmul(w: &Matrix<'_>, x: &Activations<'_>, panels: Range<usize>, out: &mut [f32], stride: usize) {
        let mut m = 0;
        while m + ROWS <= x.rows() {
            columns::<1, ROWS>(w, x, m, panels.clone(), &mut out[m * stride..], stride);
            m += ROWS;
        }
        while m < x.rows() {
            columns::<STREAMS, 1>(w, x, m, panels.clone(), &mut out[m * stride..], stride);
            m += 1;
        }
    }
}

/// All panels for the `M` rows from `m`, `P` panels at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn columns<const P: usize, const M: usize>(
    w: &Matrix<'_>,
    x: &Activations<'_>,
    m: usize,
    panels: Range<usize>,
    out: &mut [f32],
    stride: usize,
) {
    let mut p = panels.start;
    while p + P <= panels.end {
        block::<P, M>(w, x, p, m, &mut out[(p - panels.start) * PANEL..], stride);
        p += P;
    }
    while p < panels.end {
        block::<1, M>(w, x, p, m, &mut out[(p - panels.start) * PANEL..], stride);
        p += 1;
    }
}

/// `P` panels from `p` times `M` rows from `m`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn block<const P: usize, const M: usize>(
    w: &Matrix<'_>,
    x: &Activations<'_>,
    p: usize,
    m: usize,
    out: &mut [f32],
    stride: usize,
) {
    let inner = w.padded_cols();
    let rows: [Row<'_>; M] = core::array::from_fn(|i| Row { codes: &x.codes(m + i)[..inner], sums: x.sums(m + i) });
    let codes: [&[u8]; P] = core::array::from_fn(|i| w.panel_codes(p + i));
    let acc = match w.format() {
        Format::Int8 => int8_panels(codes, rows),
        format => {
            let subs = core::array::from_fn(|i| w.panel_sub_scales(p + i));
            // Uniform levels are their own offsets; a codebook's are moved up by 128.
            let levels = match format {
                Format::Int4 => None,
                _ => Some(w.levels().map(|v| v as u8 ^ 0x80)),
            };
            int4_panels(codes, subs, levels, rows)
        }
    };
    for (i, acc) in acc.iter().enumerate() {
        let width = PANEL.min(w.rows() - (p + i) * PANEL);
        for (j, &acc) in acc.iter().enumerate() {
            let acc = to_array(acc);
            let out = &mut out[j * stride + i * PANEL..][..width];
            scalar::store_panel(&acc, w.panel_row_scales(p + i), x.scale(m + j), out);
        }
    }
}

/// A row of activations.
#[derive(Clone, Copy)]
struct Row<'a> {
    codes: &'a [i8],
    sums: &'a [i16],
}

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

/// Int8 tiles of `P` panels times `M` rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn int8_panels<const P: usize, const M: usize>(codes: [&[u8]; P], rows: [Row<'_>; M]) -> [[__m512i; M]; P] {
    let sign = _mm512_set1_epi8(-128);
    let starts = rows.map(|row| _mm512_set1_epi32(-128 * row.sums.iter().map(|&s| i32::from(s)).sum::<i32>()));
    let mut acc = [starts; P];
    let tiles = codes.map(|codes| codes.as_chunks::<TILE>().0);
    let quads = rows.map(|row| row.codes.as_chunks::<QUAD>().0);
    for q in 0..tiles[0].len() {
        let x = quads.map(|quads| broadcast(&quads[q]));
        for (acc, tiles) in acc.iter_mut().zip(tiles) {
            let w = _mm512_xor_si512(load(&tiles[q]), sign);
            for (acc, x) in acc.iter_mut().zip(x) {
                *acc = _mm512_dpbusd_epi32(*acc, w, x);
            }
        }
    }
    acc
}

/// Nibbles of `P` panels times `M` rows; with `levels`, nibbles index a codebook that was moved up by 128.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn int4_panels<const P: usize, const M: usize>(
    codes: [&[u8]; P],
    subs: [&[[i8; PANEL]]; P],
    levels: Option<[u8; 16]>,
    rows: [Row<'_>; M],
) -> [[__m512i; M]; P] {
    let mask = _mm512_set1_epi8(15);
    let table = levels.map(|levels| {
        // SAFETY: `levels` has 16 bytes.
        _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(levels.as_ptr().cast()) })
    });
    let zero = if levels.is_some() { 128 } else { INT4_ZERO };
    let groups = codes.map(|codes| codes.as_chunks::<GROUP_BYTES>().0);
    let mut acc = [[_mm512_setzero_si512(); M]; P];
    for g in 0..groups[0].len() {
        for (acc, (groups, subs)) in acc.iter_mut().zip(groups.into_iter().zip(subs)) {
            let mut dots = rows.map(|row| _mm512_set1_epi32(-zero * i32::from(row.sums[g])));
            for (v, tile) in groups[g].as_chunks::<TILE>().0.iter().enumerate() {
                let bytes = load(tile);
                let mut low = _mm512_and_si512(bytes, mask);
                let mut high = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask);
                if let Some(table) = table {
                    (low, high) = (_mm512_shuffle_epi8(table, low), _mm512_shuffle_epi8(table, high));
                }
                for (dot, row) in dots.iter_mut().zip(rows) {
                    let quads = &row.codes[g * GROUP + v * 2 * QUAD..].as_chunks::<QUAD>().0[..2];
                    *dot = _mm512_dpbusd_epi32(*dot, low, broadcast(&quads[0]));
                    *dot = _mm512_dpbusd_epi32(*dot, high, broadcast(&quads[1]));
                }
            }
            // SAFETY: a group's sub-scales are 16 bytes.
            let sub = _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(subs[g].as_ptr().cast()) });
            for (acc, dot) in acc.iter_mut().zip(dots) {
                *acc = _mm512_add_epi32(*acc, _mm512_mullo_epi32(dot, sub));
            }
        }
    }
    acc
}

/// Int8 tiles times one row whose sum is not known.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tiles_and_sum(tiles: &[u8], x: &[i8]) -> [i32; PANEL] {
    let sign = _mm512_set1_epi8(-128);
    let (mut acc, mut sum) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    for (tile, x) in tiles.as_chunks::<TILE>().0.iter().zip(x.as_chunks::<QUAD>().0) {
        let x = broadcast(x);
        acc = _mm512_dpbusd_epi32(acc, _mm512_xor_si512(load(tile), sign), x);
        // 128 times the sum of the activations, in every lane.
        sum = _mm512_dpbusd_epi32(sum, sign, x);
    }
    to_array(_mm512_sub_epi32(acc, sum))
}
