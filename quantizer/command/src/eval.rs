//! `kinglet eval`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kinglet::Model;
use kinglet_evaluate::{Divergence, Evaluation, Hidden, Part, Peer, Protocol, evaluate_beside};
use kinglet_import::checkpoint::Checkpoint;
use kinglet_import::encode;
use kinglet_import::regular::{self, Kind};
use kinglet_import::vocabulary;
use kinglet_reference::Reference;
use serde::Serialize;

use crate::cut::Pairs;
use crate::inputs::token_ids;
use crate::model::{Source, bar, isa};
use crate::outputs::{self, Measured};
use crate::predictor::Predictor;
use crate::protocol::On;
use crate::task::Task;

/// Measure perplexity, and the distance from the f32 checkpoint
///
/// The measurements depend on the kind of model.
///
/// For a language model, the tokens of the text are split into windows that do not overlap; each
/// window is run on its own after a begin-of-sequence token, and all its tokens are scored.
/// Perplexity is the exponential of the mean negative log-likelihood. The KL divergence of the
/// model's next-token distribution from the checkpoint's is measured in nats at each scored
/// position; the checkpoint runs in f32. Top-1 agreement is the fraction of positions where both
/// predict the same most probable token; top-5 agreement is the fraction where the checkpoint's
/// most probable token is among the model's top five. Hidden states are compared after each block:
/// by the mean over tokens of |h - r| / |r|, and by the mean cosine.
///
/// A file with a subset of the vocabulary (quantize --vocab-from) is evaluated on its own tokens,
/// and the checkpoint's distribution is restricted to the tokens that were kept.
///
/// All other models need --reference, and --text with one input per line. For an embedding model,
/// an input is a sentence (or the path of a picture), and its vectors are compared by their cosine.
/// For a classifier, it is a text, or the path of a picture or recording, and the probabilities of
/// the labels are compared. For an encoder-decoder, it is a source, optionally followed by a tab
/// and its target; the KL divergence is measured at each token of the target, which defaults to the
/// checkpoint's own answer.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The .kinglet file
    file: PathBuf,
    #[command(flatten)]
    pub(crate) on: On,
    /// The checkpoint that the file was made from
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,
    /// Another file to evaluate on the same tokens; may be repeated
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// Another program to evaluate on the same tokens; may be repeated
    ///
    /// The shell command is started once. It prints its name on the first line of standard output,
    /// then answers each line of token ids on standard input with the logits after each of these
    /// tokens, as little-endian f32 without separators. Each line is a separate text.
    /// `bench/quality` does this with llama.cpp.
    #[arg(long, value_name = "COMMAND")]
    peer: Vec<String>,
    /// For an embedding model: also print Spearman's correlation between the cosines of these pairs
    /// and their scores; each line holds score, text and text, separated by tabs
    #[arg(long, value_name = "TSV")]
    pairs: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
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

/// The same of models that do not continue texts.
#[derive(Serialize)]
struct Beside {
    #[serde(flatten)]
    first: Measured,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    against: Vec<Measured>,
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
    pub(crate) fn prepare(
        &self,
        names: &[String],
        models: &[Model<'_>],
    ) -> Result<(String, Vec<u32>, Protocol)> {
        let path =
            self.text.as_ref().context("--text FILE is required: the text to evaluate on")?;
        let shown = path.display();
        let text =
            regular::read(path, Kind::Text).with_context(|| format!("cannot read {shown}"))?;
        let text = String::from_utf8(text).with_context(|| format!("{shown} is not UTF-8 text"))?;
        let context = models.iter().map(Model::context).min().unwrap_or(0);
        let window = self.window.min(context);
        if self.ids {
            let mut tokens = token_ids(&text.replace(['\n', '\r', '\t'], " "))?;
            tokens.truncate(self.tokens.unwrap_or(usize::MAX));
            let bos =
                models[0].tokenizer().and_then(Result::ok).and_then(|tokenizer| tokenizer.bos());
            return Ok((text, tokens, Protocol { window, bos, int4_values: self.int4_values }));
        }
        let tokenizer = models[0]
            .tokenizer()
            .context("the file has no tokenizer: pass token ids, with --ids")?;
        let tokenizer = tokenizer.context("cannot read the file's tokenizer")?;
        let mut tokens = encode(&tokenizer, &text, false).context("cannot encode the text")?;
        tokens.truncate(self.tokens.unwrap_or(usize::MAX));
        let kept = vocabulary::of_file(&models[0])?;
        for (name, model) in names.iter().zip(models).skip(1) {
            if vocabulary::of_file(model)? != kept {
                bail!(
                    "{name} has another part of the vocabulary than {}: evaluate them separately",
                    names[0]
                );
            }
            let Some(Ok(other)) = model.tokenizer() else { continue };
            let mut theirs = encode(&other, &text, false)
                .with_context(|| format!("cannot encode the text for {name}"))?;
            theirs.truncate(tokens.len());
            if theirs != tokens {
                bail!(
                    "{name} and {} tokenize the text differently: only files from the same \
                     checkpoint can be compared",
                    names[0]
                );
            }
        }
        Ok((text, tokens, Protocol { window, bos: tokenizer.bos(), int4_values: self.int4_values }))
    }
}

/// The checkpoint, with the tokens that the files kept.
pub(crate) fn open_reference(dir: &Path, models: &[Model<'_>]) -> Result<Checkpoint> {
    let mut checkpoint = Checkpoint::open(dir).with_context(|| cannot_import(dir))?;
    vocabulary::follow(&mut checkpoint, &models[0]).with_context(|| {
        format!("{} is not the checkpoint this file was made from", dir.display())
    })?;
    Ok(checkpoint)
}

pub(crate) fn cannot_import(dir: &Path) -> String {
    format!("cannot import {}", dir.display())
}

/// Evaluates under a progress bar.
pub(crate) fn measure(
    models: &[Model<'_>],
    peers: Vec<Predictor>,
    tokens: &[u32],
    protocol: Protocol,
    reference: Option<&Reference<'_>>,
) -> Result<Vec<Evaluation>> {
    let progress = bar(tokens.len() as u64, "tokens").with_message("evaluating");
    let step = |n: usize| progress.inc(n as u64);
    let peers = peers.into_iter().map(|peer| Box::new(peer) as Box<dyn Peer>).collect();
    let results = evaluate_beside(models, peers, isa()?, tokens, protocol, reference, &step);
    progress.finish_and_clear();
    Ok(results?)
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let files = Files::open(&self.file, &self.against)?;
        let models = files.models()?;
        if Task::of(&models[0])? != Task::Run {
            return self.outputs(&files.names, &models);
        }
        ensure!(
            self.pairs.is_none(),
            "--pairs applies to embedding models only: omit it for a language model"
        );
        let (_, tokens, protocol) = self.on.prepare(&files.names, &models)?;
        let peers = self
            .peer
            .iter()
            .map(|command| Predictor::start(command))
            .collect::<Result<Vec<_>>>()?;
        let of_peers: Vec<String> = peers.iter().map(|peer| peer.name().to_owned()).collect();
        let mut results = match &self.reference {
            None => measure(&models, peers, &tokens, protocol, None)?,
            Some(dir) => {
                let checkpoint = open_reference(dir, &models)?;
                let reference = Reference::new(&checkpoint).with_context(|| cannot_import(dir))?;
                let context = checkpoint.architecture().last().context;
                let protocol = Protocol { window: protocol.window.min(context), ..protocol };
                measure(&models, peers, &tokens, protocol, Some(&reference))?
            }
        }
        .into_iter();
        let mut names = files.names.into_iter().chain(of_peers);
        let (file, result) =
            (names.next().unwrap_or_default(), results.next().context("no model was evaluated")?);
        let against = names.zip(results).map(|(file, result)| Other { file, result }).collect();
        let results = Results { file, protocol, result, against };
        if self.json {
            say!("{}", serde_json::to_string_pretty(&results)?);
        } else {
            results.print();
        }
        Ok(())
    }
}

impl Args {
    /// The same for models that do not continue texts.
    fn outputs(&self, names: &[String], models: &[Model<'_>]) -> Result<()> {
        ensure!(
            self.peer.is_empty(),
            "--peer applies to language models only: omit it for this model"
        );
        let pairs = self.pairs.as_deref().map(Pairs::read).transpose()?;
        let checkpoint =
            self.reference.as_ref().map(|dir| open_reference(dir, models)).transpose()?;
        let reference = checkpoint.as_ref().map(Reference::new).transpose()?;
        let samples = match (&self.on.text, &reference) {
            (Some(text), Some(reference)) => {
                outputs::samples(&models[0], reference, text, &self.on)?
            }
            (None, _) if pairs.is_some() => vec![],
            _ => bail!(
                "--text FILE, with one input per line, and --reference DIR, whose outputs are \
                 compared, are required"
            ),
        };
        let mut results = vec![];
        for (name, model) in names.iter().zip(models) {
            let agreement = match &reference {
                Some(reference) if !samples.is_empty() => {
                    Some(outputs::agreement(model, reference, &samples)?)
                }
                _ => None,
            };
            let ranked = |pairs| outputs::spearman(model, reference.as_ref(), pairs);
            let spearman = pairs.as_ref().map(ranked).transpose()?;
            results.push(Measured { file: name.clone(), agreement, spearman });
        }
        let against = results.split_off(1);
        if self.json {
            let all = results.into_iter().next().map(|first| Beside { first, against });
            say!("{}", serde_json::to_string_pretty(&all)?);
            return Ok(());
        }
        for result in results.iter().chain(&against) {
            if !against.is_empty() {
                say!("{}", result.file);
            }
            result.print();
        }
        Ok(())
    }
}

impl Results {
    fn print(&self) {
        let Self { file, protocol, result, against } = self;
        if !against.is_empty() {
            say!("{file}");
        }
        result.print();
        for other in against {
            say!("\n{}", other.file);
            other.result.print();
            if let Some(d) = other.result.from_first {
                say!("from {file}");
                print_divergence(&d);
            }
        }
        let bos = if protocol.bos.is_some() {
            "each after a begin-of-sequence token"
        } else {
            "without a begin token"
        };
        say!("{} tokens scored, in windows of {}, {bos}", result.tokens, protocol.window);
    }
}

/// Lines for people.
trait Print {
    fn print(&self);
}

impl Print for Evaluation {
    fn print(&self) {
        say!("perplexity        {:.4}", self.perplexity);
        if let Some(d) = &self.divergence {
            let excess = (self.perplexity / d.reference_perplexity - 1.0) * 100.0;
            say!("  of the f32 model {:.4} ({excess:+.2}%)", d.reference_perplexity);
            print_divergence(d);
        }
        if let Some(hidden) = &self.hidden {
            hidden.print();
        }
    }
}

fn print_divergence(d: &Divergence) {
    say!(
        "KL divergence     mean {:.5}, 99% below {:.4}, largest {:.4} nats",
        d.mean_kl,
        d.p99_kl,
        d.max_kl
    );
    say!(
        "same top token    {:.2}%; among the five most probable {:.2}%",
        d.top1_agreement * 100.0,
        d.top5_agreement * 100.0
    );
}

impl Print for Hidden {
    fn print(&self) {
        say!("hidden states     error   cosine  ({} tokens)", self.tokens);
        for state in &self.states {
            let name = match state.after {
                None => "embedding".to_owned(),
                Some(place) => {
                    let part = if place.part == Part::FeedForward {
                        "feed-fwd".to_owned()
                    } else {
                        place.part.to_string()
                    };
                    format!("{:3} {part}", place.layer)
                }
            };
            say!("  {name:14} {:6.2}%  {:.5}", state.relative_error * 100.0, state.cosine);
        }
    }
}
