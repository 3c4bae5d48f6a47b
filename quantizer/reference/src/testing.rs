//! Numbers and models for unit tests: the same with every run.

use crate::{BlockWeights, LinearWeights, NormWeights, Numbers, Operation};
use kinglet_import::checkpoint::{NormKind, Residual};

/// A block after a root-mean-square norm, added to the stream.
pub fn block(
    norm: Vec<f32>,
    input: LinearWeights,
    operation: Operation<Numbers>,
    output: LinearWeights,
) -> BlockWeights {
    let norm = Some(NormWeights { kind: NormKind::Rms, weight: norm, bias: None, eps: 1e-5 });
    BlockWeights {
        layer: 0,
        norm,
        residual: Residual::Pre,
        input: Some(input),
        states: None,
        operation,
        output,
    }
}

/// `n` numbers from -1 to 1.
pub fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}
