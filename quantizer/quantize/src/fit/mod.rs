//! Fitting a rounded model to the f32 model by gradients: layer by layer to its streams (`layers`),
//! then as a whole to its predictions.
//!
//! As a whole, scales, sub-scales, norms and biases follow the gradient of the Kullback-Leibler
//! divergence of the rounded model's predictions from the f32 model's (distillation: Hinton et al.,
//! arXiv 1503.02531), and so do codes where layers were learned; a step costs little more than
//! running the model twice. The model that is run is at every step one that could be written.
//!
//! The last tenth of the sequences is held out. The state that does best on those is kept, which is
//! the state before if nothing does better.
//!
//! Work is divided at fixed places, so the number of threads changes no bit.

mod latent;
pub(crate) mod layers;

pub(crate) use self::latent::Aims;
use self::latent::{BlockLatent, NormLatent, Pace};
use kinglet_model::{NormKind, Operation, Residual};
use kinglet_reference::tape::{self, Learns, loss};

use crate::rounding::evidence::held_out;
use crate::rounding::{RoundedBlock, block_weights};
use kinglet_import::checkpoint::{Architecture, Block, Norm};
use kinglet_reference::{
    ApplyNorm, Batch, Forward, LinearWeights, NormWeights, Reference, ReferenceError, Sample,
    Sequences,
};

/// Tokens of a step.
const TOKENS: usize = 2048;
/// How often the held-out sequences are looked at.
const LOOKS: usize = 8;
/// The step of a code in mean distances of two levels, where that of other numbers is 1 part of
/// each.
const CODES: f32 = 0.7;
/// Codes that may move at once: each takes some 24 bytes.
pub(crate) const MOST_CODES: usize = 1 << 28;

/// How to fit.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct FitOptions {
    /// Steps of some 2048 tokens; 0 for none.
    pub steps: usize,
    /// The first step's size, as a part of each number.
    pub rate: f32,
}

/// Whether a model is of the kind that gradients are known for: one causal stack after
/// root-mean-square norms, with gated feed-forwards.
pub(crate) fn knows(architecture: &Architecture) -> bool {
    let rms = |norm: &Option<Norm>| {
        norm.as_ref().is_some_and(|n| n.kind == NormKind::Rms && n.bias.is_none())
    };
    let block = |block: &Block| {
        let operation = match &block.operation {
            Operation::Attention(a) => a.mask.is_causal() && a.relative.is_none(),
            Operation::FeedForward { gated, .. } => *gated,
            Operation::Projection => false,
        };
        operation && matches!(block.residual, Residual::Pre) && rms(&block.norm)
    };
    let output = &architecture.output;
    architecture.stacks.len() == 1
        && architecture.is_language_model()
        && architecture.blocks().all(block)
        && rms(&architecture.last().norm)
        && output.dense.is_none()
        && !output.normalize
        && output.head.as_ref().is_some_and(|head| !head.has_bias())
}

/// A rounded model in memory.
pub(crate) struct Student {
    pub(crate) blocks: Vec<RoundedBlock>,
    pub(crate) norm: NormWeights,
    pub(crate) head: LinearWeights,
}

/// What fitting did on the held-out sequences: to the mean divergence in nats, or to the squared
/// error of a stream as a part of its square.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct FitOutcome {
    /// Before.
    pub before: f64,
    /// After.
    pub after: f64,
}

/// Some sequences, with where the f32 model takes them.
struct Lesson {
    batch: Batch,
    /// The f32 model's stream before its last norm.
    teacher: Vec<f32>,
}

/// The f32 model's last product.
struct Teacher {
    norm: NormWeights,
    head: LinearWeights,
}

/// Fits a model; its codes move if it is known what the weights would be without rounding.
pub(crate) fn fit(
    reference: &Reference<'_>,
    student: &mut Student,
    aims: Vec<Aims>,
    all: &[Sample],
    options: FitOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<FitOutcome, ReferenceError> {
    let teacher = Teacher {
        norm: student.norm.clone(),
        head: LinearWeights { inputs: None, ..student.head.clone() },
    };
    let (seen, held) = all.split_at(all.len() - held_out(all.len()));
    let (held, seen) = (lessons(reference, held)?, lessons(reference, seen)?);
    let before = divergence(student, &teacher, &held);
    let mut outcome = FitOutcome { before, after: before };
    if seen.is_empty() || options.steps == 0 {
        return Ok(outcome);
    }
    let mut best = (student.blocks.clone(), student.norm.clone());
    let blocks =
        student.blocks.iter().zip(&aims).map(|(block, aims)| BlockLatent::new(block, aims));
    let mut state = State { blocks: blocks.collect(), norm: NormLatent::new(Some(&student.norm)) };
    // Codes of which nothing is known beyond their level stay there.
    let codes = if aims.iter().flatten().any(Option::is_some) { CODES } else { 0.0 };
    drop(aims);
    for step in 0..options.steps {
        let done = step as f32 / options.steps as f32;
        let rate = options.rate * (0.5 + 0.5 * (std::f32::consts::PI * done).cos());
        take(
            student,
            &teacher,
            &seen[step % seen.len()],
            &mut state,
            Pace::new(step, codes * rate, rate),
        );
        progress(step + 1);
        if (step + 1) % options.steps.div_ceil(LOOKS) == 0 || step + 1 == options.steps {
            let now = divergence(student, &teacher, &held);
            if now < outcome.after {
                outcome.after = now;
                best = (student.blocks.clone(), student.norm.clone());
            }
        }
    }
    (student.blocks, student.norm) = best;
    Ok(outcome)
}

/// Samples in groups of about [`TOKENS`], with where the f32 model takes them.
fn lessons(reference: &Reference<'_>, samples: &[Sample]) -> Result<Vec<Lesson>, ReferenceError> {
    let mut groups: Vec<Vec<Sample>> = vec![vec![]];
    let mut tokens = 0;
    for sample in samples {
        if tokens >= TOKENS {
            groups.push(vec![]);
            tokens = 0;
        }
        tokens += sample.size(reference.architecture());
        groups.last_mut().expect("there is one").push(sample.clone());
    }
    let groups = groups.iter().filter(|group| !group.is_empty());
    groups.map(|group| lesson(reference, group)).collect()
}

fn lesson(reference: &Reference<'_>, samples: &[Sample]) -> Result<Lesson, ReferenceError> {
    let batch = reference.begin(samples)?;
    let mut last = batch.clone();
    for block in 0..reference.architecture().count() {
        reference.advance(&mut last, block, &mut ())?;
    }
    Ok(Lesson { batch, teacher: last.stream().to_vec() })
}

/// Mean divergence over all positions.
fn divergence(student: &Student, teacher: &Teacher, samples: &[Lesson]) -> f64 {
    let (mut sum, mut tokens) = (0.0, 0);
    for sample in samples {
        let lengths = sample.batch.lengths();
        let mut stream = sample.batch.stream().to_vec();
        for block in &student.blocks {
            stream = block_weights(block).advance(Sequences::alone(lengths), &stream);
        }
        let mut logits = student.head.apply(&student.norm.apply(&stream));
        let targets = teacher.head.apply(&teacher.norm.apply(&sample.teacher));
        sum += loss(&mut logits, &targets, student.head.rows());
        tokens += lengths.iter().sum::<usize>();
    }
    sum / tokens.max(1) as f64
}

/// One step along the gradient.
fn take(student: &mut Student, teacher: &Teacher, sample: &Lesson, state: &mut State, pace: Pace) {
    let lengths = sample.batch.lengths();
    let weights: Vec<_> = student.blocks.iter().map(block_weights).collect();
    let mut streams = vec![sample.batch.stream().to_vec()];
    for block in &weights {
        streams.push(block.advance(Sequences::alone(lengths), &streams[streams.len() - 1]));
    }
    let last = streams.pop().unwrap_or_default();
    let mut logits = student.head.apply(&student.norm.apply(&last));
    let targets = teacher.head.apply(&teacher.norm.apply(&sample.teacher));
    loss(&mut logits, &targets, student.head.rows());
    let tokens: usize = lengths.iter().sum();
    logits.iter_mut().for_each(|g| *g /= tokens as f32);
    let to_normed = student.head.back(&logits);
    let (norm, mut gradient) = tape::norm(&student.norm, &last, &to_normed);
    state.norm.step(&mut student.norm, &norm.weight, pace);
    let all = student.blocks.iter_mut().zip(&mut state.blocks);
    for (((block, latent), weights), stream) in all.zip(&weights).zip(&streams).rev() {
        let found = tape::block(
            weights,
            Sequences::alone(lengths),
            stream,
            &mut gradient,
            &mut [],
            Learns::All,
        );
        latent.step(block, &found, pace);
    }
}

/// What stands behind the numbers of a model.
struct State {
    blocks: Vec<BlockLatent>,
    norm: NormLatent,
}
