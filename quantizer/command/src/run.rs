//! `kinglet run`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kinglet::Memory;
use kinglet::tokenizer::{Detokenizer, Tokenizer};
use kinglet::{Isa, Model, Options, Parallel, Plan, Session};
use kinglet_import::encode;
use serde::Serialize;

use crate::generate::text;
use crate::inputs::token_ids;
use crate::model::{Source, Work, bytes, with_threads};
use crate::sampling::{Choice, RECENT};
use crate::task::Task;

/// Continue a text
///
/// Without a file, the built-in storyteller is used, which was trained on simple stories.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A .kinglet file, the text to continue, or both in this order
    #[arg(value_name = "FILE | PROMPT", num_args = 0..=2)]
    input: Vec<String>,
    /// Maximum number of tokens to add; by default, stop when the model ends the text or the
    /// context is full
    #[arg(short = 'n', long, value_name = "N")]
    tokens: Option<usize>,
    /// Sampling temperature; 0 takes the most probable token each time
    #[arg(short, long, default_value_t = 0.7)]
    temperature: f32,
    #[command(flatten)]
    choice: Choice,
    /// Read the prompt as token ids, separated by commas
    #[arg(long)]
    ids: bool,
    /// Positions of prompt and answer together; by default the model's context, at most 4096
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Tokens of the prompt that are processed together
    #[arg(long, value_name = "N", default_value_t = 64)]
    prefill: usize,
    /// Threads; 0 chooses by the model's size
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Print JSON at the end: the token ids of the prompt and of the answer, its text, and whether
    /// the model ended it
    #[arg(long)]
    json: bool,
    /// Report speed and memory use on stderr
    #[arg(short, long)]
    verbose: bool,
}

/// What was written.
#[derive(Serialize)]
struct Answer<'a> {
    prompt: &'a [u32],
    tokens: &'a [u32],
    text: String,
    /// By a token that ends texts, which is not among the others.
    ended: bool,
}

impl Args {
    /// The file and the prompt.
    fn input(&self) -> (Option<PathBuf>, &str) {
        const OPENING: &str = "Once upon a time";
        match self.input.as_slice() {
            [one] if one.ends_with(".kinglet") || Path::new(one).exists() => {
                (Some(one.into()), OPENING)
            }
            [one] => (None, one),
            [file, prompt, ..] => (Some(file.into()), prompt),
            [] => (None, OPENING),
        }
    }

    pub(crate) fn run(self) -> Result<()> {
        let (path, prompt) = self.input();
        let source = Source::open(path.as_deref())?;
        let model = source.model(path.as_deref())?;
        Task::Run.expect(&model, &source.name(path.as_deref()))?;
        let tokenizer = model
            .tokenizer()
            .context("the file has no tokenizer; quantize a directory that has tokenizer.json")?;
        let tokenizer = tokenizer.context("cannot read the file's tokenizer")?;
        let tokens = match self.ids {
            true => token_ids(prompt)?,
            false => encode(&tokenizer, prompt, true).context("cannot encode the prompt")?,
        };
        if tokens.is_empty() {
            bail!(
                "the prompt is empty and the model has no begin-of-sequence token; pass at least \
                 one word"
            );
        }
        let context = self.context.unwrap_or(model.context().min(4096));
        if tokens.len() >= context {
            bail!(
                "the prompt has {} tokens, but the context is {context}: shorten the prompt or \
                 raise --context (the model's limit is {})",
                tokens.len(),
                model.context()
            );
        }
        with_threads(
            &model,
            self.threads,
            Generate { args: &self, model, tokenizer, prompt: tokens, context },
        )
    }
}

struct Generate<'a> {
    args: &'a Args,
    model: Model<'a>,
    tokenizer: Tokenizer<'a>,
    prompt: Vec<u32>,
    context: usize,
}

impl Work for Generate<'_> {
    type Output = ();

    fn run<P: Parallel>(self, isa: Isa, parallel: P) -> Result<()> {
        let Self { args, model, tokenizer, prompt, context } = self;
        let options = Options {
            context,
            prefill: args.prefill.clamp(1, prompt.len()),
            logits: 1,
            ..Options::DECODE
        };
        let mut memory = Memory::new(Plan::new(&model, options)?.bytes())?;
        let planned = memory.bytes().len();
        let mut session = Session::with(&model, options, memory.bytes(), isa, parallel)?;
        let mut sampler = args.choice.sampler(args.temperature);

        let state = Detokenizer::new(&tokenizer);
        let mut printer = Printer { tokenizer: &tokenizer, state, silent: args.json };
        printer.push(&prompt);
        let start = Instant::now();
        let mut tokens = prompt.clone();
        let mut next = prompt;
        let prompt = tokens.len();
        let (mut first, mut ended) = (None, false);
        let limit = args.tokens.unwrap_or(usize::MAX).min(context - prompt);
        while tokens.len() < prompt + limit {
            let logits = session.feed(&next)?;
            let token = sampler.sample(logits, &tokens[tokens.len().saturating_sub(RECENT)..]);
            first.get_or_insert_with(|| start.elapsed());
            ended = tokenizer.is_eos(token);
            if ended {
                break;
            }
            printer.push(&[token]);
            tokens.push(token);
            next = vec![token];
        }
        printer.finish();
        if args.json {
            let (prompt, tokens) = tokens.split_at(prompt);
            let text = text(Detokenizer::continuing(), &tokenizer, tokens);
            let answer = Answer { prompt, tokens, text, ended };
            say!("{}", serde_json::to_string_pretty(&answer)?);
        }
        if args.verbose {
            let (first, all) =
                (first.unwrap_or_default().as_secs_f64(), start.elapsed().as_secs_f64());
            let answer = tokens.len() - prompt;
            let rate = answer.saturating_sub(1) as f64 / (all - first);
            let isa = isa.name();
            warn!(
                "{prompt} tokens read, first token after {:.1} ms; {answer} written, {rate:.1} \
                 tokens/s; {isa}, {} of working memory",
                first * 1e3,
                bytes(planned as u64)
            );
        }
        Ok(())
    }
}

/// Prints tokens as text as they come, or nothing.
struct Printer<'t, 'a> {
    tokenizer: &'t Tokenizer<'a>,
    state: Detokenizer,
    silent: bool,
}

impl Printer<'_, '_> {
    fn push(&mut self, tokens: &[u32]) {
        if self.silent {
            return;
        }
        for &token in tokens {
            self.state.push(self.tokenizer, token).for_each(|piece| put!("{piece}"));
        }
    }

    /// Ends the line, with the bytes of a character that never became whole.
    fn finish(mut self) {
        if !self.silent {
            say!("{}", self.state.finish().unwrap_or_default());
        }
    }
}
