//! What importers share: products and norms by name, and the order of norms and blocks.

use super::super::finder::Finder;
use super::super::tensors::Tensors;
use super::super::{
    Activation, AttentionBranch, Block, CheckpointError, FeedForwardBranch, Norm, NormKind,
    Product, TensorRef,
};
use super::super::{Branch, Mask, Residual};

const INCOMPLETE: &str = "the files are incomplete, or config.json belongs to another model";

/// Looks tensors up and makes parts of blocks of them.
pub(super) struct Parts<'a> {
    pub(super) finder: Finder<'a>,
    /// Keeps the division of all layer norms finite.
    pub(super) eps: f32,
}

impl<'a> Parts<'a> {
    pub(super) fn new(tensors: &'a Tensors, eps: f32) -> Self {
        Self { finder: Finder::new(tensors, INCOMPLETE), eps }
    }

    /// A tensor's name with the prefix that the files have: `first` if the tensor is there with it,
    /// otherwise none.
    pub(super) fn prefix(&self, first: &'static str, tensor: &str) -> &'static str {
        if self.finder.has(&format!("{first}{tensor}")) { first } else { "" }
    }

    /// `name.weight`, and `name.bias` if there is one.
    pub(super) fn linear(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        bias: bool,
    ) -> Result<Product, CheckpointError> {
        let weight = self.finder.matrix(&format!("{name}.weight"), rows, cols)?;
        let bias = match bias {
            true => Some(self.finder.vector(&format!("{name}.bias"), rows)?),
            false => None,
        };
        Ok(Product { weight, bias })
    }

    /// So many outputs of a product that is stored with a row for each input, from one on.
    pub(super) fn columns(
        &mut self,
        name: &str,
        shape: [usize; 2],
        first: usize,
        count: usize,
    ) -> Result<Product, CheckpointError> {
        let weight = self.finder.matrix(&format!("{name}.weight"), shape[0], shape[1])?;
        let bias = self.finder.vector(&format!("{name}.bias"), shape[1])?;
        Ok(Product { weight: weight.transposed(first, count), bias: Some(bias.part(first, count)) })
    }

    /// A layer norm.
    pub(super) fn layer_norm(&mut self, name: &str, width: usize) -> Result<Norm, CheckpointError> {
        self.layer_norm_of([&format!("{name}.weight"), &format!("{name}.bias")], width)
    }

    /// A layer norm of two tensors.
    pub(super) fn layer_norm_of(
        &mut self,
        [weight, bias]: [&str; 2],
        width: usize,
    ) -> Result<Norm, CheckpointError> {
        let weight = self.finder.vector(weight, width)?.into();
        let bias = Some(self.finder.vector(bias, width)?.into());
        Ok(Norm { kind: NormKind::Layer, weight, bias, eps: self.eps })
    }

    /// A norm without a bias, by the root of the mean of squares.
    pub(super) fn rms_norm(&mut self, name: &str, width: usize) -> Result<Norm, CheckpointError> {
        let weight = self.finder.vector(&format!("{name}.weight"), width)?.into();
        Ok(Norm { kind: NormKind::Rms, weight, bias: None, eps: self.eps })
    }

    /// Values: so many rows of a table, from one on.
    pub(super) fn positions(
        &mut self,
        name: &str,
        rows: usize,
        width: usize,
        used: std::ops::Range<usize>,
    ) -> Result<TensorRef, CheckpointError> {
        let table = self.finder.matrix(name, rows, width)?;
        Ok(if used == (0..rows) { table } else { table.part(used.start, used.len()) })
    }
}

/// So many outputs of a product, from one on.
pub(super) fn rows(of: &Product, first: usize, count: usize) -> Product {
    let part = |tensor: &TensorRef| {
        if tensor.len() == count { tensor.clone() } else { tensor.clone().part(first, count) }
    };
    Product { weight: part(&of.weight), bias: of.bias.as_ref().map(part) }
}

/// A product alone.
pub(super) fn unbiased(weight: TensorRef) -> Product {
    Product { weight, bias: None }
}

/// AttentionBranch with as many keys and values as queries, scores divided by the root of a head's
/// size.
pub(super) fn attention(
    [query, key, value, output]: [Product; 4],
    heads: usize,
    mask: Mask,
) -> AttentionBranch {
    let head_dim = query.rows() / heads;
    AttentionBranch {
        query,
        key,
        value,
        output,
        heads,
        kv_heads: heads,
        head_dim,
        score_scale: (1.0 / (head_dim as f64).sqrt()) as f32,
        query_norm: None,
        key_norm: None,
        rope: None,
        mask,
        relative: None,
    }
}

/// A feed-forward without a gate.
pub(super) fn plain(up: Product, down: Product, activation: Activation) -> Branch {
    Branch::FeedForward(FeedForwardBranch { gate: None, up, down, activation })
}

/// Blocks in order, of a model whose norms precede the branches or follow them.
///
/// A norm that follows a branch belongs to the block after: of the blocks `x = norm(x + f(x))`
/// that becomes `x = norm(x) + f(norm(x))`, and the last norm is the stack's.
pub(super) struct Chain {
    blocks: Vec<Block>,
    order: Order,
}

enum Order {
    Before,
    /// The norm of the branch before, or of the input.
    Behind(Option<Norm>),
}

impl Chain {
    /// Norms precede their branches.
    pub(super) fn before() -> Self {
        Self { blocks: vec![], order: Order::Before }
    }

    /// Norms follow their branches; `input` is that of the stack's input, if it has one.
    pub(super) fn behind(input: Option<Norm>) -> Self {
        Self { blocks: vec![], order: Order::Behind(input) }
    }

    /// One more branch, with its norm.
    pub(super) fn push(&mut self, layer: usize, norm: Norm, middle: Branch) {
        let (norm, residual) = match &mut self.order {
            Order::Before => (Some(norm), Residual::Pre),
            Order::Behind(before) => match before.replace(norm) {
                Some(before) => (Some(before.clone()), Residual::Post(before)),
                None => (None, Residual::Pre),
            },
        };
        self.blocks.push(middle.block(layer, norm, residual));
    }

    /// Puts a norm of the input in front of blocks that have their own: a block whose branch is
    /// zero. It is small, a column and a row of the norm's numbers times 0.
    pub(super) fn norm_input(&mut self, norm: Norm) {
        let width = norm.weight.cols();
        let Some(weight) = norm.weight.tensor().cloned() else { return };
        let zeros = weight.part(0, width).times(0.0);
        let numbers = |rows, cols| TensorRef { rows, cols, ..zeros.clone() };
        let middle =
            plain(unbiased(numbers(1, width)), unbiased(numbers(width, 1)), Activation::Identity);
        self.blocks.insert(0, middle.block(0, Some(norm.clone()), Residual::Post(norm)));
    }

    /// The blocks, and the norm after the last one.
    pub(super) fn finish(self, last: Option<Norm>) -> (Vec<Block>, Option<Norm>) {
        match self.order {
            Order::Before => (self.blocks, last),
            Order::Behind(norm) => (self.blocks, norm),
        }
    }
}
