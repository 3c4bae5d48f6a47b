//! The part of a vocabulary that a text needs, and how a file says which part it has.
//!
//! A model that is to speak of little carries rows of embedding and head for tokens that never
//! come. [`of_text`] finds those that have to stay, [`Checkpoint::keep_tokens`] takes the others
//! out, and the metadata of the file lists what was kept under [`KEY`]: ids of the checkpoint as
//! ascending ranges, `0-5,9,12-80`. [`follow`] cuts another copy of the checkpoint down to the same
//! tokens.

use std::path::PathBuf;

use kinglet_model::Model;
use kinglet_tokenizer::Tokenizer;
use kinglet_tokenizer::layout::MAX_VOCAB;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::tokenizer::{self, TokenizerImportError};

/// The key of the metadata.
pub const KEY: &str = "vocabulary";

/// Why no part of a vocabulary was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VocabularyError {
    /// Nothing to go by.
    #[error("it is empty: give a text like those that the model is for")]
    Empty,
    /// Not a text.
    #[error("it is not UTF-8 (byte {at}): give a text")]
    NotUtf8 {
        /// The first byte that is not.
        at: usize,
    },
    /// Tokens are not known without a tokenizer.
    #[error("the checkpoint {} has no tokenizer, so the tokens of a text are not known", .0.display())]
    NoTokenizer(PathBuf),
    /// The tokenizer cannot be imported.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerImportError),
    /// The text cannot be encoded.
    #[error("{0}")]
    Encode(String),
    /// A list of ids that is not one.
    #[error(
        "the file's metadata has a list of kept tokens with {0:?}, which is no range of ids above \
         the one before it"
    )]
    Ranges(String),
    /// The checkpoint does not have such tokens.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// The tokens of a checkpoint that are needed to encode `text` as before, and any other text
/// somehow; ascending.
///
/// # Errors
/// [`VocabularyError`].
pub fn of_text(checkpoint: &Checkpoint, text: &[u8]) -> Result<Vec<u32>, VocabularyError> {
    let text =
        std::str::from_utf8(text).map_err(|e| VocabularyError::NotUtf8 { at: e.valid_up_to() })?;
    if text.is_empty() {
        return Err(VocabularyError::Empty);
    }
    let section = checkpoint.tokenizer()?;
    if section.is_empty() {
        return Err(VocabularyError::NoTokenizer(checkpoint.path().to_path_buf()));
    }
    let parsed = Tokenizer::parse(&section).map_err(TokenizerImportError::from)?;
    let mut tokens = crate::text::encode(&parsed, text, false)
        .map_err(|e| VocabularyError::Encode(e.to_string()))?;
    // The settings may begin and end texts otherwise than the tokenizer.
    let architecture = checkpoint.architecture();
    tokens.extend(architecture.bos.iter().chain(&architecture.eos));
    tokens.sort_unstable();
    tokens.dedup();
    Ok(tokenizer::closure(&section, &tokens)?)
}

/// The tokens of its checkpoint that a file kept; `None` if it kept all.
///
/// # Errors
/// [`VocabularyError::Ranges`].
pub fn of_file(model: &Model<'_>) -> Result<Option<Vec<u32>>, VocabularyError> {
    let found = model.metadata().find(|(key, _)| *key == KEY);
    found.map(|(_, ranges)| from_ranges(ranges)).transpose()
}

/// Cuts a whole checkpoint down to the tokens of a file that was made from it.
///
/// # Errors
/// [`VocabularyError`].
pub fn follow(checkpoint: &mut Checkpoint, model: &Model<'_>) -> Result<(), VocabularyError> {
    match of_file(model)? {
        Some(kept) => Ok(checkpoint.keep_tokens(kept)?),
        None => Ok(()),
    }
}

/// Ascending ids as text.
pub fn to_ranges(ids: &[u32]) -> String {
    let runs = ids.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        one => one.iter().map(u32::to_string).collect(),
    });
    runs.collect::<Vec<_>>().join(",")
}

/// The ids of such a text.
fn from_ranges(text: &str) -> Result<Vec<u32>, VocabularyError> {
    let mut ids: Vec<u32> = vec![];
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let bounds = first.parse::<u32>().ok().zip(last.parse::<u32>().ok());
        // Bounded, as the text may promise more than there is memory.
        let rises = |&(first, last): &(u32, u32)| {
            first <= last && last < MAX_VOCAB && ids.last() < Some(&first)
        };
        let refuse = || VocabularyError::Ranges(range.chars().take(40).collect());
        let (first, last) = bounds.filter(rises).ok_or_else(refuse)?;
        ids.extend(first..=last);
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_written() {
        for (ids, text) in
            [(&[0, 1, 2, 5, 9, 10][..], "0-2,5,9-10"), (&[7], "7"), (&[0, 2, 4], "0,2,4")]
        {
            assert_eq!(to_ranges(ids), text);
            assert_eq!(from_ranges(text).unwrap(), ids);
        }
        for bad in
            ["", "x", "3-", "-3", "5-4", "1,1", "0-3,3", "1,,2", "0-4294967295", "9,2", "1-2-3"]
        {
            assert!(matches!(from_ranges(bad), Err(VocabularyError::Ranges(_))), "{bad}");
        }
    }
}
