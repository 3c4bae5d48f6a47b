//! The encoder: how features become rows, and how the states of a stack get where the next looks
//! for them.

use core::ops::Range;

use kinglet_kernels::Matrix;
use kinglet_kernels::layout::PANEL;
use kinglet_model::{InPlace, Input, Inputs, Linear, Model, OpenError, Pooling, Stack};

use super::super::arena::Arena;
use super::super::rounding::activations;
use super::{Context, NORM, Place, Run, Stage};
use crate::parallel::Parallel;

impl Run {
    /// What only models of several stacks, and encoders, go through. Its views are not on the stack
    /// of [`Run::step`].
    #[inline(never)]
    pub(super) fn encoder<P: Parallel>(
        &mut self,
        model: &Model<'_>,
        ctx: &Context<'_, P>,
        arena: &mut Arena<'_>,
        budget: u64,
    ) -> Result<u64, OpenError> {
        let stack = model.stack(self.stack)?;
        match self.place {
            Place::Features | Place::Embed => Ok(self.features(&stack, ctx, arena, budget)),
            Place::StackNorm => {
                let Some(norm) = stack.norm else { return self.done() };
                let pools = self.stack == ctx.setting.last;
                let first = pools && model.pooling() == Pooling::First;
                let rows = if first { 1 } else { self.rows };
                let (range, spent) = self.take(rows, NORM * self.width, budget);
                ctx.norm_in_place(&norm, range, arena);
                if self.cursor == rows {
                    self.go(if pools { Place::Pool } else { Place::States });
                }
                Ok(spent)
            }
            Place::States => {
                let (range, spent) = self.take(self.rows, NORM * self.width, budget);
                let inputs = ctx.setting.shape(self.stack + 1).states;
                ctx.norm_rows((None, None, inputs), range.start, range, self.rows, arena);
                if self.cursor == self.rows {
                    let next = model.stack(self.stack + 1)?;
                    self.states = (self.rows, self.width);
                    self.cross = ctx.setting.shape(self.stack + 1).cross;
                    self.go(Place::Keys(next.blocks.0));
                }
                Ok(spent)
            }
            Place::Keys(index) | Place::Store(index) => {
                self.remember(model, ctx, index, arena, budget)
            }
            Place::Enter => self.enter(model, ctx, arena),
            _ => self.done(),
        }
    }

    /// Products of features, then their rows.
    fn features<P: Parallel>(
        &mut self,
        stack: &Stack<InPlace<'_>>,
        ctx: &Context<'_, P>,
        arena: &mut Arena<'_>,
        budget: u64,
    ) -> u64 {
        let Input::Features { linear, class, .. } = &stack.input else {
            self.go(Place::Done);
            return 0;
        };
        if self.place == Place::Features {
            let rows = self.rows - usize::from(class.is_some());
            let w = &linear.matrix;
            let (range, spent) = self.take(w.panels() * rows, PANEL * w.cols(), budget);
            ctx.product(linear, rows, range, arena);
            if self.cursor == w.panels() * rows {
                self.go(Place::Embed);
            }
            return spent;
        }
        let (range, spent) = self.take(self.rows, 4 * self.width, budget);
        let positions = stack.positions.as_ref().map(|table| &table.matrix);
        ctx.embed_features(linear, *class, positions, range, arena);
        if self.cursor == self.rows {
            self.go(Place::Block(stack.blocks.0, Stage::Norm));
        }
        spent
    }

    /// The next stack begins, unless it is a decoder, which waits for its tokens.
    fn enter<P: Parallel>(
        &mut self,
        model: &Model<'_>,
        ctx: &Context<'_, P>,
        arena: &mut Arena<'_>,
    ) -> Result<u64, OpenError> {
        let index = self.stack + 1;
        let next = model.stack(index)?;
        let rows = match &next.input {
            Input::Tokens { .. } | Input::Features { .. } => return self.done(),
            Input::States => self.rows,
            Input::Queries(queries) => {
                let queries = &queries.matrix;
                let rows = arena.residual.chunks_exact_mut(queries.cols()).take(queries.rows());
                rows.enumerate().for_each(|(i, row)| queries.dequantize_row(i, row));
                queries.rows()
            }
        };
        *self = Self::new((index, &next), ctx.setting, 0, rows, self.logits, self.states);
        Ok((rows * self.width) as u64)
    }

    /// Keys and values of the states for one block after the other of the next stack.
    #[inline(never)]
    fn remember<P: Parallel>(
        &mut self,
        model: &Model<'_>,
        ctx: &Context<'_, P>,
        index: u32,
        arena: &mut Arena<'_>,
        budget: u64,
    ) -> Result<u64, OpenError> {
        let next = model.stack(self.stack + 1)?;
        if index >= next.blocks.1 {
            self.place = Place::Enter;
            return Ok(0);
        }
        let block = model.block_at(index, model.width_before(&next, index)?, self.states.1)?;
        let (Some(linear), Some(attention)) = (block.states_product(), block.attention()) else {
            self.place = Place::Keys(index + 1);
            // Looking costs something, too: a stack may have many blocks.
            return Ok(1);
        };
        let stride = ctx.setting.shape(self.stack + 1).stride;
        let w = &linear.matrix;
        if self.place == Place::Keys(index) {
            let (range, spent) = self.take(w.panels() * self.rows, PANEL * w.cols(), budget);
            let memory = (&*arena.codes, &*arena.sums, &*arena.scales);
            let x = activations(memory, linear.inputs, w.cols(), self.rows);
            ctx.units(w, &x, range, arena.wide, stride);
            if self.cursor == w.panels() * self.rows {
                self.go(Place::Store(index));
            }
            return Ok(spent);
        }
        let (range, spent) = self.take(self.rows, 8 * w.rows(), budget);
        let shape = ctx.setting.cache_shape(ctx.setting.shape(self.stack).rows, attention.head_dim);
        for wide in arena.wide[range.start * stride..range.end * stride].chunks_exact_mut(stride) {
            if let Some(bias) = linear.bias {
                ctx.isa.add(&mut wide[..w.rows()], bias);
            }
            if attention.head_inputs == Inputs::Transformed {
                let keys = &mut wide[attention.keys()];
                keys.chunks_exact_mut(attention.head_dim).for_each(|key| ctx.isa.transform(key));
            }
        }
        let wide = &arena.wide[range.start * stride..range.end * stride];
        let caches = (&mut *arena.cross_codes, &mut *arena.cross_scales);
        ctx.store(attention, shape, self.cross, range.start, (wide, stride, 0), caches);
        if self.cursor == self.rows {
            self.cross.0 += attention.kv_heads * shape.codes();
            self.cross.1 += attention.kv_heads * shape.scales();
            self.go(Place::Keys(index + 1));
        }
        Ok(spent)
    }
}

impl<P: Parallel> Context<'_, P> {
    /// Rows of features' products become the first rows of the stream.
    pub(super) fn embed_features(
        &self,
        linear: &Linear<'_>,
        class: Option<&[f32]>,
        positions: Option<&Matrix<'_>>,
        rows: Range<usize>,
        arena: &mut Arena<'_>,
    ) {
        let (width, stride) = (self.run.width, self.stride);
        let skipped = usize::from(class.is_some());
        for row in rows {
            let to = &mut arena.residual[row * width..][..width];
            match (row.checked_sub(skipped), class) {
                (None, Some(class)) => to.copy_from_slice(class),
                (at, _) => {
                    to.copy_from_slice(&arena.wide[at.unwrap_or(row) * stride..][..width]);
                    if let Some(bias) = linear.bias {
                        self.isa.add(to, bias);
                    }
                }
            }
            if let Some(positions) = positions {
                positions.add_row(row, to);
            }
        }
    }
}
