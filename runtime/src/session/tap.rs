//! Hidden states on their way: the residual stream before the first block and after each block.
//!
//! State 0 is the input of the first block, state n the stream after block n - 1; the last is what
//! the final norm sees. Each stack has one state more than blocks, and they are numbered through
//! all stacks. In a model that norms after its branches the stream is tapped before that norm. A
//! tap looks at a state where it lies, between two steps, so it costs no memory, changes no bit,
//! and is the same however the run is divided: each state is shown exactly once. A program that
//! taps nothing contains nothing of this.

use core::fmt;

use super::{Progress, RunError, Session};
use crate::parallel::Parallel;
use kinglet_model::{FAMILIES, InPlace, Stack};

/// Why hidden states were not handed over. The session stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum TapError {
    /// The tokens cannot be run.
    Run(RunError),
    /// A state that the model does not have.
    State {
        /// Asked for.
        asked: u32,
        /// The last one.
        last: u32,
    },
    /// A state of another width than the model's: a block before it changes the width of the
    /// stream. [`Session::resume_tapped`] shows it.
    Width {
        /// The state.
        state: u32,
        /// Numbers of its rows.
        width: usize,
    },
    /// The buffer has another length than the states need.
    Buffer {
        /// Numbers of all states asked for.
        needed: usize,
        /// Numbers lent.
        found: usize,
    },
}

impl<P: Parallel> Session<'_, '_, P> {
    /// [`Self::resume`], and calls `tap` with the number of each state that is reached and its
    /// rows, one of the model's width for each token of the run. What it does is not part of the
    /// budget.
    ///
    /// # Errors
    /// As [`Session::resume`].
    pub fn resume_tapped(
        &mut self,
        mut budget: u64,
        mut tap: impl FnMut(u32, &[f32]),
    ) -> Result<Progress, RunError> {
        let mut run = self.run.take().ok_or(RunError::Idle)?;
        loop {
            // There are that many; a slice that cannot panic leaves nothing after where the tap
            // does nothing.
            let rows = self.arena.residual.get(..run.rows() * run.width());
            if let (Some(state), Some(rows)) = (run.state(), rows) {
                tap(state, rows);
            }
            let fixed = (&self.parallel, &self.setting);
            let cost = run.step(&self.model, &mut self.present, fixed, &mut self.arena, budget);
            let cost = cost.map_err(RunError::Model)?;
            if run.is_done() {
                if run.is_target(&self.setting) {
                    self.position += run.positions();
                } else {
                    self.states = (run.rows(), run.width());
                }
                self.rows = run.logits();
                return Ok(Progress::Done);
            }
            budget = budget.saturating_sub(cost);
            if budget == 0 {
                self.run = Some(run);
                return Ok(Progress::Pending);
            }
        }
    }

    /// [`Self::feed`], and copies the states of these numbers to `buffer`: for each of them, in the
    /// order given, a row of the model's width for each token.
    ///
    /// # Errors
    /// [`TapError`]: the model has no such state, one has another width than the model's, `buffer`
    /// has another length, or as [`Session::feed`].
    pub fn feed_tapped(
        &mut self,
        tokens: &[u32],
        states: &[u32],
        buffer: &mut [f32],
    ) -> Result<&mut [f32], TapError> {
        self.check(tokens, tokens.len()).map_err(TapError::Run)?;
        let stack = self.model.last().map_err(|error| TapError::Run(RunError::Model(error)))?;
        let width = stack.width;
        let last = self.model.blocks() + self.model.stacks() - 1;
        if let Some(&asked) = states.iter().find(|&&state| state > last) {
            return Err(TapError::State { asked, last });
        }
        self.check_widths(&stack, states)?;
        let each = tokens.len().saturating_mul(width);
        let (needed, found) = (each.saturating_mul(states.len()), buffer.len());
        if needed != found {
            return Err(TapError::Buffer { needed, found });
        }
        let mut done = 0;
        while done < tokens.len() {
            let end = tokens.len().min(done + self.options().prefill);
            self.begin(&tokens[done..end], usize::from(end == tokens.len()))
                .map_err(TapError::Run)?;
            let copy = |state, rows: &[f32]| {
                let places = buffer.chunks_exact_mut(each).zip(states);
                for (place, _) in places.filter(|&(_, &wanted)| wanted == state) {
                    let place = place[done * width..end * width].iter_mut();
                    place.zip(rows).for_each(|(to, &from)| *to = from);
                }
            };
            self.resume_tapped(u64::MAX, copy).map_err(TapError::Run)?;
            done = end;
        }
        Ok(self.logits())
    }

    /// Whether these states of the last stack have the width that it begins with.
    fn check_widths(&self, stack: &Stack<InPlace<'_>>, states: &[u32]) -> Result<(), TapError> {
        let stacks = self.model.stacks();
        for block in stack.blocks.0..stack.blocks.1 {
            let (state, after) = (block + stacks, block + 1);
            if FAMILIES && states.contains(&state) {
                let width = self.model.width_before(stack, after);
                let width = width.map_err(|error| TapError::Run(RunError::Model(error)))?;
                if width != stack.width {
                    return Err(TapError::Width { state, width });
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for TapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(error) => error.fmt(f),
            Self::State { asked, last } => {
                write!(f, "there is no hidden state {asked}: they are 0 to {last}")
            }
            Self::Width { state, width } => {
                write!(f, "hidden state {state} has the width {width}, which is not the model's")
            }
            Self::Buffer { needed, found } => {
                write!(f, "the buffer has {found} numbers, the states asked for have {needed}")
            }
        }
    }
}

impl core::error::Error for TapError {}
