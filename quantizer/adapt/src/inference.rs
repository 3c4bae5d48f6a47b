//! What the runtime itself makes of pairs: the encoder's states, which training begins with, and
//! the score of a file.

use kinglet::{Isa, Model, Options, Plan, Progress, RunError, Serial, Session, Source, argmax};
use rayon::prelude::*;

use super::pairs::{Given, Pairs};
use super::{AdaptError, Score};
use kinglet::Memory;
use kinglet_quantize::rounding::dequantize;
use kinglet_reference::ApplyNorm;

/// Sources of which one session takes care.
const SOURCES: usize = 8;

/// Final states of the encoder.
pub(super) struct States {
    pub(super) width: usize,
    /// The rows of each source.
    pub(super) of: Vec<Vec<f32>>,
}

/// The states after the encoder of each source, which the interface begins with; `done` is told
/// how many more there are.
pub(super) fn states(
    model: &Model<'_>,
    pairs: &Pairs,
    done: &(dyn Fn(usize) + Sync),
) -> Result<States, AdaptError> {
    let width = model.end_width(0);
    let last = model.stack(0)?.blocks.1;
    let norm = model.stack(0)?.norm.as_ref().map(dequantize::norm);
    let of_source = |session: &mut Session<'_, '_>, number: usize| {
        let mut states = vec![];
        begin(session, pairs, number)?;
        let tap = |state, rows: &[f32]| {
            if state == last {
                states = norm.as_ref().map_or_else(|| rows.to_vec(), |norm| norm.apply(rows));
            }
        };
        let progress = session.resume_tapped(u64::MAX, tap).map_err(AdaptError::Run)?;
        debug_assert_eq!(progress, Progress::Done);
        done(1);
        Ok(states)
    };
    let numbers: Vec<usize> = (0..pairs.sources.len()).collect();
    let parts = numbers.par_chunks(SOURCES).map(|numbers| {
        let options = Options { context: 1, ..Options::of(model)? };
        let mut memory = Memory::new(Plan::new(model, options)?.bytes())?;
        let mut session = session(model, options, &mut memory)?;
        numbers.iter().map(|&number| of_source(&mut session, number)).collect::<Result<Vec<_>, _>>()
    });
    let parts = parts.collect::<Result<Vec<_>, AdaptError>>()?;
    Ok(States { width, of: parts.into_iter().flatten().collect() })
}

fn session<'m, 'a>(
    model: &Model<'m>,
    options: Options,
    memory: &'a mut Memory,
) -> Result<Session<'m, 'a>, AdaptError> {
    Ok(Session::with(model, options, memory.bytes(), Isa::detect(), Serial)?)
}

fn begin(session: &mut Session<'_, '_>, pairs: &Pairs, number: usize) -> Result<(), AdaptError> {
    let source = &pairs.sources[number];
    let begun = match &source.given {
        Given::Tokens(tokens) => session.begin_source(Source::Tokens(tokens)),
        Given::Picture(path) => {
            session.begin_source(Source::Pixels(&pairs.picture(path, source.line)?))
        }
    };
    begun.map_err(AdaptError::Run)
}

/// How well a file does on some pairs, by number.
pub(super) fn score(
    model: &Model<'_>,
    pairs: &Pairs,
    numbers: &[usize],
) -> Result<Score, AdaptError> {
    let most = numbers.iter().map(|&pair| pairs.all[pair].tokens.len()).max().unwrap_or(1);
    let options = Options { context: most, prefill: most, logits: most, ..Options::of(model)? };
    let parts = numbers.par_chunks(SOURCES).map(|numbers| {
        let mut memory = Memory::new(Plan::new(model, options)?.bytes())?;
        let mut session = session(model, options, &mut memory)?;
        let mut score = Score { pairs: numbers.len(), ..Score::default() };
        for &number in numbers {
            let pair = &pairs.all[number];
            begin(&mut session, pairs, pair.source)?;
            session.resume(u64::MAX).map_err(AdaptError::Run)?;
            // The greedy answer is the pair's if every token is the most probable one after those
            // before it.
            let mut exact = true;
            session
                .feed_each(&pair.tokens, |at, logits| {
                    let label = pair.labels[at];
                    exact &= argmax(logits) == label;
                    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let sum: f64 = logits.iter().map(|&x| f64::from(x - top).exp()).sum();
                    score.cross_entropy += sum.ln() - f64::from(logits[label as usize] - top);
                })
                .map_err(AdaptError::Run)?;
            score.exact += f64::from(u8::from(exact));
            score.tokens += pair.labels.len();
        }
        Ok(score)
    });
    let parts = parts.collect::<Result<Vec<Score>, AdaptError>>()?;
    let mut all = parts.into_iter().fold(Score::default(), |a, b| Score {
        pairs: a.pairs + b.pairs,
        tokens: a.tokens + b.tokens,
        cross_entropy: a.cross_entropy + b.cross_entropy,
        exact: a.exact + b.exact,
    });
    all.cross_entropy /= all.tokens.max(1) as f64;
    all.exact /= all.pairs.max(1) as f64;
    Ok(all)
}

impl From<RunError> for AdaptError {
    fn from(error: RunError) -> Self {
        Self::Run(error)
    }
}
