//! Memory for a session on a host.

use std::vec;
use std::vec::Vec;

/// Zeroed bytes that start at a multiple of 64.
// Not `Clone`: a copy of the vector need not be aligned alike.
#[derive(Debug)]
pub struct Memory {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Memory {
    /// `len` bytes.
    pub fn new(len: usize) -> Self {
        let bytes = vec![0; len + 63];
        let start = bytes.as_ptr().align_offset(64);
        Self { bytes, start, len }
    }

    /// A copy of some bytes, where a model file may be opened.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut memory = Self::new(bytes.len());
        memory.bytes().copy_from_slice(bytes);
        memory
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }
}
