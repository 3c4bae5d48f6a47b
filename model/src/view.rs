//! Typed views of tensors and blocks. Every look re-reads the records with full checks, so a view
//! is right even when the file changes under a memory map.

use kinglet_kernels::cache::MAX_HEAD_DIM;
use kinglet_kernels::scalar::transforms;
use kinglet_kernels::{Activation, Format, Matrix};

use super::error::{BlockProblem, OpenError, StackProblem, TensorProblem};
use super::layout::{
    self, ALIGN, BlockRecord, MAX_DIMENSION, NONE, StackRecord, TensorRecord, block, input, inputs,
    join, norm, pooling, sight, tensor,
};
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
    /// Of a product's matrix, what its inputs go through.
    pub inputs: Inputs,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Its values.
    pub values: Values<'a>,
}

/// A norm, and an affine function behind it.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    kind: u8,
    /// A factor for each column.
    pub weight: &'a [f32],
    /// Added behind it.
    pub bias: Option<&'a [f32]>,
    /// Keeps the division finite.
    pub eps: f32,
}

impl Norm<'_> {
    /// Whether it is a layer norm; otherwise an RMS norm.
    pub fn is_layer(&self) -> bool {
        FAMILIES && self.kind == norm::LAYER
    }
}

/// How a branch meets the stream.
#[derive(Clone, Copy, Debug)]
pub enum Join<'a> {
    /// The stream stays and the branch is added.
    Pre,
    /// The stream is normed, too; then the branch is added.
    Post(Norm<'a>),
    /// The branch is the stream from then on.
    Replace,
}

/// One branch: `x += output(middle(input(norm(x))))`, or as [`Join`] says.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Its record.
    pub record: BlockRecord,
    /// The norm of what the branch sees.
    pub norm: Option<Norm<'a>>,
    /// How it meets the stream.
    pub join: Join<'a>,
    /// What happens before `output`.
    pub middle: Middle<'a>,
    /// The way back to the residual stream.
    pub output: Linear<'a>,
}

/// What values go through before they are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Inputs {
    /// Nothing.
    #[default]
    Plain,
    /// [`kinglet_kernels::Isa::transform`].
    Transformed,
    /// Nothing, and they are rounded to two planes: [`kinglet_kernels::Isa::quantize_planes`].
    Planes,
}

impl Inputs {
    /// Planes of a row of activations.
    #[inline]
    pub fn planes(self) -> usize {
        if FAMILIES && self == Self::Planes { 2 } else { 1 }
    }
}

/// A product: a matrix, what its inputs go through, and what is added to its result.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// A row for each result; where inputs are transformed, a row of the weights went through the
    /// same.
    pub matrix: Matrix<'a>,
    /// What its inputs go through before they are rounded.
    pub inputs: Inputs,
    /// Added to the results.
    pub bias: Option<&'a [f32]>,
}

/// What a block computes before its last matrix.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is no allocator to box it")]
pub enum Middle<'a> {
    /// Softmax attention.
    Attention(Attention<'a>),
    /// `activation(gate) * up`, or `activation(up)`.
    FeedForward {
        /// Gate, then up; or up alone.
        input: Linear<'a>,
        /// Rows of up.
        inner: usize,
        /// What passes through the activation is a gate, and multiplied by `up`.
        gated: bool,
        /// The activation.
        activation: Activation,
    },
    /// Nothing: the block is one matrix.
    Projection,
}

/// The parts of an attention block.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Queries, then (unless it looks across) keys and values.
    pub input: Linear<'a>,
    /// What it looks at.
    pub sight: Sight<'a>,
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
    /// What queries and keys of each head go through behind their rotation: scores stay the same.
    pub heads_inputs: Inputs,
    /// Epsilon of both.
    pub head_norm_eps: f32,
    /// Phases a position, in 2^-32 turns, of the pairs `(i, i + len)`; empty without rotary
    /// positions.
    pub rope: &'a [u32],
    /// Cosines and sines are multiplied by this.
    pub rope_magnitude: f32,
    /// Added to scores by distance, `2 r + 1` numbers for each query head in units of log 2; empty
    /// for nothing.
    pub relative: &'a [f32],
}

/// What attention looks at.
#[derive(Clone, Copy, Debug)]
pub enum Sight<'a> {
    /// The positions up to its own.
    Earlier,
    /// All positions.
    All,
    /// The final states of the stack before, by way of this matrix: keys, then values.
    Cross(Linear<'a>),
}

/// A stack of blocks.
#[derive(Clone, Copy, Debug)]
pub struct Stack<'a> {
    /// Its record.
    pub record: StackRecord,
    /// Its blocks, by their numbers among those of all stacks.
    pub blocks: (u32, u32),
    /// What it reads.
    pub input: Input<'a>,
    /// Added to the rows of the input, context x width.
    pub positions: Option<Matrix<'a>>,
    /// The norm behind the last block.
    pub norm: Option<Norm<'a>>,
}

/// What a stack reads.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Tokens.
    Tokens {
        /// Vocabulary x width.
        embedding: Matrix<'a>,
        /// What rows of the embedding went through: the same again gives them back.
        inputs: Inputs,
        /// Its rows are multiplied by this.
        scale: f32,
        /// A row for each type of token.
        types: Option<Matrix<'a>>,
    },
    /// Rows of numbers, or patches of a picture.
    Features {
        /// Width x numbers of a row.
        linear: Linear<'a>,
        /// A row in front of the others.
        class: Option<&'a [f32]>,
        /// How a picture becomes rows.
        picture: Option<Picture<'a>>,
    },
    /// Nothing: these rows.
    Queries(Matrix<'a>),
    /// The states of the stack before.
    States,
}

/// A picture of bytes, and how it is cut into patches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Picture<'a> {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// Rows and columns of a patch.
    pub patch: usize,
    /// Bytes of a pixel.
    pub channels: usize,
    /// A byte counts `byte * scale + offset`: the scales of the channels, then the offsets.
    pub pixel: &'a [f32],
}

impl Picture<'_> {
    /// Bytes of the picture.
    pub fn bytes(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Patches of the picture.
    pub fn patches(&self) -> usize {
        (self.height / self.patch) * (self.width / self.patch)
    }

    /// Numbers of a patch.
    pub fn numbers(&self) -> usize {
        self.patch * self.patch * self.channels
    }
}

/// What the last stack's states become.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// One of [`super::layout::pooling`].
    pub pooling: u8,
    /// A layer before the head, and its activation.
    pub dense: Option<(Linear<'a>, Activation)>,
    /// The head.
    pub head: Option<Linear<'a>>,
    /// Whether the result is divided by its length.
    pub normalize: bool,
}

/// Whether the runtime was built with all kinds of layers. Without, everything but causal decoders
/// with RMS norms and gated silu is refused when a file is opened, and no code for it is in the
/// program.
pub const FAMILIES: bool = cfg!(feature = "families");

/// Whether a number can be an epsilon or scale.
#[inline(never)]
pub(super) fn is_scale(x: f32) -> bool {
    x >= 0.0 && x.is_finite()
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
        let inputs = inputs(record.inputs.into(), record.cols as usize)
            .ok_or(fail(TensorProblem::Inputs))?;
        Ok(Tensor { record, inputs, bytes, values: values(&record, bytes).map_err(fail)? })
    }

    /// A matrix, and what its inputs go through.
    fn product(&self, index: u32) -> Result<(Matrix<'a>, Inputs), OpenError> {
        match self.tensor(index)? {
            Tensor { inputs, values: Values::Matrix(matrix), .. } => Ok((matrix, inputs)),
            _ => Err(OpenError::Tensor { index, problem: TensorProblem::Kind }),
        }
    }

    /// Features are as they are, or in two planes.
    fn features(&self, record: &StackRecord) -> Result<Linear<'a>, OpenError> {
        let linear = self.linear(record.embedding, record.input_bias)?;
        if linear.inputs == Inputs::Transformed {
            return Err(OpenError::Tensor {
                index: record.embedding,
                problem: TensorProblem::Inputs,
            });
        }
        Ok(linear)
    }

    /// A matrix whose inputs, or rows, are as they are.
    fn matrix(&self, index: u32) -> Result<Matrix<'a>, OpenError> {
        match self.product(index)? {
            (matrix, Inputs::Plain) => Ok(matrix),
            _ => Err(OpenError::Tensor { index, problem: TensorProblem::Inputs }),
        }
    }

    fn vector(&self, index: u32) -> Result<&'a [f32], OpenError> {
        match self.tensor(index)?.values {
            Values::F32(vector) => Ok(vector),
            _ => Err(OpenError::Tensor { index, problem: TensorProblem::Kind }),
        }
    }

    fn optional<T>(
        &self,
        index: u32,
        get: impl FnOnce(&Self, u32) -> Result<T, OpenError>,
    ) -> Result<Option<T>, OpenError> {
        if index == NONE { Ok(None) } else { get(self, index).map(Some) }
    }

    fn optional_vector(&self, index: u32) -> Result<Option<&'a [f32]>, OpenError> {
        self.optional(index, Self::vector)
    }

    /// What only some builds can run, and so only they look at.
    fn family<T>(
        &self,
        index: u32,
        get: impl FnOnce(&Self, u32) -> Result<T, OpenError>,
    ) -> Result<Option<T>, OpenError> {
        if FAMILIES { self.optional(index, get) } else { Ok(None) }
    }

    fn linear(&self, matrix: u32, bias: u32) -> Result<Linear<'a>, OpenError> {
        let (matrix, inputs) = self.product(matrix)?;
        Ok(Linear { matrix, inputs, bias: self.optional_vector(bias)? })
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

    fn norm(
        &self,
        kind: u8,
        weight: u32,
        bias: u32,
        eps: f32,
    ) -> Result<Option<Norm<'a>>, OpenError> {
        let Some(weight) = self.optional_vector(weight)? else { return Ok(None) };
        Ok(Some(Norm { kind, weight, bias: self.family(bias, Self::vector)?, eps }))
    }

    /// Stack `index`.
    pub fn stack(&self, index: u32) -> Result<Stack<'a>, OpenError> {
        let fail = |problem| OpenError::Stack { index, problem };
        let record = self.stack_record(index).ok_or(fail(StackProblem::Missing))?;
        check_stack(&record).map_err(fail)?;
        let mut first = 0;
        for before in 0..index {
            first += self.stack_record(before).map_or(0, |stack| stack.blocks);
        }
        let input = match record.input {
            _ if !FAMILIES => self.tokens(&record)?,
            input::TOKENS => self.tokens(&record)?,
            input::FEATURES | input::PIXELS => Input::Features {
                linear: self.features(&record)?,
                class: self.optional_vector(record.class)?,
                picture: if record.input == input::PIXELS {
                    Some(self.picture(&record)?)
                } else {
                    None
                },
            },
            input::QUERIES => Input::Queries(self.matrix(record.embedding)?),
            _ => Input::States,
        };
        let stack = Stack {
            record,
            blocks: (first, first.saturating_add(record.blocks)),
            input,
            positions: self.family(record.positions, Self::matrix)?,
            norm: self.norm(record.norm_kind, record.norm, record.norm_bias, record.norm_eps)?,
        };
        stack.check_shapes().map_err(fail)?;
        Ok(stack)
    }

    fn tokens(&self, record: &StackRecord) -> Result<Input<'a>, OpenError> {
        let types = self.family(record.types, Self::matrix)?;
        let (embedding, inputs) = self.product(record.embedding)?;
        Ok(Input::Tokens { embedding, inputs, scale: record.embedding_scale, types })
    }

    fn picture(&self, record: &StackRecord) -> Result<Picture<'a>, OpenError> {
        Ok(Picture {
            height: record.picture_height.into(),
            width: record.picture_width.into(),
            patch: record.patch.into(),
            channels: record.channels.into(),
            pixel: self.vector(record.pixel)?,
        })
    }

    /// What the last stack's states become.
    pub fn output(&self) -> Result<Output<'a>, OpenError> {
        let record = self.record();
        let dense =
            self.family(record.dense, |model, matrix| model.linear(matrix, record.dense_bias))?;
        let output = Output {
            pooling: if FAMILIES { record.pooling } else { pooling::NONE },
            dense: dense.map(|linear| (linear, activation(record.dense_activation))),
            head: self.optional(record.head, |model, matrix| {
                let (matrix, inputs) = model.product(matrix)?;
                Ok(Linear { matrix, inputs, bias: model.family(record.head_bias, Self::vector)? })
            })?,
            normalize: FAMILIES && record.normalize != 0,
        };
        Ok(output)
    }

    /// Block `index`.
    pub fn block(&self, index: u32) -> Result<Block<'a>, OpenError> {
        let mut memory = 0;
        for stack in 0..self.stacks() {
            let stack = self.stack(stack)?;
            let mut width = stack.record.width as usize;
            for at in stack.blocks.0..stack.blocks.1 {
                let block = self.block_at(at, width, memory)?;
                if at == index {
                    return Ok(block);
                }
                width = block.output.matrix.rows();
            }
            memory = width;
        }
        Err(OpenError::Block { index, problem: BlockProblem::Kind(0) })
    }

    /// Block `index`, where the stream has this width and the states of the stack before have that
    /// one (0: there is none).
    pub fn block_at(
        &self,
        index: u32,
        width: usize,
        memory: usize,
    ) -> Result<Block<'a>, OpenError> {
        let fail = |problem| OpenError::Block { index, problem };
        let record = self.block_record(index).ok_or(fail(BlockProblem::Kind(0)))?;
        check_block(&record).map_err(fail)?;
        let middle = match record.kind {
            block::ATTENTION => Middle::Attention(self.attention(&record)?),
            block::PROJECTION if FAMILIES => Middle::Projection,
            _ => Middle::FeedForward {
                input: self.linear(record.input, record.input_bias)?,
                inner: record.inner as usize,
                gated: !FAMILIES || record.variant & layout::activation::PLAIN == 0,
                activation: activation(record.variant & !layout::activation::PLAIN),
            },
        };
        let norm = self.norm(record.norm_kind, record.norm, record.norm_bias, record.norm_eps)?;
        let join = match record.join {
            join::POST if FAMILIES => {
                let (weight, bias) = (record.stream_norm, record.stream_norm_bias);
                let norm = self.norm(record.norm_kind, weight, bias, record.norm_eps)?;
                Join::Post(norm.ok_or(fail(BlockProblem::Shape))?)
            }
            join::REPLACE if FAMILIES => Join::Replace,
            _ => Join::Pre,
        };
        let output = self.linear(record.output, record.output_bias)?;
        let view = Block { record, norm, join, middle, output };
        view.check_shapes(width, memory).map_err(fail)?;
        Ok(view)
    }

    fn attention(&self, record: &BlockRecord) -> Result<Attention<'a>, OpenError> {
        Ok(Attention {
            input: self.linear(record.input, record.input_bias)?,
            sight: match record.variant {
                sight::ALL if FAMILIES => Sight::All,
                sight::CROSS if FAMILIES => {
                    Sight::Cross(self.linear(record.memory, record.memory_bias)?)
                }
                _ => Sight::Earlier,
            },
            heads: usize::from(record.heads),
            kv_heads: usize::from(record.kv_heads),
            head_dim: record.head_dim as usize,
            score_scale: record.score_scale,
            query_norm: self.optional_vector(record.query_norm)?,
            key_norm: self.optional_vector(record.key_norm)?,
            heads_inputs: heads_inputs(record).unwrap_or_default(),
            head_norm_eps: record.head_norm_eps,
            rope: self.rope(record.rope)?,
            rope_magnitude: record.rope_magnitude,
            relative: self.family(record.relative, Self::vector)?.unwrap_or_default(),
        })
    }
}

/// What a record's byte says; nothing where it is none, or `cols` values cannot go through that.
fn inputs(code: u32, cols: usize) -> Option<Inputs> {
    const PLAIN: u32 = inputs::PLAIN as u32;
    const TRANSFORMED: u32 = inputs::TRANSFORMED as u32;
    const PLANES: u32 = inputs::PLANES as u32;
    match code {
        PLAIN => Some(Inputs::Plain),
        TRANSFORMED if transforms(cols) => Some(Inputs::Transformed),
        PLANES if FAMILIES => Some(Inputs::Planes),
        _ => None,
    }
}

/// The same of queries and keys, which the cache has in one plane.
fn heads_inputs(record: &BlockRecord) -> Option<Inputs> {
    inputs(record.heads_inputs, record.head_dim as usize).filter(|&inputs| inputs != Inputs::Planes)
}

fn activation(code: u8) -> Activation {
    use layout::activation as a;
    match code {
        _ if !FAMILIES => Activation::Silu,
        a::GELU => Activation::Gelu,
        a::GELU_TANH => Activation::GeluTanh,
        a::RELU => Activation::Relu,
        a::TANH => Activation::Tanh,
        a::IDENTITY => Activation::Identity,
        _ => Activation::Silu,
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

/// Checks what needs no tensor.
fn check_block(record: &BlockRecord) -> Result<(), BlockProblem> {
    if !FAMILIES && (record.norm_kind != 0 || record.join != 0 || record.variant != 0) {
        return Err(BlockProblem::NotBuilt);
    }
    if record.norm_kind > norm::LAYER || record.join > join::REPLACE {
        return Err(BlockProblem::Variant);
    }
    if !record.reserved.are() {
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
            if record.variant > sight::CROSS {
                return Err(BlockProblem::Variant);
            }
            if heads_inputs(record).is_none() {
                return Err(BlockProblem::Inputs);
            }
        }
        block::FEED_FORWARD if record.inner == 0 || record.inner > MAX_DIMENSION => {
            return Err(BlockProblem::Inner);
        }
        block::FEED_FORWARD
            if record.variant & !layout::activation::PLAIN > layout::activation::IDENTITY =>
        {
            return Err(BlockProblem::Variant);
        }
        block::FEED_FORWARD => {}
        block::PROJECTION if !FAMILIES => return Err(BlockProblem::NotBuilt),
        block::PROJECTION if record.variant != 0 => return Err(BlockProblem::Variant),
        block::PROJECTION => {}
        other => return Err(BlockProblem::Kind(other)),
    }
    Ok(())
}

/// Checks what needs no tensor.
fn check_stack(record: &StackRecord) -> Result<(), StackProblem> {
    let special = record.input != 0 || record.norm_kind != 0 || record.embedding_scale != 1.0;
    let tables =
        [record.positions, record.types, record.norm_bias].into_iter().any(|table| table != NONE);
    if !FAMILIES && (special || tables) {
        return Err(StackProblem::NotBuilt);
    }
    if record.input > input::STATES || record.norm_kind > norm::LAYER {
        return Err(StackProblem::Kind);
    }
    if record.reserved != 0 || !record.reserved2.are() {
        return Err(StackProblem::Reserved);
    }
    if [record.width, record.out, record.context].into_iter().any(|n| n == 0 || n > MAX_DIMENSION) {
        return Err(StackProblem::Dimension);
    }
    if !is_scale(record.norm_eps) || !is_scale(record.embedding_scale) {
        return Err(StackProblem::Value);
    }
    if FAMILIES && record.input == input::PIXELS {
        let sizes = [record.picture_height, record.picture_width, record.patch, record.channels];
        if sizes.contains(&0)
            || !record.picture_height.is_multiple_of(record.patch)
            || !record.picture_width.is_multiple_of(record.patch)
        {
            return Err(StackProblem::Picture);
        }
    }
    Ok(())
}

fn fits(norm: &Option<Norm<'_>>, width: usize) -> bool {
    norm.is_none_or(|norm| {
        // A layer norm has a bias, if only of zeros.
        let bias = norm.bias.map_or(!norm.is_layer(), |bias| bias.len() == width);
        norm.weight.len() == width && bias
    })
}

impl Linear<'_> {
    pub(super) fn is(&self, rows: usize, cols: usize) -> bool {
        (self.matrix.rows(), self.matrix.cols()) == (rows, cols)
            && self.bias.is_none_or(|bias| bias.len() == rows)
    }
}

impl Stack<'_> {
    /// Numbers of a row of features; 0 where the stack reads none.
    pub fn features(&self) -> usize {
        match &self.input {
            Input::Features { linear, .. } if FAMILIES => linear.matrix.cols(),
            _ => 0,
        }
    }

    /// Rows that are read row by row: neither of these matrices may be sparse.
    fn check_shapes(&self) -> Result<(), StackProblem> {
        let (width, context) = (self.record.width as usize, self.record.context as usize);
        let table = |matrix: &Matrix<'_>| matrix.cols() == width && !matrix.is_sparse();
        let tables =
            self.positions.is_none_or(|table_of| table(&table_of) && table_of.rows() >= context);
        let input = match &self.input {
            Input::Tokens { embedding, types, .. } => {
                table(embedding) && types.is_none_or(|types| table(&types))
            }
            Input::Features { linear, class, picture } => {
                let picture = picture.is_none_or(|picture| {
                    let rows = picture.patches() + usize::from(class.is_some());
                    linear.matrix.cols() == picture.numbers()
                        && picture.pixel.len() == 2 * picture.channels
                        && rows == context
                });
                linear.is(width, linear.matrix.cols())
                    && class.is_none_or(|class| class.len() == width)
                    && picture
            }
            Input::Queries(queries) => table(queries) && queries.rows() == context,
            Input::States => true,
        };
        if tables && input && fits(&self.norm, self.record.out as usize) {
            Ok(())
        } else {
            Err(StackProblem::Shape)
        }
    }
}

impl Block<'_> {
    /// Width of what enters `output`.
    pub fn middle_width(&self) -> usize {
        self.output.matrix.cols()
    }

    /// The first matrix of the branch.
    pub fn input(&self) -> Option<&Linear<'_>> {
        match &self.middle {
            Middle::Attention(a) => Some(&a.input),
            Middle::FeedForward { input, .. } => Some(input),
            Middle::Projection => None,
        }
    }

    fn check_shapes(&self, width: usize, memory: usize) -> Result<(), BlockProblem> {
        let replaces = matches!(self.join, Join::Replace);
        let middle = match &self.middle {
            Middle::Attention(a) => a.check(width, memory)?,
            Middle::FeedForward { input, inner, gated, .. } => {
                if !input.is(inner * (1 + usize::from(*gated)), width) {
                    return Err(BlockProblem::Shape);
                }
                *inner
            }
            Middle::Projection => width,
        };
        let shapes = fits(&self.norm, width)
            && (self.norm.is_some() || (FAMILIES && !matches!(self.join, Join::Post(_))))
            && (replaces || self.output.matrix.rows() == width)
            && self.output.is(self.output.matrix.rows(), middle)
            && (!matches!(self.middle, Middle::Projection) || replaces);
        let stream = match self.join {
            Join::Post(norm) => fits(&Some(norm), width),
            _ => true,
        };
        if shapes && stream { Ok(()) } else { Err(BlockProblem::Shape) }
    }
}

impl Attention<'_> {
    /// Rows of keys and of values together.
    pub fn kv_rows(&self) -> usize {
        2 * self.kv_heads * self.head_dim
    }

    /// Checks shapes and returns the width of the result.
    fn check(&self, width: usize, memory: usize) -> Result<usize, BlockProblem> {
        let queries = self.heads * self.head_dim;
        let head = |norm: Option<&[f32]>| norm.is_none_or(|norm| norm.len() == self.head_dim);
        let shapes = match &self.sight {
            Sight::Earlier | Sight::All => self.input.is(queries + self.kv_rows(), width),
            // A norm of keys or rotation would belong to the source's positions.
            Sight::Cross(linear) => {
                memory > 0
                    && self.input.is(queries, width)
                    && linear.is(self.kv_rows(), memory)
                    && self.key_norm.is_none()
                    && self.rope.is_empty()
            }
        };
        let each = self.relative.len() / self.heads.max(1);
        if !shapes || !head(self.query_norm) || !head(self.key_norm) {
            return Err(BlockProblem::Shape);
        }
        if !self.relative.is_empty()
            && (each * self.heads != self.relative.len() || each.is_multiple_of(2))
        {
            return Err(BlockProblem::Relative);
        }
        if self.rope.len() * 2 > self.head_dim {
            return Err(BlockProblem::Rope);
        }
        Ok(queries)
    }
}
