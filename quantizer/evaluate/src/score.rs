//! What is gathered at each position, and what becomes of it in the end.

use kinglet::argmax;

use super::hidden::States;
use super::{Divergence, Evaluation};

/// A prediction of the next token: logits, and the logarithms of the probabilities.
pub(super) struct Prediction<'l> {
    logits: &'l [f32],
    log: Vec<f64>,
}

impl<'l> Prediction<'l> {
    pub(super) fn new(logits: &'l [f32]) -> Self {
        let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|&v| (f64::from(v) - top).exp()).sum();
        let norm = top + sum.ln();
        Self { logits, log: logits.iter().map(|&v| f64::from(v) - norm).collect() }
    }

    /// Whether `token` is among the `n` most probable; of equal ones the first counts, as in
    /// `argmax`.
    fn among(&self, n: usize, token: u32) -> bool {
        let own = self.logits[token as usize];
        let before = |(i, &v): (usize, &f32)| v > own || v == own && i < token as usize;
        self.logits.iter().enumerate().filter(|&other| before(other)).take(n).count() < n
    }
}

/// Distances from one reference, over positions.
#[derive(Clone, Default)]
pub(super) struct Distances {
    reference_nll: f64,
    sum: f64,
    max: f64,
    top1: usize,
    top5: usize,
    /// All of them, for the percentile.
    all: Vec<f32>,
}

impl Distances {
    fn position(&mut self, next: u32, q: &Prediction<'_>, p: &Prediction<'_>) {
        self.reference_nll -= p.log[next as usize];
        self.compare(q, p);
    }

    /// The same where nothing follows.
    pub(super) fn compare(&mut self, q: &Prediction<'_>, p: &Prediction<'_>) {
        let kl: f64 = p.log.iter().zip(&q.log).map(|(p, q)| p.exp() * (p - q)).sum();
        // Equal distributions may come out below zero by a rounding.
        let kl = kl.max(0.0);
        let best = argmax(p.logits);
        self.sum += kl;
        self.max = self.max.max(kl);
        self.top1 += usize::from(argmax(q.logits) == best);
        self.top5 += usize::from(q.among(5, best));
        self.all.push(kl as f32);
    }

    pub(super) fn add(&mut self, other: Self) {
        self.reference_nll += other.reference_nll;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
        self.top1 += other.top1;
        self.top5 += other.top5;
        self.all.extend(other.all);
    }

    /// Nothing, if nothing was compared.
    pub(super) fn finish(mut self) -> Option<Divergence> {
        let n = self.all.len();
        self.all.sort_unstable_by(f32::total_cmp);
        let p99 = *self.all.get((n * 99).div_ceil(100).checked_sub(1)?)?;
        let part = |count: usize| count as f64 / n as f64;
        Some(Divergence {
            mean_kl: self.sum / n as f64,
            p99_kl: p99.into(),
            max_kl: self.max,
            top1_agreement: part(self.top1),
            top5_agreement: part(self.top5),
            reference_perplexity: (self.reference_nll / n as f64).exp(),
        })
    }
}

/// Sums over positions of one model.
#[derive(Clone, Default)]
pub(super) struct Score {
    tokens: usize,
    nll: f64,
    from_reference: Distances,
    from_first: Distances,
    pub(super) states: States,
}

impl Score {
    /// Scores one position: what followed, the predictions of model, reference and first model.
    pub(super) fn position(
        &mut self,
        next: u32,
        own: &Prediction<'_>,
        reference: Option<&Prediction<'_>>,
        first: Option<&Prediction<'_>>,
    ) {
        self.tokens += 1;
        self.nll -= own.log[next as usize];
        if let Some(reference) = reference {
            self.from_reference.position(next, own, reference);
        }
        if let Some(first) = first {
            self.from_first.position(next, own, first);
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.nll += other.nll;
        self.from_reference.add(other.from_reference);
        self.from_first.add(other.from_first);
        self.states.add(other.states);
    }

    pub(super) fn finish(self) -> Evaluation {
        let mean_nll = self.nll / self.tokens as f64;
        Evaluation {
            tokens: self.tokens,
            mean_nll,
            perplexity: mean_nll.exp(),
            divergence: self.from_reference.finish(),
            from_first: self.from_first.finish(),
            hidden: self.states.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_follow_argmax() {
        let p = Prediction::new(&[1.0, 3.0, 3.0, 0.0, 2.0]);
        assert!(p.among(1, 1) && !p.among(1, 2) && p.among(2, 2));
        assert!(p.among(3, 4) && !p.among(4, 3) && p.among(5, 3));
    }

    #[test]
    fn a_divergence_is_that_of_the_definition() {
        let (p, q) = ([0.5f32, 0.25, 0.25], [0.25f32, 0.25, 0.5]);
        let (lp, lq) = (p.map(f32::ln), q.map(f32::ln));
        let mut distances = Distances::default();
        for (a, b) in [(&lp, &lq), (&lp, &lp), (&lp, &lp)] {
            distances.position(0, &Prediction::new(b), &Prediction::new(a));
        }
        let found = distances.finish().unwrap();
        // 0.5 ln 2 + 0.25 ln 1 + 0.25 ln 0.5
        let kl = 0.25 * 2f64.ln();
        assert!(
            (found.max_kl - kl).abs() < 1e-7 && (found.mean_kl - kl / 3.0).abs() < 1e-7,
            "{found:?}"
        );
        assert_eq!(found.p99_kl as f32, found.max_kl as f32);
        assert!((found.top1_agreement - 2.0 / 3.0).abs() < 1e-12);
        assert!((found.top5_agreement - 1.0).abs() < 1e-12);
        assert!((found.reference_perplexity - 2.0).abs() < 1e-6);
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let with = |n: usize| {
            let all = (0..n).map(|i| i as f32).rev().collect();
            Distances { all, ..Default::default() }.finish().map(|d| d.p99_kl)
        };
        assert_eq!(
            (with(0), with(1), with(100), with(101)),
            (None, Some(0.0), Some(98.0), Some(99.0))
        );
    }
}
