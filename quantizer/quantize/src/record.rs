//! What was done and why, for the report: written beside the file, as it would weigh on a board's
//! flash.

use std::path::{Path, PathBuf};

use kinglet::Format;

use crate::blocks::Done;
use crate::fit::FitOutcome;
use crate::plan::{Plan, Rounding};
use crate::prune::Refit;
use crate::resume::as_name::name;
use crate::rounding::linear::Way;
use crate::rounding::pack;
use crate::rounding::rounded::RoundedBlock;
use crate::{Options, lowering, taken};
use kinglet_evaluate::Place;
use kinglet_evaluate::record::{BlockFigures, Note, Record, Sensitivity, Tensor};
use kinglet_import::checkpoint::{Architecture, Block, Checkpoint, Coding, Linear, embedding};
use kinglet_reference::Site;

/// Where the record of a file is.
pub fn record_path(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".json");
    path.into()
}

/// Names of the products of a block.
pub(super) fn names(place: Place, block: &Block) -> [String; 3] {
    let parts = match (lowering::names(&block.operation).1, block.is_cross()) {
        (["", _], _) => return std::array::from_fn(|_| place.to_string()),
        ([first, last], true) => [first, "key value", last],
        ([first, last], false) => [first, "", last],
    };
    parts.map(|part| format!("{place} {part}"))
}

/// Products of the rounded block.
fn count(block: &Block) -> usize {
    block.products().count()
}

/// What damage is measured in.
fn unit(architecture: &Architecture) -> &'static str {
    if architecture.is_language_model() { "nats" } else { "of the output's square" }
}

/// The note that says what was taken over.
pub const TAKEN: &str = "taken over";

/// What was taken over; nothing if nothing was.
fn taken(checkpoint: &Checkpoint, options: &Options, done: &[Done]) -> Option<String> {
    let codings: Vec<Coding> = done.iter().flat_map(|done| done.taken).flatten().collect();
    let each = [Coding::Q4_0, Coding::Q4_1, Coding::Q8_0].map(|coding| {
        let count = codings.iter().filter(|of| **of == coding).count();
        (count > 0).then(|| format!("{count} from {}", coding.name()))
    });
    let each: Vec<String> = each.into_iter().flatten().collect();
    let architecture = checkpoint.architecture();
    let products: usize = architecture.blocks().map(count).sum();
    let mut how = format!(
        "codes of {} of {products} products of the blocks ({})",
        codings.len(),
        each.join(", ")
    );
    if codings.is_empty() {
        how = String::new();
    }
    let mut tables = vec![];
    if let Some(embedding) = embedding(architecture.last()) {
        tables.push(("embedding", embedding, options.embeddings));
    }
    let head = architecture.output.head.as_ref().filter(|_| !architecture.tied());
    if let Some(head) = head.and_then(Linear::alone) {
        tables.push(("head", head, options.head));
    }
    for (name, of, format) in tables {
        if let Some(coding) = taken::of_table(checkpoint, of, format, options) {
            how += &format!(
                "{}{name} (from {})",
                if how.is_empty() { "codes of the " } else { " and of the " },
                coding.name()
            );
        }
    }
    if options.learn > 0 && !codings.is_empty() {
        how += "; layers with any of them are not learned";
    }
    (!how.is_empty()).then_some(how)
}

/// Writes down what is known before the blocks are seen again.
pub(super) fn begin(
    checkpoint: &Checkpoint,
    options: &Options,
    plan: &Plan,
    done: &[Done],
    fit: Option<FitOutcome>,
) -> Record {
    let architecture = checkpoint.architecture();
    let mut record = Record::default();
    let mut note = |what: &str, how: String| record.notes.push(Note { what: what.to_owned(), how });
    if options.calibration.is_empty() {
        note("rounding", "to the nearest values; no calibration".to_owned());
    } else {
        let tokens: usize =
            options.calibration.iter().map(|sample| sample.size(architecture)).sum();
        note("calibration", format!("{tokens} tokens in {} sequences", options.calibration.len()));
        let corrected = match options.corrects(architecture) {
            true => "each block also makes up for what those before it lost",
            false => "each block on its own",
        };
        let how = "scales by the importance of inputs, codes by GPTQ in activation order, then \
                   coordinate descent";
        note("rounding", format!("{how}; {corrected}, as far as it helps on held-out tokens"));
        let learned = done.iter().filter_map(|done| done.learned);
        let [before, after] =
            learned.fold([0.0; 2], |sums, of| [sums[0] + of.before, sums[1] + of.after]);
        if options.learn > 0 {
            let steps = options.learn;
            let to = 100.0 * if before > 0.0 { after / before } else { 1.0 };
            let how = format!(
                "{steps} steps a layer; squared error on held-out sequences falls to {to:.1}%"
            );
            note("learning", how);
        }
        let left = architecture.blocks().zip(&plan.tasks).filter(|(_, task)| task.is_some());
        let products: usize = left.map(|(block, _)| count(block)).sum();
        let folded = done.iter().flat_map(|done| done.folded).filter(|folded| *folded).count();
        if options.fold {
            note("outliers", format!("folded away in front of {folded} of {} products", products));
        }
    }
    if let Some(how) = taken(checkpoint, options, done) {
        note(TAKEN, how);
    }
    let gone: Vec<String> = Place::all(architecture)
        .zip(&plan.tasks)
        .filter(|(_, task)| task.is_none())
        .map(|(place, _)| place.to_string())
        .collect();
    if let Some(kept) = checkpoint.kept() {
        note(
            "vocabulary",
            format!(
                "{} of {} tokens kept; the rows of the others are gone",
                architecture.vocab(),
                kept.of()
            ),
        );
    }
    if options.prune.any() {
        let cut: usize = plan.tasks.iter().flatten().map(|task| task.cut).sum();
        let refit = match options.prune.refit {
            Refit::LeastSquares => "the rest made up for them by least squares",
            Refit::None => "the rest left as it was",
        };
        note(
            "pruning",
            format!(
                "{cut} heads and channels taken out, {refit}; blocks left out: {}",
                match gone.len() {
                    0 => "none".to_owned(),
                    _ => gone.join(", "),
                }
            ),
        );
    }
    if let Some(target) = options.target {
        note("budget", format!("formats chosen for {target}"));
    }
    if let Some(FitOutcome { before, after }) = fit {
        let steps = options.fit.steps;
        note(
            "fitting",
            format!(
                "{steps} steps; divergence on held-out sequences {before:.5} before, {after:.5} \
                 after"
            ),
        );
    }
    for ((place, of), figures) in
        Place::all(architecture).zip(architecture.blocks()).zip(&plan.figures)
    {
        for (name_of, roundings) in names(place, of).into_iter().zip(&figures.rounding) {
            record.sensitivity.extend(roundings.iter().map(|r| Sensitivity {
                name: name_of.clone(),
                format: name(r.format).to_owned(),
                mean_kl: r.damage,
            }));
        }
        let worst =
            |roundings: &Vec<_>| roundings.iter().map(|r: &Rounding| r.damage).reduce(f64::max);
        let measured = figures.rounding.iter().filter_map(worst);
        let rounding = measured.reduce(|a, b| a + b);
        if let Some([plasticity, on_embeddings, influence]) = figures.profile {
            record.blocks.push(BlockFigures {
                place,
                plasticity: Some(plasticity),
                plasticity_on_embeddings: Some(on_embeddings),
                influence: Some(influence),
                damage: figures.without,
                rounding,
            });
        }
    }
    record
}

/// Writes down the products of a block, which is the `number`th of the checkpoint.
pub(super) fn block(
    record: &mut Record,
    architecture: &Architecture,
    options: &Options,
    plan: &Plan,
    number: usize,
    block: &RoundedBlock,
    done: &Done,
) {
    let described = Place::all(architecture).nth(number).zip(architecture.block(number));
    let Some(names) = described.map(|(place, block)| names(place, block)) else { return };
    for (site, linear) in block.products() {
        let i = site as usize;
        let (rows, cols) = (linear.rows.len(), linear.cols);
        let zeros: usize = linear
            .rows
            .iter()
            .flat_map(|row| row.integers(&linear.levels))
            .filter(|q| *q == 0)
            .count();
        let bytes = pack::kind(linear).bytes(rows, cols).unwrap_or(0);
        let damage = |format: Format| {
            plan.figures[number].rounding[i].iter().find(|r| r.format == format).map(|r| r.damage)
        };
        let mut reasons = vec![];
        match (options.target, damage(linear.format)) {
            (Some(_), Some(own)) => {
                let other =
                    if linear.format.is_int8() { options.weights } else { Format::Int8Grouped };
                if let Some(other_damage) = damage(other) {
                    reasons.push(format!(
                        "alone costs {own:.5} {}, {other_damage:.5} in {}",
                        unit(architecture),
                        name(other)
                    ));
                }
            }
            _ => reasons.push("as asked".to_owned()),
        }
        if let Some(FitOutcome { before, after }) =
            done.learned.filter(|learned| learned.after < learned.before)
        {
            reasons.push(format!(
                "learned: error of the layer {before:.2e} before, {after:.2e} after"
            ));
        }
        if let Some(coding) = done.taken[i] {
            reasons =
                vec![format!("codes taken over from {}; inputs in two planes", coding.name())];
        }
        if done.folded[i] {
            reasons.push("outliers folded".to_owned());
        }
        match done.ways[i] {
            Way { damping: None, .. }
                if !options.calibration.is_empty() && done.taken[i].is_none() =>
            {
                reasons.push(
                    "on held-out tokens nothing is better than the nearest values".to_owned(),
                );
            }
            Way { corrected, .. } if corrected > 0.0 => {
                reasons.push(format!(
                    "makes up for {:.0}% of what is lost before it",
                    corrected * 100.0
                ));
            }
            Way { .. } => {}
        }
        if site == Site::Output && done.cut > 0.0 {
            reasons.push(format!("pruned: {:.2}% of its output's square lost", done.cut * 100.0));
        }
        record.tensors.push(Tensor {
            name: names[i].clone(),
            rows,
            cols,
            format: name(linear.format).to_owned(),
            bits: bytes as f64 * 8.0 / (rows * cols).max(1) as f64,
            rounding: Some(
                match (done.taken[i], done.ways[i].damping) {
                    (Some(_), _) => "taken over",
                    (None, None) => "nearest",
                    (None, Some(_)) => "GPTQ, descent",
                }
                .to_owned(),
            ),
            error: Some(done.errors[i].sqrt()),
            sparsity: Some(zeros as f64 / (rows * cols).max(1) as f64),
            reason: Some(reasons.join("; ")),
        });
    }
}

/// Writes down how many bits a weight of all these products has.
pub(super) fn size(record: &mut Record) {
    let weights = |tensor: &Tensor| (tensor.rows * tensor.cols) as f64;
    let all: f64 = record.tensors.iter().map(weights).sum();
    let bits: f64 = record.tensors.iter().map(|tensor| tensor.bits * weights(tensor)).sum();
    if all > 0.0 {
        let how = format!("{:.3} bits a weight in the matrices of the blocks", bits / all);
        record.notes.push(Note { what: "size".to_owned(), how });
    }
}
