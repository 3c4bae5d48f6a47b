//! Rounding a block: its first product (and that of the memory) against the inputs that the rounded blocks before it give, its last against
//! what the rounded first one gives. The calibration samples then go through the rounded block, on to the next.
//!
//! If they also go through the f32 blocks, each product takes over what those before it have changed: the first aims at what it would
//! give on the f32 inputs (as GPTAQ: Li et al., arXiv 2504.02692), the second at the f32 model's stream itself.

use kinglet::Format;
use kinglet_kernels::scalar::transforms;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::gptq::Hessian;
use super::moments::{Moments, MomentsError};
use super::packed::{self, Packed, Rows, TOKENS};
use super::round::{Levels, Row, round};
use super::rounded::{RoundedBlock, RoundedLinear};
use super::store::as_name;
use super::{codebook, fold};
use crate::checkpoint::{Coding, NormKind, Sight};
use crate::fit::{Aims, FitOutcome};
use crate::prune::{self, Refit};
use crate::reference::{Batch, BlockWeights, Inputs, LinearWeights, Middle, Part, Site, joined, ops, product};

/// Rows that a codebook is fitted to.
pub(super) const CODEBOOK_ROWS: usize = 256;
/// Tokens that folding is tried on.
const SAMPLE: usize = 512;

/// What is to be done with a block.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Task {
    /// The format of each product.
    #[serde(with = "as_name::all")]
    pub(super) formats: [Format; 3],
    /// Heads or channels to take out.
    pub(super) cut: usize,
    /// How.
    pub(super) refit: Refit,
    /// Whether outliers are folded away where that helps.
    pub(super) fold: bool,
    /// Whether inputs of products are transformed, and so are queries and keys of heads.
    pub(super) transform: bool,
}

/// Rows of weights that the choice of what inputs go through is tried on.
const ROWS: usize = 256;

/// What the inputs of each product of a block go through.
#[derive(Clone, Copy)]
struct Transforms([bool; 3]);

impl Transforms {
    /// Those that the products of a block are better with. `seen` gives some inputs of a product, where there is a calibration. The
    /// inputs of attention's last product are means of values and have no outliers.
    fn choose(block: &BlockWeights, task: &Task, seen: impl Fn(Site) -> Option<Vec<f32>>) -> Self {
        Self(Site::OF_BLOCK.map(|site| {
            let mixed = site == Site::Output && matches!(block.middle, Middle::Attention(_));
            let of = block.product(site).filter(|of| task.transform && !mixed && spreads(of.cols));
            let format = task.formats[site as usize];
            // States are rounded once for all blocks that look at them, so no block may choose for itself.
            of.is_some_and(|of| format.is_int8() || site == Site::Memory || gains(of, format, seen(site)))
        }))
    }

    /// A product as it will be rounded.
    fn prepared(self, block: &BlockWeights, site: Site) -> Option<LinearWeights> {
        let of = block.product(site)?;
        Some(match self.0[site as usize] {
            true => of.transformed(),
            false => LinearWeights { inputs: Inputs::Rounded, ..of.clone() },
        })
    }
}

/// Whether a product of four bits errs less with transformed inputs: it may lose more where the weights lie on a grid that the
/// transform leaves. Eight bits lose so little that inputs decide, and no model that was measured is better without.
fn gains(of: &LinearWeights, format: Format, seen: Option<Vec<f32>>) -> bool {
    /// How much more of the weights' own square may be lost where no inputs are known.
    const MORE: f64 = 1.15;
    let step = of.rows().div_ceil(ROWS);
    let weight: Vec<f32> = of.weight.chunks(of.cols).step_by(step).flatten().copied().collect();
    let plain = LinearWeights { weight, bias: None, cols: of.cols, inputs: Inputs::Rounded };
    let transformed = plain.transformed();
    let Some(x) = seen else {
        let lost = |of: &LinearWeights| error(&of.weight, &nearest(of, format, &vec![1.0; of.cols]));
        return lost(&transformed) < MORE * lost(&plain);
    };
    let wanted = product::rows_by_rows(&x, &plain.weight, plain.cols);
    let lost = |of: &LinearWeights| -> f64 {
        let prepared = of.inputs.prepare(&x, of.cols);
        let found = nearest(of, format, &ops::squares(&prepared, of.cols)).weights().outputs(&prepared);
        found.iter().zip(&wanted).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    };
    lost(&transformed) < lost(&plain)
}

/// Over how many of `cols` values the transform spreads one: a block of 2^a 3^b.
fn spread(cols: usize) -> usize {
    let twos = 1 << cols.trailing_zeros();
    let thirds = std::iter::successors(Some(cols / twos), |rest| rest.is_multiple_of(3).then_some(rest / 3)).last();
    if transforms(cols) { cols / thirds.unwrap_or(1) } else { 1 }
}

/// Whether the inputs of a product with so many columns are spread enough to be transformed.
pub(super) fn spreads(cols: usize) -> bool {
    spread(cols) >= PRODUCTS
}

/// Whether queries and keys of so many numbers are spread enough to be transformed.
pub(super) fn spreads_heads(dim: usize) -> bool {
    spread(dim) >= HEADS
}

/// The least block of a product's inputs that is worth a transform.
const PRODUCTS: usize = 32;
/// The same of a head.
const HEADS: usize = 8;

/// What was done to a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Done {
    /// The squared error of the outputs of each product, as a part of their own square.
    pub(super) errors: [f64; 3],
    /// The same of the last product for what was taken out.
    pub(super) cut: f64,
    /// Whether the inputs of each product were folded.
    pub(super) folded: [bool; 3],
    /// What learning did to the layer.
    pub(super) learned: Option<FitOutcome>,
    /// How the source has coded each product whose codes were taken over.
    pub(super) taken: [Option<Coding>; 3],
}

/// Calibration samples on their way through a model that is being rounded.
pub(super) struct Streams {
    /// Through the rounded blocks.
    pub(super) own: Batch,
    /// Through the f32 blocks, if the rounded ones are to make up for what those before them did.
    pub(super) exact: Option<Batch>,
}

/// Rounds a block for the inputs that `streams` give it, and takes them through it; without streams, to the nearest values. Also
/// tells what was rounded, where there are streams.
pub(super) fn quantize(
    layer: usize,
    mut block: BlockWeights,
    task: Task,
    streams: Option<&mut Streams>,
) -> Result<(RoundedBlock, Done, Aims), MomentsError> {
    let mut done = Done::default();
    let mut aims = Aims::default();
    if let Middle::Attention(heads) = &mut block.middle {
        heads.transforms = task.transform && spreads_heads(heads.dim);
    }
    turn_values(&mut block);
    let Some(Streams { own, exact }) = streams else {
        let transforms = Transforms::choose(&block, &task, |_| None);
        let mut products = [None, None, None];
        for site in Site::OF_BLOCK {
            if let Some(of) = transforms.prepared(&block, site) {
                let (product, error) = linear(&of, task.formats[site as usize], None)?;
                (products[site as usize], done.errors[site as usize]) = (Some(product), error);
            }
        }
        return Ok((assembled(layer, block, products), done, aims));
    };
    let original = exact.as_ref().map(|_| block.clone());
    if task.cut > 0 {
        let mut moments = Moments::new(block.output.cols);
        for part in own.parts(TOKENS) {
            moments.add(&block.mixed(part.sequences, block.normed(part.stream)));
        }
        moments.finish()?;
        for (cut, error) in prune::cut(&block, &moments, &[task.cut], task.refit)? {
            (block, done.cut) = (cut, error);
        }
    }
    let unfolded = exact.as_ref().map(|_| block.clone());
    let transforms = Transforms::choose(&block, &task, |site| {
        let part = own.parts(SAMPLE).next()?;
        Some(match site {
            Site::Memory => part.sequences.memory.to_vec(),
            Site::Output => block.mixed(part.sequences, block.normed(part.stream)),
            Site::Input | Site::Head => block.normed(part.stream),
        })
    });
    if task.fold {
        done.folded = fold(&mut block, task, transforms, own);
    }

    let mut products = [None, None, None];
    for site in [Site::Input, Site::Memory] {
        let Some(mut of) = transforms.prepared(&block, site) else { continue };
        let seen = |block: &BlockWeights, part: &Part<'_>| match site {
            Site::Memory => part.sequences.memory.to_vec(),
            _ => block.normed(part.stream),
        };
        let wanted = exact.as_ref().zip(unfolded.as_ref().and_then(|block| Some((block, block.product(site)?))));
        let mut moments = Moments::new(of.cols);
        let mut drift = if wanted.is_some() { vec![0.0; of.weight.len()] } else { vec![] };
        let mut of_exact = wanted.as_ref().map(|(exact, _)| exact.parts(TOKENS));
        for part in own.parts(TOKENS) {
            let seen_now = seen(&block, &part);
            let x = of.inputs.prepare(&seen_now, of.cols);
            moments.add(&x);
            let exact = of_exact.as_mut().and_then(Iterator::next);
            if let (Some(exact), Some((_, (unfolded, product)))) = (exact, &wanted) {
                let mut missing = product.apply(&seen(unfolded, &exact));
                ops::subtract(&mut missing, &of.outputs(&x));
                product::add_outer(&x, &missing, of.cols, &mut drift);
            }
        }
        let (product, error) = calibrated(&mut of, task.formats[site as usize], moments, &drift)?;
        (products[site as usize], done.errors[site as usize]) = (Some(product), error);
        aims[site as usize] = Some(of.weight);
    }
    if let (Some(exact), Some(original)) = (exact.as_mut(), &original) {
        exact.step(TOKENS, |part| original.advance(part.sequences, part.stream));
    }

    let mut output = transforms.prepared(&block, Site::Output).expect("every block has a last product");
    let mut moments = Moments::new(output.cols);
    let mut kept = vec![];
    {
        let [mut input, mut memory] = [0, 1].map(|site: usize| products[site].as_ref().map(Packed::new));
        for part in own.parts(TOKENS) {
            let mixed = packed::mixed(block.norm.as_ref(), &block.middle, input.as_mut(), memory.as_mut(), &part);
            let mixed = Rows::new(&mixed, output.cols, output.inputs);
            moments.add(&mixed.values());
            kept.push(mixed);
        }
    }
    let mut drift = vec![];
    if let Some(exact) = exact {
        drift = vec![0.0; output.weight.len()];
        for ((part, exact), mixed) in own.parts(TOKENS).zip(exact.parts(TOKENS)).zip(&kept) {
            let x = mixed.values();
            let mut missing = exact.stream.to_vec();
            if let Some(base) = block.base(part.stream) {
                ops::subtract(&mut missing, &base);
            }
            ops::subtract(&mut missing, &output.outputs(&x));
            product::add_outer(&x, &missing, output.cols, &mut drift);
        }
    }
    let (rounded, error) = calibrated(&mut output, task.formats[Site::Output as usize], moments, &drift)?;
    aims[Site::Output as usize] = Some(output.weight);
    done.errors[Site::Output as usize] = error;
    let mut packed = Packed::new(&rounded);
    let mut kept = kept.into_iter();
    own.step(TOKENS, |part| {
        let branch = kept.next().map_or_else(Vec::new, |mixed| packed.apply(&mixed));
        joined(block.base(part.stream), branch)
    });
    products[Site::Output as usize] = Some(rounded);
    Ok((assembled(layer, block, products), done, aims))
}

/// A block with rounded products in the place of its own.
pub(super) fn assembled(layer: usize, block: BlockWeights, products: [Option<RoundedLinear>; 3]) -> RoundedBlock {
    let BlockWeights { norm, join, stream_norm, middle, .. } = block;
    let [input, memory, output] = products;
    let output = output.expect("every block has a last product");
    RoundedBlock { layer, norm, join, stream_norm, input, memory, middle, output }
}

/// Transforms the values of heads whose queries and keys are transformed, and the columns that read them: the same function, with
/// values that share a scale better. Values are not rotated, so this costs the runtime nothing.
fn turn_values(block: &mut BlockWeights) {
    let (dim, values, site) = match &block.middle {
        Middle::Attention(heads) if heads.transforms => {
            let site = if heads.sight == Sight::Cross { Site::Memory } else { Site::Input };
            (heads.dim, heads.values(), site)
        }
        _ => return,
    };
    let Some(of) = block.product_mut(site) else { return };
    for first in values.step_by(dim) {
        let rows = &mut of.weight[first * of.cols..(first + dim) * of.cols];
        let columns: Vec<f32> = (0..of.cols).flat_map(|c| rows[c..].iter().step_by(of.cols).copied()).collect();
        for (c, column) in ops::transformed(&columns, dim).chunks(dim).enumerate() {
            rows[c..].iter_mut().step_by(of.cols).zip(column).for_each(|(to, v)| *to = *v);
        }
        if let Some(bias) = &mut of.bias {
            let turned = ops::transformed(&bias[first..first + dim], dim);
            bias[first..first + dim].copy_from_slice(&turned);
        }
    }
    block.output.weight = ops::transformed(&block.output.weight, dim);
}

/// Folds offsets and outliers away where that helps; tells at which products.
fn fold(block: &mut BlockWeights, task: Task, transforms: Transforms, own: &Batch) -> [bool; 3] {
    let transformed = |site: Site| transforms.0[site as usize];
    let mut folded = [false; 3];
    let reader = block.reader();
    if block.norm.as_ref().is_some_and(|norm| norm.kind == NormKind::Layer)
        && let (Some(part), Some(of)) = (own.parts(TOKENS).next(), block.product(reader))
    {
        let normed = block.normed(part.stream);
        if let Some(offsets) = fold::helpful_offsets(of, &normed, task.formats[reader as usize]) {
            fold::offsets_into_norm(block, &offsets);
            folded[reader as usize] = true;
        }
    }
    let Some(part) = own.parts(SAMPLE).next() else { return folded };
    let normed = block.normed(part.stream);
    if let Some(groups) = fold::groups(block).filter(|_| !transformed(Site::Output)) {
        let mixed = block.mixed(part.sequences, normed.clone());
        let output = fold::factors(&block.output, &mixed, &groups, task.formats[Site::Output as usize]);
        if let Some(factors) = output {
            fold::into_input(block, &factors);
            folded[Site::Output as usize] = true;
        }
    }
    if let (Some(_), Some(of), false) = (&block.norm, block.product(reader), transformed(reader)) {
        let own: Vec<usize> = (0..of.cols).collect();
        if let Some(factors) = fold::factors(of, &normed, &own, task.formats[reader as usize]) {
            fold::into_norm(block, &factors);
            folded[reader as usize] = true;
        }
    }
    folded
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
    let hessian = Hessian::new(moments)?;
    if !drift.is_empty() {
        ops::add(&mut of.weight, &hessian.solve(drift));
    }
    let levels = levels(of, format, hessian.importance());
    let rows = hessian.round(format, &of.weight, &levels);
    let error = hessian.error(&of.weight, &rows, &levels);
    Ok((assemble(of, format, levels, rows), error))
}

/// Rounds a product to the nearest values, its inputs being of these importances.
pub(super) fn nearest(of: &LinearWeights, format: Format, importance: &[f32]) -> RoundedLinear {
    let levels = levels(of, format, importance);
    let rows = of.weight.par_chunks(of.cols).map(|row| round(format, row, importance, &levels)).collect();
    assemble(of, format, levels, rows)
}

fn assemble(of: &LinearWeights, format: Format, levels: Levels, rows: Vec<Row>) -> RoundedLinear {
    let inputs = if of.inputs == Inputs::Exact { Inputs::Rounded } else { of.inputs };
    RoundedLinear { format, levels, rows, cols: of.cols, inputs, bias: of.bias.clone() }
}

fn levels(of: &LinearWeights, format: Format, importance: &[f32]) -> Levels {
    match format {
        Format::Int4Codebook => {
            let step = of.rows().div_ceil(CODEBOOK_ROWS);
            let sample: Vec<&[f32]> = of.weight.chunks(of.cols).step_by(step).collect();
            codebook::fit(&sample, importance)
        }
        _ => Levels::of(format),
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
pub(super) fn error(weights: &[f32], rounded: &RoundedLinear) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let rows = weights.par_chunks(rounded.cols).zip(&rounded.rows).map(|(weights, row)| {
        let values = row.values(&rounded.levels);
        let missing: f64 = weights.iter().zip(values).map(|(w, q)| square(w - q)).sum();
        [missing, weights.iter().map(|&w| square(w)).sum()]
    });
    let rows: Vec<[f64; 2]> = rows.collect();
    let [missing, whole] = rows.iter().fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
    if whole > 0.0 { missing / whole } else { 0.0 }
}
