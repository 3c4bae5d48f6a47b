//! Rotary positions: one frequency for each pair of a head's numbers.
//!
//! Follows the definitions of `transformers` (`ROPE_INIT_FUNCTIONS`), computed
//! in f64 where it computes in f32; the difference is that of a rounding.
//!
//! Two kinds change their frequencies with the length of the sequence. A model
//! has one set here, so the context decides which:
//!
//! - `dynamic` is the plain rotation up to `max_position_embeddings`, and the
//!   context is limited to that: within it the answers are exact.
//! - `longrope` has short factors up to the original context and long factors
//!   above. A context within the original one, which is the default, gets the
//!   short factors and is exact; a longer one gets the long factors, exact for
//!   sequences that have outgrown the original context.

use std::f64::consts::TAU;

use super::error::abbreviate;
use super::rope_settings::{Longrope, RopeSettings, Scaling, Yarn};
use super::{CheckpointError, Rope};

impl RopeSettings {
    /// The context of the model: what is asked for, if the rotation allows it.
    pub(super) fn context(&self, asked: Option<usize>) -> Result<usize, CheckpointError> {
        let Some(asked) = asked else {
            return Ok(match self.scaling {
                Scaling::Longrope(_) => self.original.min(self.longest),
                _ => self.longest,
            });
        };
        match (1..=self.longest).contains(&asked) {
            true => Ok(asked),
            false => Err(CheckpointError::Context { asked, limit: self.longest }),
        }
    }

    /// The rotation for a model of this context.
    pub(super) fn rope(&self, context: usize) -> Result<Rope, CheckpointError> {
        let plain = self.powers().map(|power| 1.0 / power);
        let (inv_freq, magnitude): (Vec<f64>, f64) = match &self.scaling {
            Scaling::Default | Scaling::Dynamic => (plain.collect(), 1.0),
            Scaling::Linear { factor } => (plain.map(|f| f / factor).collect(), 1.0),
            Scaling::Yarn(yarn) => self.yarn(yarn),
            Scaling::Longrope(longrope) => self.longrope(longrope, context),
            Scaling::Llama3 { .. } => (plain.map(|f| self.llama3(f)).collect(), 1.0),
            Scaling::Proportional { factor, part } => {
                let turning = (part * self.head_dim as f64 / 2.0).floor();
                let scaled = plain.enumerate().map(|(i, f)| match (i as f64) < turning {
                    true => f / factor,
                    false => 0.0,
                });
                (scaled.collect(), 1.0)
            }
        };
        // Settings that are sound one by one can still overflow together.
        let sound = inv_freq.iter().all(|f| f.is_finite() && *f >= 0.0);
        let magnitude = magnitude as f32;
        if !sound || !magnitude.is_finite() {
            let settings = abbreviate(&format!("base {}, {:?}", self.theta, self.scaling));
            return Err(CheckpointError::Rotation { settings });
        }
        Ok(Rope { frequencies: inv_freq, magnitude })
    }

    /// The base to the power of `2 i / head_dim`, for each pair `i`.
    fn powers(&self) -> impl Iterator<Item = f64> {
        let (dim, theta) = (self.head_dim as f64, self.theta);
        (0..self.head_dim / 2).map(move |pair| theta.powf(2.0 * pair as f64 / dim))
    }

    /// How many times the original context the longest is.
    fn stretch(&self) -> f64 {
        self.longest as f64 / self.original as f64
    }

    /// Slow pairs are interpolated, fast ones kept, a ramp between them.
    fn yarn(&self, yarn: &Yarn) -> (Vec<f64>, f64) {
        let factor = yarn.factor.unwrap_or_else(|| self.stretch());
        let mscale = |weight: f64| match factor <= 1.0 {
            true => 1.0,
            false => 0.1 * weight * factor.ln() + 1.0,
        };
        let magnitude = match (yarn.attention_factor, yarn.mscales) {
            (Some(given), _) => given,
            (None, Some((all, per_dim))) => mscale(all) / mscale(per_dim),
            (None, None) => mscale(1.0),
        };
        let dim = self.head_dim as f64;
        // The pair (a fraction of one) that turns this often over the original context.
        let pair_of = |turns: f64| {
            dim * (self.original as f64 / (turns * TAU)).ln() / (2.0 * self.theta.ln())
        };
        let (mut low, mut high) = (pair_of(yarn.beta_fast), pair_of(yarn.beta_slow));
        if !low.is_finite() || !high.is_finite() {
            // A base of 1, where all pairs turn alike: the bounds below would hide it.
            return (vec![f64::NAN], magnitude);
        }
        if yarn.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        let frequencies = self.powers().enumerate().map(|(pair, power)| {
            let ramp = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
            ramp / (factor * power) + (1.0 - ramp) / power
        });
        (frequencies.collect(), magnitude)
    }

    /// A factor for each pair, from one of two lists.
    fn longrope(&self, longrope: &Longrope, context: usize) -> (Vec<f64>, f64) {
        let factor = longrope.factor.unwrap_or_else(|| self.stretch());
        let magnitude = longrope.attention_factor.unwrap_or_else(|| match factor <= 1.0 {
            true => 1.0,
            false => (1.0 + factor.ln() / (self.original as f64).ln()).sqrt(),
        });
        let factors = match context > self.original {
            true => &longrope.long_factor,
            false => &longrope.short_factor,
        };
        let frequencies = self.powers().zip(factors).map(|(power, factor)| 1.0 / (factor * power));
        (frequencies.collect(), magnitude)
    }

    /// Slow frequencies are divided, fast ones kept, those between blended.
    fn llama3(&self, frequency: f64) -> f64 {
        let Scaling::Llama3 { factor, low_freq_factor, high_freq_factor } = self.scaling else {
            return frequency;
        };
        // How often the pair turns over the original context.
        let turns = self.original as f64 * frequency / TAU;
        if turns < low_freq_factor {
            frequency / factor
        } else if turns > high_freq_factor {
            frequency
        } else {
            let blend = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            (1.0 - blend) * frequency / factor + blend * frequency
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(scaling: Scaling) -> RopeSettings {
        RopeSettings { theta: 10_000.0, head_dim: 8, longest: 128, original: 32, scaling }
    }

    fn frequencies(scaling: Scaling, context: usize) -> Vec<f64> {
        settings(scaling).rope(context).unwrap().frequencies
    }

    #[test]
    fn plain_frequencies_are_powers_of_the_base() {
        let found = frequencies(Scaling::Default, 128);
        for (found, expected) in found.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
    }

    #[test]
    fn proportional_turns_the_first_part_of_a_head() {
        let found = frequencies(Scaling::Proportional { factor: 2.0, part: 0.5 }, 128);
        assert_eq!(found, [0.5, 0.05, 0.0, 0.0]);
    }

    #[test]
    fn the_context_chooses_the_factors_of_longrope() {
        let longrope = || {
            Scaling::Longrope(Longrope {
                short_factor: vec![1.0; 4],
                long_factor: vec![4.0; 4],
                factor: None,
                attention_factor: None,
            })
        };
        assert_eq!(settings(longrope()).context(None).unwrap(), 32);
        assert_eq!(frequencies(longrope(), 32)[0], 1.0);
        assert_eq!(frequencies(longrope(), 33)[0], 0.25);
        let magnitude = settings(longrope()).rope(32).unwrap().magnitude;
        assert!((magnitude - 1.4_f32.sqrt()).abs() < 1e-6, "{magnitude}");
    }

    #[test]
    fn settings_that_overflow_together_are_an_error() {
        let mut extreme = settings(Scaling::Linear { factor: 1e-300 });
        extreme.theta = 1e-300;
        assert!(matches!(extreme.rope(128), Err(CheckpointError::Rotation { .. })));
    }

    #[test]
    fn a_base_without_logarithm_is_an_error_for_yarn() {
        let yarn = Yarn {
            factor: Some(4.0),
            attention_factor: None,
            mscales: None,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
        };
        let mut settings = settings(Scaling::Yarn(yarn));
        assert!(settings.rope(128).is_ok());
        settings.theta = 1.0;
        assert!(matches!(settings.rope(128), Err(CheckpointError::Rotation { .. })));
    }
}
