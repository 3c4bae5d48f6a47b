//! AVX-512 with VNNI: a tile is one register. The kernels are those of [`super::vnni`].

use core::arch::x86_64::*;
use core::ops::Range;

use crate::activations::{Activations, Row};
use crate::cache::{CHUNK, Head};
use crate::gemm::{self, Out, Product, Sums};
use crate::layout::{Format, GROUP, INT4_ZERO, Matrix, PANEL, QUAD, TILE};
use crate::scalar::math::{LOWEST, POWER, ROUND, ROUND_BIASED};
use crate::scalar::{self, Weights, units};

crate::vector::token! {
    /// Proof of AVX-512 F, BW, VL and VNNI.
    Avx512, crate::vector::has!(is_x86_feature_detected, ["avx512f", "avx512bw", "avx512vl", "avx512vnni"])
}

/// The operations, to be called only where the features exist.
pub(super) mod on {
    use super::*;

    crate::vector::operations!(
        Avx512, "avx512f,avx512bw,avx512vl,avx512vnni", panels: 4, rows: matmul_rows, queries: 4
    );
}

crate::vector::products!(Avx512, grouped: int8_grouped, add: add_sums, softmax: softmax);

type Reg = __m512i;
const HALVES: usize = 1;

macro_rules! op {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $body:expr;)*) => {$(
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
        fn $name($($arg: $ty),*) -> $ret {
            $body
        }
    )*};
}

op! {
    set1(x: i32) -> Reg = _mm512_set1_epi32(x);
    and(a: Reg, b: Reg) -> Reg = _mm512_and_si512(a, b);
    xor(a: Reg, b: Reg) -> Reg = _mm512_xor_si512(a, b);
    add(a: Reg, b: Reg) -> Reg = _mm512_add_epi32(a, b);
    mul(a: Reg, b: Reg) -> Reg = _mm512_mullo_epi32(a, b);
    shift_right_4(a: Reg) -> Reg = _mm512_srli_epi16::<4>(a);
    shuffle(table: Reg, index: Reg) -> Reg = _mm512_shuffle_epi8(table, index);
    dot(acc: Reg, unsigned: Reg, signed: Reg) -> Reg = _mm512_dpbusd_epi32(acc, unsigned, signed);
    // Miri does not know this instruction.
    dot_i16(acc: Reg, a: Reg, b: Reg) -> Reg = if cfg!(miri) { add(acc, _mm512_madd_epi16(a, b)) } else { _mm512_dpwssd_epi32(acc, a, b) };
    // SAFETY: `x` has 64 bytes.
    load(x: &[u8; 64]) -> Reg = unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
    // SAFETY: `to` has 64 bytes.
    store(to: &mut [i32; 16], x: Reg) -> () = unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) };
    // SAFETY: `x` has 16 bytes.
    repeat(x: &[u8; 16]) -> Reg = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(x.as_ptr().cast()) });
    // SAFETY: `x` has 16 bytes.
    widen(x: &[i8; 16]) -> Reg = _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(x.as_ptr().cast()) });
}

super::vnni::kernels!("avx512f,avx512bw,avx512vl,avx512vnni");

/// [`scalar::softmax`] of 64 scores in four registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn softmax(scores: &[f32; CHUNK], value_scales: &[f32]) -> Weights {
    // Miri does not know `vmaxps`.
    if cfg!(miri) {
        let mut weights = Weights::EMPTY;
        scalar::softmax(scores, value_scales, &mut weights);
        return weights;
    }
    const N: usize = CHUNK / PANEL;
    let (chunks, n) = (scores.as_chunks::<PANEL>().0, value_scales.len());
    fit!(n <= CHUNK);
    let mut x = [_mm512_setzero_ps(); N];
    let mut top = _mm512_set1_ps(f32::NEG_INFINITY);
    for i in 0..N {
        // SAFETY: a chunk has 64 bytes.
        x[i] = unsafe { _mm512_loadu_ps(chunks[i].as_ptr()) };
        // Where the first operand is NaN, the result is the second.
        top = _mm512_max_ps(x[i], top);
    }
    let max = fold(top, |a, b| _mm256_max_ps(a, b), |a, b| _mm_max_ps(a, b));
    let (mut sum, mut peak) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for i in 0..N {
        let e = exp2_below(_mm512_sub_ps(x[i], _mm512_set1_ps(max)));
        sum = _mm512_add_ps(sum, e);
        let left = n.saturating_sub(i * PANEL).min(PANEL);
        let mask = ((1u32 << left) - 1) as u16;
        // SAFETY: the mask has a one for each value scale from `16 i` on, and no more than 16.
        let scale =
            unsafe { _mm512_maskz_loadu_ps(mask, value_scales.as_ptr().wrapping_add(i * PANEL)) };
        x[i] = _mm512_mul_ps(e, scale);
        peak = _mm512_max_ps(x[i], peak);
    }
    let sum = fold(sum, |a, b| _mm256_add_ps(a, b), |a, b| _mm_add_ps(a, b));
    let peak = fold(peak, |a, b| _mm256_max_ps(a, b), |a, b| _mm_max_ps(a, b));
    let (inv, unit) = units(peak);
    let mut out = Weights { max, sum, unit, ..Weights::EMPTY };
    let (inv, low7) = (_mm512_set1_ps(inv), _mm512_set1_epi32(127));
    let round = _mm512_set1_ps(ROUND);
    for i in 0..N {
        let code = _mm512_castps_si512(_mm512_add_ps(_mm512_mul_ps(x[i], inv), round));
        let code = _mm512_sub_epi32(code, _mm512_castps_si512(round));
        let high = _mm512_and_si512(_mm512_srli_epi32::<7>(code), low7);
        for (plane, code) in [high, _mm512_and_si512(code, low7)].into_iter().enumerate() {
            let codes = &mut out.planes[plane].as_chunks_mut::<PANEL>().0[i];
            let bytes = _mm512_cvtepi32_epi8(code);
            // SAFETY: `codes` has 16 bytes.
            unsafe { _mm_storeu_si128(codes.as_mut_ptr().cast(), bytes) };
            let sums = _mm_sad_epu8(bytes, _mm_setzero_si128());
            out.sums[plane][i * PANEL / GROUP] +=
                (_mm_extract_epi16::<0>(sums) + _mm_extract_epi16::<4>(sums)) as i16;
        }
    }
    out
}

/// [`scalar::math::exp2_below`] in each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn exp2_below(x: __m512) -> __m512 {
    let z = _mm512_max_ps(x, _mm512_set1_ps(LOWEST));
    let round = _mm512_set1_ps(ROUND_BIASED);
    let t = _mm512_add_ps(z, round);
    let f = _mm512_sub_ps(z, _mm512_sub_ps(t, round));
    let mut p = _mm512_set1_ps(POWER[0]);
    for c in &POWER[1..] {
        p = _mm512_add_ps(_mm512_mul_ps(p, f), _mm512_set1_ps(*c));
    }
    _mm512_mul_ps(p, _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(t))))
}

/// Lanes in halves: 8, 4, 2, 1.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn fold(
    x: __m512,
    eight: impl Fn(__m256, __m256) -> __m256,
    four: impl Fn(__m128, __m128) -> __m128,
) -> f32 {
    let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(x)));
    let x = eight(_mm512_castps512_ps256(x), high);
    let x = four(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = four(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(four(x, _mm_shuffle_ps::<1>(x, x)))
}
