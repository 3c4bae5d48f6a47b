//! Real checkpoints of every kind, rounded and run as a device would, against the results of their
//! reference implementations. They are not part of the repository: without them the tests say so
//! and pass.

use std::path::{Path, PathBuf};

use kinglet::Memory;
use kinglet::{Format, Model, Options, Plan, RunError, Session, Source, argmax};
use kinglet_fixtures::host::shared;
use kinglet_import::checkpoint::Checkpoint;
use kinglet_quantize::quantize;
use kinglet_reference::{Sample, Source as Given};
use kinglet_report::correlation;
use serde_json::Value;

fn checkpoint(name: &str) -> Option<PathBuf> {
    let dir = shared()?.join("models").join(name);
    if !dir.is_dir() {
        eprintln!("skipped: no checkpoint at {}", dir.display());
        return None;
    }
    Some(dir)
}

/// The numbers of a .npy file whose element is as expected.
fn npy<T, const BYTES: usize>(path: &Path, kind: &str, read: fn([u8; BYTES]) -> T) -> Vec<T> {
    let bytes = std::fs::read(path).unwrap();
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let text = String::from_utf8_lossy(&bytes[10..header]).into_owned();
    assert!(text.contains(kind) && text.contains("'fortran_order': False"), "{text}");
    bytes[header..].as_chunks().0.iter().map(|&chunk| read(chunk)).collect()
}

fn floats(path: &Path) -> Vec<f32> {
    npy(path, "<f4", f32::from_le_bytes)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A rounded model in a file of its own.
struct Rounded {
    map: Memory,
    _directory: tempfile::TempDir,
}

impl Rounded {
    fn new(dir: &Path, options: &kinglet_quantize::Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.kinglet");
        quantize(&Checkpoint::open(dir).unwrap(), &path, options, &|_, _, _| {}).unwrap();
        Self { map: Memory::read(&path).unwrap(), _directory: directory }
    }

    fn model(&self) -> Model<'_> {
        Model::open(&self.map).unwrap()
    }
}

/// Calls `run` with a session.
fn with<T>(model: &Model<'_>, options: Options, run: impl FnOnce(&mut Session<'_, '_>) -> T) -> T {
    let mut memory = Memory::new(Plan::new(model, options).unwrap().bytes()).unwrap();
    run(&mut Session::new(model, options, memory.bytes()).unwrap())
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn int8() -> kinglet_quantize::Options {
    kinglet_quantize::Options { golden: 0, ..kinglet_quantize::Options::default() }
}

#[test]
fn steps_of_manufacturing_are_predicted() {
    let Some(dir) = checkpoint("capp_gpt2") else { return };
    let rounded = Rounded::new(&dir, &int8());
    let model = rounded.model();
    let golden = dir.join("golden");
    let prompts = npy(&golden.join("all_prompts_ids.npy"), "<i4", i32::from_le_bytes);
    let logits = floats(&golden.join("all_prompts_next_logits.npy"));
    let count = logits.len() / model.outputs();
    let length = prompts.len() / count;
    let options = Options { context: length, prefill: length, ..Options::DECODE };
    let same = with(&model, options, |session| {
        let each = prompts.chunks(length).zip(logits.chunks(model.outputs()));
        each.filter(|(prompt, want)| {
            let tokens: Vec<u32> = prompt.iter().map(|&id| id as u32).collect();
            session.rewind(0).unwrap();
            argmax(session.feed(&tokens).unwrap()) == argmax(want)
        })
        .count()
    });
    println!(
        "capp_gpt2 int8: the same next token for {same} of {count} prompts, {:.4}",
        same as f64 / count as f64
    );
    assert!(same as f64 >= 0.985 * count as f64, "{same} of {count}");
}

#[test]
fn names_are_transliterated() {
    let Some(dir) = checkpoint("ct2_aren") else { return };
    let rounded = Rounded::new(&dir, &int8());
    let model = rounded.model();
    let golden = json(&dir.join("golden/greedy.json"));
    let (start, end) = (model.start().unwrap(), golden["eos_id"].as_u64().unwrap() as u32);
    let options = Options { context: 64, prefill: 1, source: 64, ..Options::DECODE };
    let mut same = 0;
    let items = golden["items"].as_array().unwrap();
    with(&model, options, |session| {
        for item in items {
            session.encode(Source::Tokens(&ids(&item["source_ids"]))).unwrap();
            let (mut found, mut token) = (vec![], start);
            while token != end && found.len() < 60 {
                token = argmax(session.feed(&[token]).unwrap());
                found.push(token);
            }
            let want = ids(&item["greedy_ids"]);
            same += usize::from(found == want);
            let margin = item["min_margin"].as_f64().unwrap();
            if found != want {
                println!("{}: {found:?}, not {want:?}; margin {margin}", item["greedy"]);
            }
            assert!(found == want || margin < 0.05, "{}", item["greedy"]);
        }
    });
    println!("ct2_aren int8: {same} of {} names", items.len());
    assert!(same >= 19, "{same}");
}

#[test]
fn words_are_heard() {
    let Some(dir) = checkpoint("kwt1") else { return };
    let rounded = Rounded::new(&dir, &int8());
    let model = rounded.model();
    let features = floats(&dir.join("golden/features.npy"));
    let wanted = floats(&dir.join("golden/logits_litert.npy"));
    with(&model, Options::of(&model).unwrap(), |session| {
        for (features, want) in features.chunks(features.len() / 4).zip(wanted.chunks(12)) {
            let found = session.encode(Source::Features(features)).unwrap();
            let away = found.iter().zip(want).fold(0.0, |m: f32, (a, b)| m.max((a - b).abs()));
            println!(
                "kwt1 int8: logits up to {away:.3} away, the largest is {:.2}",
                want[argmax(want) as usize]
            );
            assert_eq!(argmax(found), argmax(want));
            assert!(away < 0.5 && cosine(found, want) > 0.995, "{away} {}", cosine(found, want));
        }
    });
}

#[test]
fn pictures_are_seen() {
    let Some(dir) = checkpoint("vit_tiny") else { return };
    let rounded = Rounded::new(&dir, &int8());
    let model = rounded.model();
    let golden = dir.join("golden");
    let pixels = npy(&golden.join("procedural_rgb_u8.npy"), "|u1", |[byte]: [u8; 1]| byte);
    let (wanted, hidden) = (
        floats(&golden.join("procedural_logits.npy")),
        floats(&golden.join("procedural_last_hidden.npy")),
    );
    let norm = model.last().unwrap().norm.unwrap();
    let last = model.blocks();
    let options = Options::of(&model).unwrap();
    with(&model, options, |session| {
        let pictures = pixels
            .chunks(224 * 224 * 3)
            .zip(wanted.chunks(1000))
            .zip(hidden.chunks(hidden.len() / 2));
        for ((picture, want), hidden) in pictures {
            session.begin_source(Source::Pixels(picture)).unwrap();
            let mut states = vec![];
            session
                .resume_tapped(u64::MAX, |state, rows| {
                    if state == last {
                        states = rows.to_vec();
                    }
                })
                .unwrap();
            let found = session.logits().to_vec();
            // Golden states are those after the last norm.
            let states = states_normed(&states, &norm);
            let least = states
                .chunks(192)
                .zip(hidden.chunks(192))
                .map(|(a, b)| cosine(a, b))
                .fold(1.0, f64::min);
            let all = cosine(&states, hidden);
            println!(
                "vit_tiny int8: class {} ({}), states' cosine {all:.5}, least of a patch \
                 {least:.5}",
                argmax(&found),
                argmax(want)
            );
            assert_eq!(argmax(&found), argmax(want));
            assert!(all >= 0.995, "{all}");
        }
    });
}

fn states_normed(states: &[f32], norm: &kinglet_model::Norm<&[f32]>) -> Vec<f32> {
    let mut out = vec![0.0; states.len()];
    for (row, out) in states.chunks(norm.weight.len()).zip(out.chunks_mut(norm.weight.len())) {
        kinglet::Isa::SCALAR.layer_norm(row, norm.weight, norm.bias.unwrap(), norm.eps, out);
    }
    out
}

/// Score and two sentences of each line.
fn pairs(path: &Path) -> Vec<(f64, String, String)> {
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let fields: Vec<&str> = line.split('\t').collect();
        (fields[4].parse().unwrap(), fields[5].to_owned(), fields[6].to_owned())
    };
    text.lines().map(line).collect()
}

#[test]
fn sentences_have_their_embeddings() {
    let Some(dir) = checkpoint("minilm") else { return };
    let data = shared().unwrap().join("data/stsbenchmark");
    let mut tokenizer = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
    tokenizer.with_padding(None).with_truncation(None).unwrap();
    let tokens = |text: &str| tokenizer.encode(text, true).unwrap().get_ids().to_vec();
    let golden = json(&dir.join("golden/sentences20.json"));
    let sentences: Vec<&str> =
        golden.as_array().unwrap().iter().map(|item| item["text"].as_str().unwrap()).collect();
    let wanted = floats(&dir.join("golden/embeddings20.npy"));
    let development = pairs(&data.join("sts-dev.csv"));
    // Sentences of the training part, for calibration.
    let train = pairs(&data.join("sts-train.csv"));
    let sample = |text: &str| Sample {
        source: Given::Tokens { tokens: tokens(text), types: vec![] },
        target: vec![],
    };
    let calibration: Vec<Sample> =
        train.iter().step_by(train.len() / 512).map(|(_, a, _)| sample(a)).collect();
    // Int8 gives the worst of the twenty a cosine of 0.9961: a token's 1,536 numbers after gelu
    // share one scale, and words, keys and values have eight bits.
    for (name, format, least, away) in
        [("int8", Format::Int8Grouped, 0.996, 0.002), ("int4", Format::Int4Codebook, 0.95, 0.01)]
    {
        let options = kinglet_quantize::Options {
            weights: format,
            calibration: calibration.clone(),
            golden: 0,
            ..Default::default()
        };
        let rounded = Rounded::new(&dir, &options);
        let model = rounded.model();
        let options = Options { source: 128, ..Options::of(&model).unwrap() };
        let (cosines, correlation) = with(&model, options, |session| {
            let mut embed = |text: &str| match session.encode(Source::Tokens(&tokens(text))) {
                Ok(found) => found.to_vec(),
                Err(RunError::Source { .. }) => panic!("too long: {text}"),
                Err(error) => panic!("{error}"),
            };
            let each = sentences.iter().zip(wanted.chunks(384));
            let cosines: Vec<f64> = each.map(|(text, want)| cosine(&embed(text), want)).collect();
            let pairs: Vec<_> = development
                .iter()
                .map(|(score, a, b)| (*score, dot(&embed(a), &embed(b))))
                .collect();
            (cosines, correlation(&pairs).unwrap())
        });
        let lowest = cosines.iter().copied().fold(1.0, f64::min);
        let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
        println!(
            "minilm {name}: cosine {mean:.5} in the mean, {lowest:.5} at least; Spearman \
             {correlation:.4} (0.8672 in f32), {} bytes",
            model.bytes().len()
        );
        assert!(lowest >= least, "{name}: {lowest}");
        assert!((correlation - 0.8672).abs() <= away, "{name}: {correlation}");
    }
}
