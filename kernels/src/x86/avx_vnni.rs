//! AVX-VNNI: a tile is two registers. The kernels are those of [`super::vnni`].

use core::arch::x86_64::*;
use core::ops::Range;

use crate::activations::{Activations, Row};
use crate::cache::Head;
use crate::gemm::{self, Out, Product, Sums};
use crate::layout::{Format, GROUP, INT4_ZERO, Matrix, PANEL, QUAD, TILE};
use crate::scalar;

crate::vector::token! {
    /// Proof of AVX2 and AVX-VNNI.
    AvxVnni, crate::vector::has!(is_x86_feature_detected, ["avx2", "avxvnni"])
}

/// The operations, to be called only where the features exist.
mod on {
    use super::*;

    crate::vector::operations!(AvxVnni, "avx2,avxvnni", panels: 4, rows: matmul_rows, queries: 2);
}

crate::vector::products!(AvxVnni, grouped: int8_grouped, add: add_sums);

type Reg = __m256i;
const HALVES: usize = 2;

macro_rules! op {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $body:expr;)*) => {$(
        #[inline]
        #[target_feature(enable = "avx2,avxvnni")]
        fn $name($($arg: $ty),*) -> $ret {
            $body
        }
    )*};
}

op! {
    set1(x: i32) -> Reg = _mm256_set1_epi32(x);
    and(a: Reg, b: Reg) -> Reg = _mm256_and_si256(a, b);
    xor(a: Reg, b: Reg) -> Reg = _mm256_xor_si256(a, b);
    add(a: Reg, b: Reg) -> Reg = _mm256_add_epi32(a, b);
    mul(a: Reg, b: Reg) -> Reg = _mm256_mullo_epi32(a, b);
    shift_right_4(a: Reg) -> Reg = _mm256_srli_epi16::<4>(a);
    shuffle(table: Reg, index: Reg) -> Reg = _mm256_shuffle_epi8(table, index);
    dot(acc: Reg, unsigned: Reg, signed: Reg) -> Reg = _mm256_dpbusd_avx_epi32(acc, unsigned, signed);
    // Miri does not know this instruction.
    dot_i16(acc: Reg, a: Reg, b: Reg) -> Reg = if cfg!(miri) { add(acc, _mm256_madd_epi16(a, b)) } else { _mm256_dpwssd_avx_epi32(acc, a, b) };
    // SAFETY: `x` has 32 bytes.
    load(x: &[u8; 32]) -> Reg = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
    // SAFETY: `to` has 32 bytes.
    store(to: &mut [i32; 8], x: Reg) -> () = unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), x) };
    // SAFETY: `x` has 16 bytes.
    repeat(x: &[u8; 16]) -> Reg = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(x.as_ptr().cast()) });
    // SAFETY: `x` has 8 bytes.
    widen(x: &[i8; 8]) -> Reg = _mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(x.as_ptr().cast()) });
}

super::vnni::kernels!("avx2,avxvnni");
