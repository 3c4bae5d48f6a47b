//! Streams of rows through a stack, forward.

use kinglet_reference::{ApplyNorm, BlockWeights, Forward, NormWeights, Sequences, ops};

/// The streams before each block, and after the last.
pub(super) fn forward<'b>(
    blocks: impl Iterator<Item = &'b BlockWeights>,
    sequences: Sequences<'_>,
    stream: Vec<f32>,
) -> Vec<Vec<f32>> {
    let mut streams = vec![stream];
    for block in blocks {
        streams.push(block.advance(sequences, &streams[streams.len() - 1]));
    }
    streams
}

pub(super) fn normed(norm: Option<&NormWeights>, stream: &[f32]) -> Vec<f32> {
    norm.map_or_else(|| stream.to_vec(), |norm| norm.apply(stream))
}

/// Adds the rows of a table of positions to those of each sequence, if there is one.
pub(super) fn add_positions(
    table: Option<&[f32]>,
    width: usize,
    lengths: &[usize],
    stream: &mut [f32],
) {
    let Some(table) = table else { return };
    let mut rest = stream;
    for length in lengths {
        let (own, others) = rest.split_at_mut(length * width);
        ops::add(own, table);
        rest = others;
    }
}
