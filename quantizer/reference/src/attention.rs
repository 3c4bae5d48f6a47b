//! Rotary positions and attention, for sequences one after the other.

use std::ops::Range;

use kinglet_model::Attention;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::batch::Sequences;
use super::ops::softmax;
use super::product::{columns, part, view, view_mut};
use super::weights::{ApplyNorm, NormWeights, Vectors, relative_of};
use kinglet_import::checkpoint::{Mask, Rope};

/// Queries that go together; later keys than theirs are left out of the product.
const QUERIES_AT_ONCE: usize = 64;

/// Norms queries and keys that lie together and turns them by their positions.
pub fn turn<T: Vectors>(heads: &Attention<T>, lengths: &[usize], projected: &mut [f32]) {
    let stride = heads.values().end;
    turn_columns(heads, heads.query_norm.as_ref(), lengths, heads.queries(), stride, projected);
    turn_columns(heads, heads.key_norm.as_ref(), lengths, heads.keys(), stride, projected);
}

/// The same for queries alone.
pub fn turn_queries<T: Vectors>(heads: &Attention<T>, lengths: &[usize], projected: &mut [f32]) {
    let columns = heads.queries();
    turn_columns(
        heads,
        heads.query_norm.as_ref(),
        lengths,
        columns.clone(),
        columns.end,
        projected,
    );
}

/// The same for keys, after which there are values.
pub fn turn_keys<T: Vectors>(heads: &Attention<T>, lengths: &[usize], projected: &mut [f32]) {
    turn_columns(
        heads,
        heads.key_norm.as_ref(),
        lengths,
        heads.keys(),
        heads.values().end,
        projected,
    );
}

/// Norms and turns the heads in some columns of rows of `stride` numbers.
fn turn_columns<T: Vectors>(
    heads: &Attention<T>,
    norm: Option<&NormWeights>,
    lengths: &[usize],
    columns: Range<usize>,
    stride: usize,
    projected: &mut [f32],
) {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let turns = heads.rope.as_ref().map(|rope| Turns::new(rope, longest));
    if turns.is_none() && norm.is_none() {
        return;
    }
    let rows: Vec<&mut [f32]> = projected.chunks_mut(stride).collect();
    let positions = lengths.iter().flat_map(|length| 0..*length);
    let rows: Vec<(&mut [f32], usize)> = rows.into_iter().zip(positions).collect();
    rows.into_par_iter().with_min_len(32).for_each(|(row, position)| {
        for head in row[columns.clone()].chunks_mut(heads.head_dim) {
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
pub struct Turns {
    pairs: usize,
    table: Vec<(f32, f32)>,
}

impl Turns {
    /// The table of `positions` positions.
    pub fn new(rope: &Rope, positions: usize) -> Self {
        let magnitude = f64::from(rope.magnitude);
        let turns = (0..positions).flat_map(|position| {
            rope.frequencies.iter().map(move |frequency| {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                ((cos * magnitude) as f32, (sin * magnitude) as f32)
            })
        });
        Self { pairs: rope.frequencies.len(), table: turns.collect() }
    }

    /// Turns a head, or the gradient of a turned one back.
    pub fn apply<const BACK: bool>(&self, head: &mut [f32], position: usize) {
        let turns = &self.table[position * self.pairs..][..self.pairs];
        let (first, rest) = head.split_at_mut(self.pairs);
        for ((a, b), (cos, sin)) in first.iter_mut().zip(rest).zip(turns) {
            let sin = if BACK { -sin } else { *sin };
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

/// What each head has gathered, a row for each token. Keys and values are among the columns of
/// `others`, which are the memory's rows where that is what queries see, and `projected` elsewhere.
pub fn attend<T: Vectors>(
    heads: &Attention<T>,
    sequences: Sequences<'_>,
    projected: &[f32],
    others: &[f32],
) -> Vec<f32> {
    let lengths = sequences.lengths;
    let (seen, stride) = match heads.mask {
        Mask::Cross => (sequences.states_lengths, heads.queries().end),
        _ => (lengths, heads.values().end),
    };
    let tokens: usize = lengths.iter().sum();
    let (dim, width) = (heads.head_dim, heads.queries().end);
    let mut out = vec![0.0; tokens * width];
    let projected = view(projected, tokens, stride);
    let others = view(others, seen.iter().sum(), heads.values().end);
    let mut jobs = Vec::new();
    let mut rest = view_mut(&mut out, tokens, width);
    let (mut start, mut seen_start) = (0, 0);
    for (&length, &keys) in lengths.iter().zip(seen) {
        let (sequence, later) = rest.split_at(Axis(0), length);
        rest = later;
        let (rows, seen) = (start..start + length, seen_start..seen_start + keys);
        for (head, out) in columns(sequence, dim).into_iter().enumerate() {
            let at = |first: usize, head: usize| first + head * dim..first + (head + 1) * dim;
            let shared = head / heads.group();
            jobs.push(Head {
                query: part(projected, rows.clone(), at(0, head)),
                key: part(others, seen.clone(), at(heads.keys().start, shared)),
                value: part(others, seen.clone(), at(heads.values().start, shared)),
                scale: heads.score_scale,
                mask: heads.mask,
                relative: relative_of(heads, head),
                out,
            });
        }
        (start, seen_start) = (start + length, seen_start + keys);
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
    mask: Mask,
    relative: Option<&'a [f32]>,
    out: ArrayViewMut2<'a, f32>,
}

impl Head<'_> {
    fn run(mut self) {
        let (length, keys) = (self.query.nrows(), self.key.nrows());
        if keys == 0 {
            return;
        }
        let mut space = vec![0.0; QUERIES_AT_ONCE.min(length) * keys];
        for start in (0..length).step_by(QUERIES_AT_ONCE) {
            let end = length.min(start + QUERIES_AT_ONCE);
            let seen = self.mask.seen(end - 1, keys).end;
            let scores = &mut space[..(end - start) * seen];
            let query = self.query.slice_axis(Axis(0), (start..end).into());
            let key = self.key.slice_axis(Axis(0), (..seen).into());
            general_mat_mul(
                self.scale,
                &query,
                &key.t(),
                0.0,
                &mut view_mut(scores, end - start, seen),
            );
            for (i, row) in scores.chunks_mut(seen).enumerate() {
                let seen = self.mask.seen(start + i, keys);
                let (row, later) = row.split_at_mut(seen.end);
                if let Some(table) = self.relative {
                    add_relative(table, start + i, row);
                }
                let (earlier, seen) = row.split_at_mut(seen.start);
                softmax(seen);
                earlier.fill(0.0);
                later.fill(0.0);
            }
            let value = self.value.slice_axis(Axis(0), (..seen).into());
            let mut out = self.out.slice_axis_mut(Axis(0), (start..end).into());
            general_mat_mul(1.0, &view(scores, end - start, seen), &value, 0.0, &mut out);
        }
    }
}

/// Adds a head's relative numbers to the scores of the query at a position.
pub fn add_relative(table: &[f32], query: usize, scores: &mut [f32]) {
    let reach = (table.len() / 2) as isize;
    for (key, score) in scores.iter_mut().enumerate() {
        let distance = (key as isize - query as isize).clamp(-reach, reach);
        *score += table[(distance + reach) as usize];
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kinglet_model::Inputs;

    use super::super::weights::Heads;
    use super::*;
    use crate::testing::numbers;

    fn heads(mask: Mask, relative: bool) -> Heads {
        // A reach of 2, so that most keys are beyond it.
        let relative = relative.then(|| Arc::new(numbers(4 * 5, 9)));
        let (query_norm, key_norm, rope) = (None, None, None);
        Heads {
            heads: 4,
            kv_heads: 2,
            head_dim: 3,
            score_scale: 0.7,
            query_norm,
            key_norm,
            rope,
            mask,
            relative,
            head_inputs: Inputs::Rounded,
        }
    }

    /// The same, number by number.
    fn plain(
        heads: &Heads,
        sequences: Sequences<'_>,
        projected: &[f32],
        others: &[f32],
    ) -> Vec<f64> {
        let cross = heads.mask == Mask::Cross;
        let seen = if cross { sequences.states_lengths } else { sequences.lengths };
        let (stride, other_stride) = (if cross { 12 } else { 24 }, if cross { 12 } else { 24 });
        let (mut out, mut first, mut first_seen) = (vec![], 0, 0);
        for (&length, &keys) in sequences.lengths.iter().zip(seen) {
            for i in 0..length {
                for head in 0..4 {
                    let query = &projected[(first + i) * stride + head * 3..][..3];
                    let seen = match heads.mask {
                        Mask::Causal => 0..i + 1,
                        Mask::Window(3) => i.saturating_sub(2)..i + 1,
                        _ => 0..keys,
                    };
                    let at = |j: usize, column: usize| {
                        &others[(first_seen + j) * other_stride + column + head / 2 * 3..][..3]
                    };
                    let score = |j: usize| {
                        let dot: f32 =
                            query.iter().zip(at(j, heads.keys().start)).map(|(a, b)| a * b).sum();
                        let away = (j as i64 - i as i64).clamp(-2, 2) + 2;
                        let more = heads
                            .relative
                            .as_ref()
                            .map_or(0.0, |table| table[head * 5 + away as usize]);
                        f64::from(dot * 0.7 + more).exp()
                    };
                    let sum: f64 = seen.clone().map(score).sum();
                    out.extend((0..3).map(|k| {
                        let value = |j: usize| f64::from(at(j, heads.values().start)[k]);
                        seen.clone().map(|j| score(j) * value(j)).sum::<f64>() / sum
                    }));
                }
            }
            (first, first_seen) = (first + length, first_seen + keys);
        }
        out
    }

    #[test]
    fn every_mask_is_what_it_says() {
        let (lengths, states_lengths) = ([70, 3], [5, 90]);
        for mask in [Mask::Causal, Mask::Full, Mask::Cross, Mask::Window(3)] {
            for relative in [false, true] {
                let heads = heads(mask, relative);
                let cross = mask == Mask::Cross;
                let projected = numbers(73 * if cross { 12 } else { 24 }, 1);
                let others = if cross { numbers(95 * 12, 2) } else { projected.clone() };
                let sequences =
                    Sequences { lengths: &lengths, states: &[], states_lengths: &states_lengths };
                let found = attend(&heads, sequences, &projected, &others);
                let expected = plain(&heads, sequences, &projected, &others);
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(expected) {
                    assert!((f64::from(*found) - expected).abs() < 1e-5, "{mask:?} {relative}");
                }
            }
        }
    }
}
