//! The way from f32 blocks to rounded ones, for models of every kind.

use kinglet::Format;

use crate::blocks::Task;
use crate::calibrate::{self, Passages};
use crate::convert::round_blocks;
use crate::models;
use crate::plan::{self, Plan};
use crate::prune::{Prune, Refit, Units};
use crate::resume::Store;
use crate::rounding::block_weights;
use crate::rounding::{RoundedBlock, packed};
use crate::{Options, Target, fold};
use kinglet_import::checkpoint::Checkpoint;
use kinglet_reference::testing::numbers;
use kinglet_reference::{Batch, BlockWeights, Forward, Reference, Sample, Site};

/// The rounded blocks of a model.
fn rounded(checkpoint: &Checkpoint, options: &Options, plan: &Plan) -> Vec<RoundedBlock> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("m.kinglet"), "").unwrap();
    let done = round_blocks(checkpoint, options, plan, &store, &mut |_| ()).unwrap();
    (0..done.len()).map(|index| store.get::<crate::blocks::Done>(index).unwrap().0).collect()
}

fn everywhere(checkpoint: &Checkpoint, options: &Options) -> Plan {
    let task = Task {
        formats: [options.weights; 3],
        cut: 0,
        refit: Refit::LeastSquares,
        fold: options.fold,
        transform: options.transform,
    };
    let blocks = checkpoint.architecture().count();
    Plan { tasks: vec![Some(task); blocks], figures: vec![] }
}

/// What a model gives: f32, or with these blocks in the places that the plan left.
fn outputs(
    checkpoint: &Checkpoint,
    samples: &[Sample],
    rounded: Option<(&[RoundedBlock], &Plan)>,
) -> Vec<Vec<f32>> {
    let reference = Reference::new(checkpoint).unwrap();
    let mut batch = reference.begin(samples).unwrap();
    let mut of_plan = rounded.map(|(blocks, plan)| (blocks.iter(), plan));
    for number in 0..checkpoint.architecture().count() {
        match &mut of_plan {
            None => reference.advance(&mut batch, number, &mut ()).unwrap(),
            Some((blocks, plan)) => {
                if plan.tasks[number].is_some() {
                    batch.enter(number);
                    packed::advance(blocks.next().unwrap(), &mut batch);
                }
            }
        }
    }
    let mut all = vec![];
    reference.head(&batch, &mut (), |_, _, row| all.push(row.to_vec())).unwrap();
    all
}

/// Squared error as a part of the square.
fn error(found: &[Vec<f32>], wanted: &[Vec<f32>]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let missing: f64 =
        found.iter().flatten().zip(wanted.iter().flatten()).map(|(a, b)| square(a - b)).sum();
    missing / wanted.iter().flatten().map(|&x| square(x)).sum::<f64>()
}

#[test]
fn models_of_every_kind_are_rounded() {
    for models::Model { name, checkpoint, samples, .. } in models::all() {
        let (seen, new) = samples.split_at(40);
        let wanted = outputs(&checkpoint, new, None);
        assert!(wanted.iter().flatten().all(|x| x.is_finite()));
        let cost = |options: &Options| {
            let plan = everywhere(&checkpoint, options);
            error(
                &outputs(&checkpoint, new, Some((&rounded(&checkpoint, options, &plan), &plan))),
                &wanted,
            )
        };
        let nearest = |weights| Options { weights, ..Options::default() };
        let (int8, int4) = (cost(&nearest(Format::Int8)), cost(&nearest(Format::Int4Codebook)));
        let calibrated = Options { calibration: seen.to_vec(), ..nearest(Format::Int4Codebook) };
        let best = cost(&calibrated);
        let plain = cost(&Options { correct: false, fold: false, ..calibrated });
        println!(
            "{name}: int8 {int8:.2e}, int4 {int4:.2e}, calibrated {plain:.2e}, corrected {best:.2e}"
        );
        assert!(int8 < 1e-3 && int4 < 0.1, "{name}: {int8} {int4}");
        // Random weights and tokens have little that could be learned: what is asserted is that
        // calibration does no harm.
        assert!(best < 1.02 * int4, "{name}: {best} {int4}");
    }
}

#[test]
fn blocks_are_kept_and_found_again() {
    for models::Model { checkpoint, samples, .. } in models::all() {
        let options = Options { calibration: samples, ..Options::default() };
        let plan = everywhere(&checkpoint, &options);
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("m.kinglet"), "").unwrap();
        let round = || round_blocks(&checkpoint, &options, &plan, &store, &mut |_| ()).unwrap();
        let first = round();
        let weights = |index| block_weights(&store.get::<crate::blocks::Done>(index).unwrap().0);
        let before: Vec<BlockWeights> = (0..first.len()).map(weights).collect();
        // The second half again, after the first half as it was kept.
        for index in first.len() / 2..first.len() {
            std::fs::remove_file(store.dir().join(format!("block{index:04}.safetensors"))).unwrap();
        }
        assert_eq!(round().len(), first.len());
        assert!((0..first.len()).map(weights).eq(before));
    }
}

#[test]
fn what_is_folded_is_the_same_function() {
    for models::Model { name, checkpoint, samples, .. } in models::all() {
        let reference = Reference::new(&checkpoint).unwrap();
        let mut batch = reference.begin(&samples).unwrap();
        for number in 0..checkpoint.architecture().count() {
            batch.enter(number);
            let block = reference.block_weights(number).unwrap();
            let mut folded = block.clone();
            let some =
                |count: usize| numbers(count, 3).iter().map(|x| x.exp()).collect::<Vec<f32>>();
            if let (Some(norm), Some(of)) = (&block.norm, block.product(block.reader())) {
                if norm.bias.is_some() {
                    fold::offsets_into_norm(&mut folded, &numbers(of.cols, 4));
                }
                fold::into_norm(&mut folded, &some(of.cols));
            }
            if let Some(groups) = fold::groups(&block) {
                let factors = some(block.output.cols);
                fold::into_input(
                    &mut folded,
                    &groups.iter().map(|&g| factors[g]).collect::<Vec<_>>(),
                );
            }
            let through = |block: &BlockWeights| {
                let mut batch = batch.clone();
                reference.advance_with(&mut batch, number, block, &mut ());
                batch.stream().to_vec()
            };
            let (was, is) = (through(&block), through(&folded));
            assert!(
                was.iter().zip(&is).all(|(a, b)| (a - b).abs() < 1e-4 * (1.0 + a.abs())),
                "{name} block {number}"
            );
            reference.advance(&mut batch, number, &mut ()).unwrap();
        }
    }
}

#[test]
fn targets_and_pruning_know_every_kind() {
    for models::Model { name, checkpoint, samples, .. } in models::all() {
        let prune = Prune {
            units: Units::Part { heads: 0.25, channels: 0.25 },
            blocks: 1,
            refit: Refit::LeastSquares,
        };
        let weights = Format::Int4Codebook;
        let options = Options {
            weights,
            calibration: samples.clone(),
            prune,
            // Padding weighs on matrices as small as these.
            target: Some(Target::Bits(16.0)),
            ..Options::default()
        };
        let reference = Reference::new(&checkpoint).unwrap();
        let plan = plan::plan(&reference, &options, 0, &mut |_, _| ()).unwrap();
        assert_eq!(plan.tasks.iter().filter(|task| task.is_none()).count(), 1, "{name}");
        assert!(plan.tasks.iter().flatten().any(|task| task.cut > 0), "{name}");
        for (figures, task) in
            plan.figures.iter().zip(&plan.tasks).filter(|(_, task)| task.is_some())
        {
            let measured =
                figures.rounding.iter().flatten().all(|r| r.damage.is_finite() && r.damage >= 0.0);
            assert!(
                measured && !figures.rounding[Site::Output as usize].is_empty(),
                "{name}: {task:?}"
            );
        }
        let blocks = rounded(&checkpoint, &options, &plan);
        let wanted = outputs(&checkpoint, &samples, None);
        let lost = error(&outputs(&checkpoint, &samples, Some((&blocks, &plan))), &wanted);
        println!("{name}: {lost:.3}");
        assert!(lost < 1.0, "{name}: {lost}");
        let too_many = Options { prune: Prune { blocks: plan.tasks.len(), ..prune }, ..options };
        assert!(plan::plan(&reference, &too_many, 0, &mut |_, _| ()).is_err());
    }
}

/// The mean divergence of what the f32 head makes of the last states from the logits `wanted`.
fn mean_kl(reference: &Reference<'_>, batch: &Batch, wanted: &[Vec<f32>]) -> f64 {
    let probabilities = |row: &[f32]| -> Vec<f64> {
        let largest = row.iter().copied().fold(f32::MIN, f32::max);
        let all: Vec<f64> = row.iter().map(|x| f64::from(x - largest).exp()).collect();
        let whole: f64 = all.iter().sum();
        all.iter().map(|p| p / whole).collect()
    };
    let (mut sum, mut rows) = (0.0, wanted.iter());
    let sink = |_: usize, _: usize, row: &[f32]| {
        let (p, q) = (probabilities(rows.next().unwrap()), probabilities(row));
        let seen = p.iter().zip(&q).filter(|(p, _)| **p > 0.0);
        sum += seen.map(|(p, q)| p * (p / q).ln()).sum::<f64>();
    };
    reference.head(batch, &mut (), sink).unwrap();
    sum / wanted.len() as f64
}

/// The divergence of blocks that were taken over from those of the source, all else in f32:
///
/// ```sh
/// KINGLET_SOURCE=model.gguf KINGLET_TEXT=text.txt \
///   cargo test -p kinglet-quantizer --lib -- --ignored --nocapture taking_over
/// ```
#[test]
#[ignore = "needs a file whose weights are quantized, and a text"]
fn what_taking_over_costs_the_weights_alone() {
    let [source, text] =
        ["KINGLET_SOURCE", "KINGLET_TEXT"].map(|name| std::env::var_os(name).expect(name));
    let checkpoint = Checkpoint::open(source).unwrap();
    let passages = Passages { tokens: 1500, seed: 0 };
    let samples = calibrate::sequences(&checkpoint, std::path::Path::new(&text), passages).unwrap();
    let reference = Reference::with_memory(&checkpoint, 0).unwrap();
    let mut wanted = vec![];
    reference.run_samples(&samples, |_, _, row| wanted.push(row.to_vec())).unwrap();
    for weights in [Format::Int4Codebook, Format::Int8Grouped] {
        let options = Options { weights, ..Options::default() };
        let plan = everywhere(&checkpoint, &options);
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("m.kinglet"), "").unwrap();
        let done = round_blocks(&checkpoint, &options, &plan, &store, &mut |_| ()).unwrap();
        let taken = done.iter().flat_map(|done| done.taken).flatten().count();
        if taken == 0 {
            continue;
        }
        let mut batch = reference.begin(&samples).unwrap();
        for (index, done) in done.iter().enumerate() {
            let mut block = block_weights(&store.get::<crate::blocks::Done>(index).unwrap().0);
            for site in Site::OF_BLOCK {
                // Only what is on the source's own grid: transformed weights are not those of these
                // inputs.
                let Some(of) =
                    block.product_mut(site).filter(|_| done.taken[site as usize].is_some())
                else {
                    continue;
                };
                of.inputs = None;
            }
            batch.enter(index);
            batch.step(packed::TOKENS, |part| block.advance(part.sequences, part.stream));
        }
        let kl = mean_kl(&reference, &batch, &wanted);
        let errors = done.iter().flat_map(|done| done.errors).filter(|error| *error > 0.0);
        let mean = errors.clone().sum::<f64>() / errors.count() as f64;
        println!(
            "{weights:?}: {taken} products taken over, mean relative squared error {mean:.2e}; KL \
             {kl:.6} nats"
        );
        assert!(kl < 5e-4, "{kl}");
    }
}
