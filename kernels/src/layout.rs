//! How the weights of one matrix lie in memory: the definition for files, kernels and the
//! quantizer.
//!
//! A matrix of `rows` outputs by `cols` inputs is cut into *panels* of [`PANEL`] (16) rows, and a
//! panel into *tiles* of 16 rows by [`QUAD`] (4) inner values: 64 bytes in which 32-bit lane `r`
//! holds four consecutive inner values of row `r`. A byte dot product (`vpdpbusd`, `sdot` by
//! element, AMX, two `smlad`) of a tile with one broadcast quad of activations advances 16 outputs
//! and needs no horizontal sum.
//!
//! ```text
//! Int8            codes: [panel][quad][row 16][4] i8         one tile a quad of inner values
//! Int8, grouped   codes: [panel][group][8][row 16][4] i8     as int8, in whole groups of 32 inner values
//! Int4, codebook  codes: [panel][group][4][row 16][4] u8     byte b of tile v: low nibble = quad 2v,
//!                                                            high nibble = quad 2v + 1 of the group of 32
//! grouped, int4   sub-scales: [panel][group][row 16] i8
//! all             row scales: [panel][row 16] f32, after the other planes
//! codebook        16 i8 in the first 64 bytes, before the codes
//! Int4, offsets   offsets: [panel][group][row 16] i8; offset scales: [panel][row 16] f32, in this
//!                 order after the row scales
//! ```
//!
//! Planes follow one another, each starting at a multiple of [`ALIGN`] from the start of the
//! matrix, as does what follows it. Rows are padded to 16, inner values to 4 (int8) or 32 (all
//! others). Padding weights are never read into a result: padded inner values meet activations that
//! are zero, and padded rows are not stored.
//!
//! The value of an int8 weight is `scale[row] * code`, of any other `scale[row] * sub[row, group] *
//! v` where `v` is the code (grouped int8), `nibble - 8` (uniform) or `codebook[nibble]`.
//! Sub-scales are signed: levels are not symmetric, and a negative sub-scale turns them to the side
//! where a group has its largest value.
//!
//! With offsets ([`Format::Int4Offset`]) it is `scale[row] * sub[row, group] * (nibble - 8) +
//! offset_scale[row] * offset[row, group]`. Such a matrix is the int4 matrix of its first planes
//! and a correction: each kernel reads it as int4, and [`crate::Isa::matmul`] adds the offsets'
//! part.
//!
//! # Sparse matrices
//!
//! A *block* is a group of 32 inner values of a panel's 16 rows. A sparse matrix has no bytes for
//! blocks that are zero:
//!
//! ```text
//! codes       [block][4 (int4) or 8 (int8)][row 16][4]   the blocks that are there, panel after panel
//! sub-scales  [block][row 16] i8
//! row scales  as above
//! index       [panel][1 + ceil(groups / 32)] u32         how many blocks lie before the panel's first; then bit g: group g is there
//! ```
//!
//! Inner values are padded to 32 in int8, too. The number of blocks follows from the bytes, so a
//! matrix is opened without a look at its index. Whatever an index says, a product reads blocks
//! that there are, and no more for a panel than it has groups: a corrupt index gives other
//! numbers, never more work than the dense matrix of the same shape.

use core::fmt;

/// Rows in a panel.
pub const PANEL: usize = 16;
/// Consecutive inner values of one row in a tile.
pub const QUAD: usize = 4;
/// Inner values that share a sub-scale in all formats but [`Format::Int8`].
pub const GROUP: usize = 32;
/// Bytes in a tile.
pub const TILE: usize = PANEL * QUAD;
/// Alignment of every plane, and of the memory a matrix is read from.
pub const ALIGN: usize = 64;
/// Bytes of a group's codes in an int4 panel.
pub(crate) const GROUP_BYTES: usize = PANEL * GROUP / 2;
/// Groups that a word of a sparse matrix's index speaks of.
pub(crate) const WORD: usize = u32::BITS as usize;
/// Whether this build has sparse matrices and offsets. Without, no code for them is in the program.
const SPARSE: bool = cfg!(feature = "families");
/// Subtracted from a nibble of [`Format::Int4`].
pub const INT4_ZERO: i32 = 8;

/// How the weights of a matrix are coded. A word, since a byte among words is copied with its
/// padding, piece by piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    const fn scales(self) -> usize {
        if self.is_grouped() { PANEL } else { 0 }
    }

    /// Bytes of a `rows` x `cols` matrix; `None` as for [`Format::planes`].
    pub fn bytes(self, rows: usize, cols: usize) -> Option<usize> {
        Some(self.planes(rows, cols)?.end)
    }
}

/// Words of a panel's index that say which groups are there.
const fn index_words(cols: usize) -> usize {
    cols.div_ceil(GROUP).div_ceil(WORD)
}

/// A matrix of weights, read where it lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matrix<'a> {
    format: Format,
    rows: usize,
    cols: usize,
    codebook: &'a [i8],
    codes: &'a [u8],
    sub_scales: &'a [i8],
    row_scales: &'a [f32],
    /// Empty in a dense matrix.
    index: &'a [u32],
    offsets: Offsets<'a>,
}

/// Offsets and their scales, which only [`Format::Int4Offset`] has. A build without them has no
/// room for them in its matrices either.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Offsets<'a> {
    #[cfg(feature = "families")]
    codes: &'a [i8],
    #[cfg(feature = "families")]
    scales: &'a [f32],
    #[cfg(not(feature = "families"))]
    none: core::marker::PhantomData<&'a ()>,
}

/// Offsets of a panel, 16 a group, and their scales.
pub(crate) type PanelOffsets<'a> = (&'a [[i8; PANEL]], &'a [f32; PANEL]);

impl<'a> Offsets<'a> {
    /// Those in the bytes of a matrix.
    #[cfg(feature = "families")]
    fn read(format: Format, planes: &Planes, sub_scales: usize, bytes: &'a [u8]) -> Self {
        let count = if format.has_offsets() { sub_scales } else { 0 };
        let codes = bytes.get(planes.offsets..planes.offsets + count).unwrap_or_default();
        let scales = bytes.get(planes.offset_scales..planes.end).unwrap_or_default();
        Self { codes: bytemuck::cast_slice(codes), scales: bytemuck::cast_slice(scales) }
    }

    #[cfg(not(feature = "families"))]
    fn read(_: Format, _: &Planes, _: usize, _: &'a [u8]) -> Self {
        Self::default()
    }

    /// Those of panel `p` of `panels`, 16 a group, and their scales; nothing where there are none.
    #[cfg(feature = "families")]
    #[inline(always)]
    fn panel(&self, p: usize, panels: usize) -> Option<PanelOffsets<'a>> {
        let len = self.codes.len() / panels;
        Some((
            self.codes.get(p * len..(p + 1) * len)?.as_chunks().0,
            self.scales.as_chunks().0.get(p)?,
        ))
    }

    #[cfg(not(feature = "families"))]
    #[inline(always)]
    fn panel(&self, _: usize, _: usize) -> Option<PanelOffsets<'a>> {
        None
    }
}

impl<'a> Matrix<'a> {
    /// Reads `bytes` as a `rows` x `cols` matrix. Checks lengths and alignment only: the cost does
    /// not grow with the size, and any contents are safe to compute with.
    pub fn new(
        format: Format,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, LayoutError> {
        Self::read(format, rows, cols, false, bytes)
    }

    /// Reads `bytes` as a sparse matrix, as [`Matrix::new`] does a dense one.
    pub fn sparse(
        format: Format,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, LayoutError> {
        Self::read(format, rows, cols, true, bytes)
    }

    /// As [`Matrix::sparse`], or [`Matrix::new`].
    pub fn read(
        format: Format,
        rows: usize,
        cols: usize,
        sparse: bool,
        bytes: &'a [u8],
    ) -> Result<Self, LayoutError> {
        if (sparse || format.has_offsets()) && !SPARSE {
            return Err(LayoutError::NotBuilt);
        }
        let sparse = sparse && SPARSE;
        let planes =
            if sparse { format.sparse_planes(rows, cols, 0) } else { format.planes(rows, cols) };
        let mut planes = planes.ok_or(LayoutError::Shape)?;
        let mut index = 0;
        if sparse {
            // Padding of the sub-scales is less than a block.
            let blocks =
                bytes.len().saturating_sub(planes.end) / (format.block_bytes() + format.scales());
            if blocks > rows.div_ceil(PANEL) * cols.div_ceil(GROUP) {
                return Err(LayoutError::Length);
            }
            planes = format.sparse_planes(rows, cols, blocks).ok_or(LayoutError::Shape)?;
            index = 4 * rows.div_ceil(PANEL) * (1 + index_words(cols));
        }
        if bytes.len() != planes.end {
            return Err(LayoutError::Length);
        }
        if bytes.as_ptr().align_offset(ALIGN) != 0 {
            return Err(LayoutError::Alignment);
        }
        let codebook = if format == Format::Int4Codebook { 16 } else { 0 };
        // Tiles are as long as planes are aligned, so nothing lies between codes and the next
        // plane.
        let sub_scales =
            (planes.sub_scales - planes.codes) / format.block_bytes() * format.scales();
        let plane = |start: usize, len: usize| bytes.get(start..start + len).unwrap_or_default();
        Ok(Self {
            format,
            rows,
            cols,
            codebook: bytemuck::cast_slice(plane(0, codebook)),
            codes: plane(planes.codes, planes.sub_scales - planes.codes),
            sub_scales: bytemuck::cast_slice(plane(planes.sub_scales, sub_scales)),
            row_scales: bytemuck::cast_slice(plane(
                planes.row_scales,
                planes.index - planes.row_scales,
            )),
            index: bytemuck::cast_slice(plane(planes.index, index)),
            offsets: Offsets::read(format, &planes, sub_scales, bytes),
        })
    }

    /// The int4 matrix of a matrix with offsets; any other as it is.
    #[cfg(feature = "families")]
    #[inline]
    pub(crate) fn without_offsets(&self) -> Self {
        match self.format {
            Format::Int4Offset => {
                Self { format: Format::Int4, offsets: Offsets::default(), ..*self }
            }
            _ => *self,
        }
    }

    /// Offsets of panel `p`, 16 a group, and their scales, where there are offsets.
    #[inline]
    pub(crate) fn panel_offsets(&self, p: usize) -> Option<PanelOffsets<'a>> {
        self.offsets.panel(p, self.panels())
    }

    /// How the weights are coded.
    #[inline]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Outputs.
    #[inline]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    #[inline]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Panels of 16 rows.
    #[inline]
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// Rows of panel `p`: 16, fewer in the last.
    #[inline]
    pub(crate) fn panel_rows(&self, p: usize) -> usize {
        PANEL.min(self.rows - p * PANEL)
    }

    /// Inner values after padding to the format's multiple.
    #[inline]
    pub fn padded_cols(&self) -> usize {
        self.cols.next_multiple_of(self.format.inner())
    }

    /// The codebook of [`Format::Int4Codebook`], otherwise empty.
    pub fn codebook(&self) -> &'a [i8] {
        self.codebook
    }

    /// Bytes that a product with this matrix reads.
    pub fn bytes(&self) -> usize {
        let scales = (self.row_scales.len() + self.index.len()) * 4;
        let offsets = if self.format.has_offsets() {
            self.sub_scales.len() + 4 * self.row_scales.len()
        } else {
            0
        };
        self.codebook.len() + self.codes.len() + self.sub_scales.len() + scales + offsets
    }

    /// Groups of 32 inner values, the last of which may be cut.
    #[inline]
    pub fn groups(&self) -> usize {
        self.cols.div_ceil(GROUP)
    }

    /// Whether blocks that are zero are left out.
    #[inline]
    pub fn is_sparse(&self) -> bool {
        SPARSE && !self.index.is_empty()
    }

    /// Blocks of 16 rows by 32 inner values that are stored.
    #[inline]
    pub fn blocks(&self) -> usize {
        if self.is_sparse() {
            self.codes.len() / self.format.block_bytes()
        } else {
            self.panels() * self.groups()
        }
    }

    /// Whether the index is one: it counts the blocks there are, and names no group that there is
    /// not. Reads the index of every panel; products rely on nothing of this.
    pub fn index_is_sound(&self) -> bool {
        let mut blocks = 0;
        for panel in self.index.chunks_exact(1 + index_words(self.cols)) {
            let mut beyond = self.groups();
            if panel[0] as usize != blocks {
                return false;
            }
            for &word in &panel[1..] {
                if beyond < WORD && word >> beyond != 0 {
                    return false;
                }
                beyond = beyond.saturating_sub(WORD);
                blocks += word.count_ones() as usize;
            }
        }
        blocks == self.blocks() || !self.is_sparse()
    }

    /// The blocks of panel `p` of a sparse matrix.
    #[inline(always)]
    pub(crate) fn sparse_panel(&self, p: usize) -> SparsePanel<'a> {
        let words = index_words(self.cols);
        let panel = self.index.get(p * (1 + words)..).and_then(<[u32]>::split_first);
        let (&first, there) = panel.unwrap_or((&0, &[]));
        // A corrupt index may point past the last block, where a panel has none.
        let first = (first as usize).min(self.codes.len() / self.format.block_bytes());
        SparsePanel {
            there: there.get(..words).unwrap_or_default(),
            groups: self.groups(),
            codes: &self.codes[first * self.format.block_bytes()..],
            sub_scales: &self.sub_scales.as_chunks().0
                [if self.format.is_grouped() { first } else { 0 }..],
        }
    }

    /// The number of panel `p`'s first block, in a matrix of blocks: any but a dense one of
    /// [`Format::Int8`].
    pub(crate) fn first_block(&self, p: usize) -> usize {
        if !self.is_sparse() {
            return p * self.groups();
        }
        // A corrupt index may point past the last block, where a panel has none.
        let first = self.index.get(p * (1 + index_words(self.cols))).copied().unwrap_or_default();
        (first as usize).min(self.blocks())
    }

    /// Which of the groups `start..start + count` of panel `p` are there: bit 0 for the first.
    /// `count` is not zero, and one word of an index speaks of all of them.
    pub(crate) fn there(&self, p: usize, start: usize, count: usize) -> u32 {
        let word = p * (1 + index_words(self.cols)) + 1 + start / WORD;
        let word = if self.is_sparse() {
            self.index.get(word).copied().unwrap_or_default()
        } else {
            u32::MAX
        };
        word >> (start % WORD) & u32::MAX >> ((WORD - count) % WORD)
    }

    /// Codes and sub-scales of `count` blocks from `first` on, in a matrix of blocks; `None` when
    /// there are not as many.
    pub(crate) fn stored(
        &self,
        first: usize,
        count: usize,
    ) -> Option<(&'a [u8], &'a [[i8; PANEL]])> {
        let bytes = self.format.block_bytes();
        let codes = self.codes.get(first * bytes..(first + count) * bytes)?;
        let subs = self.sub_scales.as_chunks().0;
        Some((codes, if self.format.is_grouped() { subs.get(first..first + count)? } else { &[] }))
    }

    /// Codes of panel `p`: int8 tiles, or groups of nibbles.
    #[inline]
    pub(crate) fn panel_codes(&self, p: usize) -> &'a [u8] {
        let len = self.codes.len() / self.panels();
        &self.codes[p * len..][..len]
    }

    /// Codes of some panels of a dense matrix, one panel after the other.
    #[cfg(any(kinglet_dsp, kinglet_mve))]
    pub(crate) fn codes_of(&self, panels: core::ops::Range<usize>) -> &'a [u8] {
        let len = self.codes.len() / self.panels();
        self.codes.get(panels.start * len..panels.end * len).unwrap_or_default()
    }

    /// Row scales of all panels.
    #[cfg(any(kinglet_dsp, kinglet_mve))]
    pub(crate) fn row_scales(&self) -> &'a [f32] {
        self.row_scales
    }

    /// Sub-scales of panel `p`, 16 a group.
    #[inline]
    pub(crate) fn panel_sub_scales(&self, p: usize) -> &'a [[i8; PANEL]] {
        let len = self.sub_scales.len() / self.panels();
        self.sub_scales[p * len..][..len].as_chunks().0
    }

    /// Row scales of panel `p`.
    #[inline]
    pub(crate) fn panel_row_scales(&self, p: usize) -> &'a [f32; PANEL] {
        &self.row_scales.as_chunks().0[p]
    }

    /// The 16 values of a nibble.
    #[inline]
    pub(crate) fn levels(&self) -> [i8; 16] {
        self.codebook.try_into().unwrap_or([-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7])
    }

    /// Writes row `row` as f32 (an embedding): `row_scale * (sub_scale * code)`, the product in
    /// brackets in integers; then `offset_scale * offset` is added, where there are offsets.
    ///
    /// # Panics
    /// When the matrix is sparse, `row` is not below [`Matrix::rows`], or `out` is not
    /// [`Matrix::cols`] long.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        self.each_of_row(row, out, |to, value| *to = value);
    }

    /// Adds row `row` to `out`.
    ///
    /// # Panics
    /// As [`Self::dequantize_row`].
    pub fn add_row(&self, row: usize, out: &mut [f32]) {
        self.each_of_row(row, out, |to, value| *to += value);
    }

    fn each_of_row(&self, row: usize, out: &mut [f32], put: impl Fn(&mut f32, f32)) {
        assert!(!self.is_sparse() && row < self.rows && out.len() == self.cols);
        let (p, r) = (row / PANEL, row % PANEL);
        let scale = self.panel_row_scales(p)[r];
        let codes = self.panel_codes(p);
        let levels = self.levels();
        let subs = self.panel_sub_scales(p);
        let offsets = self.panel_offsets(p).filter(|_| SPARSE);
        for (k, to) in out.iter_mut().enumerate() {
            let v = match self.format {
                Format::Int8 => i32::from(codes[int8_index(r, k)] as i8),
                Format::Int8Grouped => {
                    i32::from(codes[int8_index(r, k)] as i8) * i32::from(subs[k / GROUP][r])
                }
                Format::Int4 | Format::Int4Codebook | Format::Int4Offset => {
                    let (byte, shift) = int4_index(r, k);
                    let v = levels[usize::from(codes[byte] >> shift & 15)];
                    i32::from(v) * i32::from(subs[k / GROUP][r])
                }
            };
            let mut value = v as f32 * scale;
            if let Some((offsets, scales)) = offsets {
                value += f32::from(offsets[k / GROUP][r]) * scales[r];
            }
            put(to, value);
        }
    }
}

/// A panel of a sparse matrix.
pub(crate) struct SparsePanel<'a> {
    /// Bit `g % 32` of word `g / 32`: group `g` is there. Bits from `groups` on, and more of them
    /// than there are blocks, mean nothing.
    pub(crate) there: &'a [u32],
    /// Groups of the matrix.
    pub(crate) groups: usize,
    /// Codes of the panel's blocks, and of all after it in a sparse matrix.
    pub(crate) codes: &'a [u8],
    /// Their sub-scales; none in [`Format::Int8`].
    pub(crate) sub_scales: &'a [[i8; PANEL]],
}

/// Where inner value `k` of row `r` of a panel lies among the panel's int8 codes.
pub const fn int8_index(r: usize, k: usize) -> usize {
    k / QUAD * TILE + r * QUAD + k % QUAD
}

/// Where inner value `k` of row `r` of a panel lies among the panel's int4 codes: byte, and shift
/// of the nibble.
pub const fn int4_index(r: usize, k: usize) -> (usize, u32) {
    let quad = k % GROUP / QUAD;
    let byte = k / GROUP * GROUP_BYTES + quad / 2 * TILE + r * QUAD + k % QUAD;
    (byte, 4 * (quad % 2) as u32)
}
