//! A rounded block in memory, between rounding and the file.

use std::convert::Infallible;
use std::sync::Arc;

use kinglet::Format;
use kinglet_model::description::{Convert, Parts};
use kinglet_model::{Block, Inputs};

use super::levels::{Levels, Row};
use kinglet_reference::{BlockWeights, LinearWeights, Numbers};

/// A rounded matrix, with the bias of its product.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundedLinear {
    /// How it is coded.
    pub format: Format,
    /// The levels of int4 codes.
    pub levels: Levels,
    /// One for each output.
    pub rows: Vec<Row>,
    /// Inputs.
    pub cols: usize,
    /// What they go through: rounded, to one plane or two, or transformed first.
    pub inputs: Inputs,
    /// One number for each output.
    pub bias: Option<Vec<f32>>,
}

impl RoundedLinear {
    /// The product that the runtime computes.
    pub fn weights(&self) -> LinearWeights {
        let weight = self.rows.iter().flat_map(|row| row.values(&self.levels)).collect();
        LinearWeights {
            weight,
            bias: self.bias.clone(),
            cols: self.cols,
            inputs: Some(self.inputs),
        }
    }
}

/// Rounded tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rounded;

impl Parts for Rounded {
    type Linear = RoundedLinear;
    type Vector = Vec<f32>;
    type Frequencies = Vec<f64>;
    type Relative = Arc<Vec<f32>>;
    type Table = RoundedLinear;
    type Blocks = Vec<RoundedBlock>;
}

/// A rounded block.
pub type RoundedBlock = Block<Rounded>;

/// The block that the runtime computes, but for the rounding of keys and values.
pub fn block_weights(of: &RoundedBlock) -> BlockWeights {
    let Ok(block) = of.convert(&mut Unrounded);
    block
}

struct Unrounded;

impl Convert<Rounded, Numbers> for Unrounded {
    type Error = Infallible;

    fn linear(&mut self, of: &RoundedLinear) -> Result<LinearWeights, Infallible> {
        Ok(of.weights())
    }

    fn vector(&mut self, of: &Vec<f32>) -> Result<Vec<f32>, Infallible> {
        Ok(of.clone())
    }

    fn frequencies(&mut self, of: &Vec<f64>) -> Result<Vec<f64>, Infallible> {
        Ok(of.clone())
    }

    fn relative(&mut self, of: &Arc<Vec<f32>>) -> Result<Arc<Vec<f32>>, Infallible> {
        Ok(Arc::clone(of))
    }
}

/// A block with rounded products in the place of its own.
pub fn assembled(block: &BlockWeights, products: [Option<RoundedLinear>; 3]) -> RoundedBlock {
    let Ok(block) = block.convert(&mut Replace(products.into_iter().flatten()));
    block
}

/// Gives products in the order of a block.
struct Replace<I>(I);

impl<I: Iterator<Item = RoundedLinear>> Convert<Numbers, Rounded> for Replace<I> {
    type Error = Infallible;

    fn linear(&mut self, _: &LinearWeights) -> Result<RoundedLinear, Infallible> {
        Ok(self.0.next().expect("each product was rounded"))
    }

    fn vector(&mut self, of: &Vec<f32>) -> Result<Vec<f32>, Infallible> {
        Ok(of.clone())
    }

    fn frequencies(&mut self, of: &Vec<f64>) -> Result<Vec<f64>, Infallible> {
        Ok(of.clone())
    }

    fn relative(&mut self, of: &Arc<Vec<f32>>) -> Result<Arc<Vec<f32>>, Infallible> {
        Ok(Arc::clone(of))
    }
}
