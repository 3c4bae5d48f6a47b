//! Writing a `.kinglet` file: the records of [`layout`](crate::layout), in the order of the file.
//!
//! All sizes are known before the first byte, so the weights stream past and only the head is
//! written afterwards. The file grows near its target and is renamed over it when it is whole;
//! until then the target is not touched.

use std::format;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::string::String;
use std::vec;
use std::vec::Vec;

use crate::layout::{
    ALIGN, BlockRecord, GoldenRecord, Head, MAGIC, ModelRecord, NONE, SectionEntry, StackRecord,
    TensorRecord, VERSION, Zeros, inputs, section, tensor,
};
use crate::lowering::inputs_code;
use crate::replace::persist;
pub use crate::replace::replace;
use crate::{BlockProblem, Golden, Inputs, Model, OpenError, StackProblem, Tensor, Values};
use kinglet_kernels::Format;
use tempfile::NamedTempFile;

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The operating system refused.
    #[error("cannot write {}: {source}; {} is as it was", path.display(), path.display())]
    Io {
        /// The target.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// What has the target's name is no model.
    #[error("{} exists and is no .kinglet file: choose another name, or remove it", path.display())]
    NotAModel {
        /// The target.
        path: PathBuf,
    },
    /// More than the format can count.
    #[error("{what} does not fit the file format")]
    TooLarge {
        /// What does not fit.
        what: String,
    },
}

/// What a tensor will hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A vector of f32.
    F32,
    /// A vector of u32.
    U32,
    /// Weights.
    Matrix(Format),
    /// Weights of which so many blocks of 16 by 32 are stored; the others are zero.
    Sparse(Format, usize),
}

impl Kind {
    fn byte(self) -> u8 {
        let matrix = |format| match format {
            Format::Int8 => tensor::INT8,
            Format::Int8Grouped => tensor::INT8_GROUPED,
            Format::Int4 => tensor::INT4,
            Format::Int4Codebook => tensor::INT4_CODEBOOK,
            Format::Int4Offset => tensor::INT4_OFFSET,
        };
        match self {
            Self::F32 => tensor::F32,
            Self::U32 => tensor::U32,
            Self::Matrix(format) => matrix(format),
            Self::Sparse(format, _) => matrix(format) | tensor::SPARSE,
        }
    }

    /// Bytes of such a tensor; `None` where they cannot be counted.
    pub fn bytes(self, rows: usize, cols: usize) -> Option<usize> {
        match self {
            Self::F32 | Self::U32 => cols.checked_mul(4),
            Self::Matrix(format) => format.bytes(rows, cols),
            Self::Sparse(format, blocks) => Some(format.sparse_planes(rows, cols, blocks)?.end),
        }
    }
}

/// Everything but the weights.
#[derive(Clone, Debug)]
pub struct Outline {
    /// The model's record; counts are filled in.
    pub model: ModelRecord,
    /// The stacks; their numbers of blocks are filled in by whoever adds blocks.
    pub stacks: Vec<StackRecord>,
    /// The blocks of all stacks.
    pub blocks: Vec<BlockRecord>,
    /// The tokenizer section, or nothing.
    pub tokenizer: Vec<u8>,
    /// That of the text that comes out, if it is another one.
    pub target_tokenizer: Vec<u8>,
    /// Free pairs.
    pub metadata: Vec<(String, String)>,
    /// Tokens of each golden sequence that [`Finished::golden`] will deliver.
    pub golden: Vec<usize>,
    tensors: Vec<TensorRecord>,
    names: Vec<u8>,
    weights: u64,
}

impl Outline {
    /// A model without stacks, blocks or tensors.
    pub fn new(model: ModelRecord) -> Self {
        Self {
            model,
            stacks: vec![],
            blocks: vec![],
            tokenizer: vec![],
            target_tokenizer: vec![],
            metadata: vec![],
            golden: vec![],
            tensors: vec![],
            names: vec![],
            weights: 0,
        }
    }

    /// Adds a tensor and returns its index. Tensors are written in the order in which they are
    /// added.
    ///
    /// # Errors
    /// [`WriteError::TooLarge`], when the shape or the name is more than a file can say.
    pub fn tensor(
        &mut self,
        name: &str,
        kind: Kind,
        rows: usize,
        cols: usize,
    ) -> Result<u32, WriteError> {
        let too_large =
            || WriteError::TooLarge { what: format!("tensor {name} ({rows} x {cols})") };
        let bytes = kind.bytes(rows, cols).ok_or_else(too_large)? as u64;
        let small = |n: usize| u32::try_from(n).map_err(|_| too_large());
        let record = TensorRecord {
            offset: self.weights,
            bytes,
            rows: small(rows)?,
            cols: small(cols)?,
            name: small(self.names.len())?,
            name_bytes: u16::try_from(name.len()).map_err(|_| too_large())?,
            format: kind.byte(),
            inputs: inputs::PLAIN,
            crc: 0,
            reserved2: 0,
        };
        self.weights = (self.weights + bytes).next_multiple_of(ALIGN as u64);
        self.names.extend_from_slice(name.as_bytes());
        self.tensors.push(record);
        let index = small(self.tensors.len() - 1)?;
        debug_assert!(index != NONE);
        Ok(index)
    }

    /// Notes what the inputs of a tensor's product go through.
    pub fn inputs(&mut self, index: u32, inputs: Inputs) {
        if let Some(record) = self.tensors.get_mut(index as usize) {
            record.inputs = inputs_code(inputs);
        }
    }

    /// Adds a tensor that has the name, kind and shape of one of `model`'s.
    ///
    /// # Errors
    /// As [`Outline::tensor`].
    pub fn tensor_of(&mut self, model: &Model<'_>, tensor: &Tensor<'_>) -> Result<u32, WriteError> {
        let kind = match &tensor.values {
            Values::F32(_) => Kind::F32,
            Values::U32(_) => Kind::U32,
            Values::Matrix(matrix) if matrix.is_sparse() => {
                Kind::Sparse(matrix.format(), matrix.blocks())
            }
            Values::Matrix(matrix) => Kind::Matrix(matrix.format()),
        };
        let record = &tensor.record;
        let index = self.tensor(
            model.tensor_name(record),
            kind,
            record.rows as usize,
            record.cols as usize,
        )?;
        self.inputs(index, tensor.inputs);
        Ok(index)
    }

    /// Bytes of all tensors.
    pub fn weight_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes).sum()
    }

    fn metadata_bytes(&self) -> Result<Vec<u8>, WriteError> {
        let mut bytes = vec![];
        for (key, value) in &self.metadata {
            for text in [key, value] {
                let len = u32::try_from(text.len())
                    .map_err(|_| WriteError::TooLarge { what: format!("metadata {key}") })?;
                bytes.extend(len.to_le_bytes());
            }
            bytes.extend([key.as_bytes(), value.as_bytes()].concat());
        }
        Ok(bytes)
    }
}

/// The records of a file, for those who write a changed one.
impl Model<'_> {
    /// The model's.
    pub fn record(&self) -> ModelRecord {
        self.record
    }

    /// That of a stack.
    ///
    /// # Errors
    /// There is no such stack.
    pub fn record_of_stack(&self, index: u32) -> Result<StackRecord, OpenError> {
        let problem = StackProblem::Missing;
        self.stack_record(index).ok_or(OpenError::Stack { index, problem })
    }

    /// That of a block, counted over all stacks.
    ///
    /// # Errors
    /// There is no such block.
    pub fn record_of_block(&self, index: u32) -> Result<BlockRecord, OpenError> {
        let problem = BlockProblem::Kind(0);
        self.block_record(index).ok_or(OpenError::Block { index, problem })
    }
}

/// The directory of a file that is to be written.
pub fn folder(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file in the making.
pub struct Writer {
    target: PathBuf,
    file: BufWriter<NamedTempFile>,
    outline: Outline,
    sections: Vec<(SectionEntry, Vec<u8>)>,
    weights: u64,
    next: usize,
}

impl Writer {
    /// Starts a file in the directory `within`, which is on the same file system as `target`.
    ///
    /// # Errors
    /// [`WriteError::Io`], when `target` is a directory or the file cannot be made or written.
    pub fn create(target: &Path, within: &Path, mut outline: Outline) -> Result<Self, WriteError> {
        let fail = |source| WriteError::Io { path: target.to_path_buf(), source };
        outline.model.stacks = outline.stacks.len() as u32;
        outline.model.blocks = outline.blocks.len() as u32;
        outline.model.tensors = outline.tensors.len() as u32;
        refuse_target(target)?;
        let temporary =
            tempfile::Builder::new().prefix(".kinglet-").suffix(".partial").tempfile_in(within);
        let golden: usize =
            outline.golden.iter().map(|tokens| GoldenRecord::SIZE + 4 * tokens).sum();
        let contents = [
            (section::MODEL, vec![0; ModelRecord::SIZE]),
            (section::STACKS, outline.stacks.iter().flat_map(StackRecord::write).collect()),
            (section::BLOCKS, outline.blocks.iter().flat_map(BlockRecord::write).collect()),
            (section::TENSORS, vec![0; outline.tensors.len() * TensorRecord::SIZE]),
            (section::NAMES, outline.names.clone()),
            (section::TOKENIZER, outline.tokenizer.clone()),
            (section::TARGET_TOKENIZER, outline.target_tokenizer.clone()),
            (section::METADATA, outline.metadata_bytes()?),
            (section::GOLDEN, vec![0; golden]),
        ];
        let present: Vec<_> = contents
            .into_iter()
            .filter(|(kind, bytes)| !bytes.is_empty() || *kind <= section::NAMES)
            .collect();
        let mut offset = (Head::SIZE + SectionEntry::SIZE * (present.len() + 1)) as u64;
        let mut sections = vec![];
        for (kind, bytes) in present {
            offset = offset.next_multiple_of(ALIGN as u64);
            let entry =
                SectionEntry { kind, crc: 0, offset, bytes: bytes.len() as u64, reserved: 0 };
            offset += entry.bytes;
            sections.push((entry, bytes));
        }
        let weights = offset.next_multiple_of(ALIGN as u64);
        let mut file = BufWriter::with_capacity(1 << 20, temporary.map_err(fail)?);
        file.seek(SeekFrom::Start(weights)).map_err(fail)?;
        Ok(Self { target: target.to_path_buf(), file, outline, sections, weights, next: 0 })
    }

    fn io<T>(&self, result: std::io::Result<T>) -> Result<T, WriteError> {
        result.map_err(|source| WriteError::Io { path: self.target.clone(), source })
    }

    /// Writes the next tensor: `produce` is given a function that appends bytes.
    ///
    /// # Errors
    /// Those of `produce`, and [`WriteError::Io`] when the file cannot be written.
    ///
    /// # Panics
    /// When all tensors are written already, or `produce` appends another number of bytes than the
    /// tensor has.
    pub fn tensor<E: From<WriteError>>(
        &mut self,
        produce: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<(), WriteError>) -> Result<(), E>,
    ) -> Result<(), E> {
        let record = self.outline.tensors[self.next];
        let mut crc = crc32fast::Hasher::new();
        let mut written = 0;
        let (file, target) = (&mut self.file, &self.target);
        produce(&mut |bytes| {
            crc.update(bytes);
            written += bytes.len() as u64;
            file.write_all(bytes).map_err(|source| WriteError::Io { path: target.clone(), source })
        })?;
        assert_eq!(written, record.bytes, "tensor {} has another length than planned", self.next);
        let padding = vec![0; (written.next_multiple_of(ALIGN as u64) - written) as usize];
        let result = self.file.write_all(&padding);
        self.io(result)?;
        self.outline.tensors[self.next].crc = crc.finalize();
        self.next += 1;
        Ok(())
    }

    /// Completes the file: head and tables are written, golden sequences are still empty.
    ///
    /// # Errors
    /// [`WriteError::Io`], when the file cannot be written.
    ///
    /// # Panics
    /// When a tensor was not written.
    pub fn finish(mut self) -> Result<Finished, WriteError> {
        assert_eq!(self.next, self.outline.tensors.len(), "a tensor was not written");
        let tensors = self.outline.tensors.iter().flat_map(TensorRecord::write).collect();
        self.set(section::MODEL, self.outline.model.write().to_vec());
        self.set(section::TENSORS, tensors);
        let result = self.file.stream_position();
        let end = self.io(result)?;
        let weights = SectionEntry {
            kind: section::WEIGHTS,
            crc: 0,
            offset: self.weights,
            bytes: end - self.weights,
            reserved: 0,
        };
        self.sections.push((weights, vec![]));
        let Self { target, file, outline, sections, .. } = self;
        let fail = |source| WriteError::Io { path: target.clone(), source };
        let file = file.into_inner().map_err(|e| fail(e.into_error()))?;
        let mut finished =
            Finished { target: target.clone(), file, golden: outline.golden, sections, end };
        finished.write_tables()?;
        Ok(finished)
    }

    fn set(&mut self, kind: u32, bytes: Vec<u8>) {
        for (_, old) in self.sections.iter_mut().filter(|(entry, _)| entry.kind == kind) {
            old.clone_from(&bytes);
        }
    }
}

/// A whole file that does not have its name yet.
pub struct Finished {
    target: PathBuf,
    file: NamedTempFile,
    golden: Vec<usize>,
    sections: Vec<(SectionEntry, Vec<u8>)>,
    end: u64,
}

impl Finished {
    fn write_tables(&mut self) -> Result<(), WriteError> {
        let fail = |source| WriteError::Io { path: self.target.clone(), source };
        let file: &mut File = self.file.as_file_mut();
        for (entry, bytes) in
            self.sections.iter_mut().filter(|(entry, _)| entry.kind != section::WEIGHTS)
        {
            entry.crc = crc32fast::hash(bytes);
            file.seek(SeekFrom::Start(entry.offset))
                .and_then(|_| file.write_all(bytes))
                .map_err(fail)?;
        }
        let entries: Vec<u8> = self.sections.iter().flat_map(|(entry, _)| entry.write()).collect();
        let sections = self.sections.len() as u16;
        let mut head = Head {
            magic: MAGIC,
            version: VERSION,
            sections,
            crc: 0,
            bytes: self.end,
            reserved: Zeros::ZERO,
        };
        head.crc = crc32fast::hash(&[&head.write()[..], &entries].concat());
        let bytes = [&head.write()[..], &entries].concat();
        file.rewind().and_then(|()| file.write_all(&bytes)).map_err(fail)
    }

    /// Where the file lies for now.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Fills in the golden sequences.
    ///
    /// # Errors
    /// [`WriteError::Io`], when the file cannot be written.
    ///
    /// # Panics
    /// When their lengths are not those of the outline.
    pub fn golden(&mut self, sequences: &[Golden<'_>]) -> Result<(), WriteError> {
        let tokens = |g: &Golden<'_>| g.source.len() + g.prompt.len() + g.answer.len();
        let lengths: Vec<usize> = sequences.iter().map(tokens).collect();
        assert_eq!(lengths, self.golden, "golden sequences differ from the outline");
        let mut bytes = vec![];
        for golden in sequences {
            let record = GoldenRecord {
                source: golden.rows as u32,
                prompt: golden.prompt.len() as u32,
                tokens: tokens(golden) as u32,
                reserved: 0,
                hash: golden.hash,
            };
            bytes.extend(record.write());
            let parts = [golden.source, golden.prompt, golden.answer];
            bytes.extend(parts.into_iter().flatten().flat_map(|t| t.to_le_bytes()));
        }
        for (_, old) in self.sections.iter_mut().filter(|(entry, _)| entry.kind == section::GOLDEN)
        {
            old.clone_from(&bytes);
        }
        self.write_tables()
    }

    /// Gives the file its name, in place of what had it.
    ///
    /// # Errors
    /// [`WriteError::Io`], when the file cannot be synchronised or renamed.
    pub fn persist(self) -> Result<(), WriteError> {
        let Self { target, file, .. } = self;
        persist(file, &target).map_err(|source| WriteError::Io { path: target, source })
    }
}

/// Refuses a target that is something else than a model: a file that was meant as the input, or a
/// directory.
///
/// # Errors
/// [`WriteError::NotAModel`], and [`WriteError::Io`] for a directory.
pub fn refuse_target(target: &Path) -> Result<(), WriteError> {
    let fail = |source| WriteError::Io { path: target.to_path_buf(), source };
    let Ok(about) = std::fs::metadata(target) else { return Ok(()) };
    if about.is_dir() {
        return Err(fail(std::io::ErrorKind::IsADirectory.into()));
    }
    let mut start = [0; MAGIC.len()];
    let is_model = about.is_file()
        && (about.len() == 0
            || File::open(target).and_then(|mut file| file.read_exact(&mut start)).is_ok()
                && start == MAGIC);
    match is_model {
        true => Ok(()),
        false => Err(WriteError::NotAModel { path: target.to_path_buf() }),
    }
}
