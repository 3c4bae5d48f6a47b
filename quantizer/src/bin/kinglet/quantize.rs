//! `kinglet quantize`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use kinglet::Format;
use kinglet_quantizer::calibrate::{self, Passages};
use kinglet_quantizer::checkpoint::Checkpoint;
use kinglet_quantizer::fit::FitOptions;
use kinglet_quantizer::quantize::{Options, quantize};

use crate::model::{bar, bytes};

/// Turn a Hugging Face checkpoint into a .kinglet file
///
/// DIR holds config.json, safetensors (f32, f16 or bf16; one file or sharded) and tokenizer.json of a model of the Llama class
/// (Llama, Mistral, Qwen2, Qwen3). The file is written beside its target and renamed when it is whole.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The checkpoint's directory
    dir: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// How to code the matrices of the blocks
    #[arg(long, value_enum, default_value_t = Weights::Int8)]
    weights: Weights,
    /// How to code the embedding (and the head, where they are one)
    #[arg(long, value_enum, default_value_t = Weights::Int8)]
    embeddings: Weights,
    /// How to code a head of its own
    #[arg(long, value_enum, default_value_t = Weights::Int8)]
    head: Weights,
    /// The longest context the file shall serve; by default the longest that the model was made for. More than the original context
    /// chooses the long factors of a LongRoPE model
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Calibrate on this UTF-8 text, or on token ids (a .json file with one list a sequence): weights are then rounded so that the
    /// model's own activations change least, not the weights
    #[arg(long, value_name = "FILE")]
    calibrate: Option<PathBuf>,
    /// Tokens to calibrate on, at most
    #[arg(long, value_name = "N", default_value_t = 32768)]
    calibration_tokens: usize,
    /// Chooses the passages of a text that is longer
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Steps of fitting scales and norms to the f32 model's predictions on the calibration text; 0 for none
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    fit: usize,
    /// The size of the first of these steps
    #[arg(long, value_name = "RATE", default_value_t = 0.003)]
    fit_rate: f32,
    /// Tokens of the golden answer that the file carries, so that any device can check itself; 0 for none
    #[arg(long, value_name = "N", default_value_t = 64)]
    golden: usize,
    /// What the golden sequence begins with
    #[arg(long, default_value = "Once upon a time")]
    prompt: String,
    /// Pairs to carry along, KEY=VALUE; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    metadata: Vec<String>,
}

/// Formats of weights.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Weights {
    /// 8 bits, one scale a row
    Int8,
    /// 4.25 bits: a codebook of 16 levels fitted to each matrix, a sub-scale for 32 weights
    Int4,
    /// 4.25 bits: even levels, a sub-scale for 32 weights
    Int4Uniform,
}

impl From<Weights> for Format {
    fn from(weights: Weights) -> Self {
        match weights {
            Weights::Int8 => Self::Int8,
            Weights::Int4 => Self::Int4Codebook,
            Weights::Int4Uniform => Self::Int4,
        }
    }
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let mut metadata = vec![];
        for pair in &self.metadata {
            let Some((key, value)) = pair.split_once('=') else { bail!("--metadata {pair}: write KEY=VALUE") };
            metadata.push((key.to_owned(), value.to_owned()));
        }
        let start = Instant::now();
        let checkpoint = match self.context {
            None => Checkpoint::open(&self.dir),
            Some(context) => Checkpoint::with_context(&self.dir, context),
        };
        let checkpoint = checkpoint.with_context(|| format!("cannot import {}", self.dir.display()))?;
        let calibration = match &self.calibrate {
            Some(path) => {
                let how = Passages { tokens: self.calibration_tokens, seed: self.seed };
                calibrate::sequences(&checkpoint, path, how)
                    .with_context(|| format!("cannot calibrate on {}", path.display()))?
            }
            None => vec![],
        };
        let options = Options {
            weights: self.weights.into(),
            embeddings: self.embeddings.into(),
            head: self.head.into(),
            calibration,
            fit: FitOptions { steps: self.fit, rate: self.fit_rate },
            golden: self.golden,
            prompt: self.prompt,
            metadata,
        };
        let progress = bar(0, "weights");
        let summary = quantize(&checkpoint, &self.output, &options, &|what, done, total| {
            progress.set_message(what.to_owned());
            progress.set_length(total);
            progress.set_position(done.min(total));
        });
        progress.finish_and_clear();
        let summary = summary.with_context(|| format!("cannot quantize {}", self.dir.display()))?;
        println!(
            "{}: {} weights in {}, {:.1} s",
            self.output.display(),
            summary.weights,
            bytes(summary.bytes),
            start.elapsed().as_secs_f64()
        );
        Ok(())
    }
}
