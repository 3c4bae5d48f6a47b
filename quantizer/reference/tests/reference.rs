//! The f32 forward pass against `transformers`: logits of tiny checkpoints of
//! every family and kind of rotation, and perplexity of a real one.
//!
//! The real one is not part of the repository: it is looked for in
//! `$KINGLET_SHARED`, or `../shared` beside the repository.

use std::path::{Path, PathBuf};

use kinglet_import::checkpoint::Checkpoint;
use kinglet_reference::{Observation, Reference, ReferenceError, Site};
use serde_json::Value;

/// Largest difference of a logit.
const TOLERANCE: f64 = 1e-4;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn variant(name: &str) -> PathBuf {
    repository().join("fixtures/variants").join(name)
}

/// The real model, if it is there.
fn stories() -> Option<PathBuf> {
    let shared = std::env::var_os("KINGLET_SHARED")
        .map_or_else(|| repository().join("../shared"), PathBuf::from);
    let dir = shared.join("models/stories260K");
    if dir.join("model.safetensors").is_file() {
        return Some(dir);
    }
    println!("skipped: {} is not there", dir.display());
    None
}

/// Token ids and logits of a variant.
fn golden(dir: &Path) -> (Vec<u32>, Vec<Vec<f64>>) {
    let text = std::fs::read(dir.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&text).unwrap();
    let tokens = serde_json::from_value(golden["input_ids"].clone()).unwrap();
    let logits = serde_json::from_value(golden["logits"].clone()).unwrap();
    (tokens, logits)
}

fn largest_difference(found: &[f32], expected: impl IntoIterator<Item = f64>) -> f64 {
    let mut expected = expected.into_iter();
    let largest = found.iter().fold(0.0_f64, |largest, found| {
        let difference = (f64::from(*found) - expected.next().expect("as many logits")).abs();
        assert!(!difference.is_nan());
        largest.max(difference)
    });
    assert!(expected.next().is_none(), "fewer logits than expected");
    largest
}

#[test]
fn every_variant_has_its_golden_logits() {
    let mut names: Vec<PathBuf> = std::fs::read_dir(variant(""))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("golden.json").is_file())
        .collect();
    names.sort();
    assert!(names.len() >= 10, "variants are missing: {names:?}");
    for dir in names {
        let (tokens, expected) = golden(&dir);
        // The length decides which factors of longrope hold.
        let checkpoint = Checkpoint::with_context(&dir, tokens.len()).unwrap();
        let found = Reference::new(&checkpoint).unwrap().logits(&tokens).unwrap();
        let difference = largest_difference(&found, expected.into_iter().flatten());
        println!("{:20} {difference:.2e}", dir.file_name().unwrap().display());
        assert!(difference < TOLERANCE, "{}: {difference}", dir.display());
    }
}

#[test]
fn weights_may_stay_on_disk() {
    let checkpoint = Checkpoint::open(variant("llama_untied_bf16")).unwrap();
    let tokens: Vec<u32> = (0..96).collect();
    let resident = Reference::new(&checkpoint).unwrap().logits(&tokens).unwrap();
    let streamed = Reference::with_memory(&checkpoint, 0).unwrap().logits(&tokens).unwrap();
    assert_eq!(resident, streamed);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let checkpoint = Checkpoint::open(variant("qwen3")).unwrap();
    let reference = Reference::new(&checkpoint).unwrap();
    // Several parts of a batch, of sequences of all lengths.
    let sequences: Vec<Vec<u32>> =
        (0..100).map(|n| (0..n).map(|i| (i * 7 + n) % 64).collect()).collect();
    let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut bits = Vec::new();
        let run = || {
            reference
                .run(&sequences, |_, _, logits| bits.extend(logits.iter().map(|x| x.to_bits())))
        };
        pool.install(run).unwrap();
        bits
    };
    let one = with(1);
    assert_eq!(one.len(), 64 * (0..100).sum::<usize>());
    assert!(one == with(3));
    assert!(one == with(8));
}

#[test]
fn sequences_of_a_batch_do_not_meet() {
    let checkpoint = Checkpoint::open(variant("llama_tied")).unwrap();
    let reference = Reference::new(&checkpoint).unwrap();
    let (a, b): (Vec<u32>, Vec<u32>) = ((0..40).collect(), (20..60).rev().collect());
    let mut together = [Vec::new(), Vec::new(), Vec::new()];
    let sink = |sequence: usize, position, logits: &[f32]| {
        assert_eq!(together[sequence].len(), position * 64);
        together[sequence].extend_from_slice(logits);
    };
    reference.run(&[&a, &[], &b], sink).unwrap();
    for (together, alone) in together.iter().zip([a, vec![], b]) {
        let alone = reference.logits(&alone).unwrap();
        let difference = largest_difference(together, alone.iter().map(|x| f64::from(*x)));
        assert!(difference < 1e-5, "{difference}");
    }
}

#[test]
fn observers_see_the_input_of_every_product() {
    let checkpoint = Checkpoint::open(variant("wide_heads")).unwrap();
    let reference = Reference::new(&checkpoint).unwrap();
    let mut seen = Vec::new();
    let mut observer = |observation: &Observation<'_>| {
        assert_eq!(observation.activations.len(), 48 * observation.cols);
        seen.push((observation.block, observation.site, observation.cols));
    };
    let tokens: Vec<u32> = (0..48).collect();
    let mut batch = reference.embed(&[&tokens]).unwrap();
    for block in 0..4 {
        reference.advance(&mut batch, block, &mut observer).unwrap();
    }
    let mut last = Vec::new();
    reference.head(&batch, &mut observer, |_, _, logits| last.extend_from_slice(logits)).unwrap();
    assert_eq!(last, reference.logits(&tokens).unwrap());
    let expected = [
        (0, Site::Input, 40),
        (0, Site::Output, 40),
        (1, Site::Input, 40),
        (1, Site::Output, 52),
        (2, Site::Input, 40),
        (2, Site::Output, 40),
        (3, Site::Input, 40),
        (3, Site::Output, 52),
        (4, Site::Head, 40),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn blocks_run_with_borrowed_weights() {
    let checkpoint = Checkpoint::open(variant("llama_bias")).unwrap();
    let reference = Reference::new(&checkpoint).unwrap();
    let mut batch = reference.embed(&[&[1, 2, 3]]).unwrap();
    let before = batch.clone();
    let mut weights = reference.block_weights(1).unwrap();
    assert!(matches!(
        reference.architecture().block(1).unwrap().operation,
        kinglet_model::Operation::FeedForward { .. }
    ));
    // With nothing coming out of the last product, the branch adds nothing.
    weights.output.weight.fill(0.0);
    weights.output.bias.as_mut().unwrap().fill(0.0);
    reference.advance_with(&mut batch, 1, &weights, &mut ());
    assert_eq!(batch, before);
    reference.advance(&mut batch, 1, &mut ()).unwrap();
    assert_ne!(batch, before);
}

#[test]
fn sequences_are_checked() {
    let checkpoint = Checkpoint::with_context(variant("llama_tied"), 8).unwrap();
    let reference = Reference::new(&checkpoint).unwrap();
    let strange = reference.run(&[&[1], &[1, 64]], |_, _, _| ());
    assert!(matches!(
        strange,
        Err(ReferenceError::Token { sequence: 1, position: 1, token: 64, vocab: 64 })
    ));
    let long = reference.logits(&[1; 9]);
    assert!(matches!(long, Err(ReferenceError::Length { sequence: 0, length: 9, context: 8 })));
    assert!(reference.logits(&[]).unwrap().is_empty());
}

#[test]
fn stories_has_its_golden_logits() {
    let Some(dir) = stories() else { return };
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let reference = Reference::new(&checkpoint).unwrap();
    let tokens = read_npy(&dir.join("golden/logits64_input_ids.npy"), i32::from_le_bytes);
    let tokens: Vec<u32> = tokens.into_iter().map(|token| token as u32).collect();
    let found = reference.logits(&tokens).unwrap();
    let in_f32 = read_npy(&dir.join("golden/logits64.npy"), f32::from_le_bytes);
    let in_f64 = read_npy(&dir.join("golden/logits64_f64.npy"), f64::from_le_bytes);
    let from_f32 = largest_difference(&found, in_f32.into_iter().map(f64::from));
    let from_f64 = largest_difference(&found, in_f64);
    println!("from f32 {from_f32:.2e}, from f64 {from_f64:.2e}");
    assert!(from_f32 < TOLERANCE && from_f64 < TOLERANCE);
}

#[test]
fn stories_has_its_golden_perplexity() {
    const BOS: u32 = 1;
    let Some(dir) = stories() else { return };
    let tokens = read_npy(&dir.join("golden/ppl_input_ids.npy"), i32::from_le_bytes);
    let tokens: Vec<u32> = tokens.into_iter().map(|token| token as u32).collect();
    let windows: Vec<&[u32]> = tokens.chunks(255).collect();
    // Every token is predicted from those before it, the first from the beginning of text.
    let inputs: Vec<Vec<u32>> =
        windows.iter().map(|window| [&[BOS], &window[..window.len() - 1]].concat()).collect();
    let inputs: Vec<&[u32]> = inputs.iter().map(Vec::as_slice).collect();

    let start = std::time::Instant::now();
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let reference = Reference::new(&checkpoint).unwrap();
    let mut nll = 0.0;
    let sink = |window: usize, position: usize, logits: &[f32]| {
        let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        nll += sum.ln() - f64::from(logits[windows[window][position] as usize]);
    };
    reference.run(&inputs, sink).unwrap();
    let perplexity = (nll / tokens.len() as f64).exp();
    println!("perplexity {perplexity:.8} of {} tokens in {:.2?}", tokens.len(), start.elapsed());
    let expected = 4.668_135_96;
    assert!((perplexity / expected - 1.0).abs() < 1e-4, "{perplexity}");
}

/// The numbers of an array of NumPy in row order; its type is known here.
fn read_npy<T, const N: usize>(path: &Path, number: fn([u8; N]) -> T) -> Vec<T> {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "version 1 of the format");
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let (header, data) = bytes[10..].split_at(header);
    let header = std::str::from_utf8(header).unwrap();
    assert!(header.contains("'fortran_order': False"), "{header}");
    assert!(header.contains(&format!("{N}'")), "{header} should hold numbers of {N} bytes");
    data.as_chunks().0.iter().map(|bytes| number(*bytes)).collect()
}
