//! Memory for sessions on a host: asked for instead of taken, counted, and never more than a limit.
//!
//! What a plan needs follows from a file, and a small file may ask for more than there is. So each
//! host program has its memory from here, and a refusal is an error and no abort.

use core::fmt;
use std::io::{self, Read};
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::MmapMut;

use crate::map::regular;

/// The most bytes of all [`Memory`] together.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
/// The bytes of all that there is.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Why there is no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryError {
    /// More than the limit leaves.
    Limit {
        /// Bytes asked for.
        wanted: usize,
        /// Bytes that the limit leaves.
        left: usize,
    },
    /// More than the system gives.
    Refused {
        /// Bytes asked for.
        wanted: usize,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit { wanted, left } => {
                write!(
                    f,
                    "{wanted} bytes of memory are wanted, and the limit leaves {left}: ask for a \
                     smaller context or source, or raise the limit"
                )
            }
            Self::Refused { wanted } => {
                write!(
                    f,
                    "{wanted} bytes of memory are wanted, and this machine does not give them: ask \
                     for a smaller context or source"
                )
            }
        }
    }
}

impl core::error::Error for MemoryError {}

/// Zeroed bytes that start at a multiple of 64.
///
/// ```
/// use kinglet::{Memory, Model, Options, Plan, Session};
///
/// let model = Model::open(&kinglet_fixtures::STORYTELLER.0)?;
/// let options = Options { context: 32, ..Options::DECODE };
/// let mut memory = Memory::new(Plan::new(&model, options)?.bytes())?;
/// let mut session = Session::new(&model, options, memory.bytes())?;
/// session.feed(&[1])?;
///
/// assert!(Memory::new(usize::MAX).is_err());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
// Not `Clone`: a copy may be refused.
#[derive(Debug)]
pub struct Memory {
    map: MmapMut,
    len: usize,
}

impl Memory {
    /// From now on all memory of this process has at most so many bytes together. What there is
    /// already stays.
    pub fn set_limit(bytes: usize) {
        LIMIT.store(bytes, Ordering::Relaxed);
    }

    /// Whether so many bytes more may be taken, for what has its memory from elsewhere.
    ///
    /// # Errors
    /// [`MemoryError::Limit`].
    pub fn afford(wanted: usize) -> Result<(), MemoryError> {
        let left = left(TAKEN.load(Ordering::Relaxed));
        if wanted <= left { Ok(()) } else { Err(MemoryError::Limit { wanted, left }) }
    }

    /// `len` bytes.
    ///
    /// # Errors
    /// [`MemoryError`]: they are more than the limit leaves, or than the system gives.
    pub fn new(len: usize) -> Result<Self, MemoryError> {
        let more = |taken: usize| taken.checked_add(len).filter(|_| len <= left(taken));
        TAKEN
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map_err(|taken| MemoryError::Limit { wanted: len, left: left(taken) })?;
        // Pages of zeros that are given when they are touched; a page starts at a multiple of 64.
        MmapMut::map_anon(len.max(1)).map(|map| Self { map, len }).map_err(|_| {
            TAKEN.fetch_sub(len, Ordering::Relaxed);
            MemoryError::Refused { wanted: len }
        })
    }

    /// A copy of some bytes, where a model file may be opened.
    ///
    /// # Errors
    /// As [`Memory::new`].
    pub fn copy_of(bytes: &[u8]) -> Result<Self, MemoryError> {
        let mut memory = Self::new(bytes.len())?;
        memory.bytes().copy_from_slice(bytes);
        Ok(memory)
    }

    /// A copy of a regular file, which others may change afterwards.
    ///
    /// # Errors
    /// Those of opening and reading the file, and [`MemoryError`] as one of them.
    pub fn read(path: impl AsRef<Path>) -> io::Result<Self> {
        let (mut file, len) = regular(path.as_ref())?;
        let refused = |error| io::Error::new(io::ErrorKind::OutOfMemory, error);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let mut memory = Self::new(len).map_err(refused)?;
        file.read_exact(memory.bytes())?;
        Ok(memory)
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.map[..self.len]
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[..self.len]
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.len, Ordering::Relaxed);
    }
}

/// What the limit leaves of so many bytes that were taken.
fn left(taken: usize) -> usize {
    LIMIT.load(Ordering::Relaxed).saturating_sub(taken)
}
