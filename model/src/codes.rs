//! The codes that fields of records have.

/// What becomes of the last stack's states.
pub mod pooling {
    /// Each position has its own output.
    pub const NONE: u8 = 0;
    /// The first position's, of the class token.
    pub const FIRST: u8 = 1;
    /// The mean over positions.
    pub const MEAN: u8 = 2;
    /// The largest of each column.
    pub const MAX: u8 = 3;
}

/// What a stack reads.
pub mod input {
    /// Tokens: rows of `embedding`.
    pub const TOKENS: u8 = 0;
    /// Rows of numbers: `embedding` times each, plus `input_bias`.
    pub const FEATURES: u8 = 1;
    /// A picture, cut into patches from left to right and top to bottom; the numbers of a patch are
    /// those of its rows, pixels, channels. Then as features.
    pub const PIXELS: u8 = 2;
    /// Nothing: the rows of `embedding` are its input (queries that a resampler has learned).
    pub const QUERIES: u8 = 3;
    /// The states of the stack before.
    pub const STATES: u8 = 4;
}

/// Kinds of blocks.
pub mod block {
    /// Attention.
    pub const ATTENTION: u8 = 1;
    /// Feed-forward.
    pub const FEED_FORWARD: u8 = 2;
    /// One matrix, `output`, and nothing else.
    pub const PROJECTION: u8 = 3;
}

/// Kinds of norms.
pub mod norm {
    /// `x / sqrt(mean(x^2) + eps) * weight`.
    pub const RMS: u8 = 0;
    /// `(x - mean) / sqrt(variance + eps) * weight + bias`.
    pub const LAYER: u8 = 1;
}

/// How a branch meets the stream.
pub mod join {
    /// `x += branch(norm(x))`.
    pub const PRE: u8 = 0;
    /// The stream is normed, too: `x = stream_norm(x) + branch(norm(x))`. Models that norm after
    /// the branch are this, each norm with the block after it.
    pub const POST: u8 = 1;
    /// `x = branch(norm(x))`, of another width perhaps.
    pub const REPLACE: u8 = 2;
}

/// What attention looks at.
pub mod mask {
    /// The positions up to its own.
    pub const CAUSAL: u8 = 0;
    /// All positions.
    pub const FULL: u8 = 1;
    /// The final states of the stack before.
    pub const CROSS: u8 = 2;
    /// The last positions up to its own, so many as the record's window.
    pub const WINDOW: u8 = 3;
}

/// What a feed-forward's variant has beside the code of its
/// [`Activation`](kinglet_kernels::Activation).
pub mod activation {
    /// Added to it: there is no gate, the activation is all.
    pub const PLAIN: u8 = 16;
}

/// How a tensor's bytes are to be read.
pub mod tensor {
    /// `cols` f32.
    pub const F32: u8 = 0;
    /// `cols` u32.
    pub const U32: u8 = 1;
    /// [`kinglet_kernels::Format::Int8`].
    pub const INT8: u8 = 2;
    /// [`kinglet_kernels::Format::Int4`].
    pub const INT4: u8 = 3;
    /// [`kinglet_kernels::Format::Int4Codebook`].
    pub const INT4_CODEBOOK: u8 = 4;
    /// [`kinglet_kernels::Format::Int8Grouped`].
    pub const INT8_GROUPED: u8 = 5;
    /// [`kinglet_kernels::Format::Int4Offset`]; never sparse.
    pub const INT4_OFFSET: u8 = 6;
    /// Added to the format of a matrix without bytes for blocks that are zero.
    pub const SPARSE: u8 = 16;
}

/// What the inputs of a product go through before they are rounded, and how. Where they are
/// transformed, the columns of its matrix went through the same.
pub mod inputs {
    /// Nothing.
    pub const PLAIN: u8 = 0;
    /// [`kinglet_kernels::Isa::transform`]; the columns are a multiple of 4.
    pub const TRANSFORMED: u8 = 1;
    /// Nothing, and they are rounded to two planes of int8: the second has what the first leaves
    /// out.
    pub const PLANES: u8 = 2;
}
