//! The same model as a directory and as a file.

use kinglet::{Memory, Model};
use kinglet_import::checkpoint::{Architecture, Checkpoint, Named};
use kinglet_model::Attention;
use kinglet_quantize::{Options, quantize};
use kinglet_reference::Reference;

use super::support::{File, Value, fixture, fixtures};

#[test]
fn logits_are_those_of_the_directory() {
    for name in ["llama3_rope", "yarn_qwen2", "qwen3"] {
        let directory = Checkpoint::open(fixtures().join("variants").join(name)).unwrap();
        let file = Checkpoint::open(fixture(name)).unwrap();
        let (theirs, ours) = (directory.architecture(), file.architecture());
        let sizes = |of: &Architecture| (of.last().width, of.vocab(), of.last().context);
        assert_eq!(sizes(theirs), sizes(ours));
        assert_eq!((theirs.bos, &theirs.eos, theirs.tied()), (ours.bos, &ours.eos, ours.tied()));
        let tokens: Vec<u32> = (0..100).map(|i| (i * 37 + 11) % 64).collect();
        let logits = |checkpoint| Reference::new(checkpoint).unwrap().logits(&tokens).unwrap();
        let pairs = logits(&directory).into_iter().zip(logits(&file));
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: {worst:e}");
        assert!(worst < 1e-5, "{name}: {worst}");
        assert!(file.tokenizer().unwrap().is_empty());
    }
}

#[test]
fn what_is_made_of_both_computes_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let hash = |from: &Checkpoint, name: &str| {
        let path = dir.path().join(name);
        quantize(from, &path, &Options::default(), &|_, _, _| ()).unwrap();
        let map = Memory::read(&path).unwrap();
        Model::open(&map).unwrap().golden().next().unwrap().hash
    };
    for name in ["yarn_qwen2", "qwen3"] {
        let directory = Checkpoint::open(fixtures().join("variants").join(name)).unwrap();
        let file = Checkpoint::open(fixture(name)).unwrap();
        assert_eq!(hash(&directory, "a"), hash(&file, "b"), "{name}");
    }
    // With a vocabulary and numbers of many types.
    for name in ["types", "tokenizer-llama2"] {
        hash(&Checkpoint::open(fixture(name)).unwrap(), "c");
    }
}

/// The first block.
fn attention(checkpoint: &Checkpoint) -> &Attention<Named> {
    let block = checkpoint.architecture().block(0).unwrap();
    block.attention().expect("attention comes first")
}

/// Radians a position and the magnitude.
fn rope(file: &File) -> (Vec<f64>, f32) {
    let checkpoint = file.open().unwrap();
    let rope = attention(&checkpoint).rope.as_ref().unwrap();
    (rope.frequencies.clone(), rope.magnitude)
}

#[test]
fn rotations_are_read() {
    let (plain, one) = rope(&File::new());
    assert_eq!((plain.as_slice(), one), ([1.0, 0.01].as_slice(), 1.0));
    let base = File::new().with("llama.rope.freq_base", Value::F32(100.0));
    assert_eq!(rope(&base).0, [1.0, 0.1]);
    let factor = File::new().with("llama.rope.scaling.factor", Value::F32(4.0));
    assert_eq!(rope(&factor).0, [0.25, 0.0025]);
    let linear = factor.clone().with("llama.rope.scaling.type", Value::Text("linear"));
    assert_eq!(rope(&linear).0, [0.25, 0.0025]);
    let none = factor.clone().with("llama.rope.scaling.type", Value::Text("none"));
    assert_eq!(rope(&none).0, plain);
    let yarn = factor.with("llama.rope.scaling.type", Value::Text("yarn"));
    let yarn = yarn.with("llama.rope.scaling.original_context_length", Value::U32(16));
    assert_eq!(rope(&yarn).1, (0.1 * 4.0_f64.ln() + 1.0) as f32);
    // Here a factor of its own comes on top.
    let more = yarn.with("llama.rope.scaling.attn_factor", Value::F32(2.0));
    assert_eq!(rope(&more).1, (0.2 * 4.0_f64.ln() + 2.0) as f32);
}

#[test]
fn what_is_absent_follows_from_the_rest() {
    let mut file = File::new()
        .without("llama.attention.head_count_kv")
        .with("llama.attention.head_count", Value::U32(1));
    file.tensors.retain(|tensor| tensor.name != "output.weight");
    for part in ["attn_k", "attn_v"] {
        let name = format!("blk.0.{part}.weight");
        *file.tensor(&name) = super::support::tensor(&name, &[8, 8]);
    }
    let checkpoint = file.open().unwrap();
    assert!(checkpoint.architecture().tied());
    assert_eq!((checkpoint.architecture().bos, checkpoint.architecture().eos.len()), (None, 0));
    let attention = attention(&checkpoint);
    assert_eq!((attention.kv_heads, attention.head_dim), (1, 8));
    let checkpoint = file.with("tokenizer.ggml.model", Value::Text("llama")).open().unwrap();
    assert_eq!(
        (checkpoint.architecture().bos, checkpoint.architecture().eos.as_slice()),
        (Some(1), [2].as_slice())
    );
}

#[test]
fn windows_may_be_outgrown() {
    let file = File::new().with("llama.attention.sliding_window", Value::U32(32));
    assert!(file.error().to_string().contains("llama.attention.sliding_window"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, file.bytes().0).unwrap();
    assert_eq!(Checkpoint::with_context(&path, 32).unwrap().architecture().last().context, 32);
}

#[test]
fn version_two_is_read() {
    File { version: 2, ..File::new() }.open().unwrap();
}
