//! The checked view of a file.

use kinglet_tokenizer::{Tokenizer, TokenizerError};

use crate::crc::Crc32;
use crate::description::{Activation, Block, InPlace, Input, Inputs, Mask, Stack};
use crate::error::{BlockProblem, ModelProblem, OpenError, StackProblem, TensorProblem};
use crate::families::FAMILIES;
use crate::golden::Golden;
use crate::layout::{
    BlockRecord, GoldenRecord, MAX_BLOCKS, MAX_STACKS, MAX_TENSORS, ModelRecord, NONE, StackRecord,
    TensorRecord, pooling, section,
};
use crate::sections::Sections;
use crate::view::Values;

/// A model, read where it lies.
///
/// [`Model::open`] checks everything that the accessors rely on: after it they fail only when the
/// bytes change, and then with an error. The weights themselves are not read; any weights at all
/// are safe to compute with.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    sections: Sections<'a>,
    pub(crate) record: ModelRecord,
    stacks: &'a [u8],
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

impl<'a> Model<'a> {
    /// Checks the structure of a file: head, tables, and each block's and tensor's place and shape.
    /// The cost grows with their number, not with the weights. Bytes after the end of the file are
    /// ignored, so a whole flash region may be given.
    ///
    /// `bytes` must start at a multiple of 64: a memory map, a section aligned by the linker, or
    /// `kinglet::Aligned`.
    pub fn open(bytes: &'a [u8]) -> Result<Self, OpenError> {
        let sections = Sections::open(bytes)?;
        let table = sections.table(section::MODEL, ModelRecord::SIZE as u64)?;
        let record = ModelRecord::read(table).ok_or(OpenError::Model(ModelProblem::Kind))?;
        check_record(&record).map_err(OpenError::Model)?;
        let model = Self {
            sections,
            record,
            stacks: sections
                .table(section::STACKS, u64::from(record.stacks) * StackRecord::SIZE as u64)?,
            blocks: sections
                .table(section::BLOCKS, u64::from(record.blocks) * BlockRecord::SIZE as u64)?,
            tensors: sections
                .table(section::TENSORS, u64::from(record.tensors) * TensorRecord::SIZE as u64)?,
            weights: sections.required(section::WEIGHTS)?,
        };
        model.check_tensors()?;
        let states = model.check_stacks()?;
        model.check_output(states)?;
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

    /// Walks all blocks and returns the width of the last states.
    fn check_stacks(&self) -> Result<usize, OpenError> {
        let (mut states, mut blocks) = (0, 0);
        for index in 0..self.stacks() {
            let stack = self.stack(index)?;
            // The first stack reads what is given, a decoder tokens, and those between what the
            // stack before leaves.
            let fits = match stack.input {
                Input::Tokens { .. } => index == 0 || index + 1 == self.stacks(),
                Input::Features { .. } => index == 0,
                Input::Queries(_) => index > 0,
                Input::States => index > 0 && stack.width == states,
            };
            if FAMILIES && !fits {
                return Err(OpenError::Stack { index, problem: StackProblem::Order });
            }
            let width = self.check_blocks(index, &stack, states)?;
            if width != self.end_width(index) {
                return Err(OpenError::Stack { index, problem: StackProblem::Shape });
            }
            (states, blocks) = (width, stack.blocks.1);
        }
        if blocks == self.record.blocks {
            Ok(states)
        } else {
            Err(OpenError::Model(ModelProblem::Dimension))
        }
    }

    /// Walks the blocks of a stack, which may look at states of the stack before, and returns the
    /// width of its own.
    fn check_blocks(
        &self,
        index: u32,
        stack: &Stack<InPlace<'a>>,
        states: usize,
    ) -> Result<usize, OpenError> {
        let mut width = stack.width;
        let (mut causal, mut full) = (false, false);
        let mut states_inputs = None;
        for at in stack.blocks.0..stack.blocks.1.min(self.record.blocks) {
            let block = self.block_at(at, width, states)?;
            if let Some(attention) = block.attention() {
                causal |= attention.mask.is_causal();
                full |= attention.mask == Mask::Full;
            }
            // States are rounded once for all blocks that look at them.
            if let Some(inputs) = states_inputs_of(&block)
                && *states_inputs.get_or_insert(inputs) != inputs
            {
                return Err(OpenError::Block { index: at, problem: BlockProblem::Inputs });
            }
            width = block.output.matrix.rows();
        }
        // Only a last stack of tokens goes on from one to the next, and then all of its blocks do.
        let tokens = matches!(stack.input, Input::Tokens { .. });
        let last = index + 1 == self.stacks();
        if FAMILIES && (causal && !(last && tokens && !full) || index > 0 && tokens && full) {
            return Err(OpenError::Stack { index, problem: StackProblem::Order });
        }
        Ok(width)
    }

    fn check_output(&self, states: usize) -> Result<(), OpenError> {
        let output = self.output()?;
        let mut width = states;
        let mut fits = true;
        if let Some((dense, _)) = &output.dense {
            fits = dense.is(dense.matrix.rows(), width);
            width = dense.matrix.rows();
        }
        match &output.head {
            Some(head) => fits &= head.is(head.matrix.rows(), width),
            // A program that has no other models always has a head.
            None => fits &= FAMILIES,
        }
        if fits { Ok(()) } else { Err(OpenError::Model(ModelProblem::Shape)) }
    }

    /// Number of blocks of all stacks.
    pub fn blocks(&self) -> u32 {
        self.record.blocks
    }

    /// Number of tensors.
    pub fn tensors(&self) -> u32 {
        self.record.tensors
    }

    /// The token that a target begins with, of models that have one.
    pub fn start(&self) -> Option<u32> {
        Some(self.record.start).filter(|&start| start != NONE)
    }

    /// Whether the head is the table of the last stack's tokens.
    pub fn is_tied(&self) -> bool {
        let embedding = self.stack_record(self.stacks() - 1).map(|record| record.embedding);
        self.record.head != NONE && embedding == Some(self.record.head)
    }

    /// Number of stacks. A build that has but one kind of model has but one of them, and opens no
    /// others.
    pub fn stacks(&self) -> u32 {
        if FAMILIES { self.record.stacks } else { 1 }
    }

    /// The last stack: the decoder, or the encoder of a model that has no decoder.
    pub fn last(&self) -> Result<Stack<InPlace<'a>>, OpenError> {
        self.stack(self.stacks() - 1)
    }

    /// Width of a stack's stream where it ends.
    pub fn end_width(&self, stack: u32) -> usize {
        self.stack_record(stack).map_or(0, |record| record.out as usize)
    }

    /// Width of the last stack's stream where it starts.
    pub fn width(&self) -> usize {
        self.last().map_or(0, |stack| stack.width)
    }

    /// Whether the last stack reads tokens one after the other; otherwise the model is an encoder.
    pub fn is_decoder(&self) -> bool {
        !FAMILIES || self.decoder().is_ok_and(|decoder| decoder)
    }

    fn decoder(&self) -> Result<bool, OpenError> {
        let stack = self.last()?;
        let mut width = stack.width;
        // The width of a stack before; a stack without a cross block does not look at it.
        let states = match self.stacks() {
            1 => 0,
            n => self.end_width(n - 2),
        };
        let mut sees_all = false;
        for at in stack.blocks.0..stack.blocks.1 {
            let block = self.block_at(at, width, states)?;
            width = block.output.matrix.rows();
            sees_all |= block.attention().is_some_and(|a| a.mask == Mask::Full);
        }
        Ok(!sees_all && matches!(stack.input, Input::Tokens { .. }))
    }

    /// Outputs of the head: tokens of the vocabulary, classes, or the width of what comes out
    /// without a head.
    pub fn outputs(&self) -> usize {
        match self.output() {
            Ok(output) => match (output.head, output.dense) {
                (Some(head), _) => head.matrix.rows(),
                (None, Some((dense, _))) => dense.matrix.rows(),
                (None, None) => self.end_width(self.stacks() - 1),
            },
            Err(_) => 0,
        }
    }

    /// Positions that the last stack was made for.
    pub fn context(&self) -> usize {
        self.last().map_or(0, |stack| stack.context)
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.sections.file
    }

    /// The bytes of a section, one of [`section`]; empty where there is none. Of other sections
    /// than tables nothing is checked.
    pub fn section(&self, kind: u32) -> &'a [u8] {
        self.sections.optional(kind)
    }

    /// The tokenizer of the text that goes in, if the file has one.
    pub fn tokenizer(&self) -> Option<Result<Tokenizer<'a>, TokenizerError>> {
        self.sections.find(section::TOKENIZER).map(|(_, bytes)| Tokenizer::parse(bytes))
    }

    /// The tokenizer of the text that comes out: that of the text that goes in, unless the file has
    /// another.
    pub fn target_tokenizer(&self) -> Option<Result<Tokenizer<'a>, TokenizerError>> {
        let own =
            self.sections.find(section::TARGET_TOKENIZER).map(|(_, bytes)| Tokenizer::parse(bytes));
        own.or_else(|| self.tokenizer())
    }

    /// Pairs of free strings, as far as they are well formed.
    pub fn metadata(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let mut rest = self.sections.optional(section::METADATA);
        core::iter::from_fn(move || {
            let (lengths, tail) = rest.split_at_checked(8)?;
            let (key, value) = lengths.split_at_checked(4)?;
            let (key, tail) =
                tail.split_at_checked(u32::from_le_bytes(key.try_into().ok()?) as usize)?;
            let (value, tail) =
                tail.split_at_checked(u32::from_le_bytes(value.try_into().ok()?) as usize)?;
            rest = tail;
            Some((str::from_utf8(key).ok()?, str::from_utf8(value).ok()?))
        })
    }

    /// The golden sequences, as far as they are well formed.
    pub fn golden(&self) -> impl Iterator<Item = Golden<'a>> + use<'a> {
        let mut rest = self.sections.optional(section::GOLDEN);
        let reads_tokens = matches!(self.stack(0), Ok(Stack { input: Input::Tokens { .. }, .. }));
        core::iter::from_fn(move || {
            let record = GoldenRecord::read(rest)?;
            let tail = rest.get(GoldenRecord::SIZE..)?;
            let (tokens, tail) = tail.split_at_checked((record.tokens as usize).checked_mul(4)?)?;
            rest = tail;
            Golden::new(record, bytemuck::try_cast_slice(tokens).ok()?, reads_tokens)
        })
    }

    /// Name of a tensor; empty where it is not valid.
    pub fn tensor_name(&self, record: &TensorRecord) -> &'a str {
        let start = record.name as usize;
        let names = self.sections.optional(section::NAMES);
        let name =
            start.checked_add(usize::from(record.name_bytes)).and_then(|end| names.get(start..end));
        name.and_then(|name| str::from_utf8(name).ok()).unwrap_or_default()
    }

    pub(crate) fn tensor_record(&self, index: u32) -> Option<TensorRecord> {
        TensorRecord::read(self.tensors.get((index as usize).checked_mul(TensorRecord::SIZE)?..)?)
    }

    pub(crate) fn stack_record(&self, index: u32) -> Option<StackRecord> {
        StackRecord::read(self.stacks.get((index as usize).checked_mul(StackRecord::SIZE)?..)?)
    }

    pub(crate) fn block_record(&self, index: u32) -> Option<BlockRecord> {
        BlockRecord::read(self.blocks.get((index as usize).checked_mul(BlockRecord::SIZE)?..)?)
    }

    pub(crate) fn tensor_bytes(&self, record: &TensorRecord) -> Option<&'a [u8]> {
        let start = usize::try_from(record.offset).ok()?;
        self.weights.get(start..start.checked_add(usize::try_from(record.bytes).ok()?)?)
    }

    /// Compares every checksum and walks the tokenizer and the indices of sparse tensors: reads the
    /// whole file once. `progress` is called with the bytes done, at least once every 64 KiB (to
    /// feed a watchdog, or to draw a bar).
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
        for tokenizer in [self.tokenizer(), self.target_tokenizer()].into_iter().flatten() {
            tokenizer.and_then(|t| t.validate()).map_err(VerifyError::Tokenizer)?;
        }
        Ok(())
    }
}

/// What the states that a block looks at go through.
fn states_inputs_of(block: &Block<InPlace<'_>>) -> Option<Inputs> {
    block.states.filter(|_| FAMILIES).map(|states| states.inputs)
}

fn check_record(record: &ModelRecord) -> Result<(), ModelProblem> {
    let special =
        [record.pooling, record.normalize].into_iter().any(|kind| kind != 0) || record.stacks > 1;
    if !FAMILIES && (special || record.dense != NONE || record.head_bias != NONE) {
        return Err(ModelProblem::NotBuilt);
    }
    if record.pooling > pooling::MAX
        || record.normalize > 1
        || Activation::of_code(record.dense_activation).is_none()
    {
        return Err(ModelProblem::Kind);
    }
    if record.reserved != 0 || !record.reserved2.are() {
        return Err(ModelProblem::Reserved);
    }
    let counts = record.blocks <= MAX_BLOCKS && record.tensors <= MAX_TENSORS;
    if counts && (1..=MAX_STACKS).contains(&record.stacks) {
        Ok(())
    } else {
        Err(ModelProblem::Dimension)
    }
}
