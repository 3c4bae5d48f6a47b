//! Every tiny checkpoint gives the results of its own library. Those were computed for padded
//! sources with a mask; here nothing is padded.

use kinglet::tokenizer::Tokenizer;
use kinglet_import::checkpoint::{Block, Checkpoint, Input, Norm, Pooling, Residual};
use kinglet_reference::{Sample, Source};
use serde_json::Value;

use super::support::{decoded, difference, encoded, family, results};

/// Largest difference of a result.
const TOLERANCE: f32 = 1e-4;

fn list<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    match value {
        Value::Null => vec![],
        value => serde_json::from_value(value.clone()).unwrap(),
    }
}

fn source(source: &Value) -> Source {
    if let Some(pixels) = source.get("pixels") {
        return Source::Pixels(list(pixels));
    }
    if let Some(features) = source.get("features") {
        let rows: Vec<Vec<f32>> = list(features);
        return Source::Features(rows.concat());
    }
    Source::Tokens { tokens: list(&source["tokens"]), types: list(&source["types"]) }
}

#[test]
fn every_family_has_its_golden_results() {
    let mut dirs: Vec<_> =
        std::fs::read_dir(family("")).unwrap().map(|entry| entry.unwrap().path()).collect();
    dirs.retain(|dir| dir.join("golden.json").is_file());
    dirs.sort();
    assert!(dirs.len() >= 20, "families are missing: {dirs:?}");
    let mut wrong = vec![];
    for dir in dirs {
        let name = dir.file_name().unwrap().display().to_string();
        let golden: Value =
            serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
        let golden = golden["samples"].as_array().unwrap();
        let checkpoint = Checkpoint::open(&dir).unwrap_or_else(|error| panic!("{name}: {error}"));
        let samples = golden
            .iter()
            .map(|one| Sample { source: source(&one["source"]), target: list(&one["target"]) });
        let found = results(&checkpoint, &samples.collect::<Vec<_>>());
        let differences = found.iter().zip(golden).map(|(found, golden)| {
            let expected: Vec<Vec<f32>> = list(&golden["results"]);
            difference(found, &expected.concat())
        });
        let largest = differences.fold(0.0, f32::max);
        println!("{name:24} {largest:.2e}");
        if largest >= TOLERANCE {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "these differ: {wrong:?}");
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(family(name)).unwrap()
}

#[test]
fn norms_behind_branches_belong_to_the_next_block() {
    let bert = open("bert_mean");
    let stack = bert.architecture().first();
    fn name(norm: &Option<Norm>) -> &str {
        norm.as_ref().unwrap().weight.tensor().unwrap().name()
    }
    let norms: Vec<&str> = stack.blocks.iter().map(|block| name(&block.norm)).collect();
    assert_eq!(norms[0], "embeddings.LayerNorm.weight");
    assert_eq!(norms[1], "encoder.layer.0.attention.output.LayerNorm.weight");
    assert_eq!(norms[2], "encoder.layer.0.output.LayerNorm.weight");
    assert_eq!(name(&stack.norm), "encoder.layer.1.output.LayerNorm.weight");
    let post = |block: &Block| block.norm.is_some() && block.stream_norm() == block.norm.as_ref();
    assert!(stack.blocks.iter().all(post));
    // Without a norm of the input the first block has none, and there is nothing to replace.
    for name in ["marian", "opennmt_post", "kwt"] {
        for stack in &open(name).architecture().stacks {
            let first = &stack.blocks[0];
            assert!(first.norm.is_none() && first.residual == Residual::Pre, "{name}");
            assert!(stack.blocks[1..].iter().all(post), "{name}");
        }
    }
}

#[test]
fn outputs_are_described() {
    for (name, pooling, outputs, labels) in [
        ("bert_mean", Pooling::Mean, 16, &[][..]),
        ("bert_types", Pooling::Mean, 16, &[]),
        ("bert_classifier", Pooling::First, 3, &["bad", "fair", "good"]),
        ("bert_sentence_cls", Pooling::First, 8, &[]),
        ("bert_sentence_max", Pooling::Max, 8, &[]),
        ("gpt2", Pooling::None, 50, &[]),
        ("t5", Pooling::None, 50, &[]),
        ("opennmt_pre", Pooling::None, 43, &[]),
        ("marian_separate", Pooling::None, 60, &[]),
        ("vit", Pooling::First, 16, &[]),
        ("vit_classifier", Pooling::First, 3, &["bad", "fair", "good"]),
        ("kwt", Pooling::First, 4, &["yes", "no", "up", "down"]),
        ("vision_text", Pooling::None, 50, &[]),
    ] {
        let checkpoint = open(name);
        let architecture = checkpoint.architecture();
        assert_eq!(architecture.output.pooling, pooling, "{name}");
        assert_eq!(architecture.outputs(), outputs, "{name}");
        assert_eq!(architecture.labels, labels, "{name}");
        assert_eq!(architecture.output.normalize, name.contains("sentence"), "{name}");
        assert_eq!(architecture.is_language_model(), pooling == Pooling::None, "{name}");
    }
}

#[test]
fn special_tokens_are_those_of_the_settings() {
    for (name, bos, eos, start) in [
        ("gpt2", Some(1), &[2][..], None),
        ("t5", None, &[1], Some(0)),
        ("opennmt_pre", Some(1), &[2], Some(1)),
        ("marian", Some(0), &[2], Some(3)),
        ("bart", Some(0), &[2], Some(3)),
        ("vision_text", Some(1), &[2], Some(1)),
        ("bert_mean", None, &[], None),
    ] {
        let checkpoint = open(name);
        let architecture = checkpoint.architecture();
        assert_eq!(
            (architecture.bos, &architecture.eos[..], architecture.start),
            (bos, eos, start),
            "{name}"
        );
    }
}

#[test]
fn a_shorter_context_cuts_the_positions() {
    // What is asked for, what is given without.
    for (name, own) in [
        ("bert_mean", 24),
        ("bert_sentence_cls", 16),
        ("gpt2", 24),
        ("bart", 24),
        ("marian", 24),
        ("t5", 512),
    ] {
        assert_eq!(open(name).architecture().last().context, own, "{name}");
        let checkpoint = Checkpoint::with_context(family(name), 12).unwrap();
        assert!(checkpoint.architecture().stacks.iter().all(|stack| stack.context == 12), "{name}");
        assert!(Checkpoint::with_context(family(name), 0).is_err());
    }
    for name in ["vit", "kwt"] {
        assert!(Checkpoint::with_context(family(name), 5).is_err(), "{name}");
    }
    // A picture stays what it is.
    let checkpoint = Checkpoint::with_context(family("vision_text"), 12).unwrap();
    let contexts: Vec<usize> =
        checkpoint.architecture().stacks.iter().map(|stack| stack.context).collect();
    assert_eq!(contexts, [7, 7, 12]);
}

#[test]
fn pictures_are_described() {
    let checkpoint = open("vit");
    let Input::Features { picture: Some(picture), .. } = &checkpoint.architecture().first().input
    else {
        panic!("no picture")
    };
    assert_eq!((picture.height, picture.width, picture.patch, picture.channels), (12, 8, 4, 3));
    assert!(checkpoint.preparation().unwrap().ends_with("preprocessor_config.json"));
    assert_eq!(open("kwt").preparation(), None);
    let pixel = checkpoint.values(&picture.pixel).unwrap();
    assert!(difference(&pixel[..3], &[2.0 / 255.0, 4.0 / 255.0, 5.0 / 255.0]) < 1e-9);
    assert!(difference(&pixel[3..], &[-1.0, -1.6, -1.5]) < 1e-6);
}

#[test]
fn one_vocabulary_is_cut_down_and_two_are_not() {
    let kept = || (0..40).collect::<Vec<u32>>();
    for name in ["t5", "bart", "vision_text", "gpt2"] {
        let mut checkpoint = open(name);
        checkpoint.keep_tokens(kept()).unwrap();
        assert_eq!(checkpoint.architecture().outputs(), 40, "{name}");
    }
    assert!(open("opennmt_pre").keep_tokens(kept()).is_err());
}

#[test]
fn source_and_target_have_letters_of_their_own() {
    let checkpoint = open("opennmt_pre");
    let (sources, targets) =
        (checkpoint.tokenizer().unwrap(), checkpoint.target_tokenizer().unwrap());
    let (sources, targets) =
        (Tokenizer::parse(&sources).unwrap(), Tokenizer::parse(&targets).unwrap());
    assert_eq!((sources.vocab_len(), targets.vocab_len()), (50, 43));
    // The last row is that of all unknown characters.
    assert_eq!(encoded(&sources, "caω\u{3bc} ").unwrap(), [5, 3, 49, 40, 49]);
    assert_eq!(encoded(&targets, "ca\u{3bc}").unwrap(), [5, 3, 40]);
    assert_eq!(decoded(&targets, &[3, 5, 40, 2]), "ac\u{3bc}");
    assert!(open("t5").tokenizer().unwrap().is_empty());
}
