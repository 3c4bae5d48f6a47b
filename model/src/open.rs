//! Opening a file: the checks that all accessors rely on.

use crate::description::{Block, InPlace, Input, Inputs, Mask, Stack};
use crate::error::{BlockProblem, ModelProblem, OpenError, StackProblem, TensorProblem};
use crate::families::FAMILIES;
use crate::layout::{BlockRecord, ModelRecord, StackRecord, TensorRecord, section};
use crate::model::Model;
use crate::sections::Sections;
use crate::validate::check_model;

impl<'a> Model<'a> {
    /// Checks the structure of a file: head, tables, and each block's and tensor's place and shape.
    /// The cost grows with their number, not with the weights. Bytes after the end of the file are
    /// ignored, so a whole flash region may be given.
    ///
    /// `bytes` must start at a multiple of 64: a memory map, a section aligned by the linker, or
    /// `kinglet::Aligned`.
    ///
    /// ```
    /// use kinglet_model::{Model, OpenError, Operation};
    ///
    /// // A static of a firmware or a test; on a host, a memory map.
    /// let file = &kinglet_fixtures::STORYTELLER.0;
    /// let model = Model::open(file)?;
    /// let mut heads = 0;
    /// for index in 0..model.blocks() {
    ///     if let Operation::Attention(attention) = model.block(index)?.operation {
    ///         heads += attention.heads;
    ///     }
    /// }
    /// assert_eq!((model.blocks(), heads), (8, 16));
    ///
    /// assert_eq!(Model::open(&file[64..]).unwrap_err(), OpenError::NotKinglet);
    /// # Ok::<_, OpenError>(())
    /// ```
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong, and with which section, stack, block or tensor.
    pub fn open(bytes: &'a [u8]) -> Result<Self, OpenError> {
        let sections = Sections::open(bytes)?;
        let table = sections.table(section::MODEL, ModelRecord::SIZE as u64)?;
        let record = ModelRecord::read(table).ok_or(OpenError::Model(ModelProblem::Kind))?;
        check_model(&record).map_err(OpenError::Model)?;
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
        for at in stack.blocks.0..stack.blocks.1 {
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
}

/// What the states that a block looks at go through.
fn states_inputs_of(block: &Block<InPlace<'_>>) -> Option<Inputs> {
    block.states.filter(|_| FAMILIES).map(|states| states.inputs)
}
