//! Rounded products as the runtime computes them: packed weights, rows of int8, the kernels of this
//! machine. The bits are those of any other machine, and a calibration pass costs a fraction of
//! what it does in f32.

use kinglet::Isa;
use kinglet_kernels::activations::{stride, sums};
use kinglet_kernels::layout::ALIGN;
use kinglet_kernels::{Activations, ActivationsMut, Matrix};
use rayon::prelude::*;

use super::pack;
use super::rounded::{RoundedBlock, RoundedLinear};
use kinglet_model::write::Kind;
use kinglet_reference::{
    ApplyNorm, Batch, Inputs, NormWeights, Operation, Part, Vectors, base, joined, mix, ops,
};

/// Tokens that go through a product at once.
pub(crate) const TOKENS: usize = 2048;
/// Rows that one thread takes at once.
const ROWS: usize = 64;

/// Rows of activations as the runtime codes them: a quarter of their size.
pub(crate) struct Rows {
    codes: Vec<i8>,
    sums: Vec<i16>,
    scales: Vec<f32>,
    cols: usize,
    /// Of each row.
    planes: usize,
}

impl Rows {
    /// Codes rows of `cols` numbers for a product with such inputs. One that holds what is no
    /// number, or infinite, has a scale that is no number.
    pub(crate) fn new(x: &[f32], cols: usize, inputs: Inputs) -> Self {
        let transformed;
        let x = match inputs {
            Inputs::Transformed => {
                transformed = ops::transformed(x, cols);
                &transformed
            }
            Inputs::Rounded | Inputs::Planes => x,
        };
        if inputs == Inputs::Planes {
            return Self::in_planes(x, cols);
        }
        let rows = x.len() / cols;
        let mut new = Self {
            codes: vec![0; rows * stride(cols)],
            sums: vec![0; rows * sums(cols)],
            scales: vec![0.0; rows],
            cols,
            planes: 1,
        };
        let isa = Isa::detect();
        let codes = new.codes.par_chunks_mut(stride(cols)).zip(new.sums.par_chunks_mut(sums(cols)));
        codes.zip(&mut new.scales).zip(x.par_chunks(cols)).with_min_len(16).for_each(
            |(((codes, sums), scale), x)| {
                isa.quantize(
                    x,
                    &mut ActivationsMut::new(codes, sums, std::slice::from_mut(scale), cols),
                    0,
                );
                if !ops::int8_scale(x).is_finite() {
                    *scale = f32::NAN;
                }
            },
        );
        new
    }

    /// The same in two planes.
    fn in_planes(x: &[f32], cols: usize) -> Self {
        let rows = x.len() / cols;
        let mut new = Self {
            codes: vec![0; 2 * rows * stride(cols)],
            sums: vec![0; 2 * rows * sums(cols)],
            scales: vec![0.0; 2 * rows],
            cols,
            planes: 2,
        };
        let isa = Isa::detect();
        let codes =
            new.codes.par_chunks_mut(2 * stride(cols)).zip(new.sums.par_chunks_mut(2 * sums(cols)));
        let rows = codes.zip(new.scales.par_chunks_mut(2)).zip(x.par_chunks(cols));
        rows.with_min_len(16).for_each(|(((codes, sums), scales), x)| {
            isa.quantize_planes(
                &mut x.to_vec(),
                &mut ActivationsMut::new(codes, sums, scales, cols).in_planes(2),
                0,
            );
            if !ops::int8_scale(x).is_finite() {
                scales.fill(f32::NAN);
            }
        });
        new
    }

    /// Rows.
    fn rows(&self) -> usize {
        self.scales.len() / self.planes
    }

    /// The numbers that the codes stand for.
    pub(crate) fn values(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.scales.len() * self.cols];
        let rows = values
            .par_chunks_mut(self.cols)
            .zip(self.codes.par_chunks(stride(self.cols)))
            .zip(&self.scales);
        rows.with_min_len(16).for_each(|((values, codes), &scale)| {
            values
                .iter_mut()
                .zip(codes)
                .for_each(|(value, &code)| *value = f32::from(code) * scale);
        });
        if self.planes == 2 {
            let pairs = values.chunks_exact(2 * self.cols).map(|pair| pair.split_at(self.cols));
            return pairs
                .flat_map(|(high, low)| high.iter().zip(low).map(|(high, low)| high + low))
                .collect();
        }
        values
    }
}

/// A packed product.
pub(crate) struct Packed<'l> {
    of: &'l RoundedLinear,
    sparse: bool,
    /// Its bytes, and where they start, at a multiple of 64.
    memory: Vec<u8>,
    start: usize,
}

impl<'l> Packed<'l> {
    pub(crate) fn new(of: &'l RoundedLinear) -> Self {
        let mut bytes = vec![];
        pack::write(of, &mut |more| {
            bytes.extend_from_slice(more);
            Ok(())
        })
        .expect("memory takes any bytes");
        let mut memory = vec![0; bytes.len() + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        memory.truncate(start + bytes.len());
        memory[start..].copy_from_slice(&bytes);
        Self { of, sparse: matches!(pack::kind(of), Kind::Sparse(..)), memory, start }
    }

    /// The outputs for each row of inputs.
    pub(crate) fn apply(&mut self, x: &Rows) -> Vec<f32> {
        let (rows, cols) = (self.of.rows.len(), self.of.cols);
        let bytes = &self.memory[self.start..];
        let matrix =
            Matrix::read(self.of.format, rows, cols, self.sparse, bytes).expect("it was packed");
        let isa = Isa::detect();
        let mut out = vec![0.0; x.rows() * rows];
        out.par_chunks_mut(ROWS * rows).enumerate().for_each(|(i, out)| {
            let (first, count) = (i * ROWS, out.len() / rows);
            let x = Activations::new(&x.codes, &x.sums, &x.scales, cols)
                .in_planes(x.planes)
                .slice(first, count);
            isa.matmul(&matrix, &x, 0..matrix.panels(), out, rows);
            if let Some(bias) = &self.of.bias {
                out.chunks_mut(rows).for_each(|row| ops::add(row, bias));
            }
        });
        out
    }
}

/// What the last product of a block sees, the others being rounded.
pub(crate) fn mixed<T: Vectors>(
    norm: Option<&NormWeights>,
    operation: &Operation<T>,
    input: Option<&mut Packed<'_>>,
    states: Option<&mut Packed<'_>>,
    part: &Part<'_>,
) -> Vec<f32> {
    let normed = norm.map_or_else(|| part.stream.to_vec(), |norm| norm.apply(part.stream));
    let projected = match input {
        Some(input) => input.apply(&Rows::new(&normed, input.of.cols, input.of.inputs)),
        None => normed,
    };
    let of_states = states.map_or_else(Vec::new, |of| {
        of.apply(&Rows::new(part.sequences.states, of.of.cols, of.of.inputs))
    });
    mix(operation, part.sequences, projected, of_states)
}

/// Takes a batch through a rounded block.
pub(crate) fn advance(block: &RoundedBlock, batch: &mut Batch) {
    let [mut input, mut states] =
        [&block.input, &block.states].map(|of| of.as_ref().map(Packed::new));
    let mut output = Packed::new(&block.output);
    batch.step(TOKENS, |part| {
        let mixed =
            mixed(block.norm.as_ref(), &block.operation, input.as_mut(), states.as_mut(), &part);
        let branch = output.apply(&Rows::new(&mixed, block.output.cols, block.output.inputs));
        joined(base(&block.residual, part.stream), branch)
    });
}
