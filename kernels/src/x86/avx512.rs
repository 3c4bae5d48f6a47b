//! AVX-512 with VNNI: a tile is one register. The kernels are those of [`super::vnni`].

use core::arch::x86_64::*;
use core::ops::Range;

use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::{Format, GROUP, GROUP_BYTES, INT4_ZERO, Matrix, PANEL, QUAD, TILE};
use crate::product::{self, Product, Row, Sums};
use crate::scalar;

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

crate::vector::products!(Avx512);

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
    dot_i16(acc: Reg, a: Reg, b: Reg) -> Reg = _mm512_dpwssd_epi32(acc, a, b);
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
