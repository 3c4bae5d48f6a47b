//! What only some families of transformers need: layer norm, activations, and products of numbers.

#![allow(
    clippy::excessive_precision,
    reason = "coefficients as published; the compiler rounds them to f32"
)]

use core::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use super::{exp, exp2, exp2_below, sqrt, sum};
use crate::activation::Activation;

/// `x *= y`.
#[inline(always)]
pub(crate) fn mul(x: &mut [f32], y: &[f32]) {
    for (x, &y) in x.iter_mut().zip(y) {
        *x *= y;
    }
}

/// `(x[i] - mean) * (1 / sqrt(variance + eps)) * weight[i] + bias[i]`, multiplied from the left;
/// the variance is the mean of `(x[i] - mean)^2`.
#[inline(always)]
pub(crate) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = sum(x, |v| v) / n;
    let variance = sum(x, |v| (v - mean) * (v - mean)) / n;
    let inv = 1.0 / sqrt(variance + eps);
    for (((o, &x), &w), &b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *o = (x - mean) * inv * w + b;
    }
}

/// `x[i] = f(x[i])`.
#[inline(always)]
pub(crate) fn activate(activation: Activation, x: &mut [f32]) {
    match activation {
        Activation::Silu => each(x, |x| x / (1.0 + exp(-x))),
        Activation::Gelu => each(x, gelu),
        Activation::GeluTanh => each(x, gelu_tanh),
        Activation::Relu => each(x, relu),
        Activation::Tanh => each(x, tanh),
        Activation::Identity => {}
        Activation::QuickGelu => each(x, |x| x / (1.0 + exp(-1.702 * x))),
    }
}

#[inline(always)]
fn each(x: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in x {
        *x = f(*x);
    }
}

/// `y`, or NaN where `x` is: powers of NaN are numbers, and a compiler that may use WebAssembly's
/// relaxed vectors makes one of a clamp, too.
#[inline(always)]
fn or_nan(x: f32, y: f32) -> f32 {
    if x.is_nan() { x } else { y }
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// `1 - 2 / (1 + e^(2x))`.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    or_nan(x, 1.0 - 2.0 / (1.0 + exp2(x * (2.0 * LOG2_E))))
}

/// `x * (1 + erf(x / sqrt 2)) / 2` as `max(x, 0) - |x| erfc(|x| / sqrt 2) / 2`: erfc is Abramowitz
/// and Stegun's 7.1.26. Where the second part is below 1e-31 it goes on as it is.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    let z = if x.abs() < 12.0 { x.abs() } else { 12.0 };
    let t = 1.0 / (1.0 + 0.327_591_1 * FRAC_1_SQRT_2 * z);
    let mut p = 1.061_405_429 * t;
    for c in [-1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592] {
        p = (p + c) * t;
    }
    relu(x) - p * exp2_below(z * z * (-0.5 * LOG2_E)) * (0.5 * z)
}

/// `x * (1 + tanh u) / 2` as `x / (1 + e^(-2u))` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`; below
/// -10, where it is less than 1e-36, that of -10.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    /// `-2 sqrt(2 / pi) log2(e)`.
    const FACTOR: f32 = -2.302_208_198_141_5;
    let z = if x < -10.0 { -10.0 } else { x };
    or_nan(x, z / (1.0 + exp2(z * (FACTOR + 0.044_715 * FACTOR * (z * z)))))
}
