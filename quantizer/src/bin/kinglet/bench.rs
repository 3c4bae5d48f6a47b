//! `kinglet bench`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kinglet::{Isa, Model, Options, Parallel, Plan, Session};
use kinglet_quantizer::Memory;
use serde::Serialize;

use crate::model::{Source, Work, bytes, bytes_per_token, with_threads};

/// Check the file's own golden answer, then measure speed
///
/// Nothing is timed before the answer is right to the bit. Figures are medians of several runs; on a shared machine compare
/// only what was measured in one run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The .kinglet file; without one, the built-in model
    file: Option<PathBuf>,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 128)]
    prompt: usize,
    /// Tokens to decode
    #[arg(long, value_name = "N", default_value_t = 64)]
    decode: usize,
    /// Tokens before the first decoded one
    #[arg(long, value_name = "N", default_value_t = 0)]
    depth: usize,
    /// Tokens of the prompt that are run together
    #[arg(long, value_name = "N", default_value_t = 128)]
    prefill: usize,
    /// Runs of each measurement
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeat: usize,
    /// Threads; 0 chooses by the model's size
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    isa: &'static str,
    threads: usize,
    golden: usize,
    prompt: usize,
    prefill_tokens_per_second: f64,
    depth: usize,
    decode: usize,
    decode_tokens_per_second: f64,
    bytes_read_per_token: u64,
    working_memory: usize,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let source = Source::open(self.file.as_deref())?;
        let model = source.model(self.file.as_deref())?;
        if [self.prompt, self.decode, self.repeat, self.prefill].contains(&0) {
            bail!("--prompt, --decode, --prefill and --repeat must be at least 1");
        }
        let report = with_threads(&model, self.threads, Measure { args: &self, model })?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
            return Ok(());
        }
        println!("golden answer right: {} tokens, bit for bit", report.golden);
        println!("{}, {} thread(s)", report.isa, report.threads);
        println!("prefill of {:5}     {:10.1} tokens/s", report.prompt, report.prefill_tokens_per_second);
        println!("decode at {:6}     {:10.1} tokens/s", report.depth, report.decode_tokens_per_second);
        let per_second = report.bytes_read_per_token as f64 * report.decode_tokens_per_second;
        println!(
            "weights read        {} a token, {} a second in decode",
            bytes(report.bytes_read_per_token),
            bytes(per_second as u64)
        );
        println!("working memory      {} bytes", report.working_memory);
        Ok(())
    }
}

struct Measure<'a> {
    args: &'a Args,
    model: Model<'a>,
}

impl Work for Measure<'_> {
    type Output = Report;

    fn run<P: Parallel>(self, isa: Isa, parallel: P) -> Result<Report> {
        let Self { args, model } = self;
        let threads = parallel.ways();
        let longest = args.prompt.max(args.depth + args.decode);
        if longest > model.context() {
            bail!(
                "{longest} positions do not fit the model's context of {}; choose a smaller --prompt, --depth or --decode",
                model.context()
            );
        }
        let golden = model
            .golden()
            .next()
            .context("the file carries no golden answer, so nothing could be trusted; quantize with --golden")?;
        let context = longest.max(golden.prompt.len() + golden.answer.len()).min(model.context());
        let options = Options { context, prefill: args.prefill.min(context), logits: 1 };
        let mut memory = Memory::new(Plan::new(&model, options)?.bytes());
        let working_memory = memory.bytes().len();
        let mut session = Session::with(&model, options, memory.bytes(), isa, parallel)?;
        session.check_golden(&golden).context("the golden answer is wrong on this machine; nothing was measured")?;

        // Any tokens do: no step depends on which they are.
        let token = |i: usize| (i * 7919 % model.vocab()) as u32;
        let prompt: Vec<u32> = (0..longest).map(token).collect();
        let prefill = median(args.repeat, || {
            session.rewind(0)?;
            let start = Instant::now();
            session.feed(&prompt[..args.prompt])?;
            Ok(args.prompt as f64 / start.elapsed().as_secs_f64())
        })?;
        session.rewind(0)?;
        if args.depth > 0 {
            session.feed(&prompt[..args.depth])?;
        }
        let decode = median(args.repeat, || {
            session.rewind(args.depth)?;
            let start = Instant::now();
            for i in args.depth..args.depth + args.decode {
                session.feed(&prompt[i..=i])?;
            }
            Ok(args.decode as f64 / start.elapsed().as_secs_f64())
        })?;
        Ok(Report {
            isa: isa.name(),
            threads,
            golden: golden.answer.len(),
            prompt: args.prompt,
            prefill_tokens_per_second: prefill,
            depth: args.depth,
            decode: args.decode,
            decode_tokens_per_second: decode,
            bytes_read_per_token: bytes_per_token(&model)?,
            working_memory,
        })
    }
}

/// The median of `n` measurements, after one to warm up.
fn median(n: usize, mut measure: impl FnMut() -> Result<f64>) -> Result<f64> {
    measure()?;
    let mut figures = (0..n).map(|_| measure()).collect::<Result<Vec<_>>>()?;
    figures.sort_unstable_by(f64::total_cmp);
    Ok(figures[n / 2])
}
