//! Reading results that others computed, and comparing.

use std::path::{Path, PathBuf};

use kinglet::tokenizer::{Detokenizer, EncodeError, Tokenizer, max_tokens, scratch_words};
use kinglet_import::checkpoint::Checkpoint;
use kinglet_reference::{Reference, Sample, Source};

/// A tiny checkpoint.
pub fn family(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/families").join(name)
}

/// A real checkpoint, which is not part of the repository: it is looked for in `$KINGLET_SHARED`,
/// or `../shared` beside the repository.
pub fn real(name: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let dir =
        std::env::var_os("KINGLET_SHARED").map_or(beside, PathBuf::from).join("models").join(name);
    let there = dir.join("model.safetensors").is_file();
    if !there {
        println!("skipped: {} is not there", dir.display());
    }
    there.then_some(dir)
}

/// Numbers of a .npy file of this kind.
pub fn npy<T, const BYTES: usize>(path: &Path, kind: &str, read: fn([u8; BYTES]) -> T) -> Vec<T> {
    let bytes = std::fs::read(path).unwrap();
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let (header, numbers) = bytes[10..].split_at(header);
    let header = String::from_utf8_lossy(header);
    assert!(header.contains(kind) && header.contains("'fortran_order': False"), "{header}");
    numbers.as_chunks().0.iter().map(|number| read(*number)).collect()
}

/// Tokens to read, and nothing to answer.
pub fn tokens(tokens: &[u32]) -> Sample {
    Sample::from(tokens.to_vec())
}

/// Something to read, and an answer.
pub fn answered(source: Source, target: &[u32]) -> Sample {
    Sample { source, target: target.to_vec() }
}

/// The results of each sample, position after position.
pub fn results(checkpoint: &Checkpoint, samples: &[Sample]) -> Vec<Vec<f32>> {
    let mut found = vec![vec![]; samples.len()];
    let reference = Reference::new(checkpoint).unwrap();
    reference.run_samples(samples, |sample, _, row| found[sample].extend_from_slice(row)).unwrap();
    found
}

/// The largest difference of as many numbers on both sides.
pub fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    pairs.fold(0.0, |largest, (a, b)| {
        let difference = (a - b).abs();
        assert!(!difference.is_nan());
        largest.max(difference)
    })
}

/// The tokens of a text.
pub fn encoded(tokenizer: &Tokenizer<'_>, text: &str) -> Result<Vec<u32>, EncodeError> {
    let (mut scratch, mut out) =
        (vec![0; scratch_words(text.len())], vec![0; max_tokens(text.len())]);
    let count = tokenizer.encode(text, true, &mut scratch, &mut out)?;
    out.truncate(count);
    Ok(out)
}

/// The text of some tokens.
pub fn decoded(tokenizer: &Tokenizer<'_>, ids: &[u32]) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer);
    let mut text = String::new();
    for &id in ids {
        detokenizer.push(tokenizer, id).for_each(|piece| text.push_str(piece));
    }
    text + detokenizer.finish().unwrap_or("")
}
