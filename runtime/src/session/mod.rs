//! A session: a source or a sequence of tokens or both, caches and the forward pass, in memory that
//! the caller lends.
//!
//! A model reads a *source* ([`Session::encode`]), tokens of a *target* ([`Session::feed`]), or
//! first one and then the other: then each target looks at the keys and values that the source left
//! after, and a new target over the same source computes nothing of it again.
//!
//! A run (some tokens through all blocks) is a list of small steps; [`Session::resume`] takes as
//! many of them as a budget allows and can be called again later, with the same bits in the end.
//! [`Session::feed`] does it all at once.

mod arena;
mod error;
mod families;
mod forward;
mod golden;
mod rounding;
mod source;
mod tap;

use kinglet_kernels::Isa;

use self::arena::Arena;
pub use self::arena::{Aligned, ArenaError};
pub use self::error::{RunError, SessionError};
use self::forward::{Present, Run, Setting};
pub use self::golden::GoldenError;
pub use self::source::Source;
pub use self::tap::TapError;
use crate::options::{MAX_TARGETS, Options};
use crate::parallel::{Parallel, Serial};
use crate::plan::Plan;
use kinglet_model::{InPlace, Model, Pooling, Stack};

/// How far a run got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Progress {
    /// The budget is used up; resume when convenient.
    Pending,
    /// The tokens are in the cache, and the logits asked for can be read.
    Done,
}

/// One sequence of one model.
///
/// ```
/// use kinglet::{Aligned, Model, Options, Progress, Session, argmax};
///
/// let model = Model::open(&kinglet_fixtures::STORYTELLER.0)?;
/// let options = Options { context: 32, prefill: 4, ..Options::DECODE };
/// // A static of a firmware; `Plan::bytes` says how much of it is used.
/// let mut arena = Aligned([0; 1 << 16]);
/// let mut session = Session::new(&model, options, &mut arena.0)?;
///
/// let prompt = [1, 403, 407];
/// let next = argmax(session.feed(&prompt)?);
///
/// // The same in pieces, between which a program does something else.
/// session.rewind(0)?;
/// session.begin(&prompt, 1)?;
/// let mut pieces = 1;
/// while session.resume(50_000)? == Progress::Pending {
///     pieces += 1;
/// }
/// assert!(pieces > 1);
/// assert_eq!(argmax(session.logits()), next);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Session<'m, 'a, P = Serial> {
    model: Model<'m>,
    parallel: P,
    setting: Setting,
    arena: Arena<'a>,
    position: usize,
    /// Rows and width of the source's states whose keys and values are there; 0 for none.
    states: (usize, usize),
    run: Option<Run>,
    present: Present<'m>,
    /// Rows of logits that the last run left.
    rows: usize,
}

impl<'m, 'a> Session<'m, 'a> {
    /// A session on the caller's thread, with the fastest instructions of this machine. `arena`
    /// must start at a multiple of 64 and have at least [`Plan::bytes`] bytes; only those are used.
    /// Its contents do not matter.
    ///
    /// # Errors
    /// As [`Session::with`].
    pub fn new(
        model: &Model<'m>,
        options: Options,
        arena: &'a mut [u8],
    ) -> Result<Self, SessionError> {
        Self::with(model, options, arena, Isa::detect(), Serial)
    }
}

impl<'m, 'a, P: Parallel> Session<'m, 'a, P> {
    /// A session with a chosen instruction set and division of work. Neither changes a bit.
    ///
    /// # Errors
    /// [`SessionError`]: there is no [`Plan`] for the options, or `arena` is too small or not
    /// aligned.
    pub fn with(
        model: &Model<'m>,
        options: Options,
        arena: &'a mut [u8],
        isa: Isa,
        parallel: P,
    ) -> Result<Self, SessionError> {
        let plan = Plan::new(model, options).map_err(SessionError::Plan)?;
        let arena = Arena::new(&plan, arena).map_err(SessionError::Arena)?;
        let setting = Setting::new(model, &plan, isa);
        Ok(Self {
            model: *model,
            parallel,
            setting,
            arena,
            position: 0,
            states: (0, 0),
            run: None,
            present: Present::default(),
            rows: 0,
        })
    }

    /// Tokens of each target in the cache.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The options of its plan.
    pub fn options(&self) -> Options {
        self.setting.options
    }

    /// Rows of the source that targets look at; 0 when there is none.
    pub fn source(&self) -> usize {
        self.states.0
    }

    /// The instruction set it uses.
    pub fn isa(&self) -> Isa {
        self.setting.isa
    }

    /// Forgets all tokens from `position` on, and any unfinished run. The tokens before it stay, at
    /// no cost, and so does the source.
    ///
    /// # Errors
    /// [`RunError::Position`], when there are fewer tokens.
    pub fn rewind(&mut self, position: usize) -> Result<(), RunError> {
        if position > self.position {
            return Err(RunError::Position { asked: position, reached: self.position });
        }
        self.position = position;
        self.run = None;
        self.rows = 0;
        Ok(())
    }

    /// Begins a run of at most `prefill` tokens of the first target; the logits of the last
    /// `logits` of them are wanted. Nothing is computed but the look-up of the embeddings.
    ///
    /// # Errors
    /// [`RunError`]: there are no tokens or more than planned, one is not in the vocabulary, they
    /// do not fit the context, there is no source yet, or another run is unfinished.
    pub fn begin(&mut self, tokens: &[u32], logits: usize) -> Result<(), RunError> {
        if tokens.len() > self.options().prefill {
            return Err(RunError::TooMany { asked: tokens.len(), most: self.options().prefill });
        }
        let most = self.options().logits.min(tokens.len());
        if logits > most {
            return Err(RunError::TooMany { asked: logits, most });
        }
        self.begin_run(tokens, logits, false)
    }

    /// Begins a run of one token for each of several targets, at most as many as planned; the
    /// logits of all are wanted.
    ///
    /// # Errors
    /// As [`Session::begin`].
    pub fn begin_each(&mut self, tokens: &[u32]) -> Result<(), RunError> {
        if tokens.len() > self.options().targets {
            return Err(RunError::TooMany { asked: tokens.len(), most: self.options().targets });
        }
        self.begin_run(tokens, tokens.len(), true)
    }

    fn begin_run(&mut self, tokens: &[u32], logits: usize, batched: bool) -> Result<(), RunError> {
        let stack = self.check(tokens, if batched { 1 } else { tokens.len() })?;
        let start = self.position;
        source::embed(&stack, tokens, &[], self.setting.isa, &mut self.arena, |row| {
            start + if batched { 0 } else { row }
        });
        self.rows = 0;
        let mut run = Run::new(
            (self.model.stacks() - 1, &stack),
            &self.setting,
            start,
            tokens.len(),
            logits,
            self.states,
        );
        if batched {
            run.set_batched();
        }
        self.run = Some(run);
        Ok(())
    }

    /// Whether `tokens` can be run on the target, which gets longer by `positions`; the stack that
    /// runs them.
    fn check(&self, tokens: &[u32], positions: usize) -> Result<Stack<InPlace<'m>>, RunError> {
        if self.run.is_some() {
            return Err(RunError::Unfinished);
        }
        if tokens.is_empty() {
            return Err(RunError::Empty);
        }
        if !self.setting.is_decoder() {
            return Err(RunError::Reads { what: "a source and no target" });
        }
        if self.model.stacks() > 1 && self.states.0 == 0 {
            return Err(RunError::NoSource);
        }
        let (needed, context) = (self.position.saturating_add(positions), self.options().context);
        if needed > context {
            return Err(RunError::ContextFull { needed, context });
        }
        let stack = self.model.last().map_err(RunError::Model)?;
        source::check_tokens(&stack, tokens)?;
        Ok(stack)
    }

    /// Goes on with the run until `budget` is used up, at least one unit. The unit of the budget is
    /// a multiply-accumulate of int8; other work is charged at rates measured on a Cortex-M4. No
    /// unit grows with the context or the number of tokens: the longest are 16 rows of the widest
    /// matrix times one token, a token's row that is normed or rotated, and a query's attention to
    /// 64 positions.
    ///
    /// # Errors
    /// [`RunError::Idle`], when nothing was begun, and [`RunError::Model`], when the model's bytes
    /// changed.
    pub fn resume(&mut self, budget: u64) -> Result<Progress, RunError> {
        self.resume_tapped(budget, |_, _| ())
    }

    /// The logits of the last run: one row of the vocabulary for each position asked for, empty
    /// before the first run.
    pub fn logits(&mut self) -> &mut [f32] {
        &mut self.arena.logits[..self.rows * self.setting.outputs]
    }

    /// Runs all of `tokens`, in chunks of `prefill`, and returns the logits that follow the last.
    /// When the tokens cannot be run, none is.
    ///
    /// # Errors
    /// As [`Session::begin`] and [`Session::resume`].
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&mut [f32], RunError> {
        self.check(tokens, tokens.len())?;
        let mut rest = tokens;
        while !rest.is_empty() {
            let (chunk, tail) = rest.split_at(rest.len().min(self.options().prefill));
            self.begin(chunk, usize::from(tail.is_empty()))?;
            self.resume(u64::MAX)?;
            rest = tail;
        }
        Ok(self.logits())
    }

    /// Runs all of `tokens`, in chunks of `logits`, and calls `sink` with the number of each token
    /// and the logits that follow it.
    ///
    /// # Errors
    /// As [`Session::begin`] and [`Session::resume`].
    pub fn feed_each(
        &mut self,
        tokens: &[u32],
        mut sink: impl FnMut(usize, &mut [f32]),
    ) -> Result<(), RunError> {
        self.check(tokens, tokens.len())?;
        let vocab = self.setting.outputs;
        let mut index = 0;
        for chunk in tokens.chunks(self.options().logits.min(self.options().prefill)) {
            self.begin(chunk, chunk.len())?;
            self.resume(u64::MAX)?;
            for row in self.logits().chunks_exact_mut(vocab) {
                sink(index, row);
                index += 1;
            }
        }
        Ok(())
    }

    /// Runs one token for each of several targets, and returns a row of logits for each.
    ///
    /// # Errors
    /// As [`Session::begin_each`] and [`Session::resume`].
    pub fn feed_targets(&mut self, tokens: &[u32]) -> Result<&mut [f32], RunError> {
        self.begin_each(tokens)?;
        self.resume(u64::MAX)?;
        Ok(self.logits())
    }

    /// Target `i` goes on from where target `from[i]` is: its keys and values are copied, through a
    /// little of the stack. After a prompt that the first target was fed, zeros give it to all.
    ///
    /// # Errors
    /// [`RunError::TooMany`], when there are more targets than planned, and
    /// [`RunError::Unfinished`].
    pub fn reorder(&mut self, from: &[usize]) -> Result<(), RunError> {
        if self.run.is_some() {
            return Err(RunError::Unfinished);
        }
        let targets = self.options().targets;
        if let Some(&asked) = from.iter().find(|&&target| target >= targets) {
            return Err(RunError::TooMany { asked: asked.saturating_add(1), most: targets });
        }
        if from.len() > targets {
            return Err(RunError::TooMany { asked: from.len(), most: targets });
        }
        gather(self.arena.cache_codes, self.setting.target.0, from);
        gather(self.arena.cache_scales, self.setting.target.1, from);
        Ok(())
    }

    /// Reads a source: runs the stacks before the decoder, or all of an encoder. Returns the
    /// outputs: those of an encoder, otherwise nothing. Targets start again.
    ///
    /// # Errors
    /// As [`Session::begin_source`] and [`Session::resume`].
    pub fn encode(&mut self, source: Source<'_>) -> Result<&mut [f32], RunError> {
        self.begin_source(source)?;
        self.resume(u64::MAX)?;
        Ok(self.logits())
    }

    /// Begins to read a source, to be resumed as any run. Any source before it, and its targets,
    /// are forgotten.
    ///
    /// # Errors
    /// [`RunError`]: the model does not read such a source, its length is none that was planned, a
    /// token is not in the vocabulary, or another run is unfinished.
    pub fn begin_source(&mut self, source: Source<'_>) -> Result<(), RunError> {
        if self.run.is_some() {
            return Err(RunError::Unfinished);
        }
        let stack = self.model.stack(0).map_err(RunError::Model)?;
        if self.setting.is_decoder() && self.model.stacks() == 1 {
            return Err(RunError::Reads { what: "tokens of a target and no source" });
        }
        let (rows, features) =
            source::read(&stack, source, self.options().source, self.setting.isa, &mut self.arena)?;
        let logits = match self.setting.is_decoder() {
            true => 0,
            false if self.model.pooling() != Pooling::None => 1,
            false => rows.min(self.options().logits),
        };
        let mut run = Run::new((0, &stack), &self.setting, 0, rows, logits, (0, 0));
        if features {
            run.set_features();
        }
        (self.run, self.rows, self.position, self.states) = (Some(run), 0, 0, (0, 0));
        Ok(())
    }
}

/// Copies piece `from[i]` to place `i`, all at once.
#[inline(never)]
fn gather<T: Copy + Default>(all: &mut [T], size: usize, from: &[usize]) {
    const AT_ONCE: usize = 64;
    for start in (0..size).step_by(AT_ONCE) {
        let len = AT_ONCE.min(size - start);
        let mut copies = [[T::default(); AT_ONCE]; MAX_TARGETS];
        for (copy, &from) in copies.iter_mut().zip(from) {
            copy[..len].copy_from_slice(&all[from * size + start..][..len]);
        }
        for (to, copy) in copies.iter().take(from.len()).enumerate() {
            all[to * size + start..][..len].copy_from_slice(&copy[..len]);
        }
    }
}
