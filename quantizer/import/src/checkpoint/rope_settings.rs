//! The rotary settings of config.json, in all their spellings.
//!
//! Today: one object `rope_parameters`. Before: `rope_theta` at the top and an
//! object `rope_scaling`, with the kind under `rope_type`, or `type` in the
//! oldest files. Where several are there, the same one wins as in
//! `transformers`. What the kinds mean is the matter of [`super::rope`].

use super::CheckpointError;
use super::fields::{Fields, MAX_SIZE};

const DEFAULT_THETA: f64 = 10_000.0;
const SUPPORTED: &str =
    "supported are default, linear, dynamic, yarn, longrope, llama3 and proportional";

/// Everything a rotation is computed from.
#[derive(Debug)]
pub(super) struct RopeSettings {
    pub(super) theta: f64,
    pub(super) head_dim: usize,
    /// `max_position_embeddings`.
    pub(super) longest: usize,
    /// The context before scaling; `longest` unless told.
    pub(super) original: usize,
    pub(super) scaling: Scaling,
}

/// The kinds of scaling, with their own settings and defaults.
#[derive(Debug)]
pub(super) enum Scaling {
    Default,
    Linear {
        factor: f64,
    },
    /// Its factor acts beyond the context only.
    Dynamic,
    Yarn(Yarn),
    Longrope(Longrope),
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
    },
    Proportional {
        factor: f64,
        /// The part of a head that turns.
        part: f64,
    },
}

#[derive(Debug)]
pub(super) struct Yarn {
    /// None: the ratio of the contexts.
    pub(super) factor: Option<f64>,
    pub(super) attention_factor: Option<f64>,
    /// `mscale` and `mscale_all_dim`, which count together only.
    pub(super) mscales: Option<(f64, f64)>,
    pub(super) beta_fast: f64,
    pub(super) beta_slow: f64,
    pub(super) truncate: bool,
}

#[derive(Debug)]
pub(super) struct Longrope {
    pub(super) short_factor: Vec<f64>,
    pub(super) long_factor: Vec<f64>,
    /// None: the ratio of the contexts.
    pub(super) factor: Option<f64>,
    pub(super) attention_factor: Option<f64>,
}

impl RopeSettings {
    /// Reads the settings; `longest` is `max_position_embeddings`.
    pub(super) fn read(
        config: Fields<'_>,
        head_dim: usize,
        longest: usize,
    ) -> Result<Self, CheckpointError> {
        let own = match config.object("rope_scaling", "rope_scaling.")? {
            Some(own) => Some(own),
            None => config.object("rope_parameters", "rope_parameters.")?,
        };
        let own_theta = own.map_or(Ok(None), |own| own.positive("rope_theta"))?;
        let theta = match own_theta {
            Some(theta) => Some(theta),
            None => config.positive("rope_theta")?,
        };
        let original = match config.size("original_max_position_embeddings", MAX_SIZE)? {
            Some(original) => Some(original),
            None => {
                own.map_or(Ok(None), |own| own.size("original_max_position_embeddings", MAX_SIZE))?
            }
        };
        let scaling = match own {
            Some(own) => {
                one_plain_rotation(own)?;
                scaling(config, own, head_dim)?
            }
            None => {
                whole_heads(config)?;
                Scaling::Default
            }
        };
        Ok(Self {
            theta: theta.unwrap_or(DEFAULT_THETA),
            head_dim,
            longest,
            original: original.unwrap_or(longest),
            scaling,
        })
    }
}

/// Refuses one set of settings for each kind of layer, and positions of several dimensions.
fn one_plain_rotation(own: Fields<'_>) -> Result<(), CheckpointError> {
    if let Some((key, _)) = own.iter().find(|(_, value)| value.is_object()) {
        return Err(own.unsupported(key, "one rotation for all layers is supported"));
    }
    if own.get("mrope_section").is_some() {
        let supported = "positions of one dimension are supported";
        return Err(own.unsupported("mrope_section", supported));
    }
    Ok(())
}

/// Refuses heads that turn in part: these families have none, but for `proportional`.
fn whole_heads(fields: Fields<'_>) -> Result<(), CheckpointError> {
    match fields.number("partial_rotary_factor")? {
        Some(part) if part != 1.0 => Err(fields.unsupported(
            "partial_rotary_factor",
            "1 is supported, heads that turn as a whole (any part of them with rope_type \
             proportional)",
        )),
        _ => Ok(()),
    }
}

fn scaling(
    config: Fields<'_>,
    own: Fields<'_>,
    head_dim: usize,
) -> Result<Scaling, CheckpointError> {
    let key = match own.get("rope_type") {
        Some(_) => "rope_type",
        None => "type",
    };
    let kind = own.text(key)?.unwrap_or("default");
    if kind == "proportional" {
        return proportional(config, own);
    }
    whole_heads(config)?;
    whole_heads(own)?;
    match kind {
        "default" => Ok(Scaling::Default),
        "linear" => Ok(Scaling::Linear { factor: required(own, "factor")? }),
        "dynamic" => {
            // Checked although unused: a file without it is not what it says.
            required(own, "factor")?;
            Ok(Scaling::Dynamic)
        }
        "yarn" => Ok(Scaling::Yarn(yarn(own)?)),
        "longrope" => Ok(Scaling::Longrope(Longrope {
            short_factor: own.positives("short_factor", head_dim / 2)?,
            long_factor: own.positives("long_factor", head_dim / 2)?,
            factor: own.positive("factor")?,
            attention_factor: attention_factor(own)?,
        })),
        "llama3" => Ok(Scaling::Llama3 {
            factor: required(own, "factor")?,
            low_freq_factor: required(own, "low_freq_factor")?,
            high_freq_factor: required(own, "high_freq_factor")?,
        }),
        _ => Err(own.unsupported(key, SUPPORTED)),
    }
}

fn proportional(config: Fields<'_>, own: Fields<'_>) -> Result<Scaling, CheckpointError> {
    let part = match own.number("partial_rotary_factor")? {
        Some(part) => Some(part),
        None => config.number("partial_rotary_factor")?,
    };
    let part = part.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&part) {
        return Err(own.bad("partial_rotary_factor", "a number from 0 to 1"));
    }
    Ok(Scaling::Proportional { factor: own.positive("factor")?.unwrap_or(1.0), part })
}

fn yarn(own: Fields<'_>) -> Result<Yarn, CheckpointError> {
    // Zero means "not given" for these four.
    let given = |key| Ok::<_, CheckpointError>(own.number(key)?.filter(|x| *x != 0.0));
    let turns = |key, default| match given(key)? {
        Some(turns) if turns < 0.0 => Err(own.bad(key, "a number above zero")),
        turns => Ok(turns.unwrap_or(default)),
    };
    Ok(Yarn {
        factor: own.positive("factor")?,
        attention_factor: attention_factor(own)?,
        mscales: given("mscale")?.zip(given("mscale_all_dim")?),
        beta_fast: turns("beta_fast", 32.0)?,
        beta_slow: turns("beta_slow", 1.0)?,
        truncate: own.flag("truncate")?.unwrap_or(true),
    })
}

fn required(own: Fields<'_>, key: &str) -> Result<f64, CheckpointError> {
    own.positive(key)?.ok_or_else(|| own.missing(key, "a number above zero"))
}

fn attention_factor(own: Fields<'_>) -> Result<Option<f64>, CheckpointError> {
    own.positive("attention_factor")
}
