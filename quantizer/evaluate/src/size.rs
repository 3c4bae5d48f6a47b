//! Bits a weight, in one definition for targets, records, reports and `kinglet inspect`: all bytes
//! of some matrices (codes, sub-scales, row scales, codebooks and padding) times 8, over their
//! weights. Without more words the matrices are those of the blocks: embeddings and heads have
//! options of their own, and how much they weigh depends on the vocabulary.

use kinglet::{Matrix, Model, OpenError};
use kinglet_model::Values;

/// Bytes and weights of some matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Matrices {
    /// All bytes.
    pub bytes: u64,
    /// Weights, those included that a sparse matrix leaves out.
    pub weights: u64,
}

impl Matrices {
    /// Those of the blocks.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn of_blocks(model: &Model<'_>) -> Result<Self, OpenError> {
        let mut sum = Self::default();
        for index in 0..model.blocks() {
            let block = model.block(index)?;
            block.products().for_each(|(_, product)| sum.add(&product.matrix));
        }
        Ok(sum)
    }

    /// All of a file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn of_file(model: &Model<'_>) -> Result<Self, OpenError> {
        let mut sum = Self::default();
        for index in 0..model.tensors() {
            if let Values::Matrix(matrix) = model.tensor(index)?.values {
                sum.add(&matrix);
            }
        }
        Ok(sum)
    }

    /// Counts one more.
    pub fn add(&mut self, matrix: &Matrix<'_>) {
        self.bytes += bytes(matrix) as u64;
        self.weights += matrix.rows() as u64 * matrix.cols() as u64;
    }

    /// Bits of a weight; 0 where there is none.
    pub fn bits(&self) -> f64 {
        if self.weights == 0 { 0.0 } else { self.bytes as f64 * 8.0 / self.weights as f64 }
    }
}

/// Bytes of a matrix as it lies in a file, with the padding between its parts.
fn bytes(matrix: &Matrix<'_>) -> usize {
    let (format, rows, cols) = (matrix.format(), matrix.rows(), matrix.cols());
    let all = match matrix.is_sparse() {
        true => format.sparse_planes(rows, cols, matrix.blocks()).map(|planes| planes.end),
        false => format.bytes(rows, cols),
    };
    // A matrix that could be opened has a size.
    all.unwrap_or(matrix.bytes())
}
