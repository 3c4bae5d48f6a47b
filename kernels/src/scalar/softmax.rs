//! The softmax of a chunk of scores, as [`attention`](crate::attention) defines it.

use super::math::{exp2_below, max, round_to_int};
use super::{LANES, sum};
use crate::layout::{CHUNK, GROUP};

/// The largest code of a weight.
const TOP: f32 = 16383.0;
/// The least largest weight of a chunk that counts. Its reciprocal is finite, and weights that are
/// subnormal beside it are zero.
pub(crate) const LEAST: f32 = 1e-30;

/// The softmax of one chunk's scores.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Weights {
    /// The largest score.
    pub(crate) max: f32,
    /// Sum of the powers of two.
    pub(crate) sum: f32,
    /// What one unit of a code stands for.
    pub(crate) unit: f32,
    /// Codes: `128 * planes[0] + planes[1]`, zero after the last position.
    pub(crate) planes: [[i8; CHUNK]; 2],
    /// Sums of each 32 codes of a plane.
    pub(crate) sums: [[i16; CHUNK / GROUP]; 2],
}

impl Weights {
    pub(crate) const EMPTY: Self = Self {
        max: f32::NEG_INFINITY,
        sum: 0.0,
        unit: 0.0,
        planes: [[0; CHUNK]; 2],
        sums: [[0; CHUNK / GROUP]; 2],
    };
}

/// The largest of some numbers, at least `least`; lanes, so that it vectorizes (the order does not
/// matter).
#[inline(always)]
fn largest(x: &[f32; CHUNK], least: f32) -> f32 {
    let mut lanes = [least; LANES];
    for chunk in x.as_chunks::<LANES>().0 {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = max(*lane, v);
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = max(lanes[i], lanes[i + half]);
        }
    }
    lanes[0]
}

/// What weights, of which the largest is `peak`, are multiplied by to become codes, and codes to
/// become weights.
#[inline(always)]
pub(crate) fn units(peak: f32) -> (f32, f32) {
    if peak > LEAST { (TOP / peak, peak / TOP) } else { (0.0, 0.0) }
}

/// Softmax of the scores of a chunk, of which there are as many as `value_scales`; the others are
/// negative infinity.
#[inline(always)]
pub(crate) fn softmax(scores: &[f32; CHUNK], value_scales: &[f32], to: &mut Weights) {
    let top = largest(scores, f32::NEG_INFINITY);
    let mut weights = [0.0; CHUNK];
    for j in 0..CHUNK {
        weights[j] = exp2_below(scores[j] - top);
    }
    let sum = sum(&weights, |e| e);
    for (w, &scale) in weights.iter_mut().zip(value_scales) {
        *w *= scale;
    }
    let peak = largest(&weights, 0.0);
    let (inv, unit) = units(peak);
    let mut planes = [[0i8; CHUNK]; 2];
    for j in 0..CHUNK {
        let code = round_to_int(weights[j] * inv);
        planes[0][j] = (code >> 7 & 127) as i8;
        planes[1][j] = (code & 127) as i8;
    }
    let mut sums = [[0; CHUNK / GROUP]; 2];
    for plane in 0..2 {
        for (g, group) in planes[plane].as_chunks::<GROUP>().0.iter().enumerate() {
            for &code in group {
                sums[plane][g] += i16::from(code);
            }
        }
    }
    *to = Weights { max: top, sum, unit, planes, sums };
}
