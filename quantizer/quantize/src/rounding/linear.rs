//! Rounding one product: to the nearest values, or as a calibration wants it.
//!
//! With a calibration, nothing is done because it should help: on a few rows every way is tried,
//! and the one whose outputs are nearest on the held-out tokens is taken for all. The ways differ
//! in how much the Hessian is trusted (few tokens tell little of many inputs), and each goes as
//! far in making up for earlier blocks as it helps there. To round to the nearest values is one of
//! them.

use kinglet::Format;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::codebook;
use super::evidence::{Evidence, Sums};
use super::gptq::Factored;
use super::hessian::{Hessian, HessianError};
use super::levels::{Levels, Row};
use super::round::round;
use super::rounded::RoundedLinear;
use kinglet_reference::{LinearWeights, ops};

/// Weights that a codebook is fitted to, about: some thousands for each level.
const CODEBOOK: usize = 1 << 16;
/// Rows that ways of rounding are tried on.
const TRIED: usize = 64;
/// What is added to the diagonal of a finished Hessian, as parts of its mean.
const DAMPINGS: [f64; 3] = [0.0, 0.1, 1.0];

/// How a product was rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Way {
    /// What was added to the Hessian's diagonal, as a part of its mean; nothing where the nearest
    /// values are best.
    pub(crate) damping: Option<f64>,
    /// How far it makes up for blocks before it, from not at all to all the way.
    pub(crate) corrected: f32,
}

/// Rounds a product to the nearest values, its inputs being of these importances.
pub(crate) fn nearest(of: &LinearWeights, format: Format, importance: &[f32]) -> RoundedLinear {
    let levels = levels(of, format, importance);
    let rows = nearest_rows(&of.weight, format, importance, &levels);
    assemble(of, format, levels, rows)
}

fn nearest_rows(weights: &[f32], format: Format, importance: &[f32], levels: &Levels) -> Vec<Row> {
    weights.par_chunks(importance.len()).map(|row| round(format, row, importance, levels)).collect()
}

fn assemble(of: &LinearWeights, format: Format, levels: Levels, rows: Vec<Row>) -> RoundedLinear {
    let inputs = of.inputs.unwrap_or_default();
    RoundedLinear { format, levels, rows, cols: of.cols, inputs, bias: of.bias.clone() }
}

fn levels(of: &LinearWeights, format: Format, importance: &[f32]) -> Levels {
    match format {
        Format::Int4Codebook => {
            let sample: Vec<&[f32]> =
                of.weight.chunks(of.cols).step_by(codebook_step(of.rows(), of.cols)).collect();
            codebook::fit(&sample, importance)
        }
        _ => Levels::of(format),
    }
}

/// Of how many rows one is enough to fit a codebook to.
pub(crate) fn codebook_step(rows: usize, cols: usize) -> usize {
    rows.div_ceil((CODEBOOK / cols).max(1))
}

/// Rounds a product for inputs with this Hessian; without it, to the nearest values. Also tells the
/// squared error of its outputs (without a Hessian: of the weights), as a part of their own square.
///
/// # Errors
/// A Hessian that is not finite, or singular beyond help.
pub fn linear(
    of: &LinearWeights,
    format: Format,
    hessian: Option<Hessian>,
) -> Result<(RoundedLinear, f64), HessianError> {
    let Some(mut hessian) = hessian else {
        let rounded = nearest(of, format, &vec![1.0; of.cols]);
        let error = error(&of.weight, &rounded);
        return Ok((rounded, error));
    };
    hessian.finish()?;
    let hessian = Factored::new(hessian)?;
    Ok(rounded(of, format, &hessian, levels(of, format, hessian.importance())))
}

/// Rounds a product for inputs with this Hessian; also tells the squared error of its outputs.
fn rounded(
    of: &LinearWeights,
    format: Format,
    hessian: &Factored,
    levels: Levels,
) -> (RoundedLinear, f64) {
    let rows = hessian.round(format, &of.weight, &levels);
    let error = hessian.error(&of.weight, &rows, &levels);
    (assemble(of, format, levels, rows), error)
}

/// Rounds a product in the way that does best on the held-out tokens. Its weights become what was
/// rounded. Also tells the squared error of its outputs, as a part of their own square, and the
/// way.
pub(crate) fn calibrated(
    of: &mut LinearWeights,
    format: Format,
    mut evidence: Evidence,
) -> Result<(RoundedLinear, f64, Way), HessianError> {
    evidence.finish()?;
    let Evidence { mut fitted, held, .. } = evidence;
    let importance = fitted.hessian.diagonal();
    let levels = levels(of, format, &importance);
    let mut way = Way { damping: Some(0.0), corrected: 1.0 };
    if let Some(held) = &held {
        way = best(of, format, &levels, [&fitted, held])?;
        fitted.join(held);
    }
    let Some(damping) = way.damping else {
        let rows = nearest_rows(&of.weight, format, &importance, &levels);
        let rounded = assemble(of, format, levels, rows);
        let error = error(&of.weight, &rounded);
        return Ok((rounded, error, way));
    };
    let hessian = Factored::new(fitted.hessian.damped(damping))?;
    if way.corrected > 0.0 {
        let numbers: Vec<usize> = (0..of.rows()).collect();
        let change = hessian.solve(&fitted.lack(&of.weight, &numbers));
        of.weight.iter_mut().zip(change).for_each(|(w, change)| *w += way.corrected * change);
    }
    let (rounded, error) = rounded(of, format, &hessian, levels);
    Ok((rounded, error, way))
}

/// The way that does best with some rows.
fn best(
    of: &LinearWeights,
    format: Format,
    levels: &Levels,
    [fitted, held]: [&Sums; 2],
) -> Result<Way, HessianError> {
    let numbers: Vec<usize> = (0..of.rows()).step_by(of.rows().div_ceil(TRIED)).collect();
    let weights: Vec<f32> =
        numbers.iter().flat_map(|&r| &of.weight[r * of.cols..][..of.cols]).copied().collect();
    let [lack, held_lack] = [fitted, held].map(|sums| sums.lack(&weights, &numbers));
    let loss = |rows: &[Row]| {
        let values = rows.iter().flat_map(|row| row.values(levels));
        let change: Vec<f32> = values.zip(&weights).map(|(value, weight)| value - weight).collect();
        let [square, along] = held.effect(&change, &held_lack);
        square - 2.0 * along
    };
    let plain = nearest_rows(&weights, format, &fitted.hessian.diagonal(), levels);
    let (mut least, mut way) = (loss(&plain), Way::default());
    for damping in DAMPINGS {
        let hessian = Factored::new(fitted.hessian.damped(damping))?;
        let (mut aim, mut corrected) = (weights.clone(), 0.0);
        if !lack.is_empty() {
            let mut change = hessian.solve(&lack);
            let [square, along] = held.effect(&change, &held_lack);
            corrected = if along > 0.0 { (along / square).min(1.0) as f32 } else { 0.0 };
            change.iter_mut().for_each(|change| *change *= corrected);
            ops::add(&mut aim, &change);
        }
        let lost = loss(&hessian.round(format, &aim, levels));
        if lost < least {
            (least, way) = (lost, Way { damping: Some(damping), corrected });
        }
    }
    Ok(way)
}

/// The squared error of the weights themselves, as a part of their own square.
pub(crate) fn error(weights: &[f32], rounded: &RoundedLinear) -> f64 {
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

#[cfg(test)]
mod tests {
    use super::super::evidence::Aim;
    use kinglet_model::Inputs;

    use super::*;
    use kinglet_reference::product;
    use kinglet_reference::testing::numbers;

    const COLS: usize = 96;
    const ROWS: usize = 20;

    fn product() -> LinearWeights {
        LinearWeights {
            weight: numbers(ROWS * COLS, 1),
            bias: None,
            cols: COLS,
            inputs: Some(Inputs::Rounded),
        }
    }

    /// Inputs of some factors, so that rounding can make up for itself.
    fn inputs(tokens: usize, seed: u32) -> Vec<f32> {
        product::rows_by_rows(&numbers(tokens * 8, seed), &numbers(COLS * 8, 2), 8)
    }

    /// The squared error of a product's outputs.
    fn lost(of: &RoundedLinear, x: &[f32], wanted: &[f32]) -> f32 {
        let found = product::rows_by_rows(x, &of.weights().weight, COLS);
        found.iter().zip(wanted).map(|(a, b)| (a - b) * (a - b)).sum()
    }

    #[test]
    fn what_does_best_on_held_out_tokens_is_taken() {
        let of = product();
        // Many tokens of few factors: GPTQ is far better. Few tokens, each unlike all others:
        // nothing was learned.
        for (tokens, alike) in [(400, true), (100, false)] {
            let some =
                |seed| if alike { inputs(tokens, seed) } else { numbers(tokens * COLS, seed) };
            let x = some(3);
            let mut evidence = Evidence::new(COLS, Aim::Own, &[tokens / 10; 10]);
            evidence.add(&x, &[]);
            let mut rounded_as = of.clone();
            let (rounded, _, way) = calibrated(&mut rounded_as, Format::Int4, evidence).unwrap();
            assert_eq!(rounded_as.weight, of.weight, "there was nothing to make up for");
            let plain = nearest(&of, Format::Int4, &vec![1.0; COLS]);
            let other = some(4);
            let wanted = product::rows_by_rows(&other, &of.weight, COLS);
            let [found, plain] = [&rounded, &plain].map(|of| lost(of, &other, &wanted));
            if alike {
                assert!(way.damping.is_some() && found < 0.7 * plain, "{found} {plain} {way:?}");
            } else {
                assert!(found < 1.2 * plain, "{found} {plain} {way:?}");
            }
        }
    }

    #[test]
    fn what_was_lost_before_is_made_up_for_as_far_as_it_shows_on_held_out_tokens() {
        let of = product();
        let x = numbers(400 * COLS, 5);
        // What is missing in the inputs follows from them, or has nothing to do with them.
        let known: Vec<f32> = x.iter().map(|x| 1.2 * x).collect();
        let unknown: Vec<f32> =
            x.iter().zip(numbers(x.len(), 6)).map(|(x, noise)| x + 0.2 * noise).collect();
        for (exact, least, most) in [(known, 0.9, 1.0), (unknown, 0.0, 0.3)] {
            let by_inputs = {
                let mut evidence = Evidence::new(COLS, Aim::Inputs, &[40; 10]);
                evidence.add(&x, &exact);
                calibrated(&mut of.clone(), Format::Int8Grouped, evidence).unwrap()
            };
            let wanted = product::rows_by_rows(&exact, &of.weight, COLS);
            let by_outputs = {
                let mut evidence = Evidence::new(COLS, Aim::Outputs(ROWS), &[40; 10]);
                // In pieces that do not end where the held-out tokens begin.
                for (x, wanted) in x.chunks(70 * COLS).zip(wanted.chunks(70 * ROWS)) {
                    evidence.add(x, wanted);
                }
                calibrated(&mut of.clone(), Format::Int8Grouped, evidence).unwrap()
            };
            for (rounded, _, way) in [by_inputs, by_outputs] {
                assert!((least..=most).contains(&way.corrected), "{way:?}");
                let plain = nearest(&of, Format::Int8Grouped, &vec![1.0; COLS]);
                assert!(lost(&rounded, &x, &wanted) <= 1.01 * lost(&plain, &x, &wanted));
            }
        }
    }
}
