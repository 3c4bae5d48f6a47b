//! The forward pass as steps that can stop anywhere.
//!
//! Each block goes through [`Stage`]s, and each stage through units (a row, a panel of 16 outputs, a head); a cursor says
//! which unit is next. All state between steps lies in the arena and in [`Run`].

use core::ops::Range;

use kinglet_kernels::cache::{self, Head, MAX_HEAD_DIM};
use kinglet_kernels::layout::PANEL;
use kinglet_kernels::{Activations, ActivationsMut, Isa, Matrix, Sight, scalar};

use super::arena::Arena;
use crate::format::{Attention, Block, Middle, Model, OpenError};
use crate::parallel::{Divide, Parallel, Units, split, split_uneven};
use crate::plan::{Options, cache_shape};

/// What a block does, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Norm and quantize each row of the residual stream.
    Norm,
    /// Query, key and value; or gate and up. A unit is a panel.
    Input,
    /// Attention: biases, head norms, rotation, and keys and values into the cache. Feed-forward: activation. A unit is a row.
    Prepare,
    /// Attention of the queries of one row that share a key/value head.
    Attend,
    /// Quantize each row of the result.
    Quantize,
    /// Back to the width of the residual stream. A unit is a panel.
    Output,
    /// Add each row to the residual stream.
    Add,
}

/// Where in the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Block(u32, Stage),
    /// Norm and quantize the rows whose logits are wanted.
    FinalNorm,
    /// A unit is a panel of the head.
    Head,
    Done,
}

/// A run of some tokens, from one step to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    place: Place,
    cursor: usize,
    /// Position of the first token.
    start: usize,
    tokens: usize,
    logits: usize,
    /// Where the present block's cache starts among the codes and scales of all.
    cache: (usize, usize),
}

/// What every step needs.
struct Context<'c, P> {
    isa: Isa,
    parallel: &'c P,
    options: &'c Options,
    start: usize,
    tokens: usize,
    cache: (usize, usize),
}

impl Run {
    pub(super) fn new(start: usize, tokens: usize, logits: usize) -> Self {
        Self { place: Place::Block(0, Stage::Norm), cursor: 0, start, tokens, logits, cache: (0, 0) }
    }

    pub(super) fn is_done(&self) -> bool {
        self.place == Place::Done
    }

    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(super) fn logits(&self) -> usize {
        self.logits
    }

    /// The hidden state that is complete now: before the first unit of a block, and before the end. No other step begins there.
    pub(super) fn state(&self) -> Option<u32> {
        match self.place {
            Place::Block(index, Stage::Norm) if self.cursor == 0 => Some(index),
            _ => None,
        }
    }

    /// Does as many units of the present stage as `budget` allows, at least one, and returns their cost.
    pub(super) fn step<P: Parallel>(
        &mut self,
        model: &Model<'_>,
        isa: Isa,
        parallel: &P,
        options: &Options,
        arena: &mut Arena<'_>,
        budget: u64,
    ) -> Result<u64, OpenError> {
        let ctx = Context { isa, parallel, options, start: self.start, tokens: self.tokens, cache: self.cache };
        match self.place {
            Place::Block(index, _) if index >= model.record().blocks => {
                self.place = if self.logits == 0 { Place::Done } else { Place::FinalNorm };
                Ok(0)
            }
            Place::Block(index, stage) => {
                let block = model.block(index)?;
                let (units, cost) = ctx.size(&block, stage);
                let (range, spent) = self.take(units, cost, budget);
                ctx.block_stage(&block, stage, range, arena);
                if self.cursor == units {
                    self.next(&block, index, stage, options);
                }
                Ok(spent)
            }
            Place::FinalNorm => {
                let norm = model.norm()?;
                let first = self.tokens - self.logits;
                let (range, spent) = self.take(self.logits, model.width(), budget);
                ctx.norm_rows(norm, model.record().norm_eps, first + range.start, range, self.logits, arena);
                if self.cursor == self.logits {
                    (self.place, self.cursor) = (Place::Head, 0);
                }
                Ok(spent)
            }
            Place::Head => {
                let head = model.head()?;
                let (range, spent) = self.take(head.panels(), PANEL * head.cols() * self.logits, budget);
                let x = Activations::new(arena.codes, arena.sums, &arena.scales[..self.logits], head.cols());
                ctx.matmul(&head, &x, range, arena.logits, model.vocab());
                if self.cursor == head.panels() {
                    (self.place, self.cursor) = (Place::Done, 0);
                }
                Ok(spent)
            }
            Place::Done => Ok(0),
        }
    }

    /// Advances the cursor by the units that `budget` pays for.
    fn take(&mut self, units: usize, cost: usize, budget: u64) -> (Range<usize>, u64) {
        let cost = cost.max(1) as u64;
        let affordable = usize::try_from(budget / cost).unwrap_or(usize::MAX).max(1);
        let start = self.cursor;
        self.cursor = start.saturating_add(affordable).min(units);
        (start..self.cursor, cost * (self.cursor - start) as u64)
    }

    fn next(&mut self, block: &Block<'_>, index: u32, stage: Stage, options: &Options) {
        let attention = matches!(block.middle, Middle::Attention(_));
        let next = match stage {
            Stage::Norm => Stage::Input,
            Stage::Input => Stage::Prepare,
            Stage::Prepare if attention => Stage::Attend,
            Stage::Prepare | Stage::Attend => Stage::Quantize,
            Stage::Quantize => Stage::Output,
            Stage::Output => Stage::Add,
            Stage::Add => Stage::Norm,
        };
        self.cursor = 0;
        self.place = Place::Block(index + u32::from(stage == Stage::Add), next);
        if let (Middle::Attention(a), Stage::Add) = (&block.middle, stage) {
            let shape = cache_shape(options, a);
            self.cache.0 += a.kv_heads * shape.codes();
            self.cache.1 += a.kv_heads * shape.scales();
        }
    }
}

impl<P: Parallel> Context<'_, P> {
    /// Units of a stage, and what one costs in multiply-accumulates or so.
    fn size(&self, block: &Block<'_>, stage: Stage) -> (usize, usize) {
        let panel = |w: &Matrix<'_>| (w.panels(), PANEL * w.cols() * self.tokens);
        match stage {
            Stage::Norm => (self.tokens, block.input.cols()),
            Stage::Input => panel(&block.input),
            Stage::Prepare => (self.tokens, 8 * block.input.rows()),
            Stage::Attend => {
                let (heads, kv_heads) = (usize::from(block.record.heads), usize::from(block.record.kv_heads));
                let cost = 4 * block.record.head_dim as usize * (self.start + self.tokens);
                (self.tokens * kv_heads, cost * heads.div_ceil(kv_heads.max(1)))
            }
            Stage::Quantize => (self.tokens, block.output.cols()),
            Stage::Output => panel(&block.output),
            Stage::Add => (self.tokens, block.output.rows()),
        }
    }

    fn block_stage(&self, block: &Block<'_>, stage: Stage, units: Range<usize>, arena: &mut Arena<'_>) {
        let stride = arena.stride;
        match stage {
            Stage::Norm => {
                self.norm_rows(block.norm, block.record.norm_eps, units.start, units, self.tokens, arena);
            }
            Stage::Input | Stage::Output => {
                let w = if stage == Stage::Input { &block.input } else { &block.output };
                let x = Activations::new(arena.codes, arena.sums, &arena.scales[..self.tokens], w.cols());
                self.matmul(w, &x, units, arena.wide, stride);
            }
            Stage::Prepare => match &block.middle {
                Middle::Attention(a) => self.store_keys(a, block.input_bias, units, arena),
                Middle::FeedForward { inner } => self.activate(*inner, block.input_bias, units, arena),
            },
            Stage::Attend => {
                if let Middle::Attention(a) = &block.middle {
                    self.attend(a, units, arena);
                }
            }
            Stage::Quantize => {
                let width = block.output.cols();
                let to = rows_of(arena.codes, arena.sums, &mut arena.scales[..self.tokens], width, units.clone());
                let wide = &arena.wide[units.start * stride..];
                split(self.parallel, QUANTIZE * width, to, &|first, mut to| {
                    for row in 0..to.rows() {
                        self.isa.quantize(&wide[(first + row) * stride..][..width], &mut to, row);
                    }
                });
            }
            Stage::Add => {
                let width = block.output.rows();
                let branches = Units { items: &mut arena.wide[units.start * stride..units.end * stride], size: stride };
                let rows = Units { items: &mut arena.residual[units.start * width..units.end * width], size: width };
                split(self.parallel, width, (branches, rows), &|_, (branches, rows)| {
                    for (branch, row) in branches.items.chunks_exact_mut(stride).zip(rows.items.chunks_exact_mut(width))
                    {
                        let branch = &mut branch[..width];
                        if let Some(bias) = block.output_bias {
                            self.isa.add(branch, bias);
                        }
                        self.isa.add(row, branch);
                    }
                });
            }
        }
    }

    /// Norms rows of the residual stream, the first is row `from`, and quantizes them as the rows `to` of `rows`.
    fn norm_rows(&self, weight: &[f32], eps: f32, from: usize, to: Range<usize>, rows: usize, arena: &mut Arena<'_>) {
        let (width, stride) = (weight.len(), arena.stride);
        let residual = &arena.residual[from * width..];
        let normed = Units { items: &mut arena.wide[..to.len() * stride], size: stride };
        let x = rows_of(arena.codes, arena.sums, &mut arena.scales[..rows], width, to);
        split(self.parallel, 2 * QUANTIZE * width, (normed, x), &|first, (normed, mut x)| {
            for (row, normed) in normed.items.chunks_exact_mut(stride).enumerate() {
                let normed = &mut normed[..width];
                self.isa.rms_norm(&residual[(first + row) * width..][..width], weight, eps, normed);
                self.isa.quantize(normed, &mut x, row);
            }
        });
    }

    /// The panels `panels` of `w` times all rows of `x`. One row is divided by panels, several by rows.
    fn matmul(&self, w: &Matrix<'_>, x: &Activations<'_>, panels: Range<usize>, out: &mut [f32], stride: usize) {
        let first = panels.start * PANEL;
        let width = w.rows().min(panels.end * PANEL) - first;
        let end = (x.rows() - 1) * stride + first + width;
        if x.rows() == 1 {
            let out = Units { items: &mut out[first..end], size: PANEL };
            split(self.parallel, PANEL * w.cols(), out, &|panel, out| {
                let start = panels.start + panel;
                self.isa.matmul(w, x, start..start + out.units(), out.items, stride);
            });
        } else {
            // Vector kernels take sixteen rows at a time.
            let together = if x.rows() < 32 { 1 } else { 16 };
            let out = Units { items: &mut out[..end], size: together * stride };
            split(self.parallel, together * panels.len() * PANEL * w.cols(), out, &|unit, out| {
                let x = x.slice(together * unit, out.items.len().div_ceil(stride));
                self.isa.matmul(w, &x, panels.clone(), &mut out.items[first..], stride);
            });
        }
    }

    /// Biases, head norms and rotation in place; keys and values into the cache.
    fn store_keys(&self, a: &Attention<'_>, bias: Option<&[f32]>, rows: Range<usize>, arena: &mut Arena<'_>) {
        let (dim, queries, stride) = (a.head_dim, a.heads * a.head_dim, arena.stride);
        let all = queries + 2 * a.kv_heads * dim;
        let start = self.start + rows.start;
        let wide = Units { items: &mut arena.wide[rows.start * stride..rows.end * stride], size: stride };
        split(self.parallel, 4 * all, wide, &|first, wide| {
            for (row, wide) in wide.items.chunks_exact_mut(stride).enumerate() {
                if let Some(bias) = bias {
                    self.isa.add(&mut wide[..all], bias);
                }
                let mut rotation = [[0.0; MAX_HEAD_DIM / 2]; 2];
                let [cos, sin] = rotate(a, start + first + row, &mut rotation);
                for (i, head) in wide[..queries + a.kv_heads * dim].chunks_exact_mut(dim).enumerate() {
                    self.norm_head(if i < a.heads { a.query_norm } else { a.key_norm }, a.head_norm_eps, head);
                    self.isa.rope(head, cos, sin);
                }
            }
        });
        let shape = cache_shape(self.options, a);
        let wide = &arena.wide[rows.start * stride..rows.end * stride];
        let codes = &mut arena.cache_codes[self.cache.0..][..a.kv_heads * shape.codes()];
        let scales = &mut arena.cache_scales[self.cache.1..][..a.kv_heads * shape.scales()];
        let caches = (Units { items: codes, size: shape.codes() }, Units { items: scales, size: shape.scales() });
        split(self.parallel, 4 * QUANTIZE * dim * rows.len(), caches, &|first, (codes, scales)| {
            let caches = codes.items.chunks_exact_mut(shape.codes()).zip(scales.items.chunks_exact_mut(shape.scales()));
            for (head, (codes, scales)) in caches.enumerate() {
                for (row, wide) in wide.chunks_exact(stride).enumerate() {
                    let (k, v) = wide[queries..all].split_at(a.kv_heads * dim);
                    let at = (first + head) * dim;
                    cache::store(shape, codes, scales, start + row, &k[at..][..dim], &v[at..][..dim]);
                }
            }
        });
    }

    fn norm_head(&self, norm: Option<&[f32]>, eps: f32, head: &mut [f32]) {
        if let Some(norm) = norm {
            let mut copy = [0.0; MAX_HEAD_DIM];
            let copy = &mut copy[..head.len()];
            copy.copy_from_slice(head);
            self.isa.rms_norm(copy, norm, eps, head);
        }
    }

    /// Replaces queries by their attention. Unit `u` are the queries of row `u / kv_heads` that share key/value head `u % kv_heads`.
    fn attend(&self, a: &Attention<'_>, units: Range<usize>, arena: &mut Arena<'_>) {
        let shape = cache_shape(self.options, a);
        let (codes, scales) = (&*arena.cache_codes, &*arena.cache_scales);
        let heads = a.heads / a.kv_heads;
        let width = heads * a.head_dim;
        let stride = arena.stride;
        // The queries of key/value head `kv`, in rows from `row`.
        let attend = |row: usize, kv: usize, q: &mut [f32]| {
            let codes = &codes[self.cache.0 + kv * shape.codes()..][..shape.codes()];
            let scales = &scales[self.cache.1 + kv * shape.scales()..][..shape.scales()];
            let sight = Sight::earlier(self.start + row + 1);
            self.isa.attend(&Head::new(shape, codes, scales), sight, a.score_scale, q, heads, stride);
        };
        let cost = 2 * width * (self.start + self.tokens);
        if units == (0..self.tokens * a.kv_heads) && self.tokens > 1 {
            let rows = Units { items: &mut arena.wide[..self.tokens * stride], size: stride };
            split_uneven(self.parallel, cost * a.kv_heads, rows, &|first, rows| {
                for kv in 0..a.kv_heads {
                    attend(first, kv, &mut rows.items[kv * width..]);
                }
            });
            return;
        }
        for row in units.start / a.kv_heads..units.end.div_ceil(a.kv_heads) {
            let (from, to) = (units.start.max(row * a.kv_heads), units.end.min((row + 1) * a.kv_heads));
            let first = from - row * a.kv_heads;
            let queries = &mut arena.wide[row * stride + first * width..][..(to - from) * width];
            split(self.parallel, cost, Units { items: queries, size: width }, &|kv, q| {
                for (i, q) in q.items.chunks_exact_mut(width).enumerate() {
                    attend(row, first + kv + i, q);
                }
            });
        }
    }

    /// Gate and up become `silu(gate) * up`.
    fn activate(&self, inner: usize, bias: Option<&[f32]>, rows: Range<usize>, arena: &mut Arena<'_>) {
        let stride = arena.stride;
        let wide = Units { items: &mut arena.wide[rows.start * stride..rows.end * stride], size: stride };
        split(self.parallel, 8 * inner, wide, &|_, wide| {
            for wide in wide.items.chunks_exact_mut(stride) {
                let both = &mut wide[..2 * inner];
                if let Some(bias) = bias {
                    self.isa.add(both, bias);
                }
                let (gate, up) = both.split_at_mut(inner);
                self.isa.silu_mul(gate, up);
            }
        });
    }
}

/// The time to quantize a value, in multiply-accumulates.
const QUANTIZE: usize = 4;

/// Some of the rows of activations of `cols` values.
fn rows_of<'a>(
    codes: &'a mut [i8],
    sums: &'a mut [i16],
    scales: &'a mut [f32],
    cols: usize,
    rows: Range<usize>,
) -> ActivationsMut<'a> {
    let all = ActivationsMut::new(codes, sums, scales, cols);
    all.split_at(rows.end).0.split_at(rows.start).1
}

/// Cosines and sines of the rotations at `position`.
fn rotate<'r>(a: &Attention<'_>, position: usize, to: &'r mut [[f32; MAX_HEAD_DIM / 2]; 2]) -> [&'r [f32]; 2] {
    let [cos, sin] = to;
    for ((c, s), &step) in cos.iter_mut().zip(sin.iter_mut()).zip(a.rope) {
        let (sine, cosine) = scalar::sin_cos(step.wrapping_mul(position as u32));
        (*c, *s) = (cosine * a.rope_magnitude, sine * a.rope_magnitude);
    }
    [&cos[..a.rope.len()], &sin[..a.rope.len()]]
}
