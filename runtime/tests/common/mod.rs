//! Small random models for tests, written by the writer and read by the runtime.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test file uses a part")]

mod chain;
pub mod damage;

pub use chain::{
    CHAIN_CONTEXT, CHAIN_VOCAB, CHAINS, Chain, FEATURES, PICTURE, chain, long, widening,
};
use kinglet::{Format, Isa, Memory, Model, Options, Parallel, Plan, Session, Threads};
pub use kinglet_fixtures::host::Random;
use kinglet_kernels::layout::{GROUP, PANEL};
use kinglet_model::Inputs;
use kinglet_model::layout::{BlockRecord, ModelRecord, NONE, StackRecord, block};
use kinglet_model::write::{Kind, Outline, WriteError, Writer};

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
            // So that a product has about the size of its inputs: of smaller ones nothing would
            // be left beside the biases.
            let typical = match format {
                Format::Int8 => 70.0,
                Format::Int8Grouped | Format::Int4Codebook => 70.0 * 60.0,
                Format::Int4 => 4.5 * 60.0,
                // Codes and offsets are of one size.
                Format::Int4Offset => 6.5 * 60.0,
            };
            let scale = 1.0 / (typical * (cols as f32).sqrt());
            for slot in bytes[planes.row_scales..planes.index].as_chunks_mut::<4>().0 {
                *slot = scale.to_le_bytes();
            }
            for slot in bytes[planes.offset_scales..planes.end].as_chunks_mut::<4>().0 {
                *slot = (4.0 * scale).to_le_bytes();
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
    let mut memory = Memory::new(Plan::new(model, options).unwrap().bytes()).unwrap();
    memory.bytes().fill(0xA5);
    let mut session = Session::with(model, options, memory.bytes(), isa, parallel).unwrap();
    let mut all = vec![];
    session.feed_each(tokens, |_, row| all.extend(row.iter().map(|v| v.to_bits()))).unwrap();
    all
}
