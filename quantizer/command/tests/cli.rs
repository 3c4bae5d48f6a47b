//! The command as people meet it: it works without a file, and what goes wrong is said in a
//! sentence.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{bad, fixture, good, parsed, path};

fn storyteller() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/storyteller")
}

#[test]
fn the_built_in_model_tells_a_story() {
    let story = good(&["run", "--seed", "1", "-n", "40"]);
    assert!(
        story.starts_with("Once upon a time") && story.split_whitespace().count() > 10,
        "{story}"
    );
    assert_eq!(story, good(&["run", "--seed", "1", "-n", "40"]));
    assert_eq!(
        story,
        good(&[
            "run",
            "Once upon a time",
            "--seed",
            "1",
            "-n",
            "40",
            "--threads",
            "2",
            "--prefill",
            "1"
        ])
    );
    assert_ne!(story, good(&["run", "--seed", "2", "-n", "40"]));
    assert!(good(&["run", "The cat", "-t", "0", "-n", "5"]).starts_with("The cat"));
}

#[test]
fn inspect_check_and_bench_agree_on_the_built_in_model() {
    let json: serde_json::Value =
        serde_json::from_str(&good(&["inspect", "--json", "--verify", "--context", "128"]))
            .unwrap();
    let hash = json["golden"][0]["hash"].as_str().unwrap();
    assert!(good(&["check"]).contains(&format!("{hash} ok")));
    // A peer that needs two seconds for everything.
    let peer = "echo sloth; while read -r request; do echo 2; done";
    let bench = [
        "bench",
        "--json",
        "--prompt=16",
        "--decode=4",
        "--depth=0,9",
        "--repeat=1",
        "--prefill=8",
        "--compare",
    ];
    let bench: serde_json::Value =
        serde_json::from_str(&good(&[&bench[..], &[peer]].concat())).unwrap();
    assert_eq!(bench["bytes_read_per_token"], json["bytes_read_per_token"]);
    assert_eq!((&bench["peer"], &bench["works"][2]["depth"]), (&"sloth".into(), &9.into()));
    for (work, peer) in [(0, 8.0), (1, 2.0), (2, 2.0)] {
        let work = &bench["works"][work];
        let (own, ratio) =
            (work["tokens_per_second"].as_f64().unwrap(), work["ratio"].as_f64().unwrap());
        assert_eq!(work["peer_tokens_per_second"], peer);
        assert!(own > 0.0 && (own / peer - ratio).abs() < 1e-9 * ratio, "{work}");
    }
    assert!(bad(&["bench", "--compare", "exit 3"]).contains("ended (exit status: 3)"));
    assert!(bad(&["bench", "--compare", "echo a; read -r x; echo soon"]).contains("'soon'"));
    let text = good(&["inspect", "--context", "128"]);
    assert!(text.contains(&format!("{} bytes exactly", json["plan"]["total"])), "{text}");
}

#[test]
fn quantize_makes_a_file_that_evaluates() {
    let temporary = tempfile::tempdir().unwrap();
    let (file, text) = (temporary.path().join("m.kinglet"), temporary.path().join("text"));
    std::fs::write(
        &text,
        "Once upon a time there was a little dog. He liked to run in the park with his friend.\n"
            .repeat(3),
    )
    .unwrap();
    good(&[
        "quantize",
        path(&storyteller()),
        "-o",
        path(&file),
        "--weights",
        "int4",
        "--metadata",
        "made=here",
    ]);
    assert!(good(&["inspect", path(&file)]).contains("made: here"));
    let dir = storyteller();
    let eval = ["eval", path(&file), "--text", path(&text), "--reference", path(&dir), "--json"];
    let eval: serde_json::Value = serde_json::from_str(&good(&eval)).unwrap();
    let (mine, reference) =
        (eval["perplexity"].as_f64().unwrap(), eval["reference_perplexity"].as_f64().unwrap());
    assert!((mine / reference - 1.0).abs() < 0.3, "{mine} {reference}");
    assert!((0.0..0.5).contains(&eval["mean_kl"].as_f64().unwrap()));
    assert_eq!(eval["hidden"]["states"].as_array().unwrap().len(), 9);
    // Beside the built-in model, in the same run.
    let other = storyteller().join("storyteller.kinglet");
    let both = [
        "eval",
        path(&file),
        "--text",
        path(&text),
        "--reference",
        path(&dir),
        "--against",
        path(&other),
    ];
    assert!(good(&both).matches("same top token").count() == 3);
    let both: serde_json::Value =
        serde_json::from_str(&good(&[&both[..], &["--json"]].concat())).unwrap();
    assert_eq!((&both["perplexity"], &both["window"]), (&eval["perplexity"], &255.into()));
    let other = &both["against"][0];
    assert!(other["mean_kl"].as_f64() < both["mean_kl"].as_f64());
    assert_eq!(other["from_first"]["reference_perplexity"], both["perplexity"]);
    assert_eq!(
        std::fs::read_dir(temporary.path()).unwrap().count(),
        2,
        "something was left behind"
    );
}

#[test]
fn report_writes_a_page() {
    let temporary = tempfile::tempdir().unwrap();
    let there = |name: &str| temporary.path().join(name);
    let (text, page, again) = (there("text"), there("page.html"), there("again.html"));
    std::fs::write(
        &text,
        "Once upon a time there was a little dog. He liked to run in the park with his friend.\n"
            .repeat(12),
    )
    .unwrap();
    let (dir, file) = (storyteller(), storyteller().join("storyteller.kinglet"));
    let on = [
        "report",
        path(&file),
        "--text",
        path(&text),
        "--reference",
        path(&dir),
        "--continuation",
        "12",
    ];
    let json = good(&[&on[..], &["--json", "-o", path(&page), "--repeat", "1"]].concat());
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["prompts"].as_array().unwrap().len(), 10);
    assert_eq!(report["quality"][0]["hidden"]["states"].as_array().unwrap().len(), 9);
    assert!(report["speed"]["tokens_per_second"].as_f64().unwrap() > 0.0);
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.contains("<h1>storyteller</h1>"), "{html}");
    // The page is a function of the JSON.
    std::fs::write(there("report.json"), &json).unwrap();
    good(&["report", path(&there("report.json")), "-o", path(&again)]);
    assert_eq!(html, std::fs::read_to_string(&again).unwrap());
    assert_eq!(
        std::fs::read_dir(temporary.path()).unwrap().count(),
        4,
        "something was left behind"
    );

    assert!(bad(&["report", path(&file)]).contains("--text"));
    assert!(
        bad(&["report", path(&text), "--text", path(&text), "--reference", path(&dir)])
            .contains("not a .kinglet file")
    );
    let nowhere = there("absent/page.html");
    assert!(
        bad(&["report", path(&there("report.json")), "-o", path(&nowhere)])
            .contains("cannot write")
    );
}

#[test]
fn what_goes_wrong_is_said() {
    let temporary = tempfile::tempdir().unwrap();
    let there = |name: &str, bytes: &[u8]| {
        let file = temporary.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file
    };
    let (empty, foreign) = (there("empty.kinglet", b""), there("foreign.kinglet", b"GGUF...."));
    let whole = std::fs::read(storyteller().join("storyteller.kinglet")).unwrap();
    let cut = there("cut.kinglet", &whole[..whole.len() / 2]);
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let flipped = there("flipped.kinglet", &flipped);
    let target = temporary.path().join("out.kinglet");

    assert!(bad(&["run", "absent.kinglet"]).contains("cannot read absent.kinglet"));
    for command in ["run", "inspect", "check", "bench"] {
        assert!(bad(&[command, path(&empty)]).contains("not a .kinglet file"), "{command}");
        assert!(bad(&[command, path(&foreign)]).contains("kinglet quantize"), "{command}");
        assert!(bad(&[command, path(&cut)]).contains("ends early"), "{command}");
    }
    assert!(bad(&["inspect", path(&flipped), "--verify"]).contains("checksum"));
    assert!(bad(&["check", path(&flipped)]).contains("checksum"));
    assert!(bad(&["run", "--context", "3"]).contains("shorten the prompt"));
    assert!(bad(&["run", "--context", "100000"]).contains("positions the model was made for"));
    assert!(bad(&["run", &"word ".repeat(2000)]).contains("shorten the prompt"));
    assert!(bad(&["bench", "--prompt", "100000"]).contains("choose a smaller"));
    assert!(bad(&["quantize", "absent", "-o", path(&target)]).contains("config.json"));
    assert!(
        bad(&["quantize", path(&storyteller()), "-o", "absent/out.kinglet"])
            .contains("absent/out.kinglet")
    );
    assert!(
        bad(&["quantize", path(&storyteller()), "-o", path(&target), "--metadata", "x"])
            .contains("KEY=VALUE")
    );
    assert!(!target.exists());
    let binary = there("binary", &[0xFF, 0xFE, 0x00]);
    let file = storyteller().join("storyteller.kinglet");
    assert!(bad(&["eval", path(&file), "--text", path(&binary)]).contains("UTF-8"));
    assert!(bad(&["eval", path(&file), "--text", path(&empty)]).contains("at least 2"));
}

/// The answers of a fixture's reference in f32 that rounding cannot turn into others.
fn sure(name: &str, margin: f64) -> Vec<serde_json::Value> {
    let golden = parsed(&std::fs::read_to_string(fixture(name).join("golden.json")).unwrap());
    let all = golden["greedy"].as_array().unwrap();
    all.iter().filter(|answer| answer["min_margin"].as_f64().unwrap() > margin).cloned().collect()
}

#[test]
fn words_are_pronounced_without_a_file() {
    let answers = sure("pronouncer", 1.0);
    assert!(answers.len() > 10);
    let words: Vec<&str> = answers.iter().map(|answer| answer["word"].as_str().unwrap()).collect();
    let wanted: Vec<&str> = answers.iter().map(|answer| answer["text"].as_str().unwrap()).collect();
    let said = good(&[&["translate"], &words[..]].concat());
    assert_eq!(said.lines().collect::<Vec<_>>(), wanted);
    let threads = ["translate", "--threads", "2", "-m", "pronouncer"];
    assert_eq!(said, good(&[&threads, &words[..]].concat()));
    // A wide search finds nothing less probable than a narrow one.
    let score = |beams| {
        let answer =
            parsed(&good(&["translate", "hello", "--beams", beams, "--penalty", "0", "--json"]));
        answer["answers"][0]["score"].as_f64().unwrap()
    };
    assert!(score("8") >= score("2") - 1e-6);
    assert!(good(&["translate", "hello", "-n", "2"]).split_whitespace().count() == 2);
    let drawn = ["translate", "hello", "-t", "1.5", "--seed", "3"];
    assert_eq!(good(&drawn), good(&drawn));
    let memory = &parsed(&good(&["translate", "hello", "--json"]))["memory"];
    let bytes = |key: &str| memory[key].as_u64().unwrap();
    assert_eq!(bytes("total"), bytes("self_cache") + bytes("cross_cache") + bytes("scratch"));
}

#[test]
fn pictures_are_named_without_a_file() {
    let answers = sure("namer", 0.5);
    let named: Vec<_> = answers.iter().filter(|answer| answer["file"].is_string()).collect();
    assert!(named.len() > 3);
    let files: Vec<PathBuf> = named
        .iter()
        .map(|answer| fixture("namer").join(answer["file"].as_str().unwrap()))
        .collect();
    let files: Vec<&str> = files.iter().map(|file| path(file)).collect();
    let said = good(&[&["caption"], &files[..]].concat());
    let wanted: Vec<&str> = named.iter().map(|answer| answer["text"].as_str().unwrap()).collect();
    assert_eq!(said.lines().collect::<Vec<_>>(), wanted);
    for name in ["pronouncer", "namer"] {
        assert!(good(&["check", name]).contains(" ok ("), "{name}");
    }
}

#[test]
fn a_command_that_is_not_for_the_model_names_the_other() {
    let (picture, namer) = (fixture("namer/images/strawberry.png"), fixture("namer/namer.kinglet"));
    let said = |args: &[&str], needed: &[&str]| {
        let said = bad(args);
        assert!(needed.iter().all(|part| said.contains(part)), "{args:?}: {said}");
    };
    said(&["run", path(&namer), "hello"], &["kinglet caption"]);
    said(
        &["run", path(&fixture("pronouncer/pronouncer.kinglet")), "hello"],
        &["kinglet translate"],
    );
    said(&["translate", "-m", "storyteller", "hello"], &["kinglet run"]);
    said(&["translate", "-m", "namer", "hello"], &["kinglet caption"]);
    said(&["caption", "-m", "pronouncer", path(&picture)], &["kinglet translate"]);
    said(&["embed", "-m", "storyteller", "hello"], &["continues texts", "kinglet run"]);
    said(&["classify", "-m", "storyteller", "hello"], &["kinglet run"]);
    said(&["caption", "hello"], &["reads pictures", "no file hello"]);
    said(&["translate", path(&picture)], &["reads text"]);
    said(&["translate", &"a".repeat(2000)], &["shorten"]);
    said(&["translate", "hello", "--beams", "99"], &["1 to 16"]);
    said(&["translate", "hello", "--beams", "2", "-t", "1"], &["choose one"]);
    let temporary = tempfile::tempdir().unwrap();
    let broken = temporary.path().join("broken.png");
    std::fs::write(&broken, &std::fs::read(&picture).unwrap()[..400]).unwrap();
    said(&["caption", path(&broken)], &["damaged or cut short"]);
}

#[test]
fn pictures_get_labels_and_texts_get_vectors() {
    let temporary = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let file = temporary.path().join(name.replace('/', "-")).with_extension("kinglet");
        good(&["quantize", path(&fixture(name)), "-o", path(&file)]);
        file
    };
    let picture = fixture("namer/images/strawberry.png");
    let classifier = make("families/vit_classifier");
    let answers = parsed(&good(&["classify", "-m", path(&classifier), path(&picture), "--json"]));
    let labels = answers[0]["labels"].as_array().unwrap();
    let sum: f64 = labels.iter().map(|label| label["probability"].as_f64().unwrap()).sum();
    assert!(!labels.is_empty() && sum <= 1.0 + 1e-9 && labels[0]["label"].is_string(), "{answers}");
    assert_eq!(
        good(&["classify", "-m", path(&classifier), path(&picture), "--top", "1"]).lines().count(),
        1
    );
    assert!(bad(&["embed", "-m", path(&classifier), path(&picture)]).contains("kinglet classify"));

    let encoder = make("families/bert_mean");
    let similar = [
        "embed",
        "-m",
        path(&encoder),
        "--ids",
        "1,2,3",
        "4,5,6,7",
        "1,2,3",
        "--similarity",
        "--json",
    ];
    let matrix = &parsed(&good(&similar))["similarity"];
    let cosine = |a: usize, b: usize| matrix[a][b].as_f64().unwrap();
    assert!((cosine(0, 2) - 1.0).abs() < 1e-6 && cosine(0, 1) < 0.9999, "{matrix}");
    assert!(bad(&["embed", "-m", path(&encoder), "hello"]).contains("--ids"));
    assert!(bad(&["run", path(&encoder), "hello"]).contains("kinglet embed"));
    assert!(bad(&["classify", "-m", path(&encoder), "hello"]).contains("kinglet embed"));
    assert!(bad(&["embed", "-m", path(&encoder), "--ids", "1,x"]).contains("1,2,3"));
}

#[test]
fn a_model_ends_where_it_is_cut() {
    let temporary = tempfile::tempdir().unwrap();
    let there = |name: &str| temporary.path().join(name);
    let (half, pairs) = (there("half.kinglet"), there("pairs.tsv"));
    std::fs::write(&pairs, "3\ttravel\ttravels\n2\tcat\tcut\n1\thouse\tmouse\n0\tsun\tdog\n")
        .unwrap();
    for (model, blocks) in [("pronouncer", "4"), ("storyteller", "5")] {
        let cut = [
            "cut",
            model,
            "--after",
            blocks,
            "-o",
            path(&half),
            "--normalize",
            "--score",
            path(&pairs),
        ];
        let said = good(&cut);
        assert!(
            said.contains("blocks") && said.contains("before") && said.contains("Spearman"),
            "{said}"
        );
        let vector = good(&["embed", "-m", path(&half), "travel"]);
        let length: f64 =
            vector.split_whitespace().map(|x| x.parse::<f64>().unwrap().powi(2)).sum();
        assert!((length - 1.0).abs() < 1e-3, "{vector}");
        assert!(
            good(&["cut", model, "--after", "all", "--score", path(&pairs)])
                .matches("Spearman")
                .count()
                > 4
        );
        good(&["inspect", path(&half), "--verify"]);
    }
    assert!(
        good(&["cut", "pronouncer", "--after", "4", "-o", path(&half)]).contains("4 of 6 blocks")
    );
    good(&["check", path(&half)]);
    assert!(bad(&["cut", "pronouncer", "--after", "7", "-o", path(&half)]).contains("1 to 6"));
    assert!(bad(&["cut", "pronouncer", "--after", "2"]).contains("-o FILE"));
    assert_eq!(
        std::fs::read_dir(temporary.path()).unwrap().count(),
        2,
        "something was left behind"
    );
}

#[test]
fn hidden_states_have_shapes() {
    let temporary = tempfile::tempdir().unwrap();
    let lines = temporary.path().join("lines");
    std::fs::write(&lines, "travel\nhouse\n\ncat\nstrawberry\nhello\n").unwrap();
    let picture = fixture("namer/images/strawberry.png");
    let cases = [
        ("storyteller", "Tom had a red ball.", 9, 1),
        ("pronouncer", path(&lines), 14, 5),
        ("namer", path(&picture), 21, 1),
    ];
    for (model, input, states, texts) in cases {
        let rows = parsed(&good(&["inspect", model, "--activations", input, "--json"]));
        let rows = rows.as_array().unwrap();
        assert_eq!(rows.len(), states, "{model}");
        for row in rows {
            let number = |key: &str| row[key].as_f64().unwrap();
            assert_eq!(row["texts"], texts, "{row}");
            assert!((0.0..=1.0 + 1e-9).contains(&number("normalized_entropy")), "{row}");
            assert!(
                number("effective_rank") >= 1.0 - 1e-9
                    && row["bimodality"].is_number() == (texts > 3),
                "{row}"
            );
        }
        assert_eq!(good(&["inspect", model, "--activations", input]).lines().count(), states + 1);
    }
    assert!(bad(&["inspect", "namer", "--activations", "hello"]).contains("reads pictures"));
}

#[test]
fn an_absent_instruction_set_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_kinglet"))
        .args(["run", "-n", "1"])
        .env("KINGLET_ISA", "abacus")
        .output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(said.contains("abacus") && said.contains("scalar"), "{said}");
}
