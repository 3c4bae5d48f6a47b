//! Attention: queries, keys and values become what the last product of a block sees.

use core::ops::Range;

use kinglet_kernels::cache::{self, CHUNK, CacheShape, Head, MAX_HEAD_DIM};
use kinglet_kernels::{Part, Scratch, scalar};
use kinglet_model::{Attention, InPlace, Inputs, Norm};

use super::super::arena::Arena;
use super::super::families;
use super::{Context, QUANTIZE};
use crate::parallel::{Only, Parallel, Units, split, split_uneven};

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

    /// The chunks of the cache that rows of the run see.
    pub(super) fn chunks(&self, a: &Attention<InPlace<'_>>) -> Range<usize> {
        let keys = self.keys(a);
        let first = a.mask().seen(self.run.start, keys).start;
        let end = a.mask().seen(keys.saturating_sub(1), keys).end;
        first / CHUNK..end.div_ceil(CHUNK)
    }

    /// Replaces queries by their attention. A unit is a chunk of one query: chunks first, then the
    /// queries that share a key/value head, then these heads, then rows.
    pub(super) fn attend(
        &self,
        a: &Attention<InPlace<'_>>,
        units: Range<usize>,
        arena: &mut Arena<'_>,
    ) {
        let caches = match a.is_cross() {
            true => (&*arena.cross_codes, &*arena.cross_scales),
            false => (&*arena.cache_codes, &*arena.cache_scales),
        };
        let positions = if a.is_cross() { self.positions.1 } else { self.positions.0 };
        let looking = Looking {
            ctx: self,
            a,
            shape: self.setting.cache_shape(positions, a.head_dim),
            caches,
        };
        let (rows, chunks, stride) = (self.run.rows, self.chunks(a), self.stride);
        let wide = &mut arena.wide[..rows * stride];
        let [scratch] = &mut *arena.attention else { return };
        let each = a.group() * chunks.len();
        if units == (0..rows * a.kv_heads * each) && rows > 1 && !self.run.is_batched() {
            return looking.rows(wide, scratch);
        }
        let width = a.group() * a.head_dim;
        let mut at = units.start;
        while at < units.end {
            let (row, kv) = (at / each / a.kv_heads, at / each % a.kv_heads);
            let queries = &mut wide[row * stride + kv * width..];
            let whole = (a.kv_heads - kv).min((units.end - at) / each);
            if at.is_multiple_of(each) && whole > 0 {
                looking.heads((row, kv), &mut queries[..whole * width], scratch);
                at += whole * each;
            } else {
                let (query, from) = (at % each / chunks.len(), at % each % chunks.len());
                let len = (chunks.len() - from).min(units.end - at);
                let from = chunks.start + from;
                let part = Part { query, chunks: from..from + len };
                looking.queries((row, kv), &mut queries[..width], Some(part), scratch);
                at += len;
            }
        }
    }
}

/// The caches of a block, and who looks at them.
struct Looking<'l, 'c, 'm, P> {
    ctx: &'l Context<'c, P>,
    a: &'l Attention<InPlace<'m>>,
    shape: CacheShape,
    /// Codes and scales.
    caches: (&'l [i8], &'l [u16]),
}

impl<P: Parallel> Looking<'_, '_, '_, P> {
    /// What the queries that share a key/value head cost.
    fn cost(&self) -> usize {
        2 * self.a.group() * self.a.head_dim * self.ctx.seen(self.a)
    }

    /// All rows of a run.
    fn rows(&self, wide: &mut [f32], scratch: &mut Scratch) {
        let width = self.a.group() * self.a.head_dim;
        let rows = (Units { items: wide, size: self.ctx.stride }, Only(Some(scratch)));
        let cost = self.cost().saturating_mul(self.a.kv_heads);
        split_uneven(self.ctx.parallel, cost, rows, &|first, (rows, scratch)| {
            let mut own = None;
            let scratch = lent(scratch, &mut own);
            for kv in 0..self.a.kv_heads {
                self.queries((first, kv), &mut rows.items[kv * width..], None, scratch);
            }
        });
    }

    /// The queries of some key/value heads from `kv` on, of one row.
    fn heads(&self, (row, kv): (usize, usize), queries: &mut [f32], scratch: &mut Scratch) {
        let width = self.a.group() * self.a.head_dim;
        let queries = (Units { items: queries, size: width }, Only(Some(scratch)));
        split(self.ctx.parallel, self.cost(), queries, &|from, (queries, scratch)| {
            let mut own = None;
            let scratch = lent(scratch, &mut own);
            for (i, q) in queries.items.chunks_exact_mut(width).enumerate() {
                self.queries((row, kv + from + i), q, None, scratch);
            }
        });
    }

    /// The queries of key/value head `kv` at the start of `q`, in rows from `row`, or a part of
    /// one.
    fn queries(
        &self,
        (row, kv): (usize, usize),
        q: &mut [f32],
        part: Option<Part>,
        scratch: &mut Scratch,
    ) {
        let (Self { a, shape, .. }, run) = (self, &self.ctx.run);
        let at = if a.is_cross() { run.cross } else { self.ctx.cache_of(row) };
        let codes = &self.caches.0[at.0 + kv * shape.codes()..][..shape.codes()];
        let scales = &self.caches.1[at.1 + kv * shape.scales()..][..shape.scales()];
        let first = run.start + if run.is_batched() { 0 } else { row };
        let visible = families::visible(a.mask(), first, run.rows, run.states.0);
        let relative = a.relative.unwrap_or_default();
        let table = relative.len() / a.heads * a.group();
        let table = &relative[kv * table..(kv + 1) * table];
        let visible = families::by_distance(visible, table, first);
        let over = (&Head::new(*shape, codes, scales), visible, a.score_scale);
        self.ctx.isa.attend_in(over, (q, a.group(), self.ctx.stride), part, scratch);
    }
}

/// The scratch that a piece of work was given, or one of its own.
fn lent<'s>(scratch: Only<'s, Scratch>, own: &'s mut Option<Scratch>) -> &'s mut Scratch {
    match scratch.0 {
        Some(scratch) => scratch,
        None => own.insert(Scratch::EMPTY),
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
