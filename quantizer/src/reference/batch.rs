//! Sequences on their way through the stack.

use super::ReferenceError;
use crate::checkpoint::Checkpoint;

/// The residual stream of some sequences: a row for each token, one sequence after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    width: usize,
    lengths: Vec<usize>,
    stream: Vec<f32>,
}

/// Some whole sequences of a batch.
pub(crate) struct Part<'b> {
    /// Their lengths, none of them 0.
    pub(crate) lengths: Vec<usize>,
    pub(crate) stream: &'b mut [f32],
}

impl Batch {
    /// Checks the sequences and looks their tokens up.
    pub(super) fn embed(checkpoint: &Checkpoint, sequences: &[&[u32]]) -> Result<Self, ReferenceError> {
        let architecture = checkpoint.architecture();
        let stack = architecture.last();
        let (width, vocab, context) = (stack.width, architecture.vocab(), stack.context);
        let mut stream = Vec::new();
        let mut row = vec![0.0; width];
        for (sequence, tokens) in sequences.iter().enumerate() {
            if tokens.len() > context {
                return Err(ReferenceError::Length { sequence, length: tokens.len(), context });
            }
            for (position, &token) in tokens.iter().enumerate() {
                let Some(at) = usize::try_from(token).ok().filter(|at| *at < vocab) else {
                    return Err(ReferenceError::Token { sequence, position, token, vocab });
                };
                let embed = stack.input.embedding().expect("tokens");
                checkpoint.read_rows(embed, at..at + 1, &mut row)?;
                stream.extend_from_slice(&row);
            }
        }
        let lengths = sequences.iter().map(|tokens| tokens.len()).collect();
        Ok(Self { width, lengths, stream })
    }

    /// Tokens in each of the sequences.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The residual stream, a row for each token.
    pub fn stream(&self) -> &[f32] {
        &self.stream
    }

    /// Sequence and position of each row.
    pub(super) fn positions(&self) -> impl Iterator<Item = (usize, usize)> {
        let numbered = self.lengths.iter().enumerate();
        numbered.flat_map(|(sequence, &length)| (0..length).map(move |position| (sequence, position)))
    }

    /// Divides the batch into parts of whole sequences, each with as many as are
    /// needed to reach `tokens`.
    pub(crate) fn parts(&mut self, tokens: usize) -> Vec<Part<'_>> {
        let mut parts = Vec::new();
        let mut rest = self.stream.as_mut_slice();
        let mut lengths = Vec::new();
        let mut gathered = 0;
        for &length in self.lengths.iter().filter(|length| **length > 0) {
            lengths.push(length);
            gathered += length;
            if gathered >= tokens {
                let (stream, others) = rest.split_at_mut(gathered * self.width);
                parts.push(Part { lengths: std::mem::take(&mut lengths), stream });
                rest = others;
                gathered = 0;
            }
        }
        if gathered > 0 {
            parts.push(Part { lengths, stream: rest });
        }
        parts
    }
}
