//! Settings that several families have, under their names.

use std::sync::Arc;

use serde_json::Value;

use super::fields::{Fields, MAX_SIZE};
use super::{Activation, CheckpointError, Values};

/// The most numbers of a table of positions that is computed.
const MAX_TABLE: usize = 1 << 26;
/// The context of a model that has no longest one.
pub(super) const DEFAULT_CONTEXT: usize = 512;

/// Refuses weights that are not plain, heads that are missing, and these settings unless they are
/// off.
pub(super) fn refuse(fields: Fields<'_>, switches: &[(&str, &str)]) -> Result<(), CheckpointError> {
    const PRUNED: &str = "pruned_heads";
    if fields
        .get(PRUNED)
        .is_some_and(|heads| heads.as_object().is_none_or(|heads| !heads.is_empty()))
    {
        return Err(fields.unsupported(PRUNED, "layers with all their heads are supported"));
    }
    refuse_switched_on(
        fields,
        &[("quantization_config", UNQUANTIZED), ("compression_config", UNQUANTIZED)],
    )?;
    refuse_switched_on(fields, switches)
}

/// Refuses any other text than this, which is also what is meant when there is none.
pub(super) fn only(fields: Fields<'_>, key: &str, text: &str) -> Result<(), CheckpointError> {
    match fields.text(key)? {
        Some(other) if other != text => {
            Err(fields.unsupported(key, &format!("supported is {text:?}")))
        }
        _ => Ok(()),
    }
}

/// A number of heads that divides the width.
pub(super) fn heads(fields: Fields<'_>, key: &str, width: usize) -> Result<usize, CheckpointError> {
    let heads = fields.required_size(key, MAX_SIZE)?;
    match width.is_multiple_of(heads) {
        true => Ok(heads),
        false => Err(fields.bad(key, &format!("a divisor of the width, {width}"))),
    }
}

/// The context: what is asked for, up to the longest, which it is if nothing is asked for.
pub(super) fn context(asked: Option<usize>, longest: usize) -> Result<usize, CheckpointError> {
    match asked {
        Some(asked) if !(1..=longest).contains(&asked) => {
            Err(CheckpointError::Context { asked, limit: longest })
        }
        asked => Ok(asked.unwrap_or(longest)),
    }
}

/// The context of a model for which any is good.
pub(super) fn free_context(asked: Option<usize>, default: usize) -> Result<usize, CheckpointError> {
    context(asked.or(Some(default)), MAX_SIZE)
}

/// The context of a model whose input is always of the same size.
pub(super) fn fixed_context(
    asked: Option<usize>,
    context: usize,
) -> Result<usize, CheckpointError> {
    match asked {
        Some(asked) if asked != context => Err(CheckpointError::FixedContext { asked, context }),
        _ => Ok(context),
    }
}

/// How many classes there are, and their names if they have some.
pub(super) fn labels(fields: Fields<'_>) -> Result<(usize, Vec<String>), CheckpointError> {
    const KEY: &str = "id2label";
    let count = fields.size("num_labels", MAX_SIZE)?;
    let Some(value) = fields.get(KEY) else {
        // As the library has it.
        return Ok((count.unwrap_or(2), vec![]));
    };
    let names = value.as_object().and_then(|names| {
        let name =
            |id: usize| names.get(&id.to_string()).and_then(Value::as_str).map(str::to_owned);
        (0..names.len()).map(name).collect::<Option<Vec<String>>>()
    });
    match names.filter(|names| !names.is_empty() && count.is_none_or(|count| count == names.len()))
    {
        Some(names) => Ok((names.len(), names)),
        None => Err(fields.bad(KEY, "a name for each number from 0 on, as many as num_labels")),
    }
}

/// Sinusoids: sines in the first half of a row, cosines in the second, of the position times each
/// frequency.
pub(super) fn sinusoids(
    rows: usize,
    width: usize,
    first: usize,
    frequency: impl Fn(usize) -> f64,
) -> Result<Values, CheckpointError> {
    if rows.checked_mul(width).is_none_or(|numbers| numbers > MAX_TABLE) {
        return Err(CheckpointError::PositionTable { rows, width });
    }
    let sines = width.div_ceil(2);
    let angle = |row: usize, at: usize| (first + row) as f64 * frequency(at);
    let number = |row: usize, col: usize| match col.checked_sub(sines) {
        None => angle(row, col).sin() as f32,
        Some(col) => angle(row, col).cos() as f32,
    };
    let table = (0..rows).flat_map(|row| (0..width).map(move |col| (row, col)));
    Ok(Values::Computed(Arc::new(table.map(|(row, col)| number(row, col)).collect()), width))
}

/// Deeper than any model; bounds the stack before its tensors are looked up.
pub(super) const MAX_LAYERS: usize = 4096;

pub(super) const UNQUANTIZED: &str =
    "weights must be plain F32, F16 or BF16: use the unquantized checkpoint";

/// Refuses settings that are not off.
pub(super) fn refuse_switched_on(
    fields: Fields<'_>,
    switches: &[(&str, &str)],
) -> Result<(), CheckpointError> {
    for (key, supported) in switches {
        let off = match fields.get(key) {
            None | Some(Value::Bool(false)) => true,
            Some(value) => value.as_f64() == Some(0.0),
        };
        if !off {
            return Err(fields.unsupported(key, supported));
        }
    }
    Ok(())
}

/// What keeps the division of a norm finite.
pub(super) fn eps(fields: Fields<'_>, key: &str, default: f64) -> Result<f32, CheckpointError> {
    match fields.number(key)?.unwrap_or(default) {
        eps if (0.0..=1.0).contains(&eps) => Ok(eps as f32),
        _ => Err(fields.bad(key, "a number from 0 to 1")),
    }
}

/// An activation by the name that `transformers` has for it.
pub(super) fn activation(
    fields: Fields<'_>,
    key: &str,
    default: &str,
) -> Result<Activation, CheckpointError> {
    let name = fields.text(key)?.unwrap_or(default);
    named_activation(name).ok_or_else(|| fields.unsupported(key, ACTIVATIONS))
}

/// The activations, for messages.
pub(super) const ACTIVATIONS: &str =
    "supported are silu, gelu, gelu_pytorch_tanh, quick_gelu, relu and tanh";

/// The activation of this name.
pub(super) fn named_activation(name: &str) -> Option<Activation> {
    match name {
        "silu" | "swish" => Some(Activation::Silu),
        "gelu" => Some(Activation::Gelu),
        // Spellings of one formula.
        "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" | "gelu_tanh" => Some(Activation::GeluTanh),
        "quick_gelu" => Some(Activation::QuickGelu),
        "relu" => Some(Activation::Relu),
        "tanh" => Some(Activation::Tanh),
        _ => None,
    }
}
