//! `kinglet eval` and `kinglet report` for models that do not continue texts: their outputs beside
//! those of the f32 checkpoint.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use kinglet::Model;
use kinglet::tokenizer::Tokenizer;
use kinglet_evaluate::continued::{How, continued, greedy};
use kinglet_evaluate::{Agreement, Nearness, Outputs as Kind, compare, cosine};
use kinglet_import::encode;
use kinglet_import::regular;
use kinglet_reference::{Reference, Sample};
use kinglet_report::correlation;
use serde::Serialize;

use crate::cut::Pairs;
use crate::inputs::{Outputs, Reader, token_ids};
use crate::model::{bar, isa, with_threads};
use crate::protocol::On;
use crate::task::Task;

/// Tokens of an answer of the f32 model's own.
const ANSWER: usize = 64;
/// Tokens that the reference runs for all of these.
const BUDGET: usize = 1 << 18;

/// Rank correlations of cosines with scores.
#[derive(Serialize)]
pub(crate) struct Spearman {
    pub(crate) pairs: usize,
    pub(crate) file: Option<f64>,
    /// That of the f32 checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<f64>,
}

/// What was found for a file.
#[derive(Serialize)]
pub(crate) struct Measured {
    pub(crate) file: String,
    #[serde(flatten)]
    pub(crate) agreement: Option<Agreement>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) spearman: Option<Spearman>,
}

/// The samples of a file: a sentence, a source, a source with its target after a tab, or the name
/// of a picture or recording on each line. Where there are only sources, targets are what the f32
/// model says.
pub(crate) fn samples(
    model: &Model<'_>,
    reference: &Reference<'_>,
    text: &Path,
    on: &On,
) -> Result<Vec<Sample>> {
    let shown = text.display();
    let lines = regular::read_to_string(text, regular::Kind::Text)
        .with_context(|| format!("cannot read {shown} as UTF-8 text"))?;
    let reader = Reader::new(model, on.ids)?;
    let answers = Answers::of(model, &reference.architecture().eos, on.ids)?;
    let (mut all, mut left) = (vec![], on.tokens.unwrap_or(usize::MAX));
    for (number, line) in lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = || format!("line {} of {shown}", number + 1);
        let sample = sample(&reader, answers.as_ref(), line).with_context(at)?;
        let size = sample.size(reference.architecture());
        if size > left {
            break;
        }
        left -= size;
        all.push(sample);
    }
    ensure!(!all.is_empty(), "{shown} has nothing to evaluate: it needs one input per line");
    if let Some(answers) = answers {
        answers.complete(model, reference, &mut all)?;
    }
    Ok(all)
}

fn sample(reader: &Reader<'_>, answers: Option<&Answers<'_>>, line: &str) -> Result<Sample> {
    let (source, target) = match (line.split_once('\t'), answers) {
        (Some((source, target)), Some(_)) => (source, Some(target)),
        _ => (line, None),
    };
    let mut sample = reader.read(source, None)?.sample();
    if let Some(answers) = answers {
        sample.target = answers.target(target)?;
    }
    Ok(sample)
}

/// How a decoder after an encoder is fed.
struct Answers<'a> {
    /// Nothing, where texts are token numbers.
    tokenizer: Option<Tokenizer<'a>>,
    /// Tokens that end an answer.
    ends: Vec<u32>,
    start: u32,
    context: usize,
}

impl<'a> Answers<'a> {
    /// Nothing, if there is no such decoder.
    fn of(model: &Model<'a>, of_checkpoint: &[u32], ids: bool) -> Result<Option<Self>> {
        if !matches!(Task::of(model)?, Task::Translate | Task::Caption) {
            return Ok(None);
        }
        let tokenizer =
            model.target_tokenizer().transpose().context("cannot read the file's tokenizer")?;
        ensure!(
            ids || tokenizer.is_some(),
            "the file has no tokenizer: pass token ids, with --ids"
        );
        let start = model.start();
        let start = start.or(tokenizer.as_ref().and_then(Tokenizer::bos));
        let start = start
            .context("the file does not say which token an answer begins with; quantize again")?;
        let ends = tokenizer.iter().flat_map(Tokenizer::eos).chain(of_checkpoint.iter().copied());
        let (ends, context) = (ends.collect(), model.context());
        Ok(Some(Self { tokenizer: tokenizer.filter(|_| !ids), ends, start, context }))
    }

    /// What a decoder reads of a target: the token that answers begin with, and those of the text,
    /// without one that ends it.
    fn target(&self, text: Option<&str>) -> Result<Vec<u32>> {
        let mut target = vec![self.start];
        if let Some(text) = text {
            let tokens = match &self.tokenizer {
                None => token_ids(text)?,
                Some(tokenizer) => {
                    encode(tokenizer, text, true).context("cannot encode the target")?
                }
            };
            target.extend(tokens.into_iter().filter(|&token| !self.ends.contains(&token)));
            target.truncate(self.context);
        }
        Ok(target)
    }

    /// Gives samples without a target the f32 model's own greedy answer.
    fn complete(
        &self,
        model: &Model<'_>,
        reference: &Reference<'_>,
        all: &mut [Sample],
    ) -> Result<()> {
        let open: Vec<usize> = (0..all.len()).filter(|&i| all[i].target.len() == 1).collect();
        let prompts: Vec<Sample> = open.iter().map(|&i| all[i].clone()).collect();
        if prompts.is_empty() {
            return Ok(());
        }
        let tokens = ANSWER.min(self.context.saturating_sub(1));
        let progress =
            bar((tokens * prompts.len()) as u64, "tokens").with_message("answering in f32");
        let ends = |token| self.ends.contains(&token);
        let how = How { tokens, budget: BUDGET, ends: &ends, choose: &greedy };
        let answers =
            continued(model, isa()?, reference, prompts, &how, &|n| progress.inc(n as u64))?;
        progress.finish_and_clear();
        for (i, answer) in open.into_iter().zip(answers) {
            // The last token has nothing after it that could be compared.
            let said = &answer.reference[..answer.reference.len().saturating_sub(1)];
            all[i] = answer.with(said);
        }
        Ok(())
    }
}

/// Compares a file's outputs for samples with the checkpoint's, under a progress bar.
pub(crate) fn agreement(
    model: &Model<'_>,
    reference: &Reference<'_>,
    samples: &[Sample],
) -> Result<Agreement> {
    let progress = bar(samples.len() as u64, "samples").with_message("evaluating");
    let found = compare(model, isa()?, reference, samples, &|n| progress.inc(n as u64));
    progress.finish_and_clear();
    Ok(found?)
}

/// Rank correlations of the file and, if it is at hand, of the checkpoint.
pub(crate) fn spearman(
    model: &Model<'_>,
    reference: Option<&Reference<'_>>,
    pairs: &Pairs,
) -> Result<Spearman> {
    ensure!(
        Task::of(model)? == Task::Embed,
        "--pairs applies to embedding models only: omit it for this model"
    );
    let given = Reader::new(model, false)?.all(&pairs.texts)?;
    let own = with_threads(model, 0, Outputs { model: *model, given: &given })?;
    let theirs = match reference {
        None => None,
        Some(reference) => {
            let samples: Vec<Sample> = given.into_iter().map(|given| given.sample()).collect();
            let mut all: Vec<Vec<f32>> = vec![];
            reference.run_samples(&samples, |_, _, row| all.push(row.to_vec()))?;
            if all.len() != samples.len() {
                bail!(
                    "this model gives a vector per token, not one per text: --pairs has nothing to \
                     compare"
                );
            }
            Some(all)
        }
    };
    let ranked = |vectors: &[Vec<f32>]| {
        let cosines = vectors.chunks_exact(2).map(|pair| cosine(&pair[0], &pair[1]));
        correlation(&cosines.zip(pairs.scores.iter().copied()).collect::<Vec<_>>())
    };
    Ok(Spearman {
        pairs: pairs.scores.len(),
        file: ranked(&own),
        reference: theirs.as_deref().and_then(ranked),
    })
}

impl Measured {
    /// Lines for people.
    pub(crate) fn print(&self) {
        if let Some(agreement) = &self.agreement {
            let Agreement { kind, samples, outputs, nearness } = agreement;
            match nearness {
                Nearness::Distributions { mean_kl, p99_kl, max_kl, top1_agreement } => {
                    let what = if *kind == Kind::Labels { "label" } else { "token" };
                    say!(
                        "KL divergence     mean {mean_kl:.5}, 99% below {p99_kl:.4}, largest \
                         {max_kl:.4} nats"
                    );
                    say!("same top {what:5}    {:.2}%", top1_agreement * 100.0);
                }
                Nearness::Vectors { mean_cosine, least_cosine } => {
                    say!("cosine            mean {mean_cosine:.5}, least {least_cosine:.5}");
                }
            }
            let what = match kind {
                Kind::Tokens => "tokens",
                Kind::Labels => "answers",
                Kind::Vectors => "vectors",
            };
            say!("{outputs} {what} of {samples} inputs, beside the f32 checkpoint's");
        }
        if let Some(Spearman { pairs, file, reference }) = &self.spearman {
            let shown = |value: &Option<f64>| {
                value.map_or("none".to_owned(), |value| format!("{value:.4}"))
            };
            let of_f32 =
                reference.map_or(String::new(), |_| format!(", {} in f32", shown(reference)));
            say!("Spearman          {}{of_f32}, over {pairs} pairs", shown(file));
        }
    }
}
