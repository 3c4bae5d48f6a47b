//! Models that are more than one decoder, of random tensors.

use super::Build;
use kinglet::Format;
use kinglet_model::layout::{
    BlockRecord, ModelRecord, NONE, StackRecord, activation, block, input, join, mask, norm,
    pooling,
};
use kinglet_model::write::{Kind, Outline};
use kinglet_model::{Activation, Inputs};

/// A model of one stack or several, each option of every kind of layer in one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// Tokens of two types, positions, norms after branches, bias by distance, pooled to classes.
    Encoder(u8),
    /// An encoder and a decoder across, plain and gated, with bias by distance.
    Translator,
    /// A picture, a class token, a projection, a resampler, a decoder with positions.
    Describer,
    /// Rows of features, each with its own output.
    Frames,
}

pub const CHAINS: [Chain; 6] = [
    Chain::Encoder(pooling::FIRST),
    Chain::Encoder(pooling::MEAN),
    Chain::Encoder(pooling::MAX),
    Chain::Translator,
    Chain::Describer,
    Chain::Frames,
];

/// Tokens of all [`Chain`]s.
pub const CHAIN_VOCAB: usize = 61;
/// Positions of all of their sources and targets.
pub const CHAIN_CONTEXT: usize = 26;
/// The picture of [`Chain::Describer`].
pub const PICTURE: [usize; 4] = [15, 25, 5, 3];
/// Numbers of a row of [`Chain::Frames`].
pub const FEATURES: usize = 21;

impl Build {
    fn vector(&mut self, len: usize) -> u32 {
        self.tensor(Kind::F32, 1, len)
    }

    fn matrix(&mut self, format: Format, rows: usize, cols: usize) -> u32 {
        let index = self.tensor(Kind::Matrix(format), rows, cols);
        self.in_planes(index, format)
    }

    /// A matrix of which rows are read, or whose inputs are those of others, too.
    fn table(&mut self, format: Format, rows: usize, cols: usize) -> u32 {
        self.tensor(Kind::Matrix(format), rows, cols)
    }

    /// A norm of `kind`, and of the stream where `post`.
    fn norms(&mut self, record: &mut BlockRecord, kind: u8, post: bool, width: usize) {
        (record.norm_kind, record.norm_eps) = (kind, 1e-5);
        record.norm = self.vector(width);
        record.norm_bias = if kind == norm::LAYER { self.vector(width) } else { NONE };
        if post {
            record.join = join::POST;
            record.stream_norm = self.vector(width);
            record.stream_norm_bias = if kind == norm::LAYER { self.vector(width) } else { NONE };
        }
    }

    /// Attention with 3 query heads of 12; `memory` is the width of what it looks at across.
    fn attends(
        &mut self,
        format: Format,
        width: usize,
        (kind, post): (u8, bool),
        variant: u8,
        memory: usize,
        relative: bool,
    ) {
        let (heads, kv_heads, dim) =
            (3, if matches!(variant, mask::CAUSAL | mask::WINDOW) { 1 } else { 3 }, 12);
        let mut record = BlockRecord {
            kind: block::ATTENTION,
            variant,
            heads,
            kv_heads,
            head_dim: dim,
            score_scale: 0.3,
            window: if variant == mask::WINDOW { 5 } else { 0 },
            ..BlockRecord::EMPTY
        };
        self.norms(&mut record, kind, post, width);
        let (queries, pairs) =
            (usize::from(heads) * dim as usize, 2 * usize::from(kv_heads) * dim as usize);
        let rows = if variant == mask::CROSS { queries } else { queries + pairs };
        record.input = self.matrix(format, rows, width);
        record.input_bias = self.vector(rows);
        if variant == mask::CROSS {
            record.states = self.table(format, pairs, memory);
            if format.has_offsets() {
                self.outline.inputs(record.states, Inputs::Planes);
            }
            record.states_bias = self.vector(pairs);
        }
        record.output = self.matrix(format, width, queries);
        record.output_bias = self.vector(width);
        if relative {
            record.relative = self.vector(usize::from(heads) * 9);
        }
        self.outline.blocks.push(record);
    }

    fn feeds(&mut self, format: Format, width: usize, kind: u8, post: bool, variant: u8) {
        let inner = 37;
        let mut record =
            BlockRecord { kind: block::FEED_FORWARD, variant, inner, ..BlockRecord::EMPTY };
        self.norms(&mut record, kind, post, width);
        let rows =
            if variant & activation::PLAIN == 0 { 2 * inner as usize } else { inner as usize };
        record.input = self.matrix(format, rows, width);
        record.input_bias = self.vector(rows);
        record.output = self.matrix(format, width, inner as usize);
        self.outline.blocks.push(record);
    }

    fn projects(&mut self, format: Format, from: usize, to: usize, normed: bool) {
        let mut record = BlockRecord { kind: block::PROJECTION, ..BlockRecord::EMPTY };
        if normed {
            self.norms(&mut record, norm::LAYER, false, from);
        }
        record.join = join::REPLACE;
        record.output = self.matrix(format, to, from);
        record.output_bias = self.vector(to);
        self.outline.blocks.push(record);
    }

    /// Ends a stack that began with this many blocks before it.
    fn stack(&mut self, before: usize, record: StackRecord) {
        let blocks = (self.outline.blocks.len() - before) as u32;
        let out = if record.out == 0 { record.width } else { record.out };
        self.outline.stacks.push(StackRecord { blocks, out, ..record });
    }
}

/// The bytes of a random model.
pub fn chain(chain: Chain, format: Format, seed: u64) -> Vec<u8> {
    let mut build = Build { outline: Outline::new(ModelRecord::EMPTY), tensors: vec![] };
    match chain {
        Chain::Encoder(pooling) => encoder(&mut build, format, pooling),
        Chain::Translator => translator(&mut build, format),
        Chain::Describer => describer(&mut build, format),
        Chain::Frames => frames(&mut build, format),
    }
    build.write(seed)
}

/// A stack that reads tokens.
fn tokens(b: &mut Build, width: usize) -> StackRecord {
    StackRecord {
        width: width as u32,
        context: CHAIN_CONTEXT as u32,
        embedding: b.matrix(Format::Int8, CHAIN_VOCAB, width),
        positions: b.matrix(Format::Int8, CHAIN_CONTEXT, width),
        ..StackRecord::EMPTY
    }
}

/// A decoder whose stream gets wider inside.
pub fn widening(seed: u64) -> Vec<u8> {
    let mut b = Build { outline: Outline::new(ModelRecord::EMPTY), tensors: vec![] };
    let stack = tokens(&mut b, 24);
    b.attends(Format::Int8, 24, (norm::RMS, false), mask::CAUSAL, 0, false);
    b.projects(Format::Int8, 24, 40, true);
    b.feeds(Format::Int8, 40, norm::RMS, false, Activation::Silu.code());
    let norm = b.vector(40);
    b.stack(0, StackRecord { out: 40, norm, norm_eps: 1e-6, ..stack });
    b.outline.model.head = b.matrix(Format::Int8, CHAIN_VOCAB, 40);
    b.write(seed)
}

/// Tokens, and then a decoder of so many blocks, none of which looks at the states before it.
pub fn long(blocks: u32, seed: u64) -> Vec<u8> {
    let mut b = Build { outline: Outline::new(ModelRecord::EMPTY), tensors: vec![] };
    let stack = tokens(&mut b, 16);
    b.stack(0, stack);
    b.projects(Format::Int8, 16, 16, true);
    let block = b.outline.blocks[0];
    b.outline.blocks.resize(blocks as usize, block);
    b.stack(0, stack);
    b.outline.model.head = stack.embedding;
    b.write(seed)
}

/// [`Chain::Encoder`].
fn encoder(b: &mut Build, format: Format, pooling: u8) {
    let layer = norm::LAYER;
    let mut stack = StackRecord { types: b.matrix(Format::Int8, 2, 44), ..tokens(b, 44) };
    for i in 0..2 {
        b.attends(format, 44, (layer, true), mask::FULL, 0, i == 0);
        b.feeds(format, 44, layer, true, Activation::Gelu.code() | activation::PLAIN);
    }
    (stack.norm_kind, stack.norm, stack.norm_bias, stack.norm_eps) =
        (layer, b.vector(44), b.vector(44), 1e-6);
    b.stack(0, stack);
    let model = ModelRecord {
        pooling,
        normalize: u8::from(pooling == pooling::MEAN),
        dense: b.matrix(format, 51, 44),
        dense_bias: b.vector(51),
        dense_activation: Activation::Tanh.code(),
        ..ModelRecord::EMPTY
    };
    b.outline.model = model;
    if pooling != pooling::MAX {
        b.outline.model.head = b.matrix(format, 7, 51);
        b.outline.model.head_bias = b.vector(7);
    }
}

/// [`Chain::Translator`].
fn translator(b: &mut Build, format: Format) {
    let layer = norm::LAYER;
    let stack = StackRecord { embedding_scale: 3.5, ..tokens(b, 40) };
    b.attends(format, 40, (norm::RMS, false), mask::FULL, 0, true);
    b.feeds(format, 40, norm::RMS, false, Activation::Relu.code() | activation::PLAIN);
    let stack = StackRecord { norm: b.vector(40), norm_eps: 1e-6, ..stack };
    b.stack(0, stack);
    let stack = tokens(b, 56);
    for variant in [
        Activation::GeluTanh.code(),
        Activation::QuickGelu.code(),
        Activation::Identity.code() | activation::PLAIN,
    ] {
        b.attends(format, 56, (norm::RMS, false), mask::CAUSAL, 0, true);
        b.attends(format, 56, (layer, false), mask::CROSS, 40, false);
        b.feeds(format, 56, layer, true, variant);
    }
    let stack = StackRecord { norm: b.vector(56), norm_eps: 1e-6, ..stack };
    b.stack(2, stack);
    b.outline.model.head = b.matrix(format, CHAIN_VOCAB, 56);
    b.outline.model.head_bias = b.vector(CHAIN_VOCAB);
}

/// [`Chain::Describer`].
fn describer(b: &mut Build, format: Format) {
    let layer = norm::LAYER;
    let [height, width, patch, channels] = PICTURE;
    let numbers = patch * patch * channels;
    let rows = height / patch * (width / patch) + 1;
    let stack = StackRecord {
        input: input::PIXELS,
        width: 36,
        context: rows as u32,
        embedding: b.matrix(Format::Int8, 36, numbers),
        input_bias: b.vector(36),
        positions: b.matrix(Format::Int8, rows, 36),
        class: b.vector(36),
        picture_height: height as u16,
        picture_width: width as u16,
        patch: patch as u16,
        channels: channels as u16,
        pixel: b.vector(2 * channels),
        ..StackRecord::EMPTY
    };
    b.attends(format, 36, (layer, false), mask::FULL, 0, false);
    b.feeds(format, 36, layer, false, Activation::Gelu.code() | activation::PLAIN);
    b.stack(0, StackRecord { norm_kind: layer, norm: 0, norm_bias: NONE, ..stack });
    let last = b.outline.stacks.len() - 1;
    (b.outline.stacks[last].norm, b.outline.stacks[last].norm_bias) = (b.vector(36), b.vector(36));
    // Two layers in place of the stream.
    b.projects(format, 36, 60, true);
    b.projects(format, 60, 28, false);
    let states = StackRecord {
        input: input::STATES,
        width: 36,
        out: 28,
        context: rows as u32,
        ..StackRecord::EMPTY
    };
    b.stack(2, states);
    let stack = StackRecord {
        input: input::QUERIES,
        width: 32,
        context: 5,
        embedding: b.matrix(Format::Int8, 5, 32),
        ..StackRecord::EMPTY
    };
    b.attends(format, 32, (layer, false), mask::CROSS, 28, false);
    b.attends(format, 32, (layer, false), mask::FULL, 0, false);
    b.feeds(format, 32, layer, false, Activation::Silu.code());
    b.stack(4, stack);
    let stack = tokens(b, 44);
    b.attends(format, 44, (layer, false), mask::WINDOW, 0, false);
    b.attends(format, 44, (layer, false), mask::CAUSAL, 0, false);
    b.attends(format, 44, (layer, false), mask::CROSS, 32, true);
    b.feeds(format, 44, layer, false, Activation::GeluTanh.code() | activation::PLAIN);
    let stack =
        StackRecord { norm_kind: layer, norm: b.vector(44), norm_bias: b.vector(44), ..stack };
    b.stack(7, stack);
    b.outline.model.head = b.outline.stacks[3].embedding;
}

/// [`Chain::Frames`].
fn frames(b: &mut Build, format: Format) {
    let layer = norm::LAYER;
    let stack = StackRecord {
        input: input::FEATURES,
        width: 40,
        context: CHAIN_CONTEXT as u32,
        embedding: b.matrix(format, 40, FEATURES),
        positions: b.matrix(Format::Int8, CHAIN_CONTEXT, 40),
        ..StackRecord::EMPTY
    };
    b.attends(format, 40, (layer, true), mask::FULL, 0, false);
    b.feeds(format, 40, layer, true, Activation::Relu.code());
    b.stack(0, stack);
}
