//! The forward pass as steps that can stop anywhere.
//!
//! Stacks run one after the other. Each block goes through [`Stage`]s, and each stage through units
//! (a row, a panel of 16 outputs, a head); a cursor says which unit is next. All state between
//! steps lies in the arena and in [`Run`].

use core::ops::Range;

use kinglet_kernels::cache::{self, CacheShape, Head, MAX_HEAD_DIM};
use kinglet_kernels::layout::PANEL;
use kinglet_kernels::{
    Activation, Activations, ActivationsMut, Isa, Matrix, Sight as View, scalar,
};

use super::arena::Arena;
use super::families;
use crate::format::layout::pooling;
use crate::format::{
    Attention, Block, FAMILIES, Input, Inputs, Join, Linear, Middle, Model, Norm, OpenError,
    Output, Sight, Stack,
};
use crate::parallel::{Divide, Parallel, Units, split, split_uneven};
use crate::plan::{Options, Plan, Shape, Shapes};

/// What a block does, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Norm and quantize each row of the residual stream.
    Norm,
    /// Query, key and value; or gate and up. A unit is a panel.
    Input,
    /// Attention: biases, head norms, rotation, and keys and values into the cache. Feed-forward:
    /// activation. A unit is a row.
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
    /// Products of features. A unit is a panel.
    Features,
    /// Class token, biases and positions. A unit is a row.
    Embed,
    Block(u32, Stage),
    /// The norm behind a stack whose states are looked at, in place.
    StackNorm,
    /// Quantize the states for those who look at them.
    States,
    /// Keys and values of the states for this block. A unit is a panel.
    Keys(u32),
    /// Biases, and into the cache. A unit is a row.
    Store(u32),
    /// The next stack begins.
    Enter,
    /// One row of all.
    Pool,
    /// Norm and quantize the rows whose outputs are wanted.
    FinalNorm,
    /// A unit is a panel.
    Dense,
    /// Bias and activation. A unit is a row.
    Activate,
    /// A unit is a panel of the head.
    Head,
    /// Bias and length. A unit is a row.
    Finish,
    Done,
}

/// A run of some rows, from one step to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    place: Place,
    cursor: usize,
    /// The present stack, and the end of its blocks.
    stack: u32,
    end: u32,
    /// Width of the stream.
    width: usize,
    /// Position of the first row.
    start: usize,
    rows: usize,
    /// Each row belongs to another target, all at the same position.
    apart: bool,
    logits: usize,
    /// Rows and width of the states of the stack before.
    memory: (usize, usize),
    /// Where the present block's caches start among the codes and scales of all.
    cache: (usize, usize),
    cross: (usize, usize),
}

/// The parts of a session that do not change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) isa: Isa,
    pub(super) options: Options,
    pub(super) stacks: Shapes,
    /// Codes and scales of one target's cache.
    pub(super) target: (usize, usize),
    pub(super) is_decoder: bool,
    /// The last stack.
    last: u32,
    /// Numbers of an output.
    pub(super) outputs: usize,
}

impl Setting {
    pub(super) fn new(model: &Model<'_>, plan: &Plan, isa: Isa) -> Self {
        let (options, stacks, target) = (plan.options(), plan.stacks, plan.target);
        let (is_decoder, last, outputs) = (model.is_decoder(), model.stacks() - 1, model.vocab());
        Self { isa, options, stacks, target, is_decoder, last, outputs }
    }

    fn cache_shape(&self, positions: usize, head_dim: usize) -> CacheShape {
        CacheShape::new(positions, head_dim, self.options.values)
    }

    fn shape(&self, stack: u32) -> Shape {
        self.stacks.get(stack as usize).copied().unwrap_or_default()
    }
}

/// What every step needs.
struct Context<'c, P> {
    isa: Isa,
    parallel: &'c P,
    run: Run,
    setting: &'c Setting,
    /// Columns of `wide`.
    stride: usize,
    /// Positions in the cache of a head, and in that of the states.
    positions: (usize, usize),
}

impl Run {
    /// A run of `rows` rows of a stack; `memory` are rows and width of the states before it.
    pub(super) fn new(
        stack: (u32, &Stack<'_>),
        setting: &Setting,
        start: usize,
        rows: usize,
        logits: usize,
        memory: (usize, usize),
    ) -> Self {
        let (index, stack) = stack;
        Self {
            place: Place::Block(stack.blocks.0, Stage::Norm),
            cursor: 0,
            stack: index,
            end: stack.blocks.1,
            width: stack.record.width as usize,
            start,
            rows,
            apart: false,
            logits,
            memory,
            cache: (0, 0),
            cross: setting.shape(index).cross,
        }
    }

    /// Each row belongs to another target.
    pub(super) fn set_apart(&mut self) {
        self.apart = true;
    }

    /// Begins with the products of quantized features.
    pub(super) fn set_features(&mut self) {
        self.place = Place::Features;
    }

    pub(super) fn is_done(&self) -> bool {
        self.place == Place::Done
    }

    /// Whether the stack is a decoder's: it goes from token to token.
    pub(super) fn is_target(&self, setting: &Setting) -> bool {
        !FAMILIES || setting.is_decoder && self.stack == setting.last
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Positions by which a target gets longer.
    pub(super) fn positions(&self) -> usize {
        if self.apart { 1 } else { self.rows }
    }

    pub(super) fn logits(&self) -> usize {
        self.logits
    }

    /// The hidden state that is complete now: before the first unit of a block, and before the end
    /// of a stack. No other step begins there.
    pub(super) fn state(&self) -> Option<u32> {
        match self.place {
            Place::Block(index, Stage::Norm) if self.cursor == 0 => Some(index + self.stack),
            _ => None,
        }
    }

    /// Does as many units of the present stage as `budget` allows, at least one, and returns their
    /// cost.
    pub(super) fn step<P: Parallel>(
        &mut self,
        model: &Model<'_>,
        parallel: &P,
        setting: &Setting,
        arena: &mut Arena<'_>,
        budget: u64,
    ) -> Result<u64, OpenError> {
        let target = self.is_target(setting);
        let shape = setting.shape(self.stack);
        let before =
            if FAMILIES && self.stack > 0 { setting.shape(self.stack - 1).rows } else { 0 };
        let own = if target { setting.options.context } else { shape.rows };
        let ctx = Context {
            isa: setting.isa,
            parallel,
            run: *self,
            setting,
            stride: shape.stride,
            positions: (own, before),
        };
        match self.place {
            Place::Block(index, _) if index >= self.end => {
                let last = self.stack == setting.last;
                let pools = FAMILIES && model.record().pooling != pooling::NONE;
                self.place = match (target, last) {
                    (true, _) if self.logits == 0 => Place::Done,
                    (true, _) => Place::FinalNorm,
                    (_, true) if !pools => Place::FinalNorm,
                    _ if model.stack(self.stack)?.norm.is_some() => Place::StackNorm,
                    (_, true) => Place::Pool,
                    _ => Place::States,
                };
                Ok(0)
            }
            Place::Block(index, stage) => {
                let block = model.block_at(index, self.width, self.memory.1)?;
                let (units, cost) = ctx.size(&block, stage);
                let (range, spent) = self.take(units, cost, budget);
                ctx.block_stage(&block, stage, range, arena);
                if self.cursor == units {
                    self.next(&block, index, stage, &ctx);
                }
                Ok(spent)
            }
            Place::FinalNorm => {
                let norm = model.last()?.norm;
                let pools = FAMILIES && model.record().pooling != pooling::NONE;
                let first = if pools { 0 } else { self.rows - self.logits };
                let (range, spent) = self.take(self.logits, self.width, budget);
                let norm = norm.filter(|_| !pools);
                let inputs = match model.output()? {
                    Output { dense: Some((dense, _)), .. } if FAMILIES => dense.inputs,
                    Output { head, .. } => head.map_or(Inputs::Plain, |head| head.inputs),
                };
                let norms = (norm.as_ref(), None, inputs);
                ctx.norm_rows(norms, first + range.start, range.clone(), self.logits, arena);
                let mut next = Place::Head;
                if FAMILIES {
                    let output = model.output()?;
                    next = match (output.dense, output.head) {
                        (Some(_), _) => Place::Dense,
                        (None, None) => Place::Finish,
                        (None, Some(_)) => Place::Head,
                    };
                    if next == Place::Finish {
                        ctx.copy_out(range, self.width, arena);
                    }
                }
                if self.cursor == self.logits {
                    (self.place, self.cursor) = (next, 0);
                }
                Ok(spent)
            }
            Place::Head => {
                let output = model.output()?;
                let Some(Linear { matrix: head, bias, inputs }) = output.head else {
                    return self.done();
                };
                let (range, spent) =
                    self.take(head.panels(), PANEL * head.cols() * self.logits, budget);
                let x = activations(
                    (arena.codes, arena.sums, arena.scales),
                    inputs,
                    head.cols(),
                    self.logits,
                );
                ctx.matmul(&head, &x, range, arena.logits, head.rows());
                if self.cursor == head.panels() {
                    let more = FAMILIES && (bias.is_some() || output.normalize);
                    (self.place, self.cursor) = (if more { Place::Finish } else { Place::Done }, 0);
                }
                Ok(spent)
            }
            Place::Done => Ok(0),
            _ if !FAMILIES => self.done(),
            _ => self.other(model, &ctx, arena, budget),
        }
    }

    fn done(&mut self) -> Result<u64, OpenError> {
        self.place = Place::Done;
        Ok(0)
    }

    /// What only models of several stacks, and encoders, go through. Its views are not on the stack
    /// of [`Run::step`].
    #[inline(never)]
    fn other<P: Parallel>(
        &mut self,
        model: &Model<'_>,
        ctx: &Context<'_, P>,
        arena: &mut Arena<'_>,
        budget: u64,
    ) -> Result<u64, OpenError> {
        let stack = model.stack(self.stack)?;
        match self.place {
            Place::Features => {
                let Input::Features { linear, class, .. } = &stack.input else {
                    return self.done();
                };
                let rows = self.rows - usize::from(class.is_some());
                let w = &linear.matrix;
                let (range, spent) = self.take(w.panels(), PANEL * w.cols() * rows, budget);
                let x = activations(
                    (arena.codes, arena.sums, arena.scales),
                    linear.inputs,
                    w.cols(),
                    rows,
                );
                ctx.matmul(w, &x, range, arena.wide, ctx.stride);
                if self.cursor == w.panels() {
                    (self.place, self.cursor) = (Place::Embed, 0);
                }
                Ok(spent)
            }
            Place::Embed => {
                let Input::Features { linear, class, .. } = &stack.input else {
                    return self.done();
                };
                let (range, spent) = self.take(self.rows, 4 * self.width, budget);
                ctx.embed_features(linear, *class, stack.positions.as_ref(), range, arena);
                if self.cursor == self.rows {
                    (self.place, self.cursor) = (Place::Block(stack.blocks.0, Stage::Norm), 0);
                }
                Ok(spent)
            }
            Place::StackNorm => {
                let Some(norm) = stack.norm else { return self.done() };
                let pools = self.stack == ctx.setting.last;
                let rows =
                    if pools && model.record().pooling == pooling::FIRST { 1 } else { self.rows };
                let (range, spent) = self.take(rows, self.width, budget);
                ctx.norm_in_place(&norm, range, arena);
                if self.cursor == rows {
                    (self.place, self.cursor) =
                        (if pools { Place::Pool } else { Place::States }, 0);
                }
                Ok(spent)
            }
            Place::States => {
                let (range, spent) = self.take(self.rows, self.width, budget);
                let inputs = states_inputs(model, self.stack + 1, self.width)?;
                ctx.norm_rows((None, None, inputs), range.start, range, self.rows, arena);
                if self.cursor == self.rows {
                    let next = model.stack(self.stack + 1)?;
                    // From here on the states are memory.
                    self.memory = (self.rows, self.width);
                    self.cross = ctx.setting.shape(self.stack + 1).cross;
                    (self.place, self.cursor) = (Place::Keys(next.blocks.0), 0);
                }
                Ok(spent)
            }
            Place::Keys(index) | Place::Store(index) => {
                self.remember(model, ctx, index, arena, budget)
            }
            Place::Enter => {
                let next = model.stack(self.stack + 1)?;
                let index = self.stack + 1;
                let rows = match &next.input {
                    // A decoder waits for its tokens.
                    Input::Tokens { .. } | Input::Features { .. } => return self.done(),
                    Input::States => self.rows,
                    Input::Queries(queries) => {
                        let rows =
                            arena.residual.chunks_exact_mut(queries.cols()).take(queries.rows());
                        rows.enumerate().for_each(|(i, row)| queries.dequantize_row(i, row));
                        queries.rows()
                    }
                };
                *self = Self::new((index, &next), ctx.setting, 0, rows, self.logits, self.memory);
                Ok((rows * self.width) as u64)
            }
            Place::Pool => {
                ctx.pool(model.record().pooling, arena);
                (self.place, self.cursor) = (Place::FinalNorm, 0);
                Ok((self.rows * self.width) as u64)
            }
            Place::Dense => {
                let Some((Linear { matrix, inputs, .. }, _)) = model.output()?.dense else {
                    return self.done();
                };
                let (range, spent) =
                    self.take(matrix.panels(), PANEL * matrix.cols() * self.logits, budget);
                let x = activations(
                    (arena.codes, arena.sums, arena.scales),
                    inputs,
                    matrix.cols(),
                    self.logits,
                );
                ctx.matmul(&matrix, &x, range, arena.wide, ctx.stride);
                if self.cursor == matrix.panels() {
                    (self.place, self.cursor) = (Place::Activate, 0);
                }
                Ok(spent)
            }
            Place::Activate => {
                let output = model.output()?;
                let Some((Linear { matrix, bias, .. }, activation)) = output.dense else {
                    return self.done();
                };
                let (range, spent) = self.take(self.logits, 8 * matrix.rows(), budget);
                ctx.activate(matrix.rows(), bias, None, activation, range.clone(), arena);
                if output.head.is_none() {
                    ctx.copy_out(range, matrix.rows(), arena);
                } else {
                    let width = matrix.rows();
                    let inputs = output.head.map_or(Inputs::Plain, |head| head.inputs);
                    let memory = (&mut *arena.codes, &mut *arena.sums, &mut *arena.scales);
                    let to = rows_of(memory, inputs, width, self.logits, range.clone());
                    ctx.quantize(&mut arena.wide[range.start * ctx.stride..], width, inputs, to);
                }
                if self.cursor == self.logits {
                    (self.place, self.cursor) =
                        (if output.head.is_none() { Place::Finish } else { Place::Head }, 0);
                }
                Ok(spent)
            }
            Place::Finish => {
                let output = model.output()?;
                let width = ctx.setting.outputs;
                let (range, spent) = self.take(self.logits, 2 * width, budget);
                let bias = output.head.and_then(|head| head.bias);
                ctx.finish(bias, output.normalize, width, range, arena);
                if self.cursor == self.logits { self.done().map(|_| spent) } else { Ok(spent) }
            }
            _ => self.done(),
        }
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
        // Blocks that replace change the width of those behind them.
        let mut width = next.record.width as usize;
        for before in next.blocks.0..index {
            width = model.block_at(before, width, self.memory.1)?.output.matrix.rows();
        }
        let block = model.block_at(index, width, self.memory.1)?;
        let Middle::Attention(attention) = &block.middle else {
            self.place = Place::Keys(index + 1);
            return Ok(0);
        };
        let Sight::Cross(linear) = &attention.sight else {
            self.place = Place::Keys(index + 1);
            return Ok(0);
        };
        let stride = ctx.setting.shape(self.stack + 1).stride;
        let w = &linear.matrix;
        if self.place == Place::Keys(index) {
            let (range, spent) = self.take(w.panels(), PANEL * w.cols() * self.rows, budget);
            let x = activations(
                (arena.codes, arena.sums, arena.scales),
                linear.inputs,
                w.cols(),
                self.rows,
            );
            ctx.matmul(w, &x, range, arena.wide, stride);
            if self.cursor == w.panels() {
                (self.place, self.cursor) = (Place::Store(index), 0);
            }
            return Ok(spent);
        }
        let (range, spent) = self.take(self.rows, 8 * w.rows(), budget);
        let shape = ctx.cache_shape(ctx.setting.shape(self.stack).rows, attention.head_dim);
        for wide in arena.wide[range.start * stride..range.end * stride].chunks_exact_mut(stride) {
            if let Some(bias) = linear.bias {
                ctx.isa.add(&mut wide[..w.rows()], bias);
            }
            if attention.heads_inputs == Inputs::Transformed {
                let keys = &mut wide[..attention.kv_heads * attention.head_dim];
                keys.chunks_exact_mut(attention.head_dim).for_each(|key| ctx.isa.transform(key));
            }
        }
        let wide = &arena.wide[range.start * stride..range.end * stride];
        let caches = (&mut *arena.cross_codes, &mut *arena.cross_scales);
        ctx.store(attention, shape, self.cross, range.start, (wide, stride, 0), caches);
        if self.cursor == self.rows {
            self.cross.0 += attention.kv_heads * shape.codes();
            self.cross.1 += attention.kv_heads * shape.scales();
            (self.place, self.cursor) = (Place::Keys(index + 1), 0);
        }
        Ok(spent)
    }

    /// Advances the cursor by the units that `budget` pays for.
    fn take(&mut self, units: usize, cost: usize, budget: u64) -> (Range<usize>, u64) {
        let cost = cost.max(1);
        // Small cores divide 64 bits by a KiB of code. A budget that is larger is used up in
        // several steps.
        let affordable = (usize::try_from(budget).unwrap_or(usize::MAX) / cost).max(1);
        let start = self.cursor;
        self.cursor = start.saturating_add(affordable).min(units);
        (start..self.cursor, cost as u64 * (self.cursor - start) as u64)
    }

    fn next<P>(&mut self, block: &Block<'_>, index: u32, stage: Stage, ctx: &Context<'_, P>) {
        let attention = match &block.middle {
            Middle::Attention(attention) => Some(attention),
            _ => None,
        };
        let next = match stage {
            Stage::Norm if FAMILIES && block.input().is_none() => Stage::Output,
            Stage::Norm => Stage::Input,
            Stage::Input => Stage::Prepare,
            Stage::Prepare if attention.is_some() => Stage::Attend,
            Stage::Prepare | Stage::Attend => Stage::Quantize,
            Stage::Quantize => Stage::Output,
            Stage::Output => Stage::Add,
            Stage::Add => Stage::Norm,
        };
        self.cursor = 0;
        self.place = Place::Block(index + u32::from(stage == Stage::Add), next);
        if stage != Stage::Add {
            return;
        }
        self.width = block.output.matrix.rows();
        let Some(a) = attention else { return };
        let move_on = |at: &mut (usize, usize), positions| {
            let shape = ctx.setting.cache_shape(positions, a.head_dim);
            at.0 += a.kv_heads * shape.codes();
            at.1 += a.kv_heads * shape.scales();
        };
        match a.sight {
            Sight::Earlier => move_on(&mut self.cache, ctx.positions.0),
            // Nobody looks at a source's keys again: the next block writes over them.
            Sight::All => {}
            Sight::Cross(_) => move_on(&mut self.cross, ctx.positions.1),
        }
    }
}

impl<P: Parallel> Context<'_, P> {
    /// Units of a stage, and what one costs in multiply-accumulates or so.
    fn size(&self, block: &Block<'_>, stage: Stage) -> (usize, usize) {
        let rows = self.run.rows;
        let panel = |w: &Matrix<'_>| (w.panels(), PANEL * w.cols() * rows);
        let input = block.input().map(|input| &input.matrix);
        match stage {
            Stage::Norm => (rows, self.run.width),
            Stage::Input => input.map_or((0, 1), panel),
            Stage::Prepare => (rows, 8 * input.map_or(0, Matrix::rows)),
            Stage::Attend => {
                let (heads, kv_heads) =
                    (usize::from(block.record.heads), usize::from(block.record.kv_heads));
                let seen = match &block.middle {
                    Middle::Attention(a) if matches!(a.sight, Sight::Cross(_)) => self.run.memory.0,
                    _ => self.run.start + rows,
                };
                (
                    rows * kv_heads,
                    4 * block.record.head_dim as usize * seen * heads.div_ceil(kv_heads.max(1)),
                )
            }
            Stage::Quantize => (rows, block.output.matrix.cols()),
            Stage::Output => panel(&block.output.matrix),
            Stage::Add => (rows, block.output.matrix.rows()),
        }
    }

    fn block_stage(
        &self,
        block: &Block<'_>,
        stage: Stage,
        units: Range<usize>,
        arena: &mut Arena<'_>,
    ) {
        let (stride, rows) = (self.stride, self.run.rows);
        match stage {
            Stage::Norm => {
                let stream = match &block.join {
                    Join::Post(norm) => Some(norm),
                    _ => None,
                };
                let inputs = block.input().unwrap_or(&block.output).inputs;
                self.norm_rows(
                    (block.norm.as_ref(), stream, inputs),
                    units.start,
                    units,
                    rows,
                    arena,
                );
            }
            Stage::Input | Stage::Output => {
                let input = block.input().filter(|_| stage == Stage::Input);
                let Linear { matrix: w, inputs, .. } = input.unwrap_or(&block.output);
                let x =
                    activations((arena.codes, arena.sums, arena.scales), *inputs, w.cols(), rows);
                self.matmul(w, &x, units, arena.wide, stride);
            }
            Stage::Prepare => match &block.middle {
                Middle::Attention(a) => self.prepare(a, units, arena),
                Middle::FeedForward { input, inner, gated, activation } => {
                    self.activate(*inner, input.bias, Some(*gated), *activation, units, arena);
                }
                Middle::Projection => {}
            },
            Stage::Attend => {
                if let Middle::Attention(a) = &block.middle {
                    self.attend(a, units, arena);
                }
            }
            Stage::Quantize => {
                let width = block.output.matrix.cols();
                let inputs = block.output.inputs;
                let memory = (&mut *arena.codes, &mut *arena.sums, &mut *arena.scales);
                let to = rows_of(memory, inputs, width, rows, units.clone());
                self.quantize(&mut arena.wide[units.start * stride..], width, inputs, to);
            }
            Stage::Add => {
                let width = block.output.matrix.rows();
                let branches = Units {
                    items: &mut arena.wide[units.start * stride..units.end * stride],
                    size: stride,
                };
                let rows = Units {
                    items: &mut arena.residual[units.start * width..units.end * width],
                    size: width,
                };
                split(self.parallel, width, (branches, rows), &|_, (branches, rows)| {
                    for (branch, row) in branches
                        .items
                        .chunks_exact_mut(stride)
                        .zip(rows.items.chunks_exact_mut(width))
                    {
                        let branch = &mut branch[..width];
                        if let Some(bias) = block.output.bias {
                            self.isa.add(branch, bias);
                        }
                        if FAMILIES && matches!(block.join, Join::Replace) {
                            row.copy_from_slice(branch);
                        } else {
                            self.isa.add(row, branch);
                        }
                    }
                });
            }
        }
    }

    /// Quantizes the first `width` values of rows of `wide`.
    fn quantize(&self, wide: &mut [f32], width: usize, inputs: Inputs, to: ActivationsMut<'_>) {
        let stride = self.stride;
        let wide = Units { items: &mut wide[..to.rows() * stride], size: stride };
        split(self.parallel, QUANTIZE * width, (wide, to), &|_, (wide, mut to)| {
            for (row, wide) in wide.items.chunks_exact_mut(stride).enumerate() {
                quantize_row(self.isa, &mut wide[..width], inputs, &mut to, row);
            }
        });
    }

    /// The cache of a key/value head.
    fn cache_shape(&self, positions: usize, head_dim: usize) -> CacheShape {
        self.setting.cache_shape(positions, head_dim)
    }

    fn norm(&self, norm: &Norm<'_>, x: &[f32], out: &mut [f32]) {
        match norm.bias {
            Some(bias) if norm.is_layer() => families::layer_norm(self.isa, norm, bias, x, out),
            _ => self.isa.rms_norm(x, norm.weight, norm.eps, out),
        }
    }

    /// Norms rows of the residual stream, the first is row `from`, and quantizes them as the rows
    /// `to` of `rows` for a product with such inputs; as they are where nothing changes them, they
    /// also stay in the first rows of `wide`. The stream itself takes the second norm, if there is
    /// one.
    fn norm_rows(
        &self,
        (norm, stream, inputs): (Option<&Norm<'_>>, Option<&Norm<'_>>, Inputs),
        from: usize,
        to: Range<usize>,
        rows: usize,
        arena: &mut Arena<'_>,
    ) {
        let (width, stride) = (self.run.width, self.stride);
        let residual =
            Units { items: &mut arena.residual[from * width..][..to.len() * width], size: width };
        let normed = Units { items: &mut arena.wide[..to.len() * stride], size: stride };
        let x = rows_of((arena.codes, arena.sums, arena.scales), inputs, width, rows, to);
        split(self.parallel, 2 * QUANTIZE * width, ((normed, residual), x), &|_,
                                                                              (
            (normed, residual),
            mut x,
        )| {
            let pairs =
                normed.items.chunks_exact_mut(stride).zip(residual.items.chunks_exact_mut(width));
            for (row, (normed, residual)) in pairs.enumerate() {
                let normed = &mut normed[..width];
                match norm {
                    Some(norm) => self.norm(norm, residual, normed),
                    None => normed.copy_from_slice(residual),
                }
                quantize_row(self.isa, normed, inputs, &mut x, row);
                if let Some(stream) = stream.filter(|_| FAMILIES) {
                    self.norm(stream, residual, normed);
                    residual.copy_from_slice(normed);
                }
            }
        });
    }

    /// Norms rows of the residual stream in place.
    fn norm_in_place(&self, norm: &Norm<'_>, rows: Range<usize>, arena: &mut Arena<'_>) {
        let (width, stride) = (self.run.width, self.stride);
        let residual =
            Units { items: &mut arena.residual[rows.start * width..rows.end * width], size: width };
        let normed = Units { items: &mut arena.wide[..rows.len() * stride], size: stride };
        split(self.parallel, 2 * QUANTIZE * width, (normed, residual), &|_, (normed, residual)| {
            let pairs =
                normed.items.chunks_exact_mut(stride).zip(residual.items.chunks_exact_mut(width));
            for (normed, residual) in pairs {
                self.norm(norm, residual, &mut normed[..width]);
                residual.copy_from_slice(&normed[..width]);
            }
        });
    }

    /// The panels `panels` of `w` times all rows of `x`. One row is divided by panels, several by
    /// rows.
    fn matmul(
        &self,
        w: &Matrix<'_>,
        x: &Activations<'_>,
        panels: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
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

    /// Biases, head norms and rotation in place; keys and values into the cache. Apart from
    /// [`Run::step`], so that the rotations are not on the stack below attention.
    #[inline(never)]
    fn prepare(&self, a: &Attention<'_>, rows: Range<usize>, arena: &mut Arena<'_>) {
        let (dim, queries, stride) = (a.head_dim, a.heads * a.head_dim, self.stride);
        let across = matches!(a.sight, Sight::Cross(_));
        let all = if across { queries } else { queries + a.kv_rows() };
        let turned = if across { queries } else { queries + a.kv_heads * dim };
        let position =
            |row: usize| if self.run.apart { self.run.start } else { self.run.start + row };
        let wide =
            Units { items: &mut arena.wide[rows.start * stride..rows.end * stride], size: stride };
        split(self.parallel, 4 * all, wide, &|first, wide| {
            for (row, wide) in wide.items.chunks_exact_mut(stride).enumerate() {
                if let Some(bias) = a.input.bias {
                    self.isa.add(&mut wide[..all], bias);
                }
                let mut rotation = [[0.0; MAX_HEAD_DIM / 2]; 2];
                let [cos, sin] = rotate(a, position(rows.start + first + row), &mut rotation);
                for (i, head) in wide[..turned].chunks_exact_mut(dim).enumerate() {
                    self.norm_head(
                        if i < a.heads { a.query_norm } else { a.key_norm },
                        a.head_norm_eps,
                        head,
                    );
                    self.isa.rope(head, cos, sin);
                    if a.heads_inputs == Inputs::Transformed {
                        self.isa.transform(head);
                    }
                }
            }
        });
        if across {
            return;
        }
        let shape = self.cache_shape(self.positions.0, dim);
        let at = |row: usize| (&arena.wide[row * stride..], stride, queries);
        let caches = (&mut *arena.cache_codes, &mut *arena.cache_scales);
        if FAMILIES && self.run.apart {
            for row in rows {
                let (wide, stride, first) = at(row);
                let caches = (&mut *caches.0, &mut *caches.1);
                self.store(
                    a,
                    shape,
                    self.cache_of(row),
                    self.run.start,
                    (&wide[..stride], stride, first),
                    caches,
                );
            }
        } else {
            let (wide, stride, first) = at(rows.start);
            let wide = &wide[..rows.len() * stride];
            self.store(
                a,
                shape,
                self.run.cache,
                self.run.start + rows.start,
                (wide, stride, first),
                caches,
            );
        }
    }

    /// Where the present block's cache of the target of `row` starts.
    fn cache_of(&self, row: usize) -> (usize, usize) {
        let target = if FAMILIES && self.run.apart { row } else { 0 };
        let (codes, scales) = self.setting.target;
        (self.run.cache.0 + target * codes, self.run.cache.1 + target * scales)
    }

    /// Keys and values of the rows `wide`, from column `first` on, into caches that start at `at`,
    /// for positions from `position` on.
    fn store(
        &self,
        a: &Attention<'_>,
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

    fn norm_head(&self, norm: Option<&[f32]>, eps: f32, head: &mut [f32]) {
        if let Some(norm) = norm {
            let mut copy = [0.0; MAX_HEAD_DIM];
            let copy = &mut copy[..head.len()];
            copy.copy_from_slice(head);
            self.isa.rms_norm(copy, norm, eps, head);
        }
    }

    /// Replaces queries by their attention. Unit `u` are the queries of row `u / kv_heads` that
    /// share key/value head `u % kv_heads`.
    fn attend(&self, a: &Attention<'_>, units: Range<usize>, arena: &mut Arena<'_>) {
        let across = matches!(a.sight, Sight::Cross(_));
        let (codes, scales, positions) = match across {
            true => (&*arena.cross_codes, &*arena.cross_scales, self.positions.1),
            false => (&*arena.cache_codes, &*arena.cache_scales, self.positions.0),
        };
        let shape = self.cache_shape(positions, a.head_dim);
        let heads = a.heads / a.kv_heads;
        let width = heads * a.head_dim;
        let (stride, rows) = (self.stride, self.run.rows);
        let each = a.relative.len() / a.heads;
        // The queries of key/value head `kv`, in rows from `row`.
        let attend = |row: usize, kv: usize, q: &mut [f32]| {
            let at = if across { self.run.cross } else { self.cache_of(row) };
            let codes = &codes[at.0 + kv * shape.codes()..][..shape.codes()];
            let scales = &scales[at.1 + kv * shape.scales()..][..shape.scales()];
            let first = self.run.start + if self.run.apart { 0 } else { row };
            let view = match a.sight {
                Sight::Earlier => View::earlier(first + 1),
                Sight::All => families::all(rows),
                Sight::Cross(_) => families::all(self.run.memory.0),
            };
            let view = families::by_distance(
                view,
                &a.relative[kv * heads * each..(kv + 1) * heads * each],
                first,
            );
            self.isa.attend(
                &Head::new(shape, codes, scales),
                view,
                a.score_scale,
                q,
                heads,
                stride,
            );
        };
        let seen = if across { self.run.memory.0 } else { self.run.start + rows };
        let cost = 2 * width * seen;
        if units == (0..rows * a.kv_heads) && rows > 1 && !self.run.apart {
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

    /// Gate and up become `activation(gate) * up`; without a gate, up becomes its activation.
    fn activate(
        &self,
        inner: usize,
        bias: Option<&[f32]>,
        gated: Option<bool>,
        activation: Activation,
        rows: Range<usize>,
        arena: &mut Arena<'_>,
    ) {
        let stride = self.stride;
        let gated = !FAMILIES || gated.unwrap_or_default();
        let wide =
            Units { items: &mut arena.wide[rows.start * stride..rows.end * stride], size: stride };
        split(self.parallel, 8 * inner, wide, &|_, wide| {
            for wide in wide.items.chunks_exact_mut(stride) {
                let all = &mut wide[..if gated { 2 * inner } else { inner }];
                if let Some(bias) = bias {
                    self.isa.add(all, bias);
                }
                let (gate, up) = all.split_at_mut(inner);
                if gated && (!FAMILIES || activation == Activation::Silu) {
                    self.isa.silu_mul(gate, up);
                } else {
                    families::activate(self.isa, activation, gate, gated.then_some(&*up));
                }
            }
        });
    }

    /// Rows of features' products become the first rows of the stream.
    fn embed_features(
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

    /// Pools all rows of the stream to the first.
    fn pool(&self, kind: u8, arena: &mut Arena<'_>) {
        let (width, rows) = (self.run.width, self.run.rows);
        let (pooled, others) = arena.residual[..rows * width].split_at_mut(width);
        for row in others.chunks_exact(width) {
            match kind {
                pooling::MEAN => self.isa.add(pooled, row),
                pooling::MAX => {
                    pooled.iter_mut().zip(row).for_each(|(m, &x)| *m = if x > *m { x } else { *m })
                }
                _ => return,
            }
        }
        if kind == pooling::MEAN {
            let part = 1.0 / rows as f32;
            pooled.iter_mut().for_each(|x| *x *= part);
        }
    }

    /// Rows of `wide` are outputs. After [`Self::norm_rows`] they are the first rows, otherwise
    /// those of their numbers.
    fn copy_out(&self, rows: Range<usize>, width: usize, arena: &mut Arena<'_>) {
        let first = if self.run.place == Place::FinalNorm { 0 } else { rows.start };
        let from = arena.wide[first * self.stride..].chunks_exact(self.stride);
        for (to, from) in
            arena.logits[rows.start * width..rows.end * width].chunks_exact_mut(width).zip(from)
        {
            to.copy_from_slice(&from[..width]);
        }
    }

    fn finish(
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

/// What the states before stack `index` go through for the blocks that look at them: the same for
/// all.
fn states_inputs(model: &Model<'_>, index: u32, states: usize) -> Result<Inputs, OpenError> {
    let stack = model.stack(index)?;
    let mut width = stack.record.width as usize;
    for at in stack.blocks.0..stack.blocks.1 {
        let block = model.block_at(at, width, states)?;
        if let Middle::Attention(Attention { sight: Sight::Cross(memory), .. }) = &block.middle {
            return Ok(memory.inputs);
        }
        width = block.output.matrix.rows();
    }
    Ok(Inputs::Plain)
}

/// Quantizes a row for a product with such inputs; it is transformed in place, or left as what the
/// first plane leaves out.
pub(super) fn quantize_row(
    isa: Isa,
    x: &mut [f32],
    inputs: Inputs,
    to: &mut ActivationsMut<'_>,
    row: usize,
) {
    if inputs == Inputs::Transformed {
        isa.transform(x);
    }
    if FAMILIES && inputs == Inputs::Planes {
        families::quantize_planes(isa, x, to, row);
    } else {
        isa.quantize(x, to, row);
    }
}

/// The time to quantize a value, in multiply-accumulates.
const QUANTIZE: usize = 4;

/// All `rows` rows of activations of `cols` values, as a product with such inputs reads them.
fn activations<'a>(
    (codes, sums, scales): (&'a [i8], &'a [i16], &'a [f32]),
    inputs: Inputs,
    cols: usize,
    rows: usize,
) -> Activations<'a> {
    families::planes(Activations::new(codes, sums, &scales[..rows * inputs.planes()], cols), inputs)
}

/// Memory for some of the `all` rows of activations of `cols` values, for a product with such
/// inputs.
pub(super) fn rows_of<'a>(
    (codes, sums, scales): (&'a mut [i8], &'a mut [i16], &'a mut [f32]),
    inputs: Inputs,
    cols: usize,
    all: usize,
    rows: Range<usize>,
) -> ActivationsMut<'a> {
    let all = ActivationsMut::new(codes, sums, &mut scales[..all * inputs.planes()], cols);
    families::planes_mut(all, inputs).split_at(rows.end).0.split_at(rows.start).1
}

/// Cosines and sines of the rotations at `position`.
fn rotate<'r>(
    a: &Attention<'_>,
    position: usize,
    to: &'r mut [[f32; MAX_HEAD_DIM / 2]; 2],
) -> [&'r [f32]; 2] {
    let [cos, sin] = to;
    for ((c, s), &step) in cos.iter_mut().zip(sin.iter_mut()).zip(a.rope) {
        let (sine, cosine) = scalar::sin_cos(step.wrapping_mul(position as u32));
        (*c, *s) = (cosine * a.rope_magnitude, sine * a.rope_magnitude);
    }
    [&cos[..a.rope.len()], &sin[..a.rope.len()]]
}
