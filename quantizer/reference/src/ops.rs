//! What happens between the products.
//!
//! The functions of the standard library do: this is what results are measured
//! against, not what has to be the same everywhere.

use kinglet::Isa;
use rayon::prelude::*;

use kinglet_import::checkpoint::{Activation, Pooling};

/// Norms each run of as many numbers as there are weights.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(weight.len()).zip(x.par_chunks(weight.len())).with_min_len(64).for_each(
        |(out, x)| {
            let sum: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            let scale = (1.0 / (sum / x.len() as f64 + f64::from(eps)).sqrt()) as f32;
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = weight * (x * scale);
            }
        },
    );
    out
}

/// The same of what is left when each run's mean is taken from it.
pub fn layer_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(weight.len()).zip(x.par_chunks(weight.len())).with_min_len(64).for_each(
        |(out, x)| {
            let count = x.len() as f64;
            let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
            let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count;
            let scale = 1.0 / (variance + f64::from(eps)).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = weight * ((f64::from(*x) - mean) * scale) as f32;
            }
        },
    );
    out
}

/// `activation(gate) .* up` of rows that hold `inner` numbers of each.
pub fn gate(activation: Activation, both: &[f32], inner: usize) -> Vec<f32> {
    let mut out = vec![0.0; both.len() / 2];
    out.par_chunks_mut(inner).zip(both.par_chunks(2 * inner)).with_min_len(16).for_each(
        |(out, both)| {
            let (gate, up) = both.split_at(inner);
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = activate(activation, *gate) * up;
            }
        },
    );
    out
}

/// `activation(x)` of all numbers.
pub fn activate_all(activation: Activation, x: &mut [f32]) {
    x.par_iter_mut().with_min_len(4096).for_each(|x| *x = activate(activation, *x));
}

/// One row of `width` numbers of several.
pub fn pool(pooling: Pooling, rows: &[f32], width: usize) -> Vec<f32> {
    let of = |k: usize| rows[k..].iter().step_by(width).copied();
    let count = (rows.len() / width) as f64;
    match pooling {
        Pooling::None => rows.to_vec(),
        Pooling::First => rows[..width].to_vec(),
        Pooling::Mean => {
            (0..width).map(|k| (of(k).map(f64::from).sum::<f64>() / count) as f32).collect()
        }
        Pooling::Max => (0..width).map(|k| of(k).fold(f32::NEG_INFINITY, f32::max)).collect(),
    }
}

/// Divides a row by its length; zeros stay.
pub fn normalize(row: &mut [f32]) {
    let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}

/// The scale of a row in int8; not finite if a number of the row is not.
pub fn int8_scale(row: &[f32]) -> f32 {
    // Without the sign, larger numbers have larger bits, and what is not a number has the largest.
    f32::from_bits(row.iter().fold(0, |m, x| m.max(x.to_bits() & 0x7fff_ffff))) / 127.0
}

/// The nearest integer for magnitudes below 2^22, ties to even. `round_ties_even` is a call on
/// x86-64 without SSE4.1; this is not.
pub fn nearest(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    (x + ROUND) - ROUND
}

/// Rounds each row of `cols` numbers to int8 with one scale, and back, as the runtime rounds
/// activations.
pub fn rounded(x: &[f32], cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(cols).zip(x.par_chunks(cols)).with_min_len(16).for_each(|(out, x)| {
        let scale = int8_scale(x);
        // Not `scale > 0`: what is not a number stays so.
        if scale != 0.0 {
            let inv = 1.0 / scale;
            for (out, x) in out.iter_mut().zip(x) {
                *out = nearest(x * inv) * scale;
            }
        }
    });
    out
}

/// Transforms each row of `cols` numbers as the runtime does.
pub fn transformed(x: &[f32], cols: usize) -> Vec<f32> {
    let (mut out, isa) = (x.to_vec(), Isa::detect());
    out.par_chunks_mut(cols).with_min_len(16).for_each(|row| isa.transform(row));
    out
}

/// `x <- x + y`.
pub fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// The sum of the squares of each of `cols` columns.
pub fn squares(x: &[f32], cols: usize) -> Vec<f32> {
    let mut sums = vec![0.0; cols];
    x.chunks(cols).for_each(|row| sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x));
    sums
}

/// `x <- x - y`.
pub fn subtract(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x -= y;
    }
}

/// `x <- exp(x) / sum(exp(x))`.
pub fn softmax(x: &mut [f32]) {
    // In lanes, which the compiler can turn into vectors; sums of a lane are short enough for f32.
    const LANES: usize = 8;
    let mut tops = [f32::NEG_INFINITY; LANES];
    for x in x.chunks(LANES) {
        for (top, x) in tops.iter_mut().zip(x) {
            *top = if *x > *top { *x } else { *top };
        }
    }
    let largest = tops.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0; LANES];
    for x in x.chunks_mut(LANES) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *x = (*x - largest).exp();
            *sum += *x;
        }
    }
    let scale = (1.0 / sums.iter().map(|&sum| f64::from(sum)).sum::<f64>()) as f32;
    for x in x.iter_mut() {
        *x *= scale;
    }
}

/// One number through an activation.
pub fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => {
            let x = f64::from(x);
            (x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)) / 2.0) as f32
        }
        Activation::GeluTanh => {
            let x = f64::from(x);
            let slope = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
            (x * (1.0 + (slope * (x + 0.044715 * x * x * x)).tanh()) / 2.0) as f32
        }
        Activation::Relu => x.max(0.0),
        Activation::Tanh => x.tanh(),
        Activation::Identity => x,
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
    }
}

/// The derivative of [`activate`].
pub fn slope(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Silu => {
            let sigmoid = 1.0 / (1.0 + (-x).exp());
            sigmoid * (1.0 + x * (1.0 - sigmoid))
        }
        Activation::Relu => f32::from(u8::from(x > 0.0)),
        Activation::Tanh => 1.0 - x.tanh() * x.tanh(),
        Activation::Identity => 1.0,
        Activation::QuickGelu => {
            let sigmoid = 1.0 / (1.0 + (-1.702 * x).exp());
            sigmoid * (1.0 + 1.702 * x * (1.0 - sigmoid))
        }
        // Both are smooth: a central difference is right to six digits.
        Activation::Gelu | Activation::GeluTanh => {
            const STEP: f32 = 1.0 / 128.0;
            (activate(activation, x + STEP) - activate(activation, x - STEP)) / (2.0 * STEP)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_have_their_published_values() {
        let near = |activation, x, expected: f32| {
            let found = activate(activation, x);
            assert!(
                (found - expected).abs() < 1e-6,
                "{activation:?}({x}) = {found}, not {expected}"
            );
        };
        near(Activation::Silu, 1.0, 0.731_058_6);
        near(Activation::Silu, -200.0, 0.0);
        near(Activation::Gelu, 1.0, 0.841_344_8);
        near(Activation::GeluTanh, 1.0, 0.841_192);
        near(Activation::Relu, -1.0, 0.0);
        near(Activation::Relu, 2.5, 2.5);
        near(Activation::QuickGelu, 1.0, 0.845_795_8);
    }

    #[test]
    fn layer_norms_have_mean_and_variance() {
        // Mean 2.5, variance 1.25.
        let found = layer_norm(&[1.0, 2.0, 3.0, 4.0], &[1.0, 1.0, 2.0, -1.0], 0.0);
        for (found, expected) in
            found.iter().zip([-1.341_640_8, -0.447_213_6, 0.894_427_2, -1.341_640_8])
        {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn rows_are_pooled() {
        let rows = [1.0, -2.0, 3.0, -4.0, 5.0, 0.0];
        let pooled = |pooling| pool(pooling, &rows, 2);
        assert_eq!(pooled(Pooling::First), [1.0, -2.0]);
        assert_eq!(pooled(Pooling::Mean), [3.0, -2.0]);
        assert_eq!(pooled(Pooling::Max), [5.0, 0.0]);
        let mut row = [3.0, 4.0];
        normalize(&mut row);
        assert_eq!(row, [0.6, 0.8]);
    }

    #[test]
    fn softmax_of_large_numbers_is_finite() {
        let mut x = [1000.0, 1000.0, f32::MIN];
        softmax(&mut x);
        assert_eq!(x, [0.5, 0.5, 0.0]);
    }
}
