//! Numbers of a file that do not fit a machine's, and the work that a file can cause.

mod common;

use std::time::{Duration, Instant};

use common::damage::with;
use kinglet::{Format, Memory, Model, OpenError, Options, Plan, Progress, Session, Source};
use kinglet_model::layout::{StackRecord, section};
use kinglet_model::{ModelProblem, StackProblem};

fn open(bytes: &[u8]) -> Result<(), OpenError> {
    Model::open(Memory::copy_of(bytes).unwrap().bytes()).map(|_| ())
}

/// Stacks whose blocks together are not the model's, whether their sum fits 32 bits or not.
#[test]
fn stacks_that_lie_about_their_blocks_are_refused() {
    let good = common::chain(common::Chain::Describer, Format::Int8, 3);
    let count = Model::open(Memory::copy_of(&good).unwrap().bytes()).unwrap().stacks() as usize;
    let lie = |blocks: [u32; 4]| {
        open(&with(&good, section::STACKS, |bytes| {
            for (place, blocks) in bytes.chunks_exact_mut(StackRecord::SIZE).zip(blocks) {
                let record = StackRecord { blocks, ..StackRecord::read(place).unwrap() };
                place.copy_from_slice(&record.write());
            }
        }))
    };
    assert_eq!((count, lie([2, 2, 3, 4])), (4, Ok(())));
    let wrong = Err(OpenError::Model(ModelProblem::Dimension));
    for blocks in [
        [u32::MAX, u32::MAX, 0, 0],
        [1 << 31, 1 << 31, 7, 4],
        [2, u32::MAX - 1, 3, 7],
        [2, 2, 3, 5],
        [12, 0, 0, 0],
        [u32::MAX, 0, 0, 12],
    ] {
        assert_eq!(lie(blocks), wrong, "{blocks:?}");
    }
}

/// Three numbers of 16 bits, whose product is no size on a machine of 32 bits.
#[test]
fn a_picture_too_large_for_a_machine_is_refused() {
    let good = common::chain(common::Chain::Describer, Format::Int8, 3);
    let bytes = with(&good, section::STACKS, |bytes| {
        let place = &mut bytes[..StackRecord::SIZE];
        let record = StackRecord {
            picture_height: 1 << 15,
            picture_width: 1 << 15,
            patch: 1 << 15,
            channels: 1 << 2,
            ..StackRecord::read(place).unwrap()
        };
        place.copy_from_slice(&record.write());
    });
    assert_eq!(open(&bytes), Err(OpenError::Stack { index: 0, problem: StackProblem::Picture }));
}

/// However many blocks there are, looking at one costs the same, and a budget is kept.
#[test]
fn work_grows_with_the_blocks_and_not_with_their_square() {
    let blocks = 4096;
    let mut file = Memory::copy_of(&common::long(blocks, 3)).unwrap();
    let model = Model::open(file.bytes()).unwrap();
    let width = |index| model.block(index).unwrap().output.matrix.rows();
    // The shortest of several times: what else the machine does only makes them longer.
    let fastest = |index: u32| {
        let time = |_| {
            let start = Instant::now();
            assert_eq!(width(index), 16);
            start.elapsed()
        };
        (0..100).map(time).min().unwrap()
    };
    let (first, last) = (fastest(0).max(Duration::from_nanos(100)), fastest(blocks - 1));
    assert!(last < 100 * first, "the last block took {last:?}, the first {first:?}");

    let options = Options { context: 4, prefill: 1, source: 2, ..Options::of(&model).unwrap() };
    let mut memory = Memory::new(Plan::new(&model, options).unwrap().bytes()).unwrap();
    let mut session = Session::new(&model, options, memory.bytes()).unwrap();
    session.begin_source(Source::Tokens(&[1, 2])).unwrap();
    let mut calls = 1;
    while session.resume(1).unwrap() == Progress::Pending {
        calls += 1;
    }
    assert!(calls > blocks, "{calls} calls for {blocks} blocks");
}
