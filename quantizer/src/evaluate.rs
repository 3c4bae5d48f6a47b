//! What quantization cost: perplexity on a text, and the distance of the predictions from the f32 checkpoint's.
//!
//! # Protocol
//! The text is one sequence of tokens, without special ones. It is cut into windows of `window` tokens that do not overlap. Each is
//! run on its own, behind a begin-of-sequence token, and all its tokens are scored (without a begin token, all but the first). The
//! last window may be short. Perplexity is the exponential of the mean negative log-likelihood of a scored token.
//!
//! With a reference, at each scored position p is its distribution over the next token and q the quantized model's: the
//! Kullback-Leibler divergence is `sum p ln(p / q)`, in nats, and they agree when both find the same token most probable.

use kinglet::{Isa, Model, Options, Plan, Serial, Session, argmax};
use rayon::prelude::*;

use crate::memory::Memory;
use crate::reference::{Reference, ReferenceError};

/// What to evaluate on.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    /// Tokens of a window.
    pub window: usize,
    /// The begin-of-sequence token.
    pub bos: Option<u32>,
}

/// The distance from the reference.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Divergence {
    /// Mean Kullback-Leibler divergence, nats.
    pub mean_kl: f64,
    /// The largest.
    pub max_kl: f64,
    /// Fraction of positions at which both find the same token most probable.
    pub top1_agreement: f64,
    /// The reference's own perplexity.
    pub reference_perplexity: f64,
}

/// The result.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Evaluation {
    /// Tokens scored.
    pub tokens: usize,
    /// Mean negative log-likelihood of a token, nats.
    pub mean_nll: f64,
    /// Its exponential.
    pub perplexity: f64,
    /// The distance from the reference, if there was one.
    #[serde(flatten)]
    pub divergence: Option<Divergence>,
}

/// Sums over positions.
#[derive(Clone, Copy, Default)]
struct Sums {
    tokens: usize,
    nll: f64,
    reference_nll: f64,
    kl: f64,
    max_kl: f64,
    agree: usize,
}

impl Sums {
    fn add(self, other: &Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            nll: self.nll + other.nll,
            reference_nll: self.reference_nll + other.reference_nll,
            kl: self.kl + other.kl,
            max_kl: self.max_kl.max(other.max_kl),
            agree: self.agree + other.agree,
        }
    }

    /// Scores one position: what followed, the model's logits, and perhaps the reference's.
    fn position(&mut self, next: u32, logits: &[f32], reference: Option<&[f32]>) {
        let q = log_softmax(logits);
        self.tokens += 1;
        self.nll -= q[next as usize];
        let Some(reference) = reference else { return };
        let p = log_softmax(reference);
        let kl: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
        self.reference_nll -= p[next as usize];
        self.kl += kl;
        self.max_kl = self.max_kl.max(kl);
        self.agree += usize::from(argmax(logits) == argmax(reference));
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&v| f64::from(v - top).exp()).sum();
    logits.iter().map(|&v| f64::from(v - top) - sum.ln()).collect()
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// Too little to score.
    #[error("the text has {tokens} tokens; at least 2 are needed")]
    TooShort {
        /// Tokens.
        tokens: usize,
    },
    /// The window does not fit the model.
    #[error("a window of {window} tokens does not fit the model's context of {context}; choose a smaller --window")]
    Window {
        /// Tokens of a window.
        window: usize,
        /// Positions of the model.
        context: usize,
    },
    /// The reference has another vocabulary.
    #[error(
        "the reference has {got} logits for a position, the model {want}: it is not the checkpoint this file was made from"
    )]
    Vocabulary {
        /// Logits expected.
        want: usize,
        /// Logits found.
        got: usize,
    },
    /// The reference could not be run.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The model could not be run.
    #[error("{0}")]
    Run(String),
}

/// Evaluates `model` on `tokens`. `progress` is called with the tokens done.
pub fn evaluate(
    model: &Model<'_>,
    isa: Isa,
    tokens: &[u32],
    protocol: Protocol,
    reference: Option<&Reference<'_>>,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Evaluation, EvaluateError> {
    let Protocol { window, bos } = protocol;
    if tokens.len() < 2 {
        return Err(EvaluateError::TooShort { tokens: tokens.len() });
    }
    if let Some(got) = reference.map(|r| r.architecture().vocab).filter(|&got| got != model.vocab()) {
        return Err(EvaluateError::Vocabulary { want: model.vocab(), got });
    }
    let window = window.min(tokens.len());
    if window == 0 || window > model.context() {
        return Err(EvaluateError::Window { window, context: model.context() });
    }
    let options = Options { context: window, prefill: window.min(64), logits: window.min(64) };
    let plan = Plan::new(model, options).map_err(|e| EvaluateError::Run(e.to_string()))?;
    let sums: Result<Vec<Sums>, EvaluateError> = tokens
        .par_chunks(window)
        .map_init(
            || Memory::new(plan.bytes()),
            |memory, chunk| {
                let session = Session::with(model, options, memory.bytes(), isa, Serial);
                let mut session = session.map_err(|e| EvaluateError::Run(e.to_string()))?;
                let sums = score(&mut session, chunk, bos, model.vocab(), reference)?;
                progress(chunk.len());
                Ok(sums)
            },
        )
        .collect();
    let total = sums?.iter().fold(Sums::default(), |a, b| a.add(b));
    let n = total.tokens as f64;
    let divergence = reference.is_some().then(|| Divergence {
        mean_kl: total.kl / n,
        max_kl: total.max_kl,
        top1_agreement: total.agree as f64 / n,
        reference_perplexity: (total.reference_nll / n).exp(),
    });
    let mean_nll = total.nll / n;
    Ok(Evaluation { tokens: total.tokens, mean_nll, perplexity: mean_nll.exp(), divergence })
}

fn score(
    session: &mut Session<'_, '_>,
    chunk: &[u32],
    bos: Option<u32>,
    vocab: usize,
    reference: Option<&Reference<'_>>,
) -> Result<Sums, EvaluateError> {
    let input: Vec<u32> = bos.into_iter().chain(chunk[..chunk.len() - 1].iter().copied()).collect();
    let targets = if bos.is_some() { chunk } else { &chunk[1..] };
    let mut sums = Sums::default();
    if input.is_empty() {
        return Ok(sums);
    }
    let reference = reference.map(|r| r.logits(&input)).transpose()?;
    let run = session.feed_each(&input, |i, logits| {
        let expected = reference.as_ref().map(|r| &r[i * vocab..][..vocab]);
        sums.position(targets[i], logits, expected);
    });
    run.map_err(|e| EvaluateError::Run(e.to_string()))?;
    Ok(sums)
}
