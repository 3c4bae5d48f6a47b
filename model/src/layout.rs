//! The records of a `.kinglet` file, version 3. `docs/format.md` describes them byte for byte; the
//! reader ([`crate::Model`]) and the quantizer's writer share these definitions.
//!
//! ```text
//! 0    Head                       64 bytes
//! 64   SectionEntry x sections    32 bytes each, by ascending offset
//! ...  sections                   each at a multiple of 64
//! ```

pub use super::codes::{activation, block, input, inputs, join, mask, norm, pooling, tensor};
pub use super::record::Zeros;
use super::record::record;

/// First bytes of every file. The last two show a transfer that changed line ends or stopped at an
/// end-of-file character.
pub const MAGIC: [u8; 8] = *b"KINGLET\x1a";
/// Version of the format that this crate reads and writes.
pub const VERSION: u16 = 3;
/// Alignment of sections, tensors and of the memory a file is executed from.
pub const ALIGN: usize = kinglet_kernels::layout::ALIGN;
/// Tensor index that stands for "none".
pub const NONE: u32 = u32::MAX;
/// At most this many sections in a file.
pub const MAX_SECTIONS: u32 = 64;
/// At most this many stacks in a model.
pub const MAX_STACKS: u32 = 8;
/// At most this many blocks in all stacks.
pub const MAX_BLOCKS: u32 = 4096;
/// At most this many tensors.
pub const MAX_TENSORS: u32 = 1 << 16;
/// Widths, heads, vocabulary and context stay below this, so that products of two fit 64 bits with
/// room.
pub const MAX_DIMENSION: u32 = 1 << 28;

record! {
    /// The start of a file.
    Head {
        /// [`MAGIC`].
        magic: [u8; 8],
        /// [`VERSION`].
        version: u16,
        /// Entries of the section table.
        sections: u16,
        /// CRC-32 of this record, with this field zero, and of the section table.
        crc: u32,
        /// Bytes of the whole file.
        bytes: u64,
        /// Zero.
        reserved: Zeros<40>,
    }
}

record! {
    /// Where a section lies.
    SectionEntry {
        /// One of [`section`].
        kind: u32,
        /// CRC-32 of the section's bytes; for [`section::WEIGHTS`] zero, since each tensor has its
        /// own.
        crc: u32,
        /// From the start of the file; a multiple of 64.
        offset: u64,
        /// Length.
        bytes: u64,
        /// Zero.
        reserved: u64,
    }
}

/// Kinds of sections. A reader skips kinds that it does not know.
pub mod section {
    /// One [`super::ModelRecord`].
    pub const MODEL: u32 = 1;
    /// [`super::BlockRecord`]s, in the order of execution.
    pub const BLOCKS: u32 = 2;
    /// [`super::TensorRecord`]s.
    pub const TENSORS: u32 = 3;
    /// UTF-8 names that the tensor records point into.
    pub const NAMES: u32 = 4;
    /// The tokenizer of the text that goes in; see `docs/tokenizer.md`.
    pub const TOKENIZER: u32 = 5;
    /// Pairs of strings: each `u32` length of key, `u32` length of value, key, value.
    pub const METADATA: u32 = 6;
    /// [`super::GoldenRecord`]s, each followed by its tokens as `u32`.
    pub const GOLDEN: u32 = 7;
    /// The tensors' bytes.
    pub const WEIGHTS: u32 = 8;
    /// [`super::StackRecord`]s, in the order of execution.
    pub const STACKS: u32 = 9;
    /// The tokenizer of the text that comes out, where it is another one.
    pub const TARGET_TOKENIZER: u32 = 10;
}

record! {
    /// What is not in a stack: the counts, and how the last stack's states become the output. A
    /// language model has the head at each position; an encoder pools its states to one row first,
    /// and may have a dense layer with an activation before the head.
    ModelRecord {
        /// Number of stacks.
        stacks: u32,
        /// Number of blocks of all stacks.
        blocks: u32,
        /// Number of tensors.
        tensors: u32,
        /// One of [`pooling`].
        pooling: u8,
        /// 1: outputs are divided by their Euclidean length.
        normalize: u8,
        /// Code of the [`Activation`](kinglet_kernels::Activation) that follows `dense`.
        dense_activation: u8,
        /// Zero.
        reserved: u8,
        /// Matrix, n x width of the last stack's states, or none.
        dense: u32,
        /// Vector, n, or none.
        dense_bias: u32,
        /// Matrix, outputs x width (or n after `dense`), or none: the states themselves come out.
        /// The same index as the last stack's embedding where they are tied.
        head: u32,
        /// Vector, outputs, or none.
        head_bias: u32,
        /// The token that a target begins with, or none.
        start: u32,
        /// Zero.
        reserved2: Zeros<28>,
    }
}

record! {
    /// A stack of blocks. Its attention across ([`mask::CROSS`]) looks at the final states of the
    /// stack before. Fields that the input's kind does not use are zero, tensors [`NONE`].
    StackRecord {
        /// One of [`input`].
        input: u8,
        /// One of [`norm`]: the kind of `norm`.
        norm_kind: u8,
        /// Zero.
        reserved: u16,
        /// Width of the residual stream where it starts.
        width: u32,
        /// Width where it ends.
        out: u32,
        /// Positions that it was made for; those of a class token included.
        context: u32,
        /// Number of its blocks.
        blocks: u32,
        /// Matrix. Tokens: vocabulary x width; features: width x numbers; queries: number x width.
        embedding: u32,
        /// The rows of a token's embedding are multiplied by this.
        embedding_scale: f32,
        /// Vector, width, or none: added to features' products.
        input_bias: u32,
        /// Matrix, context x width, or none: added to the rows.
        positions: u32,
        /// Matrix, types x width, or none: a row for the type of each token, added.
        types: u32,
        /// Vector, width, or none: a row in front of features.
        class: u32,
        /// Vector, `out`, of the norm after the last block, or none.
        norm: u32,
        /// Its bias, or none.
        norm_bias: u32,
        /// Its epsilon.
        norm_eps: f32,
        /// Rows of a picture.
        picture_height: u16,
        /// Columns of a picture.
        picture_width: u16,
        /// Rows and columns of a patch.
        patch: u16,
        /// Numbers of a pixel.
        channels: u16,
        /// Vector, `2 * channels`: a pixel counts `value * scale + offset`; the scales, then the
        /// offsets.
        pixel: u32,
        /// Zero.
        reserved2: Zeros<28>,
    }
}

record! {
    /// A block: one branch, `x += output(operation(input(norm(x))))` or as [`join`] says. Fields
    /// that the block's kind does not use are zero, tensors [`NONE`].
    BlockRecord {
        /// One of [`block`].
        kind: u8,
        /// One of [`norm`].
        norm_kind: u8,
        /// One of [`join`].
        join: u8,
        /// Attention: one of [`mask`]. Feed-forward: the code of its activation, of the gate or
        /// plain.
        variant: u8,
        /// Layer of the source model, for people.
        layer: u32,
        /// Vector, width; or none where the branch sees the stream as it is.
        norm: u32,
        /// Epsilon of `norm`.
        norm_eps: f32,
        /// Matrix, inner x width. Attention: rows of query, then (unless across) key, then value
        /// heads. Feed-forward: gate (if there is one), then up.
        input: u32,
        /// Vector added to the result of `input`, or none.
        input_bias: u32,
        /// Matrix, width x (heads * head_dim, feed-forward width, or width).
        output: u32,
        /// Vector added to the result of `output`, or none.
        output_bias: u32,
        /// Query heads; not attention: 0.
        heads: u16,
        /// Key/value heads, a divisor of `heads`.
        kv_heads: u16,
        /// Dimensions of a head.
        head_dim: u32,
        /// Scores are multiplied by this.
        score_scale: f32,
        /// RMS norm over each query head, a vector of `head_dim`, or none.
        query_norm: u32,
        /// The same over each key head.
        key_norm: u32,
        /// Epsilon of both.
        head_norm_eps: f32,
        /// Phases a position for each rotated pair `(i, i + n)`, in 2^-32 turns: `n` u32; or none.
        rope: u32,
        /// Cosines and sines are multiplied by this.
        rope_magnitude: f32,
        /// Feed-forward: rows of up.
        inner: u32,
        /// Bias of `norm`, or none.
        norm_bias: u32,
        /// The norm of the stream ([`join::POST`]): a vector of width, or none.
        stream_norm: u32,
        /// Its bias, or none.
        stream_norm_bias: u32,
        /// Attention across: matrix, (key heads, then value heads) x width of what it looks at.
        states: u32,
        /// Vector added to the result of `states`, or none.
        states_bias: u32,
        /// Added to scores by distance: for each query head `2 r + 1` numbers, for keys `r` and
        /// more positions earlier to `r` and more later, in units of log 2; a vector, or none.
        relative: u32,
        /// One of [`inputs`]: what each head's queries and keys go through, after their rotation.
        heads_inputs: u32,
        /// [`mask::WINDOW`]: positions that a query sees, at least 1.
        window: u32,
        /// Zero.
        reserved: Zeros<28>,
    }
}

record! {
    /// A tensor.
    TensorRecord {
        /// From the start of [`section::WEIGHTS`]; a multiple of 64.
        offset: u64,
        /// Length; it must agree with format and shape (and, where it is sparse, a number of
        /// blocks).
        bytes: u64,
        /// Rows; 1 for vectors.
        rows: u32,
        /// Columns.
        cols: u32,
        /// Start of the name in [`section::NAMES`].
        name: u32,
        /// Length of the name.
        name_bytes: u16,
        /// One of [`tensor`].
        format: u8,
        /// One of [`inputs`]; zero where the tensor is no product's matrix or table of tokens.
        inputs: u8,
        /// CRC-32 of the bytes.
        crc: u32,
        /// Zero.
        reserved2: u32,
    }
}

record! {
    /// A sequence that the model was run on by its maker: the first `prompt` tokens of the target
    /// were given, the others are the most probable ones, one after the other.
    GoldenRecord {
        /// Tokens of the source; of a model that reads no tokens there, rows of
        /// `Source::Pattern`.
        source: u32,
        /// Tokens given of the target.
        prompt: u32,
        /// Tokens that follow this record: those of the source (if it reads tokens), then those of
        /// the target.
        tokens: u32,
        /// Zero.
        reserved: u32,
        /// [`crate::LogitsHash`] of the outputs of the source, if there are any, and of the logits
        /// that chose a token.
        hash: u64,
    }
}

impl ModelRecord {
    /// The fields that are tensors, [`NONE`] among them.
    pub fn tensors_mut(&mut self) -> [&mut u32; 4] {
        [&mut self.dense, &mut self.dense_bias, &mut self.head, &mut self.head_bias]
    }

    /// Neither stacks nor an output.
    pub const EMPTY: Self = Self {
        stacks: 0,
        blocks: 0,
        tensors: 0,
        pooling: pooling::NONE,
        normalize: 0,
        dense_activation: 0,
        reserved: 0,
        dense: NONE,
        dense_bias: NONE,
        head: NONE,
        head_bias: NONE,
        start: NONE,
        reserved2: Zeros::ZERO,
    };
}

impl StackRecord {
    /// The fields that are tensors, [`NONE`] among them.
    pub fn tensors_mut(&mut self) -> [&mut u32; 8] {
        let Self { embedding, input_bias, positions, types, class, norm, norm_bias, pixel, .. } =
            self;
        [embedding, input_bias, positions, types, class, norm, norm_bias, pixel]
    }

    /// Nothing that it may leave out.
    pub const EMPTY: Self = Self {
        input: input::TOKENS,
        norm_kind: norm::RMS,
        reserved: 0,
        width: 0,
        out: 0,
        context: 0,
        blocks: 0,
        embedding: NONE,
        embedding_scale: 1.0,
        input_bias: NONE,
        positions: NONE,
        types: NONE,
        class: NONE,
        norm: NONE,
        norm_bias: NONE,
        norm_eps: 0.0,
        picture_height: 0,
        picture_width: 0,
        patch: 0,
        channels: 0,
        pixel: NONE,
        reserved2: Zeros::ZERO,
    };
}

impl BlockRecord {
    /// The fields that are tensors, [`NONE`] among them.
    pub fn tensors_mut(&mut self) -> [&mut u32; 14] {
        [
            &mut self.norm,
            &mut self.norm_bias,
            &mut self.stream_norm,
            &mut self.stream_norm_bias,
            &mut self.input,
            &mut self.input_bias,
            &mut self.output,
            &mut self.output_bias,
            &mut self.states,
            &mut self.states_bias,
            &mut self.query_norm,
            &mut self.key_norm,
            &mut self.rope,
            &mut self.relative,
        ]
    }

    /// Nothing that it may leave out.
    pub const EMPTY: Self = Self {
        kind: 0,
        norm_kind: norm::RMS,
        join: join::PRE,
        variant: 0,
        layer: 0,
        norm: NONE,
        norm_eps: 0.0,
        input: NONE,
        input_bias: NONE,
        output: NONE,
        output_bias: NONE,
        heads: 0,
        kv_heads: 0,
        head_dim: 0,
        score_scale: 0.0,
        query_norm: NONE,
        key_norm: NONE,
        head_norm_eps: 0.0,
        rope: NONE,
        rope_magnitude: 0.0,
        inner: 0,
        norm_bias: NONE,
        stream_norm: NONE,
        stream_norm_bias: NONE,
        states: NONE,
        states_bias: NONE,
        relative: NONE,
        heads_inputs: inputs::PLAIN as u32,
        window: 0,
        reserved: Zeros::ZERO,
    };
}

const _: () = {
    assert!(
        Head::SIZE == 64
            && SectionEntry::SIZE == 32
            && ModelRecord::SIZE == 64
            && StackRecord::SIZE == 96
    );
    assert!(BlockRecord::SIZE == 128 && TensorRecord::SIZE == 40 && GoldenRecord::SIZE == 24);
};
