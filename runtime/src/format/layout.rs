//! The records of a `.kinglet` file, version 1. `docs/format.md` describes them byte for byte; the reader
//! ([`crate::Model`]) and the quantizer's writer share these definitions.
//!
//! ```text
//! 0    Head                       64 bytes
//! 64   SectionEntry x sections    32 bytes each, by ascending offset
//! ...  sections                   each at a multiple of 64
//! ```

use super::record::record;

/// First bytes of every file. The last two show a transfer that changed line ends or stopped at an end-of-file character.
pub const MAGIC: [u8; 8] = *b"KINGLET\x1a";
/// Version of the format that this crate reads and writes.
pub const VERSION: u16 = 1;
/// Alignment of sections, tensors and of the memory a file is executed from.
pub const ALIGN: usize = kinglet_kernels::layout::ALIGN;
/// Tensor index that stands for "none".
pub const NONE: u32 = u32::MAX;
/// At most this many sections in a file.
pub const MAX_SECTIONS: u32 = 64;
/// At most this many blocks in a stack.
pub const MAX_BLOCKS: u32 = 4096;
/// At most this many tensors.
pub const MAX_TENSORS: u32 = 1 << 16;
/// Widths, heads, vocabulary and context stay below this, so that products of two fit 64 bits with room.
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
        reserved: [u8; 40],
    }
}

record! {
    /// Where a section lies.
    SectionEntry {
        /// One of [`section`].
        kind: u32,
        /// CRC-32 of the section's bytes; for [`section::WEIGHTS`] zero, since each tensor has its own.
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
    /// The tokenizer; see `docs/tokenizer.md`.
    pub const TOKENIZER: u32 = 5;
    /// Pairs of strings: each `u32` length of key, `u32` length of value, key, value.
    pub const METADATA: u32 = 6;
    /// [`super::GoldenRecord`]s, each followed by its tokens as `u32`.
    pub const GOLDEN: u32 = 7;
    /// The tensors' bytes.
    pub const WEIGHTS: u32 = 8;
}

record! {
    /// What is not in a block.
    ModelRecord {
        /// 0: a decoder that maps tokens to the logits of the next token.
        kind: u32,
        /// Width of the residual stream.
        width: u32,
        /// Tokens in the vocabulary: rows of the embedding and of the head.
        vocab: u32,
        /// Positions the model was made for.
        context: u32,
        /// Number of blocks.
        blocks: u32,
        /// Number of tensors.
        tensors: u32,
        /// Matrix, vocab x width.
        embedding: u32,
        /// Matrix, vocab x width; the same index as `embedding` where they are tied.
        head: u32,
        /// Vector of the norm before the head.
        norm: u32,
        /// Its epsilon.
        norm_eps: f32,
        /// Zero.
        reserved: [u8; 24],
    }
}

/// Kinds of blocks.
pub mod block {
    /// Attention.
    pub const ATTENTION: u8 = 1;
    /// Feed-forward.
    pub const FEED_FORWARD: u8 = 2;
}

record! {
    /// A block: one residual branch, `x += out(middle(in(norm(x))))`. Fields that the block's kind does not use are zero,
    /// tensors [`NONE`].
    BlockRecord {
        /// One of [`block`].
        kind: u8,
        /// 0: RMS norm before the branch.
        norm_kind: u8,
        /// 0: the branch is added to its input before the next block starts.
        join: u8,
        /// Attention: 0, causal softmax. Feed-forward: 0, `silu(gate) * up`.
        variant: u8,
        /// Layer of the source model, for people.
        layer: u32,
        /// Vector, width.
        norm: u32,
        /// Epsilon of `norm`.
        norm_eps: f32,
        /// Matrix, inner x width. Attention: rows of query, then key, then value heads. Feed-forward: gate, then up.
        input: u32,
        /// Vector added to the result of `input`, or none.
        input_bias: u32,
        /// Matrix, width x (heads * head_dim, or feed-forward width).
        output: u32,
        /// Vector added to the result of `output`, or none.
        output_bias: u32,
        /// Query heads; feed-forward: 0.
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
        /// Feed-forward: rows of gate and of up.
        inner: u32,
        /// Zero.
        reserved: [u8; 60],
    }
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
    /// Added to the format of a matrix without bytes for blocks that are zero.
    pub const SPARSE: u8 = 16;
}

record! {
    /// A tensor.
    TensorRecord {
        /// From the start of [`section::WEIGHTS`]; a multiple of 64.
        offset: u64,
        /// Length; it must agree with format and shape (and, where it is sparse, a number of blocks).
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
        /// Zero.
        reserved: u8,
        /// CRC-32 of the bytes.
        crc: u32,
        /// Zero.
        reserved2: u32,
    }
}

record! {
    /// A sequence that the model was run on by its maker: the first `prompt` tokens were given, the others are the most
    /// probable ones, one after the other.
    GoldenRecord {
        /// Tokens given.
        prompt: u32,
        /// All tokens; they follow this record.
        tokens: u32,
        /// [`crate::LogitsHash`] of the logits at positions `prompt - 1` to `tokens - 2`, those that chose a token.
        hash: u64,
    }
}

const _: () = {
    assert!(Head::SIZE == 64 && SectionEntry::SIZE == 32 && ModelRecord::SIZE == 64);
    assert!(BlockRecord::SIZE == 128 && TensorRecord::SIZE == 40 && GoldenRecord::SIZE == 16);
};
