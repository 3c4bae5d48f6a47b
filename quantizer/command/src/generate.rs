//! `kinglet translate` and `kinglet caption`: a source goes in, a text comes out.

use std::io::BufRead;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kinglet::Memory;
use kinglet::tokenizer::{Detokenizer, Tokenizer};
use kinglet::{BeamSearch, Isa, MAX_TARGETS, Model, Options, Parallel, Plan, Sampler, Session};
use serde::Serialize;

use crate::inputs::{Given, Reader};
use crate::model::{BuiltIn, Source, Work, bytes, with_threads};
use crate::sampling::{Choice, RECENT};
use crate::task::Task;

/// Turn one text into another: translate, transliterate, pronounce, summarize
///
/// Prints one line per text; without texts, one per line of standard input. The built-in model
/// transcribes English words into the phonemes of the CMU Pronouncing Dictionary.
#[derive(clap::Args)]
pub(crate) struct Translate {
    /// The texts
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    #[command(flatten)]
    writing: Writing,
}

/// Describe pictures in words
///
/// Prints one line per picture; without pictures, one per path on standard input. The built-in
/// model names emoji.
#[derive(clap::Args)]
pub(crate) struct Caption {
    /// Pictures (PNG, JPEG or BMP), or recordings (WAV) for models that take sound
    #[arg(value_name = "IMAGE")]
    pictures: Vec<String>,
    #[command(flatten)]
    writing: Writing,
}

/// How the text is written.
#[derive(clap::Args)]
struct Writing {
    /// A .kinglet file; without one, the built-in model
    #[arg(short, long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Search for the most probable text with N beams, at most 16; 1 takes the most probable token
    /// each time
    #[arg(long, value_name = "N", default_value_t = 1)]
    beams: usize,
    /// Length penalty of the beam search: scores are divided by length to the power P, so values
    /// above 0 favor longer texts
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    penalty: f32,
    /// Sampling temperature; 0 disables sampling
    #[arg(short, long, default_value_t = 0.0)]
    temperature: f32,
    #[command(flatten)]
    choice: Choice,
    /// Maximum number of tokens to write
    #[arg(short = 'n', long, value_name = "N", default_value_t = 256)]
    tokens: usize,
    /// Read texts as token ids, separated by commas
    #[arg(long)]
    ids: bool,
    /// Threads; 0 chooses by the model's size
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Report times and memory use on stderr
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Serialize)]
struct Report {
    isa: &'static str,
    threads: usize,
    memory: Split,
    answers: Vec<Answer>,
}

/// Bytes of working memory.
#[derive(Serialize)]
struct Split {
    self_cache: usize,
    cross_cache: usize,
    scratch: usize,
    total: usize,
}

#[derive(Serialize)]
struct Answer {
    input: String,
    text: String,
    tokens: Vec<u32>,
    /// Of a beam search: the sum of log-probabilities, over length to the power of the penalty.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
    source_rows: usize,
    read_seconds: f64,
    write_seconds: f64,
}

impl Translate {
    pub(crate) fn run(self) -> Result<()> {
        self.writing.run(self.texts, Task::Translate, BuiltIn::Pronouncer)
    }
}

impl Caption {
    pub(crate) fn run(self) -> Result<()> {
        self.writing.run(self.pictures, Task::Caption, BuiltIn::Namer)
    }
}

impl Writing {
    fn run(self, mut inputs: Vec<String>, task: Task, built_in: BuiltIn) -> Result<()> {
        let path = self.model.as_deref();
        let source = Source::open_or(path, built_in)?;
        let model = source.model(path)?;
        task.expect(&model, &source.name(path))?;
        ensure!(self.tokens > 0, "--tokens must be at least 1");
        ensure!((1..=MAX_TARGETS).contains(&self.beams), "--beams must be from 1 to {MAX_TARGETS}");
        ensure!(
            self.beams == 1 || self.temperature <= 0.0,
            "--beams and --temperature cannot be combined: choose one"
        );
        let tokenizer = model
            .target_tokenizer()
            .context("the file has no tokenizer; quantize a directory that has one")?;
        let tokenizer = tokenizer.context("cannot read the file's tokenizer")?;
        let start = model
            .start()
            .or(tokenizer.bos())
            .context("the file does not say which token an answer begins with; quantize again")?;
        if inputs.is_empty() {
            inputs = std::io::stdin()
                .lock()
                .lines()
                .collect::<Result<_, _>>()
                .context("cannot read standard input")?;
        }
        let given = Reader::new(&model, self.ids)?.all(&inputs)?;
        let (threads, json, verbose) = (self.threads, self.json, self.verbose);
        let report = with_threads(
            &model,
            threads,
            Generate { how: self, model, tokenizer, start, inputs, given },
        )?;
        if json {
            say!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            report.answers.iter().for_each(|answer| say!("{}", answer.text));
        }
        if verbose {
            report.explain();
        }
        Ok(())
    }
}

impl Report {
    fn explain(&self) {
        for answer in &self.answers {
            let count = answer.tokens.len();
            warn!(
                "{}: {} rows read in {:.2} ms, {count} tokens written in {:.2} ms ({:.1} a second)",
                answer.input,
                answer.source_rows,
                answer.read_seconds * 1e3,
                answer.write_seconds * 1e3,
                count as f64 / answer.write_seconds
            );
        }
        let Split { self_cache, cross_cache, scratch, total } = &self.memory;
        warn!(
            "{}, {} thread(s); {} of working memory: self cache {self_cache}, cross cache \
             {cross_cache}, scratch {scratch} bytes",
            self.isa,
            self.threads,
            bytes(*total as u64)
        );
    }
}

struct Generate<'a> {
    how: Writing,
    model: Model<'a>,
    tokenizer: Tokenizer<'a>,
    start: u32,
    inputs: Vec<String>,
    given: Vec<Given>,
}

impl Work for Generate<'_> {
    type Output = Report;

    fn run<P: Parallel>(self, isa: Isa, parallel: P) -> Result<Report> {
        let Self { how, model, tokenizer, start, inputs, given } = self;
        let threads = parallel.ways();
        let stack = model.stack(0)?;
        let options = Options {
            source: given.iter().map(|given| given.rows(&stack)).max().unwrap_or(1),
            context: how.tokens.min(model.context()),
            targets: how.beams,
            ..Options::of(&model)?
        };
        let plan = Plan::new(&model, options)?;
        let mut memory = Memory::new(plan.bytes())?;
        let mut session = Session::with(&model, options, memory.bytes(), isa, parallel)?;
        let mut sampler = how.choice.sampler(how.temperature);
        let ends: Vec<u32> = tokenizer.eos().collect();
        let mut history = vec![0; BeamSearch::words(how.beams, options.context)];
        let mut answers = vec![];
        for (input, given) in inputs.into_iter().zip(&given) {
            let begun = Instant::now();
            session.encode(given.source())?;
            let read_seconds = begun.elapsed().as_secs_f64();
            let (tokens, score) = match how.beams {
                1 => (sampled(&mut session, &mut sampler, start, &ends)?, None),
                beams => searched(
                    &mut session,
                    BeamSearch::new(beams, how.penalty, &ends, &mut history),
                    start,
                )?,
            };
            let write_seconds = begun.elapsed().as_secs_f64() - read_seconds;
            let (text, source_rows) =
                (text(Detokenizer::new(&tokenizer), &tokenizer, &tokens), given.rows(&stack));
            answers.push(Answer {
                input,
                text,
                tokens,
                score,
                source_rows,
                read_seconds,
                write_seconds,
            });
        }
        let memory = Split {
            self_cache: plan.self_cache(),
            cross_cache: plan.cross_cache(),
            scratch: plan.scratch(),
            total: plan.bytes(),
        };
        Ok(Report { isa: isa.name(), threads, memory, answers })
    }
}

/// Tokens one after the other, until one of `ends` or the context is full.
pub(crate) fn sampled<P: Parallel>(
    session: &mut Session<'_, '_, P>,
    sampler: &mut Sampler,
    start: u32,
    ends: &[u32],
) -> Result<Vec<u32>> {
    let (mut tokens, mut next) = (vec![], start);
    while session.position() < session.options().context {
        let logits = session.feed(&[next])?;
        next = sampler.sample(logits, &tokens[tokens.len().saturating_sub(RECENT)..]);
        if ends.contains(&next) {
            break;
        }
        tokens.push(next);
    }
    Ok(tokens)
}

/// The best of a search, and its score.
fn searched<P: Parallel>(
    session: &mut Session<'_, '_, P>,
    mut search: BeamSearch<'_>,
    start: u32,
) -> Result<(Vec<u32>, Option<f32>)> {
    search.run(session, &[start])?;
    let mut tokens = vec![0; session.options().context];
    let found = search.target(0, &mut tokens);
    tokens.truncate(found.map_or(0, |(length, _)| length));
    Ok((tokens, found.map(|(_, score)| score)))
}

/// What tokens say, from a state that begins a text or continues one.
pub(crate) fn text(mut state: Detokenizer, tokenizer: &Tokenizer<'_>, tokens: &[u32]) -> String {
    let mut text = String::new();
    for &token in tokens {
        text.extend(state.push(tokenizer, token));
    }
    text += state.finish().unwrap_or_default();
    text
}
