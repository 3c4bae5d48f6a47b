//! A file as memory: read by the pages that are touched, shared between processes, never copied.

#![allow(unsafe_code, reason = "the one place where a file becomes memory")]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// A memory-mapped file.
#[derive(Debug)]
pub struct Map(memmap2::Mmap);

impl Map {
    /// Maps a file for reading.
    ///
    /// # Errors
    /// Those of opening and mapping the file.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        // A pipe would keep the caller waiting for ever.
        if !std::fs::metadata(&path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let file = File::open(path)?;
        // SAFETY: the map is only ever read as bytes, and every structure in it is checked again
        // each time it is used, so another process that changes the file can change results but
        // nothing else. A file that is truncated while mapped raises SIGBUS on access, as for every
        // program that maps files; writers of `.kinglet` files rename a finished file into place
        // and never truncate one.
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
