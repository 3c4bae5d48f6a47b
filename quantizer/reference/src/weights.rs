//! Weights as f32, a block at a time.
//!
//! A block says all that is needed to run it, so a pruned or rounded one runs as any other.

use std::borrow::Cow;
use std::sync::Arc;

use kinglet_model::description::{Attention, Convert, Parts};
use kinglet_model::{Block, Inputs, Norm, NormKind};

use super::{ops, product};
use kinglet_import::checkpoint::{
    self, Architecture, Checkpoint, CheckpointError, Linear, Named, Relative, Values,
};

/// Tensors as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers;

impl Parts for Numbers {
    type Linear = LinearWeights;
    type Vector = Vec<f32>;
    /// Radians for each position, pair by pair.
    type Frequencies = Vec<f64>;
    /// For each query head `2 * reach + 1` numbers, that of a key at its query's own position in
    /// the middle, later keys after it; keys further away than the reach have the outermost.
    type Relative = Arc<Vec<f32>>;
    type Table = Vec<f32>;
    type Blocks = Vec<BlockWeights>;
}

/// Tensors whose vectors are numbers, whatever their matrices are.
pub trait Vectors:
    Parts<Vector = Vec<f32>, Frequencies = Vec<f64>, Relative = Arc<Vec<f32>>> + Sync
{
}

impl<T> Vectors for T where
    T: Parts<Vector = Vec<f32>, Frequencies = Vec<f64>, Relative = Arc<Vec<f32>>> + Sync
{
}

/// The weights of one block.
pub type BlockWeights = Block<Numbers>;
/// The heads of one block.
pub type Heads = Attention<Numbers>;
/// The weights of a norm.
pub type NormWeights = Norm<Vec<f32>>;

/// A matrix product with an optional bias.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearWeights {
    /// Row after row, a row for each output.
    pub weight: Vec<f32>,
    /// One number for each output.
    pub bias: Option<Vec<f32>>,
    /// Inputs.
    pub cols: usize,
    /// What inputs go through first; `None` where they are multiplied as they are.
    pub inputs: Option<Inputs>,
}

/// The relative numbers of a query head.
pub fn relative_of<T: Vectors>(heads: &Attention<T>, head: usize) -> Option<&[f32]> {
    let table = heads.relative.as_ref()?;
    table.chunks(table.len() / heads.heads).nth(head)
}

/// Reads the tensors of a checkpoint.
struct Read<'c>(&'c Checkpoint);

impl Convert<Named, Numbers> for Read<'_> {
    type Error = CheckpointError;

    fn linear(&mut self, of: &Linear) -> Result<LinearWeights, CheckpointError> {
        LinearWeights::read(self.0, of)
    }

    fn vector(&mut self, of: &Values) -> Result<Vec<f32>, CheckpointError> {
        self.0.values(of)
    }

    fn frequencies(&mut self, of: &Vec<f64>) -> Result<Vec<f64>, CheckpointError> {
        Ok(of.clone())
    }

    /// The numbers of a table in buckets at each distance, a row for each head.
    fn relative(&mut self, of: &Relative) -> Result<Arc<Vec<f32>>, CheckpointError> {
        let (table, heads) = (self.0.read(&of.table)?, of.table.cols());
        let reach = of.max_distance as isize;
        let of_head = |head: usize| {
            let table = &table;
            (-reach..=reach).map(move |distance| table[of.bucket(distance) * heads + head])
        };
        Ok(Arc::new((0..heads).flat_map(of_head).collect()))
    }
}

/// Reads the weights of a block.
pub(super) fn read(
    checkpoint: &Checkpoint,
    block: &checkpoint::Block,
) -> Result<BlockWeights, CheckpointError> {
    block.convert(&mut Read(checkpoint))
}

/// Reads the weights of a norm, if there is one.
///
/// # Errors
///
/// What is wrong with the tensors.
pub fn read_norm(
    checkpoint: &Checkpoint,
    norm: &Option<checkpoint::Norm>,
) -> Result<Option<NormWeights>, CheckpointError> {
    norm.as_ref().map(|norm| norm.convert(|values| checkpoint.values(values))).transpose()
}

/// What a norm does.
pub trait ApplyNorm {
    /// Norms each run of as many numbers as there are weights.
    fn apply(&self, x: &[f32]) -> Vec<f32>;
}

impl ApplyNorm for NormWeights {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut out = match self.kind {
            NormKind::Rms => ops::rms_norm(x, &self.weight, self.eps),
            NormKind::Layer => ops::layer_norm(x, &self.weight, self.eps),
        };
        if let Some(bias) = &self.bias {
            out.chunks_mut(bias.len()).for_each(|row| ops::add(row, bias));
        }
        out
    }
}

impl LinearWeights {
    /// Reads matrices that lie one below the other. Where only some have a bias, that of the others
    /// is zero.
    pub(super) fn read(checkpoint: &Checkpoint, of: &Linear) -> Result<Self, CheckpointError> {
        let (mut weight, mut bias) = (vec![], vec![]);
        for part in of.parts() {
            weight.append(&mut checkpoint.read(&part.weight)?);
            match &part.bias {
                Some(part) => bias.append(&mut checkpoint.read(part)?),
                None => bias.resize(bias.len() + part.rows(), 0.0),
            }
        }
        Ok(Self { weight, bias: of.has_bias().then_some(bias), cols: of.cols(), inputs: None })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.weight.len() / self.cols
    }

    /// The outputs for each row of inputs.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        self.outputs(&prepare(self.inputs, x, self.cols))
    }

    /// The outputs for inputs that went through all that they go through.
    pub fn outputs(&self, prepared: &[f32]) -> Vec<f32> {
        let mut y = product::rows_by_rows(prepared, &self.weight, self.cols);
        if let Some(bias) = &self.bias {
            for row in y.chunks_exact_mut(bias.len()) {
                ops::add(row, bias);
            }
        }
        y
    }
}

impl LinearWeights {
    /// The same product with transformed inputs.
    pub fn transformed(&self) -> Self {
        let weight = ops::transformed(&self.weight, self.cols);
        Self { weight, bias: self.bias.clone(), cols: self.cols, inputs: Some(Inputs::Transformed) }
    }

    /// The gradient of the inputs from that of the outputs.
    pub fn back(&self, gradient: &[f32]) -> Vec<f32> {
        let (rows, tokens) = (self.rows(), gradient.len() / self.rows());
        let mut inputs = vec![0.0; tokens * self.cols];
        let (gradient, weight) =
            (product::view(gradient, tokens, rows), product::view(&self.weight, rows, self.cols));
        product::multiply(gradient, weight, product::view_mut(&mut inputs, tokens, self.cols));
        // The transform is its own transpose.
        if self.inputs == Some(Inputs::Transformed) {
            ops::transformed(&inputs, self.cols)
        } else {
            inputs
        }
    }
}

/// Bytes of all blocks and the head as f32, near enough: vectors are left out.
pub(super) fn bytes(architecture: &Architecture) -> usize {
    let blocks = architecture.blocks().map(checkpoint::weights);
    let head = architecture.output.head.as_ref().map_or(0, Linear::len);
    let numbers = blocks.fold(head, usize::saturating_add);
    numbers.saturating_mul(size_of::<f32>())
}

/// Rows of `cols` numbers after all that they go through.
pub fn prepare(inputs: Option<Inputs>, x: &[f32], cols: usize) -> Cow<'_, [f32]> {
    match inputs {
        None => Cow::Borrowed(x),
        Some(Inputs::Rounded) => Cow::Owned(ops::rounded(x, cols)),
        Some(Inputs::Transformed) => Cow::Owned(ops::rounded(&ops::transformed(x, cols), cols)),
        Some(Inputs::Planes) => {
            let mut high = ops::rounded(x, cols);
            let left: Vec<f32> = x.iter().zip(&high).map(|(x, high)| x - high).collect();
            ops::add(&mut high, &ops::rounded(&left, cols));
            Cow::Owned(high)
        }
    }
}
