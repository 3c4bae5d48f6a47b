//! AVX2: 16 rows of a tile are two 32-byte registers.
//!
//! `vpmaddubsw` wants one operand unsigned and saturates its 16-bit pairs. The weight's magnitude is the unsigned operand
//! and its sign is moved to the activation: |w| <= 128 and |x| <= 127 give pairs of at most 32,512, so nothing saturates
//! and the sums are exact. Uniform nibbles are unsigned as they are (0..=15): eight tiles of a group fit 16 bits
//! (15 * 127 * 2 * 8 = 30,480), and the zero of 8 is repaid once a group with the sum of its activations.
//!
//! The f32 operations are the reference's own text, compiled with the wider registers.

use core::arch::x86_64::*;
use core::ops::Range;

use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::{Format, GROUP, GROUP_BYTES, INT4_ZERO, Matrix, PANEL, QUAD, TILE};
use crate::scalar::{self, Dot};

super::token! {
    /// Proof of AVX2.
    Avx2, ["avx2"]
}

impl Dot for Avx2 {
    #[inline(always)]
    fn tiles(self, tiles: &[u8], x: &[i8]) -> [i32; PANEL] {
        // SAFETY: the token exists only where `new` found AVX2.
        unsafe { int8_panel::<1>(tiles, [x])[0] }
    }
}

/// The operations, to be called only where AVX2 exists.
mod on {
    use super::*;

    crate::x86::same_text!(Avx2, "avx2");

    #[target_feature(enable = "avx2")]
    pub(super) fn matmul(w: &Matrix<'_>, x: &Activations<'_>, panels: Range<usize>, out: &mut [f32], stride: usize) {
        for (p, column) in panels.zip((0..).step_by(PANEL)) {
            let out = &mut out[column..];
            let mut m = 0;
            while m + 4 <= x.rows() {
                panel::<4>(w, x, p, m, out, stride);
                m += 4;
            }
            while m < x.rows() {
                panel::<1>(w, x, p, m, out, stride);
                m += 1;
            }
        }
    }
}

/// Panel `p` for the `M` rows from `m`.
#[target_feature(enable = "avx2")]
fn panel<const M: usize>(w: &Matrix<'_>, x: &Activations<'_>, p: usize, m: usize, out: &mut [f32], stride: usize) {
    let inner = w.padded_cols();
    let codes: [&[i8]; M] = core::array::from_fn(|i| &x.codes(m + i)[..inner]);
    let acc = match w.format() {
        Format::Int8 => int8_panel(w.panel_codes(p), codes),
        Format::Int4 => {
            let sums = core::array::from_fn(|i| x.sums(m + i));
            int4_panel(w.panel_codes(p), w.panel_sub_scales(p), codes, sums)
        }
        Format::Int4Codebook => codebook_panel(w.panel_codes(p), w.panel_sub_scales(p), w.levels(), codes),
    };
    let width = PANEL.min(w.rows() - p * PANEL);
    for (i, acc) in acc.iter().enumerate() {
        scalar::store_panel(acc, w.panel_row_scales(p), x.scale(m + i), &mut out[(m + i) * stride..][..width]);
    }
}

/// Both halves of a tile.
#[inline]
#[target_feature(enable = "avx2")]
fn load_tile(tile: &[u8; TILE]) -> [__m256i; 2] {
    let start = tile.as_ptr();
    // SAFETY: `tile` has 64 bytes; unaligned loads of its first and second 32.
    unsafe { [_mm256_loadu_si256(start.cast()), _mm256_loadu_si256(start.wrapping_add(32).cast())] }
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

/// Int8 tiles, 64 bytes for each 4 activations, times `M` rows of activations.
#[inline]
#[target_feature(enable = "avx2")]
fn int8_panel<const M: usize>(tiles: &[u8], x: [&[i8]; M]) -> [[i32; PANEL]; M] {
    let mut acc = [[_mm256_setzero_si256(); 2]; M];
    let quads = x.map(|x| x.as_chunks::<QUAD>().0);
    for (q, tile) in tiles.as_chunks::<TILE>().0.iter().enumerate() {
        let w = load_tile(tile);
        for (acc, quads) in acc.iter_mut().zip(quads) {
            let x = broadcast(&quads[q]);
            *acc = [dot(acc[0], w[0], x), dot(acc[1], w[1], x)];
        }
    }
    acc.map(|acc| to_array(acc))
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

/// Uniform nibbles times `M` rows of activations with their group sums.
#[inline]
#[target_feature(enable = "avx2")]
fn int4_panel<const M: usize>(
    codes: &[u8],
    subs: &[[i8; PANEL]],
    x: [&[i8]; M],
    sums: [&[i16]; M],
) -> [[i32; PANEL]; M] {
    let mask = _mm256_set1_epi8(15);
    let ones = _mm256_set1_epi16(1);
    let mut acc = [[_mm256_setzero_si256(); 2]; M];
    for (g, (codes, subs)) in codes.as_chunks::<GROUP_BYTES>().0.iter().zip(subs).enumerate() {
        let mut pairs = [[_mm256_setzero_si256(); 2]; M];
        for (v, tile) in codes.as_chunks::<TILE>().0.iter().enumerate() {
            let bytes = load_tile(tile);
            for (pairs, x) in pairs.iter_mut().zip(x) {
                let quads = &x[g * GROUP + v * 2 * QUAD..].as_chunks::<QUAD>().0[..2];
                let (low, high) = (broadcast(&quads[0]), broadcast(&quads[1]));
                for (pairs, bytes) in pairs.iter_mut().zip(bytes) {
                    let a = _mm256_maddubs_epi16(_mm256_and_si256(bytes, mask), low);
                    let b = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask), high);
                    *pairs = _mm256_add_epi16(*pairs, _mm256_add_epi16(a, b));
                }
            }
        }
        for ((acc, pairs), sums) in acc.iter_mut().zip(pairs).zip(sums) {
            let zero = _mm256_set1_epi32(INT4_ZERO * i32::from(sums[g]));
            scale_group(acc, pairs.map(|p| _mm256_sub_epi32(_mm256_madd_epi16(p, ones), zero)), subs);
        }
    }
    acc.map(|acc| to_array(acc))
}

/// Nibbles that index a codebook, times `M` rows of activations.
#[inline]
#[target_feature(enable = "avx2")]
fn codebook_panel<const M: usize>(
    codes: &[u8],
    subs: &[[i8; PANEL]],
    levels: [i8; 16],
    x: [&[i8]; M],
) -> [[i32; PANEL]; M] {
    let mask = _mm256_set1_epi8(15);
    // SAFETY: `levels` has 16 bytes.
    let levels = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(levels.as_ptr().cast()) });
    let mut acc = [[_mm256_setzero_si256(); 2]; M];
    for (g, (codes, subs)) in codes.as_chunks::<GROUP_BYTES>().0.iter().zip(subs).enumerate() {
        let mut dots = [[_mm256_setzero_si256(); 2]; M];
        for (v, tile) in codes.as_chunks::<TILE>().0.iter().enumerate() {
            for (half, bytes) in load_tile(tile).into_iter().enumerate() {
                let low = _mm256_shuffle_epi8(levels, _mm256_and_si256(bytes, mask));
                let high = _mm256_shuffle_epi8(levels, _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask));
                for (dots, x) in dots.iter_mut().zip(x) {
                    let quads = &x[g * GROUP + v * 2 * QUAD..].as_chunks::<QUAD>().0[..2];
                    dots[half] = dot(dots[half], low, broadcast(&quads[0]));
                    dots[half] = dot(dots[half], high, broadcast(&quads[1]));
                }
            }
        }
        for (acc, dots) in acc.iter_mut().zip(dots) {
            scale_group(acc, dots, subs);
        }
    }
    acc.map(|acc| to_array(acc))
}
