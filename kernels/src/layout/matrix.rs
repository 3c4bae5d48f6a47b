//! A matrix, read where it lies.

use super::format::{Format, LayoutError};
use super::offsets::{Offsets, PanelOffsets};
use super::tiles::{ALIGN, GROUP, PANEL, SPARSE, index_words, int4_index, int8_index};

/// A matrix of weights, read where it lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matrix<'a> {
    pub(super) format: Format,
    rows: usize,
    pub(super) cols: usize,
    codebook: &'a [i8],
    pub(super) codes: &'a [u8],
    pub(super) sub_scales: &'a [i8],
    row_scales: &'a [f32],
    /// Empty in a dense matrix.
    pub(super) index: &'a [u32],
    offsets: Offsets<'a>,
}
impl<'a> Matrix<'a> {
    /// Reads `bytes` as a `rows` x `cols` matrix. Checks lengths and alignment only: the cost does
    /// not grow with the size, and any contents are safe to compute with.
    ///
    /// # Errors
    /// As [`Matrix::read`].
    pub fn new(
        format: Format,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, LayoutError> {
        Self::read(format, rows, cols, false, bytes)
    }

    /// Reads `bytes` as a sparse matrix, as [`Matrix::new`] does a dense one.
    ///
    /// # Errors
    /// As [`Matrix::read`].
    pub fn sparse(
        format: Format,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, LayoutError> {
        Self::read(format, rows, cols, true, bytes)
    }

    /// As [`Matrix::sparse`], or [`Matrix::new`].
    ///
    /// # Errors
    /// [`LayoutError`]: a dimension is zero or too large, the bytes are not as many as the format
    /// and the shape need, they do not start at a multiple of [`ALIGN`], or this build has no such
    /// matrices.
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
            if blocks > rows.div_ceil(PANEL).saturating_mul(cols.div_ceil(GROUP)) {
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
