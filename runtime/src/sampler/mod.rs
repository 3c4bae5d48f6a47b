//! Choosing the next token: greedy, or drawn with temperature, top-k, top-p, min-p and a repetition
//! penalty.
//!
//! Everything happens in the logits' own memory and in the sampler: one pass over the vocabulary
//! for the most probable token, one for the weights, mostly one for the limits ([`limits`]) and one
//! for the draw. Any pass can be divided ([`Sampler::resume`]). Tokens whose weight equals a
//! limit's are all kept. The same seed gives the same tokens on every machine.

mod limits;

use kinglet_kernels::scalar::exp;

use self::limits::{Goal, Limits, Next};

/// How to choose. [`Sampling::GREEDY`] takes the most probable token.
// Not `non_exhaustive`, which would forbid `..Sampling::GREEDY` outside of this crate: with it
// callers set what they mean and are right when there is one more field.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Sampling {
    /// Logits are divided by it; 0 (or less, or not a number) means greedy.
    pub temperature: f32,
    /// Only the `top_k` most probable tokens; 0 means all.
    pub top_k: usize,
    /// Only the most probable tokens that together reach this probability; 1 means all.
    pub top_p: f32,
    /// Only tokens at least this fraction as probable as the most probable; 0 means all.
    pub min_p: f32,
    /// Logits of recent tokens are divided by it where positive, multiplied where negative (Keskar
    /// et al., arXiv 1909.05858); 1 means no penalty.
    pub repetition_penalty: f32,
}

impl Sampling {
    /// The most probable token.
    pub const GREEDY: Self =
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 };
}

/// Draws tokens.
///
/// ```
/// use kinglet::{Sampler, Sampling};
///
/// let logits = [1.0, 3.0, f32::NAN, 2.5];
/// let mut greedy = Sampler::new(Sampling::GREEDY, 0);
/// assert_eq!(greedy.sample(&mut logits.clone(), &[]), 1);
///
/// let two = Sampling { temperature: 0.8, top_k: 2, ..Sampling::GREEDY };
/// let draws = |seed| {
///     let mut sampler = Sampler::new(two, seed);
///     [(); 20].map(|()| sampler.sample(&mut logits.clone(), &[]))
/// };
/// assert!(draws(7).iter().all(|token| [1, 3].contains(token)));
/// assert_eq!(draws(7), draws(7));
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    /// State of SplitMix64 (Steele, Lea, Flood, 2014).
    state: u64,
    step: Step,
    /// The next token of the step.
    at: usize,
    /// The most probable token and its logit.
    best: (usize, f32),
    /// Sum of the weights that are kept.
    total: f32,
    /// Tokens below it are not drawn.
    limit: f32,
    goal: Goal,
    limits: Limits,
    /// How much is to be drawn, and how much was passed by.
    draw: (f32, f32),
}

/// What a pass over the vocabulary does.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Finds the most probable token.
    Largest,
    /// Makes weights of logits.
    Weigh,
    /// Counts weights, for a limit.
    Count,
    /// Collects weights, for a limit.
    Collect,
    /// Sums the weights that are kept.
    Total,
    Draw,
}

impl Step {
    /// What a token costs, in the unit of [`crate::Session::resume`].
    fn cost(self) -> u64 {
        match self {
            Self::Weigh => 32,
            _ => 4,
        }
    }
}

/// The token with the largest logit, the first of equals; NaN is never chosen unless there is
/// nothing else.
pub fn argmax(logits: &[f32]) -> u32 {
    largest(NO_BEST, 0, logits).0 as u32
}

/// The best before any logit was seen.
const NO_BEST: (usize, f32) = (0, f32::NEG_INFINITY);

/// The best token so far and its logit, after those of more tokens, the first of which is `from`.
fn largest(mut best: (usize, f32), from: usize, logits: &[f32]) -> (usize, f32) {
    for (i, &v) in logits.iter().enumerate() {
        if v > best.1 {
            best = (from + i, v);
        }
    }
    best
}

impl Sampler {
    /// A sampler whose draws depend on `seed` alone.
    pub const fn new(sampling: Sampling, seed: u64) -> Self {
        Self {
            sampling,
            state: seed,
            step: Step::Largest,
            at: 0,
            best: NO_BEST,
            total: 0.0,
            limit: 0.0,
            goal: Goal::Sum(0.0),
            limits: Limits::new(),
            draw: (0.0, 0.0),
        }
    }

    /// Chooses a token. `recent` are the tokens that the repetition penalty looks at. The logits
    /// are used up.
    pub fn sample(&mut self, logits: &mut [f32], recent: &[u32]) -> u32 {
        self.begin(logits, recent);
        loop {
            if let Some(token) = self.resume(logits, u64::MAX) {
                return token;
            }
        }
    }

    /// Begins to choose a token, to be resumed with the same logits. Nothing is done but the
    /// penalties of `recent`.
    pub fn begin(&mut self, logits: &mut [f32], recent: &[u32]) {
        penalize(logits, recent, self.sampling.repetition_penalty);
        self.best = NO_BEST;
        self.go(Step::Largest);
    }

    /// Goes on until `budget` is used up, in the unit of [`crate::Session::resume`], or a token is
    /// chosen. However the work is divided, it is the same token.
    pub fn resume(&mut self, logits: &mut [f32], mut budget: u64) -> Option<u32> {
        loop {
            let cost = self.step.cost();
            let count = usize::try_from(budget / cost).unwrap_or(usize::MAX).max(1);
            let left = logits.len().saturating_sub(self.at);
            if let Some(token) = self.pass(logits, count) {
                return Some(token);
            }
            budget = budget.saturating_sub(cost * left.min(count) as u64);
            if budget == 0 {
                return None;
            }
        }
    }

    fn go(&mut self, step: Step) {
        (self.step, self.at) = (step, 0);
    }

    /// So many tokens of the present step, and what comes after its last; a token when one is
    /// chosen.
    fn pass(&mut self, logits: &mut [f32], count: usize) -> Option<u32> {
        let end = self.at.saturating_add(count).min(logits.len());
        let numbered = self.at;
        let weights = logits.get_mut(self.at..end).unwrap_or_default();
        self.at = end;
        match self.step {
            Step::Largest => self.best = largest(self.best, numbered, weights),
            Step::Weigh => self.weigh(weights),
            Step::Count => weights.iter().for_each(|&w| self.limits.count(w)),
            Step::Collect => weights.iter().for_each(|&w| self.limits.collect(w)),
            Step::Total => {
                self.total += weights.iter().filter(|&&w| w >= self.limit).sum::<f32>();
            }
            Step::Draw => {
                for (i, w) in weights.iter().enumerate().filter(|(_, w)| **w >= self.limit) {
                    self.draw.1 += w;
                    if self.draw.1 > self.draw.0 {
                        return Some((numbered + i) as u32);
                    }
                }
            }
        }
        if end < logits.len() { None } else { self.end_of_step(logits.len()) }
    }

    /// Makes weights of logits: the largest is exp(0) = 1.
    fn weigh(&mut self, logits: &mut [f32]) {
        let (top, temperature) = (self.best.1, self.sampling.temperature);
        let limited = self.is_limited();
        let least = if limited { 0.0 } else { self.least() };
        for v in logits {
            let weight = if v.is_nan() { 0.0 } else { exp((*v - top) / temperature) };
            *v = if weight >= least { weight } else { 0.0 };
            self.total += *v;
            if limited {
                self.limits.count(*v);
            }
        }
    }

    /// Whether top-k or top-p are on.
    fn is_limited(&self) -> bool {
        self.sampling.top_k > 0 || self.sampling.top_p < 1.0
    }

    /// The least weight that min-p leaves.
    fn least(&self) -> f32 {
        if self.sampling.min_p < 1.0 { self.sampling.min_p } else { 1.0 }
    }

    /// What comes after a pass over all of `vocab` tokens; a token when it is chosen.
    fn end_of_step(&mut self, vocab: usize) -> Option<u32> {
        let Sampling { temperature, top_k, top_p, .. } = self.sampling;
        match self.step {
            Step::Largest => {
                let greedy = temperature.is_nan() || temperature <= 0.0;
                if greedy || !self.best.1.is_finite() {
                    return Some(self.best.0 as u32);
                }
                (self.total, self.limit) = (0.0, 0.0);
                self.limits.start();
                self.go(Step::Weigh);
            }
            Step::Weigh if top_k > 0 && top_k < vocab => {
                self.goal = Goal::Count(top_k as u32);
                self.search();
            }
            Step::Weigh if top_p < 1.0 => {
                self.goal = Goal::Sum(self.total * top_p);
                self.search();
            }
            Step::Weigh if self.least() > 0.0 && self.is_limited() => self.settle(0.0, self.total),
            Step::Weigh | Step::Total => self.draw(),
            Step::Count => self.search(),
            Step::Collect => {
                let (limit, sum) = self.limits.collected(self.goal);
                self.settle(limit, sum);
            }
            Step::Draw => return Some(self.best.0 as u32),
        }
        None
    }

    /// After weights were counted.
    fn search(&mut self) {
        match self.limits.counted(self.goal) {
            Next::Count => self.go(Step::Count),
            Next::Collect => self.go(Step::Collect),
            Next::Found(limit, sum) => self.settle(limit, sum),
        }
    }

    /// A goal is reached: weights from `limit` on are kept, and this is their sum.
    fn settle(&mut self, limit: f32, sum: f32) {
        let top_p = self.sampling.top_p;
        let (mut limit, mut sum, mut known) = (limit, sum, true);
        if matches!(self.goal, Goal::Count(_)) && top_p < 1.0 {
            self.goal = Goal::Sum(sum * top_p);
            if !self.limits.has_all() {
                self.limits.start_from(limit);
                return self.go(Step::Count);
            }
            (limit, sum) = self.limits.collected(self.goal);
        }
        if self.least() > limit {
            limit = self.least();
            known = self.limits.has_all();
            sum = if known { self.limits.sum_from(limit) } else { 0.0 };
        }
        (self.limit, self.total) = (limit, sum);
        if known { self.draw() } else { self.go(Step::Total) }
    }

    fn draw(&mut self) {
        self.draw = (self.unit() * self.total, 0.0);
        self.go(Step::Draw);
    }

    /// A number in [0, 1) with 24 random bits.
    fn unit(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 40) as f32 / 16_777_216.0
    }
}

fn penalize(logits: &mut [f32], recent: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    for (i, &token) in recent.iter().enumerate() {
        let seen = recent.iter().take(i).any(|&t| t == token);
        if let Some(v) = logits.get_mut(token as usize).filter(|_| !seen) {
            *v = if *v > 0.0 { *v / penalty } else { *v * penalty };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, f32::NAN, 2.0, -1.0];

    /// How often each token is drawn in 4096 draws.
    fn frequencies(sampling: Sampling, recent: &[u32]) -> [u32; 5] {
        let mut sampler = Sampler::new(sampling, 7);
        let mut counts = [0; 5];
        for _ in 0..4096 {
            counts[sampler.sample(&mut LOGITS.clone(), recent) as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(argmax(&LOGITS), 1);
        assert_eq!(argmax(&[f32::NAN; 3]), 0);
        assert_eq!(argmax(&[2.0, 2.0]), 0);
        assert_eq!(Sampler::new(Sampling::GREEDY, 1).sample(&mut LOGITS.clone(), &[]), 1);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let counts = frequencies(Sampling { temperature: 1.0, ..Sampling::GREEDY }, &[]);
        let total: f64 = [1.0f64, 3.0, 2.0, -1.0].iter().map(|x| x.exp()).sum();
        for (i, x) in [(0, 1.0f64), (1, 3.0), (3, 2.0), (4, -1.0)] {
            let expected = x.exp() / total * 4096.0;
            assert!(
                (f64::from(counts[i]) - expected).abs() < 5.0 * expected.sqrt() + 5.0,
                "{counts:?}"
            );
        }
        assert_eq!(counts[2], 0, "NaN was drawn");
    }

    #[test]
    fn limits_exclude() {
        let drawn = |sampling: Sampling| frequencies(sampling, &[]).map(|n| n > 0);
        let hot = Sampling { temperature: 2.0, ..Sampling::GREEDY };
        assert_eq!(drawn(Sampling { top_k: 2, ..hot }), [false, true, false, true, false]);
        assert_eq!(drawn(Sampling { top_k: 1, ..hot }), [false, true, false, false, false]);
        assert_eq!(drawn(Sampling { top_p: 0.5, ..hot }), [false, true, false, true, false]);
        assert_eq!(drawn(Sampling { top_p: 0.0, ..hot }), drawn(Sampling { min_p: 2.0, ..hot }));
        assert_eq!(drawn(Sampling { min_p: 0.3, ..hot }), [true, true, false, true, false]);
    }

    /// The tokens that are kept, from their weights sorted.
    fn kept(logits: &[f32], sampling: Sampling) -> Vec<u32> {
        let top = logits.iter().fold(f32::NEG_INFINITY, |top, &v| top.max(v));
        let weights: Vec<f32> =
            logits.iter().map(|&v| exp((v - top) / sampling.temperature)).collect();
        let mut sorted = weights.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        if sampling.top_k > 0 && sampling.top_k < sorted.len() {
            let limit = sorted[sampling.top_k - 1];
            sorted.retain(|&w| w >= limit);
        }
        if sampling.top_p < 1.0 {
            let (all, mut sum) = (sorted.iter().sum::<f32>(), 0.0);
            let enough = |w: &&f32| {
                sum += **w;
                sum >= all * sampling.top_p
            };
            let limit = *sorted.iter().find(enough).unwrap();
            sorted.retain(|&w| w >= limit);
        }
        let limit = sorted.last().unwrap().max(sampling.min_p.min(1.0));
        (0..).zip(&weights).filter(|(_, w)| **w >= limit).map(|(i, _)| i).collect()
    }

    /// Logits of several kinds: spread, flat, and with few values.
    fn kinds(vocab: usize) -> [Vec<f32>; 3] {
        let mut state = 9u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0
        };
        let spread: Vec<f32> = (0..vocab).map(|_| 17.0 * random()).collect();
        let flat = (0..vocab).map(|_| 1e-3 * random()).collect();
        let few = spread.iter().map(|v| (v / 5.0).round()).collect();
        [spread, flat, few]
    }

    #[test]
    fn limits_are_exact_and_any_division_draws_the_same() {
        let base = Sampling { temperature: 0.8, ..Sampling::GREEDY };
        let samplings = [
            base,
            Sampling { top_k: 1, ..base },
            Sampling { top_k: 40, ..base },
            Sampling { top_k: 700, ..base },
            Sampling { top_p: 0.95, ..base },
            Sampling { top_p: 0.5, min_p: 0.2, ..base },
            Sampling { min_p: 0.05, ..base },
            Sampling { top_k: 40, top_p: 0.9, ..base },
            Sampling { top_k: 700, top_p: 0.9, min_p: 0.01, ..base },
            Sampling { top_k: 5000, min_p: 0.1, ..base },
        ];
        for vocab in [1, 7, 300, 1000] {
            for logits in kinds(vocab) {
                for sampling in samplings {
                    let kept = kept(&logits, sampling);
                    let (mut whole, mut parts) =
                        (Sampler::new(sampling, 3), Sampler::new(sampling, 3));
                    let mut drawn = std::collections::BTreeSet::new();
                    for _ in 0..200 {
                        let token = whole.sample(&mut logits.clone(), &[]);
                        drawn.insert(token);
                        let mut logits = logits.clone();
                        parts.begin(&mut logits, &[]);
                        let mut tokens =
                            core::iter::from_fn(|| Some(parts.resume(&mut logits, 999)));
                        assert_eq!(tokens.find_map(|token| token), Some(token));
                    }
                    assert!(drawn.iter().all(|token| kept.contains(token)), "{vocab} {sampling:?}");
                    if kept.len() <= 3 {
                        assert_eq!(drawn.len(), kept.len(), "{vocab} {sampling:?}");
                    }
                }
            }
        }
    }

    /// Sums in another order may fall short of nearly all of what top-k leaves.
    #[test]
    fn top_p_keeps_no_token_that_top_k_drops() {
        for (vocab, top_k) in [(1000, 700), (32_000, 5000), (32_000, 20_000)] {
            for logits in kinds(vocab) {
                for top_p in [0.999_999_94, 0.999_999_8, 0.999_99] {
                    let sampling = Sampling { temperature: 0.8, top_k, ..Sampling::GREEDY };
                    let limit = |sampling| {
                        let mut sampler = Sampler::new(sampling, 3);
                        sampler.sample(&mut logits.clone(), &[]);
                        sampler.limit
                    };
                    let (both, alone) = (limit(Sampling { top_p, ..sampling }), limit(sampling));
                    assert!(both >= alone && alone > 0.0, "{vocab} {top_p}: {both} {alone}");
                }
            }
        }
    }

    #[test]
    fn four_passes_are_enough() {
        let logits = kinds(32_000)[0].clone();
        let base = Sampling { temperature: 0.8, ..Sampling::GREEDY };
        for (sampling, most) in [
            (Sampling::GREEDY, 1),
            (base, 3),
            (Sampling { min_p: 0.05, ..base }, 3),
            (Sampling { top_k: 40, ..base }, 4),
            (Sampling { top_p: 0.95, ..base }, 4),
            (Sampling { top_k: 40, top_p: 0.95, min_p: 0.05, ..base }, 4),
        ] {
            let (mut sampler, mut logits) = (Sampler::new(sampling, 3), logits.clone());
            sampler.begin(&mut logits, &[]);
            let passes =
                (1..).find(|_| sampler.pass(&mut logits, usize::MAX).is_some()).unwrap_or(0);
            assert!(passes <= most, "{sampling:?}: {passes}");
        }
    }

    #[test]
    fn repetition_is_penalized_once() {
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY };
        assert_eq!(Sampler::new(sampling, 1).sample(&mut LOGITS.clone(), &[1, 1, 99]), 3);
        assert_eq!(Sampler::new(sampling, 1).sample(&mut [4.0, 3.0], &[0, 0]), 1);
        assert_eq!(Sampler::new(sampling, 1).sample(&mut [-1.0, -1.5], &[0]), 1);
    }

    #[test]
    fn a_seed_is_a_sequence() {
        let sampling = Sampling { temperature: 1.5, ..Sampling::GREEDY };
        let mut sampler = Sampler::new(sampling, 42);
        let drawn: [u32; 12] = core::array::from_fn(|_| sampler.sample(&mut LOGITS.clone(), &[]));
        assert_eq!(drawn, [3, 1, 1, 1, 0, 3, 1, 3, 1, 1, 1, 1]);
    }
}
