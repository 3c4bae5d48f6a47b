//! Deciding what to do with each block, on measurements: which blocks are left out, how many heads and channels each of the others loses, and
//! how its products are coded.
//!
//! Everything is measured as damage to the predictions of the f32 model ([`Probe`]), one change at a time, on some of the calibration
//! sequences. Pruning comes first, formats are then chosen for what is left.

use std::time::Instant;

use kinglet::{Format, Isa};
use kinglet_kernels::layout::GROUP;
use kinglet_kernels::{Activations, Matrix};
use serde::{Deserialize, Serialize};

use super::blocks::{Task, nearest};
use super::budget::{self, Form, Limit};
use super::store::as_name;
use super::{Moments, Options, QuantizeError, Target};
use crate::memory::Memory;
use crate::probe::Probe;
use crate::prune;
use crate::reference::{BlockWeights, Middle, Reference};

/// Tokens that damage is measured on, at most.
const TOKENS: usize = 4096;
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
    pub(super) rounding: [Vec<Rounding>; 2],
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
    let blocks = reference.architecture().blocks.len();
    let task = Task {
        input: options.weights,
        output: options.weights,
        cut: 0,
        refit: options.prune.refit,
        fold: options.fold,
    };
    let mut plan = Plan { tasks: vec![Some(task); blocks], figures: vec![Figures::default(); blocks] };
    if !(options.explain || options.target.is_some() || options.prune.any()) {
        return Ok(plan);
    }
    if options.calibration.is_empty() {
        return Err(QuantizeError::NothingToMeasure);
    }
    let mut probe = Probe::new(reference, &sample(&options.calibration))?;
    for (block, figures) in plan.figures.iter_mut().enumerate() {
        progress(block, 3 * blocks);
        let profile = probe.profile(block)?;
        figures.profile = Some([profile.plasticity, profile.on_embeddings, profile.influence]);
        figures.without = Some(probe.damage(block, None)?);
    }
    drop_blocks(&mut plan, &mut probe, options)?;
    cut_units(&mut plan, &probe, options, &mut |block| progress(blocks + block, 3 * blocks))?;
    measure_rounding(&mut plan, &probe, options, &mut |block| progress(2 * blocks + block, 3 * blocks))?;
    if let Some(target) = options.target {
        choose_formats(&mut plan, reference, target, overhead)?;
    }
    Ok(plan)
}

/// Sequences at equal distances.
fn sample(sequences: &[Vec<u32>]) -> Vec<&[u32]> {
    let tokens: usize = sequences.iter().map(Vec::len).sum();
    sequences.iter().step_by(tokens.div_ceil(TOKENS).max(1)).map(Vec::as_slice).collect()
}

/// Leaves the blocks out that are missed least, one after the other.
fn drop_blocks(plan: &mut Plan, probe: &mut Probe<'_, '_>, options: &Options) -> Result<(), QuantizeError> {
    let blocks = plan.tasks.len();
    if options.prune.blocks >= blocks && options.prune.blocks > 0 {
        return Err(QuantizeError::Prune { what: format!("{} of {blocks} blocks", options.prune.blocks) });
    }
    for _ in 0..options.prune.blocks {
        let mut least: Option<(f64, usize)> = None;
        for block in (0..blocks).filter(|&block| !probe.is_dropped(block)) {
            let damage = probe.damage(block, None)?;
            if least.is_none_or(|(least, _)| damage < least) {
                least = Some((damage, block));
            }
        }
        if let Some((_, block)) = least {
            probe.drop_block(block)?;
            plan.tasks[block] = None;
        }
    }
    Ok(())
}

/// Decides how many units each block loses: step by step where the next step does the least damage.
fn cut_units(
    plan: &mut Plan,
    probe: &Probe<'_, '_>,
    options: &Options,
    progress: &mut dyn FnMut(usize),
) -> Result<(), QuantizeError> {
    let reference = probe.reference();
    let mut all = [0; 2];
    let kind = |block: &BlockWeights| usize::from(matches!(block.middle, Middle::FeedForward(_)));
    let parts = [options.prune.heads, options.prune.channels];
    for index in 0..plan.tasks.len() {
        progress(index);
        let block = reference.block(index)?;
        if plan.tasks[index].is_none() || parts[kind(&block)] == 0.0 {
            continue;
        }
        let units = prune::units(&block);
        all[kind(&block)] += units;
        let mut moments = Moments::new(block.output.cols);
        moments.add(&block.middle.mix(probe.lengths(), block.input.apply(&block.norm.apply(probe.stream(index)))));
        moments.finish().map_err(|source| QuantizeError::Moments { block: index, source })?;
        let step = step(units);
        for count in (step..units).step_by(step) {
            let mut cut = block.clone().into_owned();
            prune::cut(&mut cut, &moments, count, options.prune.refit)
                .map_err(|source| QuantizeError::Moments { block: index, source })?;
            plan.figures[index].cuts.push((count, probe.damage(index, Some(&cut))?));
        }
    }
    for (of, part) in parts.into_iter().enumerate().filter(|(_, part)| *part > 0.0) {
        let wanted = (part * all[of] as f64).round() as usize;
        let mut gone = 0;
        while gone < wanted {
            let mut least: Option<(f64, usize, usize)> = None;
            for (index, task) in plan.tasks.iter().enumerate() {
                let Some(task) = task else { continue };
                let block = reference.block(index)?;
                let cuts = &plan.figures[index].cuts;
                let now = cuts.iter().find(|(count, _)| *count == task.cut).map_or(0.0, |(_, damage)| *damage);
                let next = cuts.iter().find(|(count, _)| *count > task.cut);
                if let Some(&(count, damage)) = next.filter(|_| kind(&block) == of) {
                    let each = (damage - now) / (count - task.cut) as f64;
                    if least.is_none_or(|(least, ..)| each < least) {
                        least = Some((each, index, count));
                    }
                }
            }
            let Some((_, index, count)) = least else {
                let what = format!("{:.0}% of the {}", part * 100.0, ["heads", "channels"][of]);
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

/// Units that go at once: multiples of a group of 32 where there are many, so that no group is left half empty.
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
        let normed = block.norm.apply(probe.stream(index));
        let mixed = block.middle.mix(probe.lengths(), block.input.apply(&normed));
        let importance = |x: &[f32], cols: usize| {
            let mut sums = vec![0.0; cols];
            x.chunks(cols).for_each(|row| sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x));
            sums
        };
        let importances = [importance(&normed, block.input.cols), importance(&mixed, block.output.cols)];
        for (product, importance) in importances.iter().enumerate() {
            for format in formats(options) {
                let mut with = block.clone().into_owned();
                let of = if product == 0 { &mut with.input } else { &mut with.output };
                *of = nearest(of, format, importance).weights();
                of.rounds = false;
                let damage = probe.damage(index, Some(&with))?;
                plan.figures[index].rounding[product].push(Rounding { format, damage });
            }
        }
    }
    Ok(())
}

/// The formats that are compared: even levels only where they can win, which is time.
fn formats(options: &Options) -> Vec<Format> {
    match options.target {
        Some(Target::Seconds(_)) => Format::ALL.to_vec(),
        _ => vec![Format::Int8, Format::Int4Codebook],
    }
}

/// Chooses the format of each product.
fn choose_formats(
    plan: &mut Plan,
    reference: &Reference<'_>,
    target: Target,
    overhead: u64,
) -> Result<(), QuantizeError> {
    let mut places = vec![];
    let mut products = vec![];
    let (mut weights, mut times) = (0, vec![]);
    for (index, task) in plan.tasks.iter().enumerate() {
        let Some(task) = task else { continue };
        let shapes = shapes(&*reference.block(index)?, task.cut);
        for (product, (rows, cols)) in shapes.into_iter().enumerate() {
            weights += rows * cols;
            let forms = plan.figures[index].rounding[product].iter().map(|&Rounding { format, damage }| {
                let cost = match target {
                    Target::Seconds(_) => seconds(format, rows, cols, &mut times),
                    Target::Bits(_) => bits(format) * (rows * cols) as f64,
                    Target::Bytes(_) | Target::Divergence(_) => {
                        format.bytes(rows, cols).map_or(f64::INFINITY, |b| b.next_multiple_of(64) as f64)
                    }
                };
                Form { format, cost, damage }
            });
            products.push(forms.collect::<Vec<_>>());
            places.push((index, product));
        }
    }
    let limit = match target {
        Target::Bits(bits) => Limit::Cost(bits * weights as f64),
        Target::Bytes(bytes) => Limit::Cost(bytes.saturating_sub(overhead) as f64),
        Target::Divergence(most) => Limit::Damage(most),
        Target::Seconds(seconds) => Limit::Cost(seconds),
    };
    let chosen = budget::choose(&products, limit).map_err(|nearest| QuantizeError::Target {
        target,
        nearest: match target {
            Target::Bits(_) => nearest / weights.max(1) as f64,
            Target::Bytes(_) => nearest + overhead as f64,
            Target::Divergence(_) | Target::Seconds(_) => nearest,
        },
    })?;
    for (((index, product), forms), form) in places.into_iter().zip(&products).zip(chosen) {
        if let Some(task) = &mut plan.tasks[index] {
            *(if product == 0 { &mut task.input } else { &mut task.output }) = forms[form].format;
        }
    }
    Ok(())
}

/// Rows and columns of both products of a block that has lost so many units.
fn shapes(block: &BlockWeights, cut: usize) -> [(usize, usize); 2] {
    let size = block.output.cols / prune::units(block);
    let left = block.output.cols - cut * size;
    let first = match &block.middle {
        Middle::Attention(heads) => {
            let shared = if heads.kv_heads > 1 { heads.kv_heads - cut } else { 1 };
            left + 2 * shared * heads.dim
        }
        Middle::FeedForward(_) => 2 * left,
    };
    [(first, block.input.cols), (block.output.rows(), left)]
}

/// Bits of a weight: its code and its part of a sub-scale. Row scales and padding, which weigh on narrow matrices, are left out.
fn bits(format: Format) -> f64 {
    match format {
        Format::Int8 => 8.0,
        Format::Int4 | Format::Int4Codebook => 4.0 + 8.0 / GROUP as f64,
    }
}

/// The time of a product with one row of activations on this machine, the shortest of several; each shape is measured once.
fn seconds(format: Format, rows: usize, cols: usize, known: &mut Vec<((Format, usize, usize), f64)>) -> f64 {
    let key = (format, rows, cols);
    if let Some((_, seconds)) = known.iter().find(|(k, _)| *k == key) {
        return *seconds;
    }
    let Some(bytes) = format.bytes(rows, cols) else { return f64::INFINITY };
    let mut memory = Memory::new(bytes);
    let Ok(matrix) = Matrix::new(format, rows, cols, memory.bytes()) else { return f64::INFINITY };
    let padded = matrix.padded_cols().next_multiple_of(32);
    let (codes, sums, scales) = (vec![1i8; padded], vec![32i16; padded / 32], [1.0]);
    let x = Activations::new(&codes, &sums, &scales, cols);
    let mut out = vec![0.0; rows];
    let isa = Isa::detect();
    let mut best = f64::INFINITY;
    for _ in 0..30 {
        let start = Instant::now();
        isa.matmul(&matrix, &x, 0..matrix.panels(), &mut out, rows);
        best = best.min(start.elapsed().as_secs_f64());
    }
    std::hint::black_box(&out);
    known.push((key, best));
    best
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
        let sequences = vec![vec![0; 256]; 128];
        assert_eq!(sample(&sequences).len(), 16);
        assert_eq!(sample(&sequences[..3]).len(), 3);
    }
}
