//! Choosing the next token: greedy, or drawn with temperature, top-k, top-p, min-p and a repetition
//! penalty.
//!
//! Everything happens in the logits' own memory; no sorting. A limit such as "the k largest" is a
//! threshold, found by bisecting the bits of non-negative f32 (whose order is that of the numbers);
//! tokens equal to the threshold are all kept. The same seed gives the same tokens on every
//! machine.

use kinglet_kernels::scalar::exp;

/// How to choose. [`Sampling::GREEDY`] takes the most probable token.
// Not `non_exhaustive`, which would forbid `..Sampling::GREEDY` outside of this crate: with it callers set what
// they mean and are right when there is one more field.
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
}

/// The token with the largest logit, the first of equals; NaN is never chosen unless there is
/// nothing else.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &v) in logits.iter().enumerate() {
        if v > best.1 {
            best = (i, v);
        }
    }
    best.0 as u32
}

impl Sampler {
    /// A sampler whose draws depend on `seed` alone.
    pub fn new(sampling: Sampling, seed: u64) -> Self {
        Self { sampling, state: seed }
    }

    /// Chooses a token. `recent` are the tokens that the repetition penalty looks at. The logits
    /// are used up.
    pub fn sample(&mut self, logits: &mut [f32], recent: &[u32]) -> u32 {
        penalize(logits, recent, self.sampling.repetition_penalty);
        let best = argmax(logits);
        let temperature = self.sampling.temperature;
        let top = logits.get(best as usize).copied().unwrap_or_default();
        let greedy = temperature.is_nan() || temperature <= 0.0;
        if greedy || !top.is_finite() {
            return best;
        }
        for v in logits.iter_mut() {
            *v = if v.is_nan() { 0.0 } else { exp((*v - top) / temperature) };
        }
        let weights = logits;
        self.truncate(weights);
        let total: f32 = weights.iter().sum();
        let target = self.unit() * total;
        let mut sum = 0.0;
        for (i, w) in weights.iter().enumerate() {
            sum += w;
            if sum > target {
                return i as u32;
            }
        }
        best
    }

    /// Sets the weights that the limits exclude to zero.
    fn truncate(&self, weights: &mut [f32]) {
        let Sampling { top_k, top_p, min_p, .. } = self.sampling;
        if top_k > 0 && top_k < weights.len() {
            let limit = bisect(|limit| weights.iter().filter(|&&w| w >= limit).count() >= top_k);
            drop_below(weights, limit);
        }
        if top_p < 1.0 {
            let reach = weights.iter().sum::<f32>() * top_p;
            let limit =
                bisect(|limit| weights.iter().filter(|&&w| w >= limit).sum::<f32>() >= reach);
            drop_below(weights, limit);
        }
        // The largest weight is exp(0) = 1.
        drop_below(weights, if min_p < 1.0 { min_p } else { 1.0 });
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

/// The largest value in 0..=1 that satisfies `holds`, which 0 does and, once it fails, every larger
/// value fails.
fn bisect(holds: impl Fn(f32) -> bool) -> f32 {
    let (mut low, mut high) = (0, 1f32.to_bits() + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if holds(f32::from_bits(middle)) {
            low = middle;
        } else {
            high = middle;
        }
    }
    f32::from_bits(low)
}

fn drop_below(weights: &mut [f32], limit: f32) {
    for w in weights.iter_mut().filter(|w| **w < limit) {
        *w = 0.0;
    }
}

#[cfg(test)]
mod tests {
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
