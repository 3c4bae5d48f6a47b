//! Activations as the matrix products read them: int8 rows with one scale each.
//!
//! A row of `cols` values takes [`stride`] codes (zeros after the last value), one f32 scale, and
//! for every 32 codes their sum, with which kernels that want one operand unsigned correct for its
//! offset. Codes lie in -127..=127, never -128: that is what lets `vpmaddubsw`, `smull`/`smlal`
//! pairs and sign flips stay exact.
//!
//! A row may have two *planes*: row `m` is then the rows `2 m` (high) and `2 m + 1` (low) of
//! memory, and stands for the sum of what both stand for. [`Isa::matmul`](crate::Isa::matmul) alone
//! knows of planes; what it calls sees rows of one plane. `docs/numbers.md` defines how they are
//! made and multiplied.

use crate::layout::GROUP;

/// Codes of a row of `cols` values.
pub const fn stride(cols: usize) -> usize {
    cols.next_multiple_of(GROUP)
}

/// Sums of a row of `cols` values.
pub const fn sums(cols: usize) -> usize {
    cols.div_ceil(GROUP)
}

/// A row of activations: codes, and the sum of each [`GROUP`] of them.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) codes: &'a [i8],
    pub(crate) sums: &'a [i16],
}

impl Row<'_> {
    /// No codes.
    pub(crate) const EMPTY: Self = Row { codes: &[], sums: &[] };

    /// The sum of all codes, wrapping.
    #[inline(always)]
    pub(crate) fn sum(&self) -> i32 {
        self.sums.iter().fold(0, |sum, &s| sum.wrapping_add(i32::from(s)))
    }
}

/// How many planes rows have: a number only in builds that know of two.
#[derive(Clone, Copy, Debug)]
struct Planes {
    #[cfg(feature = "families")]
    count: usize,
}

impl Planes {
    const ONE: Self = Self {
        #[cfg(feature = "families")]
        count: 1,
    };

    #[inline(always)]
    fn count(self) -> usize {
        #[cfg(feature = "families")]
        return self.count;
        #[cfg(not(feature = "families"))]
        1
    }
}

/// Quantized rows, to be multiplied.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    codes: &'a [i8],
    sums: &'a [i16],
    scales: &'a [f32],
    cols: usize,
    planes: Planes,
}

/// Memory for quantized rows, to be written.
#[derive(Debug)]
pub struct ActivationsMut<'a> {
    codes: &'a mut [i8],
    sums: &'a mut [i16],
    scales: &'a mut [f32],
    cols: usize,
    planes: Planes,
}

fn fits(codes: usize, sum: usize, rows: usize, cols: usize) -> bool {
    (1..=usize::MAX - GROUP).contains(&cols)
        && codes >= rows.saturating_mul(stride(cols))
        && sum >= rows.saturating_mul(sums(cols))
}

impl<'a> Activations<'a> {
    /// Rows of `cols` values, as many as there are scales.
    ///
    /// # Panics
    /// When `codes` or `sums` are too short for them.
    pub fn new(codes: &'a [i8], sums: &'a [i16], scales: &'a [f32], cols: usize) -> Self {
        fit!(fits(codes.len(), sums.len(), scales.len(), cols));
        Self { codes, sums, scales, cols, planes: Planes::ONE }
    }

    /// The same rows as planes, `planes` (1 or 2) of them a row.
    ///
    /// # Panics
    /// When they are another number, or do not come out even.
    #[cfg(feature = "families")]
    pub fn in_planes(self, planes: usize) -> Self {
        fit!(
            (1..=2).contains(&planes)
                && self.planes.count == 1
                && self.scales.len().is_multiple_of(planes)
        );
        Self { planes: Planes { count: planes }, ..self }
    }

    /// Each plane as a row of its own.
    #[cfg(feature = "families")]
    pub(crate) fn in_one_plane(self) -> Self {
        Self { planes: Planes::ONE, ..self }
    }

    /// Planes of a row.
    #[inline]
    pub fn planes(&self) -> usize {
        self.planes.count()
    }

    /// How many rows.
    #[inline]
    pub fn rows(&self) -> usize {
        self.scales.len() / self.planes()
    }

    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Codes of row `m` of one plane, padded with zeros to [`stride`].
    ///
    /// # Panics
    /// When there is no such row.
    #[inline]
    pub fn codes(&self, m: usize) -> &'a [i8] {
        let stride = stride(self.cols);
        &self.codes[m * stride..][..stride]
    }

    /// Sums of row `m` of one plane, one for 32 codes.
    ///
    /// # Panics
    /// When there is no such row.
    #[inline]
    pub fn sums(&self, m: usize) -> &'a [i16] {
        let sums = sums(self.cols);
        &self.sums[m * sums..][..sums]
    }

    /// Scale of row `m` of one plane.
    ///
    /// # Panics
    /// When there is no such row.
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
    ///
    /// # Panics
    /// When there are fewer rows.
    #[inline]
    pub fn slice(&self, start: usize, rows: usize) -> Self {
        let (start, rows) = (start * self.planes(), rows * self.planes());
        Self {
            codes: &self.codes[start * stride(self.cols)..],
            sums: &self.sums[start * sums(self.cols)..],
            scales: &self.scales[start..][..rows],
            ..*self
        }
    }
}

impl<'a> ActivationsMut<'a> {
    /// Memory for rows of `cols` values, as many as there are scales.
    ///
    /// # Panics
    /// When `codes` or `sums` are too short for them.
    pub fn new(
        codes: &'a mut [i8],
        sums: &'a mut [i16],
        scales: &'a mut [f32],
        cols: usize,
    ) -> Self {
        fit!(fits(codes.len(), sums.len(), scales.len(), cols));
        Self { codes, sums, scales, cols, planes: Planes::ONE }
    }

    /// The same memory for planes, `planes` (1 or 2) of them a row.
    ///
    /// # Panics
    /// When they are another number, or do not come out even.
    #[cfg(feature = "families")]
    pub fn in_planes(self, planes: usize) -> Self {
        fit!(
            (1..=2).contains(&planes)
                && self.planes.count == 1
                && self.scales.len().is_multiple_of(planes)
        );
        Self { planes: Planes { count: planes }, ..self }
    }

    /// Planes of a row.
    #[inline]
    pub fn planes(&self) -> usize {
        self.planes.count()
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.scales.len() / self.planes()
    }

    /// The rows before `row`, and the others.
    ///
    /// # Panics
    /// When there are fewer rows.
    pub fn split_at(self, row: usize) -> (Self, Self) {
        let Self { codes, sums, scales, cols, planes } = self;
        let row = row * planes.count();
        let (codes, other_codes) = codes.split_at_mut(row * stride(cols));
        let (sums, other_sums) = sums.split_at_mut(row * self::sums(cols));
        let (scales, other_scales) = scales.split_at_mut(row);
        let other =
            Self { codes: other_codes, sums: other_sums, scales: other_scales, cols, planes };
        (Self { codes, sums, scales, cols, planes }, other)
    }

    /// Codes, sums and scale of row `m`.
    ///
    /// # Panics
    /// When rows have two planes, or there is no such row.
    pub fn row(&mut self, m: usize) -> (&mut [i8], &mut [i16], &mut f32) {
        fit!(self.planes() == 1);
        self.row_of_planes(m)
    }

    /// Codes, sums and scale of row `m` of all planes, that is of plane `m % planes` of row `m /
    /// planes`.
    #[inline]
    pub(crate) fn row_of_planes(&mut self, m: usize) -> (&mut [i8], &mut [i16], &mut f32) {
        let (stride, sums) = (stride(self.cols), sums(self.cols));
        (
            &mut self.codes[m * stride..][..stride],
            &mut self.sums[m * sums..][..sums],
            &mut self.scales[m],
        )
    }
}
