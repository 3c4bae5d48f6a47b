//! Sliding windows: what each layer's queries see.
//!
//! A layer whose window is as long as the context sees all of it, and is an ordinary one.

use kinglet_model::Mask;
use serde_json::Value;

use super::CheckpointError;
use super::family::Window;
use super::fields::{Fields, MAX_SIZE};

const WINDOW: &str = "sliding_window";
const TYPES: &str = "layer_types";
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// The mask of each layer.
pub(super) fn masks(
    fields: Fields<'_>,
    window: Window,
    layers: usize,
    context: usize,
) -> Result<Vec<Mask>, CheckpointError> {
    let (size, first) = in_force(fields, window, layers, context)?;
    let slides = match fields.get(TYPES) {
        None => (0..layers).map(|layer| size.is_some() && layer >= first).collect(),
        Some(_) => listed(fields, layers, size.is_some())?,
    };
    let size = size.filter(|&size| size < context).and_then(|size| u32::try_from(size).ok());
    let mask = |slides: bool| size.filter(|_| slides).map_or(Mask::Causal, Mask::Window);
    Ok(slides.into_iter().map(mask).collect())
}

/// The window of those layers that have one, and the first that has it where they are not listed.
fn in_force(
    fields: Fields<'_>,
    window: Window,
    layers: usize,
    context: usize,
) -> Result<(Option<usize>, usize), CheckpointError> {
    let off = fields.is_null(WINDOW);
    match window {
        Window::Ignored => {
            let given = fields.size(WINDOW, MAX_SIZE)?;
            match given.filter(|&given| given < context) {
                None => Ok((given, 0)),
                Some(given) => Err(fields.unsupported(
                    WINDOW,
                    &format!(
                        "the family has no windows, and this one ({given}) must not be smaller \
                         than the context ({context}): ask for a context no longer than the \
                         window, or set it to null to attend to everything"
                    ),
                )),
            }
        }
        Window::Plain(default) => {
            let given = fields.size(WINDOW, MAX_SIZE)?;
            Ok((given.or(default.filter(|_| !off)), 0))
        }
        Window::Switched { window, full_layers } => {
            // The number stays in the file when the switch is off, and need not make sense.
            if off || fields.flag("use_sliding_window")? != Some(true) {
                return Ok((None, layers));
            }
            let window = fields.size(WINDOW, MAX_SIZE)?.unwrap_or(window);
            let full_layers = match fields.get("max_window_layers").and_then(Value::as_u64) {
                Some(0) => 0,
                _ => fields.size("max_window_layers", MAX_SIZE)?.unwrap_or(full_layers),
            };
            Ok((Some(window), full_layers))
        }
    }
}

/// Which layers slide, where they are listed; `window` says whether there is one to slide.
fn listed(fields: Fields<'_>, layers: usize, window: bool) -> Result<Vec<bool>, CheckpointError> {
    let wrong = || fields.bad(TYPES, "a list with a name for each layer");
    let types = fields.get(TYPES).and_then(Value::as_array).ok_or_else(wrong)?;
    let slides = types.iter().map(|kind| match kind.as_str() {
        Some(FULL) => Ok(false),
        Some(SLIDING) if window => Ok(true),
        _ => Err(fields.unsupported(
            TYPES,
            "layers of full_attention are supported, and sliding_attention with a sliding_window",
        )),
    });
    let slides: Vec<bool> = slides.collect::<Result<_, _>>()?;
    if slides.len() == layers { Ok(slides) } else { Err(wrong()) }
}
