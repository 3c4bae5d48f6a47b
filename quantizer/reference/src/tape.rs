//! A block forward and backward: the gradients of its inputs and of its weights, by hand.
//!
//! Nothing but the block's input is kept between the two directions; the rest is computed again.
//! Rounding of activations counts as the identity on the way back (the straight-through estimate of
//! Bengio et al., arXiv 1308.3432).

use std::ops::Range;

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use crate::attention::{self, Turns, attend};
use crate::product::{columns, multiply, part, view, view_mut};
use crate::{
    BlockWeights, Forward, Heads, LinearWeights, NormWeights, Operation, Sequences, mix, ops,
    prepare, relative_of,
};
use kinglet_import::checkpoint::{Activation, Mask, NormKind, Residual};

/// Which weights' gradients are wanted; that of the inputs always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learns {
    /// None but those of norms, which cost nothing.
    Norms,
    /// All.
    All,
}

/// The gradients of a norm's weights.
#[derive(Default)]
pub struct NormGradient {
    /// As the weights.
    pub weight: Vec<f32>,
    /// As the bias; empty without one.
    pub bias: Vec<f32>,
}

/// The gradients of a product's weights.
#[derive(Default)]
pub struct LinearGradient {
    /// As the weights.
    pub weight: Vec<f32>,
    /// As the bias; empty without one.
    pub bias: Vec<f32>,
}

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
    let normed = of.normed(stream);
    let projected = of.input.as_ref().map_or_else(|| normed.clone(), |input| input.apply(&normed));
    let others = of.states.as_ref().map_or_else(Vec::new, |memory| memory.apply(sequences.states));
    // Queries and keys in place, as `mix` leaves them nowhere.
    let mut turned = [vec![], vec![]];
    let mixed = match &of.operation {
        Operation::Attention(heads) => {
            turned = [projected.clone(), others.clone()];
            let [own, across] = &mut turned;
            if heads.mask == Mask::Cross {
                attention::turn_queries(heads, sequences.lengths, own);
                attention::turn_keys(heads, sequences.states_lengths, across);
                attend(heads, sequences, own, across)
            } else {
                attention::turn(heads, sequences.lengths, own);
                attend(heads, sequences, own, own)
            }
        }
        operation => mix(operation, sequences, projected.clone(), vec![]),
    };
    see(&mixed, gradient);
    let to_mixed;
    (found.output, to_mixed) = linear(&of.output, &mixed, gradient, learns);
    let [to_projected, to_others] = match &of.operation {
        Operation::Attention(heads) => {
            attended(heads, sequences, [&projected, &others], &turned, &to_mixed)
        }
        Operation::FeedForward { activation, gated: true } => {
            [gate(*activation, &projected, &to_mixed, of.output.cols), vec![]]
        }
        Operation::FeedForward { activation, gated: false } => {
            [plain(*activation, &projected, to_mixed), vec![]]
        }
        Operation::Projection => [to_mixed, vec![]],
    };
    let mut to_normed = to_projected;
    if let Some(input) = &of.input {
        (found.input, to_normed) = linear(input, &normed, &to_normed, learns);
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

/// Gradients of weights and inputs.
fn linear(
    of: &LinearWeights,
    x: &[f32],
    gradient: &[f32],
    learns: Learns,
) -> (LinearGradient, Vec<f32>) {
    if learns == Learns::Norms {
        return (LinearGradient::default(), of.back(gradient));
    }
    let (rows, cols) = (of.rows(), of.cols);
    let tokens = x.len() / cols;
    let x = &*prepare(of.inputs, x, cols);
    let from = view(gradient, tokens, rows);
    let mut weight = vec![0.0; rows * cols];
    multiply(from.t(), view(x, tokens, cols), view_mut(&mut weight, rows, cols));
    let bias = match of.bias {
        Some(_) => from.axis_iter(Axis(1)).map(|column| column.iter().sum()).collect(),
        None => vec![],
    };
    (LinearGradient { weight, bias }, of.back(gradient))
}

/// Gradients of weights and inputs of a norm.
pub fn norm(of: &NormWeights, x: &[f32], gradient: &[f32]) -> (NormGradient, Vec<f32>) {
    let n = of.weight.len();
    let mut inputs = vec![0.0; x.len()];
    // Of each row the mean that is taken away, and what the rest is multiplied by.
    let rows: Vec<[f32; 2]> = inputs
        .par_chunks_mut(n)
        .zip(x.par_chunks(n))
        .zip(gradient.par_chunks(n))
        .map(|((to, x), gradient)| {
            let products = || gradient.iter().zip(&of.weight);
            let (mean, shift) = match of.kind {
                NormKind::Rms => (0.0, 0.0),
                NormKind::Layer => {
                    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
                    let shift = products().map(|(&g, &w)| f64::from(g * w)).sum::<f64>() / n as f64;
                    (mean, shift)
                }
            };
            let square: f64 =
                x.iter().map(|&x| (f64::from(x) - mean) * (f64::from(x) - mean)).sum();
            let scale = (1.0 / (square / n as f64 + f64::from(of.eps)).sqrt()) as f32;
            let (mean, shift) = (mean as f32, scale * shift as f32);
            let along: f32 = x.iter().zip(products()).map(|(x, (g, w))| (x - mean) * g * w).sum();
            let back = along * scale * scale * scale / n as f32;
            for ((to, x), (g, w)) in to.iter_mut().zip(x).zip(products()) {
                *to = scale * w * g - (x - mean) * back - shift;
            }
            [mean, scale]
        })
        .collect();
    let mut weight = vec![0.0; n];
    let mut bias = vec![0.0; of.bias.as_ref().map_or(0, Vec::len)];
    for ((x, gradient), [mean, scale]) in x.chunks(n).zip(gradient.chunks(n)).zip(rows) {
        for ((to, x), g) in weight.iter_mut().zip(x).zip(gradient) {
            *to += g * (x - mean) * scale;
        }
        ops::add(&mut bias, gradient);
    }
    (NormGradient { weight, bias }, inputs)
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

/// The gradients of queries, keys and values before norms and rotation: `own` are those made from
/// the stream, `across` those from the memory, if the keys are there.
fn attended(
    heads: &Heads,
    sequences: Sequences<'_>,
    projected: [&[f32]; 2],
    turned: &[Vec<f32>; 2],
    gradient: &[f32],
) -> [Vec<f32>; 2] {
    let cross = heads.mask == Mask::Cross;
    let (lengths, queries, dim, width) =
        (sequences.lengths, heads.queries().end, heads.head_dim, heads.values().end);
    let (seen, stride) = if cross { (sequences.states_lengths, queries) } else { (lengths, width) };
    let tokens: usize = lengths.iter().sum();
    let own = view(&turned[0], tokens, stride);
    let others = if cross { view(&turned[1], seen.iter().sum(), width) } else { own };
    let gradient = view(gradient, tokens, queries);
    let mut to = projected.map(|numbers| vec![0.0; numbers.len()]);
    let [to_own, to_across] = &mut to;
    let across_rows = to_across.len() / width;
    let mut rest = view_mut(to_own, tokens, stride);
    let mut rest_across = view_mut(to_across, across_rows, width);
    let mut jobs = vec![];
    let (mut start, mut seen_start) = (0, 0);
    for (&length, &keys) in lengths.iter().zip(seen) {
        let (sequence, later) = rest.split_at(Axis(0), length);
        rest = later;
        // Columns of a sequence in bands of a head; those that belong to one key and value head go
        // together.
        let mut bands: Vec<_> = columns(sequence, dim).into_iter().map(Some).collect();
        let (memory, later) = rest_across.split_at(Axis(0), if cross { keys } else { 0 });
        rest_across = later;
        if cross {
            bands.extend(columns(memory, dim).into_iter().map(Some));
        }
        for shared in 0..heads.kv_heads {
            let mut take = |at: usize| bands[at].take().expect("each band is taken once");
            let group = shared * heads.group()..(shared + 1) * heads.group();
            jobs.push(Shared {
                heads,
                own: part(own, start..start + length, 0..queries),
                others: part(others, seen_start..seen_start + keys, 0..width),
                gradient: part(gradient, start..start + length, 0..queries),
                shared,
                queries: group.map(&mut take).collect(),
                key: take(heads.heads + shared),
                value: take(heads.heads + heads.kv_heads + shared),
            });
        }
        (start, seen_start) = (start + length, seen_start + keys);
    }
    jobs.into_par_iter().for_each(Shared::run);
    let side = usize::from(cross);
    turn_back(
        heads,
        heads.query_norm.as_ref(),
        lengths,
        (heads.queries(), stride),
        projected[0],
        &mut to[0],
    );
    turn_back(
        heads,
        heads.key_norm.as_ref(),
        seen,
        (heads.keys(), [stride, width][side]),
        projected[side],
        &mut to[side],
    );
    to
}

/// Takes the gradients of the heads in some columns of rows of so many numbers back through
/// rotation and norm.
fn turn_back(
    heads: &Heads,
    of: Option<&NormWeights>,
    lengths: &[usize],
    (columns, stride): (Range<usize>, usize),
    projected: &[f32],
    to: &mut [f32],
) {
    if of.is_none() && heads.rope.is_none() {
        return;
    }
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let turns = heads.rope.as_ref().map(|rope| Turns::new(rope, longest));
    let positions: Vec<usize> = lengths.iter().flat_map(|length| 0..*length).collect();
    let rows = to.par_chunks_mut(stride).zip(projected.par_chunks(stride)).zip(positions);
    rows.with_min_len(32).for_each(|((to, projected), position)| {
        let heads = to[columns.clone()]
            .chunks_mut(heads.head_dim)
            .zip(projected[columns.clone()].chunks(heads.head_dim));
        for (to, projected) in heads {
            if let Some(turns) = &turns {
                turns.apply::<true>(to, position);
            }
            if let Some(of) = of {
                let (_, inputs) = norm(of, projected, to);
                to.copy_from_slice(&inputs);
            }
        }
    });
}

/// The heads of one sequence that share keys and values.
struct Shared<'a> {
    heads: &'a Heads,
    own: ArrayView2<'a, f32>,
    others: ArrayView2<'a, f32>,
    gradient: ArrayView2<'a, f32>,
    shared: usize,
    queries: Vec<ArrayViewMut2<'a, f32>>,
    key: ArrayViewMut2<'a, f32>,
    value: ArrayViewMut2<'a, f32>,
}

impl<'a> Shared<'a> {
    fn run(mut self) {
        let (heads, length, keys) = (self.heads, self.own.nrows(), self.others.nrows());
        let at = |of: ArrayView2<'a, f32>, first: usize, head: usize| {
            part(
                of,
                0..of.nrows(),
                first + head * heads.head_dim..first + (head + 1) * heads.head_dim,
            )
        };
        let key = at(self.others, heads.keys().start, self.shared);
        let value = at(self.others, heads.values().start, self.shared);
        let mut weights = vec![0.0; length * keys];
        let mut slopes = vec![0.0; length * keys];
        for (i, to_query) in self.queries.iter_mut().enumerate() {
            let head = self.shared * heads.group() + i;
            let query = at(self.own, 0, head);
            let gradient = at(self.gradient, 0, head);
            general_mat_mul(
                heads.score_scale,
                &query,
                &key.t(),
                0.0,
                &mut view_mut(&mut weights, length, keys),
            );
            general_mat_mul(
                1.0,
                &gradient,
                &value.t(),
                0.0,
                &mut view_mut(&mut slopes, length, keys),
            );
            for (row, (weights, slopes)) in
                weights.chunks_mut(keys).zip(slopes.chunks_mut(keys)).enumerate()
            {
                let sees = heads.mask.seen(row, keys);
                let (before, later) = weights.split_at_mut(sees.end);
                if let Some(table) = relative_of(heads, head) {
                    attention::add_relative(table, row, before);
                }
                let (earlier, seen) = before.split_at_mut(sees.start);
                ops::softmax(seen);
                earlier.fill(0.0);
                later.fill(0.0);
                let (slopes, later) = slopes.split_at_mut(sees.end);
                later.fill(0.0);
                let (earlier, slopes) = slopes.split_at_mut(sees.start);
                earlier.fill(0.0);
                let mean: f32 = seen.iter().zip(&*slopes).map(|(w, s)| w * s).sum();
                for (slope, weight) in slopes.iter_mut().zip(seen) {
                    *slope = heads.score_scale * *weight * (*slope - mean);
                }
            }
            let (weights, slopes) = (view(&weights, length, keys), view(&slopes, length, keys));
            general_mat_mul(1.0, &slopes, &key, 0.0, to_query);
            general_mat_mul(1.0, &slopes.t(), &query, 1.0, &mut self.key);
            general_mat_mul(1.0, &weights.t(), &gradient, 1.0, &mut self.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Inputs;
    use crate::testing::{self, numbers};
    use kinglet_import::checkpoint::Rope;

    fn linear_of(rows: usize, cols: usize, seed: u32) -> LinearWeights {
        let weight = numbers(rows * cols, seed).iter().map(|w| w * 0.5).collect();
        LinearWeights { weight, bias: Some(numbers(rows, seed + 1)), cols, inputs: None }
    }

    fn norm_of(kind: NormKind, n: usize, seed: u32) -> NormWeights {
        let weight = numbers(n, seed).iter().map(|w| 1.0 + w / 2.0).collect();
        NormWeights {
            kind,
            weight,
            bias: (kind == NormKind::Layer).then(|| numbers(n, seed + 9)),
            eps: 1e-5,
        }
    }

    /// What the loss is: some fixed weighting of the outputs.
    fn loss(of: &BlockWeights, sequences: Sequences<'_>, stream: &[f32], weighting: &[f32]) -> f64 {
        let out = of.advance(sequences, stream);
        assert_eq!(out.len(), weighting.len());
        out.iter().zip(weighting).map(|(o, w)| f64::from(*w) * f64::from(*o)).sum()
    }

    const WIDTH: usize = 12;
    const LENGTHS: [usize; 2] = [5, 3];
    const MEMORY: usize = 10;
    const MEMORY_LENGTHS: [usize; 2] = [2, 6];

    /// Compares all gradients of a block with differences of the loss.
    fn check(name: &str, mut of: BlockWeights) {
        let (mut stream, mut states) = (numbers(8 * WIDTH, 11), numbers(8 * MEMORY, 13));
        let weighting = numbers(8 * of.output.rows(), 12);
        let across = of.states.is_some();
        macro_rules! sequences {
            () => {
                match across {
                    true => Sequences {
                        lengths: &LENGTHS,
                        states: &states,
                        states_lengths: &MEMORY_LENGTHS,
                    },
                    false => Sequences::alone(&LENGTHS),
                }
            };
        }
        let mut to_stream = weighting.clone();
        let mut to_states = vec![0.0; states.len()];
        let found = block(&of, sequences!(), &stream, &mut to_stream, &mut to_states, Learns::All);
        let (mut frozen, mut frozen_states) = (weighting.clone(), vec![0.0; states.len()]);
        let none =
            block(&of, sequences!(), &stream, &mut frozen, &mut frozen_states, Learns::Norms);
        assert!(
            frozen == to_stream && frozen_states == to_states && none.output.weight.is_empty(),
            "{name}"
        );
        let step = 1e-2;
        let near = |what: &str, i: usize, found: f32, up: f64, down: f64| {
            let want = (up - down) / (2.0 * f64::from(step));
            let far = (f64::from(found) - want).abs();
            assert!(far < 2e-2 * (0.2 + want.abs()), "{name}: {what} {i}: {found}, not {want}");
        };
        macro_rules! check {
            ($($what:literal: $field:expr, $found:expr, $every:literal;)*) => {$(
                for i in (0..$found.len()).step_by($every) {
                    let old = $field[i];
                    $field[i] = old + step;
                    let up = loss(&of, sequences!(), &stream, &weighting);
                    $field[i] = old - step;
                    let down = loss(&of, sequences!(), &stream, &weighting);
                    $field[i] = old;
                    near($what, i, $found[i], up, down);
                }
            )*};
        }
        if across {
            check! { "states": states, to_states, 3; }
        }
        check! {
            "stream": stream, to_stream, 5;
            "norm": of.norm.as_mut().unwrap().weight, found.norm.weight, 1;
            "norm bias": of.norm.as_mut().unwrap().bias.as_mut().unwrap(), found.norm.bias, 1;
            "stream norm": stream_norm(&mut of).weight, found.stream_norm.weight, 1;
            "stream norm bias": stream_norm(&mut of).bias.as_mut().unwrap(), found.stream_norm.bias, 1;
            "input": of.input.as_mut().unwrap().weight, found.input.weight, 7;
            "input bias": of.input.as_mut().unwrap().bias.as_mut().unwrap(), found.input.bias, 3;
            "of states": of.states.as_mut().unwrap().weight, found.states.weight, 7;
            "bias of states": of.states.as_mut().unwrap().bias.as_mut().unwrap(), found.states.bias, 3;
            "output": of.output.weight, found.output.weight, 7;
            "output bias": of.output.bias.as_mut().unwrap(), found.output.bias, 3;
        }
    }

    fn stream_norm(of: &mut BlockWeights) -> &mut NormWeights {
        match &mut of.residual {
            Residual::Post(norm) => norm,
            _ => panic!("the stream has no norm"),
        }
    }

    fn heads(mask: Mask) -> Heads {
        let (query_norm, key_norm, rope, relative) = (None, None, None, None);
        Heads {
            heads: 4,
            kv_heads: 2,
            head_dim: 4,
            score_scale: 0.5,
            query_norm,
            key_norm,
            rope,
            mask,
            relative,
            head_inputs: Inputs::Rounded,
        }
    }

    #[test]
    fn gradients_of_attention_are_those_of_differences() {
        let block = |heads: Heads| {
            let norm = norm_of(NormKind::Rms, WIDTH, 7).weight;
            testing::block(
                norm,
                linear_of(32, WIDTH, 3),
                Operation::Attention(heads),
                linear_of(WIDTH, 16, 4),
            )
        };
        let rope = Some(Rope { frequencies: vec![1.0, 0.1], magnitude: 1.1 });
        let [query_norm, key_norm] = [7, 8].map(|seed| Some(norm_of(NormKind::Rms, 4, seed)));
        check("causal, turned", block(Heads { query_norm, key_norm, rope, ..heads(Mask::Causal) }));
        check("a window", block(heads(Mask::Window(3))));
        let relative = Some(Arc::new(numbers(4 * 5, 9)));
        let norm = Some(norm_of(NormKind::Layer, WIDTH, 5));
        let all = block(Heads { relative: relative.clone(), ..heads(Mask::Full) });
        check("to all, by distance", BlockWeights { norm: norm.clone(), ..all.clone() });
        let residual = Residual::Post(norm_of(NormKind::Layer, WIDTH, 6));
        check("after a norm", BlockWeights { norm: norm.clone(), residual, ..all });
        let query_norm = Some(norm_of(NormKind::Rms, 4, 3));
        let across = BlockWeights {
            norm,
            input: Some(linear_of(16, WIDTH, 3)),
            states: Some(linear_of(16, MEMORY, 8)),
            ..block(Heads { relative, query_norm, ..heads(Mask::Cross) })
        };
        check("across", across);
    }

    #[test]
    fn gradients_of_feed_forwards_and_projections_are_those_of_differences() {
        use Activation::{Gelu, GeluTanh, Identity, QuickGelu, Silu, Tanh};
        for (activation, gated) in [
            (Silu, true),
            (GeluTanh, true),
            (Gelu, false),
            (QuickGelu, true),
            (Tanh, false),
            (Identity, false),
        ] {
            let operation = Operation::FeedForward { activation, gated };
            let rows = if gated { 20 } else { 10 };
            let norm = norm_of(NormKind::Rms, WIDTH, 7).weight;
            let block =
                testing::block(norm, linear_of(rows, WIDTH, 5), operation, linear_of(WIDTH, 10, 6));
            check(&format!("{activation:?} {gated}"), block.clone());
            let output = linear_of(14, 10, 6);
            let replaces =
                BlockWeights { norm: None, residual: Residual::Replace, output, ..block };
            check(&format!("{activation:?} {gated}, replacing"), replaces.clone());
            let (input, operation, output) = (None, Operation::Projection, linear_of(9, WIDTH, 2));
            let norm = Some(norm_of(NormKind::Layer, WIDTH, 4));
            check("a projection", BlockWeights { input, operation, output, norm, ..replaces });
        }
    }
}
