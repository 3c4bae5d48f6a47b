//! Numbers and models for unit tests: the same with every run.

use crate::checkpoint::{Join, NormKind};
use crate::reference::{BlockWeights, LinearWeights, Middle, NormWeights};

/// A block behind a root-mean-square norm, added to the stream.
pub(crate) fn block(
    norm: Vec<f32>,
    input: LinearWeights,
    middle: Middle,
    output: LinearWeights,
) -> BlockWeights {
    let norm = Some(NormWeights { kind: NormKind::Rms, weight: norm, bias: None, eps: 1e-5 });
    BlockWeights {
        norm,
        join: Join::Pre,
        stream_norm: None,
        input: Some(input),
        memory: None,
        middle,
        output,
    }
}

/// `n` numbers from -1 to 1.
pub(crate) fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}
