//! A rounded block in memory, between rounding and the file.

use kinglet::Format;

use super::round::{Levels, Row};
use crate::checkpoint::Join;
use crate::reference::{BlockWeights, Inputs, LinearWeights, Middle, NormWeights, Site};

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
    /// What they go through: rounded, to one plane or two, or transformed first.
    pub inputs: Inputs,
    /// One number for each output.
    pub bias: Option<Vec<f32>>,
}

impl RoundedLinear {
    /// The product that the runtime computes.
    pub fn weights(&self) -> LinearWeights {
        let weight = self.rows.iter().flat_map(|row| row.values(&self.levels)).collect();
        LinearWeights { weight, bias: self.bias.clone(), cols: self.cols, inputs: self.inputs }
    }
}

/// A rounded block: as [`BlockWeights`], with rounded products.
#[derive(Clone, Debug)]
pub struct RoundedBlock {
    /// The layer of the checkpoint that it belongs to.
    pub layer: usize,
    /// The norm before the branch.
    pub norm: Option<NormWeights>,
    /// How the branch joins the stream.
    pub join: Join,
    /// With [`Join::Post`] the norm of the stream itself.
    pub stream_norm: Option<NormWeights>,
    /// From the stream; a projection has none.
    pub input: Option<RoundedLinear>,
    /// From the states of the stack before: keys, then values.
    pub memory: Option<RoundedLinear>,
    /// What happens between the products.
    pub middle: Middle,
    /// Back to the stream.
    pub output: RoundedLinear,
}

impl RoundedBlock {
    /// One of its products, if it has that.
    pub fn product(&self, site: Site) -> Option<&RoundedLinear> {
        match site {
            Site::Input => self.input.as_ref(),
            Site::Memory => self.memory.as_ref(),
            Site::Output => Some(&self.output),
            Site::Head => None,
        }
    }

    /// All products, in order.
    pub fn products(&self) -> impl Iterator<Item = (Site, &RoundedLinear)> {
        Site::OF_BLOCK.into_iter().filter_map(|site| Some((site, self.product(site)?)))
    }

    /// The block that the runtime computes, but for the rounding of keys and values.
    pub fn weights(&self) -> BlockWeights {
        BlockWeights {
            norm: self.norm.clone(),
            join: self.join,
            stream_norm: self.stream_norm.clone(),
            input: self.input.as_ref().map(RoundedLinear::weights),
            memory: self.memory.as_ref().map(RoundedLinear::weights),
            middle: self.middle.clone(),
            output: self.output.weights(),
        }
    }
}
