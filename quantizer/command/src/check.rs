//! `kinglet check`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use kinglet::Memory;
use kinglet::{
    Golden, Isa, LogitsHash, Model, Options, Parallel, Plan, Serial, Session, Source as Read,
    Threads,
};

use crate::model::Source;

/// Compare all checksums, and repeat the golden answers in every way
///
/// Each golden sequence is run with every instruction set of this machine, with one and two
/// threads, with the prompt in chunks of 1, 7 and 64, in small budgets, and all positions at once:
/// the hash of the logits must be the file's, always.
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
        println!("all checksums match");
        if model.golden().next().is_none() {
            bail!("the file carries no golden answer; quantize with --golden");
        }
        let pool = Threads::new(2).context("cannot start threads")?;
        for (index, golden) in model.golden().enumerate() {
            for isa in Isa::available() {
                for chunk in [1, 7, 64] {
                    check(&model, &golden, isa, Serial, chunk)?;
                    pool.enter(|| check(&model, &golden, isa, &pool, chunk))?;
                }
                println!(
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
    let mut memory = Memory::new(Plan::new(model, options)?.bytes());
    let mut session = Session::with(model, options, memory.bytes(), isa, parallel)?;
    session.check_golden(golden).with_context(|| how.clone())?;

    // The source in small pieces of work.
    let mut outputs = LogitsHash::default();
    if golden.rows > 0 {
        session.begin_source(match golden.source {
            [] => Read::Pattern(golden.rows),
            tokens => Read::Tokens(tokens),
        })?;
        while session.resume(10_007)? == kinglet::Progress::Pending {}
        outputs.update(session.logits());
    }
    let Some((_, inputs)) = tokens.split_last() else {
        if outputs.value() != golden.hash {
            bail!(
                "{how}, in pieces: the outputs' hash is {:016x}, should be {:016x}",
                outputs.value(),
                golden.hash
            );
        }
        return Ok(());
    };
    // All positions at once, then again in small pieces of work.
    session.rewind(0)?;
    let mut hash = outputs;
    session.feed_each(inputs, |i, logits| {
        if i + 1 >= golden.prompt.len() {
            hash.update(logits);
        }
    })?;
    let mut pieces = outputs;
    session.rewind(0)?;
    for (first, part) in inputs.chunks(chunk).enumerate() {
        session.begin(part, part.len())?;
        while session.resume(10_007)? == kinglet::Progress::Pending {}
        for (i, logits) in session.logits().chunks(model.outputs()).enumerate() {
            if first * chunk + i + 1 >= golden.prompt.len() {
                pieces.update(logits);
            }
        }
    }
    for (what, hash) in [("all at once", hash), ("in pieces", pieces)] {
        if hash.value() != golden.hash {
            bail!(
                "{how}, {what}: the logits' hash is {:016x}, should be {:016x}",
                hash.value(),
                golden.hash
            );
        }
    }
    Ok(())
}
