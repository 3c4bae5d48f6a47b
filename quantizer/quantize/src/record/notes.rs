//! What was done to the whole model, a note for each step.

use crate::blocks::Done;
use crate::fit::FitOutcome;
use crate::plan::Plan;
use crate::prune::Refit;
use crate::{Options, taken};
use kinglet_evaluate::Place;
use kinglet_evaluate::record::{Note, Tensor};
use kinglet_import::checkpoint::{Architecture, Block, Checkpoint, Coding, Linear, embedding};

/// The note that says what was taken over.
pub const TAKEN: &str = "taken over";

fn note(what: &str, how: String) -> Note {
    Note { what: what.to_owned(), how }
}

/// Everything that is known before the blocks are seen again.
pub(super) fn notes(
    checkpoint: &Checkpoint,
    options: &Options,
    plan: &Plan,
    done: &[Done],
    fit: Option<FitOutcome>,
) -> Vec<Note> {
    let architecture = checkpoint.architecture();
    let mut notes = match options.calibration.is_empty() {
        true => vec![note("rounding", "to the nearest values; no calibration".to_owned())],
        false => calibrated(architecture, options, plan, done),
    };
    notes.extend(taken(checkpoint, options, done).map(|how| note(TAKEN, how)));
    if let Some(kept) = checkpoint.kept() {
        let (own, all) = (architecture.vocab(), kept.of());
        let how = format!("{own} of {all} tokens kept; the rows of the others are gone");
        notes.push(note("vocabulary", how));
    }
    if options.prune.any() {
        notes.push(note("pruning", pruned(architecture, options, plan)));
    }
    if let Some(target) = options.target {
        notes.push(note("budget", format!("formats chosen for {target}")));
    }
    if let Some(FitOutcome { before, after }) = fit {
        let steps = options.fit.steps;
        let how = format!(
            "{steps} steps; divergence on held-out sequences {before:.5} before, {after:.5} after"
        );
        notes.push(note("fitting", how));
    }
    notes
}

/// What was done with the calibration samples.
fn calibrated(
    architecture: &Architecture,
    options: &Options,
    plan: &Plan,
    done: &[Done],
) -> Vec<Note> {
    let samples = &options.calibration;
    let tokens: usize = samples.iter().map(|sample| sample.size(architecture)).sum();
    let corrected = match options.corrects(architecture) {
        true => "each block also makes up for what those before it lost",
        false => "each block on its own",
    };
    let how = "scales by the importance of inputs, codes by GPTQ in activation order, then \
               coordinate descent";
    let mut notes = vec![
        note("calibration", format!("{tokens} tokens in {} sequences", samples.len())),
        note("rounding", format!("{how}; {corrected}, as far as it helps on held-out tokens")),
    ];
    if options.learn > 0 {
        notes.push(note("learning", learned(options, done)));
    }
    if options.fold {
        let left = architecture.blocks().zip(&plan.tasks).filter(|(_, task)| task.is_some());
        let products: usize = left.map(|(block, _)| count(block)).sum();
        let folded = done.iter().flat_map(|done| done.folded).filter(|folded| *folded).count();
        let how = format!("folded away in front of {folded} of {products} products");
        notes.push(note("outliers", how));
    }
    notes
}

/// What learning did to the errors of the layers.
fn learned(options: &Options, done: &[Done]) -> String {
    let outcomes = done.iter().filter_map(|done| done.learned);
    let [before, after] =
        outcomes.fold([0.0; 2], |sums, of| [sums[0] + of.before, sums[1] + of.after]);
    let steps = options.learn;
    let to = 100.0 * if before > 0.0 { after / before } else { 1.0 };
    format!("{steps} steps a layer; squared error on held-out sequences falls to {to:.1}%")
}

/// What was taken out of the model.
fn pruned(architecture: &Architecture, options: &Options, plan: &Plan) -> String {
    let cut: usize = plan.tasks.iter().flatten().map(|task| task.cut).sum();
    let refit = match options.prune.refit {
        Refit::LeastSquares => "the rest made up for them by least squares",
        Refit::None => "the rest left as it was",
    };
    let blocks = Place::all(architecture).zip(&plan.tasks);
    let gone: Vec<String> =
        blocks.filter(|(_, task)| task.is_none()).map(|(place, _)| place.to_string()).collect();
    let gone = if gone.is_empty() { "none".to_owned() } else { gone.join(", ") };
    format!("{cut} heads and channels taken out, {refit}; blocks left out: {gone}")
}

/// Products of the rounded block.
fn count(block: &Block) -> usize {
    block.products().count()
}

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

/// How many bits a weight of all these products has.
pub(super) fn size(tensors: &[Tensor]) -> Option<Note> {
    let weights = |tensor: &Tensor| (tensor.rows * tensor.cols) as f64;
    let all: f64 = tensors.iter().map(weights).sum();
    let bits: f64 = tensors.iter().map(|tensor| tensor.bits * weights(tensor)).sum();
    let how = || format!("{:.3} bits a weight in the matrices of the blocks", bits / all);
    (all > 0.0).then(|| note("size", how()))
}
