//! Every type of tensor, bit for bit as the reference dequantizes it.

use std::collections::BTreeMap;

use kinglet_import::checkpoint::{Checkpoint, CheckpointError};

use super::support::{File, fixture, fixtures, tensors};

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn numbers_are_the_references_bit_for_bit() {
    let text = std::fs::read(fixtures().join("gguf/expected.json")).unwrap();
    let mut expected: BTreeMap<String, u32> = serde_json::from_slice(&text).unwrap();
    let checkpoint = Checkpoint::open(fixture("types")).unwrap();
    for tensor in tensors(checkpoint.architecture()) {
        let numbers = checkpoint.read(tensor).unwrap();
        let sum = crc32fast::hash(&bytes(&numbers));
        assert_eq!(Some(sum), expected.remove(tensor.name()), "{}", tensor.name());
    }
    assert!(expected.is_empty(), "not read: {expected:?}");
}

#[test]
fn any_rows_are_read_from_several_threads() {
    let checkpoint = Checkpoint::open(fixture("types")).unwrap();
    for tensor in tensors(checkpoint.architecture()) {
        let all = checkpoint.read(tensor).unwrap();
        let (rows, cols) = (tensor.rows(), tensor.cols());
        std::thread::scope(|scope| {
            for start in 0..rows {
                let (checkpoint, all) = (&checkpoint, &all);
                scope.spawn(move || {
                    for end in [start, start + 1, (start + 3).min(rows), rows] {
                        let mut out = vec![0.0; (end - start) * cols];
                        checkpoint.read_rows(tensor, start..end, &mut out).unwrap();
                        assert_eq!(
                            bytes(&out),
                            bytes(&all[start * cols..end * cols]),
                            "{} {start}..{end}",
                            tensor.name()
                        );
                    }
                });
            }
        });
        let beyond = checkpoint.read_rows(tensor, 0..rows + 1, &mut vec![0.0; (rows + 1) * cols]);
        assert!(matches!(beyond, Err(CheckpointError::RowRange { .. })));
    }
}

#[test]
fn numbers_that_are_not_finite_are_found() {
    let file = File::new().bent("blk.0.ffn_gate.weight", |tensor| tensor.bytes[8..12].fill(0xff));
    let checkpoint = file.open().unwrap();
    let gate = tensors(checkpoint.architecture())
        .into_iter()
        .find(|tensor| tensor.name().contains("gate"))
        .unwrap();
    let error = checkpoint.read(gate).unwrap_err();
    assert!(matches!(&error, CheckpointError::NotFinite { row: 0, col: 2, .. }), "{error:?}");
}
