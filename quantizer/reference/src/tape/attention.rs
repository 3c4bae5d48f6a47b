//! The gradients of attention.

use std::ops::Range;

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::weights::norm;
use crate::attention::{Turns, add_relative};
use crate::product::{columns, part, view, view_mut};
use crate::{Heads, NormWeights, Sequences, ops, relative_of};
use kinglet_import::checkpoint::Mask;

/// The gradients of queries, keys and values before norms and rotation: `own` are those made from
/// the stream, `across` those from the memory, if the keys are there.
pub(super) fn attended(
    heads: &Heads,
    sequences: Sequences<'_>,
    projected: [&[f32]; 2],
    turned: &[Vec<f32>; 2],
    gradient: &[f32],
) -> [Vec<f32>; 2] {
    let rows = Rows::new(heads, sequences);
    let mut to = projected.map(|numbers| vec![0.0; numbers.len()]);
    rows.jobs(turned, gradient, &mut to).into_par_iter().for_each(Shared::run);
    let side = usize::from(rows.cross);
    turn_back(
        heads,
        heads.query_norm.as_ref(),
        rows.lengths,
        (heads.queries(), rows.stride),
        projected[0],
        &mut to[0],
    );
    turn_back(
        heads,
        heads.key_norm.as_ref(),
        rows.seen,
        (heads.keys(), [rows.stride, rows.width][side]),
        projected[side],
        &mut to[side],
    );
    to
}

/// How queries, keys and values lie.
struct Rows<'a> {
    heads: &'a Heads,
    /// Whether keys and values are rows of their own.
    cross: bool,
    /// Queries of each sequence.
    lengths: &'a [usize],
    /// Keys of each sequence.
    seen: &'a [usize],
    /// Numbers of a row with queries.
    stride: usize,
    /// Numbers of a row with keys and values.
    width: usize,
}

impl<'a> Rows<'a> {
    fn new(heads: &'a Heads, sequences: Sequences<'a>) -> Self {
        let (cross, width) = (heads.mask == Mask::Cross, heads.values().end);
        let lengths = sequences.lengths;
        let (seen, stride) = match cross {
            true => (sequences.states_lengths, heads.queries().end),
            false => (lengths, width),
        };
        Self { heads, cross, lengths, seen, stride, width }
    }

    /// Divides the gradients `to` among the heads that make them: those of one sequence that share
    /// keys and values.
    fn jobs<'t>(
        &self,
        turned: &'t [Vec<f32>; 2],
        gradient: &'t [f32],
        [to_own, to_across]: &'t mut [Vec<f32>; 2],
    ) -> Vec<Shared<'t>>
    where
        'a: 't,
    {
        let &Self { heads, cross, lengths, seen, stride, width } = self;
        let (tokens, queries, dim) = (lengths.iter().sum(), heads.queries().end, heads.head_dim);
        let own = view(&turned[0], tokens, stride);
        let others = if cross { view(&turned[1], seen.iter().sum(), width) } else { own };
        let gradient = view(gradient, tokens, queries);
        let across_rows = to_across.len() / width;
        let mut rest = view_mut(to_own, tokens, stride);
        let mut rest_across = view_mut(to_across, across_rows, width);
        let mut jobs = vec![];
        let (mut start, mut seen_start) = (0, 0);
        for (&length, &keys) in lengths.iter().zip(seen) {
            let (sequence, later) = rest.split_at(Axis(0), length);
            rest = later;
            // Columns of a sequence in bands of a head; those that belong to one key and value head
            // go together.
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
        jobs
    }
}

/// Takes the gradients of the heads in some columns of rows of `stride` numbers back through
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
                    add_relative(table, row, before);
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
