//! What opens, and as what.

use kinglet_import::checkpoint::{
    Activation, Checkpoint, CheckpointError, Named, Product, embedding,
};
use kinglet_model::{Attention, Mask, Operation, Site};
use serde_json::json;

use super::support::{LAYER, Model, Tensor, write_json};

fn attention(checkpoint: &Checkpoint) -> &Attention<Named> {
    let block = checkpoint.architecture().block(0).unwrap();
    block.attention().expect("attention comes first")
}

/// Matrix `part` of a product of block `block`.
fn product(checkpoint: &Checkpoint, block: usize, site: Site, part: usize) -> &Product {
    let block = checkpoint.architecture().block(block).unwrap();
    &block.product(site).unwrap().parts()[part]
}

fn activation(checkpoint: &Checkpoint) -> Activation {
    match checkpoint.architecture().block(1).unwrap().operation {
        Operation::FeedForward { activation, .. } => activation,
        _ => panic!("the feed-forward comes second"),
    }
}

#[test]
fn a_small_model_is_described_as_blocks() {
    let checkpoint = Model::new().open().unwrap();
    let architecture = checkpoint.architecture();
    assert_eq!(architecture.family, "llama");
    let stack = architecture.last();
    assert_eq!((stack.width, architecture.vocab(), stack.context), (8, 10, 64));
    assert_eq!((architecture.bos, architecture.eos.as_slice()), (Some(1), [2].as_slice()));
    assert!(!architecture.tied());
    assert_eq!(architecture.count(), 2);
    let attention = attention(&checkpoint);
    let [query, key] = [0, 1].map(|part| product(&checkpoint, 0, Site::Input, part));
    assert_eq!((attention.heads, attention.kv_heads, attention.head_dim), (2, 1, 4));
    assert_eq!((key.rows(), key.cols()), (4, 8));
    assert_eq!(key.weight.name(), "model.layers.0.self_attn.k_proj.weight");
    assert_eq!(attention.score_scale, 0.5);
    assert_eq!((attention.query_norm.is_none(), query.bias.is_none()), (true, true));
    let rope = attention.rope.as_ref().unwrap();
    assert_eq!((rope.frequencies.as_slice(), rope.magnitude), ([1.0, 0.01].as_slice(), 1.0));
    assert_eq!(architecture.block(0).unwrap().norm.as_ref().unwrap().eps, 1e-6);
    assert_eq!(activation(&checkpoint), Activation::Silu);
}

#[test]
fn rows_of_every_type_are_read_from_several_threads() {
    const NAME: &str = "model.layers.0.mlp.gate_proj.weight";
    fn shared<T: Sync>(_: &T) {}
    for dtype in ["F32", "F16", "BF16"] {
        let mut tensor = Tensor::f32(&[6, 8]);
        if dtype != "F32" {
            tensor = tensor.cast(dtype);
        }
        let checkpoint = Model::new().with_tensor(NAME, tensor).open().unwrap();
        shared(&checkpoint);
        let gate = &product(&checkpoint, 1, Site::Input, 0).weight;
        let all: Vec<f32> = (0..48).map(|i| i as f32 / 64.0).collect();
        assert_eq!(checkpoint.read(gate).unwrap(), all, "{dtype}");
        std::thread::scope(|scope| {
            for row in 0..6 {
                let (checkpoint, all) = (&checkpoint, &all);
                scope.spawn(move || {
                    let mut out = [0.0; 8];
                    checkpoint.read_rows(gate, row..row + 1, &mut out).unwrap();
                    assert_eq!(out, all[row * 8..][..8]);
                });
            }
        });
        checkpoint.read_rows(gate, 6..6, &mut []).unwrap();
    }
}

#[test]
fn large_tensors_are_read_in_pieces() {
    let rows = 30_001;
    let model =
        Model::new().with("vocab_size", json!(rows)).with("tie_word_embeddings", json!(true));
    let tensor = Tensor::f32(&[rows, 8]);
    let expected: Vec<f32> = (0..rows * 8).map(|i| i as f32 / 64.0).collect();
    let checkpoint = model.with_tensor("model.embed_tokens.weight", tensor).open().unwrap();
    let table = embedding(checkpoint.architecture().last()).unwrap();
    assert!(checkpoint.read(table).unwrap() == expected);
}

#[test]
fn shards_are_found_by_the_index() {
    let (dir, index) = Model::new().write_shards();
    write_json(&dir.path().join("model.safetensors.index.json"), &index);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.architecture(), Model::new().open().unwrap().architecture());
    let norm = &checkpoint.architecture().last().norm.as_ref().unwrap().weight;
    let expected: Vec<f32> = (0..8).map(|i| i as f32 / 64.0).collect();
    assert_eq!(checkpoint.values(norm).unwrap(), expected);
}

#[test]
fn harmless_leftovers_are_tolerated() {
    let rotary = Tensor::f32(&[2]).cast("F64");
    let model = Model::new().with_tensor("model.layers.0.self_attn.rotary_emb.inv_freq", rotary);
    model.open().unwrap();
    let tied = model.with("tie_word_embeddings", json!(true));
    assert!(tied.open().unwrap().architecture().tied());
    let tied = tied.without_tensor("lm_head.weight");
    assert_eq!(
        tied.open().unwrap().architecture().output.head.as_ref().unwrap().alone().unwrap().name(),
        "model.embed_tokens.weight"
    );
}

#[test]
fn families_have_their_own_tensors() {
    let heads = |model: Model| {
        let tensor = |name: &str| format!("{LAYER}self_attn.{name}");
        model
            .with_tensor(&tensor("q_norm.weight"), Tensor::f32(&[4]))
            .with_tensor(&tensor("k_norm.weight"), Tensor::f32(&[4]))
            .with("head_dim", json!(4))
    };
    let qwen3 =
        Model::new().with("architectures", json!(["Qwen3ForCausalLM"])).without("model_type");
    let qwen3 = heads(qwen3).open().unwrap();
    assert_eq!(qwen3.architecture().family, "qwen3");
    assert_eq!(attention(&qwen3).key_norm.as_ref().unwrap().weight.cols(), 4);
    assert_eq!((qwen3.architecture().bos, qwen3.architecture().eos.len()), (None, 0));

    let mut qwen2 = Model::new()
        .with("architectures", json!(["Qwen2ForCausalLM"]))
        .with("model_type", json!("qwen2"));
    for (name, rows) in [("q_proj", 8), ("k_proj", 4), ("v_proj", 4)] {
        qwen2 = qwen2.with_tensor(&format!("{LAYER}self_attn.{name}.bias"), Tensor::f32(&[rows]));
    }
    let qwen2 = qwen2.open().unwrap();
    assert_eq!(product(&qwen2, 0, Site::Input, 2).bias.as_ref().unwrap().cols(), 4);
    assert!(product(&qwen2, 0, Site::Output, 0).bias.is_none());
}

#[test]
fn windows_are_masks_unless_they_change_nothing() {
    let mistral = Model::new()
        .with("architectures", json!(["MistralForCausalLM"]))
        .with("model_type", json!("mistral"));
    mistral.open().unwrap();
    let mistral = mistral.with("sliding_window", json!(32));
    assert_eq!(attention(&mistral.open().unwrap()).mask, Mask::Window(32));
    let checkpoint = Checkpoint::with_context(mistral.write().path(), 32).unwrap();
    assert_eq!(checkpoint.architecture().last().context, 32);
    assert_eq!(attention(&checkpoint).mask, Mask::Causal);
    mistral.with("sliding_window", json!(null)).open().unwrap();
}

#[test]
fn ends_of_text_come_from_the_generation_settings_first() {
    let dir = Model::new().with("eos_token_id", json!([2, 3, 2])).write();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().architecture().eos, [2, 3]);
    let path = dir.path().join("generation_config.json");
    write_json(&path, &json!({"eos_token_id": [4, 5], "bos_token_id": null}));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(
        (checkpoint.architecture().bos, checkpoint.architecture().eos.as_slice()),
        (Some(1), [4, 5].as_slice())
    );
    let without = Model::new()
        .with("bos_token_id", json!(null))
        .with("eos_token_id", json!(null))
        .open()
        .unwrap();
    assert_eq!((without.architecture().bos, without.architecture().eos.len()), (None, 0));
}

#[test]
fn activations_have_several_names() {
    for (name, wanted) in [
        ("swish", Activation::Silu),
        ("gelu", Activation::Gelu),
        ("gelu_new", Activation::GeluTanh),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
        ("quick_gelu", Activation::QuickGelu),
        ("relu", Activation::Relu),
    ] {
        let checkpoint = Model::new().with("hidden_act", json!(name)).open().unwrap();
        assert_eq!(activation(&checkpoint), wanted);
    }
}

#[test]
fn a_single_file_goes_before_an_index() {
    let dir = Model::new().write();
    let (_, index) = Model::new().write_shards();
    write_json(&dir.path().join("model.safetensors.index.json"), &index);
    Checkpoint::open(dir.path()).unwrap();
}

#[test]
fn references_of_another_checkpoint_are_refused() {
    let checkpoint = Model::new().open().unwrap();
    let tied = Model::new()
        .with("tie_word_embeddings", json!(true))
        .without_tensor("lm_head.weight")
        .open()
        .unwrap();
    let head = checkpoint.architecture().output.head.as_ref().unwrap().alone().unwrap();
    assert!(matches!(tied.read(head), Err(CheckpointError::UnknownTensor { .. })));
    let mut out = [0.0; 8];
    for (rows, length) in [(10..11, 8), (0..1, 7), (0..2, 8)] {
        let refused = checkpoint.read_rows(head, rows, &mut out[..length]);
        assert!(matches!(refused, Err(CheckpointError::RowRange { .. })), "{refused:?}");
    }
}
