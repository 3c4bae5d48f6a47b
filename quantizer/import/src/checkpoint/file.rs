//! Files that are read at positions, by several threads at once.
//!
//! Not mapped into memory: pages of a map count as resident, and a checkpoint
//! several times larger than the memory allowed must pass through unharmed.
//! The one place of the importer that asks for the operating system.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::CheckpointError;

/// Opens a regular file and tells its length.
pub(super) fn open(path: &Path) -> Result<(File, u64), CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    // Before opening: to open a pipe would wait for its other end.
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(CheckpointError::NotAFile { path: path.to_owned() });
    }
    Ok((File::open(path).map_err(io)?, metadata.len()))
}

/// A file that can be read at any position through a shared reference.
#[derive(Debug)]
pub(super) struct PositionedFile {
    path: PathBuf,
    len: u64,
    #[cfg(unix)]
    file: File,
    #[cfg(not(unix))]
    file: std::sync::Mutex<File>,
}

impl PositionedFile {
    /// Opens a regular file.
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let (file, len) = open(path)?;
        #[cfg(not(unix))]
        let file = std::sync::Mutex::new(file);
        Ok(Self { path: path.to_owned(), len, file })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its length when it was opened.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out` from the bytes at `offset`.
    pub(super) fn read_exact_at(&self, out: &mut [u8], offset: u64) -> Result<(), CheckpointError> {
        self.fill(out, offset)
            .map_err(|source| CheckpointError::Io { path: self.path.clone(), source })
    }

    #[cfg(unix)]
    pub(super) fn fill(&self, out: &mut [u8], offset: u64) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, offset)
    }

    #[cfg(not(unix))]
    pub(super) fn fill(&self, out: &mut [u8], offset: u64) -> std::io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        // A poisoned lock is harmless: every read seeks first.
        let mut file = self.file.lock().unwrap_or_else(|held| held.into_inner());
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(out)
    }
}
