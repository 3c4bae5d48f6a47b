//! Reading whole files: regular ones, since a pipe or a device could keep a reader waiting for
//! ever, and none longer than its kind can be, since what is parsed takes many times its bytes.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// What a file is, and with it how long it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Settings as a person or a program writes them down.
    Settings,
    /// A tokenizer with its vocabulary and merges.
    Tokenizer,
    /// What was measured: a record of quantization, a report.
    Record,
    /// A text or a list, to calibrate, to evaluate or to learn from.
    Text,
}

impl Kind {
    /// The most bytes of such a file.
    pub const fn limit(self) -> u64 {
        match self {
            // Of files in use, the longest has a hundredth.
            Self::Settings => 8 << 20,
            // Twice the longest in use.
            Self::Tokenizer => 64 << 20,
            Self::Record => 256 << 20,
            Self::Text => 1 << 30,
        }
    }
}

/// The bytes of a regular file.
///
/// # Errors
/// It is a pipe, a device or a directory, it is longer than its kind can be, or what the operating
/// system says.
pub fn read(path: &Path, kind: Kind) -> Result<Vec<u8>> {
    let refused = |what: String| Err(Error::new(ErrorKind::InvalidInput, what));
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return refused("it is not a regular file".to_owned());
    }
    let limit = kind.limit();
    let mut bytes = vec![];
    if metadata.len() <= limit {
        // The file may grow in between.
        File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    }
    let found = metadata.len().max(bytes.len() as u64);
    if found > limit {
        return refused(format!(
            "it has {found} bytes, and at most {limit} are read of such a file"
        ));
    }
    Ok(bytes)
}

/// The text of a regular file.
///
/// # Errors
/// As [`read`]; and it is not UTF-8.
pub fn read_to_string(path: &Path, kind: Kind) -> Result<String> {
    String::from_utf8(read(path, kind)?).map_err(|error| Error::new(ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_absurd_length_is_refused_and_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings.json");
        let file = File::create(&path).unwrap();
        file.set_len(Kind::Settings.limit()).unwrap();
        assert_eq!(read(&path, Kind::Settings).unwrap().len() as u64, Kind::Settings.limit());
        // No disk has as much.
        file.set_len(1 << 40).unwrap();
        for kind in [Kind::Settings, Kind::Tokenizer, Kind::Record, Kind::Text] {
            let said = read(&path, kind).unwrap_err().to_string();
            assert!(said.contains(&kind.limit().to_string()), "{said}");
            assert!(said.contains("1099511627776"), "{said}");
        }
    }
}
