//! Matrix products, in tiles of fixed size.
//!
//! The tiles are what threads share out, so the result cannot depend on how
//! many there are; within a tile the order of the sums is that of `ndarray`
//! (and `matrixmultiply` below it) for the machine at hand.

use std::ops::Range;

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

/// Rows of the first factor in a tile.
const TILE_ROWS: usize = 512;
/// Rows of the second factor in a tile.
const TILE_COLS: usize = 512;

/// `a * b^T`: each row of `a` times each row of `b`, all of `inner` numbers.
pub fn rows_by_rows(a: &[f32], b: &[f32], inner: usize) -> Vec<f32> {
    let (rows, cols) = (a.len() / inner, b.len() / inner);
    let mut out = vec![0.0; rows * cols];
    rows_by_rows_into(a, b, inner, view_mut(&mut out, rows, cols));
    out
}

/// The same into a given place of the right size.
pub fn rows_by_rows_into(a: &[f32], b: &[f32], inner: usize, out: ArrayViewMut2<'_, f32>) {
    multiply(view(a, a.len() / inner, inner), view(b, b.len() / inner, inner).t(), out);
}

/// `a * b`.
pub fn multiply(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, mut out: ArrayViewMut2<'_, f32>) {
    let mut tiles = Vec::new();
    for (band, a) in
        out.axis_chunks_iter_mut(Axis(0), TILE_ROWS).zip(a.axis_chunks_iter(Axis(0), TILE_ROWS))
    {
        tiles.extend(
            columns(band, TILE_COLS)
                .into_iter()
                .zip(b.axis_chunks_iter(Axis(1), TILE_COLS))
                .map(|(tile, b)| (tile, a, b)),
        );
    }
    tiles.into_par_iter().for_each(|(mut tile, a, b)| general_mat_mul(1.0, &a, &b, 0.0, &mut tile));
}

/// Adds `x^T y` to a matrix of `cols` rows, for rows of x of `cols` numbers and as many rows of y.
pub fn add_outer(x: &[f32], y: &[f32], cols: usize, to: &mut [f32]) {
    let tokens = x.len() / cols;
    let width = to.len() / cols;
    let (x, y) = (view(x, tokens, cols), view(y, tokens, width));
    let mut tiles = Vec::new();
    let mut to = view_mut(to, cols, width);
    for (i, band) in to.axis_chunks_iter_mut(Axis(0), TILE_ROWS).enumerate() {
        let x = part(x, 0..tokens, i * TILE_ROWS..i * TILE_ROWS + band.nrows());
        let bands =
            columns(band, TILE_COLS).into_iter().zip(y.axis_chunks_iter(Axis(1), TILE_COLS));
        tiles.extend(bands.map(|(tile, y)| (tile, x, y)));
    }
    tiles
        .into_par_iter()
        .for_each(|(mut tile, x, y)| general_mat_mul(1.0, &x.t(), &y, 1.0, &mut tile));
}

/// Splits a matrix into bands of `width` columns.
pub fn columns(mut rest: ArrayViewMut2<'_, f32>, width: usize) -> Vec<ArrayViewMut2<'_, f32>> {
    let mut bands = Vec::new();
    while rest.ncols() > width {
        let (band, others) = rest.split_at(Axis(1), width);
        bands.push(band);
        rest = others;
    }
    bands.push(rest);
    bands
}

/// Some rows and columns of a matrix.
pub fn part(
    mut matrix: ArrayView2<'_, f32>,
    rows: Range<usize>,
    cols: Range<usize>,
) -> ArrayView2<'_, f32> {
    matrix.slice_axis_inplace(Axis(0), rows.into());
    matrix.slice_axis_inplace(Axis(1), cols.into());
    matrix
}

/// Numbers as a matrix of these sizes, which is what they are.
pub fn view(numbers: &[f32], rows: usize, cols: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, cols), numbers).expect("rows times columns numbers")
}

/// Numbers as a matrix of these sizes, to be written.
pub fn view_mut(numbers: &mut [f32], rows: usize, cols: usize) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((rows, cols), numbers).expect("rows times columns numbers")
}
