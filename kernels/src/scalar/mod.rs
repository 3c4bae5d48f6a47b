//! The reference: every operation on f32 in portable safe code; `reference` has the products. These
//! functions are the specification of Kinglet's numbers; a vector kernel is right when it returns
//! the same bits.
//!
//! The f32 operations are written over fixed-width lanes and marked `inline(always)`, so that an
//! instruction set may also run them by compiling the very same text with its features on: without
//! fused multiply-add and reassociation, wider registers cannot change a bit.

mod elementwise;
#[cfg(feature = "families")]
mod families;
pub(crate) mod math;
pub(crate) mod softmax;
mod transform;

pub(crate) use elementwise::{add, largest, quantize, quantize_with, rms_norm, rope, silu_mul};
#[cfg(feature = "families")]
pub(crate) use families::{activate, layer_norm, mul};
pub use math::{exp, exp2, ln, sin_cos, sqrt};
pub(crate) use math::{exp2_below, max, round_to_int};
pub(crate) use softmax::{Weights, softmax, units};
#[cfg(all(target_arch = "arm", target_abi = "eabihf"))]
pub(crate) use transform::root;
pub use transform::transforms;
pub(crate) use transform::{transform, transform_lanes};

/// Lanes of a sum of f32.
pub const LANES: usize = 16;

/// Sum of `f(x[i])`: element `i` goes to lane `i % 16`, lanes are added in halves (8, 4, 2, 1).
#[inline(always)]
pub(crate) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(tail) {
        *lane += f(v);
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// Euclidean length, with the squares summed in lanes.
pub fn length(x: &[f32]) -> f32 {
    sqrt(sum(x, |v| v * v))
}
