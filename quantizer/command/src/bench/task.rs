//! What is measured.

use serde::Serialize;

/// What is measured.
#[derive(Clone, Copy, Serialize)]
#[serde(tag = "work", rename_all = "lowercase")]
pub(super) enum Task {
    Source { rows: usize },
    Prefill { tokens: usize },
    Decode { depth: usize, tokens: usize },
}
