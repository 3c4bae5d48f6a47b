//! Outliers of activations, folded away: inputs are divided by a factor each and weights multiplied
//! by it, so that one scale a token serves all inputs. What is in front of the product takes the
//! division: the norm (first product), `up` or the values (second). The result is the same
//! function, and no machine knows of it (SmoothQuant: Xiao et al., arXiv 2211.10438; for weights:
//! AWQ, Lin et al., arXiv 2306.00978).
//!
//! How strong the factors are is tried out: the best is the one whose rounded product, with rounded
//! inputs, is nearest to the original.
//!
//! A layer norm has a bias, so offsets can be folded, too: the product sees `x - c`, the norm's
//! bias gives up c, and the bias of the product gains W c ([`shift`]). [`offsets`] chooses c. Where
//! a norm's output is itself the stream (encoders with the norm after the branch), the stream
//! keeps its own norm and all of this happens to the branch's.

use kinglet::Format;
use rayon::prelude::*;

use crate::rounding::linear::nearest;
use kinglet_import::checkpoint::{Activation, Mask};
use kinglet_reference::product::rows_by_rows;
use kinglet_reference::{BlockWeights, Inputs, LinearWeights, Operation, Site, ops};

/// Rows of weights that factors are tried on.
const ROWS: usize = 256;
/// Factors lie between this and its reciprocal.
const MOST: f32 = 64.0;

/// Factors for the inputs of a product, of which `x` are some, or nothing if none do better than 1.
/// Inputs whose numbers are in `groups` of the same value share one factor.
pub(super) fn factors(
    of: &LinearWeights,
    x: &[f32],
    groups: &[usize],
    format: Format,
) -> Option<Vec<f32>> {
    let cols = of.cols;
    let step = of.rows().div_ceil(ROWS);
    let weight: Vec<f32> = of.weight.chunks(cols).step_by(step).flatten().copied().collect();
    let count = groups.iter().max().map_or(0, |g| g + 1);
    let peaks = |rows: &[f32]| {
        let mut peaks = vec![0.0f32; count];
        for row in rows.chunks(cols) {
            row.iter().zip(groups).for_each(|(v, &g)| peaks[g] = peaks[g].max(v.abs()));
        }
        peaks
    };
    let (activations, weights) = (peaks(x), peaks(&of.weight));
    let tried = [(0.0, 0.0), (0.25, 0.0), (0.5, 0.0), (0.5, 0.5), (0.7, 0.3), (0.85, 0.15)];
    let wanted = rows_by_rows(x, &weight, cols);
    let results: Vec<(f64, Vec<f32>)> = tried
        .into_par_iter()
        .map(|(of_inputs, of_weights)| {
            let raw = activations
                .iter()
                .zip(&weights)
                .map(|(a, w)| a.max(1e-6).powf(of_inputs) / w.max(1e-6).powf(of_weights));
            let raw: Vec<f32> = raw.collect();
            // Their geometric mean is 1.
            let mean = (raw.iter().map(|v| f64::from(v.ln())).sum::<f64>() / count.max(1) as f64)
                .exp() as f32;
            let factors: Vec<f32> =
                groups.iter().map(|&g| (raw[g] / mean).clamp(1.0 / MOST, MOST)).collect();
            let divided: Vec<f32> = x
                .chunks(cols)
                .flat_map(|row| row.iter().zip(&factors).map(|(x, f)| x / f))
                .collect();
            let scaled: Vec<f32> = weight
                .chunks(cols)
                .flat_map(|row| row.iter().zip(&factors).map(|(w, f)| w * f))
                .collect();
            let linear =
                LinearWeights { weight: scaled, bias: None, cols, inputs: Some(Inputs::Rounded) };
            let rounded = nearest(&linear, format, &ops::squares(&divided, cols)).weights();
            let found = rows_by_rows(&ops::rounded(&divided, cols), &rounded.weight, cols);
            let error = found.iter().zip(&wanted).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            (error, factors)
        })
        .collect();
    let best = (0..results.len()).min_by(|&a, &b| results[a].0.total_cmp(&results[b].0))?;
    // A win within the noise is none.
    (results[best].0 < 0.98 * results[0].0).then(|| results[best].1.clone())
}

/// Tokens that offsets are chosen on.
const TOKENS: usize = 2048;
/// Offsets within a step that are tried, on either side of none.
const TRIED: i32 = 32;

/// Offsets for the `cols` channels of a norm's output, of which `x` are some rows.
///
/// The means make what is left smaller. Then each channel is moved by at most half a step of the
/// coarsest token, to where rounding errs least: the first token of every text (`[CLS]`) is nearly
/// the same vector everywhere, is several times as large as the others, and is what heads attend to
/// that find nothing. It can be put onto its own grid, which the others, of many scales, do not
/// notice.
pub(super) fn offsets(x: &[f32], cols: usize) -> Vec<f32> {
    let x = &x[..x.len().min(TOKENS * cols)];
    let tokens = (x.len() / cols).max(1) as f64;
    let of_channel = |k: usize| x[k..].iter().step_by(cols).copied();
    let mean = |k: usize| (of_channel(k).map(f64::from).sum::<f64>() / tokens) as f32;
    let mut offsets: Vec<f32> = (0..cols).into_par_iter().map(mean).collect();
    // Later rounds know the scales that earlier ones leave.
    for _ in 0..2 {
        let peaks = x.par_chunks(cols).map(|row| {
            let sizes = row.iter().zip(&offsets).map(|(x, c)| (x - c).abs());
            sizes
                .enumerate()
                .fold((0, 0.0f32), |peak, (k, size)| if size > peak.1 { (k, size) } else { peak })
        });
        let peaks: Vec<(usize, f32)> = peaks.collect();
        let scales: Vec<f32> =
            peaks.iter().map(|(_, size)| (size / 127.0).max(f32::MIN_POSITIVE)).collect();
        let coarsest = scales.iter().copied().fold(0.0, f32::max);
        // A channel that sets the scale of coarse tokens is exact in them, and moving it would move
        // their grid.
        let mut sets = vec![false; cols];
        let of_coarse = peaks.iter().zip(&scales).filter(|(_, scale)| **scale > 0.9 * coarsest);
        of_coarse.for_each(|(peak, _)| sets[peak.0] = true);
        offsets.par_iter_mut().enumerate().filter(|(k, _)| !sets[*k]).for_each(|(k, offset)| {
            let error = |by: f32| -> f32 {
                let errors = of_channel(k).zip(&scales).map(|(x, scale)| {
                    let steps = (x - *offset - by) / scale;
                    (steps - ops::nearest(steps)) * scale
                });
                errors.map(|error| error * error).sum()
            };
            let tried = (-TRIED..=TRIED).map(|i| i as f32 / (2 * TRIED) as f32 * coarsest);
            let best = tried.map(|by| (error(by), by)).min_by(|a, b| a.0.total_cmp(&b.0));
            *offset += best.map_or(0.0, |(_, by)| by);
        });
    }
    offsets
}

/// Makes a product of x one of `x - offsets`.
pub(super) fn shift(of: &mut LinearWeights, offsets: &[f32]) {
    let products = rows_by_rows(&of.weight, offsets, of.cols);
    match &mut of.bias {
        Some(bias) => ops::add(bias, &products),
        None => of.bias = Some(products),
    }
}

/// The same for inputs of a product, if its error is less with them when all is rounded.
pub(super) fn helpful_offsets(of: &LinearWeights, x: &[f32], format: Format) -> Option<Vec<f32>> {
    let offsets = offsets(x, of.cols);
    let moved: Vec<f32> =
        x.chunks(of.cols).flat_map(|row| row.iter().zip(&offsets).map(|(x, c)| x - c)).collect();
    let step = of.rows().div_ceil(ROWS);
    let weight: Vec<f32> = of.weight.chunks(of.cols).step_by(step).flatten().copied().collect();
    let linear = LinearWeights { weight, bias: None, cols: of.cols, inputs: Some(Inputs::Rounded) };
    let error = |x: &[f32]| -> f64 {
        let rounded = nearest(&linear, format, &ops::squares(x, of.cols)).weights();
        let (found, wanted) = (rounded.apply(x), rows_by_rows(x, &linear.weight, of.cols));
        found.iter().zip(&wanted).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    };
    (error(&moved) < 0.98 * error(x)).then_some(offsets)
}

/// Folds offsets of what a layer norm gives into its bias, and into that of the product after it.
pub(super) fn offsets_into_norm(block: &mut BlockWeights, offsets: &[f32]) {
    if let Some(norm) = &mut block.norm {
        let bias = norm.bias.get_or_insert_with(|| vec![0.0; offsets.len()]);
        ops::subtract(bias, offsets);
    }
    if let Some(of) = block.product_mut(block.reader()) {
        shift(of, offsets);
    }
}

/// Folds factors of what the norm gives into it.
pub(super) fn into_norm(block: &mut BlockWeights, factors: &[f32]) {
    if let Some(norm) = &mut block.norm {
        for vector in [&mut norm.weight].into_iter().chain(&mut norm.bias) {
            vector.iter_mut().zip(factors).for_each(|(w, f)| *w /= f);
        }
    }
    if let Some(of) = block.product_mut(block.reader()) {
        scale_columns(of, factors);
    }
}

/// Folds factors of the last product's inputs into the one that makes them.
pub(super) fn into_input(block: &mut BlockWeights, factors: &[f32]) {
    let (site, first, of_rows): (Site, usize, Vec<f32>) = match &block.operation {
        Operation::FeedForward { gated: true, .. } => {
            (Site::Input, block.output.cols, factors.to_vec())
        }
        Operation::FeedForward { .. } | Operation::Projection => (Site::Input, 0, factors.to_vec()),
        Operation::Attention(heads) => {
            let first_of = |kv: usize| kv * heads.group() * heads.head_dim;
            let of_values = (0..heads.kv_heads)
                .flat_map(|kv| factors[first_of(kv)..][..heads.head_dim].to_vec());
            let site = if heads.mask == Mask::Cross { Site::States } else { Site::Input };
            (site, heads.values().start, of_values.collect())
        }
    };
    if let Some(input) = block.product_mut(site) {
        for (i, factor) in of_rows.iter().enumerate() {
            input.weight[(first + i) * input.cols..][..input.cols]
                .iter_mut()
                .for_each(|w| *w /= factor);
            if let Some(bias) = &mut input.bias {
                bias[first + i] /= factor;
            }
        }
    }
    scale_columns(&mut block.output, factors);
}

/// Which inputs of the last product must share a factor: those that are one value's. Nothing where
/// factors cannot pass what makes them.
pub(super) fn groups(block: &BlockWeights) -> Option<Vec<usize>> {
    let cols = 0..block.output.cols;
    match &block.operation {
        Operation::Attention(h) => {
            Some(cols.map(|c| c / h.head_dim / h.group() * h.head_dim + c % h.head_dim).collect())
        }
        Operation::FeedForward { gated: true, .. }
        | Operation::FeedForward { activation: Activation::Relu | Activation::Identity, .. } => {
            Some(cols.collect())
        }
        Operation::FeedForward { .. } | Operation::Projection => None,
    }
}

fn scale_columns(of: &mut LinearWeights, factors: &[f32]) {
    for row in of.weight.chunks_mut(of.cols) {
        row.iter_mut().zip(factors).for_each(|(w, f)| *w *= f);
    }
}
