//! Reading a header from its beginning to its end.
//!
//! Whatever lengths the file claims, nothing is reserved before the file has
//! shown to be that long.

use super::super::CheckpointError;
use super::super::file::PositionedFile;

/// Bytes read from the file at once.
const BUFFER: usize = 1 << 16;

/// A place in a file.
pub(super) struct Cursor<'f> {
    file: &'f PositionedFile,
    at: u64,
    buffer: Vec<u8>,
    /// Of the buffer's first byte.
    start: u64,
}

impl<'f> Cursor<'f> {
    pub(super) fn new(file: &'f PositionedFile, at: u64) -> Self {
        Self { file, at, buffer: Vec::new(), start: 0 }
    }

    /// The place.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Bytes from here to the end of the file.
    pub(super) fn left(&self) -> u64 {
        self.file.len().saturating_sub(self.at)
    }

    /// Something is wrong here.
    pub(super) fn wrong(&self, problem: impl Into<String>) -> CheckpointError {
        CheckpointError::Gguf {
            path: self.file.path().to_owned(),
            at: self.at,
            problem: problem.into(),
        }
    }

    /// Goes past `count` bytes, which must be there.
    pub(super) fn skip(&mut self, count: u64) -> Result<(), CheckpointError> {
        if count > self.left() {
            return Err(self
                .wrong(format!("{count} bytes are said to follow, but only {} do", self.left())));
        }
        self.at = self.at.saturating_add(count);
        Ok(())
    }

    /// The next `N` bytes.
    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let mut out = [0; N];
        self.fill(&mut out)?;
        Ok(out)
    }

    pub(super) fn u32(&mut self) -> Result<u32, CheckpointError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, CheckpointError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    /// A string: its length, and UTF-8.
    pub(super) fn text(&mut self) -> Result<String, CheckpointError> {
        let length = self.u64()?;
        let fits = usize::try_from(length).ok().filter(|_| length <= self.left());
        let Some(length) = fits else {
            return Err(self.wrong(format!("a string of {length} bytes does not fit the file")));
        };
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.wrong("a string is not UTF-8"))
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), CheckpointError> {
        let end = self.at.saturating_add(out.len() as u64);
        if end > self.file.len() {
            return Err(self.wrong("the file ends within its header"));
        }
        if out.len() >= BUFFER {
            self.file.read_exact_at(out, self.at)?;
        } else if !out.is_empty() {
            out.copy_from_slice(self.buffered(out.len())?);
        }
        self.at = end;
        Ok(())
    }

    /// The next bytes, fewer than the buffer's size and known to be in the file.
    fn buffered(&mut self, count: usize) -> Result<&[u8], CheckpointError> {
        let held = |this: &Self| {
            let from = usize::try_from(this.at.checked_sub(this.start)?).ok()?;
            Some(from..from.checked_add(count)?).filter(|range| range.end <= this.buffer.len())
        };
        if held(self).is_none() {
            let size = usize::try_from(self.left()).unwrap_or(BUFFER).min(BUFFER);
            self.buffer.resize(size, 0);
            self.file.read_exact_at(&mut self.buffer, self.at)?;
            self.start = self.at;
        }
        let bytes = held(self).and_then(|range| self.buffer.get(range));
        bytes.ok_or_else(|| self.wrong("the file ends within its header"))
    }
}
