//! Damaged files: an error or a checkpoint that can be read, never a panic, and
//! never more memory than the file has bytes (sizes that lie are tried up to
//! 2^64, which no machine could serve).

use kinglet_import::checkpoint::{Checkpoint, CheckpointError};
use proptest::prelude::*;

use super::support::{File, fixture, open, tensors};

/// Reads all that can be read.
fn exercise(opened: Result<Checkpoint, CheckpointError>) -> bool {
    match opened {
        Ok(checkpoint) => {
            // Damaged numbers and vocabularies are errors, and all right.
            for tensor in tensors(checkpoint.architecture()) {
                let _ = checkpoint.read(tensor);
            }
            let _ = checkpoint.tokenizer();
            true
        }
        Err(error) => {
            assert!(error.to_string().len() < 4000, "{error}");
            false
        }
    }
}

#[test]
fn every_cut_of_the_header_is_an_error() {
    let (whole, header) = File::new().bytes();
    assert!(exercise(open(&whole)));
    for length in 0..=header {
        assert!(open(&whole[..length]).is_err(), "{length}");
    }
    for length in (header..whole.len()).step_by(5) {
        assert!(open(&whole[..length]).is_err(), "{length}");
    }
    for name in ["types", "tokenizer-llama2", "tokenizer-llama3"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        for length in (0..whole.len()).step_by(97) {
            assert!(open(&whole[..length]).is_err(), "{name} {length}");
        }
    }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }
}

#[test]
fn damaged_bytes_do_no_harm() {
    let (small, header) = File::new().bytes();
    let mut cases = vec![(small, header, 6000)];
    for (name, count) in
        [("tokenizer-llama2", 500), ("tokenizer-llama3", 500), ("types", 300), ("llama3_rope", 300)]
    {
        cases.push((std::fs::read(fixture(name)).unwrap(), 3000, count));
    }
    let mut random = Random(1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged");
    for (whole, header, count) in cases {
        let mut opened = 0;
        for _ in 0..count {
            let mut bytes = whole.clone();
            let reach = if random.below(4) == 0 { bytes.len() } else { header };
            for _ in 0..1 + random.below(4) {
                let at = random.below(reach);
                bytes[at] = match random.below(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => bytes[at] ^ 1 << random.below(8),
                    _ => random.next() as u8,
                };
            }
            if random.below(8) == 0 {
                // A number of eight bytes, anywhere.
                let at = random.below(reach - 8);
                bytes[at..at + 8].copy_from_slice(
                    &(1_u64 << random.below(64)).wrapping_sub(random.next() & 1).to_le_bytes(),
                );
            }
            std::fs::write(&path, &bytes).unwrap();
            opened += usize::from(exercise(Checkpoint::open(&path)));
        }
        println!("{opened} of {count} could be opened");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_tensor_infos(
        which in 0..12_usize,
        dimensions in proptest::collection::vec(prop_oneof![0..70_u64, any::<u64>(), (0..64_u32).prop_map(|n| 1 << n)], 0..6),
        kind in 0..32_u32,
        offset in prop_oneof![any::<u64>(), (0..100_u64).prop_map(|n| n * 32), Just(u64::MAX)],
    ) {
        let mut file = File::new();
        let tensor = &mut file.tensors[which];
        (tensor.dimensions, tensor.kind, tensor.offset) = (dimensions, kind, Some(offset));
        exercise(file.open());
    }
}
