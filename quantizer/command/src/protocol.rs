//! What to evaluate on.

use std::path::PathBuf;

/// What to evaluate on.
#[derive(clap::Args)]
pub(crate) struct On {
    /// A UTF-8 text; of models that do not continue texts, an input on each line
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Option<PathBuf>,
    /// Use the first N tokens of the text only
    #[arg(long, value_name = "N")]
    pub(crate) tokens: Option<usize>,
    /// Tokens of a window
    #[arg(long, value_name = "N", default_value_t = 255)]
    pub(crate) window: usize,
    /// Keep values in the cache in four bits (keys have eight), to see what that costs
    #[arg(long)]
    pub(crate) int4_values: bool,
    /// The text, or each input, is token numbers with commas between them
    #[arg(long)]
    pub(crate) ids: bool,
}
