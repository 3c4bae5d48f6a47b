//! What a block makes of a stream: `f(x) = output(operation(input(norm(x)), states))`, and x joins
//! the result as the block says.

use kinglet_import::checkpoint::Residual;
use kinglet_model::{Mask, Operation};

use crate::batch::Sequences;
use crate::weights::{ApplyNorm, BlockWeights, Vectors};
use crate::{attention, ops};

/// What the last product of a block sees: from the outputs of the first, and of that of the states.
pub fn mix<T: Vectors>(
    operation: &Operation<T>,
    sequences: Sequences<'_>,
    mut projected: Vec<f32>,
    mut states: Vec<f32>,
) -> Vec<f32> {
    match operation {
        Operation::Attention(heads) if heads.mask == Mask::Cross => {
            attention::turn_queries(heads, sequences.lengths, &mut projected);
            attention::turn_keys(heads, sequences.states_lengths, &mut states);
            attention::attend(heads, sequences, &projected, &states)
        }
        Operation::Attention(heads) => {
            attention::turn(heads, sequences.lengths, &mut projected);
            attention::attend(heads, sequences, &projected, &projected)
        }
        Operation::FeedForward { activation, gated: true } => {
            let both = projected.len() / sequences.lengths.iter().sum::<usize>().max(1);
            ops::gate(*activation, &projected, both / 2)
        }
        Operation::FeedForward { activation, gated: false } => {
            ops::activate_all(*activation, &mut projected);
            projected
        }
        Operation::Projection => projected,
    }
}

/// What a block makes of a stream.
pub trait Forward {
    /// What the first product sees.
    fn normed(&self, stream: &[f32]) -> Vec<f32>;

    /// What the last product sees, from what the first does.
    fn mixed(&self, sequences: Sequences<'_>, normed: Vec<f32>) -> Vec<f32>;

    /// The result of the branch.
    fn branch(&self, sequences: Sequences<'_>, stream: &[f32]) -> Vec<f32>;

    /// What the result of the branch is added to.
    fn base(&self, stream: &[f32]) -> Option<Vec<f32>>;

    /// The stream after the block.
    fn advance(&self, sequences: Sequences<'_>, stream: &[f32]) -> Vec<f32>;
}

impl Forward for BlockWeights {
    fn normed(&self, stream: &[f32]) -> Vec<f32> {
        self.norm.as_ref().map_or_else(|| stream.to_vec(), |norm| norm.apply(stream))
    }

    fn mixed(&self, sequences: Sequences<'_>, normed: Vec<f32>) -> Vec<f32> {
        let projected = match &self.input {
            Some(input) => input.apply(&normed),
            None => normed,
        };
        let states = self.states.as_ref().map_or_else(Vec::new, |of| of.apply(sequences.states));
        mix(&self.operation, sequences, projected, states)
    }

    fn branch(&self, sequences: Sequences<'_>, stream: &[f32]) -> Vec<f32> {
        self.output.apply(&self.mixed(sequences, self.normed(stream)))
    }

    fn base(&self, stream: &[f32]) -> Option<Vec<f32>> {
        base(&self.residual, stream)
    }

    fn advance(&self, sequences: Sequences<'_>, stream: &[f32]) -> Vec<f32> {
        joined(self.base(stream), self.branch(sequences, stream))
    }
}

/// What a branch's result is added to; nothing where it replaces the stream.
pub fn base(residual: &Residual<Vec<f32>>, stream: &[f32]) -> Option<Vec<f32>> {
    match residual {
        Residual::Replace => None,
        Residual::Post(norm) => Some(norm.apply(stream)),
        Residual::Pre => Some(stream.to_vec()),
    }
}

/// A branch's result added to that.
pub fn joined(base: Option<Vec<f32>>, branch: Vec<f32>) -> Vec<f32> {
    match base {
        None => branch,
        Some(mut base) => {
            ops::add(&mut base, &branch);
            base
        }
    }
}
