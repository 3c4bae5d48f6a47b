//! Activations as the matrix products read them: int8 rows with one scale each.
//!
//! A row of `cols` values takes [`stride`] codes (zeros behind the last value), one f32 scale, and for every 32 codes
//! their sum, with which kernels that want one operand unsigned repay its offset. Codes lie in -127..=127, never
//! -128: that is what lets `vpmaddubsw`, `smull`/`smlal` pairs and sign flips stay exact.

use crate::layout::GROUP;
use crate::product::Row;

/// Codes of a row of `cols` values.
pub const fn stride(cols: usize) -> usize {
    cols.next_multiple_of(GROUP)
}

/// Sums of a row of `cols` values.
pub const fn sums(cols: usize) -> usize {
    cols.div_ceil(GROUP)
}

/// Quantized rows, to be multiplied.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    codes: &'a [i8],
    sums: &'a [i16],
    scales: &'a [f32],
    cols: usize,
}

/// Memory for quantized rows, to be written.
#[derive(Debug)]
pub struct ActivationsMut<'a> {
    codes: &'a mut [i8],
    sums: &'a mut [i16],
    scales: &'a mut [f32],
    cols: usize,
}

fn fits(codes: usize, sum: usize, rows: usize, cols: usize) -> bool {
    cols > 0 && codes >= rows * stride(cols) && sum >= rows * sums(cols)
}

impl<'a> Activations<'a> {
    /// Rows of `cols` values, as many as there are scales.
    ///
    /// # Panics
    /// When `codes` or `sums` are too short for them.
    pub fn new(codes: &'a [i8], sums: &'a [i16], scales: &'a [f32], cols: usize) -> Self {
        fit!(fits(codes.len(), sums.len(), scales.len(), cols));
        Self { codes, sums, scales, cols }
    }

    /// How many rows.
    #[inline]
    pub fn rows(&self) -> usize {
        self.scales.len()
    }

    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Codes of row `m`, padded with zeros to [`stride`].
    #[inline]
    pub fn codes(&self, m: usize) -> &'a [i8] {
        let stride = stride(self.cols);
        &self.codes[m * stride..][..stride]
    }

    /// Sums of row `m`, one for 32 codes.
    #[inline]
    pub fn sums(&self, m: usize) -> &'a [i16] {
        let sums = sums(self.cols);
        &self.sums[m * sums..][..sums]
    }

    /// Scale of row `m`.
    #[inline]
    pub fn scale(&self, m: usize) -> f32 {
        self.scales[m]
    }

    /// Codes of rows `m` and later.
    #[inline]
    pub(crate) fn codes_from(&self, m: usize) -> &'a [i8] {
        &self.codes[m * self.stride()..]
    }

    /// Codes from row to row.
    #[inline]
    pub(crate) fn stride(&self) -> usize {
        stride(self.cols)
    }

    /// Codes of row `m` with the sums of groups.
    #[inline(always)]
    pub(crate) fn row(&self, m: usize) -> Row<'a> {
        Row { codes: self.codes(m), sums: self.sums(m) }
    }

    /// Codes `32 g..32 g + 32` of row `m`.
    #[inline]
    pub(crate) fn group(&self, m: usize, g: usize) -> &'a [i8; GROUP] {
        &self.codes.as_chunks().0[m * sums(self.cols) + g]
    }

    /// The rows from `start`, `rows` of them.
    #[inline]
    pub fn slice(&self, start: usize, rows: usize) -> Self {
        Self {
            codes: &self.codes[start * stride(self.cols)..],
            sums: &self.sums[start * sums(self.cols)..],
            scales: &self.scales[start..][..rows],
            cols: self.cols,
        }
    }
}

impl<'a> ActivationsMut<'a> {
    /// Memory for rows of `cols` values, as many as there are scales.
    ///
    /// # Panics
    /// When `codes` or `sums` are too short for them.
    pub fn new(codes: &'a mut [i8], sums: &'a mut [i16], scales: &'a mut [f32], cols: usize) -> Self {
        fit!(fits(codes.len(), sums.len(), scales.len(), cols));
        Self { codes, sums, scales, cols }
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.scales.len()
    }

    /// The rows before `row`, and the others.
    ///
    /// # Panics
    /// When there are fewer rows.
    pub fn split_at(self, row: usize) -> (Self, Self) {
        let (codes, other_codes) = self.codes.split_at_mut(row * stride(self.cols));
        let (sums, other_sums) = self.sums.split_at_mut(row * sums(self.cols));
        let (scales, other_scales) = self.scales.split_at_mut(row);
        let cols = self.cols;
        (Self { codes, sums, scales, cols }, Self { codes: other_codes, sums: other_sums, scales: other_scales, cols })
    }

    /// Codes, sums and scale of row `m`.
    pub fn row(&mut self, m: usize) -> (&mut [i8], &mut [i16], &mut f32) {
        let (stride, sums) = (stride(self.cols), sums(self.cols));
        (&mut self.codes[m * stride..][..stride], &mut self.sums[m * sums..][..sums], &mut self.scales[m])
    }
}
