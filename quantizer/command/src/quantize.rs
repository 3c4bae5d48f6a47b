//! `kinglet quantize`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use indicatif::ProgressBar;
use kinglet::{Format, Model};
use kinglet_evaluate::size::Matrices;
use kinglet_import::checkpoint::Checkpoint;
use kinglet_import::regular::{self, Kind};
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
/// tokenizer.json of a model of the Llama class (Llama, Mistral, Qwen2, Qwen3). A GGUF file holds
/// all of these, and its weights may already be quantized: codes of Q4_0, Q4_1 and Q8_0 are kept if
/// --weights has the same width; with other types, the error of the source adds to ours. The output
/// is written to a temporary file, which is renamed once it is complete.
///
/// The command ends with a verdict: the mean KL divergence of the file's predictions from the f32
/// model's (for embedding models, the cosine), measured on text held out of the calibration or,
/// without a calibration text, on tokens that the f32 model generates. Up to 0.02 nats (a cosine of
/// 0.99) is good; above 0.1 (below 0.97) is poor, and the verdict names the options that would
/// help. `kinglet eval` measures more, on a text of your choice.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The checkpoint's directory, or a GGUF file
    #[arg(value_name = "DIR|GGUF")]
    dir: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Format of the matrices of the blocks
    #[arg(long, value_enum, default_value_t = Weights::Int8)]
    weights: Weights,
    /// Format of the embedding (and of the head, if they are tied); int8 by default, or int8-row if
    /// that is the format of --weights
    #[arg(long, value_enum)]
    embeddings: Option<Weights>,
    /// Format of a head that is not tied; by default that of the embedding
    #[arg(long, value_enum)]
    head: Option<Weights>,
    /// Longest context that the file supports; by default the longest that the model was trained
    /// for. A value above the original context selects the long factors of a LongRoPE model
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Calibrate on this UTF-8 text, or on token ids (a .json file with one list per sequence):
    /// rounding then minimizes the change of the model's activations instead of the change of its
    /// weights. The last tenth is held out for the verdict
    #[arg(long, value_name = "FILE")]
    calibrate: Option<PathBuf>,
    /// Maximum number of tokens to calibrate on
    #[arg(long, value_name = "N", default_value_t = 32768)]
    calibration_tokens: usize,
    /// Seed for choosing the passages of a longer text
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Choose between --weights and int8 for each matrix, so that the blocks average at most BITS
    /// bits per weight (8 times the bytes of their matrices, divided by their weights, as `kinglet
    /// inspect` shows them)
    #[arg(long, value_name = "BITS", group = "target")]
    bits: Option<f64>,
    /// ... so that the file has at most BYTES bytes (the suffixes k and M are understood)
    #[arg(long, value_name = "BYTES", group = "target", value_parser = crate::memory::size)]
    size: Option<u64>,
    /// ... so that the divergence from the f32 model is at most NATS, estimated as the sum over the
    /// matrices of what rounding each alone costs
    #[arg(long, value_name = "NATS", group = "target")]
    kl: Option<f64>,
    /// ... so that the matrix products of the blocks take at most MS milliseconds per token on one
    /// thread of this machine
    #[arg(long, value_name = "MS", group = "target")]
    ms: Option<f64>,
    /// Remove the parts of the model that matter least, such as heads=25%,channels=25%,blocks=2 (a
    /// block is half a layer), or auto for as many heads and channels as the target requires; the
    /// remaining weights are refitted to compensate
    #[arg(
        long,
        value_name = "WHAT",
        value_parser = parse_prune,
        default_value = "",
        hide_default_value = true
    )]
    prune: Prune,
    /// Do not refit the remaining weights after pruning
    #[arg(long)]
    no_refit: bool,
    /// Do not let each block compensate for the rounding and pruning of the blocks before it; saves
    /// a pass in f32
    #[arg(long)]
    no_correct: bool,
    /// Do not fold outliers of activations into the weights
    #[arg(long)]
    no_fold: bool,
    /// Do not transform the inputs of matrix products: saves a few percent of the time, but loses
    /// precision where a few inputs are much larger than the others, as in all real language models
    #[arg(long)]
    no_transform: bool,
    /// Requantize weights that are already quantized in a GGUF file. By default the codes of Q4_0
    /// and Q4_1 (--weights int4) and of Q8_0 (int8) are kept block by block, and the inputs of
    /// these products, which then cannot be transformed, are rounded to two planes. A target,
    /// --prune and --fit also requantize
    #[arg(long)]
    no_take: bool,
    /// Measure how each block, and the rounding of each matrix, affects the predictions, for the
    /// report
    #[arg(long)]
    explain: bool,
    /// Learn the codes of each layer in STEPS steps of 1024 calibration tokens: weights are rounded
    /// up or down, whichever brings the layer's outputs closer to the f32 model's, and the result
    /// is kept if it also does so on held-out text. Start with 200; below 100, no code moves far
    /// enough to change. A step costs about four passes of these tokens through the layer in f32,
    /// so 200 steps cost as much as 100 passes of 8192 tokens through the model
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    learn: usize,
    /// Steps of fitting scales and norms (with --learn, also codes) to the f32 model's predictions
    /// on the calibration text; 0 for none. With --learn, needs 24 bytes of memory per weight
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    fit: usize,
    /// Size of the first of these steps
    #[arg(long, value_name = "RATE", default_value_t = 0.003)]
    fit_rate: f32,
    /// Remove the tokens that this UTF-8 text does not need: the text is encoded as before, other
    /// texts into more tokens. Special tokens and single-byte tokens stay
    #[arg(long, value_name = "TEXT")]
    vocab_from: Option<PathBuf>,
    /// Length in tokens of the golden answer stored in the file, with which any device can check
    /// itself; 0 for none
    #[arg(long, value_name = "N", default_value_t = 64)]
    golden: usize,
    /// Prompt of the golden answer
    #[arg(long, default_value = "Once upon a time")]
    prompt: String,
    /// Metadata to store in the file, as KEY=VALUE; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    metadata: Vec<String>,
    /// Skip the verdict
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
    /// 8.25 bits: a sub-scale per 32 weights
    Int8,
    /// 8 bits: one scale per row, slightly coarser and faster
    Int8Row,
    /// 4.25 bits: a codebook of 16 levels fitted to each matrix, a sub-scale per 32 weights
    Int4,
    /// 4.25 bits: evenly spaced levels, a sub-scale per 32 weights
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

fn parse_prune(text: &str) -> Result<Prune, String> {
    let (mut prune, mut parts) = (Prune::default(), [0.0; 2]);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        if part == "auto" {
            prune.units = Units::Auto;
            continue;
        }
        let (what, amount) = part
            .split_once('=')
            .ok_or(format!("{part}: expected heads=25%, channels=25%, blocks=2 or auto"))?;
        let fraction = || {
            let percent: Option<f64> = amount.strip_suffix('%').and_then(|n| n.parse().ok());
            let percent = percent.filter(|p| (0.0..100.0).contains(p));
            percent
                .map(|p| p / 100.0)
                .ok_or(format!("{part}: expected a percentage from 0% to below 100%"))
        };
        match what {
            "heads" => parts[0] = fraction()?,
            "channels" => parts[1] = fraction()?,
            "blocks" => {
                prune.blocks =
                    amount.parse().map_err(|_| format!("{part}: expected a number of blocks"))?
            }
            _ => {
                return Err(format!(
                    "{what} cannot be pruned; only heads, channels and blocks can"
                ));
            }
        }
    }
    match (prune.units, parts) {
        (_, [0.0, 0.0]) => {}
        (Units::Auto, _) => {
            return Err("auto already decides how many heads and channels to remove".to_owned());
        }
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
                "the file was written, but could not be judged (--no-verdict skips this)",
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
            say!("{}", serde_json::to_string_pretty(&made)?);
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
            let text = regular::read(path, Kind::Text)
                .with_context(|| format!("cannot read {}", path.display()))?;
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
                bail!("--metadata {pair}: expected KEY=VALUE")
            };
            if key == vocabulary::KEY {
                bail!(
                    "--metadata {pair}: this key is reserved for the tokens that were kept \
                     (--vocab-from); choose another"
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
    let progress = ProgressBar::new_spinner().with_message("measuring the loss");
    progress.enable_steady_tick(Duration::from_millis(100));
    let reference = Reference::with_memory(checkpoint, RESIDENT)?;
    let verdict = verdict(model, isa()?, &reference, options, held_out);
    progress.finish_and_clear();
    Ok(verdict?)
}

impl Made {
    fn print(&self, checkpoint: &Checkpoint, no_verdict: bool) {
        say!(
            "{}: {} weights in {}, {:.2} bits each in the blocks, {:.1} s",
            self.file,
            self.weights,
            bytes(self.bytes),
            self.bits_per_weight,
            self.seconds
        );
        if let Some(kept) = checkpoint.kept() {
            say!("{} of {} tokens kept", checkpoint.architecture().vocab(), kept.of());
        }
        if let Some(taken) = &self.taken {
            say!("{TAKEN}: {taken}");
        }
        if let Some(source) = &self.source {
            say!("note: {source}");
        }
        match &self.verdict {
            Some(verdict) => say!("verdict: {verdict}"),
            None if no_verdict => {}
            None => say!(
                "verdict: none, because this model generates no text to measure on; use `kinglet \
                 eval {} --text T --reference DIR`",
                self.file
            ),
        }
    }
}
