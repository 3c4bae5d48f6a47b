//! Opening files.

use std::fs::File;
use std::path::Path;

use super::MediaError;

/// Opens a regular file; anything else could keep a reader waiting for ever.
pub(super) fn open(path: &Path) -> Result<File, MediaError> {
    let io = |source| MediaError::Io { path: path.into(), source };
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(MediaError::NotAFile { path: path.into() });
    }
    File::open(path).map_err(io)
}
