//! The output: the states of the last stack become logits, or one pooled row.

use core::ops::Range;

use kinglet_kernels::layout::PANEL;
use kinglet_kernels::scalar;
use kinglet_model::{FAMILIES, Inputs, Model, OpenError, Pooling};

use super::super::arena::Arena;
use super::super::rounding::{activations, rows_of};
use super::{Context, NORM, Place, Run};
use crate::parallel::Parallel;

impl Run {
    /// Norms and quantizes the rows whose outputs are wanted.
    pub(super) fn final_norm<P: Parallel>(
        &mut self,
        model: &Model<'_>,
        ctx: &Context<'_, P>,
        arena: &mut Arena<'_>,
        budget: u64,
    ) -> Result<u64, OpenError> {
        let pools = model.pooling() != Pooling::None;
        // What was pooled was normed before.
        let norm = model.last()?.norm.filter(|_| !pools);
        let first = if pools { 0 } else { self.rows - self.logits };
        let (range, spent) = self.take(self.logits, NORM * self.width, budget);
        let output = model.output()?;
        let inputs = match (output.dense_layer(), &output.head) {
            (Some((dense, _)), _) => dense.inputs,
            (None, Some(head)) => head.inputs,
            (None, None) => Inputs::Rounded,
        };
        let norms = (norm.as_ref(), None, inputs);
        ctx.norm_rows(norms, first + range.start, range.clone(), self.logits, arena);
        let next = match (output.dense_layer(), &output.head) {
            (Some(_), _) => Place::Dense,
            (None, None) if FAMILIES => Place::Finish,
            _ => Place::Head,
        };
        if matches!(next, Place::Finish) {
            ctx.copy_out(range, self.width, arena);
        }
        if self.cursor == self.logits {
            self.go(next);
        }
        Ok(spent)
    }

    /// Panels of the head.
    pub(super) fn head<P: Parallel>(
        &mut self,
        model: &Model<'_>,
        ctx: &Context<'_, P>,
        arena: &mut Arena<'_>,
        budget: u64,
    ) -> Result<u64, OpenError> {
        let output = model.output()?;
        let Some(head) = &output.head else { return self.done() };
        let matrix = &head.matrix;
        let units = matrix.panels() * self.logits;
        let (range, spent) = self.take(units, PANEL * matrix.cols(), budget);
        let memory = (&*arena.codes, &*arena.sums, &*arena.scales);
        let x = activations(memory, head.inputs, matrix.cols(), self.logits);
        ctx.units(matrix, &x, range, arena.logits, matrix.rows());
        if self.cursor == units {
            let more = FAMILIES && (head.bias.is_some() || output.normalize);
            self.go(if more { Place::Finish } else { Place::Done });
        }
        Ok(spent)
    }

    /// What only some outputs go through. Its views are not on the stack of [`Run::step`].
    #[inline(never)]
    pub(super) fn pooled_output<P: Parallel>(
        &mut self,
        model: &Model<'_>,
        ctx: &Context<'_, P>,
        arena: &mut Arena<'_>,
        budget: u64,
    ) -> Result<u64, OpenError> {
        let output = model.output()?;
        match (self.place, output.dense_layer()) {
            (Place::Pool, _) => {
                ctx.pool(output.pooling, arena);
                self.go(Place::FinalNorm);
                Ok((self.rows * self.width) as u64)
            }
            (Place::Dense, Some((dense, _))) => {
                let matrix = &dense.matrix;
                let units = matrix.panels() * self.logits;
                let (range, spent) = self.take(units, PANEL * matrix.cols(), budget);
                ctx.product(dense, self.logits, range, arena);
                if self.cursor == units {
                    self.go(Place::Activate);
                }
                Ok(spent)
            }
            (Place::Activate, Some((dense, activation))) => {
                let width = dense.matrix.rows();
                let (range, spent) = self.take(self.logits, 8 * width, budget);
                ctx.activate(width, dense.bias, None, *activation, range.clone(), arena);
                if let Some(head) = &output.head {
                    let memory = (&mut *arena.codes, &mut *arena.sums, &mut *arena.scales);
                    let to = rows_of(memory, head.inputs, width, self.logits, range.clone());
                    let wide = &mut arena.wide[range.start * ctx.stride..];
                    ctx.quantize(wide, width, head.inputs, to);
                } else {
                    ctx.copy_out(range, width, arena);
                }
                if self.cursor == self.logits {
                    self.go(if output.head.is_none() { Place::Finish } else { Place::Head });
                }
                Ok(spent)
            }
            (Place::Finish, _) => {
                let width = ctx.setting.outputs;
                let (range, spent) = self.take(self.logits, 2 * width, budget);
                let bias = output.head.and_then(|head| head.bias);
                ctx.finish(bias, output.normalize, width, range, arena);
                if self.cursor == self.logits {
                    self.go(Place::Done);
                }
                Ok(spent)
            }
            _ => self.done(),
        }
    }
}

impl<P: Parallel> Context<'_, P> {
    /// Pools all rows of the stream to the first.
    pub(super) fn pool(&self, kind: Pooling, arena: &mut Arena<'_>) {
        let (width, rows) = (self.run.width, self.run.rows);
        let (pooled, others) = arena.residual[..rows * width].split_at_mut(width);
        for row in others.chunks_exact(width) {
            match kind {
                Pooling::Mean => self.isa.add(pooled, row),
                Pooling::Max => {
                    pooled.iter_mut().zip(row).for_each(|(m, &x)| *m = if x > *m { x } else { *m })
                }
                _ => return,
            }
        }
        if kind == Pooling::Mean {
            let part = 1.0 / rows as f32;
            pooled.iter_mut().for_each(|x| *x *= part);
        }
    }

    /// Rows of `wide` are outputs. After [`Self::norm_rows`] they are the first rows, otherwise
    /// those of their numbers.
    pub(super) fn copy_out(&self, rows: Range<usize>, width: usize, arena: &mut Arena<'_>) {
        let first = if self.run.place == Place::FinalNorm { 0 } else { rows.start };
        let from = arena.wide[first * self.stride..].chunks_exact(self.stride);
        for (to, from) in
            arena.logits[rows.start * width..rows.end * width].chunks_exact_mut(width).zip(from)
        {
            to.copy_from_slice(&from[..width]);
        }
    }

    pub(super) fn finish(
        &self,
        bias: Option<&[f32]>,
        normalize: bool,
        width: usize,
        rows: Range<usize>,
        arena: &mut Arena<'_>,
    ) {
        for row in arena.logits[rows.start * width..rows.end * width].chunks_exact_mut(width) {
            if let Some(bias) = bias {
                self.isa.add(row, bias);
            }
            if normalize {
                normalize_row(row);
            }
        }
    }
}

/// Divides a row by its Euclidean length; a row of zeros stays.
fn normalize_row(row: &mut [f32]) {
    let length = scalar::length(row);
    if length > 0.0 {
        let inv = 1.0 / length;
        row.iter_mut().for_each(|x| *x *= inv);
    }
}
