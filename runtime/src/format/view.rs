//! Typed views of tensors and blocks. Every look re-reads the records with full checks, so a view is right even when the
//! file changes under a memory map.

use kinglet_kernels::cache::MAX_HEAD_DIM;
use kinglet_kernels::{Format, Matrix};

use super::error::{BlockProblem, OpenError, TensorProblem};
use super::layout::{ALIGN, BlockRecord, MAX_DIMENSION, NONE, TensorRecord, block, tensor};
use super::model::Model;

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
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Its values.
    pub values: Values<'a>,
}

/// One residual branch: `x += output(middle(input(norm(x))))`.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Its record.
    pub record: BlockRecord,
    /// Weight of the norm before it.
    pub norm: &'a [f32],
    /// Query, key and value; or gate and up.
    pub input: Matrix<'a>,
    /// Added to the result of `input`.
    pub input_bias: Option<&'a [f32]>,
    /// The way back to the residual stream.
    pub output: Matrix<'a>,
    /// Added to the result of `output`.
    pub output_bias: Option<&'a [f32]>,
    /// What happens between.
    pub middle: Middle<'a>,
}

/// What a block computes between its two matrices.
#[derive(Clone, Copy, Debug)]
pub enum Middle<'a> {
    /// Causal softmax attention.
    Attention(Attention<'a>),
    /// `silu(gate) * up`.
    FeedForward {
        /// Rows of gate and of up.
        inner: usize,
    },
}

/// The parts of an attention block.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Scores are multiplied by this.
    pub score_scale: f32,
    /// RMS norm of each query head.
    pub query_norm: Option<&'a [f32]>,
    /// RMS norm of each key head.
    pub key_norm: Option<&'a [f32]>,
    /// Epsilon of both.
    pub head_norm_eps: f32,
    /// Phases a position, in 2^-32 turns, of the pairs `(i, i + len)`; empty without rotary positions.
    pub rope: &'a [u32],
    /// Cosines and sines are multiplied by this.
    pub rope_magnitude: f32,
}

/// Whether a number can be an epsilon or scale.
pub(super) fn is_scale(x: f32) -> bool {
    x >= 0.0 && x.is_finite()
}

/// The matrix format of a tensor's format byte, and whether it is sparse.
fn matrix_format(format: u8) -> Option<(Format, bool)> {
    let sparse = format & tensor::SPARSE != 0;
    match format & !tensor::SPARSE {
        tensor::INT8 => Some((Format::Int8, sparse)),
        tensor::INT4 => Some((Format::Int4, sparse)),
        tensor::INT4_CODEBOOK => Some((Format::Int4Codebook, sparse)),
        _ => None,
    }
}

impl<'a> Model<'a> {
    /// Tensor `index`.
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
        if record.reserved != 0 || record.reserved2 != 0 {
            return Err(fail(TensorProblem::Reserved));
        }
        Ok(Tensor { record, bytes, values: values(&record, bytes).map_err(fail)? })
    }

    fn matrix(&self, index: u32) -> Result<Matrix<'a>, OpenError> {
        match self.tensor(index)?.values {
            Values::Matrix(matrix) => Ok(matrix),
            _ => Err(OpenError::Tensor { index, problem: TensorProblem::Kind }),
        }
    }

    fn vector(&self, index: u32) -> Result<&'a [f32], OpenError> {
        match self.tensor(index)?.values {
            Values::F32(vector) => Ok(vector),
            _ => Err(OpenError::Tensor { index, problem: TensorProblem::Kind }),
        }
    }

    fn optional_vector(&self, index: u32) -> Result<Option<&'a [f32]>, OpenError> {
        if index == NONE { Ok(None) } else { self.vector(index).map(Some) }
    }

    fn rope(&self, index: u32) -> Result<&'a [u32], OpenError> {
        if index == NONE {
            return Ok(&[]);
        }
        match self.tensor(index)?.values {
            Values::U32(vector) => Ok(vector),
            _ => Err(OpenError::Tensor { index, problem: TensorProblem::Kind }),
        }
    }

    /// The matrix of the embedding, vocab x width.
    pub fn embedding(&self) -> Result<Matrix<'a>, OpenError> {
        self.matrix(self.record().embedding)
    }

    /// The matrix of the head, vocab x width.
    pub fn head(&self) -> Result<Matrix<'a>, OpenError> {
        self.matrix(self.record().head)
    }

    /// The norm before the head.
    pub fn norm(&self) -> Result<&'a [f32], OpenError> {
        self.vector(self.record().norm)
    }

    /// Block `index`.
    pub fn block(&self, index: u32) -> Result<Block<'a>, OpenError> {
        let fail = |problem| OpenError::Block { index, problem };
        let record = self.block_record(index).ok_or(fail(BlockProblem::Kind(0)))?;
        check_block(&record).map_err(fail)?;
        let middle = match record.kind {
            block::ATTENTION => Middle::Attention(self.attention(&record)?),
            _ => Middle::FeedForward { inner: record.inner as usize },
        };
        let view = Block {
            record,
            norm: self.vector(record.norm)?,
            input: self.matrix(record.input)?,
            input_bias: self.optional_vector(record.input_bias)?,
            output: self.matrix(record.output)?,
            output_bias: self.optional_vector(record.output_bias)?,
            middle,
        };
        view.check_shapes(self.record().width as usize).map_err(fail)?;
        Ok(view)
    }

    fn attention(&self, record: &BlockRecord) -> Result<Attention<'a>, OpenError> {
        Ok(Attention {
            heads: usize::from(record.heads),
            kv_heads: usize::from(record.kv_heads),
            head_dim: record.head_dim as usize,
            score_scale: record.score_scale,
            query_norm: self.optional_vector(record.query_norm)?,
            key_norm: self.optional_vector(record.key_norm)?,
            head_norm_eps: record.head_norm_eps,
            rope: self.rope(record.rope)?,
            rope_magnitude: record.rope_magnitude,
        })
    }
}

fn values<'a>(record: &TensorRecord, bytes: &'a [u8]) -> Result<Values<'a>, TensorProblem> {
    let vector = record.rows == 1 && bytes.len() == record.cols as usize * 4;
    match record.format {
        tensor::F32 | tensor::U32 if !vector => Err(TensorProblem::Length),
        tensor::F32 => Ok(Values::F32(bytemuck::try_cast_slice(bytes).map_err(|_| TensorProblem::Misaligned)?)),
        tensor::U32 => Ok(Values::U32(bytemuck::try_cast_slice(bytes).map_err(|_| TensorProblem::Misaligned)?)),
        other => {
            let (format, sparse) = matrix_format(other).ok_or(TensorProblem::Format(other))?;
            Ok(Values::Matrix(Matrix::read(format, record.rows as usize, record.cols as usize, sparse, bytes)?))
        }
    }
}

/// Checks what needs no tensor.
fn check_block(record: &BlockRecord) -> Result<(), BlockProblem> {
    if record.norm_kind != 0 || record.join != 0 || record.variant != 0 {
        return Err(BlockProblem::Variant);
    }
    if record.reserved.iter().any(|&b| b != 0) {
        return Err(BlockProblem::Reserved);
    }
    let scales = [record.norm_eps, record.score_scale, record.head_norm_eps, record.rope_magnitude];
    if !scales.into_iter().all(is_scale) {
        return Err(BlockProblem::Value);
    }
    match record.kind {
        block::ATTENTION => {
            let (heads, kv_heads) = (record.heads, record.kv_heads);
            let wide = record.head_dim == 0 || record.head_dim as usize > MAX_HEAD_DIM;
            if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 || wide {
                return Err(BlockProblem::Heads);
            }
        }
        block::FEED_FORWARD if record.inner == 0 || record.inner > MAX_DIMENSION => return Err(BlockProblem::Inner),
        block::FEED_FORWARD => {}
        other => return Err(BlockProblem::Kind(other)),
    }
    Ok(())
}

impl Block<'_> {
    /// Width of what enters `output`.
    pub fn middle_width(&self) -> usize {
        match &self.middle {
            Middle::Attention(a) => a.heads * a.head_dim,
            Middle::FeedForward { inner } => *inner,
        }
    }

    fn check_shapes(&self, width: usize) -> Result<(), BlockProblem> {
        let rows = match &self.middle {
            Middle::Attention(a) => (a.heads + 2 * a.kv_heads) * a.head_dim,
            Middle::FeedForward { inner } => 2 * inner,
        };
        let is = |bias: Option<&[f32]>, len| bias.is_none_or(|b| b.len() == len);
        let shapes = self.norm.len() == width
            && (self.input.rows(), self.input.cols()) == (rows, width)
            && (self.output.rows(), self.output.cols()) == (width, self.middle_width())
            && is(self.input_bias, rows)
            && is(self.output_bias, width);
        if !shapes {
            return Err(BlockProblem::Shape);
        }
        if let Middle::Attention(a) = &self.middle {
            if !is(a.query_norm, a.head_dim) || !is(a.key_norm, a.head_dim) {
                return Err(BlockProblem::Shape);
            }
            if a.rope.len() * 2 > a.head_dim {
                return Err(BlockProblem::Rope);
            }
        }
        Ok(())
    }
}
