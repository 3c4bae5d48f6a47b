//! Whether a file is any good, in a sentence: what `kinglet quantize` ends with.
//!
//! The file is run beside its f32 checkpoint on tokens that calibration has not seen: those held
//! out of its text ([`calibrate::split`](crate::calibrate::split)) or, without a text, tokens that
//! the f32 model itself generates ([`mod@kinglet_evaluate::continued`]), which are the same for all files of a
//! checkpoint. A model that generates nothing and has no text has no verdict.
//!
//! It is to cost a modest part of the quantization: large models are judged on fewer tokens
//! (`tokens`).

use std::time::Instant;

use kinglet::{Format, Isa, Model};
use serde::Serialize;

use crate::Options;
use kinglet_evaluate::continued::{Continued, How, continued, drawn};
use kinglet_evaluate::{Agreement, EvaluateError, Nearness, Outputs, compare};
use kinglet_import::checkpoint::{self, Architecture, Linear};
use kinglet_reference::{Reference, Sample};

/// Divergence, nats, up to which a file is good, and from which on it is poor. For comparison:
/// formats of 8 bits have about 0.003, useful ones of 4 bits 0.03 to 0.1.
pub const DIVERGENCE: [f64; 2] = [0.02, 0.1];
/// The same of mean cosines.
pub const COSINE: [f64; 2] = [0.99, 0.97];

/// Tokens held out of a text, at most.
pub const HELD_OUT: usize = 2048;
/// Tokens generated, at most.
const GENERATED: usize = 240;
/// Texts that these make: many, as the reference runs all of a text again wherever a draft parts
/// from it.
const TEXTS: usize = 12;
/// Runs of the reference for all texts, about: one for each place where the drafts part from it.
const RUNS: usize = 6;
/// Multiply-accumulates of the reference, about.
const WORK: usize = 1 << 40;
/// Weights that the reference may keep in memory, bytes.
pub const RESIDENT: usize = 1 << 30;
/// Chooses what is generated.
const SEED: u64 = 1;

/// How good a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// Few will see a difference.
    Good,
    /// There is one.
    Fair,
    /// Another model.
    Poor,
}

/// What was measured, and what follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// How good the file is.
    pub grade: Grade,
    /// What it was measured on.
    pub on: String,
    /// How near the outputs are.
    #[serde(flatten)]
    pub agreement: Agreement,
    /// Options that would help.
    pub advice: Option<String>,
    /// What it took.
    pub seconds: f64,
}

/// Tokens that a model is judged on: so many, and fewer where each costs much.
fn tokens(architecture: &Architecture, most: usize, runs: usize) -> usize {
    let weights: usize = architecture.blocks().map(checkpoint::weights).sum();
    let head = architecture.output.head.as_ref().map_or(0, Linear::len);
    (WORK / (weights + head).max(1) / runs).clamp(most / 8, most)
}

/// Judges a file that was made with these options; nothing without samples where the model
/// generates none.
///
/// # Errors
/// A model that cannot be run, or that is not the reference's.
pub fn verdict(
    model: &Model<'_>,
    isa: Isa,
    reference: &Reference<'_>,
    options: &Options,
    held_out: &[Sample],
) -> Result<Option<Verdict>, EvaluateError> {
    let start = Instant::now();
    let architecture = reference.architecture();
    let generates = architecture.stacks.len() == 1 && architecture.is_causal();
    let (samples, how) = match (held_out, generates) {
        ([], true) => (generated(model, isa, reference, options)?, "that the f32 model generates"),
        ([], false) => return Ok(None),
        (held_out, _) => {
            let mut left = tokens(architecture, HELD_OUT, 2);
            let fits = |sample: &&Sample| {
                let size = sample.size(architecture);
                let fits = size <= left;
                left = left.saturating_sub(size);
                fits
            };
            let some: Vec<Sample> = held_out.iter().take_while(fits).cloned().collect();
            (
                if some.is_empty() { held_out[..1].to_vec() } else { some },
                "held out of the calibration text",
            )
        }
    };
    let agreement = compare(model, isa, reference, &samples, &|_| ())?;
    let count: usize = samples.iter().map(|sample| sample.size(architecture)).sum();
    let grade = grade(&agreement.nearness);
    let advice = if grade == Grade::Good { None } else { Some(advice(options)) };
    let seconds = start.elapsed().as_secs_f64();
    Ok(Some(Verdict { grade, on: format!("{count} tokens {how}"), agreement, advice, seconds }))
}

/// Texts of the f32 model, drawn at temperature 1.
fn generated(
    model: &Model<'_>,
    isa: Isa,
    reference: &Reference<'_>,
    options: &Options,
) -> Result<Vec<Sample>, EvaluateError> {
    let architecture = reference.architecture();
    let context = model.context().min(architecture.last().context);
    let tokenizer = model.tokenizer().and_then(Result::ok);
    let bos = tokenizer.as_ref().and_then(|tokenizer| tokenizer.bos()).or(architecture.bos);
    let written = tokenizer
        .as_ref()
        .and_then(|tokenizer| kinglet_import::encode(tokenizer, &options.prompt, true).ok());
    let mut prompt = bos.map_or_else(|| written.unwrap_or_default(), |bos| vec![bos]);
    prompt.truncate(context / 2);
    if prompt.is_empty() {
        prompt.push(0);
    }
    let most = tokens(architecture, GENERATED, RUNS) / TEXTS;
    let how = How {
        tokens: most.clamp(1, (context - prompt.len().min(context - 1)).max(1)),
        budget: usize::MAX,
        ends: &|_| false,
        choose: &|prompt, at, logits| drawn(SEED, prompt, at, logits),
    };
    let texts = continued(model, isa, reference, vec![prompt.into(); TEXTS], &how, &|_| ())?;
    // The last token has nothing after it that could be compared.
    Ok(texts
        .iter()
        .map(|text: &Continued| text.with(&text.reference[..text.reference.len() - 1]))
        .collect())
}

fn grade(nearness: &Nearness) -> Grade {
    let [good, poor] = match nearness {
        Nearness::Distributions { mean_kl, .. } => DIVERGENCE.map(|limit| *mean_kl <= limit),
        Nearness::Vectors { mean_cosine, .. } => COSINE.map(|limit| *mean_cosine >= limit),
    };
    match (good, poor) {
        (true, _) => Grade::Good,
        (_, true) => Grade::Fair,
        _ => Grade::Poor,
    }
}

/// Options of `kinglet quantize` that would help, the likeliest first.
fn advice(options: &Options) -> String {
    let eight = |format: Format| format.is_int8();
    let mut all = vec![];
    if options.prune.any() {
        all.push("less --prune");
    }
    if options.calibration.is_empty() {
        all.push("--calibrate TEXT");
    }
    if options.target.is_some() {
        all.push("a larger --bits or --size");
    } else if !eight(options.weights) && !options.calibration.is_empty() {
        all.push("--bits 6");
    }
    if !eight(options.weights) {
        all.push("--weights int8");
    }
    if !eight(options.embeddings) {
        all.push("--embeddings int8");
    }
    if !eight(options.head) {
        all.push("--head int8");
    }
    match all.split_last() {
        None => "nothing finer is left to try; `kinglet report` shows where the loss is".to_owned(),
        Some((last, [])) => format!("try {last}"),
        Some((last, others)) => format!("try {} or {last}", others.join(", ")),
    }
}

impl std::fmt::Display for Grade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Good => "good",
            Self::Fair => "fair",
            Self::Poor => "poor",
        })
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.grade)?;
        match self.agreement.nearness {
            Nearness::Distributions { mean_kl, top1_agreement, .. } => {
                let what = if self.agreement.kind == Outputs::Labels { "label" } else { "token" };
                let same = top1_agreement * 100.0;
                write!(
                    f,
                    "mean KL divergence from f32 {mean_kl:.5} nats, same top {what} {same:.1}%"
                )?;
            }
            Nearness::Vectors { mean_cosine, least_cosine } => {
                write!(
                    f,
                    "cosine with f32 {mean_cosine:.4} in the mean, {least_cosine:.4} at least"
                )?;
            }
        }
        write!(f, ", on {} ({:.1} s)", self.on, self.seconds)?;
        match &self.advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_what_was_not_tried() {
        let plain = Options::default();
        let calibrated = Options { calibration: vec![Sample::from(vec![0])], ..Options::default() };
        let coarse = Options { weights: Format::Int4Codebook, ..Options::default() };
        let both = Options { weights: Format::Int4Codebook, ..calibrated.clone() };
        assert_eq!(advice(&plain), "try --calibrate TEXT");
        assert_eq!(advice(&coarse), "try --calibrate TEXT or --weights int8");
        assert_eq!(advice(&both), "try --bits 6 or --weights int8");
        assert!(advice(&calibrated).contains("kinglet report"));
    }

    #[test]
    fn grades_have_their_limits() {
        let of = |mean_kl| {
            grade(&Nearness::Distributions {
                mean_kl,
                p99_kl: 0.0,
                max_kl: 0.0,
                top1_agreement: 1.0,
            })
        };
        assert_eq!(
            [of(0.02), of(0.021), of(0.1), of(0.101)],
            [Grade::Good, Grade::Fair, Grade::Fair, Grade::Poor]
        );
        let of = |mean_cosine| grade(&Nearness::Vectors { mean_cosine, least_cosine: 0.0 });
        assert_eq!([of(0.99), of(0.98), of(0.96)], [Grade::Good, Grade::Fair, Grade::Poor]);
    }
}
