//! How weights are coded, and where the planes of a matrix lie in its bytes.

use core::fmt;

use super::tiles::{ALIGN, GROUP, GROUP_BYTES, PANEL, QUAD, SPARSE, TILE, index_words};

/// How the weights of a matrix are coded. A word, since a byte among words is copied with its
/// padding, piece by piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u32)]
pub enum Format {
    /// Eight bits, one f32 scale a row.
    Int8,
    /// Eight bits, a signed 8-bit sub-scale for 32 values, one f32 scale a row.
    Int8Grouped,
    /// Four bits, evenly spaced (`nibble - 8`), a signed 8-bit sub-scale for 32 values, one f32
    /// scale a row.
    Int4,
    /// Four bits that index 16 int8 values stored with the matrix; scales as [`Format::Int4`].
    Int4Codebook,
    /// As [`Format::Int4`], plus a signed 8-bit offset for 32 values with an f32 scale a row.
    Int4Offset,
}

/// Why bytes are not a matrix.
// Not `non_exhaustive` as other errors are: the reader of files has a problem of its own for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum LayoutError {
    /// A dimension is zero, or the sizes overflow the address space.
    Shape,
    /// The byte count differs from [`Format::bytes`].
    Length,
    /// The memory does not start at a multiple of [`ALIGN`].
    Alignment,
    /// This build has no matrices of this kind: it lacks the feature `families`.
    NotBuilt,
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shape => "a dimension is zero or too large",
            Self::Length => "the byte count does not match the shape",
            Self::Alignment => "the memory is not aligned to 64 bytes",
            Self::NotBuilt => "this build has no such matrices",
        })
    }
}

impl core::error::Error for LayoutError {}

/// Byte offsets of a matrix's planes, and their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planes {
    /// Codes; before them, in the codebook format, the codebook.
    pub codes: usize,
    /// Sub-scales (none in [`Format::Int8`]).
    pub sub_scales: usize,
    /// Row scales.
    pub row_scales: usize,
    /// Index (empty in a dense matrix).
    pub index: usize,
    /// Offsets (only [`Format::Int4Offset`]).
    pub offsets: usize,
    /// Offset scales.
    pub offset_scales: usize,
    /// Total bytes.
    pub end: usize,
}

fn align_up(n: usize) -> Option<usize> {
    Some(n.checked_add(ALIGN - 1)? / ALIGN * ALIGN)
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 5] =
        [Self::Int8, Self::Int8Grouped, Self::Int4, Self::Int4Codebook, Self::Int4Offset];

    /// Whether each 32 inner values of a row have an offset.
    pub const fn has_offsets(self) -> bool {
        matches!(self, Self::Int4Offset)
    }

    /// Whether a matrix of this format may be sparse.
    pub const fn may_be_sparse(self) -> bool {
        !self.has_offsets()
    }

    /// Whether a code has eight bits, and not four.
    pub const fn is_int8(self) -> bool {
        matches!(self, Self::Int8 | Self::Int8Grouped)
    }

    /// Whether each 32 inner values of a row have a sub-scale.
    pub const fn is_grouped(self) -> bool {
        !matches!(self, Self::Int8)
    }

    /// The multiple to which inner values are padded.
    pub const fn inner(self) -> usize {
        match self {
            Self::Int8 => QUAD,
            Self::Int8Grouped | Self::Int4 | Self::Int4Codebook | Self::Int4Offset => GROUP,
        }
    }

    /// Where the planes of a `rows` x `cols` matrix lie; `None` when a dimension is zero or the
    /// size overflows.
    pub fn planes(self, rows: usize, cols: usize) -> Option<Planes> {
        let units = rows.div_ceil(PANEL).checked_mul(cols.div_ceil(self.inner()))?;
        let unit = if self.is_grouped() { self.block_bytes() } else { TILE };
        self.lay(rows, cols, units, unit, 0)
    }

    /// Where the planes of a sparse matrix with `blocks` blocks lie; `None` as for
    /// [`Format::planes`], and of a format that has no sparse matrices.
    pub fn sparse_planes(self, rows: usize, cols: usize, blocks: usize) -> Option<Planes> {
        if !self.may_be_sparse() {
            return None;
        }
        self.lay(rows, cols, blocks, self.block_bytes(), 1 + index_words(cols))
    }

    /// Planes with `units` pieces of codes, each of `unit` bytes, and `index` words a panel.
    fn lay(
        self,
        rows: usize,
        cols: usize,
        units: usize,
        unit: usize,
        index: usize,
    ) -> Option<Planes> {
        if rows == 0 || cols == 0 {
            return None;
        }
        let panels = rows.div_ceil(PANEL);
        let codes = if self == Self::Int4Codebook { ALIGN } else { 0 };
        let sub_scales = align_up(units.checked_mul(unit)?.checked_add(codes)?)?;
        let groups = if self.is_grouped() { units } else { 0 };
        let row_scales = align_up(sub_scales.checked_add(groups.checked_mul(PANEL)?)?)?;
        let index_start = row_scales.checked_add(panels.checked_mul(PANEL * 4)?)?;
        let offsets =
            align_up(index_start.checked_add(panels.checked_mul(index)?.checked_mul(4)?)?)?;
        let (mut offset_scales, mut end) = (offsets, offsets);
        if SPARSE && self.has_offsets() {
            offset_scales = align_up(offsets.checked_add(groups.checked_mul(PANEL)?)?)?;
            end = offset_scales.checked_add(panels.checked_mul(PANEL * 4)?)?;
        }
        isize::try_from(end).ok()?;
        Some(Planes {
            codes,
            sub_scales,
            row_scales,
            index: index_start,
            offsets,
            offset_scales,
            end,
        })
    }

    /// Bytes of a block's codes.
    #[inline(always)]
    pub(crate) const fn block_bytes(self) -> usize {
        match self {
            Self::Int8 | Self::Int8Grouped => PANEL * GROUP,
            Self::Int4 | Self::Int4Codebook | Self::Int4Offset => GROUP_BYTES,
        }
    }

    /// Sub-scales of a block.
    pub(super) const fn scales(self) -> usize {
        if self.is_grouped() { PANEL } else { 0 }
    }

    /// Bytes of a `rows` x `cols` matrix; `None` as for [`Format::planes`].
    pub fn bytes(self, rows: usize, cols: usize) -> Option<usize> {
        Some(self.planes(rows, cols)?.end)
    }
}
