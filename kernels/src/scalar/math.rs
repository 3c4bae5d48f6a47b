//! Elementary functions in IEEE f32 without fused multiply-add: the same bits on every machine.
//!
//! Polynomials are evaluated by Horner's rule with every product and every sum rounded; those of
//! sine and cosine are Cephes' (S. Moshier). Errors against f64 over the whole range stand in this
//! module's tests.

#![allow(
    clippy::excessive_precision,
    reason = "coefficients as published; the compiler rounds them to f32"
)]

/// 1.5 * 2^23: adding it rounds to the nearest integer, ties to even, and leaves that integer in
/// the low bits.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// The larger of the two; `m` where `x` is NaN.
#[inline(always)]
pub(crate) fn max(m: f32, x: f32) -> f32 {
    if x > m { x } else { m }
}

/// Nearest integer, ties to even. Meaningful for |x| < 2^22; a defined wrapped value for every
/// other bit pattern.
#[inline(always)]
pub(crate) fn round_to_int(x: f32) -> i32 {
    (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32
}

/// Square root, correctly rounded.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    #[cfg(all(target_arch = "arm", target_abi = "eabihf", any(kinglet_dsp, kinglet_mve)))]
    let root = crate::arch::sqrt(x);
    #[cfg(not(all(target_arch = "arm", target_abi = "eabihf", any(kinglet_dsp, kinglet_mve))))]
    let root = libm::sqrtf(x);
    root
}

/// 126 more: a rounded sum has the biased exponent of half a power of two in its low bits.
pub(crate) const ROUND_BIASED: f32 = ROUND + 126.0;
/// The lowest exponent, whose power is 0.
pub(crate) const LOWEST: f32 = -126.0;

/// 2^(x + 1) on -0.5..0.5, the highest power first. Twice the result times half the power: no step
/// makes a subnormal number.
pub(crate) const POWER: [f32; 5] =
    [2.0 * 9.582_853e-3, 2.0 * 5.590_642_6e-2, 2.0 * 2.402_409_9e-1, 2.0 * 6.931_242e-1, 2.0];

/// 2^x within 3.5e-6 of its size: 1 at 0, 0 below -125.5, 2^127 at the most (NaN, too).
///
/// Half a unit of the 14 bits of an attention weight is ten times as much. A polynomial of degree 4
/// is the least that does it (minimax of the relative error on -0.5..0.5 with 1 at 0; degree 3 is
/// off by 1e-4).
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    exp2_below(if x < 127.0 { x } else { 127.0 })
}

/// [`exp2`] of an `x` of at most 127; 0 for NaN.
#[inline(always)]
pub(crate) fn exp2_below(x: f32) -> f32 {
    let z = if x > LOWEST { x } else { LOWEST };
    let t = z + ROUND_BIASED;
    let f = z - (t - ROUND_BIASED);
    let mut p = POWER[0];
    for c in &POWER[1..] {
        p = p * f + c;
    }
    p * f32::from_bits(t.to_bits() << 23)
}

/// e^x as a power of two: within 3.5e-6 of its size, and |x| / 2^24 for the rounding of the
/// exponent.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    exp2(x * core::f32::consts::LOG2_E)
}

/// Natural logarithm of a positive normal number, within 2e-7 of its size or 1e-7; what else it
/// gives is of no use. The polynomial is Cephes'.
pub fn ln(x: f32) -> f32 {
    const P: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_84e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_7e-1,
        2.000_071_4e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    let bits = x.to_bits();
    // The mantissa from the square root of a half to that of two.
    let (mut m, mut e) =
        (f32::from_bits(bits & 0x007f_ffff | 0x3f00_0000), (bits >> 23 & 255) as i32 - 126);
    if m < core::f32::consts::FRAC_1_SQRT_2 {
        (m, e) = (m + m - 1.0, e - 1);
    } else {
        m -= 1.0;
    }
    let z = m * m;
    let mut p = P[0];
    for c in &P[1..] {
        p = p * m + c;
    }
    let e = e as f32;
    let y = p * m * z + e * -2.121_944_4e-4 - 0.5 * z;
    m + y + e * 0.693_359_375
}

/// Sine and cosine of `phase` / 2^32 turns. Integer phases wrap exactly, so a position of any size
/// needs no range reduction beyond a shift.
#[inline(always)]
pub fn sin_cos(phase: u32) -> (f32, f32) {
    let quadrant = phase.wrapping_add(1 << 29) >> 30;
    let rest = phase.wrapping_sub(quadrant << 30) as i32;
    let x = rest as f32 * (core::f32::consts::PI / 2_147_483_648.0);
    let z = x * x;
    let s = ((-1.951_529_59e-4 * z + 8.332_160_87e-3) * z + -1.666_665_46e-1) * z * x + x;
    let c = ((2.443_315_71e-5 * z + -1.388_731_63e-3) * z + 4.166_664_57e-2) * (z * z)
        + (1.0 - 0.5 * z);
    match quadrant {
        0 => (s, c),
        1 => (c, -s),
        2 => (-s, -c),
        _ => (-c, s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_within_their_bounds() {
        let (mut worst, mut worst_e) = (0.0f64, 0.0f64);
        for i in 0..1_000_000 {
            let x = -125.0 + 251.0 * (i as f32 / 1e6);
            worst = worst.max((f64::from(exp2(x)) / f64::from(x).exp2() - 1.0).abs());
            let x = x * core::f32::consts::LN_2;
            let error = (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs();
            worst_e = worst_e.max(error - f64::from(x.abs()) / 16_777_216.0);
        }
        assert!(worst < 3.5e-6 && worst_e < 3.5e-6, "{worst} {worst_e}");
        assert_eq!((exp2(0.0), exp2(-0.0), exp(0.0)), (1.0, 1.0, 1.0));
        assert_eq!((exp2(-127.0), exp2(-1e30), exp2(f32::NEG_INFINITY)), (0.0, 0.0, 0.0));
        // No result is subnormal.
        for i in 0..100_000 {
            let y = exp2(-127.0 + 3.0 * (i as f32 / 1e5));
            assert!(y == 0.0 || y.is_normal(), "{y:e}");
        }
        for x in [127.0, 1e30, f32::INFINITY, f32::NAN] {
            assert_eq!(exp2(x).to_bits(), 254 << 23, "{x}");
        }
        assert_eq!(exp2_below(f32::NAN), 0.0);
    }

    #[test]
    fn logarithms_are_within_their_bounds() {
        for i in 0..1_000_000u32 {
            let x = f32::from_bits(0x0080_0000 + i * 2130);
            let (got, want) = (f64::from(ln(x)), f64::from(x).ln());
            assert!((got - want).abs() < 1e-7 + 2e-7 * want.abs(), "{x:e}: {got} {want}");
        }
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn sin_cos_is_within_2_to_the_minus_23() {
        for i in 0..1_000_003u32 {
            let phase = i.wrapping_mul(4295);
            let (s, c) = sin_cos(phase);
            let x = f64::from(phase) * (core::f64::consts::TAU / 4_294_967_296.0);
            assert!((f64::from(s) - x.sin()).abs() < 1.2e-7, "sin {phase}");
            assert!((f64::from(c) - x.cos()).abs() < 1.2e-7, "cos {phase}");
        }
    }

    #[test]
    fn rounds_ties_to_even() {
        for (x, n) in
            [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (-126.5, -126), (3.49, 3)]
        {
            assert_eq!(round_to_int(x), n, "{x}");
        }
    }
}
