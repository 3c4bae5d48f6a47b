//! Elementary functions in IEEE f32 without fused multiply-add: the same bits on every machine.
//!
//! The polynomials are those of Cephes' `expf`, `sinf` and `cosf` (S. Moshier), evaluated by Horner's rule with every
//! product and every sum rounded. Errors against f64 over the whole range stand in this module's tests.

#![allow(clippy::excessive_precision, reason = "coefficients as published; the compiler rounds them to f32")]

/// 1.5 * 2^23: adding it rounds to the nearest integer, ties to even, and leaves that integer in the low bits.
const ROUND: f32 = 12_582_912.0;

/// The larger of the two; `m` where `x` is NaN.
#[inline(always)]
pub(crate) fn max(m: f32, x: f32) -> f32 {
    if x > m { x } else { m }
}

/// Nearest integer, ties to even. Meaningful for |x| < 2^22; a defined wrapped value for every other bit pattern.
#[inline(always)]
pub(crate) fn round_to_int(x: f32) -> i32 {
    (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32
}

/// Square root, correctly rounded.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    libm::sqrtf(x)
}

/// e^x within 2 units in the last place; 0 below -87 (no subnormal results), e^88 above 88 and for NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let z = if x < 88.0 { x } else { 88.0 };
    let z = if z > -87.0 { z } else { -87.0 };
    let n = (z * core::f32::consts::LOG2_E + ROUND) - ROUND;
    // ln 2 in two parts: the first has ten bits, so its product with n is exact.
    let r = (z - n * 0.693_359_375) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_15e-4;
    p = p * r + 1.398_199_95e-3;
    p = p * r + 8.333_451_9e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_55e-1;
    p = p * r + 5.000_000_1e-1;
    let y = (p * (r * r) + r) + 1.0;
    let power = f32::from_bits(((round_to_int(n) + 127) as u32) << 23);
    if x < -87.0 { 0.0 } else { y * power }
}

/// Sine and cosine of `phase` / 2^32 turns. Integer phases wrap exactly, so a position of any size needs no range
/// reduction beyond a shift.
#[inline(always)]
pub fn sin_cos(phase: u32) -> (f32, f32) {
    let quadrant = phase.wrapping_add(1 << 29) >> 30;
    let rest = phase.wrapping_sub(quadrant << 30) as i32;
    let x = rest as f32 * (core::f32::consts::PI / 2_147_483_648.0);
    let z = x * x;
    let s = ((-1.951_529_59e-4 * z + 8.332_160_87e-3) * z + -1.666_665_46e-1) * z * x + x;
    let c = ((2.443_315_71e-5 * z + -1.388_731_63e-3) * z + 4.166_664_57e-2) * (z * z) + (1.0 - 0.5 * z);
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

    fn ulps(got: f32, want: f64) -> f64 {
        let want32 = want as f32;
        let ulp = f64::from(f32::from_bits(want32.to_bits() + 1)) - f64::from(want32);
        (f64::from(got) - want).abs() / ulp
    }

    #[test]
    fn exp_is_within_two_ulps() {
        let mut worst = 0.0f64;
        for i in 0..1_000_000 {
            let x = -86.9 + 174.8 * (i as f32 / 1e6);
            worst = worst.max(ulps(exp(x), f64::from(x).exp()));
        }
        assert!(worst < 2.0, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::INFINITY).is_finite() && exp(f32::NAN).is_finite());
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
        for (x, n) in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (-126.5, -126), (3.49, 3)] {
            assert_eq!(round_to_int(x), n, "{x}");
        }
    }
}
