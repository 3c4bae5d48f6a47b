//! Reading the whole file once: checksums, the tokenizer, indices of sparse tensors.

use kinglet_tokenizer::TokenizerError;

use crate::crc::Crc32;
use crate::error::OpenError;
use crate::model::Model;
use crate::sections::Sections;
use crate::view::Values;

/// What a full verification found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum VerifyError {
    /// A section's bytes do not match its checksum.
    Section {
        /// Its kind.
        kind: u32,
    },
    /// A tensor's bytes do not match its checksum.
    Tensor {
        /// Its index.
        index: u32,
    },
    /// The index of a sparse tensor contradicts itself.
    Index {
        /// The tensor's index.
        index: u32,
    },
    /// The tokenizer contradicts itself.
    Tokenizer(TokenizerError),
    /// The structure is wrong; only when the bytes changed since the file was opened.
    Open(OpenError),
}

impl core::fmt::Display for VerifyError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Section { kind } => {
                write!(f, "section {kind}: the checksum does not match; copy the file again")
            }
            Self::Tensor { index } => {
                write!(f, "tensor {index}: the checksum does not match; copy the file again")
            }
            Self::Index { index } => {
                write!(f, "tensor {index}: its index of blocks contradicts itself; quantize again")
            }
            Self::Tokenizer(error) => write!(f, "tokenizer: {error}"),
            Self::Open(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for VerifyError {}

impl Model<'_> {
    /// Compares every checksum and walks the tokenizer and the indices of sparse tensors: reads the
    /// whole file once. `progress` is called with the bytes done, at least once every KiB (to
    /// feed a watchdog, or to draw a bar).
    ///
    /// # Errors
    /// [`VerifyError`] names the first section or tensor that is not as it was written.
    pub fn verify(&self, mut progress: impl FnMut(u64)) -> Result<(), VerifyError> {
        let mut done = 0;
        let mut crc = |bytes: &[u8]| {
            let mut crc = Crc32::default();
            for chunk in bytes.chunks(1 << 10) {
                crc.update(chunk);
                done += chunk.len() as u64;
                progress(done);
            }
            crc.value()
        };
        for entry in self.sections.iter().filter(|entry| Sections::has_crc(entry.kind)) {
            if crc(self.sections.bytes(&entry)) != entry.crc {
                return Err(VerifyError::Section { kind: entry.kind });
            }
        }
        for index in 0..self.record.tensors {
            let tensor = self.tensor(index).map_err(VerifyError::Open)?;
            if crc(tensor.bytes) != tensor.record.crc {
                return Err(VerifyError::Tensor { index });
            }
            if matches!(tensor.values, Values::Matrix(matrix) if !matrix.index_is_sound()) {
                return Err(VerifyError::Index { index });
            }
        }
        for tokenizer in [self.tokenizer(), self.target_tokenizer()].into_iter().flatten() {
            tokenizer.and_then(|t| t.validate()).map_err(VerifyError::Tokenizer)?;
        }
        Ok(())
    }
}
