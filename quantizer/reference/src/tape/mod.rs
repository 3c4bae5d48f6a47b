//! A block forward and backward: the gradients of its inputs and of its weights, by hand.
//!
//! Nothing but the block's input is kept between the two directions; the rest is computed again.
//! Rounding of activations counts as the identity on the way back (the straight-through estimate of
//! Bengio et al., arXiv 1308.3432).

mod attention;
#[cfg(test)]
mod tests;
mod weights;

use rayon::prelude::*;

use self::attention::attended;
use self::weights::linear;
pub use self::weights::{Learns, LinearGradient, NormGradient, norm};
use crate::attention::{attend, turn, turn_keys, turn_queries};
use crate::{BlockWeights, Forward, Heads, Operation, Sequences, mix, ops};
use kinglet_import::checkpoint::{Activation, Mask, Residual};

/// The gradients of a block's weights; empty where it has none, or they are not wanted. Norms of
/// heads and what is added by distance are left as they are.
#[derive(Default)]
pub struct BlockGradient {
    /// Of the norm of the branch.
    pub norm: NormGradient,
    /// Of the norm of the stream, after the branch before.
    pub stream_norm: NormGradient,
    /// Of the first product.
    pub input: LinearGradient,
    /// Of the product of the encoder's states.
    pub states: LinearGradient,
    /// Of the last product.
    pub output: LinearGradient,
}

/// The sum over rows of the Kullback-Leibler divergences of predictions from their targets, both
/// logits of `vocab` tokens a row; the logits become their gradients.
pub fn loss(logits: &mut [f32], targets: &[f32], vocab: usize) -> f64 {
    let rows =
        logits.par_chunks_mut(vocab).zip(targets.par_chunks(vocab)).map(|(logits, targets)| {
            let log_sum = |x: &[f32]| {
                let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                top + x.iter().map(|&x| f64::from((x - top).exp())).sum::<f64>().ln() as f32
            };
            let (q, p) = (log_sum(logits), log_sum(targets));
            let mut sum = 0.0;
            for (logit, target) in logits.iter_mut().zip(targets) {
                let (q, p) = (*logit - q, target - p);
                let (weight, found) = (p.exp(), q.exp());
                sum += f64::from(weight) * f64::from(p - q);
                *logit = found - weight;
            }
            sum
        });
    rows.collect::<Vec<f64>>().iter().sum()
}

/// Takes `gradient`, that of the stream after a block, back to the stream before it, which is
/// `stream`, and adds to `to_states` that of the states, where the block looks at it.
pub fn block(
    of: &BlockWeights,
    sequences: Sequences<'_>,
    stream: &[f32],
    gradient: &mut Vec<f32>,
    to_states: &mut [f32],
    learns: Learns,
) -> BlockGradient {
    block_seen(of, sequences, stream, gradient, to_states, learns, |_, _| ())
}

/// The same for who makes the gradient of what the last product sees, once that is known.
pub fn block_seen(
    of: &BlockWeights,
    sequences: Sequences<'_>,
    stream: &[f32],
    gradient: &mut Vec<f32>,
    to_states: &mut [f32],
    learns: Learns,
    see: impl FnOnce(&[f32], &mut Vec<f32>),
) -> BlockGradient {
    let mut found = BlockGradient::default();
    let passed = Passed::new(of, sequences, stream);
    see(&passed.mixed, gradient);
    let to_mixed;
    (found.output, to_mixed) = linear(&of.output, &passed.mixed, gradient, learns);
    let [mut to_normed, to_others] = passed.back(of, sequences, to_mixed);
    if let Some(input) = &of.input {
        (found.input, to_normed) = linear(input, &passed.normed, &to_normed, learns);
    }
    if let Some(states) = &of.states {
        let to;
        (found.states, to) = linear(states, sequences.states, &to_others, learns);
        ops::add(to_states, &to);
    }
    let mut to_stream = to_normed;
    if let Some(of) = &of.norm {
        (found.norm, to_stream) = norm(of, stream, &to_stream);
    }
    match &of.residual {
        Residual::Replace => *gradient = to_stream,
        Residual::Post(of) => {
            (found.stream_norm, *gradient) = norm(of, stream, gradient);
            ops::add(gradient, &to_stream);
        }
        Residual::Pre => ops::add(gradient, &to_stream),
    }
    found
}

/// A block on the way forward.
struct Passed {
    normed: Vec<f32>,
    /// What the first product gives, and that of the states.
    projected: Vec<f32>,
    others: Vec<f32>,
    /// Both with queries and keys in place, as `mix` leaves them nowhere; empty without attention.
    turned: [Vec<f32>; 2],
    /// What the last product sees.
    mixed: Vec<f32>,
}

impl Passed {
    fn new(of: &BlockWeights, sequences: Sequences<'_>, stream: &[f32]) -> Self {
        let normed = of.normed(stream);
        let projected =
            of.input.as_ref().map_or_else(|| normed.clone(), |input| input.apply(&normed));
        let others =
            of.states.as_ref().map_or_else(Vec::new, |states| states.apply(sequences.states));
        let (turned, mixed) = match &of.operation {
            Operation::Attention(heads) => {
                attention_of(heads, sequences, [projected.clone(), others.clone()])
            }
            operation => ([vec![], vec![]], mix(operation, sequences, projected.clone(), vec![])),
        };
        Self { normed, projected, others, turned, mixed }
    }

    /// From the gradient of what the last product sees to those of what the first product gives and
    /// that of the states.
    fn back(
        &self,
        of: &BlockWeights,
        sequences: Sequences<'_>,
        to_mixed: Vec<f32>,
    ) -> [Vec<f32>; 2] {
        let Self { projected, others, turned, .. } = self;
        match &of.operation {
            Operation::Attention(heads) => {
                attended(heads, sequences, [projected, others], turned, &to_mixed)
            }
            Operation::FeedForward { activation, gated: true } => {
                [gate(*activation, projected, &to_mixed, of.output.cols), vec![]]
            }
            Operation::FeedForward { activation, gated: false } => {
                [plain(*activation, projected, to_mixed), vec![]]
            }
            Operation::Projection => [to_mixed, vec![]],
        }
    }
}

/// Turns queries and keys, and attends with them.
fn attention_of(
    heads: &Heads,
    sequences: Sequences<'_>,
    [mut own, mut across]: [Vec<f32>; 2],
) -> ([Vec<f32>; 2], Vec<f32>) {
    let mixed = if heads.mask == Mask::Cross {
        turn_queries(heads, sequences.lengths, &mut own);
        turn_keys(heads, sequences.states_lengths, &mut across);
        attend(heads, sequences, &own, &across)
    } else {
        turn(heads, sequences.lengths, &mut own);
        attend(heads, sequences, &own, &own)
    };
    ([own, across], mixed)
}

/// The gradient of gate and up.
fn gate(activation: Activation, both: &[f32], gradient: &[f32], inner: usize) -> Vec<f32> {
    let mut to = vec![0.0; both.len()];
    let rows = to
        .par_chunks_mut(2 * inner)
        .zip(both.par_chunks(2 * inner))
        .zip(gradient.par_chunks(inner));
    rows.with_min_len(16).for_each(|((to, both), gradient)| {
        for i in 0..inner {
            let (gate, up) = (both[i], both[inner + i]);
            to[i] = gradient[i] * up * ops::slope(activation, gate);
            to[inner + i] = gradient[i] * ops::activate(activation, gate);
        }
    });
    to
}

/// The gradient in front of an activation.
fn plain(activation: Activation, x: &[f32], mut gradient: Vec<f32>) -> Vec<f32> {
    let all = gradient.par_iter_mut().zip(x).with_min_len(1024);
    all.for_each(|(gradient, &x)| *gradient *= ops::slope(activation, x));
    gradient
}
