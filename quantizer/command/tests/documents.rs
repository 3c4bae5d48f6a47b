//! The commands that README and documents show: each that begins with `kinglet` is run, on small
//! models that have what it needs; all others must be programs of this tree that other tests run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kinglet_fixtures::host;

/// Programs that a contributor runs, and what tests them: `./test` itself, `c/test`, or cargo.
const OTHERS: [&str; 7] =
    ["./test", "cargo", "c/build", "c/test", "cmake", "arm-none-eabi-gcc", "qemu-system-arm"];

/// Lines of the shell blocks of a document, without comments; a `\` joins lines.
fn shell(document: &str) -> Vec<String> {
    let text = fs::read_to_string(host::path("..").join(document)).unwrap();
    let (mut lines, mut inside, mut open) = (vec![], false, false);
    for line in text.lines().map(str::trim) {
        if let Some(language) = line.strip_prefix("```") {
            inside = language == "sh";
            continue;
        }
        let command = line.split(" #").next().unwrap_or_default().trim();
        if !inside || command.is_empty() || command.starts_with('#') {
            continue;
        }
        let (part, more) = match command.strip_suffix('\\') {
            Some(part) => (part.trim(), true),
            None => (command, false),
        };
        match lines.last_mut() {
            Some(last) if open => *last = format!("{last} {part}"),
            _ => lines.push(part.to_owned()),
        }
        open = more;
    }
    lines
}

fn kinglet(folder: &Path, args: &[String]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kinglet"))
        .args(args)
        .current_dir(folder)
        // No network: what fetches must say so.
        .env("HF_ENDPOINT", "http://127.0.0.1:9")
        .env("HF_HOME", folder)
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn words(line: &str) -> Vec<String> {
    let mut words = vec![];
    for (at, part) in line.split('"').enumerate() {
        match at % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// A folder with the files that the documents name.
fn prepared(folder: &Path) {
    let copy = |from: PathBuf, to: &str| {
        fs::copy(from, folder.join(to)).unwrap();
    };
    let run = |args: &str| {
        let (status, said) = kinglet(folder, &words(args));
        assert_eq!(status, Some(0), "kinglet {args}: {said}");
    };
    fs::create_dir(folder.join("DIR")).unwrap();
    for file in fs::read_dir(host::path("storyteller")).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            copy(file.path(), &format!("DIR/{}", file.file_name().display()));
        }
    }
    let stories: Vec<String> = (0..6)
        .map(|seed| {
            let output = Command::new(env!("CARGO_BIN_EXE_kinglet"))
                .args(["run", "-n", "120", "--seed", &seed.to_string()])
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        })
        .collect();
    for name in ["T", "TEXT"] {
        fs::write(folder.join(name), stories.join("\n\n")).unwrap();
    }
    copy(host::path("namer/images/strawberry.png"), "picture.png");
    copy(host::path("namer/namer.kinglet"), "namer.kinglet");
    let pairs: Vec<String> = fs::read_dir(host::path("namer/images"))
        .unwrap()
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().replace('_', " ");
            format!("{}\t{name}\n", path.display())
        })
        .collect();
    fs::write(folder.join("pairs.tsv"), pairs.concat()).unwrap();
    run("quantize DIR -o model.kinglet");
    run("cut model.kinglet --after 4 -o embedder.kinglet");
    let classifier = host::path("families/vit_classifier");
    run(&format!("quantize {} -o classifier.kinglet", classifier.display()));
}

/// The arguments of a command, with a model that can do it; fewer passes of training.
fn adjusted(line: &str) -> Vec<String> {
    let mut args = words(line.strip_prefix("kinglet ").unwrap());
    let model = match args[0].as_str() {
        "adapt" => "namer.kinglet",
        "embed" => "embedder.kinglet",
        "classify" => "classifier.kinglet",
        _ => "model.kinglet",
    };
    if let Some(file) = args.iter_mut().find(|arg| *arg == "model.kinglet") {
        *file = model.to_owned();
    }
    if args[0] == "adapt" {
        args.extend(["--passes".to_owned(), "1".to_owned()]);
    }
    args
}

#[test]
fn every_command_of_the_documents_works() {
    let folder = tempfile::tempdir().unwrap();
    prepared(folder.path());
    let mut run = 0;
    for document in ["README.md", "CONTRIBUTING.md", "docs/import.md", "c/README.md"] {
        for line in shell(document) {
            if !line.starts_with("kinglet ") {
                let program = line.split_whitespace().next().unwrap();
                assert!(OTHERS.contains(&program), "{document}: nothing runs '{line}'");
                continue;
            }
            let (status, said) = kinglet(folder.path(), &adjusted(&line));
            let pulls = line.starts_with("kinglet pull");
            assert!(
                status == Some(0) || pulls && status == Some(1),
                "{document}: {line}: {status:?} {said}"
            );
            run += 1;
        }
    }
    assert!(run > 12, "only {run} commands were found");
}

#[test]
fn no_document_has_a_block_that_nothing_tests() {
    let root = host::path("..");
    let mut documents = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    documents.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let tested = ["README.md", "CONTRIBUTING.md", "import.md"];
    for path in documents.iter().filter(|path| path.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy();
        if !tested.contains(&name.as_ref()) {
            assert!(!text.contains("```sh"), "{name}: list it among the documents that are run");
        }
        let blocks = text.matches("```rust").count();
        assert!(blocks <= usize::from(name == "README.md"), "{name}: nothing compiles its Rust");
    }
}
