//! A block forward and backward: the gradients of its inputs and of its weights, by hand.
//!
//! Nothing but the block's input is kept between the two directions; the rest is computed again. Rounding of activations counts as
//! the identity on the way back (the straight-through estimate of Bengio et al., arXiv 1308.3432).

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use crate::checkpoint::Activation;
use crate::reference::attention::{Turns, attend, turn};
use crate::reference::product::{columns, multiply, part, view, view_mut};
use crate::reference::{BlockWeights, Heads, LinearWeights, Middle, NormWeights, Sequences, ops};

/// The gradients of a product's weights.
pub(super) struct LinearGradient {
    /// As the weights.
    pub(super) weight: Vec<f32>,
    /// As the bias; empty without one.
    pub(super) bias: Vec<f32>,
}

/// The gradients of a block's weights.
pub(super) struct BlockGradient {
    pub(super) norm: Vec<f32>,
    pub(super) input: LinearGradient,
    pub(super) output: LinearGradient,
}

/// Takes `gradient`, that of the stream behind a block, back to the stream before it, which is `stream`.
pub(super) fn block(of: &BlockWeights, lengths: &[usize], stream: &[f32], gradient: &mut [f32]) -> BlockGradient {
    let (Some(of_norm), Some(of_input)) = (&of.norm, &of.input) else { unreachable!("as `knows` says") };
    let normed = of_norm.apply(stream);
    let projected = of_input.apply(&normed);
    // Queries and keys in place, as `mix` leaves them nowhere.
    let mut turned = projected.clone();
    let mixed = match &of.middle {
        Middle::Attention(heads) => {
            turn(heads, lengths, &mut turned);
            attend(heads, Sequences::alone(lengths), &turned, &turned)
        }
        Middle::FeedForward { activation, .. } => ops::gate(*activation, &projected, of.output.cols),
        Middle::Projection => unreachable!("as `knows` says"),
    };
    let (output, to_mixed) = linear(&of.output, &mixed, gradient);
    let to_projected = match &of.middle {
        Middle::Attention(heads) => attention(heads, lengths, &projected, &turned, &to_mixed),
        Middle::FeedForward { activation, .. } => gate(*activation, &projected, &to_mixed, of.output.cols),
        Middle::Projection => unreachable!("as `knows` says"),
    };
    let (input, to_normed) = linear(of_input, &normed, &to_projected);
    let (norm, to_stream) = norm(of_norm, stream, &to_normed);
    ops::add(gradient, &to_stream);
    BlockGradient { norm, input, output }
}

/// Gradients of weights and inputs.
fn linear(of: &LinearWeights, x: &[f32], gradient: &[f32]) -> (LinearGradient, Vec<f32>) {
    let (rows, cols) = (of.rows(), of.cols);
    let tokens = x.len() / cols;
    let rounded;
    let x = match of.rounds {
        true => {
            rounded = ops::rounded(x, cols);
            &rounded
        }
        false => x,
    };
    let from = view(gradient, tokens, rows);
    let mut weight = vec![0.0; rows * cols];
    multiply(from.t(), view(x, tokens, cols), view_mut(&mut weight, rows, cols));
    let bias = match of.bias {
        Some(_) => from.axis_iter(Axis(1)).map(|column| column.iter().sum()).collect(),
        None => vec![],
    };
    (LinearGradient { weight, bias }, of.back(gradient))
}

/// Gradients of weights and inputs of a root-mean-square norm.
pub(super) fn norm(of: &NormWeights, x: &[f32], gradient: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let n = of.weight.len();
    let mut inputs = vec![0.0; x.len()];
    let scales: Vec<f32> = inputs
        .par_chunks_mut(n)
        .zip(x.par_chunks(n))
        .zip(gradient.par_chunks(n))
        .map(|((to, x), gradient)| {
            let square: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let scale = (1.0 / (square / n as f64 + f64::from(of.eps)).sqrt()) as f32;
            let along: f32 = x.iter().zip(gradient).zip(&of.weight).map(|((x, g), w)| x * g * w).sum();
            let back = along * scale * scale * scale / n as f32;
            for (((to, x), g), w) in to.iter_mut().zip(x).zip(gradient).zip(&of.weight) {
                *to = scale * w * g - x * back;
            }
            scale
        })
        .collect();
    let mut weight = vec![0.0; n];
    for ((x, gradient), scale) in x.chunks(n).zip(gradient.chunks(n)).zip(scales) {
        for ((to, x), g) in weight.iter_mut().zip(x).zip(gradient) {
            *to += g * x * scale;
        }
    }
    (weight, inputs)
}

/// The gradient of gate and up.
fn gate(activation: Activation, both: &[f32], gradient: &[f32], inner: usize) -> Vec<f32> {
    let mut to = vec![0.0; both.len()];
    let rows = to.par_chunks_mut(2 * inner).zip(both.par_chunks(2 * inner)).zip(gradient.par_chunks(inner));
    rows.with_min_len(16).for_each(|((to, both), gradient)| {
        for i in 0..inner {
            let (gate, up) = (both[i], both[inner + i]);
            to[i] = gradient[i] * up * ops::slope(activation, gate);
            to[inner + i] = gradient[i] * ops::activate(activation, gate);
        }
    });
    to
}

/// The gradient of queries, keys and values before norms and rotation.
fn attention(heads: &Heads, lengths: &[usize], projected: &[f32], turned: &[f32], gradient: &[f32]) -> Vec<f32> {
    let (width, queries, dim) = (heads.values().end, heads.queries().end, heads.dim);
    let tokens: usize = lengths.iter().sum();
    let mut to = vec![0.0; projected.len()];
    let turned = view(turned, tokens, width);
    let gradient = view(gradient, tokens, queries);
    let mut jobs = vec![];
    let mut rest = view_mut(&mut to, tokens, width);
    let mut start = 0;
    for &length in lengths {
        let (sequence, others) = rest.split_at(Axis(0), length);
        rest = others;
        // Columns of a sequence in bands of a head; those that belong to one key and value head go together.
        let mut bands: Vec<_> = columns(sequence, dim).into_iter().map(Some).collect();
        for shared in 0..heads.kv_heads {
            let mut take = |at: usize| bands[at].take().expect("each band is taken once");
            let own = shared * heads.group()..(shared + 1) * heads.group();
            jobs.push(Shared {
                heads,
                turned: part(turned, start..start + length, 0..width),
                gradient: part(gradient, start..start + length, 0..queries),
                shared,
                queries: own.map(&mut take).collect(),
                key: take(heads.heads + shared),
                value: take(heads.heads + heads.kv_heads + shared),
            });
        }
        start += length;
    }
    jobs.into_par_iter().for_each(Shared::run);
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let turns = heads.rope.as_ref().map(|rope| Turns::new(rope, longest));
    let positions: Vec<usize> = lengths.iter().flat_map(|length| 0..*length).collect();
    let rows = to.par_chunks_mut(width).zip(projected.par_chunks(width)).zip(positions);
    rows.with_min_len(32).for_each(|((to, projected), position)| {
        for (i, to) in to[..heads.keys().end].chunks_mut(dim).enumerate() {
            if let Some(turns) = &turns {
                turns.apply::<true>(to, position);
            }
            let of = if i < heads.heads { &heads.query_norm } else { &heads.key_norm };
            if let Some(of) = of {
                let (_, inputs) = norm(of, &projected[i * dim..][..dim], to);
                to.copy_from_slice(&inputs);
            }
        }
    });
    to
}

/// The heads of one sequence that share keys and values.
struct Shared<'a> {
    heads: &'a Heads,
    turned: ArrayView2<'a, f32>,
    gradient: ArrayView2<'a, f32>,
    shared: usize,
    queries: Vec<ArrayViewMut2<'a, f32>>,
    key: ArrayViewMut2<'a, f32>,
    value: ArrayViewMut2<'a, f32>,
}

impl Shared<'_> {
    fn run(mut self) {
        let (heads, length) = (self.heads, self.turned.nrows());
        let at = |first: usize, head: usize| {
            part(self.turned, 0..length, first + head * heads.dim..first + (head + 1) * heads.dim)
        };
        let key = at(heads.keys().start, self.shared);
        let value = at(heads.values().start, self.shared);
        let mut weights = vec![0.0; length * length];
        let mut slopes = vec![0.0; length * length];
        for (i, to_query) in self.queries.iter_mut().enumerate() {
            let head = self.shared * heads.group() + i;
            let query = at(0, head);
            let gradient = part(self.gradient, 0..length, head * heads.dim..(head + 1) * heads.dim);
            general_mat_mul(heads.scale, &query, &key.t(), 0.0, &mut view_mut(&mut weights, length, length));
            general_mat_mul(1.0, &gradient, &value.t(), 0.0, &mut view_mut(&mut slopes, length, length));
            for (row, (weights, slopes)) in weights.chunks_mut(length).zip(slopes.chunks_mut(length)).enumerate() {
                let (seen, later) = weights.split_at_mut(row + 1);
                ops::softmax(seen);
                later.fill(0.0);
                let (slopes, later) = slopes.split_at_mut(row + 1);
                later.fill(0.0);
                let mean: f32 = seen.iter().zip(&*slopes).map(|(w, s)| w * s).sum();
                for (slope, weight) in slopes.iter_mut().zip(seen) {
                    *slope = heads.scale * *weight * (*slope - mean);
                }
            }
            let (weights, slopes) = (view(&weights, length, length), view(&slopes, length, length));
            general_mat_mul(1.0, &slopes, &key, 0.0, to_query);
            general_mat_mul(1.0, &slopes.t(), &query, 1.0, &mut self.key);
            general_mat_mul(1.0, &weights.t(), &gradient, 1.0, &mut self.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{NormKind, Rope, Sight};
    use crate::testing::{self, numbers};

    fn linear_of(rows: usize, cols: usize, seed: u32) -> LinearWeights {
        let weight = numbers(rows * cols, seed).iter().map(|w| w * 0.5).collect();
        LinearWeights { weight, bias: Some(numbers(rows, seed + 1)), cols, rounds: false }
    }

    /// What the loss is: some fixed weighting of the outputs.
    fn loss(of: &BlockWeights, lengths: &[usize], stream: &[f32], weighting: &[f32]) -> f64 {
        let out = of.branch(Sequences::alone(lengths), stream);
        let all = out.iter().zip(stream).zip(weighting);
        all.map(|((o, s), w)| f64::from(*w) * (f64::from(*o) + f64::from(*s))).sum()
    }

    #[test]
    fn gradients_are_those_of_differences() {
        let (width, dim) = (12, 4);
        let weight = |n: usize| -> Vec<f32> { numbers(n, 7).iter().map(|w| 1.0 + w / 2.0).collect() };
        let norm = |n: usize| NormWeights { kind: NormKind::Rms, weight: weight(n), bias: None, eps: 1e-5 };
        let rope = Rope { inv_freq: vec![1.0, 0.1], magnitude: 1.1 };
        let heads = Heads {
            heads: 4,
            kv_heads: 2,
            dim,
            scale: 0.5,
            query_norm: Some(norm(dim)),
            key_norm: Some(norm(dim)),
            rope: Some(rope),
            sight: Sight::Earlier,
            relative: None,
        };
        let gated = Middle::FeedForward { activation: Activation::Silu, gated: true };
        let blocks = [
            testing::block(weight(width), linear_of(32, width, 3), Middle::Attention(heads), linear_of(width, 16, 4)),
            testing::block(weight(width), linear_of(20, width, 5), gated, linear_of(width, 10, 6)),
        ];
        let lengths = [5, 3];
        let stream = numbers(8 * width, 11);
        let weighting = numbers(8 * width, 12);
        for mut of in blocks {
            let mut to_stream = weighting.clone();
            let gradient = block(&of, &lengths, &stream, &mut to_stream);
            let near = |what: &str, i: usize, found: f32, up: f64, down: f64, step: f32| {
                let want = (up - down) / (2.0 * f64::from(step));
                assert!((f64::from(found) - want).abs() < 2e-2 * (0.2 + want.abs()), "{what} {i}: {found}, not {want}");
            };
            let step = 1e-2;
            for i in (0..stream.len()).step_by(5) {
                let mut x = stream.clone();
                x[i] += step;
                let up = loss(&of, &lengths, &x, &weighting);
                x[i] -= 2.0 * step;
                near("stream", i, to_stream[i], up, loss(&of, &lengths, &x, &weighting), step);
            }
            macro_rules! check {
                ($($what:literal: $field:expr, $found:expr, $every:literal;)*) => {$(
                    for i in (0..$found.len()).step_by($every) {
                        let old = $field[i];
                        $field[i] = old + step;
                        let up = loss(&of, &lengths, &stream, &weighting);
                        $field[i] = old - step;
                        let down = loss(&of, &lengths, &stream, &weighting);
                        $field[i] = old;
                        near($what, i, $found[i], up, down, step);
                    }
                )*};
            }
            check! {
                "norm": of.norm.as_mut().unwrap().weight, gradient.norm, 1;
                "input": of.input.as_mut().unwrap().weight, gradient.input.weight, 7;
                "input bias": of.input.as_mut().unwrap().bias.as_mut().unwrap(), gradient.input.bias, 3;
                "output": of.output.weight, gradient.output.weight, 7;
                "output bias": of.output.bias.as_mut().unwrap(), gradient.output.bias, 3;
            }
        }
    }
}
