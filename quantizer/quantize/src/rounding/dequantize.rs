//! The blocks of a `.kinglet` file as the f32 forward pass has them: rows times their scales,
//! phases as radians, relative numbers in units of the exponential function. Products round their
//! inputs, as the runtime's do; keys and values stay f32.

use std::convert::Infallible;
use std::f64::consts::TAU;
use std::sync::Arc;

use kinglet::{Isa, Matrix};
use kinglet_kernels::Activations;
use kinglet_kernels::activations::{stride, sums};
use kinglet_kernels::layout::GROUP;
use kinglet_model::description::Convert;
use kinglet_model::{Block, InPlace, Linear, Norm};

use kinglet_reference::{BlockWeights, LinearWeights, NormWeights, Numbers};

/// Columns of a sparse matrix that are read at once.
const COLUMNS: usize = 64;

/// The numbers of a matrix, row by row.
pub fn matrix(of: &Matrix<'_>) -> Vec<f32> {
    let (rows, cols) = (of.rows(), of.cols());
    let mut numbers = vec![0.0; rows * cols];
    if !of.is_sparse() {
        numbers.chunks_exact_mut(cols).enumerate().for_each(|(row, to)| of.dequantize_row(row, to));
        return numbers;
    }
    // What a sparse matrix makes of the unit vectors.
    for first in (0..cols).step_by(COLUMNS) {
        let count = COLUMNS.min(cols - first);
        let (mut codes, mut of_groups) =
            (vec![0; count * stride(cols)], vec![0; count * sums(cols)]);
        for i in 0..count {
            codes[i * stride(cols) + first + i] = 1;
            of_groups[i * sums(cols) + (first + i) / GROUP] = 1;
        }
        let scales = vec![1.0; count];
        let mut columns = vec![0.0; count * rows];
        let units = Activations::new(&codes, &of_groups, &scales, cols);
        Isa::detect().matmul(of, &units, 0..of.panels(), &mut columns, rows);
        for (i, column) in columns.chunks_exact(rows).enumerate() {
            column
                .iter()
                .enumerate()
                .for_each(|(row, number)| numbers[row * cols + first + i] = *number);
        }
    }
    numbers
}

/// A product.
pub fn linear(of: &Linear<'_>) -> LinearWeights {
    let bias = of.bias.map(<[f32]>::to_vec);
    let weight = matrix(&of.matrix);
    LinearWeights { weight, bias, cols: of.matrix.cols(), inputs: Some(of.inputs) }
}

/// A norm.
pub fn norm(of: &Norm<&[f32]>) -> NormWeights {
    let (weight, bias) = (of.weight.to_vec(), of.bias.map(<[f32]>::to_vec));
    NormWeights { kind: of.kind, weight, bias, eps: of.eps }
}

/// A block.
pub fn block(of: &Block<InPlace<'_>>) -> BlockWeights {
    let Ok(block) = of.convert(&mut Dequantize);
    block
}

struct Dequantize;

impl<'a> Convert<InPlace<'a>, Numbers> for Dequantize {
    type Error = Infallible;

    fn linear(&mut self, of: &Linear<'a>) -> Result<LinearWeights, Infallible> {
        Ok(linear(of))
    }

    fn vector(&mut self, of: &&'a [f32]) -> Result<Vec<f32>, Infallible> {
        Ok(of.to_vec())
    }

    fn frequencies(&mut self, of: &&'a [u32]) -> Result<Vec<f64>, Infallible> {
        Ok(of.iter().map(|&phase| f64::from(phase) / 4_294_967_296.0 * TAU).collect())
    }

    fn relative(&mut self, of: &&'a [f32]) -> Result<Arc<Vec<f32>>, Infallible> {
        Ok(Arc::new(of.iter().map(|x| x / std::f32::consts::LOG2_E).collect()))
    }
}

#[cfg(test)]
mod tests {
    use kinglet::Format;

    use super::*;
    use crate::rounding::pack;
    use kinglet_model::write::Kind;
    use kinglet_reference::testing::numbers;

    #[test]
    fn matrices_read_back_as_they_were_packed() {
        let (rows, cols) = (37, 83);
        for format in Format::ALL {
            for sparse in
                [false, true].into_iter().filter(|sparse| !sparse || format.may_be_sparse())
            {
                let mut weight = numbers(rows * cols, 5);
                if sparse {
                    // Two of three panels are zero.
                    weight[..32 * cols].fill(0.0);
                }
                let of = LinearWeights { weight, bias: None, cols, inputs: None };
                let (rounded, _) = crate::rounding::linear(&of, format, None).unwrap();
                let mut bytes = vec![];
                pack::write(&rounded, &mut |more| {
                    bytes.extend_from_slice(more);
                    Ok(())
                })
                .unwrap();
                assert_eq!(matches!(pack::kind(&rounded), Kind::Sparse(..)), sparse, "{format:?}");
                let mut memory = kinglet::Memory::new(bytes.len()).unwrap();
                memory.bytes().copy_from_slice(&bytes);
                let read = Matrix::read(format, rows, cols, sparse, memory.bytes()).unwrap();
                assert_eq!(matrix(&read), rounded.weights().weight, "{format:?} {sparse}");
            }
        }
    }
}
