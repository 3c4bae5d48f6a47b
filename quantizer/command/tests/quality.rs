//! What is said of a file's quality: verdicts, bits a weight, targets out of reach, peers, and
//! models of every kind beside their checkpoints.

mod common;

use std::path::{Path, PathBuf};

use kinglet::{Memory, Model};
use kinglet_evaluate::continued::{How, continued, drawn, greedy};
use kinglet_evaluate::size::Matrices;
use kinglet_fixtures::host::isa;
use kinglet_import::checkpoint::Checkpoint;
use kinglet_quantize::calibrate::{self, Passages};
use kinglet_quantize::{Options, QuantizeError, Target, quantize, reachable};
use kinglet_reference::{Reference, Sample};
use serde_json::Value;

use common::{bad, fixture, good, parsed, path};

const STORY: &str = "Once upon a time there was a little dog named Max. He liked to run in the \
                     park with his friend. \
    One day, Max saw a big red ball. He wanted to play with it. The girl smiled and gave him the \
    ball.\n";

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// A folder with files in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.at(name), text).unwrap();
        self.at(name)
    }
}

#[test]
fn quantize_ends_with_a_verdict() {
    let folder = Folder::new();
    let (file, text) = (folder.at("m.kinglet"), folder.text("text", &STORY.repeat(60)));
    let dir = fixture("storyteller");
    let made = |more: &[&str]| {
        let all =
            [&["quantize", path(&dir), "-o", path(&file), "--golden", "0"][..], more].concat();
        good(&all)
    };
    let int8 = parsed(&made(&["--json"]));
    let verdict = &int8["verdict"];
    assert_eq!(
        (&verdict["grade"], &verdict["kind"], &verdict["advice"]),
        (&"good".into(), &"tokens".into(), &Value::Null)
    );
    assert!(verdict["on"].as_str().unwrap().contains("generates"), "{verdict}");
    assert!(
        (1e-6..0.02).contains(&number(&verdict["mean_kl"]))
            && number(&verdict["top1_agreement"]) > 0.9
    );
    // The same texts, whatever is judged by them.
    assert_eq!(
        number(&verdict["mean_kl"]),
        number(&parsed(&made(&["--json"]))["verdict"]["mean_kl"])
    );
    let int4 =
        parsed(&made(&["--json", "--weights", "int4-uniform", "--embeddings", "int4-uniform"]));
    assert!(number(&int4["verdict"]["mean_kl"]) > number(&verdict["mean_kl"]));
    assert_eq!(int4["verdict"]["outputs"], verdict["outputs"]);
    // Nothing that was seen: the last tenth of the text.
    let calibrated = made(&["--calibrate", path(&text), "--calibration-tokens", "512"]);
    assert!(
        calibrated.contains("verdict: ") && calibrated.contains("held out of the calibration text"),
        "{calibrated}"
    );
    assert!(!made(&["--no-verdict"]).contains("verdict"));
    // A model that is poor is called that, with what would help.
    let few = ["--calibrate", path(&text), "--calibration-tokens", "512", "--prune", "blocks=5"];
    let pruned = made(&few);
    assert!(pruned.contains("verdict: poor") && pruned.contains("less --prune"), "{pruned}");
}

#[test]
fn models_of_other_kinds_are_judged_by_what_they_do() {
    let folder = Folder::new();
    let file = folder.at("m.kinglet");
    let quiet = good(&["quantize", path(&fixture("families/bert_mean")), "-o", path(&file)]);
    assert!(quiet.contains("verdict: none") && quiet.contains("kinglet eval"), "{quiet}");
    let ids = |i: u32| (0..12).map(|k| (i * 7 + k * 3) % 48 + 1).collect::<Vec<_>>();
    let many = serde_json::to_string(&(0..40).map(ids).collect::<Vec<_>>()).unwrap();
    let ids = folder.text("ids.json", &many);
    let said = good(&[
        "quantize",
        path(&fixture("families/bert_mean")),
        "-o",
        path(&file),
        "--calibrate",
        path(&ids),
    ]);
    assert!(said.contains("verdict: good: cosine with f32 "), "{said}");
}

#[test]
fn a_tenth_of_a_text_is_never_calibrated_on() {
    let folder = Folder::new();
    let numbered: String = (0..400).map(|i| format!("Story {i} of the dog: {STORY}")).collect();
    let text = folder.text("text", &numbered);
    let checkpoint = Checkpoint::open(fixture("storyteller")).unwrap();
    let how = Passages { tokens: usize::MAX, seed: 0 };
    let all = calibrate::sequences(&checkpoint, &text, how).unwrap();
    let split = calibrate::split(&checkpoint, &text, how, 2048).unwrap();
    assert_eq!(split.calibration, all[..all.len() - all.len() / 10]);
    assert!(all.ends_with(&split.held_out) && !split.held_out.is_empty());
    assert!(split.held_out.iter().all(|sample| !split.calibration.contains(sample)));
    let tokens: usize = split.held_out.iter().map(|sample| sample.source.tokens().len()).sum();
    assert!((1500..=2048).contains(&tokens), "{tokens}");
    // A text that is too short to spare a tenth spares none.
    let short = folder.text("short", &STORY.repeat(7));
    let split = calibrate::split(&checkpoint, &short, how, 2048).unwrap();
    assert!(split.held_out.is_empty() && !split.calibration.is_empty());
}

/// A file, the checkpoint it is of, and its record.
fn calibrated(target: Target, folder: &Folder) -> (Memory, kinglet_report::Record) {
    let checkpoint = Checkpoint::open(fixture("storyteller")).unwrap();
    let text = folder.text("text", &STORY.repeat(40));
    let how = Passages { tokens: 1024, seed: 0 };
    let options = Options {
        weights: kinglet::Format::Int4Codebook,
        calibration: calibrate::sequences(&checkpoint, &text, how).unwrap(),
        target: Some(target),
        golden: 0,
        ..Options::default()
    };
    let file = folder.at("m.kinglet");
    let summary = quantize(&checkpoint, &file, &options, &|_, _, _| ()).unwrap();
    (Memory::read(&file).unwrap(), summary.record)
}

#[test]
fn bits_mean_the_same_everywhere() {
    let folder = Folder::new();
    let (map, record) = calibrated(Target::Bits(6.0), &folder);
    let blocks = Matrices::of_blocks(&Model::open(&map).unwrap()).unwrap();
    assert!((5.5..=6.0).contains(&blocks.bits()), "{}", blocks.bits());
    let weights: f64 = record.tensors.iter().map(|t| (t.rows * t.cols) as f64).sum();
    let bits: f64 = record.tensors.iter().map(|t| t.bits * (t.rows * t.cols) as f64).sum();
    assert!((bits / weights - blocks.bits()).abs() < 1e-9, "{} {}", bits / weights, blocks.bits());
    let shown = parsed(&good(&["inspect", path(&folder.at("m.kinglet")), "--json"]));
    assert_eq!(number(&shown["bits_per_weight"]), blocks.bits());
    let all = number(&shown["weight_bytes"]) * 8.0 / number(&shown["weights"]);
    assert!((number(&shown["bits_of_all"]) - all).abs() < 1e-12 && all != blocks.bits());
}

#[test]
fn targets_out_of_reach_are_refused_at_once() {
    let folder = Folder::new();
    let checkpoint = Checkpoint::open(fixture("storyteller")).unwrap();
    let nearest = |target| {
        let options = Options {
            target: Some(target),
            weights: kinglet::Format::Int4Codebook,
            ..Options::default()
        };
        match reachable(&checkpoint, &options) {
            Err(QuantizeError::Target { nearest, .. }) => nearest,
            other => panic!("{other:?}"),
        }
    };
    let bytes = nearest(Target::Bytes(1000));
    let (map, _) = calibrated(Target::Bytes(bytes as u64), &folder);
    assert!(map.len() as f64 <= bytes && map.len() as f64 > 0.95 * bytes, "{} {bytes}", map.len());
    let bits = nearest(Target::Bits(2.0));
    let (map, _) = calibrated(Target::Bits(bits), &folder);
    let blocks = Matrices::of_blocks(&Model::open(&map).unwrap()).unwrap();
    assert!((blocks.bits() - bits).abs() < 1e-9, "{} {bits}", blocks.bits());
    // Not even the text is looked for.
    let file = folder.at("n.kinglet");
    let dir = fixture("storyteller");
    let small =
        ["quantize", path(&dir), "-o", path(&file), "--calibrate", "absent", "--size", "1k"];
    let said = bad(&small);
    assert!(said.contains("1000 bytes cannot be met") && said.contains("is the nearest"), "{said}");
    assert!(!folder.at("n.kinglet.work").exists());
}

/// The reference says the same, whoever drafts.
#[test]
fn the_draft_changes_nothing() {
    let checkpoint = Checkpoint::open(fixture("storyteller")).unwrap();
    let reference = Reference::new(&checkpoint).unwrap();
    let folder = Folder::new();
    let file = folder.at("m.kinglet");
    let options = Options { weights: kinglet::Format::Int4, golden: 0, ..Options::default() };
    quantize(&checkpoint, &file, &options, &|_, _, _| ()).unwrap();
    let map = Memory::read(&file).unwrap();
    let models =
        [Model::open(&kinglet_fixtures::STORYTELLER.0).unwrap(), Model::open(&map).unwrap()];
    type Choose = fn(usize, usize, &[f32]) -> u32;
    let chooses: [Choose; 2] = [greedy, |prompt, at, logits| drawn(3, prompt, at, logits)];
    for choose in chooses {
        let how = How { tokens: 24, budget: usize::MAX, ends: &|_| false, choose: &choose };
        let prompts = || vec![Sample::from(vec![1]), Sample::from(vec![1, 40, 41])];
        let say = |model| continued(model, isa(), &reference, prompts(), &how, &|_| ()).unwrap();
        let (first, second) = (say(&models[0]), say(&models[1]));
        for (a, b) in first.iter().zip(&second) {
            assert_eq!(a.reference, b.reference);
            assert!(a.whole && a.reference.len() == 24);
        }
        // Token by token, without a draft.
        let mut tokens = vec![1];
        for at in 0..24 {
            let logits = reference.logits(&tokens).unwrap();
            tokens.push(choose(0, at, &logits[logits.len() - checkpoint.architecture().vocab()..]));
        }
        assert_eq!(tokens[1..], first[0].reference);
    }
}

#[test]
#[cfg(unix)]
fn another_program_is_measured_beside() {
    let folder = Folder::new();
    let text = folder.text("text", &STORY.repeat(2));
    let dir = fixture("storyteller");
    let eval = ["eval", "storyteller", "--text", path(&text), "--reference", path(&dir), "--json"];
    let with = |command| [&eval[..], &["--peer", command]].concat();
    // All tokens are alike to it.
    let even = "echo even; while read -r line; do set -- $line; head -c $(($# * 1024 * 4)) \
                /dev/zero; done";
    let found = parsed(&good(&with(even)));
    let peer = &found["against"][0];
    assert_eq!((peer["file"].as_str(), &peer["tokens"]), (Some("even"), &found["tokens"]));
    assert!((number(&peer["perplexity"]) - 1024.0).abs() < 1e-6, "{peer}");
    assert_eq!(number(&peer["reference_perplexity"]), number(&found["reference_perplexity"]));
    assert!(number(&peer["mean_kl"]) > number(&found["mean_kl"]));
    assert!(bad(&with("exit 3")).contains("ended before it said its name (exit status: 3)"));
    assert!(
        bad(&with("echo short; read -r line; echo few"))
            .contains("short did not give 1024 logits for each of")
    );
    let nan = "echo nan; while read -r line; do set -- $line; head -c $(($# * 1024 * 4)) /dev/zero \
               | tr '\\0' '\\377'; done";
    assert!(bad(&with(nan)).contains("not numbers"));
}

#[test]
fn run_answers_in_token_numbers() {
    let run = ["run", "storyteller", "1,40,41", "--ids", "-t", "0", "-n", "5", "--json"];
    let answer = parsed(&good(&run));
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    assert_eq!((ids(&answer["prompt"]), ids(&answer["tokens"]).len()), (vec![1, 40, 41], 5));
    assert_eq!((&answer["ended"], answer["text"].is_string()), (&Value::Bool(false), true));
}

fn quantized(folder: &Folder, name: &str) -> PathBuf {
    let file = folder.at(&name.replace('/', "-")).with_extension("kinglet");
    good(&["quantize", path(&fixture(name)), "-o", path(&file), "--no-verdict"]);
    file
}

/// How near a file comes to the fixture that it was made from.
fn evaluated(file: &str, name: &str, text: &Path, more: &[&str]) -> Value {
    let dir = fixture(name);
    let all = ["eval", file, "--text", path(text), "--reference", path(&dir), "--json"];
    parsed(&good(&[&all[..], more].concat()))
}

#[test]
fn encoders_with_decoders_are_evaluated() {
    let folder = Folder::new();
    // With the checkpoint's own targets, and with others.
    let words = folder.text("words", "hello\ntravel\nmouse\n");
    let alone = evaluated("pronouncer", "pronouncer", &words, &[]);
    assert_eq!((&alone["kind"], &alone["samples"]), (&"tokens".into(), &3.into()));
    assert!(number(&alone["mean_kl"]) < 0.05 && number(&alone["top1_agreement"]) > 0.9, "{alone}");
    assert!(number(&alone["outputs"]) > 9.0);
    let pairs = folder.text("pairs", "hello\tHH AH L OW\nsun\tS AH N\n");
    let given = evaluated("pronouncer", "pronouncer", &pairs, &[]);
    assert!(number(&given["mean_kl"]) < 0.2 && number(&given["outputs"]) >= 7.0, "{given}");
    let pictures = folder.text("pictures", path(&fixture("namer/images/strawberry.png")));
    let named = evaluated("namer", "namer", &pictures, &["--against", "namer"]);
    assert!(
        number(&named["mean_kl"]) < 0.1 && named["against"][0]["mean_kl"] == named["mean_kl"],
        "{named}"
    );

    assert!(bad(&["eval", "pronouncer", "--text", path(&words)]).contains("--reference"));
    let storyteller = fixture("storyteller");
    let wrong =
        bad(&["eval", "pronouncer", "--text", path(&words), "--reference", path(&storyteller)]);
    assert!(wrong.contains("kinglet: "), "{wrong}");
}

#[test]
fn classifiers_and_embedders_are_evaluated() {
    let folder = Folder::new();
    let name = "families/vit_classifier";
    let pictures = folder.text("pictures", path(&fixture("namer/images/strawberry.png")));
    let labels = evaluated(path(&quantized(&folder, name)), name, &pictures, &[]);
    assert_eq!((&labels["kind"], &labels["outputs"]), (&"labels".into(), &1.into()));
    assert!(number(&labels["mean_kl"]) < 0.1, "{labels}");
    let name = "families/bert_mean";
    let ids = folder.text("ids", "1,2,3\n4,5,6,7\n9,8\n");
    let vectors = evaluated(path(&quantized(&folder, name)), name, &ids, &["--ids"]);
    assert_eq!((&vectors["kind"], &vectors["outputs"]), (&"vectors".into(), &3.into()));
    let (mean, least) = (number(&vectors["mean_cosine"]), number(&vectors["least_cosine"]));
    assert!(0.98 < least && least <= mean && mean <= 1.0, "{vectors}");
}

#[test]
fn every_family_is_evaluated() {
    let folder = Folder::new();
    let ids = folder.text("ids", "1,2,3\n4,5,6,7\n9,8\n");
    for name in ["bart", "marian", "t5", "mbart", "opennmt_pre", "bert_classifier", "bert_types"] {
        let name = format!("families/{name}");
        let found = evaluated(path(&quantized(&folder, &name)), &name, &ids, &["--ids"]);
        assert!(number(&found["outputs"]) >= 3.0, "{name}: {found}");
        let near = found["mean_kl"].as_f64().unwrap_or_else(|| 1.0 - number(&found["mean_cosine"]));
        assert!(near < 0.05, "{name}: {found}");
    }
}

#[test]
fn reports_show_how_near_a_model_is_to_f32() {
    let folder = Folder::new();
    let words = folder.text("words", "hello\ntravel\nmouse\n");
    let (page, dir) = (folder.at("page.html"), fixture("pronouncer"));
    let what = ["report", "pronouncer", "--text", path(&words)];
    good(&[&what[..], &["--reference", path(&dir), "-o", path(&page)]].concat());
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("Agreement with f32") && html.contains("3 inputs of words"), "{html}");
}
