//! The Hessian of a product's squared error, the second moments of its inputs, and what rounding
//! and pruning need of it.
//!
//! For inputs X (a row for each token), H = X^T X is the Hessian of the squared error of W X for
//! each row of W. Rounding needs the Cholesky factor of its inverse (GPTQ: Frantar et al., arXiv
//! 2210.17323).
//!
//! Sums are taken in tiles of fixed size over the tokens in order, so the number of threads changes
//! no bit.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use kinglet_reference::product::{columns, part, view, view_mut};

/// Columns of a tile.
const TILE: usize = 512;
/// Columns that are factored together.
const BLOCK: usize = 64;
/// What is added to the diagonal, as a part of its mean: first, and at most before giving up.
const DAMPING: [f64; 2] = [0.01, 10.0];

/// `X^T X` and the largest magnitude of each column.
#[derive(Clone, Debug)]
pub struct Hessian {
    cols: usize,
    /// Row by row; only tiles on and above the diagonal are kept up to date until [`Self::finish`].
    sum: Vec<f32>,
    peaks: Vec<f32>,
    tokens: usize,
}

/// Why a Hessian is of no use.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum HessianError {
    /// An activation was infinite or not a number.
    #[error(
        "an activation overflows (input {column} of the product): the checkpoint computes \
         infinities on this text"
    )]
    Overflow {
        /// The first such column.
        column: usize,
    },
    /// No damping made them positive definite.
    #[error(
        "the second hessian of its inputs are singular, even with {damping} of their mean added to \
         the diagonal"
    )]
    Singular {
        /// The last tried.
        damping: f64,
    },
}

impl Hessian {
    /// Of no inputs.
    pub fn new(cols: usize) -> Self {
        Self { cols, sum: vec![0.0; cols * cols], peaks: vec![0.0; cols], tokens: 0 }
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row by row, whole after [`Self::finish`].
    pub fn matrix(&self) -> &[f32] {
        &self.sum
    }

    /// The diagonal: how much each input matters.
    pub fn diagonal(&self) -> Vec<f32> {
        self.sum.iter().step_by(self.cols + 1).copied().collect()
    }

    /// Adds rows of inputs.
    pub fn add(&mut self, x: &[f32]) {
        let (cols, tokens) = (self.cols, x.len() / self.cols);
        let x = view(x, tokens, cols);
        self.peaks.par_iter_mut().enumerate().with_min_len(64).for_each(|(j, peak)| {
            // Bits without the sign are in the order of magnitudes, and what is not a number is the
            // largest.
            let bits =
                x.column(j).iter().fold(peak.to_bits(), |m, v| m.max(v.to_bits() & 0x7fff_ffff));
            *peak = f32::from_bits(bits);
        });
        let mut tiles = vec![];
        let mut sum = view_mut(&mut self.sum, cols, cols);
        for (i, band) in sum.axis_chunks_iter_mut(Axis(0), TILE).enumerate() {
            tiles.extend(
                columns(band, TILE)
                    .into_iter()
                    .enumerate()
                    .skip(i)
                    .map(|(j, tile)| (i * TILE, j * TILE, tile)),
            );
        }
        tiles.into_par_iter().for_each(|(i, j, mut tile)| {
            let a = part(x, 0..tokens, i..i + tile.nrows());
            let b = part(x, 0..tokens, j..j + tile.ncols());
            general_mat_mul(1.0, &a.t(), &b, 1.0, &mut tile);
        });
        self.tokens += tokens;
    }

    /// Completes the matrix and adds the least damping to its diagonal, so that it is positive
    /// definite for all but numbers that do not fit f64, and columns that were never met still
    /// count a little.
    ///
    /// # Errors
    /// An activation that was infinite or not a number.
    pub fn finish(&mut self) -> Result<(), HessianError> {
        let overflow = self
            .peaks
            .iter()
            .position(|peak| !(peak * peak * self.tokens.max(1) as f32).is_finite());
        if let Some(column) = overflow {
            return Err(HessianError::Overflow { column });
        }
        let cols = self.cols;
        for i in 0..cols {
            for j in 0..i {
                self.sum[i * cols + j] = self.sum[j * cols + i];
            }
        }
        let mean = self.mean();
        let damping = if mean > 0.0 { (mean * DAMPING[0]) as f32 } else { 1.0 };
        self.sum.iter_mut().step_by(cols + 1).for_each(|d| *d += damping);
        Ok(())
    }

    /// With more on the diagonal.
    pub(crate) fn damped(&self, part: f64) -> Self {
        let mut new = self.clone();
        let extra = (self.mean() * part) as f32;
        let cols = self.cols;
        new.sum.iter_mut().step_by(cols + 1).for_each(|d| *d += extra);
        new
    }

    /// With those of other tokens.
    pub(crate) fn join(&mut self, other: &Self) {
        self.sum.iter_mut().zip(&other.sum).for_each(|(a, b)| *a += b);
    }

    fn mean(&self) -> f64 {
        self.sum.iter().step_by(self.cols + 1).map(|&d| f64::from(d)).sum::<f64>()
            / self.cols as f64
    }

    /// Columns by falling diagonal: those that matter most are rounded first, while the others can
    /// make up for them.
    pub fn order(&self) -> Vec<usize> {
        let diagonal = self.diagonal();
        let mut order: Vec<usize> = (0..self.cols).collect();
        order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]).then(a.cmp(&b)));
        order
    }

    /// The upper triangular U with `H^-1 = U^T U`, rows and columns in the given order.
    ///
    /// # Errors
    /// A matrix that no damping makes positive definite.
    pub fn factor(&self, order: &[usize]) -> Result<Vec<f32>, HessianError> {
        let mut damping = 0.0;
        loop {
            if let Some(inverse) = self.try_factor(order, damping) {
                return Ok(inverse);
            }
            damping = if damping == 0.0 { DAMPING[0] } else { damping * 10.0 };
            if damping > DAMPING[1] {
                return Err(HessianError::Singular { damping });
            }
        }
    }

    /// `H^-1`.
    ///
    /// # Errors
    /// As [`Self::factor`].
    pub(crate) fn inverse(&self) -> Result<Array2<f64>, HessianError> {
        let order: Vec<usize> = (0..self.cols).collect();
        let upper = self.factor(&order)?;
        let upper = view(&upper, self.cols, self.cols).mapv(f64::from);
        Ok(upper.t().dot(&upper))
    }

    fn try_factor(&self, order: &[usize], damping: f64) -> Option<Vec<f32>> {
        let n = order.len();
        // In reverse, the lower triangle's inverse is the upper one wanted.
        let mut a = vec![0.0f64; n * n];
        let extra = self.mean() * damping;
        a.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
            let from = &self.sum[order[n - 1 - i] * self.cols..][..self.cols];
            for (j, v) in row.iter_mut().enumerate().take(i + 1) {
                *v = f64::from(from[order[n - 1 - j]]);
            }
            row[i] += extra;
        });
        cholesky(&mut a, n)?;
        invert_lower(&mut a, n);
        let mut upper = vec![0.0f32; n * n];
        upper.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
            let from = &a[(n - 1 - i) * n..][..n - i];
            for (to, from) in row[i..].iter_mut().zip(from.iter().rev()) {
                *to = *from as f32;
            }
        });
        upper.iter().all(|v| v.is_finite()).then_some(upper)
    }
}

/// Replaces a symmetric matrix, of which the lower triangle is read, by L with `A = L L^T`; none if
/// it is not positive definite.
pub fn cholesky(a: &mut [f64], n: usize) -> Option<()> {
    for start in (0..n).step_by(BLOCK) {
        let end = n.min(start + BLOCK);
        for i in start..end {
            for j in start..=i {
                let (row_i, row_j) = (&a[i * n + start..i * n + j], &a[j * n + start..j * n + j]);
                let v = a[i * n + j] - row_i.iter().zip(row_j).map(|(x, y)| x * y).sum::<f64>();
                a[i * n + j] = match i == j {
                    true if v > 0.0 && v.is_finite() => v.sqrt(),
                    true => return None,
                    false => v / a[j * n + j],
                };
            }
        }
        let (head, tail) = a.split_at_mut(end * n);
        let block = &head[start * n..];
        tail.par_chunks_mut(n).for_each(|row| {
            for j in start..end {
                let of = &block[(j - start) * n..];
                let sum: f64 = row[start..j].iter().zip(&of[start..j]).map(|(x, y)| x * y).sum();
                row[j] = (row[j] - sum) / of[j];
            }
        });
        let panel: Vec<f64> = tail.chunks(n).flat_map(|row| &row[start..end]).copied().collect();
        let panel = matrix(&panel, n - end, end - start);
        tail.par_chunks_mut(TILE * n).enumerate().for_each(|(i, rows)| {
            let height = rows.len() / n;
            let mut rows = ArrayViewMut2::from_shape((height, n), rows).expect("whole rows");
            let last = i * TILE + height;
            let left = panel.slice_axis(Axis(0), (i * TILE..last).into());
            let above = panel.slice_axis(Axis(0), (..last).into());
            let mut to = rows.slice_axis_mut(Axis(1), (end..end + last).into());
            general_mat_mul(-1.0, &left, &above.t(), 1.0, &mut to);
        });
    }
    for (i, row) in a.chunks_mut(n).enumerate() {
        row[i + 1..].fill(0.0);
    }
    Some(())
}

/// Replaces a lower triangle by its inverse.
fn invert_lower(a: &mut [f64], n: usize) {
    for start in (0..n).step_by(BLOCK) {
        let end = n.min(start + BLOCK);
        let (above, rest) = a.split_at_mut(start * n);
        let block = &mut rest[..(end - start) * n];
        let size = end - start;
        // The block on the diagonal, by columns.
        let mut inverse = vec![0.0; size * size];
        for j in 0..size {
            inverse[j * size + j] = 1.0 / block[j * n + start + j];
            for i in j + 1..size {
                let row = &block[i * n + start..];
                let sum: f64 = (j..i).map(|k| row[k] * inverse[k * size + j]).sum();
                inverse[i * size + j] = -sum / row[i];
            }
        }
        // -inverse * L * (inverse above), a band of columns at a time.
        let left: Vec<f64> = block.chunks(n).flat_map(|row| &row[..start]).copied().collect();
        let bands: Vec<(usize, Vec<f64>)> = (0..start)
            .into_par_iter()
            .step_by(TILE)
            .map(|from| {
                let to = start.min(from + TILE);
                let above = matrix(above, start, n);
                let above = part_of(above, from..start, from..to);
                let left = part_of(matrix(&left, size, start), 0..size, from..start);
                let mut product = vec![0.0; size * (to - from)];
                let mut out = vec![0.0; size * (to - from)];
                general_mat_mul(
                    1.0,
                    &left,
                    &above,
                    0.0,
                    &mut matrix_mut(&mut product, size, to - from),
                );
                let inverse = matrix(&inverse, size, size);
                let product = matrix(&product, size, to - from);
                general_mat_mul(
                    -1.0,
                    &inverse,
                    &product,
                    0.0,
                    &mut matrix_mut(&mut out, size, to - from),
                );
                (from, out)
            })
            .collect();
        for (from, band) in bands {
            let width = band.len() / size;
            for (row, band) in block.chunks_mut(n).zip(band.chunks(width)) {
                row[from..from + width].copy_from_slice(band);
            }
        }
        for (row, inverse) in block.chunks_mut(n).zip(inverse.chunks(size)) {
            row[start..end].copy_from_slice(inverse);
        }
    }
}

fn matrix(a: &[f64], rows: usize, cols: usize) -> ArrayView2<'_, f64> {
    ArrayView2::from_shape((rows, cols), a).expect("rows times columns numbers")
}

fn matrix_mut(a: &mut [f64], rows: usize, cols: usize) -> ArrayViewMut2<'_, f64> {
    ArrayViewMut2::from_shape((rows, cols), a).expect("rows times columns numbers")
}

fn part_of(
    mut a: ArrayView2<'_, f64>,
    rows: std::ops::Range<usize>,
    cols: std::ops::Range<usize>,
) -> ArrayView2<'_, f64> {
    a.slice_axis_inplace(Axis(0), rows.into());
    a.slice_axis_inplace(Axis(1), cols.into());
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinglet_reference::testing::numbers;

    fn inputs(tokens: usize, cols: usize) -> Vec<f32> {
        let loud = |i: usize| 1.0 + (i % cols) as f32 / 16.0;
        numbers(tokens * cols, 5).into_iter().enumerate().map(|(i, x)| x * loud(i)).collect()
    }

    #[test]
    fn the_factor_is_that_of_the_inverse() {
        let (tokens, cols) = (700, 331);
        let mut hessian = Hessian::new(cols);
        for x in inputs(tokens, cols).chunks(100 * cols) {
            hessian.add(x);
        }
        hessian.finish().unwrap();
        let order = hessian.order();
        let upper = hessian.factor(&order).unwrap();
        // U H U^T = 1.
        let h: Vec<f32> = order
            .iter()
            .flat_map(|&i| order.iter().map(move |&j| (i, j)))
            .map(|(i, j)| hessian.matrix()[i * cols + j])
            .collect();
        let (u, h) = (view(&upper, cols, cols), view(&h, cols, cols));
        let one = u.dot(&h).dot(&u.t());
        for ((i, j), v) in one.indexed_iter() {
            let want = f32::from(u8::from(i == j));
            assert!((v - want).abs() < 2e-3, "{i} {j}: {v}");
            assert!(j >= i || upper[i * cols + j] == 0.0);
        }
    }

    #[test]
    fn dead_and_dependent_columns_are_no_obstacle() {
        let cols = 70;
        let mut x = inputs(20, cols);
        for row in x.chunks_mut(cols) {
            row[3] = 0.0;
            row[9] = row[8];
        }
        let mut hessian = Hessian::new(cols);
        hessian.add(&x);
        hessian.finish().unwrap();
        assert!(hessian.factor(&hessian.order()).unwrap().iter().all(|v| v.is_finite()));
        let mut nothing = Hessian::new(4);
        nothing.add(&[0.0; 8]);
        nothing.finish().unwrap();
        assert!(nothing.factor(&nothing.order()).is_ok());
    }

    #[test]
    fn overflow_is_found() {
        for bad in [f32::NAN, f32::INFINITY, 1e30] {
            let mut hessian = Hessian::new(2);
            hessian.add(&[0.0, 1.0, 2.0, bad, 3.0, 1.0]);
            assert_eq!(hessian.finish(), Err(HessianError::Overflow { column: 1 }));
        }
    }
}
