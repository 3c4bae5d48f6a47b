//! Rounding a block: its first product against the inputs that the rounded blocks before it give, its second against what the rounded
//! first one gives. The calibration batch then goes through the rounded block, on to the next.

use kinglet::Format;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::gptq::Inputs;
use super::moments::{Moments, MomentsError};
use super::round::{Levels, round};
use super::rounded::{RoundedBlock, RoundedLinear};
use super::store::as_name;
use super::{codebook, fold};
use crate::prune::{self, Refit};
use crate::reference::{Batch, BlockWeights, LinearWeights, ops};

/// Rows that a codebook is fitted to.
pub(super) const CODEBOOK_ROWS: usize = 256;
/// Tokens that go through a product at once.
const TOKENS: usize = 2048;
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

/// Rounds a block for the inputs of `batch`, and takes the batch through it; without a batch, to the nearest values.
pub(super) fn quantize(
    layer: usize,
    mut block: BlockWeights,
    task: Task,
    batch: Option<&mut Batch>,
) -> Result<(RoundedBlock, Done), MomentsError> {
    let mut done = Done::default();
    let Some(batch) = batch else {
        let (input, input_error) = linear(&block.input, task.input, None)?;
        let (output, output_error) = linear(&block.output, task.output, None)?;
        let BlockWeights { norm, middle, .. } = block;
        done.errors = [input_error, output_error];
        return Ok((RoundedBlock { layer, norm, input, middle, output }, done));
    };
    if task.cut > 0 {
        let mut moments = Moments::new(block.output.cols);
        for part in batch.parts(TOKENS) {
            moments.add(&block.mix(&part.lengths, block.input.apply(&block.norm.apply(part.stream))));
        }
        moments.finish()?;
        done.cut = prune::cut(&mut block, &moments, task.cut, task.refit)?;
    }
    if task.fold
        && let Some(part) = batch.parts(SAMPLE).into_iter().next()
    {
        let normed = block.norm.apply(part.stream);
        let mixed = block.mix(&part.lengths, block.input.apply(&normed));
        if let Some(factors) = fold::factors(&block.output, &mixed, &fold::groups(&block), task.output) {
            fold::into_input(&mut block, &factors);
            done.folded[1] = true;
        }
        let own: Vec<usize> = (0..block.input.cols).collect();
        if let Some(factors) = fold::factors(&block.input, &normed, &own, task.input) {
            fold::into_norm(&mut block, &factors);
            done.folded[0] = true;
        }
    }
    let mut moments = Moments::new(block.input.cols);
    for part in batch.parts(TOKENS) {
        moments.add(&ops::rounded(&block.norm.apply(part.stream), block.input.cols));
    }
    let (input, input_error) = linear(&block.input, task.input, Some(moments))?;
    let block = BlockWeights { input: input.weights(), ..block };
    let mut moments = Moments::new(block.output.cols);
    let mut kept = vec![];
    for part in batch.parts(TOKENS) {
        let mixed = block.mix(&part.lengths, block.input.apply(&block.norm.apply(part.stream)));
        let codes = Codes::new(&mixed, block.output.cols);
        moments.add(&codes.values());
        kept.push(codes);
    }
    let (output, output_error) = linear(&block.output, task.output, Some(moments))?;
    let weights = output.weights();
    for (part, codes) in batch.parts(TOKENS).into_iter().zip(kept) {
        ops::add(part.stream, &weights.apply(&codes.values()));
    }
    let BlockWeights { norm, middle, .. } = block;
    done.errors = [input_error, output_error];
    Ok((RoundedBlock { layer, norm, input, middle, output }, done))
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
    let Some(mut moments) = moments else {
        let rounded = nearest(of, format, &vec![1.0; of.cols]);
        let error = error(&of.weight, &rounded);
        return Ok((rounded, error));
    };
    moments.finish()?;
    let inputs = Inputs::new(moments)?;
    let levels = levels(of, format, inputs.importance());
    let rows = inputs.round(format, &of.weight, &levels);
    let error = inputs.error(&of.weight, &rows, &levels);
    Ok((RoundedLinear { format, levels, rows, cols: of.cols, bias: of.bias.clone() }, error))
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

/// Activations as the runtime codes them: a quarter of their size.
struct Codes {
    codes: Vec<i8>,
    scales: Vec<f32>,
    cols: usize,
}

impl Codes {
    fn new(x: &[f32], cols: usize) -> Self {
        let scales: Vec<f32> = x.par_chunks(cols).map(ops::int8_scale).collect();
        let mut codes = vec![0; x.len()];
        codes.par_chunks_mut(cols).zip(x.par_chunks(cols)).zip(&scales).for_each(|((codes, x), &scale)| {
            if scale > 0.0 {
                codes.iter_mut().zip(x).for_each(|(code, x)| *code = ops::nearest(x / scale) as i8);
            }
        });
        Self { codes, scales, cols }
    }

    fn values(&self) -> Vec<f32> {
        let rows = self.codes.par_chunks(self.cols).zip(&self.scales);
        rows.flat_map_iter(|(codes, &scale)| codes.iter().map(move |&code| f32::from(code) * scale)).collect()
    }
}
