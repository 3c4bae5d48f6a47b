//! Hostile files: any bytes at all are a valid model or a typed error. Nothing panics, and what is
//! accepted runs.

mod common;

use common::damage::{entries, seal, with};
use common::{PLAIN, Random, Shape};
use kinglet::Memory;
use kinglet::{Format, Model, OpenError, Options, Plan, RunError, Session, Source, VerifyError};
use kinglet_model::layout::{
    BlockRecord, Head, ModelRecord, NONE, SectionEntry, StackRecord, TensorRecord, input, inputs,
    join, mask, section, tensor,
};
use kinglet_model::{
    BlockProblem, Crc32, InPlace, Input, ModelProblem, SectionProblem, Stack, StackProblem,
    TensorProblem,
};

fn open(bytes: &[u8]) -> Result<(), OpenError> {
    Model::open(Memory::copy_of(bytes).unwrap().bytes()).map(|_| ())
}

fn file() -> Vec<u8> {
    common::model(&PLAIN, 1, vec![])
}

fn section_error(kind: u32, problem: SectionProblem) -> Result<(), OpenError> {
    Err(OpenError::Section { kind, problem })
}

#[test]
fn foreign_and_damaged_files_are_refused() {
    let good = file();
    assert_eq!(open(&good), Ok(()));
    assert_eq!(
        open(&[good.clone(), vec![9; 100]].concat()),
        Ok(()),
        "what follows a file is ignored"
    );
    assert_eq!(open(&[]), Err(OpenError::NotKinglet));
    assert_eq!(open(b"GGUF and more"), Err(OpenError::NotKinglet));
    assert_eq!(open(b"KINGLET\x1a"), Err(OpenError::Truncated { needed: 64, found: 8 }));
    for len in [64, 100, 1000, good.len() - 1] {
        let (needed, found) = (good.len() as u64, len as u64);
        assert_eq!(open(&good[..len]), Err(OpenError::Truncated { needed, found }));
    }
    for found in [2, 4] {
        let mut other = good.clone();
        other[8] = found;
        assert_eq!(open(&other), Err(OpenError::Version { found: found.into() }));
    }
    let mut flipped = good.clone();
    flipped[70] ^= 1;
    assert_eq!(open(&flipped), Err(OpenError::HeadChecksum));
    let mut memory = Memory::copy_of(&[&[0; 8], &good[..]].concat()).unwrap();
    assert_eq!(Model::open(&memory.bytes()[8..]).map(|_| ()), Err(OpenError::Unaligned));
}

#[test]
fn a_lying_section_table_is_refused() {
    let good = file();
    let sections = entries(&good);
    let lie = |i: usize, change: fn(&mut SectionEntry)| {
        let mut bytes = good.clone();
        let mut entry = sections[i];
        change(&mut entry);
        bytes[64 + 32 * i..][..32].copy_from_slice(&entry.write());
        seal(&mut bytes);
        open(&bytes)
    };
    let weights = sections.len() - 1;
    assert_eq!(sections[weights].kind, section::WEIGHTS);
    assert_eq!(lie(1, |e| e.offset = 0), section_error(section::STACKS, SectionProblem::Bounds));
    assert_eq!(
        lie(1, |e| e.offset = u64::MAX),
        section_error(section::STACKS, SectionProblem::Bounds)
    );
    assert_eq!(
        lie(weights, |e| e.bytes += 1),
        section_error(section::WEIGHTS, SectionProblem::Bounds)
    );
    assert_eq!(
        lie(weights, |e| (e.offset, e.bytes) = (e.offset + 4, e.bytes - 4)),
        section_error(section::WEIGHTS, SectionProblem::Misaligned)
    );
    assert_eq!(
        lie(0, |e| e.kind = section::BLOCKS),
        section_error(section::BLOCKS, SectionProblem::Duplicate)
    );
    assert_eq!(lie(1, |e| e.kind = 99), section_error(section::STACKS, SectionProblem::Missing));
    assert_eq!(lie(1, |e| e.bytes -= 1), section_error(section::STACKS, SectionProblem::Length));
    assert_eq!(lie(0, |e| e.reserved = 1), section_error(section::MODEL, SectionProblem::Reserved));
    let mut swapped = good.clone();
    swapped[64..96].copy_from_slice(&sections[1].write());
    swapped[96..128].copy_from_slice(&sections[0].write());
    seal(&mut swapped);
    assert_eq!(open(&swapped), section_error(section::MODEL, SectionProblem::Bounds));
}

// Longer than sixty lines: a list of lies, each of a few lines.
#[test]
fn lying_records_are_refused() {
    let good = file();
    let model = |change: fn(&mut ModelRecord)| {
        open(&with(&good, section::MODEL, |bytes| {
            let mut record = ModelRecord::read(bytes).unwrap();
            change(&mut record);
            bytes.copy_from_slice(&record.write());
        }))
    };
    assert_eq!(model(|r| r.pooling = 4), Err(OpenError::Model(ModelProblem::Kind)));
    assert_eq!(model(|r| r.dense_activation = 7), Err(OpenError::Model(ModelProblem::Kind)));
    assert_eq!(model(|r| r.stacks = 0), Err(OpenError::Model(ModelProblem::Dimension)));
    assert_eq!(model(|r| r.reserved = 1), Err(OpenError::Model(ModelProblem::Reserved)));
    assert_eq!(model(|r| r.blocks += 1), section_error(section::BLOCKS, SectionProblem::Length));
    assert_eq!(model(|r| r.stacks += 1), section_error(section::STACKS, SectionProblem::Length));
    assert_eq!(
        model(|r| r.head = 1),
        Err(OpenError::Tensor { index: 1, problem: TensorProblem::Kind })
    );
    assert_eq!(model(|r| r.head_bias = 1), Err(OpenError::Model(ModelProblem::Shape)));
    assert_eq!(model(|r| r.dense = 0), Err(OpenError::Model(ModelProblem::Shape)));

    let stack = |change: fn(&mut StackRecord)| {
        open(&with(&good, section::STACKS, |bytes| {
            let mut record = StackRecord::read(bytes).unwrap();
            change(&mut record);
            bytes.copy_from_slice(&record.write());
        }))
    };
    let fails = |problem| Err(OpenError::Stack { index: 0, problem });
    assert_eq!(stack(|r| r.context = 0), fails(StackProblem::Dimension));
    assert_eq!(stack(|r| r.context = u32::MAX), fails(StackProblem::Dimension));
    assert_eq!(stack(|r| r.norm_eps = f32::NAN), fails(StackProblem::Value));
    assert_eq!(stack(|r| r.embedding_scale = -1.0), fails(StackProblem::Value));
    assert_eq!(stack(|r| r.width = 47), fails(StackProblem::Shape));
    assert_eq!(stack(|r| r.out = 47), fails(StackProblem::Shape));
    assert_eq!(stack(|r| r.positions = 0), fails(StackProblem::Shape));
    assert_eq!(stack(|r| r.input = 5), fails(StackProblem::Kind));
    assert_eq!(stack(|r| r.input = input::STATES), fails(StackProblem::Order));
    assert_eq!(stack(|r| r.input = input::PIXELS), fails(StackProblem::Picture));
    assert_eq!(stack(|r| r.reserved = 1), fails(StackProblem::Reserved));
    assert_eq!(stack(|r| r.blocks -= 1), Err(OpenError::Model(ModelProblem::Dimension)));
    assert_eq!(
        stack(|r| r.norm = 999),
        Err(OpenError::Tensor { index: 999, problem: TensorProblem::Missing })
    );

    let block = |change: fn(&mut BlockRecord)| {
        open(&with(&good, section::BLOCKS, |bytes| {
            let mut record = BlockRecord::read(bytes).unwrap();
            change(&mut record);
            bytes[..BlockRecord::SIZE].copy_from_slice(&record.write());
        }))
    };
    let fails = |problem| Err(OpenError::Block { index: 0, problem });
    assert_eq!(block(|r| r.kind = 7), fails(BlockProblem::Kind(7)));
    assert_eq!(block(|r| r.variant = 3), fails(BlockProblem::Variant));
    assert_eq!(block(|r| r.heads_inputs = 2), fails(BlockProblem::Inputs));
    assert_eq!(block(|r| r.join = 3), fails(BlockProblem::Variant));
    assert_eq!(block(|r| r.norm_kind = 2), fails(BlockProblem::Variant));
    assert_eq!(block(|r| r.norm_kind = 1), fails(BlockProblem::Shape));
    assert_eq!(block(|r| r.join = join::POST), fails(BlockProblem::Shape));
    assert_eq!(
        block(|r| r.variant = mask::CROSS),
        Err(OpenError::Tensor { index: NONE, problem: TensorProblem::Missing })
    );
    assert_eq!(block(|r| r.relative = r.norm), fails(BlockProblem::Relative));
    assert_eq!(block(|r| r.kv_heads = 3), fails(BlockProblem::Heads));
    assert_eq!(block(|r| r.kv_heads = 0), fails(BlockProblem::Heads));
    assert_eq!(block(|r| r.head_dim = 257), fails(BlockProblem::Heads));
    assert_eq!(block(|r| r.head_dim = 11), fails(BlockProblem::Shape));
    assert_eq!(block(|r| r.score_scale = f32::INFINITY), fails(BlockProblem::Value));
    assert_eq!(
        open(&with(&good, section::BLOCKS, |bytes| bytes[BlockRecord::SIZE - 1] = 1)),
        fails(BlockProblem::Reserved)
    );
    assert_eq!(block(|r| (r.heads, r.kv_heads, r.head_dim) = (8, 4, 6)), fails(BlockProblem::Rope));

    let tensor = |change: fn(&mut TensorRecord)| {
        open(&with(&good, section::TENSORS, |bytes| {
            let record = &mut bytes[TensorRecord::SIZE..2 * TensorRecord::SIZE];
            let mut changed = TensorRecord::read(record).unwrap();
            change(&mut changed);
            record.copy_from_slice(&changed.write());
        }))
    };
    let fails = |problem| Err(OpenError::Tensor { index: 1, problem });
    assert_eq!(tensor(|r| r.format = 9), fails(TensorProblem::Format(9)));
    assert_eq!(tensor(|r| r.inputs = 3), fails(TensorProblem::Inputs));
    assert_eq!(tensor(|r| r.offset = 0), fails(TensorProblem::Bounds));
    assert_eq!(tensor(|r| r.offset = u64::MAX - 3), fails(TensorProblem::Bounds));
    assert_eq!(tensor(|r| r.offset += 4), fails(TensorProblem::Misaligned));
    assert_eq!(tensor(|r| r.bytes += 4), fails(TensorProblem::Length));
    assert_eq!(tensor(|r| r.cols = 0), fails(TensorProblem::Shape));
    assert_eq!(tensor(|r| r.cols = u32::MAX), fails(TensorProblem::Shape));
    assert_eq!(tensor(|r| r.reserved2 = 1), fails(TensorProblem::Reserved));
}

#[test]
fn verification_finds_a_flipped_bit() {
    let good = file();
    assert_eq!(
        Model::open(Memory::copy_of(&good).unwrap().bytes()).unwrap().verify(|_| {}),
        Ok(())
    );
    let mut bytes = good.clone();
    let last = bytes.len() - 60;
    bytes[last] ^= 16;
    let mut memory = Memory::copy_of(&bytes).unwrap();
    let error = Model::open(memory.bytes()).unwrap().verify(|_| {}).unwrap_err();
    assert!(matches!(error, VerifyError::Tensor { .. }), "{error:?}");
}

/// A file with sparse products, the record of the first of them, and where in the file it and its
/// index lie.
fn sparse_file(format: Format) -> (Vec<u8>, TensorRecord, usize, usize) {
    let bytes =
        common::model(&Shape { format, sparse: true, width: 100, tied: false, ..PLAIN }, 3, vec![]);
    let mut memory = Memory::copy_of(&bytes).unwrap();
    let model = Model::open(memory.bytes()).unwrap();
    assert_eq!(model.verify(|_| {}), Ok(()));
    let block = model.block(0).unwrap();
    let input = block.input.unwrap().matrix;
    let tensor = model.tensor(model.record_of_block(0).unwrap().input).unwrap();
    assert!(input.is_sparse() && input.blocks() < input.panels() * input.groups());
    let index = format.sparse_planes(input.rows(), input.cols(), input.blocks()).unwrap().index;
    let start = tensor.bytes.as_ptr().addr() - model.bytes().as_ptr().addr();
    let (record, at) = (tensor.record, (start, start + index));
    (bytes, record, at.0, at.1)
}

#[test]
fn a_sparse_tensor_has_the_bytes_of_a_number_of_blocks() {
    for format in Format::ALL.into_iter().filter(|format| format.may_be_sparse()) {
        let (good, first, _, _) = sparse_file(format);
        let tensor = |change: fn(&mut TensorRecord)| {
            open(&with(&good, section::TENSORS, |bytes| {
                let records = bytes.chunks_exact_mut(TensorRecord::SIZE);
                let place = records
                    .into_iter()
                    .find(|bytes| TensorRecord::read(bytes) == Some(first))
                    .unwrap();
                let mut changed = first;
                change(&mut changed);
                place.copy_from_slice(&changed.write());
            }))
        };
        let problem = |found: Result<(), OpenError>| match found {
            Err(OpenError::Tensor { problem, .. }) => Some(problem),
            _ => None,
        };
        assert_eq!(tensor(|_| ()), Ok(()));
        assert_eq!(problem(tensor(|r| r.bytes -= 64)), Some(TensorProblem::Length));
        assert_eq!(problem(tensor(|r| r.bytes = 0)), Some(TensorProblem::Length));
        assert_eq!(problem(tensor(|r| r.rows = 1 << 28)), Some(TensorProblem::Length));
        assert_eq!(problem(tensor(|r| r.format &= 15)), Some(TensorProblem::Length));
        assert_eq!(problem(tensor(|r| r.format = 16)), Some(TensorProblem::Format(16)));
        assert_eq!(
            problem(tensor(|r| r.format |= 32)),
            Some(TensorProblem::Format(first.format | 32))
        );
    }
}

/// Planes belong to products: rows that are added to others have none, and states are rounded once
/// for all who look at them.
#[test]
fn planes_and_offsets_are_refused_where_they_cannot_be() {
    let chain = common::chain(common::Chain::Translator, Format::Int8, 3);
    let mut memory = Memory::copy_of(&chain).unwrap();
    let model = Model::open(memory.bytes()).unwrap();
    let positions = model.record_of_stack(1).unwrap().positions;
    let across: Vec<u32> =
        (0..model.blocks()).filter(|&i| model.record_of_block(i).unwrap().states != NONE).collect();
    let states = model.record_of_block(across[0]).unwrap().states;
    let changed = |index: u32, change: &dyn Fn(&mut TensorRecord)| {
        open(&with(&chain, section::TENSORS, |bytes| {
            let at = index as usize * TensorRecord::SIZE;
            let mut record = TensorRecord::read(&bytes[at..]).unwrap();
            change(&mut record);
            bytes[at..at + TensorRecord::SIZE].copy_from_slice(&record.write());
        }))
    };
    let wrong = |index, problem| Err(OpenError::Tensor { index, problem });
    assert_eq!(
        changed(positions, &|r| r.inputs = inputs::PLANES),
        wrong(positions, TensorProblem::Inputs)
    );
    let other = Err(OpenError::Block { index: across[1], problem: BlockProblem::Inputs });
    assert_eq!(changed(states, &|r| r.inputs = inputs::PLANES), other);
    let output = model.record_of_block(0).unwrap().output;
    assert_eq!(changed(output, &|r| r.inputs = inputs::PLANES), Ok(()));
    let sparse = tensor::INT4_OFFSET | tensor::SPARSE;
    assert_eq!(
        changed(output, &|r| r.format = sparse),
        wrong(output, TensorProblem::Format(sparse))
    );
    assert_eq!(
        changed(output, &|r| r.format = tensor::INT4_OFFSET),
        wrong(output, TensorProblem::Length)
    );
}

/// The embedding is read by rows, which sparse matrices cannot be.
#[test]
fn a_sparse_embedding_is_refused() {
    let (good, ..) = sparse_file(Format::Int8);
    let head = Model::open(Memory::copy_of(&good).unwrap().bytes()).unwrap().record().head;
    let bytes = with(&good, section::STACKS, |bytes| {
        let mut record = StackRecord::read(bytes).unwrap();
        record.embedding = head;
        bytes.copy_from_slice(&record.write());
    });
    assert_eq!(open(&bytes), Err(OpenError::Stack { index: 0, problem: StackProblem::Shape }));
}

/// Whatever an index says, the model opens and runs; verification finds it.
#[test]
fn a_lying_index_does_no_harm() {
    let mut random = Random(5);
    for format in Format::ALL.into_iter().filter(|format| format.may_be_sparse()) {
        let (good, first, start, index) = sparse_file(format);
        let end = start + first.bytes as usize;
        for word in [0, 1, 0x8000_0000, u32::MAX, random.next(), random.next()] {
            let mut bytes = good.clone();
            bytes[index..end].as_chunks_mut::<4>().0.fill(word.to_le_bytes());
            let crc = Crc32::of(&bytes[start..end]);
            let bytes = with(&bytes, section::TENSORS, |bytes| {
                let mut records = bytes.chunks_exact_mut(TensorRecord::SIZE);
                let place = records.find(|bytes| TensorRecord::read(bytes) == Some(first)).unwrap();
                place.copy_from_slice(&TensorRecord { crc, ..first }.write());
            });
            assert!(exercise(&bytes));
            let error = Model::open(Memory::copy_of(&bytes).unwrap().bytes())
                .unwrap()
                .verify(|_| {})
                .unwrap_err();
            assert!(matches!(error, VerifyError::Index { .. }), "{error:?}");
        }
    }
}

/// What can be done with a file, done: all that is accepted is run.
fn exercise(bytes: &[u8]) -> bool {
    let mut memory = Memory::copy_of(bytes).unwrap();
    let Ok(model) = Model::open(memory.bytes()) else { return false };
    let _ = model.verify(|_| {});
    model.metadata().count();
    for i in 0..model.tensors() {
        model.tensor(i).map(|t| model.tensor_name(&t.record).len()).unwrap_or_default();
    }
    if let Some(Ok(tokenizer)) = model.tokenizer() {
        let _ = tokenizer.validate();
        let (mut scratch, mut out) = ([0; 4096], [0; 64]);
        let _ = tokenizer.encode("Once upon a time, a \u{1F426}.", true, &mut scratch, &mut out);
    }
    let Ok(of) = Options::of(&model) else { return true };
    let context = of.context.min(20);
    // A picture's source cannot be cut.
    let source = if of.source < 4096 { of.source } else { of.source.min(20) };
    let options = Options { context, prefill: 3.min(context), source, ..of };
    let Ok(plan) = Plan::new(&model, options).inspect(|plan| assert!(plan.bytes() > 0)) else {
        return true;
    };
    if plan.bytes() > 1 << 26 {
        return true;
    }
    let mut arena = Memory::new(plan.bytes()).unwrap();
    let mut session = Session::new(&model, options, arena.bytes()).unwrap();
    let tokens = |stack: Option<Stack<InPlace<'_>>>, n: usize| -> Vec<u32> {
        let vocab = match stack.map(|stack| stack.input) {
            Some(Input::Tokens { embedding, .. }) => embedding.matrix.rows(),
            _ => 1,
        };
        (0..n as u32).map(|i| i * 7 % vocab as u32).collect()
    };
    for rows in [source, source.saturating_sub(1)] {
        let read = session.encode(Source::Tokens(&tokens(model.stack(0).ok(), rows))).is_ok();
        let _ = read || session.encode(Source::Pattern(rows)).is_ok();
    }
    let fed = session.feed(&tokens(model.last().ok(), context)).map(|_| ());
    let known = matches!(fed, Ok(()) | Err(RunError::NoSource | RunError::Reads { .. }));
    assert!(known, "{fed:?}");
    for golden in model.golden() {
        let _ = session.check_golden(&golden);
    }
    true
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        // Most structure lies at the start.
        let near = [64, 512, 2048, bytes.len()][random.below(4)].min(bytes.len());
        if near == 0 {
            return;
        }
        let at = random.below(near);
        match random.below(8) {
            0 => bytes.truncate(at),
            1 => bytes[at] = random.next() as u8,
            2 => bytes[at] ^= 1 << random.below(8),
            3 => {
                let n = random.below(9).min(bytes.len() - at);
                bytes[at..at + n].fill([0, 0xFF, 0x7F, 0x80][random.below(4)]);
            }
            4 => {
                let from = random.below(bytes.len());
                let n = random.below(130).min(bytes.len() - at.max(from));
                bytes.copy_within(from..from + n, at);
            }
            5 => bytes.extend((0..random.below(80)).map(|i| i as u8)),
            _ => {
                let word = at / 4 * 4;
                if let Some(slot) = bytes.get_mut(word..word + 4) {
                    let old = u32::from_le_bytes(slot.try_into().unwrap());
                    let new =
                        [old.wrapping_add(1), old.wrapping_sub(1), old << 1, random.next() % 300]
                            [random.below(4)];
                    slot.copy_from_slice(&new.to_le_bytes());
                }
            }
        }
    }
}

#[test]
fn ten_thousand_mutated_files_do_no_harm() {
    let tokenizer = storytellers_tokenizer();
    let small = Shape {
        width: 16,
        vocab: 20,
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        inner: 20,
        layers: 1,
        rope: 4,
        ..PLAIN
    };
    let files: Vec<Vec<u8>> = Format::ALL
        .iter()
        .flat_map(|&format| {
            let shape = Shape { format, biases: true, head_norms: true, tied: false, ..small };
            let sparse =
                Shape { format, sparse: format.may_be_sparse(), width: 72, inner: 100, ..small };
            [
                common::model(&shape, 7, tokenizer.clone()),
                common::model(&Shape { format, ..small }, 8, vec![]),
                common::model(&sparse, 9, vec![]),
            ]
        })
        .chain(common::CHAINS.map(|chain| common::chain(chain, Format::Int4, 10)))
        .collect();
    let mut random = Random(0xC0FFEE);
    let mut accepted = 0;
    for i in 0..12_000 {
        let mut bytes = files[i % files.len()].clone();
        mutate(&mut bytes, &mut random);
        // A checksum stops nearly everything: let most through to the checks after it.
        if i % 8 != 0 && bytes.len() >= 64 {
            let len = (bytes.len() as u64).to_le_bytes();
            bytes[16..24].copy_from_slice(&len);
            seal(&mut bytes);
        }
        accepted += usize::from(exercise(&bytes));
    }
    println!("{accepted} of 12000 mutated files were accepted and run");
    assert!(accepted > 1_000, "too few files get far enough: {accepted}");
}

/// The tokenizer of the built-in model.
fn storytellers_tokenizer() -> Vec<u8> {
    let file = &kinglet_fixtures::STORYTELLER.0;
    let head = Head::read(file).unwrap();
    let mut entries = file[Head::SIZE..].chunks_exact(SectionEntry::SIZE);
    let entry = entries
        .by_ref()
        .take(head.sections.into())
        .filter_map(SectionEntry::read)
        .find(|entry| entry.kind == section::TOKENIZER)
        .unwrap();
    file[entry.offset as usize..][..entry.bytes as usize].to_vec()
}
