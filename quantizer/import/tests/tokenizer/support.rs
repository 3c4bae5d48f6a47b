//! A tokenizer in both forms, and the comparison of the two.

use std::fs;
use std::path::{Path, PathBuf};

use kinglet_import::tokenizer::{import, import_json, normalized};
use kinglet_tokenizer::{Detokenizer, Tokenizer, max_tokens, scratch_words};
use proptest::prelude::ProptestConfig;
use proptest::test_runner::TestRunner;
use serde_json::Value;

/// The repository's `fixtures`.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// A file of the shared folder, if that is here.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let root = std::env::var_os("KINGLET_SHARED").map_or(beside, PathBuf::from);
    let found = Some(root.join(path)).filter(|path| path.exists());
    if found.is_none() {
        println!("skipped: {} is not here", root.join(path).display());
    }
    found
}

/// A small tokenizer's file.
pub(crate) fn file(name: &str) -> Value {
    let path = fixtures().join(format!("tokenizers/{name}.json"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The same tokenizer here and there.
pub(crate) struct Both {
    pub(crate) name: String,
    pub(crate) section: Vec<u8>,
    pub(crate) theirs: tokenizers::Tokenizer,
}

impl Both {
    pub(crate) fn from_json(name: impl Into<String>, json: &Value) -> Self {
        let text = json.to_string();
        let name = name.into();
        let section = import_json(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        Self { theirs: text.parse().unwrap(), section, name }
    }

    pub(crate) fn from_dir(name: &str, dir: &Path) -> Self {
        let section = import(dir).unwrap_or_else(|e| panic!("{name}: {e}"));
        let theirs = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
        Self { name: name.into(), section, theirs }
    }

    pub(crate) fn ours(&self) -> Tokenizer<'_> {
        Tokenizer::parse(&self.section).unwrap()
    }

    /// Our tokens of a text.
    pub(crate) fn encode(&self, text: &str, add_special: bool) -> Vec<u32> {
        let ours = self.ours();
        let text = normalized(&ours, text);
        let mut scratch = vec![0; scratch_words(text.len())];
        let mut out = vec![0; max_tokens(text.len())];
        let count = ours.encode(&text, add_special, &mut scratch, &mut out).unwrap();
        out.truncate(count);
        out
    }

    /// Asserts the same tokens and the same text back. The crate normalises each segment by itself,
    /// so it gets the normalised text as well: a mark that follows an added token would otherwise
    /// make a difference.
    pub(crate) fn check(&self, text: &str) {
        let text = &*normalized(&self.ours(), text);
        let theirs = self.theirs.encode_fast(text, true).unwrap();
        let ours = self.encode(text, true);
        assert_eq!(ours, theirs.get_ids(), "{}: tokens of {:?}", self.name, Short(text));
        let back = self.theirs.decode(&ours, true).unwrap();
        assert_eq!(stream(&self.ours(), &ours), back, "{}: text of {:?}", self.name, Short(text));
    }
}

/// A proptest runner that leaves no files behind.
pub(crate) fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    })
}

/// Decodes token by token; asserts that all pieces are whole strings, which their type does.
pub(crate) fn stream(tokenizer: &Tokenizer<'_>, ids: &[u32]) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer);
    let mut text = String::new();
    for &id in ids {
        detokenizer.push(tokenizer, id).for_each(|piece| text.push_str(piece));
    }
    text + detokenizer.finish().unwrap_or("")
}

/// A text that fits a message.
pub(crate) struct Short<'t>(pub(crate) &'t str);

impl std::fmt::Debug for Short<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0.chars().take(300).collect::<String>())
    }
}
