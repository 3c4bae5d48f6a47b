//! `kinglet adapt`.

use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use kinglet_adapt::{Fresh, Options, Outcome, Score, Shape, adapt};

use crate::model::{bar, bytes};

/// Train the interface between a frozen encoder and a frozen decoder on pairs
///
/// A file with an encoder and a decoder may have an interface between them: one or two matrices, or
/// a resampler, whose learned queries attend to the encoder's states. This command trains the
/// interface alone, on this machine, from pairs of a source and its text; every other tensor of the
/// file stays the same, byte for byte. Use it to change what a model answers (other words, other
/// pictures), or to connect an encoder and a decoder that were not trained together.
///
/// PAIRS is a UTF-8 text with one pair per line, its columns separated by a tab: the path of a
/// picture (relative to PAIRS, unless absolute) and its text or, if the encoder reads text, a
/// source text and its target text. A tenth of the sources is held out. After each pass over the
/// others, the interface is rounded as it would be written and scored on the held-out sources; the
/// best one is kept. Two figures are shown: the cross-entropy of the held-out texts (nats per
/// token; lower is better), and how many of them the model reproduces word for word.
///
/// The same file, pairs and options give the same bytes, with any number of threads.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  kinglet adapt model.kinglet pairs.tsv -o new.kinglet
  kinglet adapt model.kinglet pairs.tsv -o model.kinglet --norms     in place
  kinglet adapt model.kinglet pairs.tsv -o new.kinglet --interface resampler --queries 16")]
pub(crate) struct Args {
    /// The .kinglet file
    file: PathBuf,
    /// Pairs of a source and its text, one per line, separated by a tab
    pairs: PathBuf,
    /// The file to write; may be the input file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replace the file's interface with a new one, with random weights
    #[arg(long, value_enum, value_name = "KIND")]
    interface: Option<Interface>,
    /// Queries of a new resampler: the rows that the decoder attends to [default: 32]
    #[arg(long, value_name = "N", requires = "interface")]
    queries: Option<usize>,
    /// Inner width of a new interface: the hidden layer of a two-layer one [default: the wider
    /// side's], or a resampler's width [default: the decoder's]
    #[arg(long, value_name = "N", requires = "interface")]
    width: Option<usize>,
    /// Also train the norms of the decoder's cross-attention
    #[arg(long)]
    norms: bool,
    /// Passes over the pairs
    #[arg(long, value_name = "N", default_value_t = Options::default().passes)]
    passes: usize,
    /// Pairs per step
    #[arg(long, value_name = "N", default_value_t = Options::default().batch)]
    batch: usize,
    /// Peak learning rate; it warms up to this value and then decays to zero
    #[arg(long, value_name = "RATE", default_value_t = Options::default().rate)]
    rate: f32,
    /// Fraction of the sources held out for scoring
    #[arg(long, value_name = "PART", default_value = "10%", value_parser = parse_part)]
    held_out: f64,
    /// Seed for the random weights, the order of the pairs and the choice of held-out pairs
    #[arg(long, value_name = "N", default_value_t = Options::default().seed)]
    seed: u64,
    /// Threads; 0 uses all cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Kinds of new interfaces.
#[derive(Clone, Copy, ValueEnum)]
enum Interface {
    /// One matrix
    Linear,
    /// Two matrices, with GELU between them
    TwoLayer,
    /// Learned queries that attend to the encoder's states, in two layers with feed-forwards
    Resampler,
}

/// A part, as `10%` or `0.1`.
fn parse_part(text: &str) -> Result<f64, String> {
    let (number, of) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let part = number.trim().parse::<f64>().map(|number| number / of);
    part.ok()
        .filter(|part| *part > 0.0 && *part < 1.0)
        .ok_or_else(|| "expected a fraction between 0% and 100%".into())
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        if self.passes == 0 || self.batch == 0 {
            bail!("--passes and --batch must be at least 1");
        }
        if !(self.rate > 0.0 && self.rate.is_finite()) {
            bail!("--rate must be greater than 0");
        }
        let fresh = self.interface.map(|kind| Fresh {
            shape: match kind {
                Interface::Linear => Shape::Linear,
                Interface::TwoLayer => Shape::TwoLayer,
                Interface::Resampler => Shape::Resampler,
            },
            queries: self.queries,
            width: self.width,
        });
        let Self { norms, passes, batch, rate, held_out, seed, .. } = self;
        let options = Options { fresh, norms, passes, batch, rate, held_out, seed };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads)
            .build()
            .context("cannot start threads")?;
        let shown = Mutex::new((String::new(), bar(0, "")));
        let progress = |what: &str, done: u64, all: u64| {
            let Ok(mut shown) = shown.lock() else { return };
            if shown.0 != what {
                shown.1.finish_and_clear();
                let unit = if what == "training" { "steps" } else { "sources" };
                *shown = (what.to_owned(), bar(all, unit).with_message(what.to_owned()));
            }
            shown.1.set_position(done);
        };
        let outcome =
            pool.install(|| adapt(&self.file, &self.pairs, &self.output, &options, &progress));
        if let Ok(shown) = shown.lock() {
            shown.1.finish_and_clear();
        }
        let outcome = outcome.with_context(|| format!("cannot adapt {}", self.file.display()))?;
        if self.json {
            say!("{}", serde_json::to_string_pretty(&outcome)?);
        } else {
            self.print(&outcome);
        }
        Ok(())
    }

    fn print(&self, outcome: &Outcome) {
        let Outcome { file, before, after, .. } = outcome;
        let shown = |name: &str, score: &Score| {
            say!(
                "{name:18} {:8.4} nats a token   {:5.1}% word for word",
                score.cross_entropy,
                score.exact * 100.0
            );
        };
        say!(
            "{} pairs learned from, {} held out ({} tokens)",
            outcome.learned_from,
            after.pairs,
            after.tokens
        );
        shown("the file was at", file);
        if self.interface.is_some() {
            shown("a new interface at", before);
        }
        shown("now it is at", after);
        say!(
            "{} numbers learned in {} steps; kept what pass {} of {} left",
            outcome.parameters,
            outcome.steps,
            outcome.best_pass,
            self.passes
        );
        say!(
            "{}: {}; {} other tensors are the same bytes",
            self.output.display(),
            bytes(outcome.bytes),
            outcome.kept_tensors
        );
    }
}
