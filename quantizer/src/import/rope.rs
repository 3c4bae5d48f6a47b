//! Rotary positions: from the settings of config.json to one frequency a pair.
//!
//! Follows the definitions of `transformers` (`ROPE_INIT_FUNCTIONS`), computed in f64 where it uses f32; the difference is far below the
//! rounding of the angles themselves. Settings are spelled `rope_parameters` today, and `rope_theta` beside `rope_scaling`
//! (kind under `rope_type` or `type`) before.
//!
//! Two kinds change their frequencies with the length of the sequence. A model file has one set, so the context decides which:
//!
//! - `dynamic` is the plain rotation up to `max_position_embeddings`, and the context is limited to that: within it the answers are
//!   exact.
//! - `longrope` has short factors up to the original context and long factors above. A context within the original one (the
//!   default) gets the short factors and is exact; a longer one gets the long factors from the first position on, which is exact for
//!   texts that outgrow the original context.

use std::f64::consts::TAU;

use super::fields::{Fields, MAX_SIZE};
use super::{CheckpointError, Rope};

const DEFAULT_THETA: f64 = 10_000.0;
const SUPPORTED: &str = "supported are default, linear, dynamic, yarn, longrope and llama3";

/// The context and rotation of a model.
pub(super) struct Positions {
    pub(super) context: usize,
    pub(super) rope: Rope,
}

/// What every kind of rotation is computed from.
struct Inputs<'a> {
    /// The settings of the kind itself.
    own: Fields<'a>,
    head_dim: usize,
    theta: f64,
    /// `max_position_embeddings`.
    longest: usize,
    /// `original_max_position_embeddings`, by default the same.
    original: usize,
}

/// Reads the settings and settles the context; `longest` is `max_position_embeddings`.
pub(super) fn read(
    config: Fields<'_>,
    head_dim: usize,
    longest: usize,
    asked: Option<usize>,
) -> Result<Positions, CheckpointError> {
    let scaling = config.object("rope_scaling", "rope_scaling.")?;
    let own = match scaling {
        Some(own) => Some(own),
        None => config.object("rope_parameters", "rope_parameters.")?,
    };
    let within = own.map(|own| own.positive("rope_theta")).transpose()?.flatten();
    let theta = match within {
        Some(theta) => theta,
        None => config.positive("rope_theta")?.unwrap_or(DEFAULT_THETA),
    };
    let kind = own.map_or(Ok("default"), kind)?;
    let own = own.unwrap_or(config);
    for fields in [config, own] {
        if fields.number("partial_rotary_factor")?.is_some_and(|part| part != 1.0) {
            return Err(fields.unsupported("partial_rotary_factor", "heads that rotate as a whole (1) are supported"));
        }
    }
    let original = match config.size("original_max_position_embeddings", MAX_SIZE)? {
        Some(original) => original,
        None => own.size("original_max_position_embeddings", MAX_SIZE)?.unwrap_or(longest),
    };
    let inputs = Inputs { own, head_dim, theta, longest, original };
    let context = inputs.context(kind, asked)?;
    let rope = inputs.rope(kind, context)?;
    // Extreme but well-formed settings can still overflow.
    let sane = rope.inv_freq.iter().all(|f| f.is_finite() && *f >= 0.0);
    if !sane || !rope.magnitude.is_finite() || rope.magnitude < 0.0 {
        return Err(config.bad("rope_theta", "rotary settings whose frequencies are finite and not negative"));
    }
    Ok(Positions { context, rope })
}

fn kind(own: Fields<'_>) -> Result<&str, CheckpointError> {
    if let Some((key, _)) = own.iter().find(|(_, value)| value.is_object()) {
        return Err(own.unsupported(key, "one rotation for all layers is supported"));
    }
    if own.get("mrope_section").is_some() {
        return Err(own.unsupported("mrope_section", "positions of one dimension are supported"));
    }
    let key = if own.get("rope_type").is_some() { "rope_type" } else { "type" };
    let kind = own.text(key)?.unwrap_or("default");
    match kind {
        "default" | "linear" | "dynamic" | "yarn" | "longrope" | "llama3" => Ok(kind),
        // The name longrope had in the first Phi-3 checkpoints.
        "su" => Ok("longrope"),
        _ => Err(own.unsupported(key, SUPPORTED)),
    }
}

impl Inputs<'_> {
    fn context(&self, kind: &str, asked: Option<usize>) -> Result<usize, CheckpointError> {
        let limit = self.longest;
        match asked {
            None if kind == "longrope" => Ok(self.original.min(limit)),
            None => Ok(limit),
            Some(asked) if (1..=limit).contains(&asked) => Ok(asked),
            Some(asked) => Err(CheckpointError::ContextTooLong { asked, limit, reason: "max_position_embeddings" }),
        }
    }

    fn rope(&self, kind: &str, context: usize) -> Result<Rope, CheckpointError> {
        let plain = self.plain();
        let factor = || self.own.positive("factor")?.ok_or_else(|| self.own.missing("factor", "a number above zero"));
        let turns = |inv_freq| Ok(Rope { inv_freq, magnitude: 1.0 });
        match kind {
            "linear" => {
                let factor = factor()?;
                turns(plain.iter().map(|f| f / factor).collect())
            }
            "llama3" => turns(self.llama3(&plain, factor()?)?),
            "yarn" => self.yarn(&plain),
            "longrope" => self.longrope(&plain, context),
            _ => turns(plain),
        }
    }

    /// `theta^(-2 i / head_dim)`.
    fn plain(&self) -> Vec<f64> {
        let dim = self.head_dim as f64;
        (0..self.head_dim / 2).map(|i| self.theta.powf(-2.0 * i as f64 / dim)).collect()
    }

    /// Slow pairs are slowed by `factor`, fast ones stay, those between are blended (Llama 3.1).
    fn llama3(&self, plain: &[f64], factor: f64) -> Result<Vec<f64>, CheckpointError> {
        let setting = |key: &str| self.own.positive(key)?.ok_or_else(|| self.own.missing(key, "a number above zero"));
        let (low, high) = (setting("low_freq_factor")?, setting("high_freq_factor")?);
        let original = self.original as f64;
        let one = |&f: &f64| {
            let wavelength = TAU / f;
            if wavelength > original / low {
                f / factor
            } else if wavelength < original / high {
                f
            } else {
                let blend = (original / wavelength - low) / (high - low);
                (1.0 - blend) * f / factor + blend * f
            }
        };
        Ok(plain.iter().map(one).collect())
    }

    /// The factor by which the context was stretched.
    fn stretch(&self) -> Result<f64, CheckpointError> {
        let ratio = self.longest as f64 / self.original as f64;
        Ok(self.own.positive("factor")?.unwrap_or(ratio))
    }

    /// Peng et al., arXiv 2309.00071.
    fn yarn(&self, plain: &[f64]) -> Result<Rope, CheckpointError> {
        let factor = self.stretch()?;
        let (fast, slow) =
            (self.own.positive("beta_fast")?.unwrap_or(32.0), self.own.positive("beta_slow")?.unwrap_or(1.0));
        let dim = self.head_dim as f64;
        let pair = |rotations: f64| dim * (self.original as f64 / (rotations * TAU)).ln() / (2.0 * self.theta.ln());
        let (mut low, mut high) = (pair(fast), pair(slow));
        if self.own.flag("truncate")?.unwrap_or(true) {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        let blend = |(i, f): (usize, &f64)| {
            let slowed = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            f / factor * slowed + f * (1.0 - slowed)
        };
        let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let magnitude = match self.own.number("attention_factor")? {
            Some(given) => given,
            None => match (self.own.number("mscale")?, self.own.number("mscale_all_dim")?) {
                (Some(one), Some(all)) if one != 0.0 && all != 0.0 => magnitude(one) / magnitude(all),
                _ => magnitude(1.0),
            },
        };
        Ok(Rope { inv_freq: plain.iter().enumerate().map(blend).collect(), magnitude: magnitude as f32 })
    }

    /// Ding et al., arXiv 2402.13753.
    fn longrope(&self, plain: &[f64], context: usize) -> Result<Rope, CheckpointError> {
        let key = if context > self.original { "long_factor" } else { "short_factor" };
        let factors = self.own.positives(key, plain.len())?;
        let stretch = self.stretch()?;
        let magnitude = match self.own.number("attention_factor")? {
            Some(given) => given,
            None if stretch <= 1.0 => 1.0,
            None => (1.0 + stretch.ln() / (self.original as f64).ln()).sqrt(),
        };
        let inv_freq = plain.iter().zip(factors).map(|(f, factor)| f / factor).collect();
        Ok(Rope { inv_freq, magnitude: magnitude as f32 })
    }
}
