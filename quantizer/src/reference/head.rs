//! From the residual stream to logits.
//!
//! The head is often the largest matrix of a small model. When it is not kept
//! in memory, it is read in bands of rows for each group of tokens.

use ndarray::Axis;

use super::batch::Batch;
use super::product::{rows_by_rows_into, view_mut};
use super::{NormWeights, Observation, Observer, ReferenceError, Site};
use crate::checkpoint::Checkpoint;

/// Tokens whose logits are in memory together.
const TOKENS_AT_ONCE: usize = 256;
/// Bytes of the head that are read at once.
const BAND_BYTES: usize = 1 << 26;

/// Hands over the logits of every position, in order.
pub(super) fn run(
    checkpoint: &Checkpoint,
    resident: Option<&[f32]>,
    batch: &Batch,
    observer: &mut dyn Observer,
    mut sink: impl FnMut(usize, usize, &[f32]),
) -> Result<(), ReferenceError> {
    let architecture = checkpoint.architecture();
    let (width, vocab) = (architecture.last().width, architecture.outputs());
    let norm = NormWeights::maybe(checkpoint, &architecture.last().norm)?;
    let mut positions = batch.positions();
    let mut logits = Vec::new();
    for stream in batch.stream().chunks(TOKENS_AT_ONCE * width) {
        let normed = norm.as_ref().map_or_else(|| stream.to_vec(), |norm| norm.apply(stream));
        let observation =
            Observation { block: architecture.count(), site: Site::Head, activations: &normed, cols: width };
        observer.observe(&observation);
        logits.resize(stream.len() / width * vocab, 0.0);
        product(checkpoint, resident, &normed, &mut logits)?;
        for (row, (sequence, position)) in logits.chunks(vocab).zip(&mut positions) {
            sink(sequence, position, row);
        }
    }
    Ok(())
}

fn product(
    checkpoint: &Checkpoint,
    resident: Option<&[f32]>,
    normed: &[f32],
    logits: &mut [f32],
) -> Result<(), ReferenceError> {
    let head = &checkpoint.architecture().output.head.as_ref().expect("a head").weight;
    let (width, vocab) = (head.cols(), head.rows());
    let mut logits = view_mut(logits, normed.len() / width, vocab);
    if let Some(weight) = resident {
        rows_by_rows_into(normed, weight, width, logits);
        return Ok(());
    }
    let at_once = (BAND_BYTES / size_of::<f32>() / width).clamp(1, vocab);
    let mut band = vec![0.0; at_once * width];
    for start in (0..vocab).step_by(at_once) {
        let end = vocab.min(start + at_once);
        let band = &mut band[..(end - start) * width];
        checkpoint.read_rows(head, start..end, band)?;
        rows_by_rows_into(normed, band, width, logits.slice_axis_mut(Axis(1), (start..end).into()));
    }
    Ok(())
}
