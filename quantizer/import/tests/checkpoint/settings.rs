//! What config.json can ask for in vain.

use kinglet_import::checkpoint::{Checkpoint, CheckpointError};
use kinglet_model::Mask;
use serde_json::{Value, json};

use super::support::{Model, assert_says};

#[test]
fn missing_settings_are_named() {
    for key in [
        "architectures",
        "hidden_size",
        "vocab_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
    ] {
        let error = Model::new().without(key).error();
        assert!(
            matches!(&error, CheckpointError::MissingField { field, .. } if field == key),
            "{error}"
        );
        assert_says(&error, &[key, "config.json"]);
    }
}

#[test]
fn senseless_settings_are_named_with_their_value() {
    for (key, value) in [
        ("architectures", json!([])),
        ("architectures", json!("LlamaForCausalLM")),
        ("model_type", json!("mistral")),
        ("hidden_size", json!(-8)),
        ("hidden_size", json!(8.5)),
        ("hidden_size", json!(0)),
        ("hidden_size", json!(u64::MAX)),
        ("vocab_size", json!(1_u64 << 40)),
        ("num_hidden_layers", json!(1_000_000_000)),
        ("num_attention_heads", json!(3)),
        ("num_attention_heads", json!("two")),
        ("num_key_value_heads", json!(4)),
        ("head_dim", json!(3)),
        ("head_dim", json!(1 << 20)),
        ("intermediate_size", json!([6])),
        ("max_position_embeddings", json!(1_u64 << 60)),
        ("rms_norm_eps", json!(-1e-5)),
        ("rms_norm_eps", json!("small")),
        ("tie_word_embeddings", json!("yes")),
        ("attention_bias", json!(1)),
        ("rope_theta", json!(0)),
        ("rope_scaling", json!([1, 2])),
        ("hidden_act", json!(7)),
        ("bos_token_id", json!(10)),
        ("eos_token_id", json!([2, -1])),
        ("eos_token_id", json!(vec![2; 1000])),
        ("sliding_window", json!(-1)),
        ("layer_types", json!("full_attention")),
    ] {
        let error = Model::new().with(key, value.clone()).error();
        assert!(matches!(&error, CheckpointError::BadField { .. }), "{key}: {value}: {error:?}");
        assert_says(&error, &[key, "expected"]);
        assert!(error.to_string().len() < 600, "{error}");
    }
}

#[test]
fn unsupported_settings_say_what_is_supported() {
    for (key, value, word) in [
        ("architectures", json!(["BloomForCausalLM"]), "Qwen3ForCausalLM"),
        ("quantization_config", json!({"bits": 4}), "unquantized"),
        ("is_encoder_decoder", json!(true), "decoders"),
        ("attn_logit_softcapping", json!(50.0), "plain softmax"),
        ("final_logit_softcapping", json!(30.0), "without a cap"),
        ("attention_chunk_size", json!(8192), "whole context"),
        ("num_local_experts", json!(8), "dense"),
        ("is_causal", json!(false), "causal"),
        ("auto_map", json!({"AutoModelForCausalLM": "modeling_x.X"}), "code of their own"),
        ("hidden_act", json!("mish"), "silu, gelu"),
        ("sliding_window", json!(63), "smaller than the context (64)"),
        ("layer_types", json!(["linear_attention"]), "full_attention"),
        ("layer_types", json!(["sliding_attention"]), "full_attention"),
        ("rope_scaling", json!({"type": "mrope"}), "longrope"),
        ("rope_scaling", json!({"rope_type": "default", "mrope_section": [1, 1]}), "one dimension"),
        ("rope_parameters", json!({"full_attention": {"rope_type": "default"}}), "one rotation"),
        ("partial_rotary_factor", json!(0.5), "as a whole"),
    ] {
        let error = Model::new().with(key, value.clone()).error();
        assert!(matches!(&error, CheckpointError::Unsupported { .. }), "{key}: {value}: {error:?}");
        assert_says(&error, &[key, word, "supported"]);
    }
}

#[test]
fn settings_that_are_off_are_ignored() {
    for (key, value) in [
        ("quantization_config", json!(null)),
        ("is_encoder_decoder", json!(false)),
        ("num_experts", json!(0)),
        ("auto_map", json!({"AutoTokenizer": "x"})),
        ("sliding_window", json!(64)),
        ("layer_types", json!(["full_attention"])),
        ("partial_rotary_factor", json!(1.0)),
        ("rope_scaling", json!({})),
        ("unsloth_version", json!("2025.1")),
    ] {
        Model::new().with(key, value).open().unwrap_or_else(|error| panic!("{key}: {error}"));
    }
}

#[test]
fn switched_windows_follow_their_switch() {
    let qwen = |settings: Value| {
        let mut model = Model::new()
            .with("architectures", json!(["Qwen2ForCausalLM"]))
            .with("model_type", json!("qwen2"));
        for name in ["q_proj", "k_proj", "v_proj"] {
            let name = format!("model.layers.0.self_attn.{name}");
            let rows = model.tensors[&format!("{name}.weight")].shape[0];
            model =
                model.with_tensor(&format!("{name}.bias"), super::support::Tensor::f32(&[rows]));
        }
        let Value::Object(settings) = settings else { panic!("settings are an object") };
        model.config.extend(settings);
        model
    };
    qwen(json!({"sliding_window": 16})).open().unwrap();
    qwen(json!({"sliding_window": 16, "use_sliding_window": true, "max_window_layers": 1}))
        .open()
        .unwrap();
    qwen(json!({"sliding_window": 64, "use_sliding_window": true, "max_window_layers": 0}))
        .open()
        .unwrap();
    let full = json!({"sliding_window": 16, "use_sliding_window": true, "layer_types": ["full_attention"]});
    qwen(full).open().unwrap();
    for slides in [
        json!({"sliding_window": 16, "use_sliding_window": true, "max_window_layers": 0}),
        json!({"sliding_window": 16, "use_sliding_window": true,
            "layer_types": ["sliding_attention"]}),
    ] {
        let checkpoint = qwen(slides).open().unwrap();
        let block = checkpoint.architecture().block(0).unwrap();
        assert_eq!(block.attention().unwrap().mask, Mask::Window(16));
    }
    let short = json!({"sliding_window": 16, "use_sliding_window": true, "layer_types": []});
    assert!(matches!(qwen(short).error(), CheckpointError::BadField { .. }));
}

#[test]
fn rotary_settings_are_checked() {
    for (settings, field) in [
        (json!({"type": "linear"}), "rope_scaling.factor"),
        (json!({"rope_type": "linear", "factor": 0}), "rope_scaling.factor"),
        (json!({"rope_type": "dynamic", "factor": "2"}), "rope_scaling.factor"),
        (json!({"rope_type": "yarn", "factor": 2, "beta_fast": -1}), "rope_scaling.beta_fast"),
        (json!({"rope_type": "yarn", "factor": 2, "truncate": 1}), "rope_scaling.truncate"),
        (
            json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1}),
            "rope_scaling.high_freq_factor",
        ),
        (json!({"rope_type": "longrope", "short_factor": [1, 1]}), "rope_scaling.long_factor"),
        (
            json!({"rope_type": "longrope", "short_factor": [1], "long_factor": [1, 1]}),
            "rope_scaling.short_factor",
        ),
        (
            json!({"rope_type": "longrope", "short_factor": [1, 0], "long_factor": [1, 1]}),
            "rope_scaling.short_factor",
        ),
        (
            json!({"rope_type": "proportional", "partial_rotary_factor": 2}),
            "rope_scaling.partial_rotary_factor",
        ),
        (json!({"rope_type": 3}), "rope_scaling.rope_type"),
    ] {
        let error = Model::new().with("rope_scaling", settings.clone()).error();
        assert!(
            matches!(
                error,
                CheckpointError::BadField { .. } | CheckpointError::MissingField { .. }
            ),
            "{settings}: {error:?}"
        );
        assert_says(&error, &[field]);
    }
    let extreme = Model::new()
        .with("rope_theta", json!(1e-300))
        .with("rope_scaling", json!({"type": "linear", "factor": 1e-300}));
    assert!(matches!(extreme.error(), CheckpointError::Rotation { .. }));
}

#[test]
fn contexts_beyond_the_model_are_refused() {
    let dir = Model::new().write();
    for asked in [0, 65, usize::MAX] {
        let error = Checkpoint::with_context(dir.path(), asked).unwrap_err();
        assert!(matches!(error, CheckpointError::Context { limit: 64, .. }));
    }
}

#[test]
fn messages_do_not_repeat_long_values() {
    let error = Model::new().with("hidden_act", json!("é".repeat(100_000))).error();
    assert!(error.to_string().len() < 1000);
}

#[test]
fn files_that_are_not_settings_are_refused() {
    for text in
        ["", "[]", "{\"hidden_size\": NaN}", "{", "\"LlamaForCausalLM\"", &"[".repeat(100_000)]
    {
        let dir = Model::new().write();
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        let error = Checkpoint::open(dir.path()).unwrap_err();
        assert!(matches!(error, CheckpointError::Json { .. }), "{error:?}");
        assert_says(&error, &["config.json"]);
    }
    let dir = Model::new().write();
    std::fs::File::create(dir.path().join("config.json")).unwrap().set_len(1 << 40).unwrap();
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(
        matches!(error, CheckpointError::JsonTooLong { bytes: 0x100_0000_0000, .. }),
        "{error:?}"
    );
}
