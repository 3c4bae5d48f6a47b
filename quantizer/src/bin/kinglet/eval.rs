//! `kinglet eval`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kinglet::Model;
use kinglet_quantizer::checkpoint::Checkpoint;
use kinglet_quantizer::encode;
use kinglet_quantizer::evaluate::{Divergence, Evaluation, Hidden, Part, Protocol, evaluate_all};
use kinglet_quantizer::reference::Reference;
use kinglet_quantizer::vocabulary;
use serde::Serialize;

use crate::model::{Source, bar, isa};

/// Measure perplexity, and the distance from the f32 checkpoint
///
/// Protocol: the text's tokens are cut into windows that do not overlap; each is run on its own behind a begin-of-sequence token, and
/// all its tokens are scored. Perplexity is the exponential of the mean negative log-likelihood. KL divergence is that of
/// the model's next-token distribution from the checkpoint's, in nats, at each scored position; the checkpoint is run in f32.
/// Top-1 agreement is the fraction of positions where both find the same token most probable; top-5 agreement, where the
/// checkpoint's most probable token is among the model's five. Hidden states are compared behind each block: the mean over tokens
/// of |h - r| / |r|, and of the cosine.
///
/// Of a file with a part of the vocabulary (quantize --vocab-from) the tokens are its own, and the checkpoint's distribution is that
/// over the kept tokens.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The .kinglet file
    file: PathBuf,
    #[command(flatten)]
    pub(crate) on: On,
    /// The checkpoint that the file was made from
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,
    /// Another file to evaluate beside it, on the same tokens; may be repeated
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What to evaluate on.
#[derive(clap::Args)]
pub(crate) struct On {
    /// A UTF-8 text
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Option<PathBuf>,
    /// Use the first N tokens of the text only
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// Tokens of a window
    #[arg(long, value_name = "N", default_value_t = 255)]
    window: usize,
}

/// What was evaluated, how, and what came out.
#[derive(Serialize)]
struct Results {
    file: String,
    #[serde(flatten)]
    protocol: Protocol,
    #[serde(flatten)]
    result: Evaluation,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    against: Vec<Other>,
}

#[derive(Serialize)]
struct Other {
    file: String,
    #[serde(flatten)]
    result: Evaluation,
}

/// Files that are open.
pub(crate) struct Files {
    pub(crate) names: Vec<String>,
    sources: Vec<Source>,
}

impl Files {
    pub(crate) fn open(first: &Path, others: &[PathBuf]) -> Result<Self> {
        let paths = || std::iter::once(first).chain(others.iter().map(PathBuf::as_path));
        let sources = paths().map(|path| Source::open(Some(path))).collect::<Result<_>>()?;
        Ok(Self { names: paths().map(|path| path.display().to_string()).collect(), sources })
    }

    pub(crate) fn models(&self) -> Result<Vec<Model<'_>>> {
        let named = self.sources.iter().zip(&self.names);
        named.map(|(source, name)| source.model(Some(Path::new(name)))).collect()
    }
}

impl On {
    /// The text's tokens, which must be the same to all models, and the protocol.
    pub(crate) fn prepare(&self, names: &[String], models: &[Model<'_>]) -> Result<(String, Vec<u32>, Protocol)> {
        let path = self.text.as_ref().context("--text is missing: it names the text to evaluate on")?;
        let shown = path.display();
        let text = std::fs::read(path).with_context(|| format!("cannot read {shown}"))?;
        let text = String::from_utf8(text).with_context(|| format!("{shown} is not UTF-8 text"))?;
        let tokenizer = models[0].tokenizer().context("the file carries no tokenizer")?;
        let tokenizer = tokenizer.context("cannot read the file's tokenizer")?;
        let mut tokens = encode(&tokenizer, &text, false).context("cannot encode the text")?;
        tokens.truncate(self.tokens.unwrap_or(usize::MAX));
        let kept = vocabulary::of_file(&models[0])?;
        for (name, model) in names.iter().zip(models).skip(1) {
            if vocabulary::of_file(model)? != kept {
                bail!("{name} has another part of the vocabulary than {}: evaluate each on its own", names[0]);
            }
            let Some(Ok(other)) = model.tokenizer() else { continue };
            let mut theirs =
                encode(&other, &text, false).with_context(|| format!("cannot encode the text for {name}"))?;
            theirs.truncate(tokens.len());
            if theirs != tokens {
                bail!("{name} cuts the text into other tokens than {}: only files of one checkpoint compare", names[0]);
            }
        }
        let context = models.iter().map(Model::context).min().unwrap_or(0);
        Ok((text, tokens, Protocol { window: self.window.min(context), bos: tokenizer.bos() }))
    }
}

/// The checkpoint, with the tokens that the files kept.
pub(crate) fn open_reference(dir: &Path, models: &[Model<'_>]) -> Result<Checkpoint> {
    let mut checkpoint = Checkpoint::open(dir).with_context(|| cannot_import(dir))?;
    vocabulary::follow(&mut checkpoint, &models[0])
        .with_context(|| format!("{} is not the checkpoint this file was made from", dir.display()))?;
    Ok(checkpoint)
}

pub(crate) fn cannot_import(dir: &Path) -> String {
    format!("cannot import {}", dir.display())
}

/// Evaluates under a progress bar.
pub(crate) fn measure(
    models: &[Model<'_>],
    tokens: &[u32],
    protocol: Protocol,
    reference: Option<&Reference<'_>>,
) -> Result<Vec<Evaluation>> {
    let progress = bar(tokens.len() as u64, "tokens").with_message("evaluating");
    let step = |n: usize| progress.inc(n as u64);
    let results = evaluate_all(models, isa()?, tokens, protocol, reference, &step);
    progress.finish_and_clear();
    Ok(results?)
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let files = Files::open(&self.file, &self.against)?;
        let models = files.models()?;
        let (_, tokens, protocol) = self.on.prepare(&files.names, &models)?;
        let mut results = match &self.reference {
            None => measure(&models, &tokens, protocol, None)?,
            Some(dir) => {
                let checkpoint = open_reference(dir, &models)?;
                let reference = Reference::new(&checkpoint).with_context(|| cannot_import(dir))?;
                let context = checkpoint.architecture().last().context;
                let protocol = Protocol { window: protocol.window.min(context), ..protocol };
                measure(&models, &tokens, protocol, Some(&reference))?
            }
        }
        .into_iter();
        let mut names = files.names.into_iter();
        let (file, result) = (names.next().unwrap_or_default(), results.next().context("no model was evaluated")?);
        let against = names.zip(results).map(|(file, result)| Other { file, result }).collect();
        let results = Results { file, protocol, result, against };
        if self.json {
            println!("{}", serde_json::to_string_pretty(&results)?);
        } else {
            results.print();
        }
        Ok(())
    }
}

impl Results {
    fn print(&self) {
        let Self { file, protocol, result, against } = self;
        if !against.is_empty() {
            println!("{file}");
        }
        result.print();
        for other in against {
            println!("\n{}", other.file);
            other.result.print();
            if let Some(d) = other.result.from_first {
                println!("from {file}");
                print_divergence(&d);
            }
        }
        let bos =
            if protocol.bos.is_some() { "each behind a begin-of-sequence token" } else { "without a begin token" };
        println!("{} tokens scored, in windows of {}, {bos}", result.tokens, protocol.window);
    }
}

/// Lines for people.
trait Print {
    fn print(&self);
}

impl Print for Evaluation {
    fn print(&self) {
        println!("perplexity        {:.4}", self.perplexity);
        if let Some(d) = &self.divergence {
            let excess = (self.perplexity / d.reference_perplexity - 1.0) * 100.0;
            println!("  of the f32 model {:.4} ({excess:+.2}%)", d.reference_perplexity);
            print_divergence(d);
        }
        if let Some(hidden) = &self.hidden {
            hidden.print();
        }
    }
}

fn print_divergence(d: &Divergence) {
    println!("KL divergence     mean {:.5}, 99% below {:.4}, largest {:.4} nats", d.mean_kl, d.p99_kl, d.max_kl);
    println!(
        "same top token    {:.2}%; among the five most probable {:.2}%",
        d.top1_agreement * 100.0,
        d.top5_agreement * 100.0
    );
}

impl Print for Hidden {
    fn print(&self) {
        println!("hidden states     error   cosine  ({} tokens)", self.tokens);
        for state in &self.states {
            let name = match state.after {
                None => "embedding".to_owned(),
                Some(place) => {
                    let part =
                        if place.part == Part::FeedForward { "feed-fwd".to_owned() } else { place.part.to_string() };
                    format!("{:3} {part}", place.layer)
                }
            };
            println!("  {name:14} {:6.2}%  {:.5}", state.relative_error * 100.0, state.cosine);
        }
    }
}
