//! What a calibration tells of a product: the Hessian of its inputs, and what its outputs
//! should be instead.
//!
//! Rounding follows most of the sequences. The last tenth is held out, and judges what is done: see
//! [`linear`](super::linear).

use ndarray::linalg::general_mat_mul;
use rayon::prelude::*;

use super::hessian::{Hessian, HessianError};
use kinglet_reference::product::{add_outer, multiply, view, view_mut};

/// One sequence in so many is held out.
const HELD_OUT: usize = 10;

/// How many of some sequences are held out, the last ones.
pub(crate) fn held_out(sequences: usize) -> usize {
    sequences.div_ceil(HELD_OUT)
}

/// Rows that are multiplied at once.
const BAND: usize = 64;

/// What the outputs of a product should be, so that it makes up for what was rounded before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// What the inputs at hand give without rounding.
    Own,
    /// What other inputs would give: those of the f32 model.
    Inputs,
    /// Given outputs, without the bias, of so many numbers a row.
    Outputs(usize),
}

/// Sums over tokens.
pub(crate) struct Sums {
    aim: Aim,
    pub(crate) hessian: Hessian,
    /// `X^T Y` for what is aimed at, Y, a row for each input.
    cross: Vec<f32>,
}

impl Sums {
    fn new(cols: usize, aim: Aim) -> Self {
        let width = match aim {
            Aim::Own => 0,
            Aim::Inputs => cols,
            Aim::Outputs(rows) => rows,
        };
        Self { aim, hessian: Hessian::new(cols), cross: vec![0.0; cols * width] }
    }

    fn add(&mut self, x: &[f32], aimed: &[f32]) {
        self.hessian.add(x);
        if !self.cross.is_empty() {
            add_outer(x, aimed, self.hessian.cols(), &mut self.cross);
        }
    }

    /// With those of other tokens; both are finished.
    pub(crate) fn join(&mut self, other: &Self) {
        self.hessian.join(&other.hessian);
        self.cross.iter_mut().zip(&other.cross).for_each(|(a, b)| *a += b);
    }

    /// `X^T R` for what the outputs of some rows of weights lack, R; nothing if they lack nothing.
    /// `numbers` are those of the rows.
    pub(crate) fn lack(&self, weights: &[f32], numbers: &[usize]) -> Vec<f32> {
        let (cols, rows) = (self.hessian.cols(), numbers.len());
        let mut lack = vec![0.0; if self.aim == Aim::Own { 0 } else { cols * rows }];
        let weights = view(weights, rows, cols);
        match self.aim {
            Aim::Own => {}
            Aim::Inputs => {
                let beyond: Vec<f32> =
                    self.cross.iter().zip(self.hessian.matrix()).map(|(c, h)| c - h).collect();
                multiply(view(&beyond, cols, cols), weights.t(), view_mut(&mut lack, cols, rows));
            }
            Aim::Outputs(width) => {
                multiply(
                    view(self.hessian.matrix(), cols, cols),
                    weights.t(),
                    view_mut(&mut lack, cols, rows),
                );
                for (lack, cross) in lack.chunks_mut(rows).zip(self.cross.chunks(width)) {
                    lack.iter_mut()
                        .zip(numbers)
                        .for_each(|(lack, &row)| *lack = cross[row] - *lack);
                }
            }
        }
        lack
    }

    /// What a change of rows of weights does to the squared error of outputs that lack this: the
    /// square of the change, and how much of it goes the right way. The error rises by the first
    /// less twice the second.
    pub(crate) fn effect(&self, change: &[f32], lack: &[f32]) -> [f64; 2] {
        let cols = self.hessian.cols();
        let h = view(self.hessian.matrix(), cols, cols);
        let width = lack.len() / cols;
        let dot = |a: f32, b: f32| f64::from(a) * f64::from(b);
        let bands = change.par_chunks(BAND * cols).enumerate().map(|(band, change)| {
            let rows = change.len() / cols;
            let mut products = vec![0.0; change.len()];
            general_mat_mul(
                1.0,
                &view(change, rows, cols),
                &h,
                0.0,
                &mut view_mut(&mut products, rows, cols),
            );
            let square: f64 = change.iter().zip(&products).map(|(a, b)| dot(*a, *b)).sum();
            let of_row = |(r, row): (usize, &[f32])| -> f64 {
                row.iter()
                    .zip(lack[band * BAND + r..].iter().step_by(width))
                    .map(|(a, b)| dot(*a, *b))
                    .sum()
            };
            let along =
                if width == 0 { 0.0 } else { change.chunks(cols).enumerate().map(of_row).sum() };
            [square, along]
        });
        let bands: Vec<[f64; 2]> = bands.collect();
        bands.iter().fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]])
    }
}

/// What was seen of a product.
pub(crate) struct Evidence {
    pub(crate) fitted: Sums,
    /// Of the tokens that are held out, if there are any.
    pub(crate) held: Option<Sums>,
    /// Rows that are to come before those.
    left: usize,
}

impl Evidence {
    /// Of a product with so many inputs, on sequences of these lengths.
    pub(crate) fn new(cols: usize, aim: Aim, lengths: &[usize]) -> Self {
        let held = if lengths.len() > 1 { held_out(lengths.len()) } else { 0 };
        Self {
            fitted: Sums::new(cols, aim),
            held: (held > 0).then(|| Sums::new(cols, aim)),
            left: lengths[..lengths.len() - held].iter().sum(),
        }
    }

    /// Adds rows of inputs, and what is aimed at for each.
    pub(crate) fn add(&mut self, x: &[f32], aimed: &[f32]) {
        let cols = self.fitted.hessian.cols();
        let rows = x.len() / cols;
        let first = rows.min(self.left);
        self.left -= first;
        let width = aimed.len() / rows.max(1);
        let ((x, held), (aimed, held_aimed)) =
            (x.split_at(first * cols), aimed.split_at(first * width));
        if !x.is_empty() {
            self.fitted.add(x, aimed);
        }
        if let Some(sums) = self.held.as_mut().filter(|_| !held.is_empty()) {
            sums.add(held, held_aimed);
        }
    }

    /// Completes the Hessian.
    ///
    /// # Errors
    /// As [`Hessian::finish`].
    pub(crate) fn finish(&mut self) -> Result<(), HessianError> {
        self.fitted.hessian.finish()?;
        self.held.as_mut().map_or(Ok(()), |held| held.hessian.finish())
    }
}
