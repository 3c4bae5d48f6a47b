//! What a session is planned for.

use kinglet_kernels::ValueFormat;
use kinglet_model::{FAMILIES, Model, OpenError};

/// The most targets that share a source.
pub const MAX_TARGETS: usize = 16;

/// The most that this build runs: without families there is no cache but the first target's.
pub(crate) const BUILT_TARGETS: usize = if FAMILIES { MAX_TARGETS } else { 1 };

/// Capacity limits of a session.
// Not `non_exhaustive`, which would forbid `..Options::DECODE` outside of this crate: with it callers set what
// they mean and are right when there is one more field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Options {
    /// Positions in the key/value cache of a decoder: prompt and answer together.
    pub context: usize,
    /// The most tokens that a decoder runs together. More is faster for prompts and takes more
    /// memory.
    pub prefill: usize,
    /// The most positions of one run whose outputs are kept: 1 to generate and for encoders that
    /// pool, more to evaluate.
    pub logits: usize,
    /// Positions of the source that an encoder reads, a class token's included; 0 for a lone
    /// decoder.
    pub source: usize,
    /// Targets that are decoded side by side over one source or prompt, at most [`MAX_TARGETS`]; 1
    /// in a build without the feature `families`.
    pub targets: usize,
    /// How values are kept in the cache, keys having eight bits.
    pub values: ValueFormat,
}

impl Options {
    /// One target of a decoder, one token at a time.
    pub const DECODE: Self = Self {
        context: 1,
        prefill: 1,
        logits: 1,
        source: 0,
        targets: 1,
        values: ValueFormat::Int8,
    };

    /// As much source and context as the model was made for, one token at a time.
    ///
    /// # Errors
    /// [`OpenError`], when the model changed since it was opened.
    pub fn of(model: &Model<'_>) -> Result<Self, OpenError> {
        let first = model.stack(0)?.context;
        let one = model.stacks() == 1;
        let decoder = model.is_decoder();
        Ok(Self {
            context: if decoder { model.context() } else { 1 },
            source: if one && decoder { 0 } else { first },
            ..Self::DECODE
        })
    }
}
