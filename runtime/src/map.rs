//! A file as memory: read by the pages that are touched, shared between processes, never copied.

#![allow(unsafe_code, reason = "the one place where a file becomes memory")]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// Opens a regular file; its length. A pipe would keep the caller waiting for ever.
pub(crate) fn regular(path: &Path) -> io::Result<(File, u64)> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok((File::open(path)?, metadata.len()))
}

/// A memory-mapped file.
#[derive(Debug)]
pub struct Map(memmap2::Mmap);

impl Map {
    /// Maps a file for reading. [`Memory::read`](crate::Memory::read) needs no promise: it copies.
    ///
    /// # Safety
    /// As long as the map exists, no one changes the file's bytes or cuts it, this process or
    /// another: the map lends them as a slice, and a [`str`] in them, once found to be UTF-8, must
    /// stay it. Writers of `.kinglet` files keep this for others: they rename a finished file into
    /// place, which leaves the file that is mapped as it is.
    ///
    /// Where it is broken all the same, numbers change, structures are found to be wrong when they
    /// are looked at next, and a file that was cut ends the program (SIGBUS).
    ///
    /// # Errors
    /// Those of opening and mapping the file.
    pub unsafe fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let (file, _) = regular(path.as_ref())?;
        // SAFETY: a map of a file is sound as long as nothing changes the file, which the caller
        // promises for as long as this map exists.
        unsafe { memmap2::Mmap::map(&file) }.map(Self)
    }
}

impl Map {
    /// Gives the pages that were read back to the system. They are read again when they are
    /// touched; nothing else changes. Does nothing where the system has no such call.
    pub fn release(&self) {
        #[cfg(unix)]
        // SAFETY: the map is read-only and backed by a file, so its pages are clean copies of the
        // file: dropping them cannot lose data, and borrowed bytes stay what they are. Refused
        // advice is harmless.
        let _ = unsafe { self.0.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
