//! The pronouncer and the namer, rounded and run: their golden answers, and how many held-out words
//! and pictures they get right.

use std::path::{Path, PathBuf};

use kinglet::Memory;
use kinglet::tokenizer::{Detokenizer, Tokenizer};
use kinglet::{BeamSearch, Format, Model, Options, Plan, Session, Source, argmax};
use kinglet_import::checkpoint::Checkpoint;
use kinglet_media::{PictureSettings, picture};
use kinglet_quantize::quantize;
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn rounded(name: &str, weights: Format) -> (Memory, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.kinglet");
    let options = kinglet_quantize::Options { weights, golden: 0, ..Default::default() };
    quantize(&Checkpoint::open(fixture(name)).unwrap(), &path, &options, &|_, _, _| {}).unwrap();
    (Memory::read(&path).unwrap(), directory)
}

fn golden(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name).join("golden.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The most probable target over the source that was read, one token after the other; its end is
/// left out.
fn greedy(session: &mut Session<'_, '_>, start: u32, ends: &[u32]) -> Vec<u32> {
    session.rewind(0).unwrap();
    let (mut target, mut token) = (vec![], start);
    while session.position() < session.options().context {
        token = argmax(session.feed(&[token]).unwrap());
        if ends.contains(&token) {
            break;
        }
        target.push(token);
    }
    target
}

fn text(tokenizer: &Tokenizer<'_>, tokens: &[u32]) -> String {
    let mut text = Detokenizer::new(tokenizer);
    let mut all = String::new();
    for &token in tokens {
        text.push(tokenizer, token).for_each(|piece| all.push_str(piece));
    }
    all.push_str(text.finish().unwrap_or(""));
    all.trim().to_owned()
}

/// Insertions, deletions and replacements that turn one into the other.
fn edits(a: &[&str], b: &[&str]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let here = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = here;
        }
    }
    row[b.len()]
}

#[test]
fn words_are_pronounced() {
    let heldout = std::fs::read_to_string(fixture("pronouncer/heldout.tsv")).unwrap();
    let golden = golden("pronouncer");
    // Percent of the phonemes, in f32 8.82.
    for (format, most, least_same) in
        [(Format::Int8Grouped, 9.3, 46), (Format::Int4Codebook, 14.0, 20)]
    {
        let (map, _directory) = rounded("pronouncer", format);
        let model = Model::open(&map).unwrap();
        let tokenizer = model.tokenizer().unwrap().unwrap();
        let options = Options { context: 40, source: 40, ..Options::DECODE };
        let plan = Plan::new(&model, options).unwrap();
        let mut memory = Memory::new(plan.bytes()).unwrap();
        let mut session = Session::new(&model, options, memory.bytes()).unwrap();
        let mut pronounce = |tokens: &[u32]| {
            session.encode(Source::Tokens(tokens)).unwrap();
            greedy(&mut session, model.start().unwrap(), &[1])
        };
        let mut same = 0;
        for item in golden["greedy"].as_array().unwrap() {
            let (found, mut want) =
                (pronounce(&ids(&item["input_ids"])), ids(&item["generated_ids"]));
            want.pop();
            same += usize::from(found == want);
            let margin = item["min_margin"].as_f64().unwrap();
            let near = if format == Format::Int8Grouped { 0.35 } else { f64::INFINITY };
            assert!(
                found == want || margin < near,
                "{format:?} {}: {found:?}, margin {margin}",
                item["word"]
            );
        }
        let (mut wrong, mut all) = (0, 0);
        for line in heldout.lines() {
            let (word, pronunciations) = line.split_once('\t').unwrap();
            let (mut scratch, mut tokens) = ([0; 4096], [0; 64]);
            let count = tokenizer.encode(word, true, &mut scratch, &mut tokens).unwrap();
            let found = text(&tokenizer, &pronounce(&tokens[..count]));
            let found: Vec<&str> = found.split_whitespace().collect();
            let each =
                pronunciations.split(['\t', '|']).map(|p| p.split_whitespace().collect::<Vec<_>>());
            let nearest =
                each.map(|want| (edits(&found, &want), want.len())).min_by_key(|(edits, _)| *edits);
            let (edits, phonemes) = nearest.unwrap();
            wrong += edits;
            all += phonemes;
        }
        let rate = 100.0 * wrong as f64 / all as f64;
        println!(
            "pronouncer {format:?}: {rate:.2}% of phonemes wrong (8.82 in f32), {same} of 48 \
             golden words, {} bytes, arena {} (self {}, cross {}, scratch {})",
            model.bytes().len(),
            plan.bytes(),
            plan.self_cache(),
            plan.cross_cache(),
            plan.scratch()
        );
        assert!(rate < most && same >= least_same, "{format:?} {rate} {same}");
    }
}

#[test]
fn a_beam_finds_what_is_at_least_as_probable() {
    let (map, _directory) = rounded("pronouncer", Format::Int8Grouped);
    let model = Model::open(&map).unwrap();
    let golden = golden("pronouncer");
    let options = |targets| Options { context: 40, source: 40, targets, ..Options::DECODE };
    let mut memory = Memory::new(Plan::new(&model, options(4)).unwrap().bytes()).unwrap();
    let mut session = Session::new(&model, options(4), memory.bytes()).unwrap();
    let mut history = [0; BeamSearch::words(4, 40)];
    let mut better = 0;
    for item in golden["greedy"].as_array().unwrap() {
        session.encode(Source::Tokens(&ids(&item["input_ids"]))).unwrap();
        let mut scores = vec![];
        for width in [1, 4] {
            let mut search = BeamSearch::new(width, 0.0, &[1], &mut history);
            let found = search.run(&mut session, &[model.start().unwrap()]).unwrap();
            assert!((1..=width).contains(&found));
            let mut target = [0; 40];
            let (count, score) = search.target(0, &mut target).unwrap();
            if width == 1 {
                assert_eq!(
                    target[..count],
                    greedy(&mut session, model.start().unwrap(), &[1]),
                    "{}",
                    item["word"]
                );
            }
            scores.push(score);
        }
        assert!(scores[1] >= scores[0] - 1e-4, "{}: {scores:?}", item["word"]);
        better += usize::from(scores[1] > scores[0] + 1e-4);
    }
    println!("four beams found something more probable than one for {better} of 48 words");
}

#[test]
fn pictures_are_named() {
    let golden = golden("namer");
    let items = golden["greedy"].as_array().unwrap();
    for format in [Format::Int8Grouped, Format::Int4Codebook] {
        let (map, _directory) = rounded("namer", format);
        let model = Model::open(&map).unwrap();
        let tokenizer = model.target_tokenizer().unwrap().unwrap();
        let options = Options::of(&model).unwrap();
        let plan = Plan::new(&model, options).unwrap();
        let mut memory = Memory::new(plan.bytes()).unwrap();
        let mut session = Session::new(&model, options, memory.bytes()).unwrap();
        let settings: PictureSettings = "stretch bicubic 72x72".parse().unwrap();
        let mut same = 0;
        let named: Vec<&Value> = items.iter().filter(|item| item["file"].is_string()).collect();
        for item in &named {
            let pixels =
                picture(&fixture("namer").join(item["file"].as_str().unwrap()), &settings).unwrap();
            session.encode(Source::Pixels(&pixels)).unwrap();
            let found = greedy(&mut session, model.start().unwrap(), &[2]);
            let mut want = ids(&item["generated_ids"]);
            want.pop();
            let found_text = text(&tokenizer, &found);
            println!(
                "namer {format:?}: {} is called {found_text:?}, in f32 {}",
                item["name"], item["text"]
            );
            same += usize::from(found == want);
            let margin = item["min_margin"].as_f64().unwrap();
            assert!(
                found == want || format != Format::Int8Grouped || margin < 0.7,
                "{}: margin {margin}",
                item["name"]
            );
            assert!(found != want || found_text == item["text"].as_str().unwrap(), "{found_text}");
        }
        println!(
            "namer {format:?}: {same} of {} as in f32, {} bytes, arena {} (self {}, cross {}, \
             scratch {})",
            named.len(),
            model.bytes().len(),
            plan.bytes(),
            plan.self_cache(),
            plan.cross_cache(),
            plan.scratch()
        );
        assert!(format != Format::Int8Grouped || same + 1 >= named.len());
    }
}
