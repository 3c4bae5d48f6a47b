//! The command as people meet it: it works without a file, and what goes wrong is said in a sentence.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn kinglet(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kinglet")).args(args).output().unwrap()
}

fn good(args: &[&str]) -> String {
    let output = kinglet(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs what must fail and returns what was said.
fn bad(args: &[&str]) -> String {
    let output = kinglet(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    assert!(said.starts_with("kinglet: ") && !said.contains("panicked"), "{said}");
    said
}

fn storyteller() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/storyteller")
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_built_in_model_tells_a_story() {
    let story = good(&["run", "--seed", "1", "-n", "40"]);
    assert!(story.starts_with("Once upon a time") && story.split_whitespace().count() > 10, "{story}");
    assert_eq!(story, good(&["run", "--seed", "1", "-n", "40"]));
    assert_eq!(
        story,
        good(&["run", "Once upon a time", "--seed", "1", "-n", "40", "--threads", "2", "--prefill", "1"])
    );
    assert_ne!(story, good(&["run", "--seed", "2", "-n", "40"]));
    assert!(good(&["run", "The cat", "-t", "0", "-n", "5"]).starts_with("The cat"));
}

#[test]
fn inspect_check_and_bench_agree_on_the_built_in_model() {
    let json: serde_json::Value =
        serde_json::from_str(&good(&["inspect", "--json", "--verify", "--context", "128"])).unwrap();
    let hash = json["golden"][0]["hash"].as_str().unwrap();
    assert!(good(&["check"]).contains(&format!("{hash} ok")));
    // A peer that needs two seconds for everything.
    let peer = "echo sloth; while read -r request; do echo 2; done";
    let bench =
        ["bench", "--json", "--prompt=16", "--decode=4", "--depth=0,9", "--repeat=1", "--prefill=8", "--compare"];
    let bench: serde_json::Value = serde_json::from_str(&good(&[&bench[..], &[peer]].concat())).unwrap();
    assert_eq!(bench["bytes_read_per_token"], json["bytes_read_per_token"]);
    assert_eq!((&bench["peer"], &bench["works"][2]["depth"]), (&"sloth".into(), &9.into()));
    for (work, peer) in [(0, 8.0), (1, 2.0), (2, 2.0)] {
        let work = &bench["works"][work];
        let (own, ratio) = (work["tokens_per_second"].as_f64().unwrap(), work["ratio"].as_f64().unwrap());
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
        "Once upon a time there was a little dog. He liked to run in the park with his friend.\n".repeat(3),
    )
    .unwrap();
    good(&["quantize", path(&storyteller()), "-o", path(&file), "--weights", "int4", "--metadata", "made=here"]);
    assert!(good(&["inspect", path(&file)]).contains("made: here"));
    let dir = storyteller();
    let eval = ["eval", path(&file), "--text", path(&text), "--reference", path(&dir), "--json"];
    let eval: serde_json::Value = serde_json::from_str(&good(&eval)).unwrap();
    let (mine, reference) = (eval["perplexity"].as_f64().unwrap(), eval["reference_perplexity"].as_f64().unwrap());
    assert!((mine / reference - 1.0).abs() < 0.3, "{mine} {reference}");
    assert!((0.0..0.5).contains(&eval["mean_kl"].as_f64().unwrap()));
    assert_eq!(eval["hidden"]["states"].as_array().unwrap().len(), 9);
    // Beside the built-in model, in the same run.
    let other = storyteller().join("storyteller.kinglet");
    let both = ["eval", path(&file), "--text", path(&text), "--reference", path(&dir), "--against", path(&other)];
    assert!(good(&both).matches("same top token").count() == 3);
    let both: serde_json::Value = serde_json::from_str(&good(&[&both[..], &["--json"]].concat())).unwrap();
    assert_eq!((&both["perplexity"], &both["window"]), (&eval["perplexity"], &255.into()));
    let other = &both["against"][0];
    assert!(other["mean_kl"].as_f64() < both["mean_kl"].as_f64());
    assert_eq!(other["from_first"]["reference_perplexity"], both["perplexity"]);
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 2, "something was left behind");
}

#[test]
fn report_writes_a_page() {
    let temporary = tempfile::tempdir().unwrap();
    let there = |name: &str| temporary.path().join(name);
    let (text, page, again) = (there("text"), there("page.html"), there("again.html"));
    std::fs::write(
        &text,
        "Once upon a time there was a little dog. He liked to run in the park with his friend.\n".repeat(12),
    )
    .unwrap();
    let (dir, file) = (storyteller(), storyteller().join("storyteller.kinglet"));
    let on = ["report", path(&file), "--text", path(&text), "--reference", path(&dir), "--continuation", "12"];
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
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 4, "something was left behind");

    assert!(bad(&["report", path(&file)]).contains("--text"));
    assert!(
        bad(&["report", path(&text), "--text", path(&text), "--reference", path(&dir)]).contains("not a .kinglet file")
    );
    let nowhere = there("absent/page.html");
    assert!(bad(&["report", path(&there("report.json")), "-o", path(&nowhere)]).contains("cannot write"));
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
    assert!(bad(&["quantize", path(&storyteller()), "-o", "absent/out.kinglet"]).contains("absent/out.kinglet"));
    assert!(bad(&["quantize", path(&storyteller()), "-o", path(&target), "--metadata", "x"]).contains("KEY=VALUE"));
    assert!(!target.exists());
    let binary = there("binary", &[0xFF, 0xFE, 0x00]);
    let file = storyteller().join("storyteller.kinglet");
    assert!(bad(&["eval", path(&file), "--text", path(&binary)]).contains("UTF-8"));
    assert!(bad(&["eval", path(&file), "--text", path(&empty)]).contains("at least 2"));
}

#[test]
fn an_absent_instruction_set_is_refused() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_kinglet")).args(["run", "-n", "1"]).env("KINGLET_ISA", "abacus").output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(said.contains("abacus") && said.contains("scalar"), "{said}");
}
