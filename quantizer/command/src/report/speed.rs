//! Decode speed, briefly: enough for a figure on a page; `kinglet bench` is for comparisons.

use std::time::Instant;

use anyhow::{Context, Result};
use kinglet::Memory;
use kinglet::{Isa, Model, Options, Parallel, Plan, Session};
use kinglet_report::Speed;

use crate::model::Work;

pub(super) struct Measure<'m> {
    pub(super) model: Model<'m>,
    /// Tokens of a round.
    pub(super) tokens: usize,
    pub(super) rounds: usize,
}

impl Work for Measure<'_> {
    type Output = Option<Speed>;

    /// Nothing without a golden answer to repeat first.
    fn run<P: Parallel>(self, isa: Isa, parallel: P) -> Result<Option<Speed>> {
        let Self { model, tokens, rounds } = self;
        let Some(golden) = model.golden().next() else { return Ok(None) };
        let tokens = tokens.min(model.context());
        let context = tokens.max(golden.prompt.len() + golden.answer.len()).min(model.context());
        let options = Options {
            context,
            prefill: golden.prompt.len().clamp(1, context),
            logits: 1,
            ..Options::DECODE
        };
        let mut memory = Memory::new(Plan::new(&model, options)?.bytes())?;
        let threads = parallel.ways();
        let mut session = Session::with(&model, options, memory.bytes(), isa, parallel)?;
        session
            .check_golden(&golden)
            .context("the golden answer is wrong on this machine; nothing was measured")?;
        let mut rates = vec![];
        for _ in 0..rounds {
            session.rewind(0)?;
            let start = Instant::now();
            for i in 0..tokens {
                // Any tokens do: no step depends on which they are.
                session.feed(&[(i * 7919 % model.outputs()) as u32])?;
            }
            rates.push(tokens as f64 / start.elapsed().as_secs_f64());
        }
        rates.sort_unstable_by(f64::total_cmp);
        let tokens_per_second = rates.get(rates.len() / 2).copied();
        let isa = isa.name().to_owned();
        Ok(tokens_per_second.map(|tokens_per_second| Speed {
            tokens_per_second,
            isa,
            threads,
            tokens,
            rounds,
        }))
    }
}
