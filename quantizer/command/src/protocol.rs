//! What to evaluate on.

use std::path::PathBuf;

/// What to evaluate on.
#[derive(clap::Args)]
pub(crate) struct On {
    /// A UTF-8 text; for all but language models, one input per line
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Option<PathBuf>,
    /// Use only the first N tokens of the text
    #[arg(long, value_name = "N")]
    pub(crate) tokens: Option<usize>,
    /// Tokens per window
    #[arg(long, value_name = "N", default_value_t = 255)]
    pub(crate) window: usize,
    /// Store values in the cache in four bits (keys in eight), to measure the loss
    #[arg(long)]
    pub(crate) int4_values: bool,
    /// Read the text, or each input, as token ids, separated by commas
    #[arg(long)]
    pub(crate) ids: bool,
}
