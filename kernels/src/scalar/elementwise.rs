//! Norms, activations, rotary positions and the quantization of activations.

use super::{max, round_to_int, sqrt, sum};
use crate::layout::GROUP;
use crate::scalar::math::exp;

/// `x += y`.
#[inline(always)]
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    for (x, &y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// `x[i] * (1 / sqrt(mean(x^2) + eps)) * weight[i]`, multiplied from the left.
#[inline(always)]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let inv = 1.0 / sqrt(sum(x, |v| v * v) / x.len() as f32 + eps);
    for ((o, &x), &w) in out.iter_mut().zip(x).zip(weight) {
        *o = x * inv * w;
    }
}

/// Quantizes a row to int8: the scale is the largest magnitude / 127 (NaN ignored), codes are
/// rounded to nearest even and clamped to -127..=127 (NaN: 127). Codes after `x` become zero.
/// `sums` gets the sum of each 32 codes.
#[inline(always)]
pub(crate) fn quantize(x: &[f32], codes: &mut [i8], sums: &mut [i16]) -> f32 {
    let peak = largest(x);
    let inv = if peak > 0.0 { 127.0 / peak } else { 0.0 };
    let (filled, padding) = codes.split_at_mut(x.len());
    quantize_with(x, inv, 127.0, filled);
    padding.fill(0);
    for (s, group) in sums.iter_mut().zip(codes.chunks(GROUP)) {
        *s = group.iter().map(|&c| i16::from(c)).sum();
    }
    peak / 127.0
}

/// The largest magnitude; NaN is none.
#[cfg_attr(target_arch = "arm", inline(never))]
#[cfg_attr(not(target_arch = "arm"), inline(always))]
pub(crate) fn largest(x: &[f32]) -> f32 {
    // The order does not matter; without wide registers lanes would be code for nothing.
    if cfg!(target_arch = "arm") {
        return x.iter().fold(0.0, |m, v| max(m, v.abs()));
    }
    let mut peak = [0.0f32; super::LANES];
    let (chunks, tail) = x.as_chunks::<{ super::LANES }>();
    for chunk in chunks {
        for (p, v) in peak.iter_mut().zip(chunk) {
            *p = max(*p, v.abs());
        }
    }
    peak.iter().chain(tail).fold(0.0, |m, v| max(m, v.abs()))
}

/// `x * inv`, rounded to nearest even and clamped to `-top..=top` (NaN: `top`).
#[cfg_attr(target_arch = "arm", inline(never))]
#[cfg_attr(not(target_arch = "arm"), inline(always))]
pub(crate) fn quantize_with(x: &[f32], inv: f32, top: f32, codes: &mut [i8]) {
    for (c, &v) in codes.iter_mut().zip(x) {
        let t = v * inv;
        let t = if t < top { t } else { top };
        let t = if t > -top { t } else { -top };
        *c = round_to_int(t) as i8;
    }
}

/// Rotates the pairs `(x[i], x[i + n])` by the angles whose cosines and sines are given, `n` of
/// them. What lies after `x[2 n]` stays.
#[inline(always)]
pub(crate) fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a, b) = x.split_at_mut(cos.len());
    for (((a, b), &c), &s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    }
}

/// `gate = gate / (1 + exp(-gate)) * up`.
#[inline(always)]
pub(crate) fn silu_mul(gate: &mut [f32], up: &[f32]) {
    for (g, &u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp(-*g)) * u;
    }
}
