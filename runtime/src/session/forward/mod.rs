//! The forward pass, in steps that can stop anywhere.
//!
//! ```text
//! encoder.rs       features -> embed -+                       +-> stack norm -> states -> keys, store -> enter
//!                                     v                       |   (for each block that looks at them)
//! mod.rs           tokens -> block: norm -> input -> prepare -> attend -> quantize -> output -> add
//!                                                    attention.rs
//!                                                    feed_forward.rs
//! output.rs                           pool -> final norm -> dense -> activate -> head -> finish
//! ```
//!
//! Stacks run one after the other. Each block goes through [`Stage`]s, and each stage through units
//! (a row, a panel of 16 outputs for a row, a chunk of a query); a cursor says which unit is next.
//! All state between steps lies in the arena and in [`Run`].

mod attention;
mod encoder;
mod feed_forward;
mod output;
mod products;

use core::ops::Range;

use kinglet_kernels::Isa;
use kinglet_kernels::cache::CacheShape;
use kinglet_kernels::layout::PANEL;
use kinglet_model::{
    Attention, Block, BlockProblem, FAMILIES, InPlace, Linear, Mask, Model, OpenError, Operation,
    Pooling, Stack,
};

use super::arena::Arena;
use super::rounding::rows_of;
use crate::options::Options;
use crate::parallel::{Parallel, Units, split};
use crate::plan::{Plan, Shape, Shapes};

/// Costs are counted in multiply-accumulates of int8, which take three instructions of a Cortex-M4
/// with all that surrounds them. A number that is normed, transformed and quantized takes as long
/// as so many of them, one that is quantized or added as long as a few, and a query takes for the
/// softmax of a chunk as long as many.
const NORM: usize = 20;
pub(super) const QUANTIZE: usize = 4;
const SOFTMAX: usize = 2560;

/// What a block does, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Norm and quantize each row of the residual stream.
    Norm,
    /// Query, key and value; or gate and up. A unit is a panel for one row.
    Input,
    /// Attention: biases, head norms, rotation, and keys and values into the cache. Feed-forward:
    /// activation. A unit is a row.
    Prepare,
    /// Attention. A unit is a chunk of positions for one query.
    Attend,
    /// Quantize each row of the result.
    Quantize,
    /// Back to the width of the residual stream. A unit is a panel for one row.
    Output,
    /// Add each row to the residual stream.
    Add,
}

/// Where in the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Products of features. A unit is a panel for one row, as in the other products.
    Features,
    /// Class token, biases and positions. A unit is a row.
    Embed,
    Block(u32, Stage),
    /// The norm after a stack whose states are looked at, in place.
    StackNorm,
    /// Quantize the states for those who look at them.
    States,
    /// Keys and values of the states for this block.
    Keys(u32),
    /// Biases, and into the cache. A unit is a row.
    Store(u32),
    /// The next stack begins.
    Enter,
    /// One row of all.
    Pool,
    /// Norm and quantize the rows whose outputs are wanted.
    FinalNorm,
    /// The product of a dense layer.
    Dense,
    /// Bias and activation. A unit is a row.
    Activate,
    /// The product of the head.
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
    batched: bool,
    logits: usize,
    /// Rows and width of the states of the stack before.
    states: (usize, usize),
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
    is_decoder: bool,
    /// The last stack.
    last: u32,
    /// Numbers of an output.
    pub(super) outputs: usize,
}

impl Setting {
    pub(super) fn new(model: &Model<'_>, plan: &Plan, isa: Isa) -> Self {
        let (options, stacks, target) = (plan.options(), plan.stacks, plan.target);
        let (is_decoder, last) = (model.is_decoder(), model.stacks() - 1);
        Self { isa, options, stacks, target, is_decoder, last, outputs: model.outputs() }
    }

    /// Whether the last stack reads tokens of a target.
    #[inline]
    pub(super) fn is_decoder(&self) -> bool {
        !FAMILIES || self.is_decoder
    }

    /// The cache of a key/value head.
    fn cache_shape(&self, positions: usize, head_dim: usize) -> CacheShape {
        CacheShape::new(positions, head_dim, self.options.values)
    }

    fn shape(&self, stack: u32) -> Shape {
        self.stacks.get(stack as usize).copied().unwrap_or_default()
    }
}

/// The block that was read last: many steps of a run have the same.
#[derive(Debug, Default)]
pub(super) struct Present<'m>(Option<(u32, Block<InPlace<'m>>)>);

impl<'m> Present<'m> {
    /// Block `index`, see [`Model::block_at`].
    fn block(
        &mut self,
        model: &Model<'m>,
        index: u32,
        width: usize,
        states: usize,
    ) -> Result<&Block<InPlace<'m>>, OpenError> {
        if self.0.as_ref().is_none_or(|present| present.0 != index) {
            self.0 = Some((index, model.block_at(index, width, states)?));
        }
        let missing = OpenError::Block { index, problem: BlockProblem::Kind(0) };
        self.0.as_ref().map(|present| &present.1).ok_or(missing)
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
    /// A run of `rows` rows of a stack; `states` are rows and width of the states before it.
    pub(super) fn new(
        (index, stack): (u32, &Stack<InPlace<'_>>),
        setting: &Setting,
        start: usize,
        rows: usize,
        logits: usize,
        states: (usize, usize),
    ) -> Self {
        Self {
            place: Place::Block(stack.blocks.0, Stage::Norm),
            cursor: 0,
            stack: index,
            end: stack.blocks.1,
            width: stack.width,
            start,
            rows,
            batched: false,
            logits,
            states,
            cache: (0, 0),
            cross: setting.shape(index).cross,
        }
    }

    /// Each row belongs to another target.
    pub(super) fn set_batched(&mut self) {
        self.batched = true;
    }

    /// Begins with the products of quantized features.
    pub(super) fn set_features(&mut self) {
        self.place = Place::Features;
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.place, Place::Done)
    }

    /// Whether the stack is a decoder's: it goes from token to token.
    pub(super) fn is_target(&self, setting: &Setting) -> bool {
        setting.is_decoder() && (!FAMILIES || self.stack == setting.last)
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Whether each row belongs to another target.
    #[inline]
    fn is_batched(&self) -> bool {
        FAMILIES && self.batched
    }

    /// Positions by which a target gets longer.
    pub(super) fn positions(&self) -> usize {
        if self.is_batched() { 1 } else { self.rows }
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
    pub(super) fn step<'m, P: Parallel>(
        &mut self,
        model: &Model<'m>,
        present: &mut Present<'m>,
        (parallel, setting): (&P, &Setting),
        arena: &mut Arena<'_>,
        budget: u64,
    ) -> Result<u64, OpenError> {
        let shape = setting.shape(self.stack);
        let before =
            if FAMILIES && self.stack > 0 { setting.shape(self.stack - 1).rows } else { 0 };
        let own = if self.is_target(setting) { setting.options.context } else { shape.rows };
        let ctx = Context {
            isa: setting.isa,
            parallel,
            run: *self,
            setting,
            stride: shape.stride,
            positions: (own, before),
        };
        match self.place {
            Place::Block(index, _) if index >= self.end => self.end_of_stack(model, setting),
            Place::Block(index, stage) => {
                let block = present.block(model, index, self.width, self.states.1)?;
                let (units, cost) = ctx.size(block, stage);
                let (range, spent) = self.take(units, cost, budget);
                ctx.block_stage(block, stage, range, arena);
                if self.cursor == units {
                    self.next(block, index, stage, &ctx);
                }
                Ok(spent)
            }
            Place::FinalNorm => self.final_norm(model, &ctx, arena, budget),
            Place::Head => self.head(model, &ctx, arena, budget),
            Place::Done => Ok(0),
            _ if !FAMILIES => self.done(),
            Place::Pool | Place::Dense | Place::Activate | Place::Finish => {
                self.pooled_output(model, &ctx, arena, budget)
            }
            _ => self.encoder(model, &ctx, arena, budget),
        }
    }

    /// Where a stack goes on after its last block.
    #[inline(never)]
    fn end_of_stack(&mut self, model: &Model<'_>, setting: &Setting) -> Result<u64, OpenError> {
        let last = self.stack == setting.last;
        let pools = model.pooling() != Pooling::None;
        self.place = match (self.is_target(setting), last) {
            (true, _) if self.logits == 0 => Place::Done,
            (true, _) => Place::FinalNorm,
            (_, true) if !pools => Place::FinalNorm,
            _ if model.stack(self.stack)?.norm.is_some() => Place::StackNorm,
            (_, true) => Place::Pool,
            _ => Place::States,
        };
        Ok(0)
    }

    fn done(&mut self) -> Result<u64, OpenError> {
        self.place = Place::Done;
        Ok(0)
    }

    /// Goes on to a place, from its first unit.
    fn go(&mut self, place: Place) {
        (self.place, self.cursor) = (place, 0);
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

    /// The next stage of a block, or the next block.
    fn next<P>(
        &mut self,
        block: &Block<InPlace<'_>>,
        index: u32,
        stage: Stage,
        ctx: &Context<'_, P>,
    ) {
        let attention = block.attention();
        let next = match stage {
            Stage::Norm if block.is_projection() => Stage::Output,
            Stage::Norm => Stage::Input,
            Stage::Input => Stage::Prepare,
            Stage::Prepare if attention.is_some() => Stage::Attend,
            Stage::Prepare | Stage::Attend => Stage::Quantize,
            Stage::Quantize => Stage::Output,
            Stage::Output => Stage::Add,
            Stage::Add => Stage::Norm,
        };
        self.go(Place::Block(index + u32::from(stage == Stage::Add), next));
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
        match a.mask() {
            Mask::Cross => move_on(&mut self.cross, ctx.positions.1),
            mask if mask.is_causal() => move_on(&mut self.cache, ctx.positions.0),
            // Nobody looks at a source's keys again: the next block writes over them.
            _ => {}
        }
    }
}

impl<P: Parallel> Context<'_, P> {
    /// Positions that there are when the run is done.
    fn keys(&self, a: &Attention<InPlace<'_>>) -> usize {
        if a.is_cross() { self.run.states.0 } else { self.run.start + self.run.rows }
    }

    /// Positions that the last row of a run sees.
    fn seen(&self, a: &Attention<InPlace<'_>>) -> usize {
        let keys = self.keys(a);
        a.mask().seen(keys.saturating_sub(1), keys).len()
    }

    /// Units of a stage, and what one costs in multiply-accumulates or so.
    fn size(&self, block: &Block<InPlace<'_>>, stage: Stage) -> (usize, usize) {
        let rows = self.run.rows;
        let panel = |of: &Linear<'_>| (of.matrix.panels() * rows, PANEL * of.matrix.cols());
        let input = block.input.as_ref();
        match stage {
            Stage::Norm => (rows, NORM * self.run.width),
            Stage::Input => input.map_or((0, 1), panel),
            Stage::Prepare => {
                let each = if block.attention().is_some() { NORM } else { 2 * QUANTIZE };
                (rows, each * input.map_or(0, |of| of.matrix.rows()))
            }
            Stage::Attend => block.attention().map_or((0, 1), |a| {
                let chunks = self.chunks(a).len();
                let positions = self.seen(a).div_ceil(chunks.max(1));
                (rows * a.heads * chunks, 4 * a.head_dim * positions + SOFTMAX)
            }),
            Stage::Quantize => (rows, QUANTIZE * block.output.matrix.cols()),
            Stage::Output => panel(&block.output),
            Stage::Add => (rows, QUANTIZE * block.output.matrix.rows()),
        }
    }

    fn block_stage(
        &self,
        block: &Block<InPlace<'_>>,
        stage: Stage,
        units: Range<usize>,
        arena: &mut Arena<'_>,
    ) {
        let (stride, rows) = (self.stride, self.run.rows);
        match stage {
            Stage::Norm => {
                let inputs = block.input.as_ref().unwrap_or(&block.output).inputs;
                let norms = (block.norm.as_ref(), block.stream_norm(), inputs);
                self.norm_rows(norms, units.start, units, rows, arena);
            }
            Stage::Input | Stage::Output => {
                let of = block.input.as_ref().filter(|_| stage == Stage::Input);
                let of = of.unwrap_or(&block.output);
                self.product(of, rows, units, arena);
            }
            Stage::Prepare => match &block.operation {
                Operation::Attention(a) => {
                    let bias = block.input.as_ref().and_then(|input| input.bias);
                    self.prepare(a, bias, units, arena);
                }
                Operation::FeedForward { gated, activation } => {
                    let bias = block.input.as_ref().and_then(|input| input.bias);
                    let inner = block.output.matrix.cols();
                    self.activate(inner, bias, Some(*gated), *activation, units, arena);
                }
                Operation::Projection => {}
            },
            Stage::Attend => {
                if let Some(a) = block.attention() {
                    self.attend(a, units, arena);
                }
            }
            Stage::Quantize => {
                let (width, inputs) = (block.output.matrix.cols(), block.output.inputs);
                let memory = (&mut *arena.codes, &mut *arena.sums, &mut *arena.scales);
                let to = rows_of(memory, inputs, width, rows, units.clone());
                self.quantize(&mut arena.wide[units.start * stride..], width, inputs, to);
            }
            Stage::Add => self.add(block, units, arena),
        }
    }

    /// Rows of the branch join the stream.
    fn add(&self, block: &Block<InPlace<'_>>, rows: Range<usize>, arena: &mut Arena<'_>) {
        let (width, stride) = (block.output.matrix.rows(), self.stride);
        let branches =
            Units { items: &mut arena.wide[rows.start * stride..rows.end * stride], size: stride };
        let rows =
            Units { items: &mut arena.residual[rows.start * width..rows.end * width], size: width };
        split(self.parallel, width, (branches, rows), &|_, (branches, rows)| {
            let branches = branches.items.chunks_exact_mut(stride);
            for (branch, row) in branches.zip(rows.items.chunks_exact_mut(width)) {
                let branch = &mut branch[..width];
                if let Some(bias) = block.output.bias {
                    self.isa.add(branch, bias);
                }
                if block.replaces() {
                    row.copy_from_slice(branch);
                } else {
                    self.isa.add(row, branch);
                }
            }
        });
    }
}
