//! The memory plan: a pure function of the model's header and the options. The same numbers on every machine, so a laptop
//! knows what a board will need.
//!
//! ```text
//! region     element  count
//! residual   f32      prefill x width
//! wide       f32      prefill x widest result of a matrix (and scratch for norms)
//! codes      i8       prefill x widest input, padded to 32
//! sums       i16      prefill x widest input / 32
//! scales     f32      prefill
//! cache      i8, f32  keys and values of every attention block, with their scales
//! logits     f32      logits x vocab
//! ```
//!
//! Every region starts at a multiple of 64. Beside the arena a step uses a few KiB of stack, whatever the model.

use core::fmt;
use core::ops::Range;

use kinglet_kernels::activations;
use kinglet_kernels::cache::CacheShape;

use crate::format::{Attention, Middle, Model, OpenError};

/// What a session shall be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Positions in the key/value cache: prompt and answer together.
    pub context: usize,
    /// The most tokens that are run together. More is faster for prompts and takes more memory.
    pub prefill: usize,
    /// The most positions of one run whose logits are kept: 1 to generate, more to evaluate.
    pub logits: usize,
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanError {
    /// An option is zero, or `logits` exceeds `prefill`.
    Options,
    /// The model was made for fewer positions than `context`.
    Context {
        /// Positions asked for.
        asked: usize,
        /// Positions the model has.
        most: usize,
    },
    /// The bytes do not fit this machine's addresses.
    TooLarge,
    /// The model changed since it was opened.
    Model(OpenError),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Options => f.write_str("context, prefill and logits must be at least 1, and logits at most prefill"),
            Self::Context { asked, most } => {
                write!(f, "a context of {asked} is more than the {most} positions the model was made for")
            }
            Self::TooLarge => f.write_str("the memory would exceed the address space; ask for a smaller context"),
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
    /// Logits.
    pub logits: Range<usize>,
    /// Columns of `wide`.
    pub(crate) stride: usize,
}

/// Appends regions.
struct Layout(usize);

impl Layout {
    fn region(&mut self, sizes: [usize; 3]) -> Result<Range<usize>, PlanError> {
        let bytes = sizes.into_iter().try_fold(1usize, usize::checked_mul).ok_or(PlanError::TooLarge)?;
        let start = self.0.checked_next_multiple_of(crate::format::layout::ALIGN).ok_or(PlanError::TooLarge)?;
        self.0 = start.checked_add(bytes).filter(|&n| isize::try_from(n).is_ok()).ok_or(PlanError::TooLarge)?;
        Ok(start..self.0)
    }
}

/// Cache of one head of an attention block.
pub(crate) fn cache_shape(options: &Options, attention: &Attention<'_>) -> CacheShape {
    CacheShape::new(options.context, attention.head_dim)
}

impl Plan {
    /// The plan of `model` with `options`.
    pub fn new(model: &Model<'_>, options: Options) -> Result<Self, PlanError> {
        let Options { context, prefill, logits } = options;
        if context == 0 || prefill == 0 || logits == 0 || logits > prefill {
            return Err(PlanError::Options);
        }
        if context > model.context() {
            return Err(PlanError::Context { asked: context, most: model.context() });
        }
        // Keeps the sizes of one head's cache, products with at most 2 x 256 bytes a position, within the address space.
        if context > usize::MAX / 2048 {
            return Err(PlanError::TooLarge);
        }
        let (mut stride, mut input) = (model.width(), model.width());
        let (mut cache_codes, mut cache_scales) = (0usize, 0usize);
        for index in 0..model.record().blocks {
            let block = model.block(index)?;
            stride = stride.max(block.input.rows());
            input = input.max(block.middle_width());
            if let Middle::Attention(attention) = &block.middle {
                let shape = cache_shape(&options, attention);
                let add = |sum: usize, n: usize| sum.checked_add(n.checked_mul(attention.kv_heads)?);
                cache_codes = add(cache_codes, shape.codes()).ok_or(PlanError::TooLarge)?;
                cache_scales = add(cache_scales, shape.scales()).ok_or(PlanError::TooLarge)?;
            }
        }
        let mut layout = Layout(0);
        Ok(Self {
            options,
            residual: layout.region([prefill, model.width(), 4])?,
            wide: layout.region([prefill, stride, 4])?,
            codes: layout.region([prefill, activations::stride(input), 1])?,
            sums: layout.region([prefill, activations::sums(input), 2])?,
            scales: layout.region([prefill, 1, 4])?,
            cache_codes: layout.region([cache_codes, 1, 1])?,
            cache_scales: layout.region([cache_scales, 1, 4])?,
            logits: layout.region([logits, model.vocab(), 4])?,
            stride,
        })
    }

    /// Bytes of the arena. A session uses exactly these, and no other memory that it is not given.
    pub fn bytes(&self) -> usize {
        self.logits.end
    }

    /// The options it was made for.
    pub fn options(&self) -> Options {
        self.options
    }
}
