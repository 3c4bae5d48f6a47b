//! Rounding a block: its first product (and that of the memory) against the inputs that the rounded
//! blocks before it give, its last against what the rounded first one gives. The calibration
//! samples then go through the rounded block, on to the next.
//!
//! If they also go through the f32 blocks, each product takes over what those before it have
//! changed: the first aims at what it would give on the f32 inputs (as GPTAQ: Li et al., arXiv
//! 2504.02692), the last at the f32 model's stream itself.
//!
//! Tokens do not count alike. The stream of a few is a hundred times larger than that of the others
//! (massive activations: Sun et al., arXiv 2402.17762), and a norm stands before whatever reads it.
//! So errors of the stream count as parts of its size at each token.

use kinglet::Format;
use kinglet_kernels::scalar::transforms;
use kinglet_model::{Inputs, NormKind, Operation, Residual, Site};
use serde::{Deserialize, Serialize};

use crate::fit::{Aims, FitOutcome};
use crate::fold;
use crate::heads;
use crate::prune::{self, Refit};
use crate::resume::as_name;
use crate::rounding::evidence::{Aim, Evidence};
use crate::rounding::hessian::{Hessian, HessianError};
use crate::rounding::linear::{self, Way, calibrated, nearest};
use crate::rounding::packed::{self, Packed, Rows, TOKENS};
use crate::rounding::rounded::{RoundedBlock, RoundedLinear, assembled};
use kinglet_import::checkpoint::Coding;
use kinglet_reference::{
    Batch, BlockWeights, Forward, LinearWeights, Part, Reference, ReferenceError, joined, ops,
    prepare, product,
};

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
    /// Those that the products of a block are better with. `seen` gives some inputs of a product,
    /// where there is a calibration. The inputs of attention's last product are means of values and
    /// have no outliers.
    fn choose(block: &BlockWeights, task: &Task, seen: impl Fn(Site) -> Option<Vec<f32>>) -> Self {
        Self(Site::OF_BLOCK.map(|site| {
            let mixed = site == Site::Output && matches!(block.operation, Operation::Attention(_));
            let of = block.product(site).filter(|of| task.transform && !mixed && spreads(of.cols));
            let format = task.formats[site as usize];
            // States are rounded once for all blocks that look at them, so no block may choose for
            // itself.
            of.is_some_and(|of| {
                format.is_int8() || site == Site::States || gains(of, format, seen(site))
            })
        }))
    }

    /// A product as it will be rounded.
    fn prepared(self, block: &BlockWeights, site: Site) -> Option<LinearWeights> {
        let of = block.product(site)?;
        Some(match self.0[site as usize] {
            true => of.transformed(),
            false => LinearWeights { inputs: Some(Inputs::Rounded), ..of.clone() },
        })
    }
}

/// Whether a product of four bits errs less with transformed inputs: it may lose more where the
/// weights lie on a grid that the transform leaves. Eight bits lose so little that inputs decide,
/// and no model that was measured is better without.
fn gains(of: &LinearWeights, format: Format, seen: Option<Vec<f32>>) -> bool {
    /// How much more of the weights' own square may be lost where no inputs are known.
    const MORE: f64 = 1.15;
    let step = of.rows().div_ceil(ROWS);
    let weight: Vec<f32> = of.weight.chunks(of.cols).step_by(step).flatten().copied().collect();
    let plain = LinearWeights { weight, bias: None, cols: of.cols, inputs: Some(Inputs::Rounded) };
    let transformed = plain.transformed();
    let Some(x) = seen else {
        let lost = |of: &LinearWeights| {
            linear::error(&of.weight, &nearest(of, format, &vec![1.0; of.cols]))
        };
        return lost(&transformed) < MORE * lost(&plain);
    };
    let wanted = product::rows_by_rows(&x, &plain.weight, plain.cols);
    let lost = |of: &LinearWeights| -> f64 {
        let prepared = prepare(of.inputs, &x, of.cols);
        let found =
            nearest(of, format, &ops::squares(&prepared, of.cols)).weights().outputs(&prepared);
        found.iter().zip(&wanted).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    };
    lost(&transformed) < lost(&plain)
}

/// Over how many of `cols` values the transform spreads one: a block of 2^a 3^b.
fn spread(cols: usize) -> usize {
    let twos = 1 << cols.trailing_zeros();
    let thirds =
        std::iter::successors(Some(cols / twos), |rest| rest.is_multiple_of(3).then_some(rest / 3))
            .last();
    if transforms(cols) { cols / thirds.unwrap_or(1) } else { 1 }
}

/// Whether the inputs of a product with so many columns are spread enough to be transformed.
pub(super) fn spreads(cols: usize) -> bool {
    spread(cols) >= PRODUCTS
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
    /// How each product was rounded.
    pub(super) ways: [Way; 3],
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

impl Streams {
    /// Brings them in front of a block.
    pub(super) fn enter(&mut self, block: usize) {
        self.own.enter(block);
        self.exact.iter_mut().for_each(|exact| exact.enter(block));
    }

    /// Takes what goes through the f32 blocks through one of them.
    pub(super) fn pass_exact(
        &mut self,
        reference: &Reference<'_>,
        block: usize,
    ) -> Result<(), ReferenceError> {
        match &mut self.exact {
            Some(exact) => reference.advance(exact, block, &mut ()),
            None => Ok(()),
        }
    }
}

/// Rounds a block for the inputs that `streams` give it, and takes them through it; without
/// streams, to the nearest values. Also tells what was rounded, where there are streams.
pub(super) fn quantize(
    mut block: BlockWeights,
    task: Task,
    streams: Option<&mut Streams>,
) -> Result<(RoundedBlock, Done, Aims), HessianError> {
    transform_heads(&mut block, task);
    heads::balance_keys(&mut block);
    heads::turn_values(&mut block);
    let Some(streams) = streams else { return to_nearest(block, task) };
    let mut done = Done::default();
    let original = streams.exact.as_ref().map(|_| block.clone());
    if task.cut > 0 {
        (block, done.cut) = cut(block, task, &streams.own)?;
    }
    let transforms = Transforms::choose(&block, &task, |site| {
        let part = streams.own.parts(SAMPLE).next()?;
        Some(match site {
            Site::Output => block.mixed(part.sequences, block.normed(part.stream)),
            Site::Input | Site::States | Site::Head => seen(&block, site, &part),
        })
    });
    if task.fold {
        done.folded = fold(&mut block, task, transforms, &streams.own);
    }
    let mut rounding = Rounding {
        block,
        task,
        transforms,
        products: [None, None, None],
        aims: Aims::default(),
        done,
    };
    for site in [Site::Input, Site::States] {
        rounding.first(site, streams)?;
    }
    if let (Some(exact), Some(original)) = (&mut streams.exact, original) {
        exact.step(TOKENS, |part| original.advance(part.sequences, part.stream));
    }
    rounding.last(streams)?;
    let Rounding { block, products, aims, done, .. } = rounding;
    Ok((assembled(&block, products), done, aims))
}

/// Has queries and keys of heads transformed where that is wanted and spreads them enough.
pub(super) fn transform_heads(block: &mut BlockWeights, task: Task) {
    if let Operation::Attention(heads) = &mut block.operation
        && task.transform
        && spread(heads.head_dim) >= HEADS
    {
        heads.head_inputs = Inputs::Transformed;
    }
}

/// Rounds a block to the nearest values.
fn to_nearest(block: BlockWeights, task: Task) -> Result<(RoundedBlock, Done, Aims), HessianError> {
    let transforms = Transforms::choose(&block, &task, |_| None);
    let (mut products, mut done) = ([None, None, None], Done::default());
    for site in Site::OF_BLOCK {
        if let Some(of) = transforms.prepared(&block, site) {
            let (product, error) = linear::linear(&of, task.formats[site as usize], None)?;
            (products[site as usize], done.errors[site as usize]) = (Some(product), error);
        }
    }
    Ok((assembled(&block, products), done, Aims::default()))
}

/// Takes heads or channels out of a block; also tells what its outputs lose.
fn cut(block: BlockWeights, task: Task, own: &Batch) -> Result<(BlockWeights, f64), HessianError> {
    let mut hessian = Hessian::new(block.output.cols);
    for part in own.parts(TOKENS) {
        hessian.add(&block.mixed(part.sequences, block.normed(part.stream)));
    }
    hessian.finish()?;
    Ok(prune::cut(&block, &hessian, &[task.cut], task.refit)?.pop().unwrap_or((block, 0.0)))
}

/// What the first products of a block see.
fn seen(block: &BlockWeights, site: Site, part: &Part<'_>) -> Vec<f32> {
    match site {
        Site::States => part.sequences.states.to_vec(),
        Site::Input | Site::Output | Site::Head => block.normed(part.stream),
    }
}

/// Divides rows of both by the size of the stream of their token, on which what is after a norm
/// depends.
fn weigh(stream: &[f32], width: usize, rows: [&mut [f32]; 2]) {
    let parts = stream.chunks(width).map(|row| {
        let size = (row.iter().map(|x| x * x).sum::<f32>() / width as f32).sqrt();
        if size > 0.0 { 1.0 / size } else { 0.0 }
    });
    let parts: Vec<f32> = parts.collect();
    for rows in rows.into_iter().filter(|rows| !rows.is_empty()) {
        let wide = rows.len() / parts.len();
        for (row, part) in rows.chunks_mut(wide).zip(&parts) {
            row.iter_mut().for_each(|x| *x *= part);
        }
    }
}

/// A block on the way.
struct Rounding {
    block: BlockWeights,
    task: Task,
    transforms: Transforms,
    products: [Option<RoundedLinear>; 3],
    aims: Aims,
    done: Done,
}

impl Rounding {
    /// A product that sees the stream, or the states of the stack before.
    fn first(&mut self, site: Site, streams: &Streams) -> Result<(), HessianError> {
        let Self { block, transforms, .. } = self;
        let Some(of) = transforms.prepared(block, site) else { return Ok(()) };
        let Streams { own, exact } = streams;
        let aim = if exact.is_some() { Aim::Inputs } else { Aim::Own };
        let mut evidence = Evidence::new(of.cols, aim, own.lengths());
        let mut exact = exact.as_ref().map(|exact| exact.parts(TOKENS));
        for part in own.parts(TOKENS) {
            let mut x = prepare(of.inputs, &seen(block, site, &part), of.cols).into_owned();
            let mut aimed = match exact.as_mut().and_then(Iterator::next) {
                Some(exact) => seen(block, site, &exact),
                None => vec![],
            };
            if of.inputs == Some(Inputs::Transformed) {
                aimed = ops::transformed(&aimed, of.cols);
            }
            if site == Site::Input
                && matches!(block.operation, Operation::FeedForward { .. })
                && matches!(block.residual, Residual::Pre)
            {
                weigh(part.stream, own.width(), [&mut x, &mut aimed]);
            }
            evidence.add(&x, &aimed);
        }
        self.round(site, of, evidence)
    }

    /// The last product, and the streams' way through the block.
    fn last(&mut self, Streams { own, exact }: &mut Streams) -> Result<(), HessianError> {
        let Self { block, transforms, .. } = self;
        let of = transforms.prepared(block, Site::Output).expect("every block has a last product");
        let aim = if exact.is_some() { Aim::Outputs(of.rows()) } else { Aim::Own };
        let mut evidence = Evidence::new(of.cols, aim, own.lengths());
        let mut kept = vec![];
        {
            let [mut input, mut states] =
                [0, 1].map(|site: usize| self.products[site].as_ref().map(Packed::new));
            let mut exact = exact.as_ref().map(|exact| exact.parts(TOKENS));
            for part in own.parts(TOKENS) {
                let mixed = packed::mixed(
                    block.norm.as_ref(),
                    &block.operation,
                    input.as_mut(),
                    states.as_mut(),
                    &part,
                );
                let mixed = Rows::new(&mixed, of.cols, of.inputs.unwrap_or_default());
                let mut x = mixed.values();
                kept.push(mixed);
                let mut aimed = vec![];
                if let Some(exact) = exact.as_mut().and_then(Iterator::next) {
                    aimed = exact.stream.to_vec();
                    if let Some(base) = block.base(part.stream) {
                        ops::subtract(&mut aimed, &base);
                    }
                    if let Some(bias) = &of.bias {
                        aimed.chunks_mut(bias.len()).for_each(|row| ops::subtract(row, bias));
                    }
                    if matches!(block.residual, Residual::Pre) {
                        weigh(exact.stream, of.rows(), [&mut x, &mut aimed]);
                    }
                }
                evidence.add(&x, &aimed);
            }
        }
        self.round(Site::Output, of, evidence)?;
        let (block, rounded) = (&self.block, &self.products[Site::Output as usize]);
        let mut packed = rounded.as_ref().map(Packed::new);
        let mut kept = kept.into_iter();
        own.step(TOKENS, |part| {
            let mixed = kept.next().zip(packed.as_mut());
            joined(
                block.base(part.stream),
                mixed.map_or_else(Vec::new, |(mixed, packed)| packed.apply(&mixed)),
            )
        });
        Ok(())
    }

    /// Rounds a product as the evidence says.
    fn round(
        &mut self,
        site: Site,
        mut of: LinearWeights,
        evidence: Evidence,
    ) -> Result<(), HessianError> {
        let at = site as usize;
        let (product, error, way) = calibrated(&mut of, self.task.formats[at], evidence)?;
        (self.done.errors[at], self.done.ways[at]) = (error, way);
        self.products[at] = Some(product);
        self.aims[at] = Some(of.weight);
        Ok(())
    }
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
        let output =
            fold::factors(&block.output, &mixed, &groups, task.formats[Site::Output as usize]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_with_a_large_stream_counts_as_any_other() {
        let stream = [3.0, 4.0, 0.0, 0.0, 300.0, 400.0];
        let (mut x, mut aimed) = (vec![1.0, 2.0, 3.0], vec![]);
        weigh(&stream, 2, [&mut x, &mut aimed]);
        assert!((x[0] / x[2] - 100.0 / 3.0).abs() < 1e-4 && x[1] == 0.0, "{x:?}");
    }
}
