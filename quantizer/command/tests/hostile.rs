//! Files of others: what they ask for and what they are called does no harm to who looks at them.

mod common;

#[path = "../../../runtime/tests/common/damage.rs"]
#[allow(unreachable_pub, reason = "other tests reach it")]
mod damage;

use std::path::Path;
use std::process::Command;

use kinglet_model::layout::{StackRecord, section};

use common::{bad, good, path};

/// The storyteller, with so large a context that no machine has the memory.
fn endless() -> Vec<u8> {
    damage::with(&kinglet_fixtures::STORYTELLER.0, section::STACKS, |bytes| {
        let record = StackRecord { context: 1 << 28, ..StackRecord::read(bytes).unwrap() };
        bytes.copy_from_slice(&record.write());
    })
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("endless.kinglet");
    std::fs::write(&file, endless()).unwrap();
    let file = file.to_str().unwrap();
    assert!(good(&["check", file]).contains("ok"));
    let all = ["run", file, "hello", "--context", "268435456", "-n", "1"];
    for limit in [&[][..], &["--max-memory", "1000000GB"], &["--max-memory", "2GB"]] {
        let said = bad(&[&all[..], limit].concat());
        assert!(said.contains("bytes of memory are wanted"), "{said}");
        assert!(said.contains("smaller context"), "{said}");
    }
}

#[test]
fn every_command_keeps_the_limit_of_memory() {
    for command in
        [&["run", "-n", "1"][..], &["check"], &["bench", "--repeat=1"], &["translate", "hello"]]
    {
        let said = bad(&[command, &["--max-memory", "10k"]].concat());
        assert!(said.contains("the limit leaves"), "{said}");
    }
    good(&["run", "-n", "1", "--max-memory", "100M"]);
}

/// Names and metadata of a file, and the name of a file, reach the terminal as what they are.
#[test]
fn escapes_are_shown_and_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.kinglet");
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/storyteller");
    let metadata = "made=\u{1b}]0;owned\u{7}\u{202e}\u{9b}2J\nstack 9";
    let (checkpoint, file) = (checkpoint.to_str().unwrap(), file.to_str().unwrap());
    let options = ["--metadata", metadata, "--golden", "0"];
    good(&[&["quantize", checkpoint, "-o", file][..], &options].concat());
    let shown = good(&["inspect", file]);
    assert!(shown.contains(r"made: \u001b]0;owned\u0007\u202e\u009b2J\u000astack 9"), "{shown:?}");
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    let json: serde_json::Value =
        serde_json::from_str(&good(&["inspect", "--json", file])).unwrap();
    let pairs = json["metadata"].as_array().unwrap();
    let made = pairs.iter().find(|pair| pair[0] == "made").unwrap();
    assert_eq!(made[1], metadata.strip_prefix("made=").unwrap());
    let said = bad(&["inspect", "no\u{1b}[2Jfile"]);
    assert!(said.contains(r"no\u001b[2Jfile"), "{said:?}");
}

#[cfg(unix)]
#[test]
fn a_pipe_in_the_place_of_a_file_keeps_nobody_waiting() {
    let temporary = tempfile::tempdir().unwrap();
    let pipe = temporary.path().join("pipe.kinglet");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let storyteller = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/storyteller");
    let (pipe, storyteller) = (path(&pipe), path(&storyteller));
    for args in [
        &["run", pipe][..],
        &["check", pipe],
        &["inspect", pipe],
        &["quantize", pipe, "-o", "never.kinglet"],
        &["quantize", storyteller, "-o", "never.kinglet", "--calibrate", pipe],
        &["quantize", storyteller, "-o", pipe],
        &["embed", "--model", storyteller, "--file", pipe],
    ] {
        bad(args);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_closed_or_full_output_ends_the_command_without_a_panic() {
    let run = |args: &[&str], stdout: std::process::Stdio| {
        let output = Command::new(env!("CARGO_BIN_EXE_kinglet"))
            .args(args)
            .stdout(stdout)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for args in [&["inspect", "storyteller"][..], &["run", "-n", "20"], &["check"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(run(args, writer.into()), (Some(0), String::new()), "{args:?}");
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let (code, said) = run(args, full.into());
        assert!(code == Some(1) && !said.contains("panicked"), "{args:?}: {code:?} {said}");
    }
}
