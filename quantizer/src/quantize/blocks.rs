//! Rounding a block: its first product against the inputs that the rounded blocks before it give, its second against what the rounded
//! first one gives. The calibration sequences then go through the rounded block, on to the next.
//!
//! If they also go through the f32 blocks, each product takes over what those before it have changed: the first aims at what it would
//! give on the f32 inputs (as GPTAQ: Li et al., arXiv 2504.02692), the second at the f32 model's stream itself.

use kinglet::Format;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::gptq::Inputs;
use super::moments::{Moments, MomentsError};
use super::packed::{Packed, Rows, TOKENS};
use super::round::{Levels, round};
use super::rounded::{RoundedBlock, RoundedLinear};
use super::store::as_name;
use super::{codebook, fold};
use crate::prune::{self, Refit};
use crate::reference::{Batch, BlockWeights, LinearWeights, Part, ops, product};

/// Rows that a codebook is fitted to.
pub(super) const CODEBOOK_ROWS: usize = 256;
/// Tokens that folding is tried on.
const SAMPLE: usize = 512;

/// What is to be done with a block.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Task {
    /// The format of the first product.
    #[serde(with = "as_name")]
    pub(super) input: Format,
    /// The format of the second.
    #[serde(with = "as_name")]
    pub(super) output: Format,
    /// Heads or channels to take out.
    pub(super) cut: usize,
    /// How.
    pub(super) refit: Refit,
    /// Whether outliers are folded away where that helps.
    pub(super) fold: bool,
}

/// What was done to a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Done {
    /// The squared error of the outputs of both products, as a part of their own square.
    pub(super) errors: [f64; 2],
    /// The same of the second product for what was taken out.
    pub(super) cut: f64,
    /// Whether the inputs of the products were folded.
    pub(super) folded: [bool; 2],
}

/// Calibration sequences on their way through a model that is being rounded.
pub(super) struct Streams {
    /// Through the rounded blocks.
    pub(super) own: Batch,
    /// Through the f32 blocks, if the rounded ones are to make up for what those before them did.
    pub(super) exact: Option<Batch>,
}

/// Rounds a block for the inputs that `streams` give it, and takes them through it; without streams, to the nearest values.
pub(super) fn quantize(
    layer: usize,
    mut block: BlockWeights,
    task: Task,
    streams: Option<&mut Streams>,
) -> Result<(RoundedBlock, Done), MomentsError> {
    let mut done = Done::default();
    let Some(Streams { own, exact }) = streams else {
        let (input, input_error) = linear(&block.input, task.input, None)?;
        let (output, output_error) = linear(&block.output, task.output, None)?;
        let BlockWeights { norm, middle, .. } = block;
        done.errors = [input_error, output_error];
        return Ok((RoundedBlock { layer, norm, input, middle, output }, done));
    };
    let original = exact.as_ref().map(|_| block.clone());
    if task.cut > 0 {
        let mut moments = Moments::new(block.output.cols);
        for part in own.parts(TOKENS) {
            moments.add(&block.middle.mix(&part.lengths, block.input.apply(&block.norm.apply(part.stream))));
        }
        moments.finish()?;
        for (cut, error) in prune::cut(&block, &moments, &[task.cut], task.refit)? {
            (block, done.cut) = (cut, error);
        }
    }
    let unfolded = exact.as_ref().map(|_| (block.norm.clone(), block.input.clone()));
    if task.fold
        && let Some(part) = own.parts(SAMPLE).into_iter().next()
    {
        done.folded = fold(&mut block, task, &part);
    }

    let mut moments = Moments::new(block.input.cols);
    let mut drift = vec![];
    for part in own.parts(TOKENS) {
        moments.add(&ops::rounded(&block.norm.apply(part.stream), block.input.cols));
    }
    if let (Some(exact), Some((norm, input))) = (exact.as_mut(), &unfolded) {
        drift = vec![0.0; block.input.weight.len()];
        for (part, exact) in own.parts(TOKENS).into_iter().zip(exact.parts(TOKENS)) {
            let x = ops::rounded(&block.norm.apply(part.stream), block.input.cols);
            let mut missing = input.apply(&norm.apply(exact.stream));
            ops::subtract(&mut missing, &block.input.apply(&x));
            product::add_outer(&x, &missing, block.input.cols, &mut drift);
        }
    }
    let (input, input_error) = calibrated(&mut block.input, task.input, moments, &drift)?;
    if let (Some(exact), Some(original)) = (exact.as_mut(), &original) {
        for part in exact.parts(TOKENS) {
            ops::add(part.stream, &original.branch(&part.lengths, part.stream));
        }
    }

    let mut moments = Moments::new(block.output.cols);
    let mut kept = vec![];
    let mut packed = Packed::new(&input);
    for part in own.parts(TOKENS) {
        let normed = Rows::new(&block.norm.apply(part.stream), input.cols);
        let mixed = Rows::new(&block.middle.mix(&part.lengths, packed.apply(&normed)), block.output.cols);
        moments.add(&mixed.values());
        kept.push(mixed);
    }
    let mut output = block.output;
    let mut drift = vec![];
    if let Some(exact) = exact {
        drift = vec![0.0; output.weight.len()];
        for ((part, exact), mixed) in own.parts(TOKENS).into_iter().zip(exact.parts(TOKENS)).zip(&kept) {
            let x = mixed.values();
            let mut missing = exact.stream.to_vec();
            ops::subtract(&mut missing, part.stream);
            ops::subtract(&mut missing, &output.apply(&x));
            product::add_outer(&x, &missing, output.cols, &mut drift);
        }
    }
    let (output, output_error) = calibrated(&mut output, task.output, moments, &drift)?;
    let mut packed = Packed::new(&output);
    for (part, mixed) in own.parts(TOKENS).into_iter().zip(kept) {
        ops::add(part.stream, &packed.apply(&mixed));
    }
    done.errors = [input_error, output_error];
    Ok((RoundedBlock { layer, norm: block.norm, input, middle: block.middle, output }, done))
}

/// Folds outliers away where that helps; tells at which products.
fn fold(block: &mut BlockWeights, task: Task, part: &Part<'_>) -> [bool; 2] {
    let normed = block.norm.apply(part.stream);
    let mixed = block.middle.mix(&part.lengths, block.input.apply(&normed));
    let output = fold::factors(&block.output, &mixed, &fold::groups(block), task.output);
    if let Some(factors) = &output {
        fold::into_input(block, factors);
    }
    let own: Vec<usize> = (0..block.input.cols).collect();
    let input = fold::factors(&block.input, &normed, &own, task.input);
    if let Some(factors) = &input {
        fold::into_norm(block, factors);
    }
    [input.is_some(), output.is_some()]
}

/// Rounds a product for inputs with these moments. With a drift, `X^T R` for what its outputs should have more, R, the weights take that
/// over first, as well as these inputs can give it (least squares).
fn calibrated(
    of: &mut LinearWeights,
    format: Format,
    mut moments: Moments,
    drift: &[f32],
) -> Result<(RoundedLinear, f64), MomentsError> {
    moments.finish()?;
    let inputs = Inputs::new(moments)?;
    if !drift.is_empty() {
        ops::add(&mut of.weight, &inputs.solve(drift));
    }
    let levels = levels(of, format, inputs.importance());
    let rows = inputs.round(format, &of.weight, &levels);
    let error = inputs.error(&of.weight, &rows, &levels);
    Ok((RoundedLinear { format, levels, rows, cols: of.cols, bias: of.bias.clone() }, error))
}

/// Rounds a product to the nearest values, its inputs being of these importances.
pub(super) fn nearest(of: &LinearWeights, format: Format, importance: &[f32]) -> RoundedLinear {
    let levels = levels(of, format, importance);
    let rows = of.weight.par_chunks(of.cols).map(|row| round(format, row, importance, &levels)).collect();
    RoundedLinear { format, levels, rows, cols: of.cols, bias: of.bias.clone() }
}

fn levels(of: &LinearWeights, format: Format, importance: &[f32]) -> Levels {
    match format {
        Format::Int4Codebook => {
            let step = of.rows().div_ceil(CODEBOOK_ROWS);
            let sample: Vec<&[f32]> = of.weight.chunks(of.cols).step_by(step).collect();
            codebook::fit(&sample, importance)
        }
        Format::Int8 | Format::Int4 => Levels::uniform(),
    }
}

/// Rounds a product for inputs with these second moments; without them, to the nearest values. Also tells the squared error of its
/// outputs (without moments: of the weights), as a part of their own square.
///
/// # Errors
/// Moments that are not finite, or singular beyond help.
pub fn linear(
    of: &LinearWeights,
    format: Format,
    moments: Option<Moments>,
) -> Result<(RoundedLinear, f64), MomentsError> {
    let Some(moments) = moments else {
        let rounded = nearest(of, format, &vec![1.0; of.cols]);
        let error = error(&of.weight, &rounded);
        return Ok((rounded, error));
    };
    calibrated(&mut of.clone(), format, moments, &[])
}

/// The squared error of the weights themselves, as a part of their own square.
fn error(weights: &[f32], rounded: &RoundedLinear) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let rows = weights.par_chunks(rounded.cols).zip(&rounded.rows).map(|(weights, row)| {
        let values = row.integers(&rounded.levels).map(|q| row.scale * q as f32);
        let missing: f64 = weights.iter().zip(values).map(|(w, q)| square(w - q)).sum();
        [missing, weights.iter().map(|&w| square(w)).sum()]
    });
    let rows: Vec<[f64; 2]> = rows.collect();
    let [missing, whole] = rows.iter().fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
    if whole > 0.0 { missing / whole } else { 0.0 }
}
