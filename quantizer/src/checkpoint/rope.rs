//! Rotary positions: from the settings of config.json to one frequency a pair.
//!
//! Follows the definitions of `transformers` (`ROPE_INIT_FUNCTIONS`), computed
//! in f64 where it uses f32; the difference is far below the rounding of the
//! angles themselves. Settings are spelled `rope_parameters` today, and
//! `rope_theta` beside `rope_scaling` (kind under `rope_type` or `type`) before.
//!
//! Two kinds change their frequencies with the length of the sequence. A model
//! file has one set, so the context decides which:
//!
//! - `dynamic` is the plain rotation up to `max_position_embeddings`, and the
//!   context is limited to that: within it the answers are exact.
//! - `longrope` has short factors up to the original context and long factors
//!   above. A context within the original one (the default) gets the short
//!   factors and is exact; a longer one gets the long factors from the first
//!   position on, which is exact for texts that outgrow the original context.

use std::f64::consts::TAU;

use super::fields::{Fields, MAX_SIZE};
use super::{CheckpointError, Rope};

const DEFAULT_THETA: f64 = 10_000.0;
const SUPPORTED: &str =
    "supported are default, linear, dynamic, yarn, longrope, llama3 and proportional";

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
    // In this order, as the reference does when both spellings are there.
    let own = match config.object("rope_scaling", "rope_scaling.")? {
        Some(own) => Some(own),
        None => config.object("rope_parameters", "rope_parameters.")?,
    };
    let theta = match own.map(|own| own.positive("rope_theta")).transpose()? {
        Some(Some(theta)) => theta,
        _ => config.positive("rope_theta")?.unwrap_or(DEFAULT_THETA),
    };
    let own = own.unwrap_or(config);
    let kind = kind(config, own)?;
    let original = match config.size("original_max_position_embeddings", MAX_SIZE)? {
        Some(original) => original,
        None => own
            .size("original_max_position_embeddings", MAX_SIZE)?
            .unwrap_or(longest),
    };
    let inputs = Inputs {
        own,
        head_dim,
        theta,
        longest,
        original,
    };
    let context = settle_context(&inputs, kind, asked)?;
    let rope = inputs.rope(kind, context)?;
    // Extreme but well-formed settings can still overflow.
    let finite = rope.inv_freq.iter().all(|f| f.is_finite() && *f >= 0.0);
    if !finite || !rope.magnitude.is_finite() {
        return Err(config.bad(
            "rope_theta",
            "rotary settings whose frequencies are finite and not negative",
        ));
    }
    Ok(Positions { context, rope })
}

fn kind<'a>(config: Fields<'a>, own: Fields<'a>) -> Result<&'a str, CheckpointError> {
    if let Some((key, _)) = own
        .iter()
        .find(|(key, value)| value.is_object() && own.names_rotation(config) && !key.is_empty())
    {
        return Err(own.unsupported(key, "one rotation for all layers is supported"));
    }
    let key = if own.get("rope_type").is_some() {
        "rope_type"
    } else {
        "type"
    };
    let kind = if own.names_rotation(config) {
        own.text(key)?.unwrap_or("default")
    } else {
        "default"
    };
    let known = [
        "default",
        "linear",
        "dynamic",
        "yarn",
        "longrope",
        "llama3",
        "proportional",
    ];
    if !known.contains(&kind) {
        return Err(own.unsupported(key, SUPPORTED));
    }
    if own.get("mrope_section").is_some() {
        return Err(own.unsupported("mrope_section", "positions of one dimension are supported"));
    }
    // Only `proportional` can leave part of a head unrotated in these families.
    for fields in [config, own] {
        let part = fields.number("partial_rotary_factor")?;
        if kind != "proportional" && part.is_some_and(|part| part != 1.0) {
            return Err(fields.unsupported(
                "partial_rotary_factor",
                "1, heads that rotate as a whole, is supported (or rope_type proportional)",
            ));
        }
    }
    Ok(kind)
}

fn settle_context(
    inputs: &Inputs<'_>,
    kind: &str,
    asked: Option<usize>,
) -> Result<usize, CheckpointError> {
    let default = match kind {
        "longrope" => inputs.original.min(inputs.longest),
        _ => inputs.longest,
    };
    match asked {
        None => Ok(default),
        Some(asked) if (1..=inputs.longest).contains(&asked) => Ok(asked),
        Some(asked) => Err(CheckpointError::ContextTooLong {
            asked,
            limit: inputs.longest,
            reason: "max_position_embeddings",
        }),
    }
}
