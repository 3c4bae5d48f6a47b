//! Fitting a rounded model to the f32 model: its scales, sub-scales, norms and biases follow the gradient of the Kullback-Leibler
//! divergence of its predictions from the f32 model's (distillation: Hinton et al., arXiv 1503.02531). Codes stay as they are, so a step
//! costs little more than running the model twice.
//!
//! The model that is run is at every step the one that would be written: sub-scales are integers. One sequence in eight is held out; the
//! state that does best on those is kept, which is the state before if nothing does better.
//!
//! Work is divided at fixed places, so the number of threads changes no bit.

pub(crate) mod tape;

use kinglet_kernels::layout::GROUP;
use rayon::prelude::*;

use self::tape::Learns;
use crate::checkpoint::{Architecture, Block, Join, Middle, Norm, NormKind, Sight};
use crate::quantize::round::SUB_SCALE;
use crate::quantize::{RoundedBlock, RoundedLinear};
use crate::reference::{Batch, Inputs, LinearWeights, NormWeights, Reference, ReferenceError, Sample, Sequences};

/// Tokens of a step.
const TOKENS: usize = 2048;
/// One sequence in so many is held out.
const HELD_OUT: usize = 8;
/// How often the held-out sequences are looked at.
const LOOKS: usize = 8;
/// Decay of the means of gradients and of their squares (Adam: Kingma and Ba, arXiv 1412.6980).
const DECAY: [f32; 2] = [0.9, 0.99];

/// How to fit.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct FitOptions {
    /// Steps of some 2048 tokens; 0 for none.
    pub steps: usize,
    /// The first step's size, as a part of each number.
    pub rate: f32,
}

/// Whether a model is of the kind that gradients are known for: one causal stack behind root-mean-square norms, with gated feed-forwards.
pub(crate) fn knows(architecture: &Architecture) -> bool {
    let rms = |norm: &Option<Norm>| norm.as_ref().is_some_and(|n| n.kind == NormKind::Rms && n.bias.is_none());
    let block = |block: &Block| {
        let middle = match &block.middle {
            Middle::Attention(a) => a.sight == Sight::Earlier && a.relative.is_none(),
            Middle::FeedForward(f) => f.gate.is_some(),
            Middle::Projection(_) => false,
        };
        middle && block.join == Join::Pre && rms(&block.norm)
    };
    let output = &architecture.output;
    architecture.stacks.len() == 1
        && architecture.is_language_model()
        && architecture.blocks().all(block)
        && rms(&architecture.last().norm)
        && output.dense.is_none()
        && !output.normalize
        && output.head.as_ref().is_some_and(|head| head.bias.is_none())
}

/// A rounded model in memory.
pub(crate) struct Student {
    pub(crate) blocks: Vec<RoundedBlock>,
    pub(crate) norm: NormWeights,
    pub(crate) head: LinearWeights,
}

/// What fitting did: mean divergence on the held-out sequences, in nats.
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

/// Fits a model.
pub(crate) fn fit(
    reference: &Reference<'_>,
    student: &mut Student,
    all: &[Sample],
    options: FitOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<FitOutcome, ReferenceError> {
    let teacher =
        Teacher { norm: student.norm.clone(), head: LinearWeights { inputs: Inputs::Exact, ..student.head.clone() } };
    let (held, seen): (Vec<_>, Vec<_>) = all.iter().enumerate().partition(|(i, _)| i % HELD_OUT == 0);
    let lessons = |of: &[(usize, &Sample)]| -> Result<Vec<Lesson>, ReferenceError> {
        let mut groups: Vec<Vec<Sample>> = vec![vec![]];
        let mut tokens = 0;
        for (_, sample) in of {
            if tokens >= TOKENS {
                groups.push(vec![]);
                tokens = 0;
            }
            tokens += sample.size(reference.architecture());
            groups.last_mut().expect("there is one").push((*sample).clone());
        }
        groups.iter().filter(|group| !group.is_empty()).map(|group| lesson(reference, group)).collect()
    };
    let (held, seen) = (lessons(&held)?, lessons(&seen)?);
    let before = divergence(student, &teacher, &held);
    let mut outcome = FitOutcome { before, after: before };
    if seen.is_empty() || options.steps == 0 {
        return Ok(outcome);
    }
    let mut best = (student.blocks.clone(), student.norm.clone());
    let mut state = State::new(student);
    for step in 0..options.steps {
        let done = step as f32 / options.steps as f32;
        let rate = options.rate * (0.5 + 0.5 * (std::f32::consts::PI * done).cos());
        take(student, &teacher, &seen[step % seen.len()], &mut state, rate);
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
            stream = block.weights().advance(Sequences::alone(lengths), &stream);
        }
        let mut logits = student.head.apply(&student.norm.apply(&stream));
        let targets = teacher.head.apply(&teacher.norm.apply(&sample.teacher));
        sum += loss(&mut logits, &targets, student.head.rows());
        tokens += lengths.iter().sum::<usize>();
    }
    sum / tokens.max(1) as f64
}

/// The sum of the divergences; logits become their gradients.
pub(crate) fn loss(logits: &mut [f32], targets: &[f32], vocab: usize) -> f64 {
    let rows = logits.par_chunks_mut(vocab).zip(targets.par_chunks(vocab)).map(|(logits, targets)| {
        let log_sum = |x: &[f32]| {
            let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            top + x.iter().map(|&x| f64::from((x - top).exp())).sum::<f64>().ln() as f32
        };
        let (q, p) = (log_sum(logits), log_sum(targets));
        let mut sum = 0.0;
        for (logit, target) in logits.iter_mut().zip(targets) {
            let (q, p) = (*logit - q, target - p);
            let (weight, found) = (p.exp(), q.exp());
            sum += f64::from(weight) * f64::from(p - q);
            *logit = found - weight;
        }
        sum
    });
    rows.collect::<Vec<f64>>().iter().sum()
}

/// One step along the gradient.
fn take(student: &mut Student, teacher: &Teacher, sample: &Lesson, state: &mut State, rate: f32) {
    let lengths = sample.batch.lengths();
    let weights: Vec<_> = student.blocks.iter().map(RoundedBlock::weights).collect();
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
    let mut pace = state.pace(rate);
    pace.scale(&mut student.norm.weight, &norm.weight);
    for ((block, weights), stream) in student.blocks.iter_mut().zip(&weights).zip(&streams).rev() {
        let found = tape::block(weights, Sequences::alone(lengths), stream, &mut gradient, &mut [], Learns::All);
        pace.scale(&mut block.norm.as_mut().expect("as `knows` says").weight, &found.norm.weight);
        pace.linear(block.input.as_mut().expect("as `knows` says"), &found.input);
        pace.linear(&mut block.output, &found.output);
    }
}

/// Means of gradients and of their squares, and sub-scales before rounding, in the order in which a step meets them.
struct State {
    steps: i32,
    moments: Vec<[f32; 2]>,
    sub_scales: Vec<f32>,
}

/// A walk through all parameters.
struct Pace<'s> {
    rate: f32,
    /// What makes up for means that started at 0.
    unbias: [f32; 2],
    moments: std::slice::IterMut<'s, [f32; 2]>,
    sub_scales: std::slice::IterMut<'s, f32>,
}

impl State {
    fn new(student: &Student) -> Self {
        let (mut parameters, mut sub_scales) = (student.norm.weight.len(), vec![]);
        for block in student.blocks.iter().rev() {
            parameters += block.norm.as_ref().map_or(0, |norm| norm.weight.len());
            for (_, linear) in block.products() {
                parameters += linear.rows.len() + linear.bias.as_ref().map_or(0, Vec::len);
                let subs = linear.rows.iter().flat_map(|row| &row.sub_scales);
                sub_scales.extend(subs.map(|&sub| f32::from(sub)));
            }
        }
        Self { steps: 0, moments: vec![[0.0; 2]; parameters + sub_scales.len()], sub_scales }
    }

    fn pace(&mut self, rate: f32) -> Pace<'_> {
        self.steps += 1;
        let unbias = DECAY.map(|decay| 1.0 / (1.0 - decay.powi(self.steps)));
        Pace { rate, unbias, moments: self.moments.iter_mut(), sub_scales: self.sub_scales.iter_mut() }
    }
}

impl Pace<'_> {
    /// How far the next parameter goes, in units of its step.
    fn step(&mut self, gradient: f32) -> f32 {
        let [mean, square] = self.moments.next().expect("one for each parameter");
        *mean += (1.0 - DECAY[0]) * (gradient - *mean);
        *square += (1.0 - DECAY[1]) * (gradient * gradient - *square);
        let root = (*square * self.unbias[1]).sqrt();
        if root > 0.0 { -self.rate * *mean * self.unbias[0] / root } else { 0.0 }
    }

    /// Numbers that grow or shrink by a part of themselves.
    fn scale(&mut self, numbers: &mut [f32], gradients: &[f32]) {
        for (number, gradient) in numbers.iter_mut().zip(gradients) {
            *number *= 1.0 + self.step(gradient * *number);
        }
    }

    fn linear(&mut self, of: &mut RoundedLinear, gradient: &tape::LinearGradient) {
        let levels = &of.levels;
        for (row, gradient) in of.rows.iter_mut().zip(gradient.weight.chunks(of.cols)) {
            if !of.format.is_grouped() {
                let along: f32 = row.codes.iter().zip(gradient).map(|(&code, g)| f32::from(code) * g).sum();
                row.scale *= 1.0 + self.step(along * row.scale);
                continue;
            }
            let mut along = 0.0;
            let groups = row.codes.chunks(GROUP).zip(gradient.chunks(GROUP));
            for ((codes, gradient), sub) in groups.zip(&mut row.sub_scales) {
                let level = |code: i8| f32::from(levels.value(code));
                let of_group: f32 = codes.iter().zip(gradient).map(|(&code, g)| level(code) * g).sum();
                along += f32::from(*sub) * of_group;
                let exact = self.sub_scales.next().expect("one for each group");
                let step = self.step(row.scale * of_group * *exact);
                *exact = (*exact * (1.0 + step)).clamp(-SUB_SCALE, SUB_SCALE);
                *sub = exact.round_ties_even() as i8;
            }
            row.scale *= 1.0 + self.step(along * row.scale);
        }
        if let Some(bias) = &mut of.bias {
            let size = (bias.iter().map(|b| b * b).sum::<f32>() / bias.len() as f32).sqrt();
            for (bias, gradient) in bias.iter_mut().zip(&gradient.bias) {
                *bias += size * self.step(size * gradient);
            }
        }
    }
}
