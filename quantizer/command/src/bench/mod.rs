//! `kinglet bench`: whole models, the machine's read bandwidth, and another program beside them,
//! all in turns.

mod limits;
mod peer;
mod task;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kinglet::Memory;
use kinglet::{Isa, Model, Options, Parallel, Plan, Session, Source as Read};
use kinglet_model::Input;
use serde::Serialize;

use self::limits::Bandwidth;
use self::peer::Peer;
use self::task::Task;
use crate::model::{Source, Work, bytes, bytes_per_token, with_threads};

/// Check the file's own golden answer, then measure speed
///
/// Nothing is timed until the answer is bit-exact. Every round measures each workload once, the
/// machine's read bandwidth with the same number of threads, and the program given with --compare.
/// Figures are medians over the rounds; ratios are medians of the ratios within a round. On a
/// shared machine, compare only figures from the same run.
///
/// For a model with an encoder, encoding a source of --prompt tokens (a whole picture, all frames)
/// is a workload of its own, and the decoder is measured on top of it.
///
/// --compare takes a shell command that starts the other program. The program prints one line with
/// its name, then reads lines "source N", "prefill N" and "decode DEPTH N" from standard input and
/// answers each with the seconds that it took. `bench/llama.py` does this for llama.cpp,
/// `bench/onnx.py` for an encoder in onnxruntime; `bench/compare` runs a whole table.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The .kinglet file, or a built-in model: storyteller (without a file), pronouncer, namer
    file: Option<PathBuf>,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 128)]
    prompt: usize,
    /// Tokens to decode
    #[arg(long, value_name = "N", default_value_t = 64)]
    decode: usize,
    /// Tokens in the context before the first decoded one; several numbers measure decoding at each
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "0")]
    depth: Vec<usize>,
    /// Tokens of the prompt that are processed together
    #[arg(long, value_name = "N", default_value_t = 512)]
    prefill: usize,
    /// Number of rounds
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeat: usize,
    /// Threads; 0 chooses by the model's size
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// A command that starts a program to compare with
    #[arg(long, value_name = "COMMAND")]
    compare: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    isa: &'static str,
    threads: usize,
    /// Tokens of the golden answer that were repeated before.
    golden: usize,
    /// From a path to a model whose structure is checked.
    open_seconds: f64,
    /// From a model to the logits of a prompt of one token, page faults included.
    first_token_seconds: f64,
    peer: Option<String>,
    works: Vec<Figures>,
    bytes_read_per_token: u64,
    read_bytes_per_second: f64,
    working_memory: usize,
}

/// Medians over the rounds.
#[derive(Serialize)]
struct Figures {
    #[serde(flatten)]
    task: Task,
    tokens_per_second: f64,
    slowest: f64,
    fastest: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_tokens_per_second: Option<f64>,
    /// How many times as fast as the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    /// In decode, weights read in a second as a part of what the machine can read.
    #[serde(skip_serializing_if = "Option::is_none")]
    of_read_bandwidth: Option<f64>,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        if [self.prompt, self.decode, self.repeat, self.prefill].contains(&0) {
            bail!("--prompt, --decode, --prefill and --repeat must be at least 1");
        }
        let start = Instant::now();
        let source = Source::open(self.file.as_deref())?;
        let model = source.model(self.file.as_deref())?;
        let open_seconds = start.elapsed().as_secs_f64();
        let report =
            with_threads(&model, self.threads, Measure { args: &self, model, open_seconds })?;
        if self.json {
            say!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            report.print();
        }
        Ok(())
    }

    /// Positions that the decoder's works need; 1 without a decoder.
    fn longest(&self, model: &Model<'_>, alone: bool) -> Result<usize> {
        if !model.is_decoder() {
            return Ok(1);
        }
        let deepest = self.depth.iter().max().copied().unwrap_or(0);
        let decoded = deepest.saturating_add(self.decode);
        let longest = if alone { self.prompt.max(decoded) } else { decoded };
        if longest > model.context() {
            bail!(
                "{longest} positions exceed the model's context of {}; choose a smaller --prompt, \
                 --depth or --decode",
                model.context()
            );
        }
        Ok(longest)
    }

    fn tasks(&self, source: usize, decoder: bool) -> Vec<Task> {
        let mut tasks = vec![];
        if source > 0 {
            tasks.push(Task::Source { rows: source });
        } else {
            tasks.push(Task::Prefill { tokens: self.prompt });
        }
        if decoder {
            tasks.extend(
                self.depth.iter().map(|&depth| Task::Decode { depth, tokens: self.decode }),
            );
        }
        tasks
    }
}

impl Report {
    fn print(&self) {
        say!("golden answer right: {} tokens, bit for bit", self.golden);
        say!("{}, {} thread(s)", self.isa, self.threads);
        say!(
            "open {:.2} ms, first token {:.2} ms",
            self.open_seconds * 1e3,
            self.first_token_seconds * 1e3
        );
        for figures in &self.works {
            let name = match figures.task {
                Task::Source { rows } => format!("source of {rows}"),
                Task::Prefill { tokens } => format!("prefill of {tokens}"),
                Task::Decode { depth, .. } => format!("decode at {depth}"),
            };
            put!(
                "{name:16} {:10.1} tokens/s ({:.1} to {:.1})",
                figures.tokens_per_second,
                figures.slowest,
                figures.fastest
            );
            if let Task::Source { rows } = figures.task {
                put!(", {:.2} ms", rows as f64 / figures.tokens_per_second * 1e3);
            }
            if let Some(part) = figures.of_read_bandwidth {
                put!(", {:.0}% of the read bandwidth", part * 100.0);
            }
            if let (Some(peer), Some(ratio)) = (figures.peer_tokens_per_second, figures.ratio) {
                put!("; peer {peer:.1}, ratio {ratio:.2}");
            }
            say!();
        }
        if let Some(peer) = &self.peer {
            say!("peer             {peer}");
        }
        say!("weights read     {} a token", bytes(self.bytes_read_per_token));
        say!("read bandwidth   {} a second", bytes(self.read_bytes_per_second as u64));
        say!("working memory   {} bytes", self.working_memory);
    }
}

struct Measure<'a> {
    args: &'a Args,
    model: Model<'a>,
    open_seconds: f64,
}

impl Work for Measure<'_> {
    type Output = Report;

    fn run<P: Parallel>(self, isa: Isa, parallel: P) -> Result<Report> {
        let Self { args, model, open_seconds } = self;
        let of = Options::of(&model)?;
        let longest = args.longest(&model, of.source == 0)?;
        let golden = model.golden().next().context(
            "the file has no golden answer, without which no figure could be trusted; \
             quantize with --golden",
        )?;
        let context =
            longest.max(golden.prompt.len() + golden.answer.len()).min(model.context()).max(1);
        let options = Options { context, prefill: args.prefill.min(context), ..of };
        let mut memory = Memory::new(Plan::new(&model, options)?.bytes())?;
        let working_memory = memory.bytes().len();
        let prompt = tokens(longest.max(args.prompt), model.outputs());
        let known = known_tokens(&model)? as u32;
        let asked: Vec<u32> =
            prompt[..args.prompt.min(of.source)].iter().map(|token| token % known).collect();
        let source = source(&model, of.source, &asked)?;

        let start = Instant::now();
        let mut session = Session::with(&model, options, memory.bytes(), isa, &parallel)?;
        if let Some(source) = source {
            session.encode(source)?;
        }
        if model.is_decoder() {
            session.feed(&[0])?;
        }
        let first_token_seconds = start.elapsed().as_secs_f64();
        session
            .check_golden(&golden)
            .context("the golden answer is wrong on this machine; nothing was measured")?;

        if let Some(source) = source {
            session.encode(source)?;
        }
        let peer = args.compare.as_deref().map(Peer::start).transpose()?;
        let tasks = args.tasks(source.map_or(0, rows), model.is_decoder());
        let source = source.unwrap_or(Read::Tokens(&[]));
        let mut course = Course { tasks, source, prompt: &prompt, peer };
        let rounds = course.rounds(&mut session, &parallel, args.repeat)?;
        let weights = bytes_per_token(&model)?;
        let works = course.tasks.iter().enumerate().map(|(i, &task)| {
            let turns: Vec<&Turn> = rounds.iter().map(|turns| &turns[i]).collect();
            Figures::new(task, weights, &turns)
        });
        Ok(Report {
            isa: isa.name(),
            threads: parallel.ways(),
            golden: golden.answer.len(),
            open_seconds,
            first_token_seconds,
            works: works.collect(),
            peer: course.peer.map(|peer| peer.name().to_owned()),
            bytes_read_per_token: weights,
            read_bytes_per_second: median(rounds.iter().flatten().map(|turn| turn.read).collect()),
            working_memory,
        })
    }
}

/// Tokens of a vocabulary. Any do: no step depends on which they are.
fn tokens(count: usize, vocab: usize) -> Vec<u32> {
    (0..count).map(|i| (i * 7919 % vocab) as u32).collect()
}

/// Tokens that the first stack knows: an encoder's outputs may be more.
fn known_tokens(model: &Model<'_>) -> Result<usize> {
    Ok(match &model.stack(0)?.input {
        Input::Tokens { embedding, .. } => embedding.matrix.rows(),
        _ => 1,
    })
}

/// What a model that reads a source of at most `most` positions is given, tokens or features.
fn source<'t>(model: &Model<'_>, most: usize, asked: &'t [u32]) -> Result<Option<Read<'t>>> {
    if model.is_decoder() && most == 0 {
        return Ok(None);
    }
    match &model.stack(0)?.input {
        Input::Tokens { .. } => Ok(Some(Read::Tokens(asked))),
        Input::Features { class, .. } => {
            Ok(Some(Read::Pattern(most - usize::from(class.is_some()))))
        }
        _ => bail!("the model begins with neither tokens nor features"),
    }
}

/// Rows of such a source.
fn rows(source: Read<'_>) -> usize {
    match source {
        Read::Tokens(tokens) => tokens.len(),
        Read::Pattern(rows) => rows,
        _ => 0,
    }
}

/// What is measured in turns, and on what.
struct Course<'a> {
    tasks: Vec<Task>,
    source: Read<'a>,
    prompt: &'a [u32],
    peer: Option<Peer>,
}

impl Course<'_> {
    /// Measures every task `count` times, after a round that warms up.
    fn rounds<P: Parallel>(
        &mut self,
        session: &mut Session<'_, '_, &P>,
        parallel: &P,
        count: usize,
    ) -> Result<Vec<Vec<Turn>>> {
        let bandwidth = Bandwidth::new();
        let mut rounds = vec![];
        for _ in 0..=count {
            let turns = self.tasks.iter().map(|&task| {
                let read = bandwidth.measure(parallel);
                let own = once(session, task, self.source, self.prompt)?;
                let peer = self.peer.as_mut().map(|peer| peer.measure(task)).transpose()?;
                Ok(Turn { own, peer, read })
            });
            rounds.push(turns.collect::<Result<Vec<_>>>()?);
        }
        rounds.remove(0);
        Ok(rounds)
    }
}

/// One work in one round, in tokens a second, and the bandwidth just before.
struct Turn {
    own: f64,
    peer: Option<f64>,
    read: f64,
}

impl Figures {
    fn new(task: Task, weights: u64, turns: &[&Turn]) -> Self {
        let own: Vec<f64> = turns.iter().map(|turn| turn.own).collect();
        let peers: Option<Vec<f64>> = turns.iter().map(|turn| turn.peer).collect();
        let ratios: Option<Vec<f64>> =
            turns.iter().map(|turn| Some(turn.own / turn.peer?)).collect();
        let parts = turns.iter().map(|turn| turn.own * weights as f64 / turn.read).collect();
        Self {
            task,
            slowest: own.iter().copied().fold(f64::INFINITY, f64::min),
            fastest: own.iter().copied().fold(0.0, f64::max),
            tokens_per_second: median(own),
            peer_tokens_per_second: peers.map(median),
            ratio: ratios.map(median),
            of_read_bandwidth: matches!(task, Task::Decode { .. }).then(|| median(parts)),
        }
    }
}

/// Tokens a second of one run of `task`.
fn once<P: Parallel>(
    session: &mut Session<'_, '_, P>,
    task: Task,
    source: Read<'_>,
    tokens: &[u32],
) -> Result<f64> {
    session.rewind(0)?;
    let (count, start) = match task {
        Task::Source { rows } => {
            let start = Instant::now();
            session.encode(source)?;
            (rows, start)
        }
        Task::Prefill { tokens: count } => {
            let start = Instant::now();
            session.feed(&tokens[..count])?;
            (count, start)
        }
        Task::Decode { depth, tokens: count } => {
            if depth > 0 {
                session.feed(&tokens[..depth])?;
            }
            let start = Instant::now();
            for token in tokens[depth..depth + count].chunks(1) {
                session.feed(token)?;
            }
            (count, start)
        }
    };
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
