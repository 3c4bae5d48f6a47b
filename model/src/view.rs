//! Typed views of tensors, stacks and blocks. Every look re-reads the records with full checks, so
//! a view is right even when the file changes under a memory map.

use kinglet_kernels::{Format, Matrix};

use crate::description::{
    Block, InPlace, Input, Inputs, Linear, Output, Picture, Pooling, Stack, Table,
};
use crate::error::{BlockProblem, ModelProblem, OpenError, StackProblem, TensorProblem};
use crate::families::FAMILIES;
use crate::layout::{ALIGN, MAX_DIMENSION, StackRecord, TensorRecord, input, inputs, tensor};
use crate::lowering::{Raise, activation_of, norm_of, optional, pooling_of, raise, raise_norm};
use crate::model::Model;
use crate::validate::{check_block, check_stack, inputs_for};

/// What a tensor holds.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// A vector of f32.
    F32(&'a [f32]),
    /// A vector of u32.
    U32(&'a [u32]),
    /// A matrix of weights.
    Matrix(Matrix<'a>),
}

/// A tensor of the file.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Its record.
    pub record: TensorRecord,
    /// Of a product's matrix, what its inputs go through.
    pub inputs: Inputs,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Its values.
    pub values: Values<'a>,
}

/// The matrix format of a tensor's format byte, and whether it is sparse.
fn matrix_format(format: u8) -> Option<(Format, bool)> {
    let sparse = format & tensor::SPARSE != 0;
    if format == tensor::INT4_OFFSET {
        return Some((Format::Int4Offset, false));
    }
    match format & !tensor::SPARSE {
        tensor::INT8 => Some((Format::Int8, sparse)),
        tensor::INT4 => Some((Format::Int4, sparse)),
        tensor::INT4_CODEBOOK => Some((Format::Int4Codebook, sparse)),
        tensor::INT8_GROUPED => Some((Format::Int8Grouped, sparse)),
        _ => None,
    }
}

impl<'a> Model<'a> {
    /// Tensor `index`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn tensor(&self, index: u32) -> Result<Tensor<'a>, OpenError> {
        let fail = |problem| OpenError::Tensor { index, problem };
        let record = self.tensor_record(index).ok_or(fail(TensorProblem::Missing))?;
        let bytes = self.tensor_bytes(&record).ok_or(fail(TensorProblem::Bounds))?;
        if record.offset % ALIGN as u64 != 0 {
            return Err(fail(TensorProblem::Misaligned));
        }
        if record.rows > MAX_DIMENSION || record.cols > MAX_DIMENSION || record.cols == 0 {
            return Err(fail(TensorProblem::Shape));
        }
        if record.reserved2 != 0 {
            return Err(fail(TensorProblem::Reserved));
        }
        if !FAMILIES && record.inputs == inputs::PLANES {
            return Err(fail(TensorProblem::NotBuilt));
        }
        let inputs = inputs_for(record.inputs.into(), record.cols as usize)
            .ok_or(fail(TensorProblem::Inputs))?;
        Ok(Tensor { record, inputs, bytes, values: values(&record, bytes).map_err(fail)? })
    }

    /// A matrix, and what its inputs or rows went through.
    fn table(&self, index: u32) -> Result<Table<'a>, OpenError> {
        match self.tensor(index)? {
            Tensor { inputs, values: Values::Matrix(matrix), .. } => Ok(Table { matrix, inputs }),
            _ => Err(OpenError::Tensor { index, problem: TensorProblem::Kind }),
        }
    }

    /// A table whose rows are as they are.
    fn plain(&self, index: u32) -> Result<Table<'a>, OpenError> {
        match self.table(index)? {
            table @ Table { inputs: Inputs::Rounded, .. } => Ok(table),
            _ => Err(OpenError::Tensor { index, problem: TensorProblem::Inputs }),
        }
    }

    /// Features are as they are, or in two planes.
    fn features(&self, record: &StackRecord) -> Result<Linear<'a>, OpenError> {
        let index = record.embedding;
        match self.linear(index, record.input_bias)? {
            Linear { inputs: Inputs::Transformed, .. } => {
                Err(OpenError::Tensor { index, problem: TensorProblem::Inputs })
            }
            linear => Ok(linear),
        }
    }

    /// What only some builds can run, and so only they look at.
    fn family<T>(
        &self,
        index: u32,
        get: impl FnOnce(u32) -> Result<T, OpenError>,
    ) -> Result<Option<T>, OpenError> {
        if FAMILIES { optional(index, get) } else { Ok(None) }
    }

    /// Stack `index`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn stack(&self, index: u32) -> Result<Stack<InPlace<'a>>, OpenError> {
        let fail = |problem| OpenError::Stack { index, problem };
        let record = self.stack_record(index).ok_or(fail(StackProblem::Missing))?;
        check_stack(&record).map_err(fail)?;
        let norms = (record.norm, record.norm_bias);
        let stack = Stack {
            width: record.width as usize,
            context: record.context as usize,
            input: self.input(&record)?,
            positions: self.family(record.positions, |index| self.plain(index))?,
            blocks: self.blocks_of(index, record.blocks)?,
            norm: raise_norm(norms, norm_of(record.norm_kind), record.norm_eps, |index| {
                self.vector(index)
            })?,
        };
        stack.check_shapes(record.out as usize).map_err(fail)?;
        Ok(stack)
    }

    /// The first block of stack `index`, which has so many, and the end of them. All are blocks of
    /// the model.
    fn blocks_of(&self, index: u32, count: u32) -> Result<(u32, u32), OpenError> {
        let mut before = (0..index).filter_map(|index| self.stack_record(index));
        let first = before.try_fold(0u32, |first, stack| first.checked_add(stack.blocks));
        first
            .and_then(|first| Some((first, first.checked_add(count)?)))
            .filter(|&(_, end)| end <= self.record.blocks)
            .ok_or(OpenError::Model(ModelProblem::Dimension))
    }

    fn input(&self, record: &StackRecord) -> Result<Input<InPlace<'a>>, OpenError> {
        Ok(match record.input {
            input::FEATURES | input::PIXELS if FAMILIES => Input::Features {
                linear: self.features(record)?,
                class: optional(record.class, |index| self.vector(index))?,
                picture: match record.input {
                    input::PIXELS => Some(self.picture(record)?),
                    _ => None,
                },
            },
            input::QUERIES if FAMILIES => Input::Queries(self.plain(record.embedding)?),
            input::STATES if FAMILIES => Input::States,
            _ => Input::Tokens {
                embedding: self.table(record.embedding)?,
                scale: record.embedding_scale,
                types: self.family(record.types, |index| self.plain(index))?,
            },
        })
    }

    fn picture(&self, record: &StackRecord) -> Result<Picture<&'a [f32]>, OpenError> {
        Ok(Picture {
            height: record.picture_height.into(),
            width: record.picture_width.into(),
            patch: record.patch.into(),
            channels: record.channels.into(),
            pixel: self.vector(record.pixel)?,
        })
    }

    /// What the last stack's states become.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn output(&self) -> Result<Output<InPlace<'a>>, OpenError> {
        let record = &self.record;
        let dense = self.family(record.dense, |matrix| self.linear(matrix, record.dense_bias))?;
        let head = optional(record.head, |matrix| {
            let Table { matrix, inputs } = self.table(matrix)?;
            let bias = self.family(record.head_bias, |index| self.vector(index))?;
            Ok(Linear { matrix, inputs, bias })
        })?;
        Ok(Output {
            pooling: self.pooling(),
            dense: dense.map(|linear| (linear, activation_of(record.dense_activation))),
            head,
            normalize: FAMILIES && record.normalize != 0,
        })
    }

    /// What is taken from the last stack's states.
    #[inline(always)]
    pub fn pooling(&self) -> Pooling {
        if FAMILIES { pooling_of(self.record.pooling) } else { Pooling::None }
    }

    /// Block `index`, counted over all stacks.
    ///
    /// # Errors
    /// What is wrong with it, or with the product of the block before it.
    pub fn block(&self, index: u32) -> Result<Block<InPlace<'a>>, OpenError> {
        let mut states = 0;
        for at in 0..self.stacks() {
            let stack = self.stack(at)?;
            if index < stack.blocks.1 {
                return self.block_at(index, self.width_before(&stack, index)?, states);
            }
            states = self.end_width(at);
        }
        Err(OpenError::Block { index, problem: BlockProblem::Kind(0) })
    }

    /// Width of the stream before block `index`, which is one of `stack`. The block before it says
    /// so; no other is read.
    ///
    /// # Errors
    /// What is wrong with the last product of the block before it.
    pub fn width_before(&self, stack: &Stack<InPlace<'_>>, index: u32) -> Result<usize, OpenError> {
        let Some(before) = index.checked_sub(1).filter(|_| index > stack.blocks.0) else {
            return Ok(stack.width);
        };
        let fail = OpenError::Block { index: before, problem: BlockProblem::Kind(0) };
        let record = self.block_record(before).ok_or(fail)?;
        Ok(self.table(record.output)?.matrix.rows())
    }

    /// Block `index`, where the stream has this width and the states of the stack before have that
    /// one (0: there is none).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn block_at(
        &self,
        index: u32,
        width: usize,
        states: usize,
    ) -> Result<Block<InPlace<'a>>, OpenError> {
        let fail = |problem| OpenError::Block { index, problem };
        let record = self.block_record(index).ok_or(fail(BlockProblem::Kind(0)))?;
        check_block(&record).map_err(fail)?;
        let block = raise(&record, &Place { model: self, index })?;
        block.check_shapes(record.inner as usize, width, states).map_err(fail)?;
        Ok(block)
    }
}

impl<'a> Model<'a> {
    fn linear(&self, matrix: u32, bias: u32) -> Result<Linear<'a>, OpenError> {
        let Table { matrix, inputs } = self.table(matrix)?;
        Ok(Linear { matrix, inputs, bias: optional(bias, |index| self.vector(index))? })
    }

    fn vector(&self, index: u32) -> Result<&'a [f32], OpenError> {
        match self.tensor(index)?.values {
            Values::F32(vector) => Ok(vector),
            _ => Err(OpenError::Tensor { index, problem: TensorProblem::Kind }),
        }
    }
}

/// The block whose tensors are asked for.
struct Place<'m, 'a> {
    model: &'m Model<'a>,
    index: u32,
}

impl<'a> Raise<InPlace<'a>> for Place<'_, 'a> {
    type Error = OpenError;

    fn linear(&self, matrix: u32, bias: u32) -> Result<Linear<'a>, OpenError> {
        self.model.linear(matrix, bias)
    }

    fn vector(&self, index: u32) -> Result<&'a [f32], OpenError> {
        self.model.vector(index)
    }

    fn frequencies(&self, index: u32) -> Result<&'a [u32], OpenError> {
        match self.model.tensor(index)?.values {
            Values::U32(vector) => Ok(vector),
            _ => Err(OpenError::Tensor { index, problem: TensorProblem::Kind }),
        }
    }

    fn relative(&self, index: u32) -> Result<&'a [f32], OpenError> {
        self.model.vector(index)
    }

    fn missing_norm(&self) -> OpenError {
        OpenError::Block { index: self.index, problem: BlockProblem::Shape }
    }
}

fn values<'a>(record: &TensorRecord, bytes: &'a [u8]) -> Result<Values<'a>, TensorProblem> {
    let vector = record.rows == 1 && bytes.len() == record.cols as usize * 4;
    match record.format {
        tensor::F32 | tensor::U32 if !vector => Err(TensorProblem::Length),
        tensor::F32 => {
            Ok(Values::F32(bytemuck::try_cast_slice(bytes).map_err(|_| TensorProblem::Misaligned)?))
        }
        tensor::U32 => {
            Ok(Values::U32(bytemuck::try_cast_slice(bytes).map_err(|_| TensorProblem::Misaligned)?))
        }
        other => {
            let (format, sparse) = matrix_format(other).ok_or(TensorProblem::Format(other))?;
            Ok(Values::Matrix(Matrix::read(
                format,
                record.rows as usize,
                record.cols as usize,
                sparse,
                bytes,
            )?))
        }
    }
}
