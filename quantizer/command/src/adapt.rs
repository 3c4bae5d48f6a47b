//! `kinglet adapt`.

use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use kinglet_adapt::{Fresh, Options, Outcome, Score, Shape, adapt};

use crate::model::{bar, bytes};

/// Teach what stands between an encoder and a decoder, on pairs, with both frozen
///
/// A file of an encoder and a decoder may have an interface between them: the encoder's states pass
/// through one matrix or two, or learned queries look at them (a resampler). This learns the
/// interface alone, on this machine, from pairs of a source and its text; every other tensor of the
/// file stays as it is, byte for byte. It is for a model that shall answer otherwise than it does
/// (other words, other pictures), or for an encoder and a decoder that have not met.
///
/// PAIRS is a UTF-8 text with a pair on each line, and a tab between its columns: the path of a
/// picture (beside PAIRS, if it is not absolute) and its text or, where the encoder reads text, a
/// source text and its target text. A tenth of the sources is held out: on these the interface is
/// scored after each pass over the others, rounded as it would be written, and the best is kept.
/// Two figures are shown: the cross-entropy of the held-out texts (nats a token; lower is better),
/// and how many of them the model answers word for word.
///
/// The same file, pairs and options give the same bytes, with any number of threads.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  kinglet adapt model.kinglet pairs.tsv -o new.kinglet
  kinglet adapt model.kinglet pairs.tsv -o model.kinglet --norms     in place: renamed when it is whole
  kinglet adapt model.kinglet pairs.tsv -o new.kinglet --interface resampler --queries 16")]
pub(crate) struct Args {
    /// The .kinglet file
    file: PathBuf,
    /// Sources and texts, a line each, with a tab between them
    pairs: PathBuf,
    /// The file to write; may be the same
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Begin with a new interface in place of the file's, of random weights
    #[arg(long, value_enum, value_name = "KIND")]
    interface: Option<Interface>,
    /// Queries of a new resampler: the rows that the decoder looks at [default: 32]
    #[arg(long, value_name = "N", requires = "interface")]
    queries: Option<usize>,
    /// Width of a new interface inside: the hidden layer of two [default: the wider side's], or a
    /// resampler [default: the decoder's]
    #[arg(long, value_name = "N", requires = "interface")]
    width: Option<usize>,
    /// Let the norms of the decoder's attention across learn, too
    #[arg(long)]
    norms: bool,
    /// How often each pair is seen
    #[arg(long, value_name = "N", default_value_t = Options::default().passes)]
    passes: usize,
    /// Pairs of a step
    #[arg(long, value_name = "N", default_value_t = Options::default().batch)]
    batch: usize,
    /// How far a number moves in a step, at most; it grows to this and falls to nothing
    #[arg(long, value_name = "RATE", default_value_t = Options::default().rate)]
    rate: f32,
    /// Part of the sources to score on and not learn from
    #[arg(long, value_name = "PART", default_value = "10%", value_parser = parse_part)]
    held_out: f64,
    /// Of random weights, the order of pairs, and which of them are held out
    #[arg(long, value_name = "N", default_value_t = Options::default().seed)]
    seed: u64,
    /// Threads; 0 for all cores
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
    /// Two, with GELU between them
    TwoLayer,
    /// Learned queries that look at the encoder's states, twice, with feed-forwards
    Resampler,
}

/// A part, as `10%` or `0.1`.
fn parse_part(text: &str) -> Result<f64, String> {
    let (number, of) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let part = number.trim().parse::<f64>().map(|number| number / of);
    part.ok()
        .filter(|part| *part > 0.0 && *part < 1.0)
        .ok_or_else(|| "a part between 0% and 100%".into())
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        if self.passes == 0 || self.batch == 0 {
            bail!("--passes and --batch have to be at least 1");
        }
        if !(self.rate > 0.0 && self.rate.is_finite()) {
            bail!("--rate has to be more than 0");
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
            println!("{}", serde_json::to_string_pretty(&outcome)?);
        } else {
            self.print(&outcome);
        }
        Ok(())
    }

    fn print(&self, outcome: &Outcome) {
        let Outcome { file, before, after, .. } = outcome;
        let shown = |name: &str, score: &Score| {
            println!(
                "{name:18} {:8.4} nats a token   {:5.1}% word for word",
                score.cross_entropy,
                score.exact * 100.0
            );
        };
        println!(
            "{} pairs learned from, {} held out ({} tokens)",
            outcome.learned_from, after.pairs, after.tokens
        );
        shown("the file was at", file);
        if self.interface.is_some() {
            shown("a new interface at", before);
        }
        shown("now it is at", after);
        println!(
            "{} numbers learned in {} steps; kept what pass {} of {} left",
            outcome.parameters, outcome.steps, outcome.best_pass, self.passes
        );
        println!(
            "{}: {}; {} other tensors are the same bytes",
            self.output.display(),
            bytes(outcome.bytes),
            outcome.kept_tensors
        );
    }
}
