//! The checked view of a file.

use super::crc::Crc32;
use super::error::{ModelProblem, OpenError, TensorProblem};
use super::golden::Golden;
use super::layout::{
    BlockRecord, GoldenRecord, MAX_BLOCKS, MAX_DIMENSION, MAX_TENSORS, ModelRecord, TensorRecord, section,
};
use super::sections::Sections;
use super::view::{Values, is_scale};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// A model, read where it lies.
///
/// [`Model::open`] checks everything that the accessors rely on: after it they fail only when the bytes change, and then
/// with an error. The weights themselves are not read; any weights at all are safe to compute with.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    sections: Sections<'a>,
    record: ModelRecord,
    blocks: &'a [u8],
    tensors: &'a [u8],
    weights: &'a [u8],
}

/// What a full verification found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
            Self::Section { kind } => write!(f, "section {kind}: the checksum does not match; copy the file again"),
            Self::Tensor { index } => write!(f, "tensor {index}: the checksum does not match; copy the file again"),
            Self::Index { index } => {
                write!(f, "tensor {index}: its index of blocks contradicts itself; quantize again")
            }
            Self::Tokenizer(error) => write!(f, "tokenizer: {error}"),
            Self::Open(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for VerifyError {}

impl<'a> Model<'a> {
    /// Checks the structure of a file: head, tables, and each block's and tensor's place and shape. The cost grows with their
    /// number, not with the weights. Bytes behind the end of the file are ignored, so a whole flash region may be given.
    ///
    /// `bytes` must start at a multiple of 64: a memory map, a section aligned by the linker, or [`crate::Aligned`].
    pub fn open(bytes: &'a [u8]) -> Result<Self, OpenError> {
        let sections = Sections::open(bytes)?;
        let table = sections.table(section::MODEL, ModelRecord::SIZE as u64)?;
        let record = ModelRecord::read(table).ok_or(OpenError::Model(ModelProblem::Kind))?;
        check_record(&record).map_err(OpenError::Model)?;
        let model = Self {
            sections,
            record,
            blocks: sections.table(section::BLOCKS, u64::from(record.blocks) * BlockRecord::SIZE as u64)?,
            tensors: sections.table(section::TENSORS, u64::from(record.tensors) * TensorRecord::SIZE as u64)?,
            weights: sections.required(section::WEIGHTS)?,
        };
        model.check_tensors()?;
        (0..record.blocks).try_for_each(|i| model.block(i).map(|_| ()))?;
        model.check_ends()?;
        Ok(model)
    }

    fn check_tensors(&self) -> Result<(), OpenError> {
        let mut end = 0;
        for index in 0..self.record.tensors {
            let tensor = self.tensor(index)?;
            if tensor.record.offset < end {
                return Err(OpenError::Tensor { index, problem: TensorProblem::Bounds });
            }
            end = tensor.record.offset + tensor.record.bytes;
        }
        Ok(())
    }

    fn check_ends(&self) -> Result<(), OpenError> {
        let (vocab, width) = (self.record.vocab as usize, self.record.width as usize);
        let (embedding, head) = (self.embedding()?, self.head()?);
        let fits = (embedding.rows(), embedding.cols()) == (vocab, width)
            && !embedding.is_sparse()
            && (head.rows(), head.cols()) == (vocab, width)
            && self.norm()?.len() == width;
        if fits { Ok(()) } else { Err(OpenError::Model(ModelProblem::Shape)) }
    }

    /// The model's record.
    pub fn record(&self) -> &ModelRecord {
        &self.record
    }

    /// Width of the residual stream.
    pub fn width(&self) -> usize {
        self.record.width as usize
    }

    /// Tokens in the vocabulary.
    pub fn vocab(&self) -> usize {
        self.record.vocab as usize
    }

    /// Positions the model was made for.
    pub fn context(&self) -> usize {
        self.record.context as usize
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.sections.file
    }

    /// The tokenizer, if the file has one.
    pub fn tokenizer(&self) -> Option<Result<Tokenizer<'a>, TokenizerError>> {
        self.sections.find(section::TOKENIZER).map(|(_, bytes)| Tokenizer::parse(bytes))
    }

    /// Pairs of free strings, as far as they are well formed.
    pub fn metadata(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let mut rest = self.sections.optional(section::METADATA);
        core::iter::from_fn(move || {
            let (lengths, tail) = rest.split_at_checked(8)?;
            let (key, value) = lengths.split_at_checked(4)?;
            let (key, tail) = tail.split_at_checked(u32::from_le_bytes(key.try_into().ok()?) as usize)?;
            let (value, tail) = tail.split_at_checked(u32::from_le_bytes(value.try_into().ok()?) as usize)?;
            rest = tail;
            Some((str::from_utf8(key).ok()?, str::from_utf8(value).ok()?))
        })
    }

    /// The golden sequences, as far as they are well formed.
    pub fn golden(&self) -> impl Iterator<Item = Golden<'a>> + use<'a> {
        let mut rest = self.sections.optional(section::GOLDEN);
        core::iter::from_fn(move || {
            let record = GoldenRecord::read(rest)?;
            let tail = rest.get(GoldenRecord::SIZE..)?;
            let (tokens, tail) = tail.split_at_checked((record.tokens as usize).checked_mul(4)?)?;
            rest = tail;
            Golden::new(record, bytemuck::try_cast_slice(tokens).ok()?)
        })
    }

    /// Name of a tensor; empty where it is not valid.
    pub fn tensor_name(&self, record: &TensorRecord) -> &'a str {
        let start = record.name as usize;
        let names = self.sections.optional(section::NAMES);
        let name = start.checked_add(usize::from(record.name_bytes)).and_then(|end| names.get(start..end));
        name.and_then(|name| str::from_utf8(name).ok()).unwrap_or_default()
    }

    pub(super) fn tensor_record(&self, index: u32) -> Option<TensorRecord> {
        TensorRecord::read(self.tensors.get((index as usize).checked_mul(TensorRecord::SIZE)?..)?)
    }

    pub(super) fn block_record(&self, index: u32) -> Option<BlockRecord> {
        BlockRecord::read(self.blocks.get((index as usize).checked_mul(BlockRecord::SIZE)?..)?)
    }

    pub(super) fn tensor_bytes(&self, record: &TensorRecord) -> Option<&'a [u8]> {
        let start = usize::try_from(record.offset).ok()?;
        self.weights.get(start..start.checked_add(usize::try_from(record.bytes).ok()?)?)
    }

    /// Compares every checksum and walks the tokenizer and the indices of sparse tensors: reads the whole file once. `progress` is called with the bytes
    /// done, at least once every 64 KiB (to feed a watchdog, or to draw a bar).
    pub fn verify(&self, mut progress: impl FnMut(u64)) -> Result<(), VerifyError> {
        let mut done = 0;
        let mut crc = |bytes: &[u8]| {
            let mut crc = Crc32::default();
            for chunk in bytes.chunks(1 << 16) {
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
        match self.tokenizer() {
            None => Ok(()),
            Some(tokenizer) => tokenizer.and_then(|t| t.validate()).map_err(VerifyError::Tokenizer),
        }
    }
}

fn check_record(record: &ModelRecord) -> Result<(), ModelProblem> {
    if record.kind != 0 {
        return Err(ModelProblem::Kind);
    }
    if record.reserved.iter().any(|&b| b != 0) {
        return Err(ModelProblem::Reserved);
    }
    let sizes = [record.width, record.vocab, record.context];
    let counts = record.blocks <= MAX_BLOCKS && record.tensors <= MAX_TENSORS;
    if !counts || sizes.into_iter().any(|n| n == 0 || n > MAX_DIMENSION) {
        return Err(ModelProblem::Dimension);
    }
    if is_scale(record.norm_eps) { Ok(()) } else { Err(ModelProblem::Epsilon) }
}
