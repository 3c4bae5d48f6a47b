//! Outputs of any kind of model beside those of its f32 checkpoint, sample by sample.
//!
//! Where outputs are distributions, over tokens or labels, they are compared as those of a text: by
//! their divergence and by what is most probable in them. Others are vectors, compared by the
//! cosine of the angle between them: one for each sample, or one for each row where nothing is
//! pooled.
//!
//! Samples go through the reference in groups whose streams stay below 64 MB, and its outputs wait
//! for the model in waves of 64 MB. Sums run over samples in order, so the result does not depend
//! on the number of threads.

use kinglet::{Isa, Model, Options, Plan, Serial, Session};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::EvaluateError;
use super::score::{Distances, Prediction};
use super::windows::Limits;
use kinglet::{Memory, MemoryError};
use kinglet_import::checkpoint::{Architecture, Pooling};
use kinglet_reference::{Reference, Sample, Source};

/// Tokens of a target that the model runs together.
const CHUNK: usize = 64;

/// What a model's outputs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outputs {
    /// Distributions over the next token.
    Tokens,
    /// Distributions over labels.
    Labels,
    /// Vectors.
    Vectors,
}

impl Outputs {
    /// Those of an architecture.
    pub fn of(architecture: &Architecture) -> Self {
        if architecture.is_language_model() {
            Self::Tokens
        } else if architecture.output.head.is_some() && architecture.output.pooling != Pooling::None
        {
            Self::Labels
        } else {
            Self::Vectors
        }
    }
}

/// How near outputs are to the reference's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Nearness {
    /// Of distributions.
    Distributions {
        /// Mean Kullback-Leibler divergence, nats.
        mean_kl: f64,
        /// The smallest that 99% of the outputs do not exceed.
        p99_kl: f64,
        /// The largest.
        max_kl: f64,
        /// Part of the outputs in which both find the same token or label most probable.
        top1_agreement: f64,
    },
    /// Of vectors.
    Vectors {
        /// Mean cosine.
        mean_cosine: f64,
        /// The least.
        least_cosine: f64,
    },
}

/// The result.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// What was compared.
    pub kind: Outputs,
    /// Samples.
    pub samples: usize,
    /// Outputs of all samples.
    pub outputs: usize,
    /// How near they are.
    #[serde(flatten)]
    pub nearness: Nearness,
}

/// Sums over outputs.
#[derive(Clone, Default)]
struct Sums {
    outputs: usize,
    distances: Distances,
    cosines: f64,
    least: Option<f64>,
}

impl Sums {
    fn output(&mut self, kind: Outputs, own: &[f32], reference: &[f32]) {
        self.outputs += 1;
        if kind != Outputs::Vectors {
            self.distances.compare(&Prediction::new(own), &Prediction::new(reference));
            return;
        }
        let cosine = cosine(own, reference);
        self.cosines += cosine;
        self.least = Some(self.least.map_or(cosine, |least| least.min(cosine)));
    }

    fn add(&mut self, other: Self) {
        self.outputs += other.outputs;
        self.distances.add(other.distances);
        self.cosines += other.cosines;
        self.least = [self.least, other.least].into_iter().flatten().reduce(f64::min);
    }

    fn finish(self, kind: Outputs, samples: usize) -> Option<Agreement> {
        let nearness = match (kind, self.least) {
            (Outputs::Vectors, Some(least_cosine)) => {
                Nearness::Vectors { mean_cosine: self.cosines / self.outputs as f64, least_cosine }
            }
            _ => {
                let d = self.distances.finish()?;
                let (mean_kl, p99_kl, max_kl) = (d.mean_kl, d.p99_kl, d.max_kl);
                Nearness::Distributions {
                    mean_kl,
                    p99_kl,
                    max_kl,
                    top1_agreement: d.top1_agreement,
                }
            }
        };
        Some(Agreement { kind, samples, outputs: self.outputs, nearness })
    }
}

/// The cosine of the angle between two vectors; 1 for two of zeros, 0 for one.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    let lengths = dot(a, a) * dot(b, b);
    if lengths > 0.0 { dot(a, b) / lengths.sqrt() } else { f64::from(u8::from(a == b)) }
}

/// Compares a model with its checkpoint. `progress` is told how many more samples are done.
///
/// # Errors
/// A reference of another kind, samples that either cannot run, or none at all.
pub fn compare(
    model: &Model<'_>,
    isa: Isa,
    reference: &Reference<'_>,
    samples: &[Sample],
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Agreement, EvaluateError> {
    let architecture = reference.architecture();
    let (want, got) = (model.outputs(), architecture.outputs());
    if want != got {
        return Err(EvaluateError::Vocabulary { want, got });
    }
    let kind = Outputs::of(architecture);
    let runner = Runner::new(model, isa, samples)?;
    let limits = Limits::default();
    let widest = architecture.stacks.iter().map(|stack| stack.width).max().unwrap_or(1);
    let most = limits.streams / size_of::<f32>() / widest;
    let mut sums = Sums::default();
    let mut rest = samples;
    while !rest.is_empty() {
        let mut rows = 0;
        let fits = |sample: &&Sample| {
            rows += sample.size(architecture);
            rows <= most
        };
        let (group, others) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        let mut wave =
            Wave { kind, runner: &runner, samples: group, first: 0, expected: vec![], held: 0 };
        let mut failed = None;
        reference.run_samples(group, |sample, _, row| {
            let enough = wave.held * size_of::<f32>() >= limits.logits;
            if failed.is_none() && enough && sample == wave.first + wave.expected.len() {
                failed = wave.run(&mut sums, progress).err();
            }
            wave.push(sample, row);
        })?;
        if failed.is_none() {
            failed = wave.run(&mut sums, progress).err();
        }
        if let Some(error) = failed {
            return Err(error);
        }
        rest = others;
    }
    sums.finish(kind, samples.len()).ok_or(EvaluateError::TooShort { tokens: 0 })
}

/// Outputs of the reference that wait for those of the model.
struct Wave<'w> {
    kind: Outputs,
    runner: &'w Runner<'w>,
    samples: &'w [Sample],
    /// The first sample that waits.
    first: usize,
    /// Of each sample that waits.
    expected: Vec<Vec<f32>>,
    /// Numbers that wait.
    held: usize,
}

impl Wave<'_> {
    fn push(&mut self, sample: usize, row: &[f32]) {
        let at = sample - self.first;
        if self.expected.len() <= at {
            self.expected.resize(at + 1, vec![]);
        }
        self.held += row.len();
        self.expected[at].extend_from_slice(row);
    }

    /// Runs the model on the samples that wait, each on one thread.
    fn run(
        &mut self,
        sums: &mut Sums,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<(), EvaluateError> {
        let (runner, kind) = (self.runner, self.kind);
        let jobs: Vec<_> = self.samples[self.first..].iter().zip(&self.expected).collect();
        let memory = || Memory::new(runner.bytes);
        let width = runner.model.outputs();
        let one = |memory: &mut Result<Memory, MemoryError>,
                   (sample, expected): (&Sample, &Vec<f32>)| {
            let memory = memory.as_mut().map_err(|error| EvaluateError::Memory(*error))?;
            let own = if expected.is_empty() { vec![] } else { runner.outputs(sample, memory)? };
            if own.len() != expected.len() {
                let what = format!(
                    "the model gave {} numbers where the reference has {}",
                    own.len(),
                    expected.len()
                );
                return Err(EvaluateError::Run(what));
            }
            let mut sums = Sums::default();
            own.chunks(width)
                .zip(expected.chunks(width))
                .for_each(|(own, r)| sums.output(kind, own, r));
            progress(1);
            Ok(sums)
        };
        let done: Result<Vec<Sums>, EvaluateError> =
            jobs.into_par_iter().map_init(memory, one).collect();
        done?.into_iter().for_each(|more| sums.add(more));
        self.first += self.expected.len();
        self.expected.clear();
        self.held = 0;
        Ok(())
    }
}

/// The model, with room for some samples.
pub(crate) struct Runner<'m> {
    pub(crate) model: &'m Model<'m>,
    pub(crate) isa: Isa,
    pub(crate) options: Options,
    pub(crate) bytes: usize,
}

impl<'m> Runner<'m> {
    pub(crate) fn new(
        model: &'m Model<'m>,
        isa: Isa,
        samples: &[Sample],
    ) -> Result<Self, EvaluateError> {
        let source = samples.iter().map(|sample| sample.source.tokens().len()).max().unwrap_or(0);
        let target = samples.iter().map(|sample| sample.target.len()).max().unwrap_or(0);
        let of = Options::of(model).map_err(EvaluateError::run)?;
        let own = if model.is_decoder() && model.stacks() == 1 { source } else { target };
        // Pictures and recordings take the room that the model has for them.
        let source = if source > 0 { source.min(of.source) } else { of.source };
        let context = if model.is_decoder() { own.max(1) } else { 1 };
        let together = context.min(CHUNK);
        let logits = if model.is_decoder() { together } else { source };
        let pooled = model.pooling() != Pooling::None;
        let logits = if pooled { 1 } else { logits };
        let options =
            Options { context, prefill: together, logits, source, targets: 1, ..Options::DECODE };
        let bytes = Plan::new(model, options).map_err(EvaluateError::run)?.bytes();
        Ok(Self { model, isa, options, bytes })
    }

    /// Keeps no logits but the last of a run.
    pub(crate) fn logits_of_last(&mut self) -> Result<(), kinglet::PlanError> {
        self.options.logits = 1;
        self.bytes = Plan::new(self.model, self.options)?.bytes();
        Ok(())
    }

    pub(crate) fn session<'a>(
        &self,
        memory: &'a mut Memory,
    ) -> Result<Session<'m, 'a>, EvaluateError> {
        Session::with(self.model, self.options, memory.bytes(), self.isa, Serial)
            .map_err(EvaluateError::run)
    }

    /// All outputs for a sample, one after the other.
    fn outputs(&self, sample: &Sample, memory: &mut Memory) -> Result<Vec<f32>, EvaluateError> {
        let mut session = self.session(memory)?;
        let target = begin(&mut session, sample)?;
        if !self.model.is_decoder() {
            return Ok(session.logits().to_vec());
        }
        let mut all = vec![];
        session
            .feed_each(target, |_, row| all.extend_from_slice(row))
            .map_err(EvaluateError::run)?;
        Ok(all)
    }
}

/// Reads the source of a sample, if the model has one; returns the tokens that a decoder is to be
/// fed.
pub(crate) fn begin<'s>(
    session: &mut Session<'_, '_>,
    sample: &'s Sample,
) -> Result<&'s [u32], EvaluateError> {
    if session.options().source == 0 {
        session.rewind(0).map_err(EvaluateError::run)?;
        return Ok(sample.source.tokens());
    }
    let kinds: Vec<u8>;
    let source = match &sample.source {
        Source::Tokens { tokens, types } if types.is_empty() => kinglet::Source::Tokens(tokens),
        Source::Tokens { tokens, types } => {
            kinds = types.iter().map(|&kind| u8::try_from(kind).unwrap_or(u8::MAX)).collect();
            kinglet::Source::Typed(tokens, &kinds)
        }
        Source::Features(numbers) => kinglet::Source::Features(numbers),
        Source::Pixels(bytes) => kinglet::Source::Pixels(bytes),
    };
    session.encode(source).map_err(EvaluateError::run)?;
    Ok(&sample.target)
}
