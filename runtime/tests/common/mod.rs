//! Small random models for tests, written by the writer and read by the runtime.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use kinglet::{Format, Isa, Memory, Model, Options, Parallel, Plan, Session, Threads};
pub use kinglet_fixtures::host::Random;
use kinglet_kernels::layout::{GROUP, PANEL};
use kinglet_model::layout::{
    BlockRecord, ModelRecord, NONE, StackRecord, activation, block, input, join, mask, norm,
    pooling,
};
use kinglet_model::write::{Kind, Outline, WriteError, Writer};
use kinglet_model::{Activation, Inputs};

/// Threads to which every unit of work is worth handing over.
pub struct Eager(pub Threads);

impl Parallel for Eager {
    fn ways(&self) -> usize {
        self.0.ways()
    }

    fn join(&self, a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
        self.0.join(a, b);
    }

    fn worth(&self) -> usize {
        1
    }
}

/// What a random model looks like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub width: usize,
    pub vocab: usize,
    pub context: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub inner: usize,
    pub layers: usize,
    pub format: Format,
    pub tied: bool,
    pub biases: bool,
    pub head_norms: bool,
    /// Rotated pairs.
    pub rope: usize,
    /// Whether a third of the blocks of each product is left out.
    pub sparse: bool,
}

pub const PLAIN: Shape = Shape {
    width: 48,
    vocab: 67,
    context: 100,
    heads: 4,
    kv_heads: 2,
    head_dim: 12,
    inner: 52,
    layers: 2,
    format: Format::Int8,
    tied: true,
    biases: false,
    head_norms: false,
    rope: 6,
    sparse: false,
};

/// Shapes that differ in every option, awkward on purpose.
pub fn shapes() -> Vec<Shape> {
    let mut all = vec![];
    for format in Format::ALL {
        all.push(Shape { format, ..PLAIN });
        let sparse = format.may_be_sparse();
        all.push(Shape { format, width: 100, inner: 70, sparse, tied: false, ..PLAIN });
        all.push(Shape {
            format,
            width: 33,
            heads: 1,
            kv_heads: 1,
            head_dim: 33,
            inner: 1,
            tied: false,
            rope: 3,
            ..PLAIN
        });
        all.push(Shape {
            format,
            heads: 6,
            kv_heads: 1,
            head_dim: 20,
            biases: true,
            head_norms: true,
            rope: 0,
            ..PLAIN
        });
    }
    all
}

struct Build {
    outline: Outline,
    tensors: Vec<(Kind, usize, usize)>,
}

impl Build {
    fn tensor(&mut self, kind: Kind, rows: usize, cols: usize) -> u32 {
        self.tensors.push((kind, rows, cols));
        self.outline.tensor(&format!("tensor {}", self.tensors.len()), kind, rows, cols).unwrap()
    }

    fn optional(&mut self, there: bool, len: usize) -> u32 {
        if there { self.tensor(Kind::F32, 1, len) } else { NONE }
    }

    /// Has the inputs of a product rounded to two planes: of all formats in some places, and always
    /// with offsets, whose weights no other inputs suit.
    fn in_planes(&mut self, index: u32, format: Format) -> u32 {
        if format.has_offsets()
            || format == Format::Int8Grouped && self.tensors.len().is_multiple_of(3)
        {
            self.outline.inputs(index, Inputs::Planes);
        }
        index
    }

    fn product(&mut self, shape: &Shape, rows: usize, cols: usize) -> u32 {
        let blocks = (0..rows.div_ceil(PANEL)).map(|p| groups_there(p, cols).count()).sum();
        let kind = if shape.sparse {
            Kind::Sparse(shape.format, blocks)
        } else {
            Kind::Matrix(shape.format)
        };
        let index = self.tensor(kind, rows, cols);
        self.in_planes(index, shape.format)
    }

    fn block(&mut self, shape: &Shape, layer: usize, attention: bool) {
        let queries = shape.heads * shape.head_dim;
        let rows =
            if attention { queries + 2 * shape.kv_heads * shape.head_dim } else { 2 * shape.inner };
        let record = BlockRecord {
            kind: if attention { block::ATTENTION } else { block::FEED_FORWARD },
            layer: layer as u32,
            norm: self.tensor(Kind::F32, 1, shape.width),
            norm_eps: 1e-5,
            input: self.product(shape, rows, shape.width),
            input_bias: self.optional(shape.biases, rows),
            output: self.product(shape, shape.width, if attention { queries } else { shape.inner }),
            output_bias: self.optional(shape.biases, shape.width),
            heads: if attention { shape.heads as u16 } else { 0 },
            kv_heads: if attention { shape.kv_heads as u16 } else { 0 },
            head_dim: if attention { shape.head_dim as u32 } else { 0 },
            score_scale: 0.3,
            query_norm: self.optional(attention && shape.head_norms, shape.head_dim),
            key_norm: self.optional(attention && shape.head_norms, shape.head_dim),
            head_norm_eps: 1e-6,
            rope: if attention && shape.rope > 0 {
                self.tensor(Kind::U32, 1, shape.rope)
            } else {
                NONE
            },
            rope_magnitude: 1.0,
            inner: if attention { 0 } else { shape.inner as u32 },
            ..BlockRecord::EMPTY
        };
        self.outline.blocks.push(record);
    }
}

impl Build {
    /// The file, with random tensors.
    fn write(self, seed: u64) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("random.kinglet");
        let mut random = Random(seed);
        let mut writer = Writer::create(&path, path.parent().unwrap(), self.outline).unwrap();
        for (kind, rows, cols) in self.tensors {
            let bytes = tensor_bytes(kind, rows, cols, &mut random);
            writer.tensor::<WriteError>(|put| put(&bytes)).unwrap();
        }
        writer.finish().unwrap().persist().unwrap();
        std::fs::read(path).unwrap()
    }
}

/// The groups of a panel of a sparse matrix, at most 32.
fn groups_there(panel: usize, cols: usize) -> impl Iterator<Item = usize> {
    (0..cols.div_ceil(GROUP)).filter(move |g| (panel + g) % 3 != 1)
}

fn tensor_bytes(kind: Kind, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    match kind {
        Kind::F32 => (0..cols).flat_map(|_| (1.0 + 0.3 * random.unit()).to_le_bytes()).collect(),
        Kind::U32 => (0..cols).flat_map(|_| random.next().to_le_bytes()).collect(),
        Kind::Matrix(format) | Kind::Sparse(format, _) => {
            let planes = match kind {
                Kind::Sparse(_, blocks) => format.sparse_planes(rows, cols, blocks).unwrap(),
                _ => format.planes(rows, cols).unwrap(),
            };
            let mut bytes: Vec<u8> = (0..planes.end).map(|_| random.next() as u8).collect();
            let typical = if format == Format::Int8 { 70.0 } else { 70.0 * 60.0 };
            let scale = 1.0 / (typical * (cols as f32).sqrt());
            for slot in bytes[planes.row_scales..planes.index].as_chunks_mut::<4>().0 {
                *slot = scale.to_le_bytes();
            }
            for slot in bytes[planes.offset_scales..planes.end].as_chunks_mut::<4>().0 {
                *slot = (10.0 * scale).to_le_bytes();
            }
            let mut before = 0u32;
            for (p, panel) in bytes[planes.index..planes.offsets]
                .chunks_exact_mut(8)
                .take(rows.div_ceil(PANEL))
                .enumerate()
            {
                let there = groups_there(p, cols).fold(0u32, |there, g| there | 1 << g);
                panel[..4].copy_from_slice(&before.to_le_bytes());
                panel[4..].copy_from_slice(&there.to_le_bytes());
                before += there.count_ones();
            }
            bytes
        }
    }
}

/// The bytes of a random model.
pub fn model(shape: &Shape, seed: u64, tokenizer: Vec<u8>) -> Vec<u8> {
    let mut build = Build { outline: Outline::new(ModelRecord::EMPTY), tensors: vec![] };
    let embedding = build.tensor(Kind::Matrix(Format::Int8), shape.vocab, shape.width);
    if shape.tied && shape.format.has_offsets() {
        build.outline.inputs(embedding, Inputs::Planes);
    }
    for layer in 0..shape.layers {
        build.block(shape, layer, true);
        build.block(shape, layer, false);
    }
    let norm = build.tensor(Kind::F32, 1, shape.width);
    build.outline.model.head =
        if shape.tied { embedding } else { build.product(shape, shape.vocab, shape.width) };
    build.outline.stacks.push(StackRecord {
        width: shape.width as u32,
        out: shape.width as u32,
        context: shape.context as u32,
        blocks: 2 * shape.layers as u32,
        embedding,
        norm,
        norm_eps: 1e-5,
        ..StackRecord::EMPTY
    });
    build.outline.tokenizer = tokenizer;
    build.outline.metadata = vec![("made by".into(), "a test".into())];

    build.write(seed)
}

/// The bits of the logits at each position.
pub fn logits<P: Parallel>(
    model: &Model<'_>,
    tokens: &[u32],
    options: Options,
    isa: Isa,
    parallel: P,
) -> Vec<u32> {
    let mut memory = Memory::new(Plan::new(model, options).unwrap().bytes());
    memory.bytes().fill(0xA5);
    let mut session = Session::with(model, options, memory.bytes(), isa, parallel).unwrap();
    let mut all = vec![];
    session.feed_each(tokens, |_, row| all.extend(row.iter().map(|v| v.to_bits()))).unwrap();
    all
}

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
    let b = &mut build;
    let (vocab, context, layer) = (CHAIN_VOCAB, CHAIN_CONTEXT, norm::LAYER);
    let tokens = |b: &mut Build, width: usize| StackRecord {
        width: width as u32,
        context: context as u32,
        embedding: b.matrix(Format::Int8, vocab, width),
        positions: b.matrix(Format::Int8, context, width),
        ..StackRecord::EMPTY
    };
    match chain {
        Chain::Encoder(pooling) => {
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
        Chain::Translator => {
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
            b.outline.model.head = b.matrix(format, vocab, 56);
            b.outline.model.head_bias = b.vector(vocab);
        }
        Chain::Describer => {
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
            (b.outline.stacks[last].norm, b.outline.stacks[last].norm_bias) =
                (b.vector(36), b.vector(36));
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
            let stack = StackRecord {
                norm_kind: layer,
                norm: b.vector(44),
                norm_bias: b.vector(44),
                ..stack
            };
            b.stack(7, stack);
            b.outline.model.head = b.outline.stacks[3].embedding;
        }
        Chain::Frames => {
            let stack = StackRecord {
                input: input::FEATURES,
                width: 40,
                context: context as u32,
                embedding: b.matrix(format, 40, FEATURES),
                positions: b.matrix(Format::Int8, context, 40),
                ..StackRecord::EMPTY
            };
            b.attends(format, 40, (layer, true), mask::FULL, 0, false);
            b.feeds(format, 40, layer, true, Activation::Relu.code());
            b.stack(0, stack);
        }
    }
    build.write(seed)
}
