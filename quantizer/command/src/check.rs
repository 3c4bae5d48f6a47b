//! `kinglet check`.

use std::path::PathBuf;
use std::slice::Chunks;

use anyhow::{Context, Result, bail};
use kinglet::Memory;
use kinglet::{
    Golden, Isa, LogitsHash, Model, Options, Parallel, Plan, Progress, Serial, Session,
    Source as Read, Threads,
};

use crate::model::Source;

/// Multiply-accumulates of a small piece of work: a prime, so that pieces end everywhere.
const WORK: u64 = 10_007;

/// Verify all checksums, and reproduce the golden answers in every way
///
/// Each golden sequence is run with every instruction set of this machine, with one and two
/// threads, with the prompt in chunks of 1, 7 and 64, in small budgets, and with all positions at
/// once: the hash of the logits must always match the file's.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The .kinglet file, or a built-in model: storyteller (without a file), pronouncer, namer
    file: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let source = Source::open(self.file.as_deref())?;
        let model = source.model(self.file.as_deref())?;
        model.verify(|_| {}).context("the file is damaged")?;
        say!("all checksums match");
        if model.golden().next().is_none() {
            bail!("the file has no golden answer; quantize with --golden");
        }
        let pool = Threads::new(2).context("cannot start threads")?;
        for (index, golden) in model.golden().enumerate() {
            for isa in Isa::available() {
                for chunk in [1, 7, 64] {
                    check(&model, &golden, isa, Serial, chunk)?;
                    pool.enter(|| check(&model, &golden, isa, &pool, chunk))?;
                }
                say!(
                    "golden {index}: {} tokens, logits hash {:016x} ok ({})",
                    golden.answer.len(),
                    golden.hash,
                    isa.name()
                );
            }
        }
        Ok(())
    }
}

fn check<P: Parallel>(
    model: &Model<'_>,
    golden: &Golden<'_>,
    isa: Isa,
    parallel: P,
    chunk: usize,
) -> Result<()> {
    let how = format!("{}, {} thread(s), chunks of {chunk}", isa.name(), parallel.ways());
    let tokens = [golden.prompt, golden.answer].concat();
    let context = tokens.len().min(model.context()).max(1);
    let chunk = chunk.min(context);
    let logits = if tokens.is_empty() { 1 } else { chunk };
    let options = Options { context, prefill: chunk, logits, ..Options::of(model)? };
    let mut memory = Memory::new(Plan::new(model, options)?.bytes())?;
    let mut session = Session::with(model, options, memory.bytes(), isa, parallel)?;
    session.check_golden(golden).with_context(|| how.clone())?;

    let outputs = source_in_pieces(&mut session, golden)?;
    let Some((_, inputs)) = tokens.split_last() else {
        return compare(outputs, golden, &format!("{how}, in pieces: the outputs'"));
    };
    let hash = all_at_once(&mut session, golden, inputs, outputs)?;
    compare(hash, golden, &format!("{how}, all at once: the logits'"))?;
    let hash = in_pieces(&mut session, golden, inputs.chunks(chunk), outputs)?;
    compare(hash, golden, &format!("{how}, in pieces: the logits'"))
}

/// Encodes the source, if there is one, in small pieces of work, and hashes what comes out.
fn source_in_pieces<P: Parallel>(
    session: &mut Session<'_, '_, P>,
    golden: &Golden<'_>,
) -> Result<LogitsHash> {
    let mut outputs = LogitsHash::default();
    if golden.rows > 0 {
        session.begin_source(match golden.source {
            [] => Read::Pattern(golden.rows),
            tokens => Read::Tokens(tokens),
        })?;
        while session.resume(WORK)? == Progress::Pending {}
        outputs.update(session.logits());
    }
    Ok(outputs)
}

/// Feeds all positions at once, and adds the logits from the end of the prompt on to a hash.
fn all_at_once<P: Parallel>(
    session: &mut Session<'_, '_, P>,
    golden: &Golden<'_>,
    inputs: &[u32],
    mut hash: LogitsHash,
) -> Result<LogitsHash> {
    session.rewind(0)?;
    session.feed_each(inputs, |position, logits| {
        if position + 1 >= golden.prompt.len() {
            hash.update(logits);
        }
    })?;
    Ok(hash)
}

/// The same chunk by chunk, each in small pieces of work.
fn in_pieces<P: Parallel>(
    session: &mut Session<'_, '_, P>,
    golden: &Golden<'_>,
    chunks: Chunks<'_, u32>,
    mut hash: LogitsHash,
) -> Result<LogitsHash> {
    session.rewind(0)?;
    let mut position = 0;
    for chunk in chunks {
        session.begin(chunk, chunk.len())?;
        while session.resume(WORK)? == Progress::Pending {}
        let outputs = session.logits().len() / chunk.len();
        for logits in session.logits().chunks(outputs) {
            position += 1;
            if position >= golden.prompt.len() {
                hash.update(logits);
            }
        }
    }
    Ok(hash)
}

fn compare(hash: LogitsHash, golden: &Golden<'_>, what: &str) -> Result<()> {
    let (found, wanted) = (hash.value(), golden.hash);
    if found != wanted {
        bail!("{what} hash is {found:016x}, should be {wanted:016x}");
    }
    Ok(())
}
