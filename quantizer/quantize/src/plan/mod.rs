//! Deciding what to do with each block, on measurements: which blocks are left out, how many heads
//! and channels each of the others loses, and how its products are coded.
//!
//! Everything is measured as damage to the predictions of the f32 model ([`Probe`]), one change at
//! a time, on some of the calibration samples. Pruning comes first, formats are then chosen for
//! what is left.

mod shape;
mod times;

use kinglet::{Format, Isa};
use serde::{Deserialize, Serialize};

use self::shape::Shape;
use self::times::Times;
use crate::blocks::Task;
use crate::budget::{self, Form, Limit};
use crate::prune::{self, Units};
use crate::resume::as_name;
use crate::rounding::Hessian;
use crate::rounding::linear::nearest;
use crate::sensitivity::Probe;
use crate::{Options, QuantizeError, Target};
use kinglet_import::checkpoint::Architecture;
use kinglet_reference::{Forward, Reference, ReferenceError, Sample, Site, ops};

/// Tokens that damage is measured on, at most.
const TOKENS: usize = 4096;
/// Logits of these tokens, at most: they are in memory, and large vocabularies cost the most time.
const LOGITS: usize = 1 << 25;
/// Steps in which units are taken out of a block.
const STEPS: usize = 8;

/// What to do with each block, and why.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Nothing for blocks that are left out.
    pub(super) tasks: Vec<Option<Task>>,
    /// What was measured.
    pub(super) figures: Vec<Figures>,
}

/// What was measured of a block.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    /// Damage of leaving it out.
    pub(super) without: Option<f64>,
    /// Plasticity in place and on embeddings, and influence.
    pub(super) profile: Option<[f64; 3]>,
    /// Damage of rounding each product alone to each format.
    pub(super) rounding: [Vec<Rounding>; 3],
    /// Damage of taking out so many units.
    pub(super) cuts: Vec<(usize, f64)>,
}

/// Damage of rounding a product.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Rounding {
    /// To this format.
    #[serde(with = "as_name")]
    pub(super) format: Format,
    /// Mean divergence, nats.
    pub(super) damage: f64,
}

/// Makes the plan. `overhead` are the bytes of the file that are not in products.
pub(super) fn plan(
    reference: &Reference<'_>,
    options: &Options,
    overhead: u64,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Plan, QuantizeError> {
    let blocks = reference.architecture().count();
    let task = Task {
        formats: [options.weights; 3],
        cut: 0,
        refit: options.prune.refit,
        fold: options.fold,
        transform: options.transform,
    };
    let mut plan =
        Plan { tasks: vec![Some(task); blocks], figures: vec![Figures::default(); blocks] };
    if !(options.explain || options.target.is_some() || options.prune.any()) {
        return Ok(plan);
    }
    measure(&mut plan, reference, options, progress)?;
    let shapes = (0..blocks)
        .map(|index| Ok(Shape::of(&*reference.block(index)?)))
        .collect::<Result<Vec<_>, ReferenceError>>()?;
    match (options.prune.units, options.target) {
        (Units::Auto, None) => Err(QuantizeError::NoTarget),
        (Units::Auto, Some(target)) => balance(&plan, &shapes, target, overhead, options.isa),
        (units, target) => {
            let part = match units {
                Units::Part { heads, channels } => [heads, channels],
                Units::All | Units::Auto => [0.0; 2],
            };
            cut_units(&mut plan, &shapes, part)?;
            if let Some(target) = target {
                choose_formats(&mut plan, &shapes, target, overhead, options.isa)?;
            }
            Ok(plan)
        }
    }
}

/// Measures what the options ask for. The blocks that are missed least are left out before cuts and
/// formats are looked at.
fn measure(
    plan: &mut Plan,
    reference: &Reference<'_>,
    options: &Options,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(), QuantizeError> {
    if options.calibration.is_empty() {
        return Err(QuantizeError::NothingToMeasure);
    }
    let blocks = plan.tasks.len();
    let architecture = reference.architecture();
    let most = if architecture.is_language_model() {
        TOKENS.min(LOGITS / architecture.outputs())
    } else {
        TOKENS
    };
    let mut probe = Probe::new(reference, &sample(&options.calibration, architecture, most))?;
    for (block, figures) in plan.figures.iter_mut().enumerate() {
        progress(block, 3 * blocks);
        let profile = probe.profile(block)?;
        figures.profile = Some([profile.plasticity, profile.on_embeddings, profile.influence]);
        if probe.can_be_dropped(block) {
            figures.without = Some(probe.damage(block, None)?);
        }
    }
    drop_blocks(plan, &mut probe, options)?;
    if options.prune.units != Units::All {
        measure_cuts(plan, &probe, options, &mut |block| progress(blocks + block, 3 * blocks))?;
    }
    measure_rounding(plan, &probe, options, &mut |block| progress(2 * blocks + block, 3 * blocks))
}

/// Finds how much to prune and how to code the rest, so that both together do the least damage
/// within the target; or, where damage is limited, need the fewest bytes.
fn balance(
    plan: &Plan,
    shapes: &[Shape],
    target: Target,
    overhead: u64,
    isa: Isa,
) -> Result<Plan, QuantizeError> {
    let mut best: Option<(f64, Plan)> = None;
    let mut failure = None;
    for percent in (0..90).step_by(5) {
        let mut tried = plan.clone();
        let part = f64::from(percent) / 100.0;
        if cut_units(&mut tried, shapes, [part; 2]).is_err() {
            break;
        }
        match choose_formats(&mut tried, shapes, target, overhead, isa) {
            Ok((cost, damage)) => {
                let worse = if matches!(target, Target::Divergence(_)) { cost } else { damage };
                if best.as_ref().is_none_or(|(least, _)| worse < *least) {
                    best = Some((worse, tried));
                }
            }
            Err(error) => failure = Some(error),
        }
    }
    match (best, failure) {
        (Some((_, plan)), _) => Ok(plan),
        (None, Some(error)) => Err(error),
        (None, None) => Err(QuantizeError::Prune { what: "anything".to_owned() }),
    }
}

/// Samples at equal distances, of about so many tokens in all.
fn sample(samples: &[Sample], architecture: &Architecture, most: usize) -> Vec<Sample> {
    let tokens: usize = samples.iter().map(|sample| sample.size(architecture)).sum();
    samples.iter().step_by(tokens.div_ceil(most.max(1)).max(1)).cloned().collect()
}

/// Leaves the blocks out that are missed least, one after the other.
fn drop_blocks(
    plan: &mut Plan,
    probe: &mut Probe<'_, '_>,
    options: &Options,
) -> Result<(), QuantizeError> {
    let blocks = plan.tasks.len();
    if options.prune.blocks >= blocks && options.prune.blocks > 0 {
        return Err(QuantizeError::Prune {
            what: format!("{} of {blocks} blocks", options.prune.blocks),
        });
    }
    for _ in 0..options.prune.blocks {
        let mut least: Option<(f64, usize)> = None;
        for block in
            (0..blocks).filter(|&block| !probe.is_dropped(block) && probe.can_be_dropped(block))
        {
            let damage = probe.damage(block, None)?;
            if least.is_none_or(|(least, _)| damage < least) {
                least = Some((damage, block));
            }
        }
        let Some((_, block)) = least else {
            let what = format!(
                "{} of {blocks} blocks, some of which make another stream,",
                options.prune.blocks
            );
            return Err(QuantizeError::Prune { what });
        };
        probe.drop_block(block)?;
        plan.tasks[block] = None;
    }
    Ok(())
}

/// The damage of taking units out of each block alone, in steps.
fn measure_cuts(
    plan: &mut Plan,
    probe: &Probe<'_, '_>,
    options: &Options,
    progress: &mut dyn FnMut(usize),
) -> Result<(), QuantizeError> {
    for index in 0..plan.tasks.len() {
        progress(index);
        let block = probe.reference().block(index)?;
        // What has one unit, or none, keeps it.
        if plan.tasks[index].is_none() || prune::units(&block) < 2 {
            continue;
        }
        let singular = |source| QuantizeError::Hessian { block: index, source };
        let units = prune::units(&block);
        let mut hessian = Hessian::new(block.output.cols);
        for part in probe.batch(index).parts(usize::MAX) {
            hessian.add(&block.mixed(part.sequences, block.normed(part.stream)));
        }
        hessian.finish().map_err(singular)?;
        let counts: Vec<usize> = (step(units)..units).step_by(step(units)).collect();
        let cuts = prune::cut(&block, &hessian, &counts, options.prune.refit).map_err(singular)?;
        for (count, (cut, _)) in counts.into_iter().zip(cuts) {
            plan.figures[index].cuts.push((count, probe.damage(index, Some(&cut))?));
        }
    }
    Ok(())
}

/// The damage of taking so many units out of a block.
fn damage_of_cut(figures: &Figures, cut: usize) -> f64 {
    figures.cuts.iter().find(|(count, _)| *count == cut).map_or(0.0, |(_, damage)| *damage)
}

/// Decides how many units each block loses, so that these parts of all heads and of all channels
/// go: step by step where the next step does the least damage.
fn cut_units(plan: &mut Plan, shapes: &[Shape], parts: [f64; 2]) -> Result<(), QuantizeError> {
    for (kind, part) in parts.into_iter().enumerate().filter(|(_, part)| *part > 0.0) {
        let of_kind = |index: &usize| shapes[*index].kind == kind && plan.tasks[*index].is_some();
        let blocks: Vec<usize> = (0..shapes.len()).filter(of_kind).collect();
        let wanted = (part * blocks.iter().map(|&index| shapes[index].units).sum::<usize>() as f64)
            .round() as usize;
        let mut gone = 0;
        while gone < wanted {
            let mut least: Option<(f64, usize, usize)> = None;
            for &index in &blocks {
                let now = plan.tasks[index].map_or(0, |task| task.cut);
                let figures = &plan.figures[index];
                if let Some(&(count, damage)) = figures.cuts.iter().find(|(count, _)| *count > now)
                {
                    let each = (damage - damage_of_cut(figures, now)) / (count - now) as f64;
                    if least.is_none_or(|(least, ..)| each < least) {
                        least = Some((each, index, count));
                    }
                }
            }
            let Some((_, index, count)) = least else {
                let what = format!("{:.0}% of the {}", part * 100.0, ["heads", "channels"][kind]);
                return Err(QuantizeError::Prune { what });
            };
            if let Some(task) = &mut plan.tasks[index] {
                gone += count - task.cut;
                task.cut = count;
            }
        }
    }
    Ok(())
}

/// Units that go at once: multiples of a group of 32 where there are many, so that no group is left
/// half empty.
fn step(units: usize) -> usize {
    let step = units.div_ceil(STEPS);
    if step >= 32 { step.next_multiple_of(32) } else { step }
}

/// The damage of rounding each product alone.
fn measure_rounding(
    plan: &mut Plan,
    probe: &Probe<'_, '_>,
    options: &Options,
    progress: &mut dyn FnMut(usize),
) -> Result<(), QuantizeError> {
    let reference = probe.reference();
    for index in 0..plan.tasks.len() {
        progress(index);
        if plan.tasks[index].is_none() {
            continue;
        }
        let block = reference.block(index)?;
        let Some(part) = probe.batch(index).parts(usize::MAX).next() else { continue };
        let normed = block.normed(part.stream);
        let mixed = block.mixed(part.sequences, normed.clone());
        for site in Site::OF_BLOCK {
            let Some(product) = block.product(site) else { continue };
            let seen = match site {
                Site::Input => &normed,
                Site::States => part.sequences.states,
                Site::Output | Site::Head => &mixed,
            };
            let importance = ops::squares(seen, product.cols);
            for format in formats(options) {
                let mut with = block.clone().into_owned();
                if let Some(of) = with.product_mut(site) {
                    *of = nearest(of, format, &importance).weights();
                    of.inputs = None;
                }
                let damage = probe.damage(index, Some(&with))?;
                plan.figures[index].rounding[site as usize].push(Rounding { format, damage });
            }
        }
    }
    Ok(())
}

/// The formats that are compared: even levels only where they can win, which is time.
pub(super) fn formats(options: &Options) -> Vec<Format> {
    match options.target {
        Some(Target::Seconds(_)) => {
            Format::ALL.into_iter().filter(|format| !format.has_offsets()).collect()
        }
        _ => vec![Format::Int8Grouped, Format::Int4Codebook],
    }
}

/// Chooses the format of each product; returns what they cost and the damage of rounding and
/// cutting together.
fn choose_formats(
    plan: &mut Plan,
    shapes: &[Shape],
    target: Target,
    overhead: u64,
    isa: Isa,
) -> Result<(f64, f64), QuantizeError> {
    let (mut places, mut products) = (vec![], vec![]);
    let (mut whole, mut cut, mut times) = (0, 0.0, Times::default());
    for (index, (task, shape)) in plan.tasks.iter().zip(shapes).enumerate() {
        whole += shape.products(0).map(|(_, rows, cols)| rows * cols).sum::<usize>();
        let Some(task) = task else { continue };
        cut += damage_of_cut(&plan.figures[index], task.cut);
        for (site, rows, cols) in shape.products(task.cut) {
            let forms = plan.figures[index].rounding[site as usize].iter().map(
                |&Rounding { format, damage }| {
                    let cost = match target {
                        Target::Seconds(_) => times.seconds(isa, format, rows, cols),
                        Target::Bits(_) => format
                            .bytes(rows, cols)
                            .map_or(f64::INFINITY, |bytes| 8.0 * bytes as f64),
                        Target::Bytes(_) | Target::Divergence(_) => format
                            .bytes(rows, cols)
                            .map_or(f64::INFINITY, |b| b.next_multiple_of(64) as f64),
                    };
                    Form { format, cost, damage }
                },
            );
            products.push(forms.collect::<Vec<_>>());
            places.push((index, site));
        }
    }
    // Bits are those of the weights that there were: what is gone has none.
    let whole = whole.max(1) as f64;
    let limit = match target {
        Target::Bits(bits) => Limit::Cost(bits * whole),
        Target::Bytes(bytes) => Limit::Cost(bytes.saturating_sub(overhead) as f64),
        Target::Divergence(most) => Limit::Damage(most - cut),
        Target::Seconds(seconds) => Limit::Cost(seconds),
    };
    let chosen = budget::choose(&products, limit).map_err(|nearest| QuantizeError::Target {
        target,
        nearest: match target {
            Target::Bits(_) => nearest / whole,
            Target::Bytes(_) => nearest + overhead as f64,
            Target::Divergence(_) => nearest + cut,
            Target::Seconds(_) => nearest,
        },
    })?;
    let (mut cost, mut damage) = (0.0, cut);
    for (((index, site), forms), form) in places.into_iter().zip(&products).zip(chosen) {
        cost += forms[form].cost;
        damage += forms[form].damage;
        if let Some(task) = &mut plan.tasks[index] {
            task.formats[site as usize] = forms[form].format;
        }
    }
    Ok((cost, damage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_keep_groups_whole() {
        assert_eq!([step(4), step(172), step(768), step(2048)], [1, 22, 96, 256]);
    }

    #[test]
    fn samples_are_spread_over_the_text() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/storyteller");
        let checkpoint = kinglet_import::checkpoint::Checkpoint::open(dir).unwrap();
        let samples = vec![Sample::from(vec![0; 256]); 128];
        let sample = |samples: &[Sample]| sample(samples, checkpoint.architecture(), 4096).len();
        assert_eq!((sample(&samples), sample(&samples[..3])), (16, 3));
    }
}
