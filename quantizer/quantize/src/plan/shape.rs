//! The sizes of a block's products, whole and with units taken out.

use crate::prune;
use kinglet_import::checkpoint::Mask;
use kinglet_reference::{BlockWeights, Operation, Site};

/// What a block is like, as far as sizes are concerned.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// 0 for attention, 1 for a feed-forward, 2 for what has no units.
    pub(super) kind: usize,
    pub(super) units: usize,
    /// Rows and columns of each product.
    whole: [Option<(usize, usize)>; 3],
    /// Those of them that belong to a unit.
    unit: [(usize, usize); 3],
}

impl Shape {
    pub(super) fn of(block: &BlockWeights) -> Self {
        let units = prune::units(block);
        let whole = Site::OF_BLOCK.map(|site| block.product(site).map(|of| (of.rows(), of.cols)));
        let (kind, input, memory) = match &block.operation {
            Operation::Attention(heads) => {
                let query = heads.queries().end / units;
                // A single key and value head belongs to no unit.
                let others = if heads.kv_heads > 1 { 2 * heads.head_dim } else { 0 };
                match heads.mask {
                    Mask::Cross => (0, query, others),
                    _ => (0, query + others, 0),
                }
            }
            Operation::FeedForward { gated, .. } => (1, if *gated { 2 } else { 1 }, 0),
            Operation::Projection => (2, 0, 0),
        };
        let columns = if kind == 2 { 0 } else { block.output.cols / units };
        Self { kind, units, whole, unit: [(input, 0), (memory, 0), (0, columns)] }
    }

    /// Rows and columns of all products when `cut` units are gone.
    pub(super) fn products(&self, cut: usize) -> impl Iterator<Item = (Site, usize, usize)> {
        let sizes = Site::OF_BLOCK.into_iter().zip(self.whole).zip(self.unit);
        sizes.filter_map(move |((site, whole), unit)| {
            whole.map(|(r, c)| (site, r - cut * unit.0, c - cut * unit.1))
        })
    }
}
