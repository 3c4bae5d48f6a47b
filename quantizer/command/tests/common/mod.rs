//! Runs the command as a person does.

#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub fn kinglet(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kinglet")).args(args).output().unwrap()
}

/// Runs what must succeed and returns what was printed.
#[track_caller]
pub fn good(args: &[&str]) -> String {
    let output = kinglet(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs what must fail and returns what was said.
#[track_caller]
pub fn bad(args: &[&str]) -> String {
    let output = kinglet(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    assert!(said.starts_with("kinglet: ") && !said.contains("panicked"), "{said}");
    said
}

pub fn parsed(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
