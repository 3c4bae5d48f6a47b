//! Beam search: the most probable targets of a source or prompt, several side by side.
//!
//! Scores are sums of log-probabilities; a finished target's is divided by its length to the power
//! of `penalty`, so that longer ones have a chance. Each step keeps the best continuations of all,
//! as many as there are beams; those that end are set aside, and the search is over when none that
//! is still open can be better than the worst of them. Ties go to the earlier beam, then the lower
//! token. All of it is the reference's f32, the same everywhere.
//!
//! What was chosen is kept as one word a beam and step, token and parent, in memory that the caller
//! lends.

use kinglet_kernels::scalar::{exp, ln};

use crate::options::MAX_TARGETS;
use crate::parallel::Parallel;
use crate::session::{RunError, Session};
use kinglet_model::layout::MAX_DIMENSION;

/// A continuation: its score, the beam it goes on from, its token.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    score: f32,
    beam: usize,
    token: u32,
}

/// A target that has ended: its score by length, and where its last token is.
#[derive(Clone, Copy, Debug)]
struct Ended {
    score: f32,
    step: usize,
    beam: usize,
}

/// A search under way.
#[derive(Debug)]
pub struct BeamSearch<'b> {
    width: usize,
    penalty: f32,
    ends: &'b [u32],
    /// Rows of `width` words: token, and parent above [`MAX_DIMENSION`].
    history: &'b mut [u32],
    steps: usize,
    live: [f32; MAX_TARGETS],
    alive: usize,
    ended: [Ended; MAX_TARGETS],
    found: usize,
}

const PARENT: u32 = MAX_DIMENSION.ilog2();
const _: () = assert!(MAX_DIMENSION.is_power_of_two() && MAX_TARGETS <= 1 << (32 - PARENT));

impl<'b> BeamSearch<'b> {
    /// Words of memory for so many beams and tokens.
    pub const fn words(width: usize, tokens: usize) -> usize {
        width.saturating_mul(tokens)
    }

    /// A search with `width` beams, at most [`MAX_TARGETS`]; the tokens `ends` end a target.
    /// `history` has [`Self::words`] words for the longest target.
    pub fn new(width: usize, penalty: f32, ends: &'b [u32], history: &'b mut [u32]) -> Self {
        let width = width.clamp(1, MAX_TARGETS);
        let ended = [Ended { score: f32::NEG_INFINITY, step: 0, beam: 0 }; MAX_TARGETS];
        let live = [0.0; MAX_TARGETS];
        Self { width, penalty, ends, history, steps: 0, live, alive: 1, ended, found: 0 }
    }

    /// Searches targets that begin with `prompt`, until the plan's context or the memory is full,
    /// and returns how many were found. The session must have been planned for as many targets as
    /// there are beams.
    ///
    /// # Errors
    /// [`RunError`], as [`Session::feed`] and [`Session::feed_targets`].
    pub fn run<P: Parallel>(
        &mut self,
        session: &mut Session<'_, '_, P>,
        prompt: &[u32],
    ) -> Result<usize, RunError> {
        (self.steps, self.alive, self.found) = (0, 1, 0);
        self.live = [0.0; MAX_TARGETS];
        session.rewind(0)?;
        session.feed(prompt)?;
        loop {
            let more = session.position() < session.options().context;
            let (mut tokens, mut parents) = ([0; MAX_TARGETS], [0; MAX_TARGETS]);
            let next = self.advance(session.logits(), more, &mut tokens, &mut parents);
            if next == 0 {
                return Ok(self.found);
            }
            session.reorder(&parents[..next])?;
            session.feed_targets(&tokens[..next])?;
        }
    }

    /// Takes the logits of all open beams and chooses how they go on: writes their next tokens and
    /// the beams they come from, and returns how many there are; 0 when the search is over. Without
    /// `more`, all open ones end here as they are.
    pub fn advance(
        &mut self,
        logits: &[f32],
        more: bool,
        tokens: &mut [u32; MAX_TARGETS],
        parents: &mut [usize; MAX_TARGETS],
    ) -> usize {
        let vocab = logits.len() / self.alive.max(1);
        let room = (self.steps + 1).saturating_mul(self.width) <= self.history.len();
        if vocab == 0 || !room {
            return self.stop();
        }
        // Twice as many as beams: at worst half of them end.
        let mut best = [Candidate { score: f32::NEG_INFINITY, beam: 0, token: 0 }; 2 * MAX_TARGETS];
        let best = &mut best[..2 * self.width];
        for (beam, row) in logits.chunks_exact(vocab).enumerate().take(self.alive) {
            let top = row.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
            let sum: f32 = row.iter().map(|&x| exp(x - top)).sum();
            let offset = self.live[beam] - top - ln(sum);
            for (token, &x) in row.iter().enumerate() {
                insert(best, Candidate { score: x + offset, beam, token: token as u32 });
            }
        }
        let mut next = 0;
        let mut scores = [0.0; MAX_TARGETS];
        let row = self.steps * self.width;
        for candidate in best.iter().filter(|c| c.score > f32::NEG_INFINITY) {
            if self.ends.contains(&candidate.token) {
                // One that is not among the best `width` would not have been kept.
                if next < self.width {
                    self.end(candidate.score, self.steps, candidate.beam);
                }
            } else if next < self.width {
                self.history[row + next] = candidate.token | (candidate.beam as u32) << PARENT;
                (tokens[next], parents[next], scores[next]) =
                    (candidate.token, candidate.beam, candidate.score);
                next += 1;
            }
        }
        (self.live, self.alive) = (scores, next);
        self.steps += 1;
        if !more || next == 0 {
            return self.stop();
        }
        // No continuation scores higher than what it continues.
        let hope = self.by_length(self.live[0], self.steps);
        let settled = self.found == self.width && self.ended[self.width - 1].score >= hope;
        if settled { 0 } else { next }
    }

    /// Score over length, of so many tokens, to the power of the penalty.
    fn by_length(&self, score: f32, tokens: usize) -> f32 {
        score / exp(self.penalty * ln(tokens.max(1) as f32))
    }

    /// Ends what is still open.
    fn stop(&mut self) -> usize {
        for beam in 0..self.alive {
            if self.steps > 0 {
                self.end_at(self.by_length(self.live[beam], self.steps), self.steps, beam);
            }
        }
        self.alive = 0;
        0
    }

    /// A target ends after step `step`: its last token was chosen in the step before, by `beam`.
    fn end(&mut self, score: f32, step: usize, beam: usize) {
        self.end_at(self.by_length(score, step + 1), step, beam);
    }

    fn end_at(&mut self, score: f32, step: usize, beam: usize) {
        let worse = self.ended[..self.found].iter().position(|ended| score > ended.score);
        let at = worse.unwrap_or(self.found);
        if at < self.width {
            self.found = (self.found + 1).min(self.width);
            self.ended[at..self.found].rotate_right(1);
            self.ended[at] = Ended { score, step, beam };
        }
    }

    /// The `rank`-th best target found, 0 the best: its tokens without the one that ends it, into
    /// `out`, and its score. Returns how many tokens it has; `None` where there is no such target
    /// or it does not fit.
    pub fn target(&self, rank: usize, out: &mut [u32]) -> Option<(usize, f32)> {
        let ended = self.ended[..self.found].get(rank)?;
        let mut beam = ended.beam;
        let out = out.get_mut(..ended.step)?;
        for (step, token) in out.iter_mut().enumerate().rev() {
            let word = self.history[step * self.width + beam];
            (*token, beam) = (word & (MAX_DIMENSION - 1), (word >> PARENT) as usize);
        }
        Some((ended.step, ended.score))
    }
}

/// Keeps `best` sorted, the highest score first; what comes first stays in front of its equals.
fn insert(best: &mut [Candidate], candidate: Candidate) {
    let last = best.len() - 1;
    if candidate.score > best[last].score {
        let at = best.iter().position(|b| candidate.score > b.score).unwrap_or(last);
        best[at..].rotate_right(1);
        best[at] = candidate;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// Logits of a chain: the next token's depend on the last.
    fn logits(last: u32, vocab: u32) -> Vec<f32> {
        (0..vocab).map(|t| ((last * 7 + t * 13 + t * t * last) % 11) as f32 * 0.4).collect()
    }

    fn log_probability(last: u32, token: u32, vocab: u32) -> f64 {
        let row = logits(last, vocab);
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        f64::from(row[token as usize]) - sum.ln()
    }

    /// The best target by trying all, with token 0 as the end.
    fn all(
        prefix: &mut Vec<u32>,
        score: f64,
        left: usize,
        vocab: u32,
        penalty: f64,
        best: &mut (f64, Vec<u32>),
    ) {
        let last = *prefix.last().unwrap_or(&1);
        let here = prefix.len() as f64;
        if left == 0 {
            let by_length = score / here.powf(penalty);
            if by_length > best.0 {
                *best = (by_length, prefix.clone());
            }
            return;
        }
        for token in 0..vocab {
            let score = score + log_probability(last, token, vocab);
            if token == 0 {
                let by_length = score / (here + 1.0).powf(penalty);
                if by_length > best.0 {
                    *best = (by_length, prefix.clone());
                }
            } else {
                prefix.push(token);
                all(prefix, score, left - 1, vocab, penalty, best);
                prefix.pop();
            }
        }
    }

    #[test]
    fn a_wide_beam_finds_what_trying_all_finds() {
        for (vocab, penalty, length) in [(4, 1.0, 4), (5, 0.6, 3), (3, 0.0, 4)] {
            let mut best = (f64::NEG_INFINITY, Vec::new());
            all(&mut Vec::new(), 0.0, length, vocab, penalty, &mut best);
            let mut history = std::vec![0; BeamSearch::words(MAX_TARGETS, length)];
            let mut search = BeamSearch::new(MAX_TARGETS, penalty as f32, &[0], &mut history);
            let (mut tokens, mut parents) = ([1; MAX_TARGETS], [0; MAX_TARGETS]);
            let mut alive = 1;
            for step in 0..length {
                let rows: Vec<f32> =
                    tokens[..alive].iter().flat_map(|&last| logits(last, vocab)).collect();
                alive = search.advance(&rows, step + 1 < length, &mut tokens, &mut parents);
                if alive == 0 {
                    break;
                }
            }
            let mut out = [9; 8];
            let (len, score) = search.target(0, &mut out).unwrap();
            assert_eq!(
                (&out[..len], true),
                (&best.1[..], (f64::from(score) - best.0).abs() < 1e-4),
                "{vocab} {score} {best:?}"
            );
        }
    }

    #[test]
    fn one_beam_is_greedy() {
        let mut history = [0; 6];
        let mut search = BeamSearch::new(1, 1.0, &[0], &mut history);
        let (mut tokens, mut parents) = ([3; MAX_TARGETS], [0; MAX_TARGETS]);
        let mut greedy = Vec::new();
        let mut last = 3;
        for step in 0..6 {
            let row = logits(last, 7);
            // Without the end, which does not stop a beam that may go on.
            last = (1..7).fold(1, |m, t| if row[t as usize] > row[m as usize] { t } else { m });
            greedy.push(last);
            if search.advance(&row, step < 5, &mut tokens, &mut parents) == 0 {
                break;
            }
            assert_eq!(tokens[0], last);
        }
        assert!(search.found == 1);
    }
}
