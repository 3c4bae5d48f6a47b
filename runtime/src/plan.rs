//! The memory plan: a pure function of the model's header and the options. The same numbers on
//! every machine, so a laptop knows what a board will need.
//!
//! ```text
//! region     element  count
//! residual   f32      rows x width
//! wide       f32      rows x widest result of a matrix (and scratch for norms)
//! codes      i8       rows x widest input, padded to 32; twice the widest one of two planes, if that is more
//! sums       i16      rows x widest input / 32; likewise
//! scales     f32      rows, twice if some product's inputs have two planes
//! cache      i8, u16  keys and values of every attention block for each target, with their scales; before there is a target, those of
//!                     one block of the source
//! cross      i8, u16  keys and values of the source for every block that looks across, with their scales
//! attention  bytes    what attention works in, the same for every model
//! logits     f32      logits x outputs
//! ```
//!
//! A region is as large as the stack that needs most of it: stacks run one after the other. Rows
//! are `prefill` (or `targets`) for the stack that goes from token to token, `source` for one that
//! reads the source, and as many as there are queries for a resampler.
//!
//! Every region starts at a multiple of 64. Beside the arena a step uses a few KiB of stack,
//! whatever the model.

use core::fmt;
use core::ops::Range;

use kinglet_kernels::cache::{CHUNK, CacheShape};
use kinglet_kernels::layout::PANEL;
use kinglet_kernels::{Scratch, ValueFormat, activations};

use crate::options::{BUILT_TARGETS, Options};
use kinglet_model::layout::{ALIGN, MAX_STACKS};
use kinglet_model::{
    Attention, FAMILIES, InPlace, Inputs, Linear, Model, OpenError, Pooling, Site, Stack,
};

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum PlanError {
    /// An option is zero, `logits` exceeds the rows of a run, or there are too many targets.
    Options,
    /// The model was made for fewer positions than `context`.
    Context {
        /// Positions asked for.
        asked: usize,
        /// Positions the model has.
        most: usize,
    },
    /// The model was made for a source of fewer positions than `source`, or has none.
    Source {
        /// Positions asked for.
        asked: usize,
        /// Positions of the longest source; 0: the model reads no source.
        most: usize,
    },
    /// The bytes do not fit this machine's addresses.
    TooLarge,
    /// The model changed since it was opened.
    Model(OpenError),
}

const NO_SOURCE: &str = "the model reads no source: plan a source of 0";

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Options => f.write_str(
                "context, prefill, logits and targets must be at least 1, targets at most 16, and \
                 logits no more than the rows that run together",
            ),
            Self::Context { asked, most } => {
                write!(
                    f,
                    "a context of {asked} is more than the {most} positions the model was \
                     made for"
                )
            }
            Self::Source { .. } if !FAMILIES => f.write_str(NO_SOURCE),
            Self::Source { most: 0, .. } => f.write_str(NO_SOURCE),
            Self::Source { asked: 0, .. } => f.write_str(
                "the model reads a source: plan positions \
                 for it",
            ),
            Self::Source { asked, most } => {
                write!(
                    f,
                    "a source of {asked} positions is more than the {most} the model was \
                     made for"
                )
            }
            Self::TooLarge => f.write_str(
                "the memory would exceed the address space; ask for a \
                 smaller context",
            ),
            Self::Model(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for PlanError {}

impl From<OpenError> for PlanError {
    fn from(error: OpenError) -> Self {
        Self::Model(error)
    }
}

/// Where each region of the arena lies, in bytes.
///
/// ```
/// use kinglet::{Model, Options, Plan, PlanError};
///
/// let model = Model::open(&kinglet_fixtures::STORYTELLER.0)?;
/// let options = Options { context: 128, prefill: 8, ..Options::DECODE };
/// let plan = Plan::new(&model, options)?;
/// assert_eq!(plan.bytes(), 105_408);
/// assert_eq!(plan.bytes(), plan.self_cache() + plan.scratch());
///
/// let most = model.context();
/// let longer = Options { context: most + 1, ..options };
/// assert_eq!(Plan::new(&model, longer), Err(PlanError::Context { asked: most + 1, most }));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    options: Options,
    /// Residual stream.
    pub residual: Range<usize>,
    /// Results of matrices.
    pub wide: Range<usize>,
    /// Quantized activations: codes.
    pub codes: Range<usize>,
    /// Quantized activations: sums of 32.
    pub sums: Range<usize>,
    /// Quantized activations: scales.
    pub scales: Range<usize>,
    /// Keys and values.
    pub cache_codes: Range<usize>,
    /// Scales of keys and values.
    pub cache_scales: Range<usize>,
    /// Keys and values of the source.
    pub cross_codes: Range<usize>,
    /// Scales of keys and values of the source.
    pub cross_scales: Range<usize>,
    /// Outputs.
    pub logits: Range<usize>,
    /// What attention works in.
    pub attention: Range<usize>,
    /// Codes and scales of one target's cache.
    pub(crate) target: (usize, usize),
    /// What each stack has of it.
    pub(crate) stacks: Shapes,
}

/// What a stack has of the regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The most rows that it runs together.
    pub(crate) rows: usize,
    /// Columns of `wide`.
    pub(crate) stride: usize,
    /// Where its keys and values of the stack before start, codes and scales.
    pub(crate) cross: (usize, usize),
    /// What the states before it go through for the blocks that look at them: the same for all.
    pub(crate) states: Inputs,
}

/// One for each stack.
pub(crate) type Shapes = [Shape; if FAMILIES { MAX_STACKS as usize } else { 1 }];

/// Regions one after the other, from the count of numbers and the bytes of one.
fn regions<const N: usize>(sizes: [(usize, usize); N]) -> Result<[Range<usize>; N], PlanError> {
    let mut regions = [const { 0..0 }; N];
    let mut end = 0usize;
    for (region, (count, size)) in regions.iter_mut().zip(sizes) {
        let start = end.checked_next_multiple_of(ALIGN).ok_or(PlanError::TooLarge)?;
        end = start.checked_add(times(count, size)?).ok_or(PlanError::TooLarge)?;
        *region = start..end;
    }
    if isize::try_from(end).is_ok() { Ok(regions) } else { Err(PlanError::TooLarge) }
}

/// Numbers of each region, the most that any stack needs.
#[derive(Default)]
struct Most {
    residual: usize,
    wide: usize,
    codes: usize,
    sums: usize,
    scales: usize,
    cache: (usize, usize),
    cross: (usize, usize),
    target: (usize, usize),
    stacks: Shapes,
    values: ValueFormat,
}

impl Most {
    /// Products of so many rows, with results of `stride` columns and inputs of `input`.
    fn products(&mut self, rows: usize, stride: usize, input: usize) -> Result<(), PlanError> {
        self.wide = self.wide.max(times(rows, stride)?);
        self.activations(rows, input)
    }

    /// So many rows of activations. What a panel's product with them costs is a number of this
    /// machine, too.
    fn activations(&mut self, rows: usize, input: usize) -> Result<(), PlanError> {
        times(times(rows, input)?, PANEL)?;
        self.scales = self.scales.max(rows);
        self.codes = self.codes.max(times(rows, activations::stride(input))?);
        self.sums = self.sums.max(times(rows, activations::sums(input))?);
        Ok(())
    }

    /// The planes of a product's inputs, where there are two.
    fn planes(&mut self, rows: usize, of: &Linear<'_>) -> Result<(), PlanError> {
        match of.inputs.planes() {
            1 => Ok(()),
            planes => self.activations(times(rows, planes)?, of.matrix.cols()),
        }
    }

    /// A stack with so many rows, after one whose states have `before` rows of `states` columns.
    /// Returns the width of its own states.
    fn stack(
        &mut self,
        model: &Model<'_>,
        (index, stack): (usize, &Stack<InPlace<'_>>),
        context: Option<usize>,
        rows: usize,
        (before, states): (usize, usize),
    ) -> Result<usize, PlanError> {
        let mut width = stack.width;
        let (mut stride, mut input) = (width.max(stack.features()), width.max(stack.features()));
        self.residual = self.residual.max(times(rows, width)?);
        let (mut looks_across, cross) = (None, self.cross);
        stack.feature_product().map_or(Ok(()), |linear| self.planes(rows, linear))?;
        for at in stack.blocks.0..stack.blocks.1 {
            let block = model.block_at(at, width, states)?;
            width = block.output.matrix.rows();
            let first = block.product(Site::Input);
            stride = stride.max(width).max(first.map_or(0, |input| input.matrix.rows()));
            input = input.max(block.output.matrix.cols()).max(width);
            first.map_or(Ok(()), |input| self.planes(rows, input))?;
            self.planes(rows, &block.output)?;
            self.residual = self.residual.max(times(rows, width)?);
            let Some(attention) = block.attention() else { continue };
            // Chunks of queries are numbers of this machine, too.
            let positions = context.unwrap_or(rows).max(before);
            times(times(rows, attention.heads)?, positions.div_ceil(CHUNK))?;
            match (block.states_product(), context) {
                (Some(linear), _) => {
                    self.planes(before, linear)?;
                    self.cross = self.add(self.cross, before, attention)?;
                    stride = stride.max(attention.kv_rows());
                    looks_across = Some(linear.inputs);
                }
                (None, Some(context)) => self.target = self.add(self.target, context, attention)?,
                (None, None) => self.cache = larger(self.cache, self.add((0, 0), rows, attention)?),
            }
        }
        if let Some(to) = self.stacks.get_mut(index) {
            *to = Shape { rows, stride, cross, states: looks_across.unwrap_or_default() };
        }
        if looks_across.is_some() {
            self.products(before, stride, states)?;
        }
        self.products(rows, stride, input)?;
        Ok(width)
    }

    /// What pooling, a dense layer and the head need after the last stack, which has so many rows
    /// and states of this width.
    fn output(
        &mut self,
        model: &Model<'_>,
        rows: usize,
        states: usize,
        logits: usize,
    ) -> Result<(), PlanError> {
        let rows_out = if model.pooling() != Pooling::None { 1 } else { rows };
        if logits > rows_out {
            return Err(PlanError::Options);
        }
        let output = model.output()?;
        output.head.as_ref().map_or(Ok(()), |head| self.planes(rows, head))?;
        if let (Some((dense, _)), Some(shape)) =
            (output.dense_layer(), self.stacks.get_mut(model.stacks() as usize - 1))
        {
            shape.stride = shape.stride.max(dense.matrix.rows());
            let stride = shape.stride;
            self.planes(rows, dense)?;
            self.products(rows, stride, dense.matrix.rows().max(states))?;
        }
        Ok(())
    }

    /// `sum` and the cache of an attention block with so many positions. What the queries of a row
    /// that share a head cost is a number of this machine, too.
    fn add(
        &self,
        sum: (usize, usize),
        positions: usize,
        attention: &Attention<InPlace<'_>>,
    ) -> Result<(usize, usize), PlanError> {
        times(positions, 4 * attention.head_dim * attention.group())?;
        let shape = CacheShape::new(positions, attention.head_dim, self.values);
        let codes = times(shape.codes(), attention.kv_heads)?
            .checked_add(sum.0)
            .ok_or(PlanError::TooLarge)?;
        let scales = times(shape.scales(), attention.kv_heads)?
            .checked_add(sum.1)
            .ok_or(PlanError::TooLarge)?;
        Ok((codes, scales))
    }
}

fn times(a: usize, b: usize) -> Result<usize, PlanError> {
    a.checked_mul(b).ok_or(PlanError::TooLarge)
}

fn larger(a: (usize, usize), b: (usize, usize)) -> (usize, usize) {
    (a.0.max(b.0), a.1.max(b.1))
}

/// Rows of a stack while it runs: all of the source, or what a decoder runs together; `before` are
/// those of the stack before.
pub(crate) fn rows(
    stack: &Stack<InPlace<'_>>,
    last: bool,
    decoder: bool,
    options: &Options,
    before: usize,
) -> usize {
    match stack.queries() {
        Some(queries) => queries.matrix.rows(),
        None if stack.reads_states() => before,
        None if last && decoder => options.prefill.max(options.targets),
        None => options.source,
    }
}

/// Whether the options fit the model; whether its last stack is a decoder.
fn check(model: &Model<'_>, options: &Options) -> Result<bool, PlanError> {
    let Options { context, prefill, logits, source, targets, .. } = *options;
    if context == 0 || prefill == 0 || logits == 0 || !(1..=BUILT_TARGETS).contains(&targets) {
        return Err(PlanError::Options);
    }
    let decoder = model.is_decoder();
    if decoder && context > model.context() {
        return Err(PlanError::Context { asked: context, most: model.context() });
    }
    let reads = !decoder || model.stacks() > 1;
    let most = if reads { model.stack(0)?.context } else { 0 };
    if source > most || (source == 0) == reads {
        return Err(PlanError::Source { asked: source, most });
    }
    Ok(decoder)
}

impl Plan {
    /// The plan of `model` with `options`.
    ///
    /// # Errors
    /// [`PlanError`]: an option is zero or too large for the model, or the bytes for the address
    /// space.
    pub fn new(model: &Model<'_>, options: Options) -> Result<Self, PlanError> {
        let decoder = check(model, &options)?;
        let Options { context, logits, targets, .. } = options;
        let mut most = Most { values: options.values, ..Most::default() };
        let (mut rows, mut states) = (0, 0);
        let last = model.stacks() - 1;
        for index in 0..=last {
            let stack = model.stack(index)?;
            let before = rows;
            rows = self::rows(&stack, index == last, decoder, &options, before);
            let context = (index == last && decoder).then_some(context);
            states =
                most.stack(model, (index as usize, &stack), context, rows, (before, states))?;
        }
        most.output(model, rows, states, logits)?;
        let outputs = times(if decoder { logits.max(targets) } else { logits }, model.outputs())?;
        let mut cache = most.cache;
        if decoder {
            let (codes, scales) = most.target;
            cache = larger(cache, (times(targets, codes)?, times(targets, scales)?));
        }
        let [
            residual,
            wide,
            codes,
            sums,
            scales,
            cache_codes,
            cache_scales,
            cross_codes,
            cross_scales,
            attention,
            logits,
        ] = regions([
            (most.residual, 4),
            (most.wide, 4),
            (most.codes, 1),
            (most.sums, 2),
            (most.scales, 4),
            (cache.0, 1),
            (cache.1, 2),
            (most.cross.0, 1),
            (most.cross.1, 2),
            (1, size_of::<Scratch>()),
            (outputs, 4),
        ])?;
        Ok(Self {
            options,
            residual,
            wide,
            codes,
            sums,
            scales,
            cache_codes,
            cache_scales,
            cross_codes,
            cross_scales,
            logits,
            attention,
            target: most.target,
            stacks: most.stacks,
        })
    }

    /// Bytes of the arena. A session uses exactly these, and no other memory that it is not given.
    pub fn bytes(&self) -> usize {
        self.logits.end
    }

    /// Bytes of the targets' own keys and values.
    pub fn self_cache(&self) -> usize {
        self.cache_codes.len() + self.cache_scales.len()
    }

    /// Bytes of the source's keys and values.
    pub fn cross_cache(&self) -> usize {
        self.cross_codes.len() + self.cross_scales.len()
    }

    /// All other bytes: what a step works on, outputs, and what is left between regions.
    pub fn scratch(&self) -> usize {
        self.bytes() - self.self_cache() - self.cross_cache()
    }

    /// The options it was made for.
    pub fn options(&self) -> Options {
        self.options
    }
}
