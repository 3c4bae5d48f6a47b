//! What is refused, and how it is said.

use std::path::Path;

use kinglet_import::checkpoint::{Checkpoint, CheckpointError};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::family;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &name) } else { assert!(std::fs::copy(&path, name).is_ok()) }
    }
}

/// A checkpoint with one setting changed, of config.json or of `file`; null removes it.
fn with(name: &str, file: &str, pointer: &str, value: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(&family(name), dir.path());
    let path = dir.path().join(file);
    let mut settings: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = settings.pointer_mut(parent).unwrap();
    if value.is_null() {
        parent.as_object_mut().unwrap().remove(key);
    } else {
        parent[key] = value.clone();
    }
    std::fs::write(&path, serde_json::to_vec(&settings).unwrap()).unwrap();
    dir
}

fn changed(name: &str, key: &str, value: &Value) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::open(with(name, "config.json", &format!("/{key}"), value).path())
}

#[test]
fn settings_that_change_the_computation_are_refused() {
    for (name, key, value, word) in [
        ("bert_mean", "position_embedding_type", json!("relative_key"), "absolute"),
        ("bert_mean", "is_decoder", json!(true), "encoders"),
        ("bert_mean", "hidden_act", json!("mish"), "gelu"),
        ("bert_mean", "pruned_heads", json!({"0": [1]}), "all their heads"),
        ("bert_mean", "quantization_config", json!({"bits": 8}), "unquantized"),
        ("bert_mean", "model_type", json!("roberta"), "bert"),
        ("bert_mean", "num_attention_heads", json!(3), "divisor"),
        ("bert_classifier", "num_labels", json!(2), "num_labels"),
        ("gpt2", "add_cross_attention", json!(true), "without an encoder"),
        ("gpt2", "architectures", json!(["GPT2Model"]), "GPT2LMHeadModel"),
        ("gpt2", "eos_token_id", json!(51), "below 50"),
        ("t5", "feed_forward_proj", json!("gated-mish"), "gated-"),
        ("t5", "relative_attention_max_distance", json!(3), "above half"),
        ("t5", "is_encoder_decoder", json!(false), "with a decoder"),
        ("marian", "normalize_before", json!(true), "false is supported"),
        ("marian", "decoder_vocab_size", json!(60), "share_encoder_decoder_embeddings"),
        ("bart", "extra_pos_embeddings", json!(0), "2 is supported"),
        ("mbart", "normalize_before", json!(false), "true is supported"),
        ("opennmt_pre", "positions", json!("rotary"), "learned"),
        ("opennmt_pre", "gated_ffn", json!(true), "plain"),
        ("opennmt_post", "final_layer_norm", json!(true), "pre_norm"),
        ("opennmt_pre", "scale_embeddings", json!(2.0), "sqrt"),
        ("vit", "patch_size", json!([4, 2]), "square"),
        ("vit", "image_size", json!([12, 9]), "multiple"),
        ("vit", "image_size", json!("large"), "whole number"),
        ("kwt", "norm", json!("both"), "post"),
        ("kwt", "labels", json!(["yes"]), "list of 4"),
        ("kwt", "cls_token", json!(false), "class token"),
        ("vision_text", "encoder/model_type", json!("swin"), "vit"),
        ("vision_text", "decoder/cross_attention_hidden_size", json!(24), "null"),
        ("vision_text", "decoder/add_cross_attention", json!(false), "cross attention"),
    ] {
        let error =
            changed(name, key, &value).expect_err(&format!("{name}: {key}: {value}")).to_string();
        let field = key.replace('/', ".");
        assert!(error.contains(&field) && error.contains(word), "{name}: {key}: {error}");
    }
}

#[test]
fn settings_and_tensors_agree() {
    for (name, key, value) in [
        ("bert_mean", "num_hidden_layers", json!(1)),
        ("bert_mean", "num_hidden_layers", json!(3)),
        ("bert_mean", "type_vocab_size", json!(1)),
        ("bert_mean", "max_position_embeddings", json!(25)),
        ("megatron_bert", "intermediate_size", json!(16)),
        ("gpt2", "n_inner", json!(32)),
        ("gpt2_scaled", "n_layer", json!(1)),
        ("gpt2", "tie_word_embeddings", json!(false)),
        ("t5", "num_decoder_layers", json!(2)),
        ("t5_v1_1", "feed_forward_proj", json!("gelu")),
        ("marian", "encoder_layers", json!(1)),
        ("bart", "max_position_embeddings", json!(26)),
        ("opennmt_pre", "final_layer_norm", json!(false)),
        ("opennmt_pre", "source_vocab_size", json!(51)),
        ("opennmt_pre_learned", "positions", json!("sinusoidal")),
        ("vit", "qkv_bias", json!(true)),
        ("kwt", "num_layers", json!(1)),
    ] {
        let error = changed(name, key, &value).expect_err(&format!("{name}: {key}: {value}"));
        let kind = matches!(
            error,
            CheckpointError::ExtraTensors { .. }
                | CheckpointError::MissingTensor { .. }
                | CheckpointError::WrongShape { .. }
        );
        assert!(kind, "{name}: {key}: {error}");
    }
}

#[test]
fn missing_settings_are_named() {
    for (name, key) in [
        ("bert_mean", "hidden_size"),
        ("gpt2", "n_embd"),
        ("t5", "d_kv"),
        ("marian", "d_model"),
        ("opennmt_pre", "ffn_dim"),
        ("vit", "num_hidden_layers"),
        ("kwt", "num_tokens"),
        ("vision_text", "encoder"),
        ("bart", "architectures"),
    ] {
        let error = changed(name, key, &Value::Null).expect_err(key);
        assert!(matches!(&error, CheckpointError::MissingField { .. }), "{name}: {error}");
        assert!(error.to_string().contains(key), "{name}: {error}");
    }
}

#[test]
fn modules_are_followed_or_refused() {
    const NAME: &str = "bert_sentence_cls";
    for (file, pointer, value, word) in [
        (
            "modules.json",
            "/1/type",
            json!("sentence_transformers.models.WeightedLayerPooling"),
            "Pooling",
        ),
        ("modules.json", "/0/path", json!("0_Transformer"), "move its files"),
        ("modules.json", "/1/path", json!("../1_Pooling"), "path"),
        ("modules.json", "/3/type", json!("x.Dense"), "at most one Dense"),
        (
            "1_Pooling/config.json",
            "/pooling_mode_mean_sqrt_len_tokens",
            json!(true),
            "cls, mean and max",
        ),
        ("1_Pooling/config.json", "/pooling_mode_mean_tokens", json!(true), "one of cls"),
        ("1_Pooling/config.json", "/pooling_mode_cls_token", json!(false), "one of cls"),
        ("1_Pooling/config.json", "/word_embedding_dimension", json!(24), "width"),
        ("2_Dense/config.json", "/in_features", json!(24), "pooled"),
        ("2_Dense/config.json", "/activation_function", json!("torch.nn.Softplus"), "Tanh"),
        ("config.json", "/architectures", json!(["BertForSequenceClassification"]), "modules"),
    ] {
        let error = Checkpoint::open(with(NAME, file, pointer, &value).path())
            .expect_err(pointer)
            .to_string();
        assert!(error.contains(word), "{file}: {pointer}: {error}");
    }
    let newer = with(NAME, "1_Pooling/config.json", "/pooling_mode", &json!("mean"));
    Checkpoint::open(newer.path()).unwrap();
}

#[test]
fn pictures_need_their_preprocessor() {
    let file = "preprocessor_config.json";
    for (pointer, value) in [
        ("/image_mean", json!([0.5])),
        ("/image_std", json!([0, 1, 1])),
        ("/rescale_factor", json!(0)),
    ] {
        let error = Checkpoint::open(with("vit", file, pointer, &value).path())
            .expect_err(pointer)
            .to_string();
        assert!(error.contains(file), "{pointer}: {error}");
    }
    let dir = with("vit", file, "/size", &Value::Null);
    std::fs::remove_file(dir.path().join(file)).unwrap();
    assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains(file));
}

#[test]
fn tables_of_positions_stay_small() {
    let error = Checkpoint::with_context(family("opennmt_pre"), 1 << 23).unwrap_err();
    assert!(matches!(error, CheckpointError::PositionTable { .. }), "{error}");
}
