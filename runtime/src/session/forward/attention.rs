//! Attention: queries, keys and values become what the last product of a block sees.

use core::ops::Range;

use kinglet_kernels::cache::{self, CacheShape, Head, MAX_HEAD_DIM};
use kinglet_kernels::scalar;
use kinglet_model::{Attention, InPlace, Inputs, Norm};

use super::super::arena::Arena;
use super::super::families;
use super::Context;
use super::products::QUANTIZE;
use crate::parallel::{Parallel, Units, split, split_uneven};

impl<P: Parallel> Context<'_, P> {
    /// Biases, head norms and rotation in place; keys and values into the cache. Apart from
    /// [`Run::step`], so that the rotations are not on the stack below attention.
    #[inline(never)]
    pub(super) fn prepare(
        &self,
        a: &Attention<InPlace<'_>>,
        bias: Option<&[f32]>,
        rows: Range<usize>,
        arena: &mut Arena<'_>,
    ) {
        let (dim, queries, stride) = (a.head_dim, a.heads * a.head_dim, self.stride);
        let across = a.is_cross();
        let all = if across { queries } else { queries + a.kv_rows() };
        let turned = if across { queries } else { queries + a.kv_heads * dim };
        let position =
            |row: usize| if self.run.is_batched() { self.run.start } else { self.run.start + row };
        let wide =
            Units { items: &mut arena.wide[rows.start * stride..rows.end * stride], size: stride };
        split(self.parallel, 4 * all, wide, &|first, wide| {
            for (row, wide) in wide.items.chunks_exact_mut(stride).enumerate() {
                if let Some(bias) = bias {
                    self.isa.add(&mut wide[..all], bias);
                }
                let mut rotation = [[0.0; MAX_HEAD_DIM / 2]; 2];
                let [cos, sin] = rotate(a, position(rows.start + first + row), &mut rotation);
                for (i, head) in wide[..turned].chunks_exact_mut(dim).enumerate() {
                    self.norm_head(if i < a.heads { &a.query_norm } else { &a.key_norm }, head);
                    self.isa.rope(head, cos, sin);
                    if a.head_inputs == Inputs::Transformed {
                        self.isa.transform(head);
                    }
                }
            }
        });
        if across {
            return;
        }
        let shape = self.setting.cache_shape(self.positions.0, dim);
        let caches = (&mut *arena.cache_codes, &mut *arena.cache_scales);
        if self.run.is_batched() {
            for row in rows {
                let caches = (&mut *caches.0, &mut *caches.1);
                let wide = &arena.wide[row * stride..][..stride];
                let at = self.cache_of(row);
                self.store(a, shape, at, self.run.start, (wide, stride, queries), caches);
            }
        } else {
            let wide = &arena.wide[rows.start * stride..][..rows.len() * stride];
            let position = self.run.start + rows.start;
            self.store(a, shape, self.run.cache, position, (wide, stride, queries), caches);
        }
    }

    /// Where the present block's cache of the target of `row` starts.
    fn cache_of(&self, row: usize) -> (usize, usize) {
        let target = if self.run.is_batched() { row } else { 0 };
        let (codes, scales) = self.setting.target;
        (self.run.cache.0 + target * codes, self.run.cache.1 + target * scales)
    }

    /// Keys and values of the rows `wide`, from column `first` on, into caches that start at `at`,
    /// for positions from `position` on.
    pub(super) fn store(
        &self,
        a: &Attention<InPlace<'_>>,
        shape: CacheShape,
        at: (usize, usize),
        position: usize,
        (wide, stride, first): (&[f32], usize, usize),
        (codes, scales): (&mut [i8], &mut [u16]),
    ) {
        let dim = a.head_dim;
        let codes = &mut codes[at.0..][..a.kv_heads * shape.codes()];
        let scales = &mut scales[at.1..][..a.kv_heads * shape.scales()];
        let caches = (
            Units { items: codes, size: shape.codes() },
            Units { items: scales, size: shape.scales() },
        );
        let rows = wide.len() / stride;
        split(self.parallel, 4 * QUANTIZE * dim * rows, caches, &|from, (codes, scales)| {
            let caches = codes
                .items
                .chunks_exact_mut(shape.codes())
                .zip(scales.items.chunks_exact_mut(shape.scales()));
            for (head, (codes, scales)) in caches.enumerate() {
                for (row, wide) in wide.chunks_exact(stride).enumerate() {
                    let (k, v) = wide[first..first + a.kv_rows()].split_at(a.kv_heads * dim);
                    let at = (from + head) * dim;
                    cache::store(
                        shape,
                        codes,
                        scales,
                        position + row,
                        &k[at..][..dim],
                        &v[at..][..dim],
                    );
                }
            }
        });
    }

    fn norm_head(&self, norm: &Option<Norm<&[f32]>>, head: &mut [f32]) {
        if let Some(norm) = norm {
            let mut copy = [0.0; MAX_HEAD_DIM];
            let copy = &mut copy[..head.len()];
            copy.copy_from_slice(head);
            self.isa.rms_norm(copy, norm.weight, norm.eps, head);
        }
    }

    /// Replaces queries by their attention. Unit `u` are the queries of row `u / kv_heads` that
    /// share key/value head `u % kv_heads`.
    pub(super) fn attend(
        &self,
        a: &Attention<InPlace<'_>>,
        units: Range<usize>,
        arena: &mut Arena<'_>,
    ) {
        let across = a.is_cross();
        let (codes, scales, positions) = match across {
            true => (&*arena.cross_codes, &*arena.cross_scales, self.positions.1),
            false => (&*arena.cache_codes, &*arena.cache_scales, self.positions.0),
        };
        let shape = self.setting.cache_shape(positions, a.head_dim);
        let heads = a.heads / a.kv_heads;
        let width = heads * a.head_dim;
        let (stride, rows) = (self.stride, self.run.rows);
        let relative = a.relative.unwrap_or_default();
        let each = relative.len() / a.heads;
        // The queries of key/value head `kv`, in rows from `row`.
        let attend = |row: usize, kv: usize, q: &mut [f32]| {
            let at = if across { self.run.cross } else { self.cache_of(row) };
            let codes = &codes[at.0 + kv * shape.codes()..][..shape.codes()];
            let scales = &scales[at.1 + kv * shape.scales()..][..shape.scales()];
            let first = self.run.start + if self.run.is_batched() { 0 } else { row };
            let visible = families::visible(a.mask(), first, rows, self.run.states.0);
            let table = &relative[kv * heads * each..(kv + 1) * heads * each];
            let visible = families::by_distance(visible, table, first);
            let head = Head::new(shape, codes, scales);
            self.isa.attend(&head, visible, a.score_scale, q, heads, stride);
        };
        let seen = self.seen(a);
        let cost = 2 * width * seen;
        if units == (0..rows * a.kv_heads) && rows > 1 && !self.run.is_batched() {
            let rows = Units { items: &mut arena.wide[..rows * stride], size: stride };
            split_uneven(self.parallel, cost * a.kv_heads, rows, &|first, rows| {
                for kv in 0..a.kv_heads {
                    attend(first, kv, &mut rows.items[kv * width..]);
                }
            });
            return;
        }
        for row in units.start / a.kv_heads..units.end.div_ceil(a.kv_heads) {
            let (from, to) =
                (units.start.max(row * a.kv_heads), units.end.min((row + 1) * a.kv_heads));
            let first = from - row * a.kv_heads;
            let queries = &mut arena.wide[row * stride + first * width..][..(to - from) * width];
            split(self.parallel, cost, Units { items: queries, size: width }, &|kv, q| {
                for (i, q) in q.items.chunks_exact_mut(width).enumerate() {
                    attend(row, first + kv + i, q);
                }
            });
        }
    }
}

/// Cosines and sines of the rotations at `position`.
fn rotate<'r>(
    a: &Attention<InPlace<'_>>,
    position: usize,
    to: &'r mut [[f32; MAX_HEAD_DIM / 2]; 2],
) -> [&'r [f32]; 2] {
    let Some(rope) = &a.rope else { return [&[]; 2] };
    let [cos, sin] = to;
    for ((c, s), &step) in cos.iter_mut().zip(sin.iter_mut()).zip(rope.frequencies) {
        let (sine, cosine) = scalar::sin_cos(step.wrapping_mul(position as u32));
        (*c, *s) = (cosine * rope.magnitude, sine * rope.magnitude);
    }
    [&cos[..rope.frequencies.len()], &sin[..rope.frequencies.len()]]
}
