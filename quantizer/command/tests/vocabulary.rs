//! Models with a part of their vocabulary: what the text needs is as it was, and nothing else is
//! lost but brevity.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use kinglet::Memory;
use kinglet::tokenizer::{Detokenizer, Tokenizer};
use kinglet::{Format, Model, Options, Plan, Session};
use kinglet_evaluate::{Divergence, EvaluateError, Protocol, evaluate};
use kinglet_fixtures::host::{Random, isa, shared};
use kinglet_import::checkpoint::{Checkpoint, CheckpointError};
use kinglet_import::encode;
use kinglet_import::tokenizer::{closure, import_json, restricted};
use kinglet_import::vocabulary::{self, VocabularyError};
use kinglet_quantize::quantize;
use kinglet_reference::Reference;

use common::fixture;

const STORY: &str = "Once upon a time there was a little dog named Max. He liked to run in the \
                     park with his friend. One \
    day, Max saw a big red ball. He wanted to play with it. \"Can I have the ball?\" he asked the girl. She smiled and said, \
    \"Yes, you can!\" Max was very happy. He ran and jumped all day. When the sun went down, he \
      went home to his mom.\n";

const OTHERS: [&str; 9] = [
    "",
    " ",
    "  two  spaces\t\r\n",
    "Extraordinary quizzes vex jumpy kinglets: 0123456789 #@!",
    "\u{1f436}\u{1f469}\u{200d}\u{1f467} caf\u{e9} e\u{301}",
    "\u{4e16}\u{754c}\u{3002}\u{ac00}\u{0}\u{fffd}",
    "\u{2581}the \u{2581}\u{2581} they're",
    "<s>a</s> <unk> <0x0A> <|im_start|>user<|im_end|>",
    "aaaaaaaaaaaaaaaaaaaaaaaa the the thethethe hehehe",
];

/// The sample of the tokenizers' fixtures, by lines.
fn sample() -> Vec<String> {
    let sample = std::fs::read_to_string(fixture("tokenizers/sample.txt")).unwrap();
    sample.split_inclusive('\n').map(str::to_owned).collect()
}

fn checkpoints() -> Vec<PathBuf> {
    let gguf =
        ["llama2", "llama3", "qwen2"].map(|name| fixture(&format!("gguf/tokenizer-{name}.gguf")));
    let mut all = vec![fixture("storyteller")];
    all.extend(gguf);
    all.extend(shared().map(|shared| shared.join("models/stories260K")));
    all
}

fn decode(tokenizer: &Tokenizer<'_>, ids: &[u32]) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer);
    let mut text = String::new();
    for &id in ids {
        detokenizer.push(tokenizer, id).for_each(|piece| text.push_str(piece));
    }
    text + detokenizer.finish().unwrap_or("")
}

/// The text has the same tokens with new numbers; `others` decode to what they decoded to.
fn compare<S: AsRef<str>>(whole: &[u8], part: &[u8], kept: &[u32], text: &str, others: &[S]) {
    let (whole, part) = (Tokenizer::parse(whole).unwrap(), Tokenizer::parse(part).unwrap());
    let ids = encode(&whole, text, true).unwrap();
    let new = encode(&part, text, true).unwrap();
    let old: Vec<u32> = new.iter().map(|&id| kept[id as usize]).collect();
    assert_eq!(old, ids, "{text:?}");
    assert_eq!(decode(&part, &new), decode(&whole, &ids));
    for other in others {
        let other = other.as_ref();
        let (ids, new) =
            (encode(&whole, other, true).unwrap(), encode(&part, other, true).unwrap());
        assert_eq!(decode(&part, &new), decode(&whole, &ids), "{other:?}");
        assert!(new.len() >= ids.len(), "{other:?}");
    }
}

fn kept(path: &Path, text: &str) -> (Checkpoint, Checkpoint, Vec<u32>) {
    let whole = Checkpoint::open(path).unwrap();
    let kept = vocabulary::of_text(&whole, text.as_bytes()).unwrap();
    let mut part = Checkpoint::open(path).unwrap();
    part.keep_tokens(kept.clone()).unwrap();
    (whole, part, kept)
}

#[test]
fn texts_and_logits_are_as_before() {
    for path in checkpoints() {
        let (whole, part, kept) = kept(&path, STORY);
        let name = path.file_name().unwrap().to_string_lossy();
        let (old, new) = (whole.architecture(), part.architecture());
        println!("{name}: {} of {}", kept.len(), old.vocab());
        assert!(new.vocab() < old.vocab() && new.vocab() == new.outputs());
        assert_eq!((new.tied(), part.kept().unwrap().of()), (old.tied(), old.vocab()));
        let ids = |ids: &[u32]| ids.iter().map(|&id| kept[id as usize]).collect::<Vec<_>>();
        assert_eq!(
            (new.bos.map(|id| kept[id as usize]), ids(&new.eos)),
            (old.bos, old.eos.clone())
        );
        let sections = [&whole, &part].map(|checkpoint| checkpoint.tokenizer().unwrap());
        compare(&sections[0], &sections[1], &kept, STORY, &OTHERS);

        let tokens = encode(&Tokenizer::parse(&sections[1]).unwrap(), STORY, true).unwrap();
        let tokens = &tokens[..tokens.len().min(old.last().context).min(64)];
        let all = Reference::new(&whole).unwrap().logits(&ids(tokens)).unwrap();
        let chosen = all
            .chunks(old.vocab())
            .flat_map(|row| kept.iter().map(|&id| row[id as usize].to_bits()));
        let own = Reference::new(&part).unwrap().logits(tokens).unwrap();
        assert!(chosen.eq(own.iter().map(|logit| logit.to_bits())), "{name}");
    }
}

#[test]
fn closures_are_closed() {
    let lines = sample();
    let mut random = Random(7);
    for name in ["gpt2", "llama2", "llama3", "qwen2", "smollm"] {
        let json = std::fs::read_to_string(fixture(&format!("tokenizers/{name}.json"))).unwrap();
        let section = import_json(&json).unwrap();
        let whole = Tokenizer::parse(&section).unwrap();
        let (mut least, mut most) = (usize::MAX, 0);
        for _ in 0..60 {
            let some: Vec<u32> =
                (0..random.below(40)).map(|_| random.below(whole.vocab_len()) as u32).collect();
            let kept = closure(&section, &some).unwrap();
            assert!(
                some.iter().all(|id| kept.contains(id)) && kept.is_sorted_by(|a, b| a < b),
                "{name}"
            );
            assert_eq!(closure(&section, &kept).unwrap(), kept, "{name}");
            (least, most) = (least.min(kept.len()), most.max(kept.len()));
            let part = restricted(&section, &kept).unwrap();
            let part = Tokenizer::parse(&part).unwrap();
            // A token that its own text leads to, still is what it leads to.
            for &id in &kept {
                let Ok(text) = str::from_utf8(whole.token_bytes(id)) else { continue };
                let new = encode(&part, text, false).unwrap();
                let old = encode(&whole, text, false).unwrap();
                let back: Vec<u32> = new.iter().map(|&id| kept[id as usize]).collect();
                assert!(
                    !old.contains(&id) || !old.iter().all(|id| kept.contains(id)) || back == old,
                    "{name}: {text:?}"
                );
            }
            let line = &lines[random.below(lines.len())];
            let kept = closure(&section, &encode(&whole, line, true).unwrap()).unwrap();
            compare(&section, &restricted(&section, &kept).unwrap(), &kept, line, &lines);
        }
        println!("{name}: {least} to {most} of {}", whole.vocab_len());
        let all: Vec<u32> = (0..whole.vocab_len() as u32).collect();
        assert_eq!(restricted(&section, &all).unwrap(), section, "{name}");
    }
}

/// SentencePiece has many ways to each token; those that are not taken need not stay.
#[test]
fn only_the_way_that_is_taken_stays() {
    let merges = [["b", "c"], ["a", "b"], ["a", "bc"], ["ab", "c"], ["abc", "abc"], ["x", "abc"]];
    let merges: Vec<_> = merges.iter().map(|pair| pair.to_vec()).collect();
    let tokens = ["<unk>", "a", "b", "c", "x", "ab", "bc", "abc", "abcabc", "xabc"];
    let vocab: serde_json::Map<_, _> =
        (0..).zip(tokens).map(|(id, token)| (token.to_owned(), id.into())).collect();
    let json = serde_json::json!({
        "version": "1.0", "added_tokens": [], "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": merges}
    });
    let section = import_json(&json.to_string()).unwrap();
    // Without bytes all characters stay.
    assert_eq!(closure(&section, &[]).unwrap(), [0, 1, 2, 3, 4]);
    assert_eq!(closure(&section, &[8]).unwrap(), [0, 1, 2, 3, 4, 6, 7, 8]);
    assert_eq!(closure(&section, &[5, 99]).unwrap(), [0, 1, 2, 3, 4, 5]);
    let part = restricted(&section, &[0, 1, 2, 3, 4, 6, 7, 8]).unwrap();
    let part = Tokenizer::parse(&part).unwrap();
    assert_eq!(encode(&part, "abcabcab", false).unwrap(), [7, 1, 2]);
}

fn to_file(checkpoint: &Checkpoint, dir: &Path, name: &str) -> Memory {
    let target = dir.join(name);
    let options = kinglet_quantize::Options { golden: 16, ..Default::default() };
    quantize(checkpoint, &target, &options, &|_, _, _| ()).unwrap();
    Memory::read(&target).unwrap()
}

fn divergence(model: &Model<'_>, checkpoint: &Checkpoint, text: &str) -> Divergence {
    let tokenizer = model.tokenizer().unwrap().unwrap();
    let tokens = encode(&tokenizer, text, false).unwrap();
    let protocol =
        Protocol { window: 255.min(model.context()), bos: tokenizer.bos(), int4_values: false };
    let reference = Reference::new(checkpoint).unwrap();
    let result = evaluate(model, isa(), &tokens, protocol, Some(&reference), &|_| ()).unwrap();
    result.divergence.unwrap()
}

#[test]
fn files_are_smaller_and_as_good() {
    for path in checkpoints() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let (whole, part, kept) = kept(&path, STORY);
        let temporary = tempfile::tempdir().unwrap();
        let maps = [(&whole, "whole"), (&part, "part")]
            .map(|(c, name)| to_file(c, temporary.path(), name));
        let [big, small] = maps.each_ref().map(|map| Model::open(map).unwrap());
        assert_eq!(vocabulary::of_file(&big).unwrap(), None);
        assert_eq!(vocabulary::of_file(&small).unwrap(), Some(kept.clone()));
        small.verify(|_| {}).unwrap();
        let golden = small.golden().next().unwrap();
        let length = golden.prompt.len() + golden.answer.len();
        let options = Options { context: length, prefill: 8, logits: 1, ..Options::DECODE };
        let mut memory = Memory::new(Plan::new(&small, options).unwrap().bytes()).unwrap();
        Session::new(&small, options, memory.bytes()).unwrap().check_golden(&golden).unwrap();

        // Sections begin at multiples of 64, and so do tensors.
        let rows = |vocab| Format::Int8Grouped.bytes(vocab, small.width()).unwrap() as i64;
        let tables = if whole.architecture().tied() { 1 } else { 2 };
        let tokenizers =
            [&whole, &part].map(|checkpoint| checkpoint.tokenizer().unwrap().len() as i64);
        let ranges = vocabulary::to_ranges(&kept).len() + vocabulary::KEY.len() + 8;
        let saved = tables * (rows(big.outputs()) - rows(small.outputs())) + tokenizers[0]
            - tokenizers[1]
            - ranges as i64;
        let found = big.bytes().len() as i64 - small.bytes().len() as i64;
        println!(
            "{name}: {} tokens and {found} bytes less, {saved} expected",
            big.outputs() - small.outputs()
        );
        assert!((found - saved).abs() < 512, "{name}: {found} bytes less, {saved} expected");

        let mut reference = Checkpoint::open(&path).unwrap();
        let tokens = [1; 9];
        let wrong = Reference::new(&reference).unwrap();
        let protocol = Protocol { window: 8, bos: None, int4_values: false };
        let wrong = evaluate(&small, isa(), &tokens, protocol, Some(&wrong), &|_| ());
        assert!(matches!(wrong, Err(EvaluateError::Vocabulary { .. })), "{name}");
        vocabulary::follow(&mut reference, &big).unwrap();
        assert!(reference.kept().is_none());
        vocabulary::follow(&mut reference, &small).unwrap();
        let (before, after) =
            (divergence(&big, &whole, STORY), divergence(&small, &reference, STORY));
        println!("{name}: KL {:.5} before, {:.5} after", before.mean_kl, after.mean_kl);
        // The models beside the GGUF tokenizers say the same of all tokens, so rounding costs
        // nothing.
        let (least, most) = (0.3 * before.mean_kl - 1e-6, 1.2 * before.mean_kl + 1e-6);
        assert!(least < after.mean_kl && after.mean_kl < most, "{name}");
        assert!(after.reference_perplexity <= before.reference_perplexity, "{name}");
    }
}

#[test]
fn what_cannot_be_kept_is_said() {
    let mut whole = Checkpoint::open(fixture("storyteller")).unwrap();
    let refused = |text: &[u8]| vocabulary::of_text(&whole, text).unwrap_err();
    assert!(matches!(refused(b""), VocabularyError::Empty));
    assert!(matches!(refused(b"ab\xff"), VocabularyError::NotUtf8 { at: 2 }));
    let silent = Checkpoint::open(fixture("variants/llama_tied")).unwrap();
    assert!(matches!(vocabulary::of_text(&silent, b"a"), Err(VocabularyError::NoTokenizer(_))));
    for list in [vec![], vec![3, 3], vec![4, 2], vec![1 << 20]] {
        assert!(matches!(whole.keep_tokens(list), Err(CheckpointError::Tokens { .. })));
    }
    let rows = whole.architecture().tables()[0].clone();
    whole.keep_tokens(vec![0, 1, 2, 700, 1 << 20]).unwrap();
    assert_eq!((whole.architecture().vocab(), whole.kept().unwrap().ids().len()), (4, 5));
    assert!(matches!(whole.keep_tokens(vec![0]), Err(CheckpointError::Tokens { .. })));
    // The references of the whole one still read; those of another model's part do not.
    whole.read(&rows).unwrap();
    let mut other = Checkpoint::open(fixture("variants/llama_tied")).unwrap();
    other.keep_tokens(vec![1]).unwrap();
    assert!(whole.read(other.architecture().tables()[0]).is_err());
}

#[test]
fn the_command_does_all_of_it() {
    let temporary = tempfile::tempdir().unwrap();
    let place = |name: &str| temporary.path().join(name).to_string_lossy().into_owned();
    let (text, empty, file, other) =
        (place("text"), place("empty"), place("m.kinglet"), place("o.kinglet"));
    let dir = fixture("storyteller").to_string_lossy().into_owned();
    std::fs::write(&text, STORY.repeat(3)).unwrap();
    std::fs::write(&empty, "").unwrap();
    let run =
        |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_kinglet")).args(args).output().unwrap();
    let good = |args: &[&str]| {
        let output = run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let bad = |args: &[&str]| String::from_utf8(run(args).stderr).unwrap();
    let said = good(&[
        "quantize",
        &dir,
        "-o",
        &file,
        "--vocab-from",
        &text,
        "--golden",
        "8",
        "--calibrate",
        &text,
    ]);
    assert!(said.contains(" of 1024 tokens kept"), "{said}");
    let record = std::fs::read_to_string(file.clone() + ".json").unwrap();
    assert!(record.contains("of 1024 tokens kept"), "{record}");
    good(&["check", &file]);
    let evaluated = good(&["eval", &file, "--text", &text, "--reference", &dir]);
    assert!(evaluated.contains("of the f32 model"), "{evaluated}");
    good(&["quantize", &dir, "-o", &other, "--golden", "0"]);
    let report = [
        "report",
        &file,
        "--text",
        &text,
        "--reference",
        &dir,
        "--repeat=0",
        "--continuation=2",
        "--json",
    ];
    let report: serde_json::Value = serde_json::from_str(&good(&report)).unwrap();
    let weights = Checkpoint::open(fixture("storyteller")).unwrap();
    let of_blocks = weights.architecture().blocks().map(kinglet_import::checkpoint::weights);
    let weights = of_blocks.sum::<usize>() + weights.architecture().tables()[0].len();
    assert_eq!(report["size"]["f32_bytes"], 4 * weights);
    let both = bad(&["eval", &file, "--text", &text, "--against", &other]);
    assert!(both.contains("another part of the vocabulary"), "{both}");
    let nothing = bad(&["quantize", &dir, "-o", &other, "--vocab-from", &empty]);
    assert!(nothing.contains("it is empty"), "{nothing}");
    let taken = bad(&["quantize", &dir, "-o", &other, "--metadata", "vocabulary=1"]);
    assert!(taken.contains("choose another"), "{taken}");
}
