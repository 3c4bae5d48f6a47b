//! Real checkpoints, which are not part of the repository, against the results of their reference
//! implementations.

use kinglet::tokenizer::Tokenizer;
use kinglet_import::checkpoint::Checkpoint;
use kinglet_reference::{Reference, Sample, Source};
use serde_json::Value;

use super::support::{answered, decoded, difference, encoded, npy, real, results, tokens};

#[test]
fn sentences_have_their_embeddings() {
    let Some(dir) = real("minilm") else { return };
    let checkpoint = Checkpoint::open(&dir).unwrap();
    assert_eq!(checkpoint.architecture().last().context, 256);
    let golden: Value =
        serde_json::from_slice(&std::fs::read(dir.join("golden/sentences20.json")).unwrap())
            .unwrap();
    let ids = |item: &Value| serde_json::from_value::<Vec<u32>>(item["ids"].clone()).unwrap();
    let samples: Vec<Sample> =
        golden.as_array().unwrap().iter().map(|item| tokens(&ids(item))).collect();
    let expected = npy(&dir.join("golden/embeddings20.npy"), "<f4", f32::from_le_bytes);
    for (found, expected) in results(&checkpoint, &samples).iter().zip(expected.chunks(384)) {
        let dot = |a: &[f32], b: &[f32]| {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
        };
        let cosine = dot(found, expected) / (dot(found, found) * dot(expected, expected)).sqrt();
        assert!(cosine > 0.99999, "{cosine}");
        assert!(difference(found, expected) < 1e-4);
    }
}

#[test]
fn steps_of_manufacturing_have_their_logits() {
    let Some(dir) = real("capp_gpt2") else { return };
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let architecture = checkpoint.architecture();
    assert_eq!((architecture.bos, &architecture.eos[..]), (None, &[51][..]));
    let ids = npy(&dir.join("golden/logits64_input_ids.npy"), "<i4", i32::from_le_bytes);
    let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
    let expected = npy(&dir.join("golden/logits64.npy"), "<f4", f32::from_le_bytes);
    let difference = difference(&results(&checkpoint, &[tokens(&ids)])[0], &expected);
    println!("capp_gpt2 {difference:.2e}");
    assert!(difference < 1e-3, "{difference}");
}

#[test]
fn names_are_transliterated() {
    let Some(dir) = real("ct2_aren") else { return };
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let golden: Value =
        serde_json::from_slice(&std::fs::read(dir.join("golden/greedy.json")).unwrap()).unwrap();
    let list = |value: &Value| serde_json::from_value::<Vec<u32>>(value.clone()).unwrap();
    let item = &golden["items"][1];
    let (source, answer) = (list(&item["source_ids"]), list(&item["greedy_ids"]));
    let start = checkpoint.architecture().start.unwrap();
    let target: Vec<u32> =
        [start].into_iter().chain(answer[..answer.len() - 1].iter().copied()).collect();
    let sample = answered(Source::Tokens { tokens: source, types: vec![] }, &target);
    let logits = &results(&checkpoint, std::slice::from_ref(&sample))[0];
    let expected = npy(&dir.join("golden/dec_logits_item1.npy"), "<f4", f32::from_le_bytes);
    let found = difference(logits, &expected);
    println!("ct2_aren logits {found:.2e}");
    assert!(found < 1e-4, "{found}");
    // The states of the encoder, after its norm: what the decoder's first block is handed.
    let reference = Reference::new(&checkpoint).unwrap();
    let mut batch = reference.begin(&[sample]).unwrap();
    let encoder = checkpoint.architecture().numbers(0);
    for block in encoder {
        reference.advance(&mut batch, block, &mut ()).unwrap();
    }
    let norm = checkpoint.architecture().first().norm.as_ref().unwrap();
    let (weight, bias) = (
        checkpoint.values(&norm.weight).unwrap(),
        checkpoint.values(norm.bias.as_ref().unwrap()).unwrap(),
    );
    let states = batch.stream().chunks(32).flat_map(|row| {
        let mean = row.iter().sum::<f32>() / 32.0;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 32.0;
        let scale = (variance + norm.eps).sqrt().recip();
        row.iter()
            .zip(&weight)
            .zip(&bias)
            .map(|((x, w), b)| (x - mean) * scale * w + b)
            .collect::<Vec<f32>>()
    });
    let expected = npy(&dir.join("golden/enc_out_item1.npy"), "<f4", f32::from_le_bytes);
    let found = difference(&states.collect::<Vec<f32>>(), &expected);
    println!("ct2_aren encoder {found:.2e}");
    assert!(found < 1e-4, "{found}");
}

#[test]
fn words_are_heard() {
    let Some(dir) = real("kwt1") else { return };
    let checkpoint = Checkpoint::open(&dir).unwrap();
    assert_eq!(checkpoint.architecture().labels[2], "yes");
    let features = npy(&dir.join("golden/features.npy"), "<f4", f32::from_le_bytes);
    let samples =
        features.chunks(98 * 40).map(|rows| answered(Source::Features(rows.to_vec()), &[]));
    let found = results(&checkpoint, &samples.collect::<Vec<_>>()).concat();
    let expected = npy(&dir.join("golden/logits_litert.npy"), "<f4", f32::from_le_bytes);
    let difference = difference(&found, &expected);
    println!("kwt1 {difference:.2e}");
    assert!(difference < 1e-3, "{difference}");
}

#[test]
fn pictures_are_seen() {
    let Some(dir) = real("vit_tiny") else { return };
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let pixels = npy(&dir.join("golden/procedural_rgb_u8.npy"), "|u1", |[byte]: [u8; 1]| byte);
    let samples =
        pixels.chunks(224 * 224 * 3).map(|picture| answered(Source::Pixels(picture.to_vec()), &[]));
    let found = results(&checkpoint, &samples.collect::<Vec<_>>()).concat();
    let expected = npy(&dir.join("golden/procedural_logits.npy"), "<f4", f32::from_le_bytes);
    let difference = difference(&found, &expected);
    println!("vit_tiny {difference:.2e}");
    assert!(difference < 1e-3, "{difference}");
}

#[test]
fn letters_and_words_are_tokens() {
    let Some(dir) = real("ct2_aren") else { return };
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let (sources, targets) =
        (checkpoint.tokenizer().unwrap(), checkpoint.target_tokenizer().unwrap());
    let (sources, targets) =
        (Tokenizer::parse(&sources).unwrap(), Tokenizer::parse(&targets).unwrap());
    let golden: Value =
        serde_json::from_slice(&std::fs::read(dir.join("golden/greedy.json")).unwrap()).unwrap();
    for item in golden["items"].as_array().unwrap() {
        let list = |key: &str| serde_json::from_value::<Vec<u32>>(item[key].clone()).unwrap();
        assert_eq!(
            encoded(&sources, item["source"].as_str().unwrap()).unwrap(),
            list("source_ids")
        );
        assert_eq!(decoded(&targets, &list("greedy_ids")), item["greedy"].as_str().unwrap());
    }
    let Some(dir) = real("capp_gpt2") else { return };
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let words = checkpoint.tokenizer().unwrap();
    let words = Tokenizer::parse(&words).unwrap();
    let text = "geometry_prismatic holes_normal <SOS> Milling Secondary Milling Drilling <EOC>";
    let ids = encoded(&words, text).unwrap();
    assert_eq!(ids, [2, 8, 49, 37, 30, 45, 50]);
    assert_eq!(decoded(&words, &ids), text);
    assert!(encoded(&words, "Milling Cooking").is_err());
    assert!(checkpoint.target_tokenizer().unwrap().is_empty());
}
