//! Rotary positions and causal attention, for sequences one after the other.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::ops::softmax;
use super::product::{columns, part, view, view_mut};
use super::weights::Heads;
use crate::checkpoint::Rope;

/// Queries that go together; later keys than theirs are left out of the product.
const QUERIES_AT_ONCE: usize = 64;

/// Norms queries and keys and turns them by their positions.
pub(crate) fn turn(heads: &Heads, lengths: &[usize], projected: &mut [f32]) {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let turns = heads.rope.as_ref().map(|rope| Turns::new(rope, longest));
    let rows: Vec<&mut [f32]> = projected.chunks_mut(heads.values().end).collect();
    let positions = lengths.iter().flat_map(|length| 0..*length);
    let rows: Vec<(&mut [f32], usize)> = rows.into_iter().zip(positions).collect();
    rows.into_par_iter().with_min_len(32).for_each(|(row, position)| {
        for (i, head) in row[..heads.keys().end].chunks_mut(heads.dim).enumerate() {
            let norm = if i < heads.heads { &heads.query_norm } else { &heads.key_norm };
            if let Some(norm) = norm {
                head.copy_from_slice(&norm.apply(head));
            }
            if let Some(turns) = &turns {
                turns.apply::<false>(head, position);
            }
        }
    });
}

/// Cosines and sines of each position, pair by pair.
pub(crate) struct Turns {
    pairs: usize,
    table: Vec<(f32, f32)>,
}

impl Turns {
    pub(crate) fn new(rope: &Rope, positions: usize) -> Self {
        let magnitude = f64::from(rope.magnitude);
        let turns = (0..positions).flat_map(|position| {
            rope.inv_freq.iter().map(move |frequency| {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                ((cos * magnitude) as f32, (sin * magnitude) as f32)
            })
        });
        Self { pairs: rope.inv_freq.len(), table: turns.collect() }
    }

    /// Turns a head, or the gradient of a turned one back.
    pub(crate) fn apply<const BACK: bool>(&self, head: &mut [f32], position: usize) {
        let turns = &self.table[position * self.pairs..][..self.pairs];
        let (first, rest) = head.split_at_mut(self.pairs);
        for ((a, b), (cos, sin)) in first.iter_mut().zip(rest).zip(turns) {
            let sin = if BACK { -sin } else { *sin };
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

/// What each head has gathered, a row for each token.
pub(crate) fn attend(heads: &Heads, lengths: &[usize], projected: &[f32]) -> Vec<f32> {
    let tokens: usize = lengths.iter().sum();
    let (dim, width) = (heads.dim, heads.queries().end);
    let mut out = vec![0.0; tokens * width];
    let projected = view(projected, tokens, heads.values().end);
    let mut jobs = Vec::new();
    let mut rest = view_mut(&mut out, tokens, width);
    let mut start = 0;
    for &length in lengths {
        let (sequence, others) = rest.split_at(Axis(0), length);
        rest = others;
        let rows = start..start + length;
        for (head, out) in columns(sequence, dim).into_iter().enumerate() {
            let at =
                |first: usize, head: usize| part(projected, rows.clone(), first + head * dim..first + (head + 1) * dim);
            let shared = head / heads.group();
            jobs.push(Head {
                query: at(0, head),
                key: at(heads.keys().start, shared),
                value: at(heads.values().start, shared),
                scale: heads.scale,
                out,
            });
        }
        start += length;
    }
    jobs.into_par_iter().for_each(Head::run);
    out
}

/// One head of one sequence.
struct Head<'a> {
    query: ArrayView2<'a, f32>,
    key: ArrayView2<'a, f32>,
    value: ArrayView2<'a, f32>,
    scale: f32,
    out: ArrayViewMut2<'a, f32>,
}

impl Head<'_> {
    fn run(mut self) {
        let length = self.query.nrows();
        let mut space = vec![0.0; QUERIES_AT_ONCE.min(length) * length];
        for start in (0..length).step_by(QUERIES_AT_ONCE) {
            let end = length.min(start + QUERIES_AT_ONCE);
            let scores = &mut space[..(end - start) * end];
            let query = self.query.slice_axis(Axis(0), (start..end).into());
            let key = self.key.slice_axis(Axis(0), (..end).into());
            general_mat_mul(self.scale, &query, &key.t(), 0.0, &mut view_mut(scores, end - start, end));
            for (i, row) in scores.chunks_mut(end).enumerate() {
                let (seen, later) = row.split_at_mut(start + i + 1);
                softmax(seen);
                later.fill(0.0);
            }
            let value = self.value.slice_axis(Axis(0), (..end).into());
            let mut out = self.out.slice_axis_mut(Axis(0), (start..end).into());
            general_mat_mul(1.0, &view(scores, end - start, end), &value, 0.0, &mut out);
        }
    }
}
