//! Taking over what a source has quantized already.
//!
//! Where a tensor of the source lies on a grid that the runtime has, its codes are kept as they
//! are; rounded once more they would lose as much again. What the runtime cannot keep are f16
//! scales for each 32 weights: it has a row scale and 8-bit sub-scales.
//!
//! ```text
//! Q4_0  d * (n - 8)            -> int4                 row_scale * sub * (n - 8)
//! Q4_1  d * n + m              -> int4 with offsets    row_scale * sub * (n - 8) + offset_scale * offset
//! Q8_0  d * code               -> int8 with sub-scales row_scale * sub * code
//! ```
//!
//! The row scale is searched so that the squared error of the weights is least. An offset is the
//! least squares' given codes and the new scale, so it makes up for part of the scale's error.
//!
//! A product that was taken over is neither transformed nor folded nor calibrated, each of which
//! would leave the grid. Its inputs keep their precision in two planes. A block is taken over whole
//! or not at all, so that nothing in front of its products moves; its queries and keys may still be
//! transformed, which are outputs.

use kinglet::Format;
use kinglet_kernels::layout::GROUP;
use rayon::prelude::*;

use crate::blocks::{self, Done, Streams, Task};
use crate::heads;
use crate::rounding::levels::{Levels, Row};
use crate::rounding::linear;
use crate::rounding::offsets::shared;
use crate::rounding::packed::{self, TOKENS};
use crate::rounding::rounded::{RoundedBlock, RoundedLinear, assembled};
use crate::{Options, QuantizeError};
use kinglet_import::checkpoint::{
    Block, Checkpoint, CheckpointError, Coded, Coding, Linear, TensorRef,
};
use kinglet_reference::{BlockWeights, Forward, Inputs, LinearWeights, Site};

/// Sub-scales up to these are tried, until no sum of the row can leave i32. With less the scales
/// would lose more than rounding again does.
const LIMITS: [f32; 4] = [127.0, 96.0, 72.0, 54.0];

/// Whether anything is to be taken over.
pub(super) fn is_wanted(options: &Options) -> bool {
    options.take && stays(options)
}

/// Whether codes could stay: what prunes, moves or chooses between formats needs weights that are
/// not fixed.
fn stays(options: &Options) -> bool {
    options.target.is_none() && !options.prune.any() && options.fit.steps == 0
}

/// The format that codes have here, if it is as wide as the one asked for.
fn format(coding: Coding, asked: Format) -> Option<Format> {
    match (coding, asked) {
        (Coding::Q4_0, Format::Int4 | Format::Int4Codebook | Format::Int4Offset) => {
            Some(Format::Int4)
        }
        (Coding::Q4_1, Format::Int4 | Format::Int4Codebook | Format::Int4Offset) => {
            Some(Format::Int4Offset)
        }
        (Coding::Q8_0, Format::Int8Grouped) => Some(Format::Int8Grouped),
        _ => None,
    }
}

/// How the source codes each product of a block, if all can be taken over.
fn codings(checkpoint: &Checkpoint, block: &Block, asked: Format) -> Option<[Option<Coding>; 3]> {
    // States are rounded once for all blocks that look at them, so none may choose for itself.
    if block.is_cross() {
        return None;
    }
    let mut codings = [None; 3];
    for (site, linear) in block.products() {
        let mut found = linear.tensors().map(|tensor| checkpoint.coding(tensor));
        let coding = found.next()??;
        format(coding, asked)?;
        if found.any(|other| other != Some(coding)) {
            return None;
        }
        codings[site as usize] = Some(coding);
    }
    Some(codings)
}

/// How the source codes a table of the model, if it can be taken over in this format.
pub(super) fn of_table(
    checkpoint: &Checkpoint,
    of: &TensorRef,
    asked: Format,
    options: &Options,
) -> Option<Coding> {
    let coding = checkpoint.coding(of).filter(|_| is_wanted(options))?;
    (format(coding, asked) == Some(asked)).then_some(coding)
}

/// Advice for who rounds weights again that could be kept: their type, and the value of `--weights`
/// that keeps them.
pub fn could_be_kept(checkpoint: &Checkpoint, options: &Options) -> Option<String> {
    let block = checkpoint.architecture().blocks().next().filter(|_| stays(options))?;
    if options.take && codings(checkpoint, block, options.weights).is_some() {
        return None;
    }
    let widths = [("int4", Format::Int4Codebook), ("int8", Format::Int8Grouped)];
    let kept = |(name, format)| Some((name, codings(checkpoint, block, format)?));
    let (name, kept) = widths.into_iter().find_map(kept)?;
    let coding = kept.into_iter().flatten().next()?.name();
    let without = if options.take { "" } else { ", without --no-take," };
    Some(format!(
        "the source has {coding} weights, which are rounded again here: --weights {name}{without} \
         would keep their codes"
    ))
}

/// Takes a block over and its samples through it; nothing where that cannot be done.
pub(super) fn block(
    checkpoint: &Checkpoint,
    (description, weights): (&Block, &BlockWeights),
    (options, task): (&Options, Task),
    streams: Option<&mut Streams>,
) -> Result<Option<(RoundedBlock, Done)>, QuantizeError> {
    let Some(codings) =
        is_wanted(options).then(|| codings(checkpoint, description, options.weights)).flatten()
    else {
        return Ok(None);
    };
    let mut done = Done { taken: codings, ..Done::default() };
    let factors = heads::key_factors(weights);
    let mut products = [None, None, None];
    for (site, parts) in description.products() {
        let (Some(coding), Some(of)) = (codings[site as usize], weights.product(site)) else {
            continue;
        };
        let Some(mut product) = product(checkpoint, parts, (coding, options.weights), of)? else {
            return Ok(None);
        };
        done.errors[site as usize] = linear::error(&of.weight, &product);
        if site == Site::Input
            && let Some(factors) = &factors
        {
            heads::balance_taken(factors, &mut product);
        }
        products[site as usize] = Some(product);
    }
    let mut kept = weights.clone();
    blocks::transform_heads(&mut kept, task);
    let rounded = assembled(&kept, products);
    if let Some(Streams { own, exact }) = streams {
        packed::advance(&rounded, own);
        if let Some(exact) = exact {
            exact.step(TOKENS, |part| weights.advance(part.sequences, part.stream));
        }
    }
    Ok(Some((rounded, done)))
}

/// A product of tensors that lie one below the other; nothing where a row's sums could leave i32.
fn product(
    checkpoint: &Checkpoint,
    parts: &Linear,
    (coding, asked): (Coding, Format),
    of: &LinearWeights,
) -> Result<Option<RoundedLinear>, CheckpointError> {
    let Some(format) = format(coding, asked) else { return Ok(None) };
    let levels = Levels::of(format);
    let mut rows = vec![];
    for tensor in parts.tensors() {
        let coded = checkpoint.coded_rows(tensor, 0..tensor.rows())?;
        let Some(taken) = self::rows(&coded, of.cols, &levels) else { return Ok(None) };
        rows.extend(taken);
    }
    Ok(Some(RoundedLinear {
        format,
        levels,
        rows,
        cols: of.cols,
        inputs: Inputs::Planes,
        bias: of.bias.clone(),
    }))
}

/// Rows of `cols` codes with scales as the runtime has them; nothing if the sums of one could leave
/// i32.
pub(super) fn rows(coded: &Coded, cols: usize, levels: &Levels) -> Option<Vec<Row>> {
    let groups = cols / GROUP;
    let rows = coded.codes.par_chunks(cols).enumerate().map(|(r, codes)| {
        let of_row = |numbers: &[f32]| {
            numbers.get(r * groups..(r + 1) * groups).unwrap_or_default().to_vec()
        };
        let (scales, minima) = (of_row(&coded.scales), of_row(&coded.minima));
        LIMITS
            .into_iter()
            .map(|limit| row(codes, &scales, &minima, levels, limit))
            .find(|row| row.fits(levels))
    });
    rows.collect()
}

/// A row with these scales and, of Q4_1, minima.
fn row(codes: &[i8], scales: &[f32], minima: &[f32], levels: &Levels, limit: f32) -> Row {
    let values =
        codes.chunks(GROUP).map(|group| group.iter().map(|&code| f32::from(levels.value(code))));
    // How much an error of a group's scale counts. With offsets, only what they cannot make up for.
    let means: Vec<f32> = values.clone().map(|group| group.sum::<f32>() / GROUP as f32).collect();
    let middles = means.iter().map(|mean| if minima.is_empty() { 0.0 } else { *mean });
    let weights: Vec<f32> = values
        .zip(middles)
        .map(|(group, middle)| group.map(|v| (v - middle).powi(2)).sum())
        .collect();
    let (scale, sub_scales) = shared(scales, &weights, limit);
    let mut row = Row { codes: codes.to_vec(), sub_scales, scale, ..Row::default() };
    if !minima.is_empty() {
        // The source counts nibbles from 0, levels are 8 less.
        let offsets = minima.iter().zip(scales).zip(&means).zip(&row.sub_scales).map(
            |(((m, d), mean), &sub)| {
                let error = f64::from(*d) - f64::from(scale) * f64::from(sub);
                (f64::from(*m) + 8.0 * f64::from(*d) + error * f64::from(*mean)) as f32
            },
        );
        let offsets: Vec<f32> = offsets.collect();
        (row.offset_scale, row.offsets) = shared(&offsets, &vec![1.0; offsets.len()], 127.0);
    }
    row
}
