//! A file in place: its tables, their records, and the sections that are not tables.

use kinglet_tokenizer::{Tokenizer, TokenizerError};

use crate::families::FAMILIES;
use crate::layout::{BlockRecord, ModelRecord, NONE, StackRecord, TensorRecord, section};
use crate::sections::Sections;

/// A model, read where it lies.
///
/// [`Model::open`] checks everything that the accessors rely on: after it they fail only when the
/// bytes change, and then with an error. The weights themselves are not read; any weights at all
/// are safe to compute with.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    pub(crate) sections: Sections<'a>,
    pub(crate) record: ModelRecord,
    pub(crate) stacks: &'a [u8],
    pub(crate) blocks: &'a [u8],
    pub(crate) tensors: &'a [u8],
    pub(crate) weights: &'a [u8],
}

impl<'a> Model<'a> {
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

    /// Width of a stack's stream where it ends.
    pub fn end_width(&self, stack: u32) -> usize {
        self.stack_record(stack).map_or(0, |record| record.out as usize)
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
}
