//! Why a tokenizer could not be imported. Each message names the field, what is supported, and what
//! to do.

use std::path::PathBuf;

use kinglet_tokenizer::TokenizerError;

/// Why a tokenizer could not be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerImportError {
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file of absurd length.
    #[error("{} is {bytes} bytes long, more than the {limit} that any such file needs: it is not \
             what its name says", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The longest accepted.
        limit: u64,
    },
    /// Not JSON, or not the JSON expected.
    #[error("{file} cannot be read: {source}; fetch it again")]
    Json {
        /// The file.
        file: String,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// A setting that the runtime cannot follow exactly.
    #[error("{field} is {found}, which is not supported; supported: {supported}")]
    Unsupported {
        /// The file and the dotted name of the setting.
        field: String,
        /// What was found, abbreviated.
        found: String,
        /// What would be accepted, and what to do.
        supported: String,
    },
    /// A value that contradicts the file's own rules.
    #[error("{field}: {problem}")]
    Bad {
        /// The file and the dotted name of the setting.
        field: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The file that the tokenizer is part of cannot be read.
    #[error(transparent)]
    Source(Box<dyn std::error::Error + Send + Sync>),
    /// The section that was written does not pass the runtime's own check.
    #[error(
        "the tokenizer section that was written is not valid ({0}); this is a defect of the \
         importer, please report it"
    )]
    Section(#[from] TokenizerError),
}

impl TokenizerImportError {
    pub(crate) fn unsupported(field: &str, found: impl Into<String>, supported: &str) -> Self {
        Self::Unsupported {
            field: field.into(),
            found: short(&found.into()),
            supported: supported.into(),
        }
    }

    pub(crate) fn bad(field: &str, problem: impl Into<String>) -> Self {
        Self::Bad { field: field.into(), problem: problem.into() }
    }
}

/// A value that fits a message.
pub(super) fn short(text: &str) -> String {
    const LIMIT: usize = 160;
    match text.char_indices().nth(LIMIT) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.into(),
    }
}
