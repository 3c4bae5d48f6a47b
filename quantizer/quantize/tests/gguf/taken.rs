//! Sources that are quantized already: codes are taken over, not rounded again.

use half::f16;
use kinglet::Memory;
use kinglet::{Format, Matrix, Model, Options as Capacity, Plan, Session};
use kinglet_import::checkpoint::{Block, Checkpoint, TensorRef};
use kinglet_kernels::layout::{GROUP, PANEL, int4_index, int8_index};
use kinglet_model::{InPlace, Inputs, Linear};
use kinglet_quantize::{Options, Summary, TAKEN, quantize};
use kinglet_reference::{Reference, Sample};

use super::support::{File, Tensor, Value, tensor};

const F32: u32 = 0;
const Q4_0: u32 = 2;
const Q4_1: u32 = 3;
const Q8_0: u32 = 8;

const WIDTH: usize = 64;
const INNER: usize = 96;
const VOCAB: usize = 40;

/// xorshift32.
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    fn unit(&mut self) -> f32 {
        self.next() as f32 / u32::MAX as f32
    }
}

/// A matrix of blocks of this type, whose weights are about as large as those of a model.
fn blocks(kind: u32, name: &str, cols: usize, rows: usize, random: &mut Random) -> Tensor {
    let mut bytes = vec![];
    let half = |x: f32| f16::from_f32(x).to_le_bytes();
    for _ in 0..rows * cols / GROUP {
        let d =
            0.02 * (0.3 + random.unit()) * if random.next().is_multiple_of(2) { 1.0 } else { -1.0 };
        match kind {
            F32 => {
                bytes.extend((0..GROUP).flat_map(|_| (0.3 * random.unit() - 0.15).to_le_bytes()))
            }
            Q4_0 => bytes.extend(half(d)),
            Q4_1 => {
                bytes.extend([half(d.abs()), half(-d.abs() * (6.0 + 4.0 * random.unit()))].concat())
            }
            _ => bytes.extend(half(d / 16.0)),
        }
        let codes = match kind {
            F32 => 0,
            Q8_0 => GROUP,
            _ => GROUP / 2,
        };
        bytes.extend((0..codes).map(|_| match random.next() as u8 {
            // The largest magnitude of Q8_0 is 127.
            0x80 if kind == Q8_0 => 0x81,
            byte => byte,
        }));
    }
    Tensor { kind, bytes, ..tensor(name, &[cols as u64, rows as u64]) }
}

/// A Llama of two layers in a type, but for its embedding.
fn model(kind: u32, embedding: u32) -> File {
    let mut random = Random(7 + kind);
    let mut file = File::new()
        .with("llama.embedding_length", Value::U32(WIDTH as u32))
        .with("llama.block_count", Value::U32(2))
        .with("llama.feed_forward_length", Value::U32(INNER as u32));
    let norm = |name: &str| {
        let bytes = (0..WIDTH).flat_map(|i| (0.5 + (i % 7) as f32 / 7.0).to_le_bytes()).collect();
        Tensor { bytes, ..tensor(name, &[WIDTH as u64]) }
    };
    file.tensors = vec![
        blocks(embedding, "token_embd.weight", WIDTH, VOCAB, &mut random),
        norm("output_norm.weight"),
    ];
    for layer in 0..2 {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        file.tensors.extend([norm(&name("attn_norm")), norm(&name("ffn_norm"))]);
        for (part, cols, rows) in [
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", WIDTH, WIDTH / 2),
            ("attn_v", WIDTH, WIDTH / 2),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", WIDTH, INNER),
            ("ffn_up", WIDTH, INNER),
            ("ffn_down", INNER, WIDTH),
        ] {
            file.tensors.push(blocks(kind, &name(part), cols, rows, &mut random));
        }
    }
    file
}

fn open(file: &File) -> (tempfile::TempDir, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("source.gguf");
    std::fs::write(&path, file.bytes().0).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    (dir, checkpoint)
}

/// The bytes of the file, and what was done.
fn quantized(checkpoint: &Checkpoint, options: &Options) -> (Memory, Summary) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.kinglet");
    let summary = quantize(checkpoint, &path, options, &|_, _, _| ()).unwrap();
    let bytes = std::fs::read(path).unwrap();
    let mut memory = Memory::new(bytes.len()).unwrap();
    memory.bytes().copy_from_slice(&bytes);
    (memory, summary)
}

fn options(weights: Format) -> Options {
    Options { weights, golden: 0, ..Options::default() }
}

/// Codes of a row of the file's tensor, from the bytes of its blocks: nibbles, or bytes.
fn stored(tensor: &Tensor, row: usize, cols: usize) -> Vec<i8> {
    let (size, head) = match tensor.kind {
        Q4_0 => (18, 2),
        Q4_1 => (20, 4),
        _ => (34, 2),
    };
    let groups = cols / GROUP;
    let blocks = tensor.bytes[row * groups * size..(row + 1) * groups * size]
        .chunks(size)
        .map(|block| &block[head..]);
    match tensor.kind {
        Q8_0 => blocks.flat_map(|block| block.iter().map(|&code| code as i8)).collect(),
        _ => blocks
            .flat_map(|b| b.iter().map(|c| (c & 15) as i8).chain(b.iter().map(|c| (c >> 4) as i8)))
            .collect(),
    }
}

/// Codes of a row of a matrix, from its bytes.
fn written(matrix: &Matrix<'_>, bytes: &[u8], row: usize) -> Vec<i8> {
    let (panel, r) = (row / PANEL * PANEL * matrix.padded_cols(), row % PANEL);
    let code = |k: usize| match matrix.format().is_int8() {
        true => bytes[panel + int8_index(r, k)] as i8,
        false => {
            let (byte, shift) = int4_index(r, k);
            (bytes[panel / 2 + byte] >> shift & 15) as i8
        }
    };
    (0..matrix.cols()).map(code).collect()
}

/// The squared error of a product's rows from those of some tensors, as a part of their own square.
fn lost(checkpoint: &Checkpoint, of: &Linear<'_>, parts: &[&TensorRef]) -> f64 {
    let wanted: Vec<f32> = parts.iter().flat_map(|part| checkpoint.read(part).unwrap()).collect();
    let mut found = vec![0.0; wanted.len()];
    let rows = found.chunks_mut(of.matrix.cols()).enumerate();
    rows.for_each(|(row, to)| of.matrix.dequantize_row(row, to));
    let square = |x: f32| f64::from(x) * f64::from(x);
    let missing: f64 = found.iter().zip(&wanted).map(|(a, b)| square(a - b)).sum();
    missing / wanted.iter().map(|&w| square(w)).sum::<f64>()
}

/// Both products of a block of the file, with the tensors that they are made of.
fn products<'a, 'c>(
    block: &kinglet_model::Block<InPlace<'a>>,
    of: &'c Block,
) -> Vec<(Linear<'a>, Vec<&'c TensorRef>)> {
    let pairs = block.products().zip(of.products());
    pairs.map(|((_, product), (_, of))| (*product, of.tensors().collect())).collect()
}

#[test]
fn codes_are_those_of_the_source() {
    for (kind, asked, format) in [
        (Q4_0, Format::Int4Codebook, Format::Int4),
        (Q4_1, Format::Int4Codebook, Format::Int4Offset),
        (Q4_1, Format::Int4, Format::Int4Offset),
        (Q8_0, Format::Int8Grouped, Format::Int8Grouped),
    ] {
        let mut file = model(kind, Q8_0);
        let (_dir, checkpoint) = open(&file);
        let (mut memory, summary) = quantized(&checkpoint, &options(asked));
        let model = Model::open(memory.bytes()).unwrap();
        for (index, of) in (0..4).zip(checkpoint.architecture().blocks()) {
            let block = model.block(index).unwrap();
            for (product, parts) in products(&block, of) {
                assert_eq!((product.matrix.format(), product.inputs), (format, Inputs::Planes));
                let lost = lost(&checkpoint, &product, &parts);
                assert!(lost < 4e-5, "{kind}: {lost}");
            }
            // Rows of these are in the file's own order.
            let part = if index % 2 == 0 { "attn_output" } else { "ffn_down" };
            let tensor = file.tensor(&format!("blk.{}.{part}.weight", index / 2));
            let bytes = model.tensor(model.record_of_block(index).unwrap().output).unwrap().bytes;
            for row in 0..block.output.matrix.rows() {
                let source = stored(tensor, row, block.output.matrix.cols());
                assert_eq!(
                    written(&block.output.matrix, bytes, row),
                    source,
                    "{kind} {part} {row}"
                );
            }
        }
        // The embedding is the head, too.
        let head = model.output().unwrap().head.unwrap();
        assert_eq!((head.matrix.format(), head.inputs), (Format::Int8Grouped, Inputs::Planes));
        let bytes = model.tensor(model.record().head).unwrap().bytes;
        let embedding = file.tensor("token_embd.weight");
        for row in 0..VOCAB {
            assert_eq!(written(&head.matrix, bytes, row), stored(embedding, row, WIDTH));
        }
        let note = &summary.record.notes.iter().find(|note| note.what == TAKEN).unwrap().how;
        assert!(
            note.contains("8 of 8 products") && note.contains("embedding (from Q8_0)"),
            "{note}"
        );
        assert!(
            summary
                .record
                .tensors
                .iter()
                .all(|tensor| tensor.rounding.as_deref() == Some("taken over"))
        );
    }
}

/// Mean divergence of a file's predictions from the source's, nats.
fn divergence(checkpoint: &Checkpoint, memory: &mut Memory) -> f64 {
    let tokens: Vec<u32> = (0..48).map(|i| (i * i + 3) % VOCAB as u32).collect();
    let reference = Reference::new(checkpoint).unwrap();
    let mut wanted = vec![];
    reference.run(&[&tokens[..]], |_, _, row| wanted.push(row.to_vec())).unwrap();
    let model = Model::open(memory.bytes()).unwrap();
    let options = Capacity { context: 48, prefill: 16, logits: 16, ..Capacity::DECODE };
    let mut arena = Memory::new(Plan::new(&model, options).unwrap().bytes()).unwrap();
    let mut session = Session::new(&model, options, arena.bytes()).unwrap();
    let mut sum = 0.0;
    let softmax = |row: &[f32]| -> Vec<f64> {
        let largest = row.iter().copied().fold(f32::MIN, f32::max);
        let all: Vec<f64> = row.iter().map(|x| f64::from(x - largest).exp()).collect();
        let whole: f64 = all.iter().sum();
        all.iter().map(|p| p / whole).collect()
    };
    session
        .feed_each(&tokens, |at, row| {
            let (p, q) = (softmax(&wanted[at]), softmax(row));
            sum += p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
        })
        .unwrap();
    sum / tokens.len() as f64
}

#[test]
fn little_is_lost_and_less_than_by_rounding_again() {
    for (kind, weights) in
        [(Q4_0, Format::Int4Codebook), (Q4_1, Format::Int4Codebook), (Q8_0, Format::Int8Grouped)]
    {
        let (_dir, checkpoint) = open(&model(kind, Q8_0));
        let (mut taken, _) = quantized(&checkpoint, &options(weights));
        let (mut again, summary) =
            quantized(&checkpoint, &Options { take: false, ..options(weights) });
        assert!(summary.record.notes.iter().all(|note| note.what != TAKEN));
        let [taken, again_lost] =
            [divergence(&checkpoint, &mut taken), divergence(&checkpoint, &mut again)];
        assert!(taken < 1e-3, "{kind}: {taken}");
        assert!(
            taken < if kind == Q8_0 { 1.0 } else { 0.1 } * again_lost,
            "{kind}: {taken}, {again_lost}"
        );
        let model = Model::open(again.bytes()).unwrap();
        for index in 0..4 {
            let block = model.block(index).unwrap();
            let again =
                |of: &Linear<'_>| of.matrix.format() == weights && of.inputs != Inputs::Planes;
            assert!(block.products().all(|(_, of)| again(of)));
        }
    }
}

/// Which products have two planes.
fn planes(memory: &mut Memory) -> Vec<bool> {
    let model = Model::open(memory.bytes()).unwrap();
    (0..4).map(|index| model.block(index).unwrap().output.inputs == Inputs::Planes).collect()
}

#[test]
fn a_block_is_taken_over_whole_or_not_at_all() {
    let mut file = model(Q4_1, F32);
    *file.tensor("blk.0.attn_v.weight") =
        blocks(F32, "blk.0.attn_v.weight", WIDTH, WIDTH / 2, &mut Random(5));
    *file.tensor("blk.1.ffn_down.weight") =
        blocks(Q8_0, "blk.1.ffn_down.weight", INNER, WIDTH, &mut Random(6));
    *file.tensor("blk.1.attn_output.weight") =
        blocks(Q4_0, "blk.1.attn_output.weight", WIDTH, WIDTH, &mut Random(9));
    let (_dir, checkpoint) = open(&file);
    let int4 = options(Format::Int4Codebook);
    let (mut memory, _) = quantized(&checkpoint, &int4);
    assert_eq!(planes(&mut memory), [false, true, true, false]);
    let output = Model::open(memory.bytes()).unwrap().block(2).unwrap().output;
    assert_eq!(output.matrix.format(), Format::Int4, "products of a block may be of several types");
    // Calibrated, the others are, and make up for those that were taken over.
    let samples = vec![Sample::from((0..60).map(|i| i * 7 % VOCAB as u32).collect::<Vec<_>>()); 4];
    let calibrated = Options { calibration: samples, ..int4.clone() };
    let (mut memory, summary) = quantized(&checkpoint, &calibrated);
    assert_eq!(planes(&mut memory), [false, true, true, false]);
    let how: Vec<&str> =
        summary.record.tensors.iter().filter_map(|tensor| tensor.rounding.as_deref()).collect();
    let [taken, rounded] = ["taken over", "GPTQ, descent"];
    assert_eq!(how, [rounded, rounded, taken, taken, taken, taken, rounded, rounded]);
    // Another width, and what moves weights, round again.
    let (mut memory, _) = quantized(&checkpoint, &options(Format::Int8Grouped));
    assert_eq!(planes(&mut memory), [false; 4]);
    let target = Some(kinglet_quantize::Target::Bits(5.0));
    let (mut memory, _) = quantized(&checkpoint, &Options { target, ..calibrated });
    assert_eq!(planes(&mut memory), [false; 4]);
}
