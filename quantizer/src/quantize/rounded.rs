//! A rounded block in memory, between rounding and the file.

use kinglet::Format;

use super::round::{Levels, Row};
use crate::reference::{BlockWeights, LinearWeights, Middle, NormWeights};

/// A rounded matrix, with the bias of its product.
#[derive(Clone, Debug)]
pub struct RoundedLinear {
    /// How it is coded.
    pub format: Format,
    /// The levels of int4 codes.
    pub levels: Levels,
    /// One for each output.
    pub rows: Vec<Row>,
    /// Inputs.
    pub cols: usize,
    /// One number for each output.
    pub bias: Option<Vec<f32>>,
}

impl RoundedLinear {
    /// The product that the runtime computes.
    pub fn weights(&self) -> LinearWeights {
        let values = |row: &Row| -> Vec<f32> { row.integers(&self.levels).map(|q| row.scale * q as f32).collect() };
        let weight = self.rows.iter().flat_map(values).collect();
        LinearWeights { weight, bias: self.bias.clone(), cols: self.cols, rounds: true }
    }
}

/// A rounded block.
#[derive(Clone, Debug)]
pub struct RoundedBlock {
    /// The layer of the checkpoint that it belongs to.
    pub layer: usize,
    /// The norm before the branch.
    pub norm: NormWeights,
    /// From the stream.
    pub input: RoundedLinear,
    /// What happens between the products.
    pub middle: Middle,
    /// Back to the stream.
    pub output: RoundedLinear,
}

impl RoundedBlock {
    /// The block that the runtime computes, but for the rounding of keys and values.
    pub fn weights(&self) -> BlockWeights {
        BlockWeights {
            norm: self.norm.clone(),
            input: self.input.weights(),
            middle: self.middle.clone(),
            output: self.output.weights(),
        }
    }
}
