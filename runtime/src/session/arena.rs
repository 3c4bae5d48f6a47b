//! The lent memory, cut into the regions of the plan.

use core::fmt;
use core::ops::Range;

use bytemuck::Pod;
use kinglet_kernels::Scratch;

use crate::plan::Plan;
use kinglet_model::layout::ALIGN;

/// Why memory cannot be an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ArenaError {
    /// Too few bytes.
    TooSmall {
        /// Bytes of the plan.
        needed: usize,
        /// Bytes given.
        found: usize,
    },
    /// It does not start at a multiple of 64.
    Unaligned,
}

impl fmt::Display for ArenaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { needed, found } => {
                write!(f, "the arena has {found} bytes, the plan needs {needed}")
            }
            Self::Unaligned => f.write_str("the arena does not start at a multiple of 64 bytes"),
        }
    }
}

impl core::error::Error for ArenaError {}

/// Bytes that start at a multiple of 64: `static ARENA: Aligned<[u8; N]>`, or a model in flash as
/// `static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!("model.kinglet"))`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Aligned<T: ?Sized>(pub T);

/// The regions.
#[derive(Debug)]
pub(super) struct Arena<'a> {
    pub(super) residual: &'a mut [f32],
    pub(super) wide: &'a mut [f32],
    pub(super) codes: &'a mut [i8],
    pub(super) sums: &'a mut [i16],
    pub(super) scales: &'a mut [f32],
    pub(super) cache_codes: &'a mut [i8],
    pub(super) cache_scales: &'a mut [u16],
    pub(super) cross_codes: &'a mut [i8],
    pub(super) cross_scales: &'a mut [u16],
    pub(super) logits: &'a mut [f32],
    /// One.
    pub(super) attention: &'a mut [Scratch],
}

impl<'a> Arena<'a> {
    pub(super) fn new(plan: &Plan, bytes: &'a mut [u8]) -> Result<Self, ArenaError> {
        let (needed, found) = (plan.bytes(), bytes.len());
        let bytes = bytes.get_mut(..needed).ok_or(ArenaError::TooSmall { needed, found })?;
        if bytes.as_ptr().align_offset(ALIGN) != 0 {
            return Err(ArenaError::Unaligned);
        }
        let mut rest = (0, bytes);
        let mut region = |range: &Range<usize>| -> &'a mut [u8] {
            let (start, bytes) = core::mem::take(&mut rest);
            let (_, bytes) = bytes.split_at_mut(range.start - start);
            let (region, tail) = bytes.split_at_mut(range.len());
            rest = (range.end, tail);
            region
        };
        Ok(Self {
            residual: numbers(region(&plan.residual)),
            wide: numbers(region(&plan.wide)),
            codes: numbers(region(&plan.codes)),
            sums: numbers(region(&plan.sums)),
            scales: numbers(region(&plan.scales)),
            cache_codes: numbers(region(&plan.cache_codes)),
            cache_scales: numbers(region(&plan.cache_scales)),
            cross_codes: numbers(region(&plan.cross_codes)),
            cross_scales: numbers(region(&plan.cross_scales)),
            attention: numbers(region(&plan.attention)),
            logits: numbers(region(&plan.logits)),
        })
    }
}

/// A region's bytes as numbers; there is none whose start or length are not theirs.
fn numbers<T: Pod>(bytes: &mut [u8]) -> &mut [T] {
    bytemuck::try_cast_slice_mut(bytes).unwrap_or_default()
}
