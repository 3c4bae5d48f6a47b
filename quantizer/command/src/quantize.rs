//! `kinglet quantize`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use indicatif::ProgressBar;
use kinglet::{Format, Model};
use kinglet_evaluate::size::Matrices;
use kinglet_import::checkpoint::Checkpoint;
use kinglet_import::vocabulary;
use kinglet_quantize::calibrate::{self, Passages};
use kinglet_quantize::fit::FitOptions;
use kinglet_quantize::prune::{Prune, Refit, Units};
use kinglet_quantize::verdict::{HELD_OUT, RESIDENT, Verdict, verdict};
use kinglet_quantize::{Options, TAKEN, Target, could_be_kept, quantize, reachable};
use kinglet_reference::{Reference, Sample};
use serde::Serialize;

use crate::model::{Source, bar, bytes, isa};

/// Turn a Hugging Face checkpoint or a GGUF file into a .kinglet file
///
/// A directory holds config.json, safetensors (f32, f16 or bf16; one file or sharded) and
/// tokenizer.json of a model of the Llama class (Llama, Mistral, Qwen2, Qwen3); a GGUF file holds
/// all of that, its weights perhaps quantized: codes of Q4_0, Q4_1 and Q8_0 are taken over where
/// --weights is as wide, others add their error to ours. The file is written beside its target and
/// renamed when it is whole.
///
/// It ends with a verdict: the mean KL divergence of the file's predictions from the f32 model's
/// (of embedding models, the cosine), on text that was held out of the calibration or, without one,
/// on tokens that the f32 model generates. Up to 0.02 nats (a cosine of 0.99) is good; above 0.1
/// (below 0.97) is poor, and the options that would help are named. `kinglet eval` measures more,
/// on a text of your own.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The checkpoint's directory, or a GGUF file
    #[arg(value_name = "DIR|GGUF")]
    dir: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// How to code the matrices of the blocks
    #[arg(long, value_enum, default_value_t = Weights::Int8)]
    weights: Weights,
    /// How to code the embedding (and the head, where they are one); by default int8, or int8-row
    /// as --weights
    #[arg(long, value_enum)]
    embeddings: Option<Weights>,
    /// How to code a head of its own; by default as the embedding
    #[arg(long, value_enum)]
    head: Option<Weights>,
    /// The longest context the file shall serve; by default the longest that the model was made
    /// for. More than the original context chooses the long factors of a LongRoPE model
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Calibrate on this UTF-8 text, or on token ids (a .json file with one list a sequence):
    /// weights are then rounded so that the model's own activations change least, not the weights.
    /// The last tenth is held out for the verdict
    #[arg(long, value_name = "FILE")]
    calibrate: Option<PathBuf>,
    /// Tokens to calibrate on, at most
    #[arg(long, value_name = "N", default_value_t = 32768)]
    calibration_tokens: usize,
    /// Chooses the passages of a text that is longer
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Choose between --weights and int8 for each product, so that the blocks have so many bits a
    /// weight: all bytes of their matrices times 8, over their weights, as `kinglet inspect` shows
    /// them
    #[arg(long, value_name = "BITS", group = "target")]
    bits: Option<f64>,
    /// ... so that the file has at most so many bytes (k and M are understood)
    #[arg(long, value_name = "BYTES", group = "target", value_parser = parse_bytes)]
    size: Option<u64>,
    /// ... so that the divergence from the f32 model, the sum of what each product's rounding does
    /// alone, is at most so many nats
    #[arg(long, value_name = "NATS", group = "target")]
    kl: Option<f64>,
    /// ... so that the products of the blocks take at most so many milliseconds a token on one
    /// thread of this machine
    #[arg(long, value_name = "MS", group = "target")]
    ms: Option<f64>,
    /// Take out parts of the model where that harms least, such as heads=25%,channels=25%,blocks=2
    /// (a block is half a layer), or auto for as many heads and channels as the target wants; the
    /// remaining weights make up for them
    #[arg(long, value_name = "WHAT", value_parser = parse_prune, default_value = "", hide_default_value = true)]
    prune: Prune,
    /// Leave the remaining weights as they are
    #[arg(long)]
    no_refit: bool,
    /// Do not let each block make up for the rounding and pruning of those before it; saves a pass
    /// in f32
    #[arg(long)]
    no_correct: bool,
    /// Leave outliers of activations where they are
    #[arg(long)]
    no_fold: bool,
    /// Do not transform the inputs of products: saves a few percent of the time, and costs
    /// precision where a few inputs are much larger than the others, as in all real language models
    #[arg(long)]
    no_transform: bool,
    /// Round weights again that a GGUF file has quantized already. By default the codes of Q4_0 and
    /// Q4_1 (--weights int4) and of Q8_0 (int8) are taken over block by block, and the inputs of
    /// these products, which cannot be transformed then, are rounded to two planes. A target,
    /// --prune and --fit round again, too
    #[arg(long)]
    no_take: bool,
    /// Measure what each block and each product's rounding does to the predictions, for the report
    #[arg(long)]
    explain: bool,
    /// Learn the codes of each layer in so many steps of 1024 calibration tokens: rounding goes up
    /// or down as brings the layer's outputs nearer to the f32 model's, and is kept if it does so
    /// on text that was held out. 200 are a start; below 100 no code gets far enough to change. A
    /// step costs about four passes of these tokens through the layer in f32, so 200 of them as
    /// much as 100 passes of 8192 tokens through the model
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    learn: usize,
    /// Steps of fitting scales and norms (with --learn, codes too) to the f32 model's predictions
    /// on the calibration text; 0 for none. With --learn, 24 bytes of memory for each weight
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    fit: usize,
    /// The size of the first of these steps
    #[arg(long, value_name = "RATE", default_value_t = 0.003)]
    fit_rate: f32,
    /// Take out the tokens that this UTF-8 text does not need: it is encoded as before, any other
    /// text into more tokens. Special tokens and those of single bytes stay
    #[arg(long, value_name = "TEXT")]
    vocab_from: Option<PathBuf>,
    /// Tokens of the golden answer that the file carries, so that any device can check itself; 0
    /// for none
    #[arg(long, value_name = "N", default_value_t = 64)]
    golden: usize,
    /// What the golden sequence begins with
    #[arg(long, default_value = "Once upon a time")]
    prompt: String,
    /// Pairs to carry along, KEY=VALUE; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    metadata: Vec<String>,
    /// Do not measure what the file lost
    #[arg(long)]
    no_verdict: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was made.
#[derive(Serialize)]
struct Made {
    file: String,
    weights: u64,
    bytes: u64,
    /// Of the blocks' matrices.
    bits_per_weight: f64,
    /// To make it, without the verdict.
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_kept: Option<usize>,
    /// What was taken over from a source that is quantized already.
    #[serde(skip_serializing_if = "Option::is_none")]
    taken: Option<String>,
    /// How codes of the source could be kept that were not.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
}

/// Formats of weights.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Weights {
    /// 8.25 bits: a sub-scale for 32 weights
    Int8,
    /// 8 bits: one scale a row, a little coarser and faster
    Int8Row,
    /// 4.25 bits: a codebook of 16 levels fitted to each matrix, a sub-scale for 32 weights
    Int4,
    /// 4.25 bits: even levels, a sub-scale for 32 weights
    Int4Uniform,
}

impl From<Weights> for Format {
    fn from(weights: Weights) -> Self {
        match weights {
            Weights::Int8 => Self::Int8Grouped,
            Weights::Int8Row => Self::Int8,
            Weights::Int4 => Self::Int4Codebook,
            Weights::Int4Uniform => Self::Int4,
        }
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix(['k', 'M']) {
        Some(number) if text.ends_with('k') => (number, 1e3),
        Some(number) => (number, 1e6),
        None => (text, 1.0),
    };
    let number: f64 =
        number.parse().map_err(|_| "write bytes, such as 200000, 200k or 1.5M".to_owned())?;
    if number >= 0.0 {
        Ok((number * unit) as u64)
    } else {
        Err("bytes cannot be negative".to_owned())
    }
}

fn parse_prune(text: &str) -> Result<Prune, String> {
    let (mut prune, mut parts) = (Prune::default(), [0.0; 2]);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        if part == "auto" {
            prune.units = Units::Auto;
            continue;
        }
        let (what, amount) = part
            .split_once('=')
            .ok_or(format!("{part}: write heads=25%, channels=25%, blocks=2 or auto"))?;
        let fraction = || {
            let percent: Option<f64> = amount.strip_suffix('%').and_then(|n| n.parse().ok());
            let percent = percent.filter(|p| (0.0..100.0).contains(p));
            percent
                .map(|p| p / 100.0)
                .ok_or(format!("{part}: write a percentage from 0% to below 100%"))
        };
        match what {
            "heads" => parts[0] = fraction()?,
            "channels" => parts[1] = fraction()?,
            "blocks" => {
                prune.blocks =
                    amount.parse().map_err(|_| format!("{part}: write a number of blocks"))?
            }
            _ => return Err(format!("{what} cannot be pruned: heads, channels and blocks can")),
        }
    }
    match (prune.units, parts) {
        (_, [0.0, 0.0]) => {}
        (Units::Auto, _) => return Err("auto decides on heads and channels itself".to_owned()),
        (_, [heads, channels]) => prune.units = Units::Part { heads, channels },
    }
    Ok(prune)
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let start = Instant::now();
        let checkpoint = self.open()?;
        let mut options = self.options()?;
        let failed = || format!("cannot quantize {}", self.dir.display());
        // Before a long text is read.
        reachable(&checkpoint, &options).with_context(failed)?;
        let mut held_out = vec![];
        if let Some(path) = &self.calibrate {
            let how = Passages { tokens: self.calibration_tokens, seed: self.seed };
            let split = calibrate::split(&checkpoint, path, how, HELD_OUT)
                .with_context(|| format!("cannot calibrate on {}", path.display()))?;
            (options.calibration, held_out) = (split.calibration, split.held_out);
        }
        let progress = bar(0, "weights");
        let summary = quantize(&checkpoint, &self.output, &options, &|what, done, total| {
            progress.set_message(what.to_owned());
            progress.set_length(total);
            progress.set_position(done.min(total));
        });
        progress.finish_and_clear();
        let summary = summary.with_context(failed)?;
        let seconds = start.elapsed().as_secs_f64();
        let source = Source::open(Some(&self.output))?;
        let model = source.model(Some(&self.output))?;
        let verdict = match self.no_verdict {
            true => None,
            false => judge(&model, &checkpoint, &options, &held_out).context(
                "the file was written, and cannot be judged (--no-verdict leaves that out)",
            )?,
        };
        let made = Made {
            file: self.output.display().to_string(),
            weights: summary.weights,
            bytes: summary.bytes,
            bits_per_weight: Matrices::of_blocks(&model)?.bits(),
            seconds,
            tokens_kept: checkpoint.kept().map(|_| checkpoint.architecture().vocab()),
            taken: summary
                .record
                .notes
                .into_iter()
                .find(|note| note.what == TAKEN)
                .map(|note| note.how),
            source: could_be_kept(&checkpoint, &options),
            verdict,
        };
        if self.json {
            println!("{}", serde_json::to_string_pretty(&made)?);
        } else {
            made.print(&checkpoint, self.no_verdict);
        }
        Ok(())
    }

    /// The checkpoint, with the tokens that are kept.
    fn open(&self) -> Result<Checkpoint> {
        let checkpoint = match self.context {
            None => Checkpoint::open(&self.dir),
            Some(context) => Checkpoint::with_context(&self.dir, context),
        };
        let mut checkpoint =
            checkpoint.with_context(|| format!("cannot import {}", self.dir.display()))?;
        if let Some(path) = &self.vocab_from {
            let text =
                std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let kept = vocabulary::of_text(&checkpoint, &text);
            let kept = kept
                .with_context(|| format!("cannot take the vocabulary from {}", path.display()))?;
            checkpoint.keep_tokens(kept)?;
        }
        Ok(checkpoint)
    }

    /// All but what to calibrate on.
    fn options(&self) -> Result<Options> {
        let mut metadata = vec![];
        for pair in &self.metadata {
            let Some((key, value)) = pair.split_once('=') else {
                bail!("--metadata {pair}: write KEY=VALUE")
            };
            if key == vocabulary::KEY {
                bail!(
                    "--metadata {pair}: this key says which tokens were kept (--vocab-from); \
                     choose another"
                );
            }
            metadata.push((key.to_owned(), value.to_owned()));
        }
        let eight =
            if matches!(self.weights, Weights::Int8Row) { Weights::Int8Row } else { Weights::Int8 };
        let embeddings = self.embeddings.unwrap_or(eight);
        Ok(Options {
            weights: self.weights.into(),
            embeddings: embeddings.into(),
            head: self.head.unwrap_or(embeddings).into(),
            calibration: vec![],
            target: self
                .bits
                .map(Target::Bits)
                .or(self.size.map(Target::Bytes))
                .or(self.kl.map(Target::Divergence))
                .or(self.ms.map(|ms| Target::Seconds(ms / 1e3))),
            prune: Prune {
                refit: if self.no_refit { Refit::None } else { Refit::LeastSquares },
                ..self.prune
            },
            correct: !self.no_correct,
            fold: !self.no_fold,
            transform: !self.no_transform,
            take: !self.no_take,
            explain: self.explain,
            learn: self.learn,
            fit: FitOptions { steps: self.fit, rate: self.fit_rate },
            isa: isa()?,
            golden: self.golden,
            prompt: self.prompt.clone(),
            metadata,
        })
    }
}

/// Measures what the file lost.
fn judge(
    model: &Model<'_>,
    checkpoint: &Checkpoint,
    options: &Options,
    held_out: &[Sample],
) -> Result<Option<Verdict>> {
    let progress = ProgressBar::new_spinner().with_message("measuring what was lost");
    progress.enable_steady_tick(Duration::from_millis(100));
    let reference = Reference::with_memory(checkpoint, RESIDENT)?;
    let verdict = verdict(model, isa()?, &reference, options, held_out);
    progress.finish_and_clear();
    Ok(verdict?)
}

impl Made {
    fn print(&self, checkpoint: &Checkpoint, no_verdict: bool) {
        println!(
            "{}: {} weights in {}, {:.2} bits each in the blocks, {:.1} s",
            self.file,
            self.weights,
            bytes(self.bytes),
            self.bits_per_weight,
            self.seconds
        );
        if let Some(kept) = checkpoint.kept() {
            println!("{} of {} tokens kept", checkpoint.architecture().vocab(), kept.of());
        }
        if let Some(taken) = &self.taken {
            println!("{TAKEN}: {taken}");
        }
        if let Some(source) = &self.source {
            println!("note: {source}");
        }
        match &self.verdict {
            Some(verdict) => println!("verdict: {verdict}"),
            None if no_verdict => {}
            None => println!(
                "verdict: none, as this model generates no text to measure on; `kinglet eval {} \
                 --text T --reference DIR` does",
                self.file
            ),
        }
    }
}
