//! From the states of the last stack to logits, or to one result for each sample.
//!
//! The head is often the largest matrix of a small model. When it is not kept
//! in memory, it is read in bands of rows for each group of tokens.

use std::borrow::Cow;

use ndarray::Axis;

use super::batch::Batch;
use super::product::{rows_by_rows_into, view_mut};
use super::weights::{ApplyNorm, read_norm};
use super::{LinearWeights, NormWeights, Observation, Observer, ReferenceError, Site, ops};
use kinglet_import::checkpoint::{Activation, Checkpoint, Pooling, TensorRef};

/// Tokens whose logits are in memory together.
const TOKENS_AT_ONCE: usize = 256;
/// Bytes of the head that are read at once.
const BAND_BYTES: usize = 1 << 26;

/// Hands over the results, in order: of every position, or one for each sample that is not empty.
pub(super) fn run(
    checkpoint: &Checkpoint,
    resident: Option<&[f32]>,
    batch: &Batch,
    observer: &mut dyn Observer,
    mut sink: impl FnMut(usize, usize, &[f32]),
) -> Result<(), ReferenceError> {
    let batch = batch.finished();
    let mut head = Head::read(checkpoint, resident, batch.width())?;
    let pooling = checkpoint.architecture().output.pooling;
    let rows = match pooling {
        Pooling::None => Cow::Borrowed(batch.stream()),
        pooling => Cow::Owned(pooled(&batch, head.norm.take().as_ref(), pooling)),
    };
    let mut places: Box<dyn Iterator<Item = (usize, usize)>> = match pooling {
        Pooling::None => Box::new(batch.positions()),
        _ => Box::new(batch.positions().filter(|(_, position)| *position == 0)),
    };
    let mut results = vec![];
    for rows in rows.chunks(TOKENS_AT_ONCE * batch.width()) {
        head.apply(rows, observer, &mut results)?;
        for row in results.chunks(checkpoint.architecture().outputs()) {
            if let Some((sequence, position)) = places.next() {
                sink(sequence, position, row);
            }
        }
    }
    Ok(())
}

/// What comes after the last block. The matrix of the head itself is not in memory unless it is
/// `resident`.
struct Head<'a> {
    checkpoint: &'a Checkpoint,
    /// Numbers in a row of states.
    width: usize,
    norm: Option<NormWeights>,
    dense: Option<(LinearWeights, Activation)>,
    resident: Option<&'a [f32]>,
    bias: Option<Vec<f32>>,
}

impl<'a> Head<'a> {
    fn read(
        checkpoint: &'a Checkpoint,
        resident: Option<&'a [f32]>,
        width: usize,
    ) -> Result<Self, ReferenceError> {
        let architecture = checkpoint.architecture();
        let output = &architecture.output;
        let norm = read_norm(checkpoint, &architecture.last().norm)?;
        let dense = match &output.dense {
            Some((linear, activation)) => {
                Some((LinearWeights::read(checkpoint, linear)?, *activation))
            }
            None => None,
        };
        let bias = output.head.as_ref().and_then(|head| head.parts().first()?.bias.as_ref());
        let bias = bias.map(|bias| checkpoint.read(bias)).transpose()?;
        Ok(Self { checkpoint, width, norm, dense, resident, bias })
    }

    /// From rows of states to rows of results.
    fn apply(
        &self,
        rows: &[f32],
        observer: &mut dyn Observer,
        results: &mut Vec<f32>,
    ) -> Result<(), ReferenceError> {
        let architecture = self.checkpoint.architecture();
        let mut cols = self.width;
        let mut rows = self.norm.as_ref().map_or_else(|| rows.to_vec(), |norm| norm.apply(rows));
        if let Some((linear, activation)) = &self.dense {
            rows = linear.apply(&rows);
            cols = linear.rows();
            rows.iter_mut().for_each(|number| *number = ops::activate(*activation, *number));
        }
        let outputs = architecture.outputs();
        if let Some(head) = &architecture.output.head {
            let (block, site) = (architecture.count(), Site::Head);
            observer.observe(&Observation { block, site, activations: &rows, cols });
            results.resize(rows.len() / cols * outputs, 0.0);
            let weight = head.alone().ok_or(ReferenceError::Chain)?;
            product(self.checkpoint, weight, self.resident, &rows, results)?;
        } else {
            *results = rows;
        }
        for row in results.chunks_mut(outputs) {
            if let Some(bias) = &self.bias {
                ops::add(row, bias);
            }
            if architecture.output.normalize {
                ops::normalize(row);
            }
        }
        Ok(())
    }
}

/// One row for each sequence that is not empty.
fn pooled(batch: &Batch, norm: Option<&NormWeights>, pooling: Pooling) -> Vec<f32> {
    let states = norm.map_or_else(|| batch.stream().to_vec(), |norm| norm.apply(batch.stream()));
    let (mut rows, mut rest) = (vec![], states.as_slice());
    for &length in batch.lengths().iter().filter(|length| **length > 0) {
        let (own, others) = rest.split_at(length * batch.width());
        rows.append(&mut ops::pool(pooling, own, batch.width()));
        rest = others;
    }
    rows
}

fn product(
    checkpoint: &Checkpoint,
    head: &TensorRef,
    resident: Option<&[f32]>,
    normed: &[f32],
    logits: &mut [f32],
) -> Result<(), ReferenceError> {
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
