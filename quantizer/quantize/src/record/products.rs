//! What was done to each product, and why.

use kinglet::Format;

use crate::blocks::Done;
use crate::fit::FitOutcome;
use crate::plan::Plan;
use crate::resume::as_name::name;
use crate::rounding::linear::Way;
use crate::rounding::pack;
use crate::rounding::rounded::{RoundedBlock, RoundedLinear};
use crate::{Options, lowering};
use kinglet_evaluate::Place;
use kinglet_evaluate::record::Tensor;
use kinglet_import::checkpoint::{Architecture, Block};
use kinglet_reference::Site;

/// Names of the products of a block.
pub(super) fn names(place: Place, block: &Block) -> [String; 3] {
    let parts = match (lowering::names(&block.operation).1, block.is_cross()) {
        (["", _], _) => return std::array::from_fn(|_| place.to_string()),
        ([first, last], true) => [first, "key value", last],
        ([first, last], false) => [first, "", last],
    };
    parts.map(|part| format!("{place} {part}"))
}

/// What damage is measured in.
fn unit(architecture: &Architecture) -> &'static str {
    if architecture.is_language_model() { "nats" } else { "of the output's square" }
}

/// What the products of all blocks have in common.
pub(super) struct Context<'a> {
    pub(super) architecture: &'a Architecture,
    pub(super) options: &'a Options,
    pub(super) plan: &'a Plan,
}

impl Context<'_> {
    /// The products of a block, which is the `number`th of the checkpoint.
    pub(super) fn tensors(&self, number: usize, block: &RoundedBlock, done: &Done) -> Vec<Tensor> {
        let place = Place::all(self.architecture).nth(number);
        let described = place.zip(self.architecture.block(number));
        let Some(names) = described.map(|(place, block)| names(place, block)) else {
            return vec![];
        };
        let tensor = |(site, linear): (Site, &RoundedLinear)| {
            let reasons = self.reasons(number, site, linear.format, done);
            tensor(names[site as usize].clone(), site, linear, done, reasons.join("; "))
        };
        block.products().map(tensor).collect()
    }

    /// Why a product is rounded as it is.
    fn reasons(&self, number: usize, site: Site, format: Format, done: &Done) -> Vec<String> {
        let i = site as usize;
        let mut reasons = vec![];
        if let Some(coding) = done.taken[i] {
            reasons.push(format!("codes taken over from {}; inputs in two planes", coding.name()));
        } else {
            reasons.extend(self.why_format(number, site, format));
            reasons.extend(done.learned.and_then(why_learned));
        }
        if done.folded[i] {
            reasons.push("outliers folded".to_owned());
        }
        reasons.extend(self.why_codes(i, done));
        if site == Site::Output && done.cut > 0.0 {
            reasons.push(format!("pruned: {:.2}% of its output's square lost", done.cut * 100.0));
        }
        reasons
    }

    /// Why it has its format: what it costs in this one and in the one that it could have had.
    fn why_format(&self, number: usize, site: Site, format: Format) -> Option<String> {
        let roundings = &self.plan.figures[number].rounding[site as usize];
        let damage =
            |format: Format| roundings.iter().find(|r| r.format == format).map(|r| r.damage);
        let (Some(_), Some(own)) = (self.options.target, damage(format)) else {
            return Some("as asked".to_owned());
        };
        let other = if format.is_int8() { self.options.weights } else { Format::Int8Grouped };
        let other_damage = damage(other)?;
        let (unit, other) = (unit(self.architecture), name(other));
        Some(format!("alone costs {own:.5} {unit}, {other_damage:.5} in {other}"))
    }

    /// What the calibration did to its codes, where that is worth a word.
    fn why_codes(&self, site: usize, done: &Done) -> Option<String> {
        let calibrated = !self.options.calibration.is_empty();
        match done.ways[site] {
            Way { damping: None, .. } if calibrated && done.taken[site].is_none() => {
                Some("on held-out tokens nothing is better than the nearest values".to_owned())
            }
            Way { corrected, .. } if corrected > 0.0 => {
                Some(format!("makes up for {:.0}% of what is lost before it", corrected * 100.0))
            }
            Way { .. } => None,
        }
    }
}

/// What learning did, where it helped.
fn why_learned(FitOutcome { before, after }: FitOutcome) -> Option<String> {
    (after < before)
        .then(|| format!("learned: error of the layer {before:.2e} before, {after:.2e} after"))
}

fn tensor(
    name_of: String,
    site: Site,
    linear: &RoundedLinear,
    done: &Done,
    reason: String,
) -> Tensor {
    let i = site as usize;
    let (rows, cols) = (linear.rows.len(), linear.cols);
    let weights = (rows * cols).max(1) as f64;
    let bytes = pack::kind(linear).bytes(rows, cols).unwrap_or(0);
    let integers = linear.rows.iter().flat_map(|row| row.integers(&linear.levels));
    let zeros = integers.filter(|q| *q == 0).count();
    let rounding = match (done.taken[i], done.ways[i].damping) {
        (Some(_), _) => "taken over",
        (None, None) => "nearest",
        (None, Some(_)) => "GPTQ, descent",
    };
    Tensor {
        name: name_of,
        rows,
        cols,
        format: name(linear.format).to_owned(),
        bits: bytes as f64 * 8.0 / weights,
        rounding: Some(rounding.to_owned()),
        error: Some(done.errors[i].sqrt()),
        sparsity: Some(zeros as f64 / weights),
        reason: Some(reason),
    }
}
