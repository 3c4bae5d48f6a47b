//! Rounding a block: its first product against the inputs that the rounded blocks before it give, its second against what the rounded
//! first one gives. The calibration batch then goes through the rounded block, on to the next.

use kinglet::Format;
use rayon::prelude::*;

use super::codebook;
use super::gptq::Inputs;
use super::moments::{Moments, MomentsError};
use super::round::{Levels, round};
use super::rounded::{RoundedBlock, RoundedLinear};
use crate::reference::{Batch, BlockWeights, LinearWeights, ops};

/// Rows that a codebook is fitted to.
pub(super) const CODEBOOK_ROWS: usize = 256;
/// Tokens that go through a product at once.
const TOKENS: usize = 2048;

/// How the products of a block are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// The first.
    pub input: Format,
    /// The second.
    pub output: Format,
}

/// What rounding did to a product: the squared error of its outputs, as a part of their own square.
pub(super) type Errors = [f64; 2];

/// Rounds a block for the inputs of `batch`, and takes the batch through it; without a batch, to the nearest values.
pub(super) fn quantize(
    layer: usize,
    block: BlockWeights,
    formats: Formats,
    batch: Option<&mut Batch>,
) -> Result<(RoundedBlock, Errors), MomentsError> {
    let Some(batch) = batch else {
        let (input, input_error) = linear(&block.input, formats.input, None)?;
        let (output, output_error) = linear(&block.output, formats.output, None)?;
        let BlockWeights { norm, middle, .. } = block;
        return Ok((RoundedBlock { layer, norm, input, middle, output }, [input_error, output_error]));
    };
    let mut moments = Moments::new(block.input.cols);
    for part in batch.parts(TOKENS) {
        moments.add(&ops::rounded(&block.norm.apply(part.stream), block.input.cols));
    }
    let (input, input_error) = linear(&block.input, formats.input, Some(moments))?;
    let block = BlockWeights { input: input.weights(), ..block };
    let mut moments = Moments::new(block.output.cols);
    let mut kept = vec![];
    for part in batch.parts(TOKENS) {
        let mixed = block.mix(&part.lengths, block.input.apply(&block.norm.apply(part.stream)));
        let codes = Codes::new(&mixed, block.output.cols);
        moments.add(&codes.values());
        kept.push(codes);
    }
    let (output, output_error) = linear(&block.output, formats.output, Some(moments))?;
    let weights = output.weights();
    for (part, codes) in batch.parts(TOKENS).into_iter().zip(kept) {
        ops::add(part.stream, &weights.apply(&codes.values()));
    }
    let BlockWeights { norm, middle, .. } = block;
    Ok((RoundedBlock { layer, norm, input, middle, output }, [input_error, output_error]))
}

/// Rounds a product for inputs with these second moments; without them, to the nearest values. Also tells the squared error of its
/// outputs (without moments: of the weights), as a part of their own square.
///
/// # Errors
/// Moments that are not finite, or singular beyond help.
pub fn linear(of: &LinearWeights, format: Format, moments: Option<Moments>) -> Result<(RoundedLinear, f64), MomentsError> {
    let cols = of.cols;
    let inputs = match moments {
        Some(mut moments) => {
            moments.finish()?;
            Some(Inputs::new(moments)?)
        }
        None => None,
    };
    let ones;
    let importance = match &inputs {
        Some(inputs) => inputs.importance(),
        None => {
            ones = vec![1.0; cols];
            &ones
        }
    };
    let levels = match format {
        Format::Int4Codebook => {
            let rows = of.rows();
            let sample: Vec<&[f32]> = of.weight.chunks(cols).step_by(rows.div_ceil(CODEBOOK_ROWS)).collect();
            codebook::fit(&sample, importance)
        }
        Format::Int8 | Format::Int4 => Levels::uniform(),
    };
    let rows = match &inputs {
        Some(inputs) => inputs.round(format, &of.weight, &levels),
        None => of.weight.par_chunks(cols).map(|row| round(format, row, importance, &levels)).collect(),
    };
    let rounded = RoundedLinear { format, levels, rows, cols, bias: of.bias.clone() };
    let error = match &inputs {
        Some(inputs) => inputs.error(&of.weight, &rounded.rows, &rounded.levels),
        None => error(&of.weight, &rounded),
    };
    Ok((rounded, error))
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
