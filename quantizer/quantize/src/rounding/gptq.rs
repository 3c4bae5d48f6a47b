//! Rounding against the Hessian of the inputs.
//!
//! Three steps, each of which can only be told apart by what it may change; all minimise `(w - q)^T
//! H (w - q)` for each row w:
//!
//! 1. scales, searched with each input's importance ([`round`](super::round)), then left alone
//!    ("static groups");
//! 2. codes, column by column in the order of importance, each column's error repaid by the columns
//!    still to come (GPTQ, Frantar et al., arXiv 2210.17323);
//! 3. codes and sub-scales again, a group at a time by coordinate descent with everything else
//!    fixed, then the row's scale by least squares. No step of this one can make the error larger.
//!
//! Rows do not depend on each other: they are shared out in bands of fixed size, so the number of
//! threads changes no bit.

use kinglet::Format;
use kinglet_kernels::layout::GROUP;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::hessian::{Hessian, HessianError};
use super::levels::{Levels, Row, SUB_SCALE};
use super::round::round;
use kinglet_reference::product::{multiply, part, view, view_mut};

/// Rows that go together.
const BAND: usize = 64;
/// Columns between two repayments of their errors to all later ones.
const BLOCK: usize = 64;
/// Rounds of coordinate descent.
const SWEEPS: usize = 3;

/// The Hessian of a product's inputs, in the forms that rounding needs.
pub(crate) struct Factored {
    hessian: Hessian,
    order: Vec<usize>,
    /// U with `H^-1 = U^T U`, in that order.
    upper: Vec<f32>,
    importance: Vec<f32>,
}

impl Factored {
    /// Of a finished Hessian.
    pub(crate) fn new(hessian: Hessian) -> Result<Self, HessianError> {
        let order = hessian.order();
        let upper = hessian.factor(&order)?;
        let importance = hessian.diagonal();
        Ok(Self { hessian, order, upper, importance })
    }

    /// How much each input matters.
    pub(crate) fn importance(&self) -> &[f32] {
        &self.importance
    }

    /// `(H^-1 C)^T` for a matrix C with a row for each input.
    pub(crate) fn solve(&self, c: &[f32]) -> Vec<f32> {
        let cols = self.hessian.cols();
        let width = c.len() / cols;
        let ordered: Vec<f32> =
            self.order.iter().flat_map(|&k| &c[k * width..][..width]).copied().collect();
        let upper = view(&self.upper, cols, cols);
        let (mut half, mut whole) = (vec![0.0; c.len()], vec![0.0; c.len()]);
        multiply(upper, view(&ordered, cols, width), view_mut(&mut half, cols, width));
        multiply(upper.t(), view(&half, cols, width), view_mut(&mut whole, cols, width));
        let mut out = vec![0.0; c.len()];
        for (row, &k) in whole.chunks(width).zip(&self.order) {
            row.iter().enumerate().for_each(|(i, v)| out[i * cols + k] = *v);
        }
        out
    }

    /// Rounds rows of weights.
    pub(crate) fn round(&self, format: Format, weights: &[f32], levels: &Levels) -> Vec<Row> {
        let cols = self.hessian.cols();
        let bands = weights.par_chunks(BAND * cols).map(|weights| {
            let mut rows: Vec<Row> = weights
                .par_chunks(cols)
                .map(|row| round(format, row, &self.importance, levels))
                .collect();
            if format.has_offsets() {
                return rows;
            }
            let grid = Grid { levels };
            self.repay(&grid, weights, &mut rows);
            self.descend(&grid, weights, &mut rows);
            for (row, weights) in rows.iter_mut().zip(weights.chunks(cols)) {
                if !row.fits(levels) || !row.scale.is_finite() {
                    *row = round(format, weights, &self.importance, levels);
                }
            }
            rows
        });
        bands.flatten().collect()
    }

    /// The squared error of the product with rounded rows, as a part of the product's own square.
    pub(crate) fn error(&self, weights: &[f32], rows: &[Row], levels: &Levels) -> f64 {
        let cols = self.hessian.cols();
        let h = view(self.hessian.matrix(), cols, cols);
        let square = |values: &[f32]| -> f64 {
            let mut products = vec![0.0; values.len()];
            let rows = values.len() / cols;
            general_mat_mul(
                1.0,
                &view(values, rows, cols),
                &h,
                0.0,
                &mut view_mut(&mut products, rows, cols),
            );
            values.iter().zip(&products).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let bands =
            weights.par_chunks(BAND * cols).zip(rows.par_chunks(BAND)).map(|(weights, rows)| {
                let values = rows.iter().flat_map(|row| row.values(levels));
                let missing: Vec<f32> = weights.iter().zip(values).map(|(w, q)| w - q).collect();
                [square(&missing), square(weights)]
            });
        let bands: Vec<[f64; 2]> = bands.collect();
        let [missing, whole] = bands.iter().fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
        if whole > 0.0 { missing / whole } else { 0.0 }
    }

    /// Codes anew, by columns.
    fn repay(&self, grid: &Grid<'_>, weights: &[f32], rows: &mut [Row]) {
        let cols = self.hessian.cols();
        let mut left: Vec<f32> =
            weights.chunks(cols).flat_map(|row| self.order.iter().map(|&k| row[k])).collect();
        let mut errors = vec![0.0; rows.len() * BLOCK];
        let upper = view(&self.upper, cols, cols);
        for start in (0..cols).step_by(BLOCK) {
            let end = cols.min(start + BLOCK);
            for (r, row) in rows.iter_mut().enumerate() {
                let left = &mut left[r * cols..][..end];
                for j in start..end {
                    let column = self.order[j];
                    let (code, value) = grid.nearest(row, column, left[j]);
                    row.codes[column] = code;
                    let factors = &self.upper[j * cols..][..end];
                    let error = (left[j] - value) / factors[j];
                    errors[r * BLOCK + j - start] = error;
                    for (left, factor) in left[j + 1..].iter_mut().zip(&factors[j + 1..]) {
                        *left -= error * factor;
                    }
                }
            }
            let errors = part(view(&errors, rows.len(), BLOCK), 0..rows.len(), 0..end - start);
            let mut later: ArrayViewMut2<'_, f32> = view_mut(&mut left, rows.len(), cols);
            later.slice_axis_inplace(Axis(1), (end..).into());
            general_mat_mul(-1.0, &errors, &part(upper, start..end, end..cols), 1.0, &mut later);
        }
    }

    /// Codes, sub-scales and scales again, by groups.
    fn descend(&self, grid: &Grid<'_>, weights: &[f32], rows: &mut [Row]) {
        let cols = self.hessian.cols();
        let h = view(self.hessian.matrix(), cols, cols);
        // What is missing: w - q.
        let mut missing = weights.to_vec();
        let reset = |missing: &mut [f32], rows: &[Row]| {
            for ((missing, weights), row) in
                missing.chunks_mut(cols).zip(weights.chunks(cols)).zip(rows)
            {
                for ((missing, w), q) in
                    missing.iter_mut().zip(weights).zip(row.integers(grid.levels))
                {
                    *missing = w - row.scale * q as f32;
                }
            }
        };
        self.rescale(grid, weights, rows);
        reset(&mut missing, rows);
        for _ in 0..SWEEPS {
            let mut gradients = vec![0.0; rows.len() * GROUP];
            for start in (0..cols).step_by(GROUP) {
                let end = cols.min(start + GROUP);
                let width = end - start;
                let of_group = part(h, 0..cols, start..end);
                let gradients = &mut gradients[..rows.len() * width];
                let from = view(&missing, rows.len(), cols);
                general_mat_mul(
                    1.0,
                    &from,
                    &of_group,
                    0.0,
                    &mut view_mut(gradients, rows.len(), width),
                );
                for (r, row) in rows.iter_mut().enumerate() {
                    let gradient = &mut gradients[r * width..][..width];
                    let missing = &mut missing[r * cols..][start..end];
                    self.descend_group(grid, row, start, missing, gradient);
                }
            }
        }
        self.rescale(grid, weights, rows);
    }

    /// One group of one row; `gradient` is H times what is missing.
    fn descend_group(
        &self,
        grid: &Grid<'_>,
        row: &mut Row,
        start: usize,
        missing: &mut [f32],
        gradient: &mut [f32],
    ) {
        let (cols, h) = (self.hessian.cols(), self.hessian.matrix());
        let width = missing.len();
        for _ in 0..2 {
            let mut changed = false;
            for j in 0..width {
                let of = &h[(start + j) * cols + start..][..width];
                let old = grid.value(row, start + j);
                let (code, new) = grid.nearest(row, start + j, old + gradient[j] / of[j]);
                if code == row.codes[start + j] {
                    continue;
                }
                row.codes[start + j] = code;
                missing[j] -= new - old;
                for (gradient, of) in gradient.iter_mut().zip(of) {
                    *gradient -= (new - old) * of;
                }
                changed = true;
            }
            let Some(&sub) = row.sub_scales.get(start / GROUP) else { return };
            let unit: Vec<f32> =
                (start..start + width).map(|k| row.scale * grid.level(row, k)).collect();
            let (mut along, mut curvature) = (0.0, 0.0);
            for (j, u) in unit.iter().enumerate() {
                let of = &h[(start + j) * cols + start..][..width];
                along += u * gradient[j];
                curvature += u * of.iter().zip(&unit).map(|(h, u)| h * u).sum::<f32>();
            }
            let step = (along / curvature).round_ties_even();
            let next = (f32::from(sub) + if step.is_finite() { step } else { 0.0 })
                .clamp(-SUB_SCALE, SUB_SCALE);
            let step = next - f32::from(sub);
            if step != 0.0 {
                row.sub_scales[start / GROUP] = next as i8;
                for j in 0..width {
                    let of = &h[(start + j) * cols + start..][..width];
                    missing[j] -= step * unit[j];
                    gradient[j] -= step * of.iter().zip(&unit).map(|(h, u)| h * u).sum::<f32>();
                }
            } else if !changed {
                return;
            }
        }
    }

    /// The scale of each row that fits its integers best.
    fn rescale(&self, grid: &Grid<'_>, weights: &[f32], rows: &mut [Row]) {
        let cols = self.hessian.cols();
        let h = view(self.hessian.matrix(), cols, cols);
        let integers: Vec<f32> =
            rows.iter().flat_map(|row| row.integers(grid.levels).map(|q| q as f32)).collect();
        let mut products = vec![0.0; integers.len()];
        general_mat_mul(
            1.0,
            &view(&integers, rows.len(), cols),
            &h,
            0.0,
            &mut view_mut(&mut products, rows.len(), cols),
        );
        let dot = |a: &[f32], b: &[f32]| {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
        };
        for (r, row) in rows.iter_mut().enumerate() {
            let at = r * cols..(r + 1) * cols;
            let products = &products[at.clone()];
            let scale = (dot(&weights[at.clone()], products) / dot(&integers[at], products)) as f32;
            if scale.is_finite() && scale > 0.0 {
                row.scale = scale;
            }
        }
    }
}

/// The values that a row can take.
struct Grid<'l> {
    levels: &'l Levels,
}

impl Grid<'_> {
    /// The step between integers at a column.
    fn unit(&self, row: &Row, column: usize) -> f32 {
        row.sub_scales.get(column / GROUP).map_or(row.scale, |&sub| row.scale * f32::from(sub))
    }

    /// A code in units.
    fn decode(&self, code: i8) -> f32 {
        f32::from(self.levels.value(code))
    }

    fn level(&self, row: &Row, column: usize) -> f32 {
        self.decode(row.codes[column])
    }

    fn value(&self, row: &Row, column: usize) -> f32 {
        self.unit(row, column) * self.level(row, column)
    }

    /// The code nearest to a weight, and its value.
    fn nearest(&self, row: &Row, column: usize, weight: f32) -> (i8, f32) {
        let unit = self.unit(row, column);
        let inv = if unit == 0.0 { 0.0 } else { 1.0 / unit };
        let code = self.levels.nearest(weight * inv);
        (code, unit * self.decode(code))
    }
}
