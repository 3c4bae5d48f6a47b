//! The blocks of a `.kinglet` file as the f32 forward pass has them: rows times their scales,
//! phases as radians, relative numbers in units of the exponential function. Products round their
//! inputs, as the runtime's do; keys and values stay f32.

use std::f64::consts::TAU;
use std::sync::Arc;

use kinglet::format::{self, Attention, Linear, Norm};
use kinglet::{Isa, Matrix};
use kinglet_kernels::activations::{stride, sums};
use kinglet_kernels::layout::GROUP;
use kinglet_kernels::{Activation as Kernel, Activations};

use crate::checkpoint::{Activation, Join, NormKind, Rope, Sight};
use crate::reference::{BlockWeights, Heads, Inputs, LinearWeights, Middle, NormWeights};

/// Columns of a sparse matrix that are read at once.
const COLUMNS: usize = 64;

/// The numbers of a matrix, row by row.
pub(crate) fn matrix(of: &Matrix<'_>) -> Vec<f32> {
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
pub(crate) fn linear(of: &Linear<'_>) -> LinearWeights {
    let inputs = match of.inputs {
        format::Inputs::Plain => Inputs::Rounded,
        format::Inputs::Transformed => Inputs::Transformed,
        format::Inputs::Planes => Inputs::Planes,
    };
    let bias = of.bias.map(<[f32]>::to_vec);
    LinearWeights { weight: matrix(&of.matrix), bias, cols: of.matrix.cols(), inputs }
}

/// A norm.
pub(crate) fn norm(of: &Norm<'_>) -> NormWeights {
    let kind = if of.is_layer() { NormKind::Layer } else { NormKind::Rms };
    NormWeights {
        kind,
        weight: of.weight.to_vec(),
        bias: of.bias.map(<[f32]>::to_vec),
        eps: of.eps,
    }
}

/// A block.
pub(crate) fn block(of: &format::Block<'_>) -> BlockWeights {
    let (input, memory, middle) = match &of.middle {
        format::Middle::Attention(attention) => {
            let memory = match &attention.sight {
                format::Sight::Cross(memory) => Some(linear(memory)),
                format::Sight::Earlier | format::Sight::All => None,
            };
            (Some(linear(&attention.input)), memory, Middle::Attention(heads(attention)))
        }
        format::Middle::FeedForward { input, gated, activation, .. } => {
            let middle =
                Middle::FeedForward { activation: self::activation(*activation), gated: *gated };
            (Some(linear(input)), None, middle)
        }
        format::Middle::Projection => (None, None, Middle::Projection),
    };
    let (join, stream_norm) = match &of.join {
        format::Join::Pre => (Join::Pre, None),
        format::Join::Post(stream) => (Join::Post, Some(norm(stream))),
        format::Join::Replace => (Join::Replace, None),
    };
    let output = linear(&of.output);
    BlockWeights {
        norm: of.norm.as_ref().map(norm),
        join,
        stream_norm,
        input,
        memory,
        middle,
        output,
    }
}

fn heads(of: &Attention<'_>) -> Heads {
    let norm = |weight: Option<&[f32]>| {
        let eps = of.head_norm_eps;
        weight.map(|weight| NormWeights {
            kind: NormKind::Rms,
            weight: weight.to_vec(),
            bias: None,
            eps,
        })
    };
    let radians = |&phase: &u32| f64::from(phase) / 4_294_967_296.0 * TAU;
    let rope =
        || Rope { inv_freq: of.rope.iter().map(radians).collect(), magnitude: of.rope_magnitude };
    let relative = || Arc::new(of.relative.iter().map(|x| x / std::f32::consts::LOG2_E).collect());
    Heads {
        heads: of.heads,
        kv_heads: of.kv_heads,
        dim: of.head_dim,
        scale: of.score_scale,
        query_norm: norm(of.query_norm),
        key_norm: norm(of.key_norm),
        rope: (!of.rope.is_empty()).then(rope),
        sight: match of.sight {
            format::Sight::Earlier => Sight::Earlier,
            format::Sight::All => Sight::All,
            format::Sight::Cross(_) => Sight::Cross,
        },
        relative: (!of.relative.is_empty()).then(relative),
        transforms: of.heads_inputs == format::Inputs::Transformed,
    }
}

fn activation(of: Kernel) -> Activation {
    match of {
        Kernel::Silu => Activation::Silu,
        Kernel::Gelu => Activation::Gelu,
        Kernel::GeluTanh => Activation::GeluTanh,
        Kernel::Relu => Activation::Relu,
        Kernel::Tanh => Activation::Tanh,
        Kernel::Identity => Activation::Identity,
    }
}

#[cfg(test)]
mod tests {
    use kinglet::Format;

    use super::*;
    use crate::quantize::{self, pack};
    use crate::testing::numbers;
    use kinglet_model::write::Kind;

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
                let of = LinearWeights { weight, bias: None, cols, inputs: Inputs::Exact };
                let (rounded, _) = quantize::linear(&of, format, None).unwrap();
                let mut bytes = vec![];
                pack::write(&rounded, &mut |more| {
                    bytes.extend_from_slice(more);
                    Ok(())
                })
                .unwrap();
                assert_eq!(matches!(pack::kind(&rounded), Kind::Sparse(..)), sparse, "{format:?}");
                let mut memory = crate::Memory::new(bytes.len());
                memory.bytes().copy_from_slice(&bytes);
                let read = Matrix::read(format, rows, cols, sparse, memory.bytes()).unwrap();
                assert_eq!(matrix(&read), rounded.weights().weight, "{format:?} {sparse}");
            }
        }
    }
}
