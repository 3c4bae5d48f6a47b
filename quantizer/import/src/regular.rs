//! Reading regular files; a pipe or a device could keep a reader waiting for ever.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;

/// The bytes of a regular file.
///
/// # Errors
/// It is a pipe, a device or a directory, or what the operating system says.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    fs::read(path)
}

/// The text of a regular file.
///
/// # Errors
/// As [`read`]; and it is not UTF-8.
pub fn read_to_string(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).map_err(|error| Error::new(ErrorKind::InvalidData, error))
}
