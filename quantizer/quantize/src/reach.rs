//! Whether a target can be met at all, known from shapes alone: told before anything is measured.

use kinglet::Format;

use crate::overhead::overhead_of;
use crate::plan::formats;
use crate::prune::Units;
use crate::{Options, QuantizeError, Target};
use kinglet_import::checkpoint::{Block, Checkpoint};

/// Refuses a target that no choice of formats can meet; the error tells the nearest that one can. A
/// target of divergence or time takes measurements, and is refused by those. Where pruning is asked
/// for, only what pruning leaves alone is certain.
///
/// # Errors
/// [`QuantizeError::Target`], and what is wrong with the tokenizer, which is part of the file.
pub fn reachable(checkpoint: &Checkpoint, options: &Options) -> Result<(), QuantizeError> {
    let architecture = checkpoint.architecture();
    let Some(target @ (Target::Bits(_) | Target::Bytes(_))) = options.target else { return Ok(()) };
    let products: Vec<_> = architecture.blocks().flat_map(products).collect();
    let least = |of: fn(usize) -> usize| -> f64 {
        let bytes = |&(rows, cols): &(usize, usize)| {
            let each =
                formats(options).into_iter().filter_map(|format: Format| format.bytes(rows, cols));
            each.min().map_or(f64::INFINITY, |bytes| of(bytes) as f64)
        };
        products.iter().map(bytes).sum()
    };
    match target {
        Target::Bits(bits) if !options.prune.any() => {
            let weights: usize = products.iter().map(|(rows, cols)| rows * cols).sum();
            let nearest = least(|bytes| 8 * bytes) / weights.max(1) as f64;
            if bits < nearest { Err(QuantizeError::Target { target, nearest }) } else { Ok(()) }
        }
        Target::Bytes(bytes) => {
            let overhead = overhead_of(checkpoint, options)? as f64;
            let products = least(|bytes| bytes.next_multiple_of(64));
            let (certain, left) = match options.prune.units {
                Units::All if options.prune.blocks == 0 => (overhead + products, 1.0),
                Units::Auto => (overhead, 0.15),
                _ => (overhead, 1.0),
            };
            if (bytes as f64) < certain {
                return Err(QuantizeError::Target { target, nearest: overhead + left * products });
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Rows and columns of the matrices of a block in the file.
fn products(block: &Block) -> Vec<(usize, usize)> {
    block.products().map(|(_, linear)| (linear.rows(), linear.cols())).collect()
}
