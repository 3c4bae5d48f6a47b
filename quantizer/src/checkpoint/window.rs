//! Sliding windows: accepted where they change nothing.
//!
//! A layer whose window is as long as the context sees all of it. Anything
//! shorter would need a cache that forgets, which blocks cannot say.

use serde_json::Value;

use super::CheckpointError;
use super::family::Window;
use super::fields::{Fields, MAX_SIZE};

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// Checks that every layer attends to the whole context.
pub(super) fn check(
    fields: Fields<'_>,
    window: Window,
    layers: usize,
    context: usize,
) -> Result<(), CheckpointError> {
    let window = in_force(fields, window, layers)?;
    if window.is_none_or(|window| window >= context) {
        return layer_types(fields, window.is_some());
    }
    Err(fields.unsupported(
        "sliding_window",
        &format!(
            "the window ({}) must not be smaller than the context ({context}): \
             ask for a context no longer than the window, or set it to null to attend to \
             everything",
            window.unwrap_or_default()
        ),
    ))
}

/// The window of those layers that have one.
fn in_force(
    fields: Fields<'_>,
    window: Window,
    layers: usize,
) -> Result<Option<usize>, CheckpointError> {
    const KEY: &str = "sliding_window";
    let off = fields.is_null(KEY);
    match window {
        Window::Plain(default) => {
            let given = fields.size(KEY, MAX_SIZE)?;
            Ok(given.or(default.filter(|_| !off)))
        }
        Window::Switched { window, full_layers } => {
            // The number stays in the file when the switch is off, and need not make sense.
            if off || fields.flag("use_sliding_window")? != Some(true) {
                return Ok(None);
            }
            let window = fields.size(KEY, MAX_SIZE)?.unwrap_or(window);
            let listed = fields.get("layer_types").is_some();
            let full_layers = match fields.get("max_window_layers").and_then(Value::as_u64) {
                Some(0) => 0,
                _ => fields.size("max_window_layers", MAX_SIZE)?.unwrap_or(full_layers),
            };
            let slides = match listed {
                true => lists_sliding(fields),
                false => full_layers < layers,
            };
            Ok(slides.then_some(window))
        }
    }
}

fn lists_sliding(fields: Fields<'_>) -> bool {
    let types = fields.get("layer_types").and_then(Value::as_array);
    types.is_some_and(|types| types.iter().any(|kind| kind == SLIDING))
}

/// Refuses layers of kinds that are not attention over everything.
fn layer_types(fields: Fields<'_>, harmless_window: bool) -> Result<(), CheckpointError> {
    const KEY: &str = "layer_types";
    let Some(types) = fields.get(KEY) else {
        return Ok(());
    };
    let types = types.as_array().ok_or_else(|| fields.bad(KEY, "a list"))?;
    let plain = |kind: &Value| kind == FULL || (harmless_window && kind == SLIDING);
    match types.iter().all(plain) {
        true => Ok(()),
        false => Err(fields.unsupported(
            KEY,
            "layers of full_attention are supported (sliding_attention with a window of the \
             context or more)",
        )),
    }
}
