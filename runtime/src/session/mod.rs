//! A session: one sequence, its cache and the forward pass, in memory that the caller lends.
//!
//! A run (some tokens through all blocks) is a list of small steps; [`Session::resume`] takes as many of them as a budget
//! allows and can be called again later, with the same bits in the end. [`Session::feed`] does it all at once.

mod arena;
mod steps;
mod tap;

use core::fmt;

use kinglet_kernels::Isa;

use self::arena::Arena;
pub use self::arena::{Aligned, ArenaError};
use self::steps::Run;
pub use self::tap::TapError;
use crate::format::{Golden, LogitsHash, Model, OpenError};
use crate::parallel::{Parallel, Serial};
use crate::plan::{Options, Plan, PlanError};
use crate::sampler::argmax;

/// Why there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionError {
    /// There is no plan for these options.
    Plan(PlanError),
    /// The memory does not do.
    Arena(ArenaError),
}

/// Why tokens were not run. The session stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunError {
    /// No tokens.
    Empty,
    /// More tokens at once than the plan's `prefill`, or more logits than its `logits`.
    TooMany {
        /// Asked for.
        asked: usize,
        /// Planned.
        most: usize,
    },
    /// The tokens do not fit the context that the plan left room for.
    ContextFull {
        /// Positions needed.
        needed: usize,
        /// Positions planned.
        context: usize,
    },
    /// A token that the vocabulary does not have.
    Token {
        /// Its place among the tokens given.
        index: usize,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A position to rewind to that was not reached.
    Position {
        /// Asked for.
        asked: usize,
        /// Reached.
        reached: usize,
    },
    /// A run was begun and is not finished: resume it, or rewind.
    Unfinished,
    /// Nothing was begun.
    Idle,
    /// The model changed since it was opened.
    Model(OpenError),
}

/// How far a run got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The budget is used up; resume when convenient.
    Pending,
    /// The tokens are in the cache, and the logits asked for can be read.
    Done,
}

/// How a golden sequence was not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GoldenError {
    /// It could not be run.
    Run(RunError),
    /// Another token was the most probable.
    Token {
        /// Its place in the answer.
        index: usize,
        /// The maker's token.
        want: u32,
        /// The one found.
        got: u32,
    },
    /// The tokens are right, the bits of their logits are not.
    Hash {
        /// The maker's hash.
        want: u64,
        /// The one found.
        got: u64,
    },
}

/// One sequence of one model.
#[derive(Debug)]
pub struct Session<'m, 'a, P = Serial> {
    model: Model<'m>,
    isa: Isa,
    parallel: P,
    options: Options,
    arena: Arena<'a>,
    position: usize,
    run: Option<Run>,
    /// Rows of logits that the last run left.
    rows: usize,
}

impl<'m, 'a> Session<'m, 'a> {
    /// A session on the caller's thread, with the fastest instructions of this machine. `arena` must start at a
    /// multiple of 64 and have at least [`Plan::bytes`] bytes; only those are used. Its contents do not matter.
    pub fn new(model: &Model<'m>, options: Options, arena: &'a mut [u8]) -> Result<Self, SessionError> {
        Self::with(model, options, arena, Isa::detect(), Serial)
    }
}

impl<'m, 'a, P: Parallel> Session<'m, 'a, P> {
    /// A session with a chosen instruction set and division of work. Neither changes a bit.
    pub fn with(
        model: &Model<'m>,
        options: Options,
        arena: &'a mut [u8],
        isa: Isa,
        parallel: P,
    ) -> Result<Self, SessionError> {
        let plan = Plan::new(model, options).map_err(SessionError::Plan)?;
        let arena = Arena::new(&plan, arena).map_err(SessionError::Arena)?;
        Ok(Self { model: *model, isa, parallel, options, arena, position: 0, run: None, rows: 0 })
    }

    /// Tokens in the cache.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The options of its plan.
    pub fn options(&self) -> Options {
        self.options
    }

    /// The instruction set it uses.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Forgets all tokens from `position` on, and any unfinished run. The tokens before it stay, at no cost.
    pub fn rewind(&mut self, position: usize) -> Result<(), RunError> {
        if position > self.position {
            return Err(RunError::Position { asked: position, reached: self.position });
        }
        self.position = position;
        self.run = None;
        self.rows = 0;
        Ok(())
    }

    /// Begins a run of at most `prefill` tokens; the logits of the last `logits` of them are wanted. Nothing is computed but
    /// the look-up of the embeddings.
    pub fn begin(&mut self, tokens: &[u32], logits: usize) -> Result<(), RunError> {
        if self.run.is_some() {
            return Err(RunError::Unfinished);
        }
        if tokens.len() > self.options.prefill {
            return Err(RunError::TooMany { asked: tokens.len(), most: self.options.prefill });
        }
        if logits > self.options.logits.min(tokens.len()) {
            return Err(RunError::TooMany { asked: logits, most: self.options.logits.min(tokens.len()) });
        }
        self.check(tokens)?;
        let embedding = self.model.embedding().map_err(RunError::Model)?;
        let rows = self.arena.residual.chunks_exact_mut(self.model.width());
        for (&token, row) in tokens.iter().zip(rows) {
            embedding.dequantize_row(token as usize, row);
        }
        self.rows = 0;
        self.run = Some(Run::new(self.position, tokens.len(), logits));
        Ok(())
    }

    fn check(&self, tokens: &[u32]) -> Result<(), RunError> {
        if tokens.is_empty() {
            return Err(RunError::Empty);
        }
        let needed = self.position.saturating_add(tokens.len());
        if needed > self.options.context {
            return Err(RunError::ContextFull { needed, context: self.options.context });
        }
        let vocab = self.model.vocab();
        match tokens.iter().position(|&t| t as usize >= vocab) {
            Some(index) => Err(RunError::Token { index, token: tokens[index], vocab }),
            None => Ok(()),
        }
    }

    /// Goes on with the run until about `budget` multiply-accumulates are done, at least one step. The longest single
    /// step is 16 rows of the widest matrix times the tokens of the run.
    pub fn resume(&mut self, budget: u64) -> Result<Progress, RunError> {
        self.resume_tapped(budget, |_, _| ())
    }

    /// The logits of the last run: one row of the vocabulary for each position asked for, empty before the first run.
    pub fn logits(&mut self) -> &mut [f32] {
        &mut self.arena.logits[..self.rows * self.model.vocab()]
    }

    /// Runs all of `tokens`, in chunks of `prefill`, and returns the logits that follow the last. When the tokens cannot
    /// be run, none is.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&mut [f32], RunError> {
        if self.run.is_some() {
            return Err(RunError::Unfinished);
        }
        self.check(tokens)?;
        let mut rest = tokens;
        while !rest.is_empty() {
            let (chunk, tail) = rest.split_at(rest.len().min(self.options.prefill));
            self.begin(chunk, usize::from(tail.is_empty()))?;
            self.resume(u64::MAX)?;
            rest = tail;
        }
        Ok(self.logits())
    }

    /// Runs all of `tokens`, in chunks of `logits`, and calls `sink` with the number of each token and the logits that
    /// follow it.
    pub fn feed_each(&mut self, tokens: &[u32], mut sink: impl FnMut(usize, &mut [f32])) -> Result<(), RunError> {
        if self.run.is_some() {
            return Err(RunError::Unfinished);
        }
        self.check(tokens)?;
        let vocab = self.model.vocab();
        let mut index = 0;
        for chunk in tokens.chunks(self.options.logits) {
            self.begin(chunk, chunk.len())?;
            self.resume(u64::MAX)?;
            for row in self.logits().chunks_exact_mut(vocab) {
                sink(index, row);
                index += 1;
            }
        }
        Ok(())
    }

    /// Rewinds to the start and repeats a golden sequence: tokens and bits must be those of the file's maker.
    pub fn check_golden(&mut self, golden: &Golden<'_>) -> Result<(), GoldenError> {
        self.rewind(0).map_err(GoldenError::Run)?;
        let mut hash = LogitsHash::default();
        let mut logits = self.feed(golden.prompt).map_err(GoldenError::Run)?;
        for (index, &want) in golden.answer.iter().enumerate() {
            hash.update(logits);
            let got = argmax(logits);
            if got != want {
                return Err(GoldenError::Token { index, want, got });
            }
            if index + 1 < golden.answer.len() {
                logits = self.feed(&[want]).map_err(GoldenError::Run)?;
            }
        }
        let (want, got) = (golden.hash, hash.value());
        if got == want { Ok(()) } else { Err(GoldenError::Hash { want, got }) }
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(error) => error.fmt(f),
            Self::Arena(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SessionError {}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no tokens to run"),
            Self::TooMany { asked, most } => write!(f, "{asked} at once is more than the {most} planned for"),
            Self::ContextFull { needed, context } => {
                write!(
                    f,
                    "{needed} positions are needed, the context has {context}: shorten the prompt or plan a larger context"
                )
            }
            Self::Token { index, token, vocab } => {
                write!(f, "token {token} (number {index}) is not in the vocabulary of {vocab}")
            }
            Self::Position { asked, reached } => write!(f, "cannot rewind to {asked}: {reached} tokens were run"),
            Self::Unfinished => f.write_str("a run is unfinished: resume it, or rewind"),
            Self::Idle => f.write_str("no run was begun"),
            Self::Model(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for RunError {}

impl fmt::Display for GoldenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(error) => error.fmt(f),
            Self::Token { index, want, got } => write!(f, "token {index} of the answer is {got}, should be {want}"),
            Self::Hash { want, got } => write!(f, "the logits' hash is {got:016x}, should be {want:016x}"),
        }
    }
}

impl core::error::Error for GoldenError {}
