//! Whether a target can be met at all, known from shapes alone: told before anything is measured.

use kinglet::Format;

use super::plan::formats;
use super::{Options, QuantizeError, Target, convert};
use crate::checkpoint::{
    Architecture, Block, Checkpoint, Input, Linear, Middle, Positions, TensorRef,
};
use crate::prune::Units;

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
            let overhead = convert::overhead_of(checkpoint, options)? as f64;
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

/// Bytes of the matrices that belong to no block, with so many for the record and name of each.
pub(super) fn tables(architecture: &Architecture, options: &Options, named: usize) -> usize {
    let matrix = |format: Format, rows, cols| {
        format.bytes(rows, cols).unwrap_or(usize::MAX / 64).saturating_add(named)
    };
    let table = |format, of: &TensorRef| matrix(format, of.rows(), of.cols());
    let eight = Format::Int8;
    let mut all = vec![];
    for stack in &architecture.stacks {
        match &stack.input {
            Input::Tokens { embed, types, .. } => {
                all.push(table(options.embeddings, embed));
                all.extend(types.as_ref().map(|types| table(eight, types)));
            }
            Input::Features { linear, .. } | Input::Pixels { linear, .. } => {
                all.push(table(eight, &linear.weight))
            }
            Input::Queries(queries) => all.push(table(eight, queries)),
            Input::States => {}
        }
        all.extend(stack.positions.as_ref().map(|positions| match positions {
            Positions::Learned(of) => table(eight, of),
            Positions::Table(rows) => matrix(eight, rows.len() / stack.width.max(1), stack.width),
        }));
    }
    all.extend(
        architecture.output.dense.as_ref().map(|(linear, _)| table(options.head, &linear.weight)),
    );
    let head = architecture.output.head.as_ref().filter(|_| !architecture.tied());
    all.extend(head.map(|head| table(options.head, &head.weight)));
    all.into_iter().fold(0, usize::saturating_add)
}

/// Rows and columns of the matrices of a block in the file: products of the same inputs are one.
fn products(block: &Block) -> Vec<(usize, usize)> {
    let joined = |of: &[&Linear]| (of.iter().map(|l| l.rows()).sum(), of[0].cols());
    match &block.middle {
        Middle::Attention(a) if block.is_cross() => {
            vec![joined(&[&a.query]), joined(&[&a.key, &a.value]), joined(&[&a.output])]
        }
        Middle::Attention(a) => vec![joined(&[&a.query, &a.key, &a.value]), joined(&[&a.output])],
        Middle::FeedForward(f) => match &f.gate {
            Some(gate) => vec![joined(&[gate, &f.up]), joined(&[&f.down])],
            None => vec![joined(&[&f.up]), joined(&[&f.down])],
        },
        Middle::Projection(linear) => vec![joined(&[linear])],
    }
}
